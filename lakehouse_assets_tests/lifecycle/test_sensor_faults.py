"""What the drift sensor does when something goes wrong: real daemons, trainings and reports on an instance on disk.

Each fault is a line of the table in docs/drift.md.
"""

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.scheduler.instigation import InstigatorTick

from lakehouse_assets.lifecycle.names import REQUESTED_AT_TAG, Names
from lakehouse_assets.lifecycle.retraining import RUN_KEY_TAG
from lakehouse_assets_tests.lifecycle import daemons
from lakehouse_assets_tests.lifecycle.conftest import TOY, House, definitions_of
from lakehouse_assets_tests.registry.conftest import processes

__all__ = ["processes"]
NAMES = Names("toy")
TRAINED, REPORTED = 130, 168
REPORT = "2023-06-19"
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
LAUNCHER = "run_launcher:\n  module: lakehouse_assets_tests.lifecycle.daemons\n  class: InThisProcess\n"


class Home(House):
    """A home whose instance outlives the processes that work on it."""

    processes: Any

    def look(self, at: datetime, queue: bool = False) -> None:
        """One look of daemons that have just been started."""
        daemons.look(self.folder, at, queue=queue)

    def look_in_processes(self, *looks: dict[str, Any]) -> list[int | None]:
        """Looks at the same time, each in a process of its own; how they ended."""
        started = [self.processes.Process(target=daemons.look, args=(self.folder, AT), kwargs=look) for look in looks]
        for process in started:
            process.start()
        for process in started:
            process.join(timeout=120)
        return [process.exitcode for process in started]

    def trainings(self) -> list[tuple[str, str]]:
        """Run key (without the model) and status of what the sensor asked for, in the order of asking."""
        runs = self.instance.get_runs(dg.RunsFilter(job_name=NAMES.retrain_job))[::-1]
        return [
            (run.tags[RUN_KEY_TAG].removeprefix("toy:"), run.status.value) for run in runs if RUN_KEY_TAG in run.tags
        ]

    def said(self) -> str | None:
        """The reason of the latest tick."""
        return self.ticks()[0].skip_reason

    def ticks(self) -> list[InstigatorTick]:
        (state,) = self.instance.all_instigator_state()
        return list(self.instance.get_ticks(state.instigator_origin_id, state.selector_id))

    def report(self, name: str, champion: int) -> None:
        """What the sensor sees of a report."""
        metadata = {"report": name, "champion_version": champion, "verdict": "drift", "members_due": 4}
        self.instance.report_runless_asset_event(dg.AssetMaterialization(NAMES.drift, metadata=metadata))


def open_home(folder: Path, frame: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "dagster"))
    return Home(folder, dg.DagsterInstance.from_config(str(folder / "dagster")), definitions_of(TOY, folder), frame)


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory, toy_frame: pl.DataFrame, migrated_store: Path) -> Path:
    """A home with a champion that has drifted, and the report that says so."""
    folder = tmp_path_factory.mktemp("drifted")
    shutil.copy(migrated_store, folder / "mlflow.db")
    (folder / "dagster").mkdir()
    project = Path(__file__).parents[2] / "dagster.yaml"
    (folder / "dagster" / "dagster.yaml").write_text(project.read_text() + LAUNCHER)
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = open_home(folder, toy_frame, monkeypatch)
        with home.instance:
            at = home.know(TRAINED)
            assert home.run("toy_retrain", at, **{REQUESTED_AT_TAG: at.isoformat()}).success
            assert home.run("toy_monitor", home.know(REPORTED)).success
            event = home.instance.get_latest_materialization_event(NAMES.drift)
            assert event is not None
            assert event.asset_materialization is not None
            found = event.asset_materialization.metadata
            assert (found["report"].value, found["verdict"].value) == (REPORT, "drift")
    return folder


@pytest.fixture
def home(
    drifted: Path, tmp_path: Path, toy_frame: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, processes: Any
) -> Iterator[Home]:
    shutil.copytree(drifted, tmp_path / "home")
    home = open_home(tmp_path / "home", toy_frame, monkeypatch)
    home.processes = processes
    with home.instance:
        yield home


AT = datetime.fromisoformat(f"{REPORT}T01:00+00:00")


def test_two_daemons_on_one_instance_train_once(home: Home, processes: Any) -> None:
    """They look at the same moment, so that neither sees the other's run; then the queue has two of the same key."""
    home.look(AT - 30 * DAY)  # within the cooldown
    assert home.trainings() == []
    barrier = processes.Barrier(2)
    assert home.look_in_processes({"together": barrier}, {"together": barrier}) == [0, 0]
    key = f"v1:{REPORT}:1"
    assert home.trainings() == [(key, "QUEUED"), (key, "QUEUED")]

    home.look(AT + MINUTE, queue=True)
    assert home.trainings() == [(key, "SUCCESS"), (key, "QUEUED")], "the model's pool has one slot"
    home.look(AT + 3 * MINUTE, queue=True)
    assert home.said() == f"report {REPORT} is about version 1; version 2 is in force"
    assert home.trainings() == [(key, "SUCCESS"), (key, "SUCCESS")]
    decisions = home.table("registry/toy").scan().collect()
    assert decisions["version"].sort().to_list() == [1, 2], "one has trained; the other gave way"
    assert decisions.filter(version=2)["report"].to_list() == [REPORT]


