"""Whatever happens, the drift sensor asks for no storm of trainings, and forgets no finding.

Two daemons that look at the same time, are killed between any two of their steps and come back or do not; runs that
wait, overtake one another, give way, succeed, fail before or after the gate and are cancelled; reports again, with
another verdict, without one; champions that change and return; clocks that are set forward and back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from lakehouse_assets.lifecycle.names import REQUESTED_AT_TAG, TRIGGER_TAG
from lakehouse_assets.lifecycle.retraining import RUN_KEY_TAG
from lakehouse_assets_tests.lifecycle.conftest import TOY
from lakehouse_assets_tests.lifecycle.sensor import Status, World

EPOCH = datetime(2023, 6, 5, tzinfo=UTC)
POLICY = TOY.retrain
MONTH = 30
# What a report may say besides who is meant, and whether it asks.
JUDGED = {
    "ok": ({"verdict": "ok", "members_due": 0}, False),
    "some due": ({"verdict": "ok", "members_due": 1}, True),
    "drift": ({"verdict": "drift", "members_due": 3, "share_drifted": 0.5}, True),
    "drift, of old": ({"verdict": "drift"}, True),
    "drift that does not pay": ({"verdict": "drift", "members_due": 0, "share_drifted": 0.5}, False),
}
DAEMONS = st.integers(0, 1)


@dataclass
class Request:
    """What a daemon has in hand, when it asked in truth, and how far the clock had gone ahead by then, in days."""

    request: dg.RunRequest
    days: float
    ahead: float
    is_new: bool | None = None
    run: dg.DagsterRun | None = None


@dataclass
class Launched:
    """A run in the queue or beyond, and what has become of it."""

    run: dg.DagsterRun
    days: float
    ahead: float
    began: bool = False
    gave_way: bool = False
    decided: bool = False

    @property
    def drift(self) -> bool:
        return self.run.tags[TRIGGER_TAG] == "drift"

    @property
    def finding(self) -> str:
        """The run key without its number."""
        return self.run.tags.get(RUN_KEY_TAG, "").rpartition(":")[0]

    @property
    def open(self) -> bool:
        return not self.run.is_finished


class Sensor(RuleBasedStateMachine):
    """What has happened in truth, beside an instance that only its clock and its events tell of it."""

    def __init__(self) -> None:
        super().__init__()
        self.instance = dg.DagsterInstance.ephemeral()
        self.world = World(self.instance)
        self.days, self.offset, self.ahead = 0.0, 0.0, 0.0
        self.daemons: list[Request | None] = [None, None]
        self.runs: list[Launched] = []
        self.champion = 1
        self.reports: list[tuple[str, int, bool]] = []
        self.ticks = 0

    def teardown(self) -> None:
        self.a_quiet_month()
        self.instance.dispose()

    @property
    def now(self) -> datetime:
        return EPOCH + timedelta(days=self.days + self.offset)

    def finding(self) -> str | None:
        """What the latest report that could judge the champion in force asks a training for."""
        for name, champion, asks in reversed(self.reports):
            if champion == self.champion:
                return f"toy:v{champion}:{name}" if asks else None
        return None

    @initialize()
    def a_champion(self) -> None:
        self.world.decide(1)

    # --- the daemons

    @rule(daemon=DAEMONS)
    def evaluate(self, daemon: int) -> None:
        """A tick; a request that the daemon still had in hand is never submitted."""
        self.ticks += 1
        request = self.world.tick(self.now)
        self.daemons[daemon] = Request(request, self.days, self.ahead) if request else None
        if request:
            self.is_allowed(request)

    @rule(daemon=DAEMONS)
    def go_on(self, daemon: int) -> None:
        """The next step of a daemon that has a request in hand."""
        held = self.daemons[daemon]
        if held is None:
            return
        if held.is_new is None:
            held.is_new = self.world.is_new(held.request)
        elif not held.is_new:
            self.daemons[daemon] = None
        elif held.run is None:
            held.run = self.world.create(held.request)
        else:
            self.runs.append(Launched(self.world.move(held.run, Status.QUEUED), held.days, held.ahead))
            self.daemons[daemon] = None

    @rule(daemon=DAEMONS, days=st.sampled_from([0.0, 1.0, 4.0, 11.0]))
    def tick(self, daemon: int, days: float) -> None:
        """What mostly happens: time passes, and a daemon does all of it at once."""
        self.days += days
        self.evaluate(daemon)
        while self.daemons[daemon]:
            self.go_on(daemon)

    @rule(first=DAEMONS, between=st.booleans(), days=st.sampled_from([0.0, 4.0, 11.0]))
    def race(self, first: int, between: bool, days: float) -> None:
        """What rarely happens: two daemons look before either has created its run; or a report comes in between."""
        self.days += days
        self.evaluate(first)
        if between:
            self.report("drift", again=False)
        self.evaluate(1 - first)
        for _ in range(4):
            self.go_on(first)
            self.go_on(1 - first)

    def is_allowed(self, request: dg.RunRequest) -> None:
        finding = str(request.run_key).rpartition(":")[0]
        assert finding == self.finding(), "about the latest report of the champion in force"
        counted = [launched for launched in self.runs if not launched.gave_way]
        assert not any(launched.open for launched in counted), "one training at a time"
        self.has_not_been_asked_for_too_often(finding, counted, self.days, self.ahead)

    def has_not_been_asked_for_too_often(
        self, finding: str, counted: list[Launched], days: float, ahead: float
    ) -> None:
        """A clock set back shortens no time of waiting, and one set forward none by more than its step."""
        attempts = [launched for launched in counted if launched.finding == finding]
        assert len(attempts) < POLICY.maximum_attempts
        assert not any(launched.decided for launched in attempts)
        for launched in counted:
            if launched.decided:
                assert days - launched.days + ahead - launched.ahead >= POLICY.cooldown_days - 1e-6, "cooldown"
        month = [one for one in counted if one.drift and days - one.days + ahead - one.ahead < MONTH - 1e-6]
        assert len(month) < POLICY.maximum_a_month

    # --- the runs

    def queued(self) -> list[Launched]:
        return [launched for launched in self.runs if launched.run.status == Status.QUEUED]

    def started(self) -> Launched | None:
        """The one that holds the pool."""
        return next((launched for launched in self.runs if launched.run.status == Status.STARTED), None)

    @precondition(lambda self: self.queued() and not self.started())
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self._start(data.draw(st.sampled_from(self.queued())))

    def _start(self, one: Launched) -> None:
        one.run = self.world.move(one.run, Status.STARTED)
        one.began = self.world.begins(one.run)
        if not one.began:
            one.gave_way = True
            one.run = self.world.move(one.run, Status.SUCCESS)
            return
        if one.drift:
            others = [launched for launched in self.runs if launched is not one and not launched.gave_way]
            key = one.run.tags[RUN_KEY_TAG]
            assert not any(o.began and o.run.tags.get(RUN_KEY_TAG) == key for o in others), "a key trains once"
            earlier = [o for o in others if o.began or (o.drift and not o.open)]
            self.has_not_been_asked_for_too_often(one.finding, earlier, one.days, one.ahead)

    @precondition(lambda self: self.started())
    @rule(promoted=st.booleans(), finished=st.booleans())
    def decide(self, promoted: bool, finished: bool) -> None:
        """The gate speaks; then the run goes on to its end, or fails."""
        one = self.started()
        assert one is not None
        self.champion += promoted
        self.world.decide(self.champion, one.run)
        one.decided = True
        one.run = self.world.move(one.run, Status.SUCCESS if finished else Status.FAILURE)

    @precondition(lambda self: self.started())
    @rule()
    def fail(self) -> None:
        one = self.started()
        assert one is not None
        one.run = self.world.move(one.run, Status.FAILURE)

    @precondition(lambda self: any(launched.open for launched in self.runs))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from([launched for launched in self.runs if launched.open]))
        one.run = self.world.move(one.run, Status.CANCELED)

    @rule(
        days=st.sampled_from([0.0, 1.0, 11.0]),
        clock=st.sampled_from([0.0, 0.0, 0.0, -3.0, -40.0]),
        again=st.booleans(),
        end=st.sampled_from(["promoted", "kept", "failed after the gate", "failed", "failed"]),
    )
    def drift_is_found_and_mended_or_not(self, days: float, clock: float, again: bool, end: str) -> None:
        """The way of most trainings, from the report to the end; perhaps the clock has been set before."""
        self.set_the_clock(clock)
        self.report("drift", again=again)
        self.tick(0, days)
        if self.queued() and not self.started():
            self._start(self.queued()[-1])
        if self.started() and end == "failed":
            self.fail()
        elif self.started():
            self.decide(promoted=end == "promoted", finished=end != "failed after the gate")

    @rule()
    def calendar(self) -> None:
        self.runs.append(Launched(self.world.by_calendar(self.now), self.days, self.ahead))

    # --- the rest of the world

    @rule(said=st.sampled_from(sorted(JUDGED)), again=st.booleans())
    def report(self, said: str, again: bool) -> None:
        metadata, asks = JUDGED[said]
        name = self.reports[-1][0] if again and self.reports else f"report {len(self.reports)}"
        self.world.report(name, champion=self.champion, **metadata)
        self.reports.append((name, self.champion, asks))

    @rule(named=st.booleans())
    def labels_do_not_come(self, named: bool) -> None:
        self.world.report("of nothing" if named else None, "insufficient_data", self.champion)

    @rule(champion=st.integers(1, 3))
    def by_hand(self, champion: int) -> None:
        """A rollback, or a version that is pinned."""
        self.champion = champion
        self.world.decide(champion)

    @rule(days=st.sampled_from([-400.0, -40.0, -3.0, 3.0, 40.0]))
    def set_the_clock(self, days: float) -> None:
        self.offset += days
        self.ahead += max(days, 0.0)

    @rule(lot=st.integers(0, 5))
    def rarely(self, lot: int) -> None:
        if not lot:
            self.a_quiet_month()

    def a_quiet_month(self) -> None:
        """Without faults, what is found is asked for in time, unless it was decided or has failed too often.

        In time is a month after the latest date that a request bears: a clock that was ahead has dated some late.
        """
        self.daemons = [None, None]
        for one in self.pending():
            self._start(one)
            if one.began:
                self.decide(promoted=False, finished=True)
        self.world.tick(self.now)  # sees what is dated in the future
        dates = [datetime.fromisoformat(launched.run.tags[REQUESTED_AT_TAG]) for launched in self.runs]
        self.days += (max([self.now, *dates]) - self.now) / timedelta(days=1) + MONTH + POLICY.cooldown_days
        request = self.world.tick(self.now)
        finding = self.finding()
        own = [launched for launched in self.runs if launched.finding == finding and not launched.gave_way]
        settled = any(launched.decided for launched in own) or len(own) >= POLICY.maximum_attempts
        if finding is None or settled:
            assert request is None
        else:
            assert request is not None, self.world.said
            last = Launched(self.world.launch(request), self.days, self.ahead)
            self.runs.append(last)
            self._start(last)
            assert last.began
            self.fail()

    def pending(self) -> Iterator[Launched]:
        """Runs to be started, one after another; the one that has started is decided first."""
        if self.started():
            self.decide(promoted=False, finished=True)
        while queue := self.queued():
            yield queue[0]


def test_no_storm_and_no_finding_lost() -> None:
    run_state_machine_as_test(
        Sensor,
        # The same histories each time, and without shrinking: each step writes to a database.
        settings=settings(
            derandomize=True,
            max_examples=10,
            stateful_step_count=60,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
