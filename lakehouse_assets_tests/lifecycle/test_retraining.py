"""The drift sensor: asks when a report says drift, once, and not again when that was decided."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lifecycle.names import REPORT_TAG, REQUESTED_AT_TAG, TRIGGER_TAG, Names
from lakehouse_assets.lifecycle.retraining import retraining_definitions
from lakehouse_assets_tests.lifecycle.conftest import TOY

NAMES = Names("toy")
NOW = datetime(2023, 6, 5, tzinfo=UTC)


class World:
    """An instance, the sensor and its cursor: what the daemon would keep."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        keys = (NAMES.training, NAMES.promotion, NAMES.series, NAMES.series_history)
        assets = [dg.AssetSpec(key) for key in (*keys, NAMES.prediction, NAMES.errors, NAMES.drift)]
        executable = [dg.multi_asset(specs=[spec], name="_".join(spec.key.path))(lambda: None) for spec in assets]
        definitions = dg.Definitions.merge(dg.Definitions(assets=executable), retraining_definitions(TOY))
        self.repository = definitions.get_repository_def()
        self.sensor = definitions.resolve_sensor_def("toy_drift_sensor")
        self.cursor: str | None = None

    def report(self, report: str, verdict: str = "drift", champion: int = 1) -> None:
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(
                NAMES.drift, metadata={"report": report, "verdict": verdict, "champion_version": champion}
            )
        )

    def decide(self, champion: int) -> None:
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(NAMES.promotion, metadata={"champion_version": champion})
        )

    def tick(self, now: datetime = NOW) -> list[dg.RunRequest]:
        with dg.build_sensor_context(
            self.instance,
            cursor=self.cursor,
            repository_def=self.repository,
            resources={"clock": Clock(at=now.isoformat())},
        ) as context:
            outcome = self.sensor.evaluate_tick(context)
        self.cursor = outcome.cursor
        return list(outcome.run_requests or ())

    def launch(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
        run = dg.DagsterRun(job_name=NAMES.retrain_job, run_id=dg_run_id(), status=status, tags=dict(request.tags))
        self.instance.add_run(run)


def dg_run_id() -> str:
    import uuid

    return str(uuid.uuid4())


@pytest.fixture
def world() -> World:
    return World(dg.DagsterInstance.ephemeral())


def test_without_a_report_or_with_a_calm_one_nothing_is_asked(world: World) -> None:
    assert world.tick() == []
    world.report("2023-06-05", "ok")
    assert world.tick() == []
    assert world.cursor == "2023-06-05"
    world.report("2023-06-12", "insufficient_data")
    assert world.tick() == []


def test_a_drift_is_asked_about_once_with_its_key_and_tags(world: World) -> None:
    world.report("2023-06-05")
    (request,) = world.tick()
    assert request.run_key == "toy:v1:2023-06-05:1"
    assert request.tags[TRIGGER_TAG] == "drift"
    assert request.tags[REPORT_TAG] == "2023-06-05"
    assert request.tags[REQUESTED_AT_TAG] == NOW.isoformat()
    world.launch(request, dg.DagsterRunStatus.STARTED)
    assert world.tick() == [], "a training is under way"


def test_a_decided_report_is_settled_also_when_the_challenger_was_not_promoted(world: World) -> None:
    world.report("2023-06-05")
    world.launch(world.tick()[0], dg.DagsterRunStatus.SUCCESS)
    assert world.tick() == []
    assert world.cursor == "2023-06-05"
    assert world.tick(NOW + timedelta(days=90)) == []


def test_a_failed_training_is_asked_for_again_with_another_key_but_not_for_ever(world: World) -> None:
    world.report("2023-06-05")
    keys = []
    for _ in range(5):
        for request in world.tick():
            keys.append(request.run_key)
            world.launch(request, dg.DagsterRunStatus.FAILURE)
    assert keys == ["toy:v1:2023-06-05:1", "toy:v1:2023-06-05:2"]


def test_within_the_cooldown_a_new_report_waits(world: World) -> None:
    world.report("2023-06-05")
    world.launch(world.tick()[0], dg.DagsterRunStatus.SUCCESS)
    world.report("2023-06-12")
    assert world.tick(NOW + timedelta(days=9)) == []
    assert [r.run_key for r in world.tick(NOW + timedelta(days=10))] == ["toy:v1:2023-06-12:1"]


def test_a_report_about_a_former_champion_is_settled(world: World) -> None:
    world.decide(champion=2)
    world.report("2023-06-05", champion=1)
    assert world.tick() == []
    assert world.cursor == "2023-06-05"


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.sampled_from(["tick", "tick", "calm", "drift", "succeed", "fail", "forget cursor", "day", "week"]),
        max_size=40,
    )
)
def test_no_storm_whatever_happens(events: list[str]) -> None:
    world = World(dg.DagsterInstance.ephemeral())
    now, report, open_requests, keys, successes = NOW, 0, [], [], []
    for event in events:
        if event == "tick":
            requests = world.tick(now)
            assert not (requests and open_requests), "never two at once"
            for request in requests:
                keys.append(request.run_key)
                assert all(now - at >= timedelta(days=TOY.retrain.cooldown_days) for at in successes) or (
                    not request.run_key.endswith(":1")
                )
                world.launch(request, dg.DagsterRunStatus.STARTED)
                open_requests.append(request)
        elif event in ("calm", "drift"):
            report += 1
            world.report(f"report {report}", "drift" if event == "drift" else "ok")
        elif event in ("succeed", "fail") and open_requests:
            request = open_requests.pop()
            (run,) = world.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
            kind = dg.DagsterEventType.RUN_SUCCESS if event == "succeed" else dg.DagsterEventType.RUN_FAILURE
            world.instance.report_dagster_event(
                dg.DagsterEvent(event_type_value=kind.value, job_name=NAMES.retrain_job), run.run_id
            )
            if event == "succeed":
                successes.append(datetime.fromisoformat(request.tags[REQUESTED_AT_TAG]))
        elif event == "forget cursor":
            world.cursor = None
        elif event in ("day", "week"):
            now += timedelta(days=1 if event == "day" else 7)
    assert len(keys) == len(set(keys)), "a run key is asked once"
    assert len(keys) <= report * TOY.retrain.maximum_attempts