@pytest.mark.parametrize(
    ("place", "away", "keys"),
    [
        ("TICK_CREATED", MINUTE, ["1"]),
        ("RUN_IDS_RESERVED", MINUTE, ["1"]),
        ("RUN_CREATED", MINUTE, ["1"]),
        ("RUN_LAUNCHED", MINUTE, ["1"]),
        # After a day Dagster does not take up what was left lying.
        ("RUN_CREATED", 2 * DAY, ["1", "2"]),
    ],
)
def test_a_daemon_killed_between_request_and_run_asks_once(
    home: Home, place: str, away: timedelta, keys: list[str]
) -> None:
    assert home.look_in_processes({"kill_at": place}) == [-9]
    home.look(AT + away)
    home.look(AT + away + 2 * MINUTE)
    *left, (key, status) = home.trainings()
    assert [key for key, _ in home.trainings()] == [f"v1:{REPORT}:{number}" for number in keys]
    assert (key, status) == (f"v1:{REPORT}:{keys[-1]}", "QUEUED")
    assert [status for _, status in left] == ["NOT_STARTED"] * len(left)
    assert str(home.said()).startswith(f"report {REPORT} waits: a training is under way")


def test_a_training_that_fails_is_repeated_so_often_and_then_told(home: Home) -> None:
    features = home.table("features/toy").scan().collect()
    home.table("features/toy").overwrite(features.clear(), partition_by=["month"])
    for minute in range(3):
        home.look(AT + minute * MINUTE, queue=True)
    assert home.trainings() == [(f"v1:{REPORT}:1", "FAILURE"), (f"v1:{REPORT}:2", "FAILURE")]
    assert home.said() == (
        f"report {REPORT}: 2 trainings for it failed; mend the cause, then run the retraining job by hand"
    )
    home.report("the next", champion=1)
    home.look(AT + 7 * DAY)
    assert home.trainings()[2:] == [("v1:the next:1", "QUEUED")]


def test_a_challenger_that_loses_settles_the_report_also_after_a_restart_in_the_cooldown(home: Home) -> None:
    at = home.know(TRAINED + 10)  # when nothing had changed yet
    home.look(at, queue=True)
    assert home.trainings() == [(f"v1:{REPORT}:1", "SUCCESS")]
    decision = home.table("registry/toy").scan().filter(version=2).collect()
    assert decision["decision"].to_list() == ["kept"]

    home.look(at + MINUTE)
    assert home.said() == f"report {REPORT} has been decided"
    home.report("within the cooldown", champion=1)
    home.look(at + 9 * DAY)
    (state,) = home.instance.all_instigator_state()
    home.instance.delete_instigator_state(state.instigator_origin_id, state.selector_id)  # with the cursor
    home.look(at + 9 * DAY + MINUTE)
    assert str(home.said()).startswith("report within the cooldown waits: the last training was asked for at")
    assert len(home.trainings()) == 1
    home.look(at + 10 * DAY)
    assert home.trainings()[1:] == [("v1:within the cooldown:1", "QUEUED")]


def test_a_champion_that_changes_in_a_week_is_judged_from_the_next_and_by_itself(home: Home) -> None:
    changed = home.know(REPORTED + 3)
    home.look(changed, queue=True)
    assert home.table("registry/toy").scan().filter(version=2).collect()["decision"].to_list() == ["promoted"]

    assert home.run("toy_monitor", home.know(REPORTED + 7)).success
    home.look(changed + 4 * DAY)
    assert home.said() == "no report: insufficient_data, no full week since the champion was trained"
    assert home.run("toy_monitor", home.know(REPORTED + 14)).success
    home.look(changed + 11 * DAY)
    assert home.said() == "report 2023-07-03: insufficient_data", "of its two weeks it has had one"
    judged = home.table("monitoring/toy_drift").scan().collect()
    before, after = judged.filter(pl.col("week") < changed), judged.filter(pl.col("week") > changed)
    assert before["model_version"].unique().to_list() == [1]
    assert before.filter(week=before["week"].max())["verdict"].unique().to_list() == ["drift"]
    assert after["model_version"].unique().to_list() == [2]
    assert after["weeks"].unique().to_list() == [1], "what the former champion lost is not held against it"
    assert len(home.trainings()) == 1


def test_labels_that_never_come_ask_for_nothing(home: Home) -> None:
    home.instance.wipe_assets([NAMES.drift])
    shutil.rmtree(home.folder / "lake" / "monitoring" / "toy_drift")
    known = home.table("features/toy").scan().collect()
    silent = pl.col("ts") >= datetime.fromisoformat("2023-05-15T00:00+00:00")
    home.table("features/toy").overwrite(
        known.with_columns(value=pl.when(~silent).then("value"), known_at=pl.when(~silent).then("known_at")),
        partition_by=["month"],
    )
    for week in range(2):
        assert home.run("toy_monitor", AT + week * 7 * DAY).success
        home.look(AT + week * 7 * DAY)
        assert "insufficient_data" in str(home.said())
    assert home.trainings() == []
    assert {tick.status.value for tick in home.ticks()} == {"SKIPPED"}
