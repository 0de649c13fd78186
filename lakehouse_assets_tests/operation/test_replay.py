"""`lakehouse replay`: a stretch of history, operated step by step."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import polars as pl

from lakehouse_assets_tests.operation.commands import Kill
from lakehouse_assets_tests.operation.conftest import KEYS, House

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
