"""Alerts: one message a report, told once, sent again when it was not taken, and in nobody's way."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lifecycle import delivery
from lakehouse_assets.lifecycle.alerts import MAX_ATTEMPTS, REPEAT_WEEKS, alert_definitions
from lakehouse_assets.lifecycle.names import REPORT_TAG, REQUESTED_AT_TAG, Names
from lakehouse_assets.lifecycle.outcome import outcome_of
from lakehouse_assets.lifecycle.reports import Report, Reports, ReportsResource
from lakehouse_assets.lifecycle.retraining import retraining_definitions
from lakehouse_assets.ml.findings import identified
from lakehouse_assets.settings import get_settings
from lakehouse_assets_tests.lifecycle.conftest import TOY
from lakehouse_assets_tests.lifecycle.servers import SECRET, Mailbox, Webhook, mailbox, webhook

NAMES = Names("toy")
NOW = datetime(2023, 6, 5, 2, tzinfo=UTC)


def finding(*members: str, kind: str = "drift") -> dict[str, Any]:
    return {
        "kind": kind,
        "scope": "series",
        "members": list(members),
        "since": "2023-05-15T00:00:00+00:00",
        "regret": 0.12,
        "expected_gain": 0.09,
        "hours": "6 to 11 of the horizon",
    }


class World:
    """An instance, pages, and the sensor with its cursor; runs that it asks for are run."""

    def __init__(self, instance: dg.DagsterInstance, folder: Path) -> None:
        self.instance, self.pages = instance, Reports(folder)
        keys = (NAMES.training, NAMES.promotion, NAMES.series, NAMES.series_history)
        assets = [dg.AssetSpec(key) for key in (*keys, NAMES.prediction, NAMES.errors, NAMES.drift)]
        executable = [dg.multi_asset(specs=[spec], name="_".join(spec.key.path))(lambda: None) for spec in assets]
        self.definitions = dg.Definitions.merge(
            dg.Definitions(assets=executable), retraining_definitions(TOY), alert_definitions(TOY)
        )
        self.cursors: dict[str, str | None] = {}
        self.now = NOW
        self.known: list[dict[str, Any]] = []
        self.ended: list[bool] = []

    def report(self, name: str, *findings: dict[str, Any], verdict: str = "drift") -> list[dict[str, Any]]:
        found = identified(findings, self.known, name)
        self.known = found
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(
                NAMES.drift,
                metadata={
                    "report": name,
                    "verdict": verdict,
                    "champion_version": 1,
                    **({"findings": dg.MetadataValue.json(found)} if found else {}),
                },
            )
        )
        if found:
            self.pages.write(Report("toy", name, 1, verdict, found, [], "No training yet.", "UTC"), {})
        return found

    def evaluate(self, sensor: str) -> Any:
        with dg.build_sensor_context(
            self.instance,
            cursor=self.cursors.get(sensor),
            repository_def=self.definitions.get_repository_def(),
            resources={
                "clock": Clock(at=self.now.isoformat()),
                "reports": ReportsResource(folder=str(self.pages.folder)),
            },
        ) as context:
            outcome = self.definitions.resolve_sensor_def(sensor).evaluate_tick(context)
        self.cursors[sensor] = outcome.cursor
        return outcome

    def tick(self, launch: bool = True) -> list[dg.RunRequest]:
        """Evaluate the alert sensor, and run what it asks for, as the daemon would."""
        outcome = self.evaluate("toy_alert_sensor")
        self.skipped = outcome.skip_message
        requests = list(outcome.run_requests or ())
        for request in requests if launch else ():
            ran = self.definitions.resolve_job_def(NAMES.alert_job).execute_in_process(
                instance=self.instance, run_config=request.run_config, tags=dict(request.tags), raise_on_error=False
            )
            self.ended.append(ran.success)
        return requests

    def later(self, by: timedelta) -> None:
        self.now += by

    def start(self, report: str, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> None:
        tags = {REPORT_TAG: report, REQUESTED_AT_TAG: self.now.isoformat()}
        run = dg.DagsterRun(job_name=NAMES.retrain_job, run_id=str(uuid.uuid4()), status=status, tags=tags)
        self.instance.add_run(run)

    def train(self, report: str, decision: str | None, reason: str = "gain of 9 %, p = 0.01", moved: int = 0) -> None:
        """A training for a report that decides so; None: that fails."""
        tags = {REPORT_TAG: report, REQUESTED_AT_TAG: self.now.isoformat()}

        @dg.asset(key=NAMES.promotion)
        def decide() -> dg.MaterializeResult:
            return dg.MaterializeResult(
                metadata={
                    "decision": str(decision),
                    "reason": reason,
                    "version": 2,
                    "champion_version": 2,
                    "series_moved": moved,
                }
            )

        if decision is None:
            self.start(report, dg.DagsterRunStatus.FAILURE)
            return
        definitions = dg.Definitions([decide], jobs=[dg.define_asset_job(NAMES.retrain_job, [decide])])
        job = definitions.resolve_job_def(NAMES.retrain_job)
        assert job.execute_in_process(instance=self.instance, tags=tags).success


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))
    monkeypatch.setattr(delivery, "TIMEOUT", 0.5)
    get_settings.cache_clear()
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(instance, tmp_path / "reports")
    get_settings.cache_clear()


def use(monkeypatch: pytest.MonkeyPatch, hook: Webhook | None = None, box: Mailbox | None = None) -> None:
    if hook:
        monkeypatch.setenv("LAKEHOUSE_ALERT_WEBHOOK", hook.address)
    if box:
        monkeypatch.setenv("LAKEHOUSE_ALERT_EMAIL_TO", "ops@example.org")
        monkeypatch.setenv("LAKEHOUSE_SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("LAKEHOUSE_SMTP_PORT", str(box.port))
        monkeypatch.setenv("LAKEHOUSE_SMTP_SECURITY", "none")
    get_settings.cache_clear()


def test_without_a_channel_nothing_is_sent_but_pages_are_kept(world: World) -> None:
    assert world.tick() == []
    (one,) = world.report("2023-06-05", finding("A"))
    assert world.tick() == []
    assert "A training will be asked for." in world.pages.page("toy", "2023-06-05", one["id"]).read_text()
    world.train("2023-06-05", "promoted")
    assert world.tick() == []
    assert "version 2 was promoted. gain of 9 %" in world.pages.page("toy", "2023-06-05", one["id"]).read_text()


def test_a_report_is_one_message_a_channel_with_links(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as hook, mailbox() as box:
        use(monkeypatch, hook, box)
        monkeypatch.setenv("LAKEHOUSE_DAGSTER_URL", "https://dagster.example.org/")
        monkeypatch.setenv("LAKEHOUSE_REPORTS_URL", "https://pages.example.org/reports")
        get_settings.cache_clear()
        found = world.report("2023-06-05", finding("A"), finding(*"BCDE"), finding("<!channel>\n`@all`"))
        assert len(world.tick()) == 2
        assert world.tick() == []
    (sent,) = hook.taken
    assert (sent["id"], sent["event"], sent["model"], sent["report"]) == (
        *("toy:2023-06-05:findings", "findings", "toy", "2023-06-05"),
    )
    assert sent["links"] == {
        "asset": "https://dagster.example.org/assets/monitoring/toy_drift",
        "report": "https://pages.example.org/reports/toy/index.html",
    }
    assert [one["members_total"] for one in sent["findings"]] == [1, 4, 1]
    assert sent["findings"][1]["page"].endswith(f"/toy/2023-06-05/{found[1]['id']}.html")
    lines = sent["text"].split("\n")
    assert lines[0] == "toy: 3 new findings in the report of 2023-06-05"
    assert lines[2].startswith("- Drift in 4 series (`B`, `C`, `D`, ...) since 2023-05-15: errors 12 % above")
    assert "&lt;!channel&gt; '@\u200ball'" in lines[3]
    ((to, message, text),) = box.taken
    assert to == ["ops@example.org"]
    assert message["Subject"] == "[lakehouse] toy: 3 new findings in the report of 2023-06-05"
    assert "a training is expected to save 9.0 %" in text
    assert "https://dagster.example.org/assets/monitoring/toy_drift" in text


def test_what_goes_on_is_told_again_after_some_weeks_or_when_it_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook() as hook:
        use(monkeypatch, hook)
        told = []
        for week in range(REPEAT_WEEKS + 2):
            name = f"{NOW + timedelta(weeks=week):%Y-%m-%d}"
            world.report(name, *([finding("A")] if week != 2 else [finding("A"), finding(*"BCD")]))
            if world.tick():
                told.append(week)
        assert told == [0, 2, REPEAT_WEEKS]
    assert [len(sent["findings"]) for sent in hook.taken] == [1, 1, 1]
    assert hook.taken[1]["findings_known"] == 1
    assert "1 told of before goes on." in hook.taken[1]["text"]


def test_a_message_that_is_not_taken_is_sent_again_with_the_same_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook(500, "drop", "hang", 200) as hook, mailbox(refuse=1) as box:
        use(monkeypatch, hook, box)
        world.report("2023-06-05", finding("A"))
        world.tick()
        assert world.tick() == [], "not at once"
        assert "attempt 2 comes later" in str(world.skipped)
        for _ in range(4):
            world.later(timedelta(hours=3))
            world.tick()
        assert (world.ended.count(False), world.ended.count(True)) == (4, 2)
    assert len(hook.taken) == len(box.taken) == 1
    assert {asked["headers"]["Idempotency-Key"] for asked in hook.asked} == {"toy:2023-06-05:findings"}
    assert len(hook.asked) == 4


def test_a_broken_channel_is_given_up_told_of_and_in_nobodys_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(500) as hook, mailbox() as box:
        use(monkeypatch, hook, box)
        world.report("2023-06-05", finding("A"))
        for _ in range(10):
            world.tick()
            world.later(timedelta(minutes=1))
        assert len(hook.asked) == 2
        for _ in range(3 * MAX_ATTEMPTS):
            world.tick()
            world.later(timedelta(days=1))
        assert len(hook.asked) == MAX_ATTEMPTS
        assert f"toy:2023-06-05:findings could not be sent by webhook in {MAX_ATTEMPTS} attempts" in str(world.skipped)
        assert len(box.taken) == 1
        (request,) = world.evaluate("toy_drift_sensor").run_requests or ()
        assert request.tags[REPORT_TAG] == "2023-06-05"
        # the next report is told of all the same
        hook.answers = [200]
        world.report("2023-06-12", finding("Z"))
        assert len(world.tick()) == 2
    assert [sent["report"] for sent in hook.taken] == ["2023-06-12"]
    for record in world.instance.get_run_records():
        run = record.dagster_run
        for entry in world.instance.all_logs(run.run_id):
            assert SECRET not in dg.serialize_value(entry)
        assert SECRET not in json.dumps(run.run_config) + json.dumps(run.tags)


def test_the_outcome_of_a_training_is_told_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as hook:
        use(monkeypatch, hook)
        world.report("2023-06-05", finding("A"))
        world.tick()
        world.train("2023-06-05", None)
        assert world.tick() == [], "it will be repeated"
        world.start("2023-06-05")
        # the next report comes before it is decided: both are told of
        world.report("2023-06-12", finding("A"))
        assert world.tick() == []
        world.train("2023-06-05", "kept", "no better than the champion")
        world.tick()
        world.train("2023-06-12", "promoted")
        world.tick()
        assert world.tick() == []
    assert [(sent["event"], sent["report"]) for sent in hook.taken] == [
        ("findings", "2023-06-05"),
        ("outcome", "2023-06-05"),
        ("outcome", "2023-06-12"),
    ]
    assert hook.taken[1]["outcome"]["state"] == "kept"
    assert hook.taken[1]["text"].startswith("toy: the champion stays, after the report of 2023-06-05\n")
    assert "no better than the champion" in hook.taken[1]["text"]
    assert hook.taken[2]["outcome"]["state"] == "promoted"


@pytest.mark.parametrize(
    ("decision", "moved", "state", "said"),
    [
        ("promoted", 3, "promoted", "version 2 was promoted. because"),
        ("promoted_in_part", 3, "promoted_in_part", "version 2 came into force for 3 series. because"),
        ("kept", 0, "kept", "the champion stays. because"),
        ("not_trained", 0, "kept", "nobody was trained: because"),
    ],
)
def test_a_decision_in_words(world: World, decision: str, moved: int, state: str, said: str) -> None:
    world.report("2023-06-05", finding("A"))
    assert outcome_of(world.instance, TOY, "2023-06-05", NOW).state == "none"
    world.train("2023-06-05", decision, "because", moved)
    outcome = outcome_of(world.instance, TOY, "2023-06-05", NOW)
    assert (outcome.state, outcome.is_final) == (state, True)
    assert said in outcome.sentence
    assert "asked for on 2023-06-05" in outcome.sentence


def test_trainings_that_failed_for_good_are_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as hook:
        use(monkeypatch, hook)
        world.report("2023-06-05", finding("A"))
        world.tick()
        for _ in range(TOY.retrain.maximum_attempts):
            world.train("2023-06-05", None)
            world.tick()
    assert [sent["event"] for sent in hook.taken] == ["findings", "outcome"]
    assert "it failed 2 times. Mend the cause, then run job toy_retrain." in hook.taken[1]["text"]


@pytest.mark.parametrize("lost", [None, "", "{", '{"unknown": 1}', "[]"])
def test_a_sensor_that_lost_its_cursor_tells_nothing_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, lost: str | None
) -> None:
    with webhook() as hook:
        use(monkeypatch, hook)
        world.report("2023-06-05", finding("A"))
        world.tick()
        world.cursors["toy_alert_sensor"] = lost
        assert world.tick() == []
        # killed between the request and the cursor: the same run is asked for, which is run once
        world.report("2023-06-12", finding("B"))
        before = world.cursors["toy_alert_sensor"]
        (first,) = world.tick(launch=False)
        world.cursors["toy_alert_sensor"] = before
        (again,) = world.tick(launch=False)
        assert first.run_key == again.run_key
    assert len(hook.taken) == 1


def test_a_calm_report_and_an_earlier_outcome_are_no_news(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as hook:
        use(monkeypatch, hook)
        world.report("2023-06-05", verdict="ok")
        world.train("2023-05-29", "promoted")
        assert world.tick() == []
        # switched on when all is over: one message, which has the outcome
        world.report("2023-06-12", finding("A"))
        world.train("2023-06-12", "promoted")
        assert len(world.tick()) == 1
        assert world.tick() == []
    assert "version 2 was promoted" in hook.taken[0]["text"]
