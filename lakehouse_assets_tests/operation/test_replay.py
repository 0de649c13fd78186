"""`lakehouse replay`: a stretch of history, operated step by step, of which nobody is told."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.io_manager import DeltaIOManager
from lakehouse_assets.lifecycle.alerts import alert_definitions
from lakehouse_assets.lifecycle.names import REPLAYED_TAG, Names
from lakehouse_assets.lifecycle.reports import ReportsResource
from lakehouse_assets.ml.findings import identified
from lakehouse_assets.operation.execution import Operator, progress_logger
from lakehouse_assets.operation.replay import replay, unsent
from lakehouse_assets.settings import get_settings
from lakehouse_assets_tests.lifecycle.conftest import TOY
from lakehouse_assets_tests.lifecycle.servers import webhook
from lakehouse_assets_tests.operation.commands import Kill
from lakehouse_assets_tests.operation.conftest import KEYS, House

NAMES = Names("toy")

LIVE, END = "2024-05-02", "2024-05-14"
REPLAY = ("replay", "--start", LIVE, "--end", END, "--step", "7d")


def test_replay(house: House) -> None:
    """One story, in one test; the replay is killed in its first step, and repeated."""
    ended = house.run(LIVE)
    assert ended.code == 0, ended.err
    killed = house(*REPLAY, kill=Kill(call="lakehouse_assets.lake.table:Table.overwrite", table="gold/demand_hourly"))
    assert killed.code == -9, killed
    ended = house(*REPLAY)
    assert ended.code == 0, ended.err
    assert "2 steps" in ended.out
    every_day_is_predicted_once(house)
    predictions_are_compared_with_what_came(house)
    drift_is_judged_by_whole_weeks(house)
    the_schedules_and_the_sensor_asked_for_the_runs(house)
    a_finished_replay_has_nothing_to_do(house)
    it_goes_on_after_the_last_finished_step(house)


def every_day_is_predicted_once(operated: House) -> None:
    operated.assert_sound()
    predictions = operated.frame("predictions/demand_forecast")
    zone = "Europe/Berlin"
    days = predictions.select(pl.col("issued_at").dt.convert_time_zone(zone).unique().sort()).to_series()
    assert days.dt.strftime("%H:%M").unique().to_list() == ["00:00"]
    assert (
        days.dt.date().to_list()
        == pl.date_range(datetime.fromisoformat(LIVE).date(), datetime.fromisoformat(END).date(), eager=True).to_list()
    )
    assert predictions.height == days.len() * 2 * 24
    hours = (pl.col("ts") - pl.col("issued_at")).dt.total_hours()
    assert predictions.select((hours == pl.col("horizon")).all()).item()
    assert sorted(predictions["horizon"].unique()) == list(range(24))


def predictions_are_compared_with_what_came(operated: House) -> None:
    errors = operated.frame("monitoring/demand_forecast_errors")
    actual = operated.frame("gold/demand_hourly").filter(~pl.col("pending") & pl.col("imputed").is_null())
    due = operated.frame("predictions/demand_forecast").join(
        actual.select("series_id", "ts", actual="value"), on=["series_id", "ts"]
    )
    assert errors.height == due.height
    both = errors.join(due, on=KEYS["monitoring/demand_forecast_errors"])
    assert both.select(((pl.col("yhat") - pl.col("actual")).abs() - pl.col("absolute_error")).abs().max()).item() < 1e-9


def drift_is_judged_by_whole_weeks(operated: House) -> None:
    drift = operated.frame("monitoring/demand_forecast_drift").filter(comparison="challenger")
    assert drift["week"].dt.convert_time_zone("Europe/Berlin").dt.weekday().unique().to_list() == [1]
    assert drift.group_by("week").len()["len"].to_list() == [2] * drift["week"].n_unique()


def the_schedules_and_the_sensor_asked_for_the_runs(operated: House) -> None:
    runs = Counter(operated.dagster_runs())
    # Once by `run` and once a step; the killed step had landed and was repeated.
    assert runs["ingest", "SUCCESS"] == 4
    assert runs["demand_forecast_predict", "SUCCESS"] == 3
    assert runs["demand_forecast_monitor", "SUCCESS"] == 3
    assert [job for job, status in runs if status == "FAILURE"] == ["refine"]  # the killed one


def a_finished_replay_has_nothing_to_do(operated: House) -> None:
    before, runs = operated.versions(), len(operated.dagster_runs())
    ended = operated(*REPLAY)
    assert ended.code == 0, ended.err
    assert "0 steps, 0 runs, 0 failed" in ended.out
    assert operated.versions() == before
    assert len(operated.dagster_runs()) == runs


def it_goes_on_after_the_last_finished_step(operated: House) -> None:
    later = (datetime.fromisoformat(END).replace(tzinfo=UTC) + timedelta(days=1)).date().isoformat()
    ended = operated("replay", "--start", LIVE, "--end", later, "--step", "1d")
    assert ended.code == 0, ended.err
    assert "1 steps" in ended.out
    operated.assert_sound()
    last = operated.frame("predictions/demand_forecast")["issued_at"].max()
    assert last.astimezone(UTC) == datetime.fromisoformat(f"{later}T00:00+02:00").astimezone(UTC)


def test_nobody_is_told_of_a_replay_and_live_operation_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Monday's job makes a report with a finding that goes on; the alert sensor is the model's own."""

    @dg.asset(key=NAMES.drift)
    def drift(clock: Clock) -> dg.MaterializeResult:
        report = f"{clock.now():%Y-%m-%d}"
        about = {"kind": "drift", "scope": "series", "members": ["A"], "since": "2023-05-15T00:00:00+00:00"}
        found = identified([{**about, "regret": 0.1, "expected_gain": 0.1, "hours": "all"}], known, report)
        known[:] = found
        said = {"report": report, "verdict": "drift", "champion_version": 1, "findings": dg.MetadataValue.json(found)}
        return dg.MaterializeResult(metadata=said)

    known: list[Any] = []
    job = dg.define_asset_job("monitor", [drift])
    weekly = dg.ScheduleDefinition(
        job=job, cron_schedule="0 1 * * 1", default_status=dg.DefaultScheduleStatus.RUNNING, execution_timezone="UTC"
    )
    with webhook() as hook, dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))
        get_settings.cache_clear()
        assert unsent(get_settings()) is None
        monkeypatch.setenv("LAKEHOUSE_ALERT_WEBHOOK", hook.address)
        get_settings.cache_clear()
        assert "webhook are not sent in a replay" in str(unsent(get_settings()))
        definitions = dg.Definitions.merge(
            dg.Definitions(
                [drift],
                jobs=[job],
                schedules=[weekly],
                resources={
                    "clock": Clock(),
                    "reports": ReportsResource(folder=str(tmp_path / "reports")),
                    "io_manager": DeltaIOManager(root_uri=str(tmp_path / "lake")),
                },
                loggers={"progress": progress_logger},
            ),
            alert_definitions(TOY),
        )
        operator = Operator(definitions, instance)
        start = datetime(2023, 6, 1, tzinfo=UTC)
        steps = replay(operator, start, start + timedelta(weeks=3), timedelta(weeks=1))
        assert [(run.job, run.success) for step in steps for run in step.runs] == [
            ("monitor", True),
            ("toy_alert", True),
            ("monitor", True),
            ("monitor", True),
        ], "told of once, as it would have been"
        (recorded,) = instance.get_runs(dg.RunsFilter(job_name="toy_alert"))
        assert recorded.tags[REPLAYED_TAG] == "true"
        live = Live(definitions, instance)
        live.tick(start + timedelta(weeks=3))
        assert hook.asked == [], "the last report of a replay is of the past, whoever reads it"
        operator.run("monitor", at=start + timedelta(weeks=4))
        assert len(live.tick(start + timedelta(weeks=4))) == 1
        assert live.tick(start + timedelta(weeks=4)) == []
    get_settings.cache_clear()
    assert [(sent["event"], sent["findings_new"]) for sent in hook.taken] == [("findings", 1)]
    assert len(hook.asked) == 1


class Live:
    """The alert sensor with the cursor of Dagster's daemon, which runs what it asks for."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.definitions, self.instance = definitions, instance
        self.cursor: str | None = None

    def tick(self, now: datetime) -> list[dg.RunRequest]:
        with dg.build_sensor_context(
            self.instance,
            cursor=self.cursor,
            repository_def=self.definitions.get_repository_def(),
            resources={**(self.definitions.resources or {}), "clock": Clock(at=now.isoformat())},
        ) as context:
            outcome = self.definitions.resolve_sensor_def("toy_alert_sensor").evaluate_tick(context)
        self.cursor = outcome.cursor
        asked = list(outcome.run_requests or ())
        for request in asked:
            ran = self.definitions.resolve_job_def(NAMES.alert_job).execute_in_process(
                instance=self.instance, run_config=request.run_config, tags=dict(request.tags)
            )
            assert ran.success
        return asked
