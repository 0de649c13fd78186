"""Profiles and comparisons on real tables: what they say, what is computed again and what is not."""

import shutil
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from lakehouse_assets.lifecycle.comparison import verdicts
from lakehouse_assets.lifecycle.names import Names
from lakehouse_assets_tests.lifecycle.conftest import TOY, House

NAMES = Names("toy")
BY_WEEK = pl.col("granularity") == "1 week"
WHOLE = pl.col("slice_key").is_null()


def profiles(house: House) -> pl.DataFrame:
    return house.table("monitoring/toy_profile").scan().collect()


def weeks_computed(house: House) -> Any:
    event = house.instance.get_latest_materialization_event(NAMES.profile)
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization.metadata["windows"].value


def versions(house: House) -> tuple[int, int]:
    return house.table("monitoring/toy_profile").version(), house.table("monitoring/toy_drift").version()


def comparisons(house: House, comparison: str) -> pl.DataFrame:
    return house.table("monitoring/toy_drift").scan().filter(pl.col("comparison") == comparison).collect()


def operated(house: House, day: int) -> datetime:
    at = house.know(day)
    assert house.run("toy_predict", at).success
    assert house.run("toy_monitor", at).success
    return at


def test_weeks_are_profiled_and_compared_once(house: House) -> None:
    trained = house.know(120)
    assert house.run("toy_retrain", trained).success
    operated(house, 141)
    made = profiles(house)

    # what the version was trained on: a year of features before the cutoff, and the errors of its backtest
    baseline = made.filter(~BY_WEEK)
    assert baseline.select("model_version", "window_end").unique().row(0) == (1, trained)
    assert set(baseline["column"]) == {"value", "published_forecast", "yhat", "error"}
    champion = house.registry.get("toy", "champion")
    of_error = baseline.filter(WHOLE, column="error").row(0, named=True)
    assert of_error["mae"] == pytest.approx(champion.metrics["mae"])
    assert of_error["bias"] == pytest.approx(champion.metrics["bias"])

    # every slice of a week, and what the error table says of it
    first, second = made.filter(BY_WEEK)["window_start"].unique().sort()
    week = made.filter(window_start=first, granularity="1 week")
    slices = week.filter(column="error").select("slice_key", "slice_value").rows()
    series = [("series_id", f"S{i}") for i in range(4)]
    others = [(None, None), ("model_version", "1"), ("series_group", "a"), ("series_group", "b")]
    assert sorted(slices, key=str) == sorted([*others, *series], key=str)
    errors = house.table("monitoring/toy_errors").scan().filter(pl.col("issued_at").is_between(first, second, "left"))
    known = errors.filter(pl.col("series_id") == "S2").collect()["error"]
    said = week.filter(column="error", slice_value="S2").row(0, named=True)
    assert (said["count"], said["window_end"], said["model_version"]) == (7 * 24, second, 1)
    assert said["rmse"] == pytest.approx((known**2).mean() ** 0.5)
    assert said["mae"] == pytest.approx(known.abs().mean())

    # beside the training, and beside the week before
    beside = comparisons(house, "baseline")
    assert set(beside["window_start"]) == {first, second}
    assert set(beside["reference_end"]) == {trained}
    following = comparisons(house, "consecutive")
    assert following.select("window_start", "reference_start").unique().rows() == [(second, first)]
    moved = following.filter(WHOLE, column="value").row(0, named=True)
    means = dict(made.filter(WHOLE, BY_WEEK, column="value").select("window_start", "mean").iter_rows())
    assert moved["mean_delta"] == pytest.approx(means[second] - means[first])
    assert 0 < moved["kolmogorov_smirnov"] < 1
    assert following["week"].null_count() == following.height
    assert (
        house.verdicts()
        .select("slice_value", "window_start")
        .equals(house.verdicts().select(slice_value="series_id", window_start="week"))
    )

    before = versions(house)
    assert house.run("toy_monitor", house.know(141)).success
    assert weeks_computed(house) == []
    assert versions(house) == before, "a rerun adds nothing"
    operated(house, 148)
    assert len(weeks_computed(house)) == 1
    earlier = pl.col("window_start") == first
    assert profiles(house).filter(earlier).equals(made.filter(earlier))


def test_what_comes_late_is_seen_and_only_its_week_computed_again(house: House) -> None:
    assert house.run("toy_retrain", house.know(120)).success
    at = operated(house, 142)
    table = house.table("features/toy")
    rows = table.scan().collect()
    starts = profiles(house).filter(BY_WEEK)["window_start"].unique().sort()
    late = (pl.col("series_id") == "S1") & pl.col("ts").is_between(starts[0], starts[0] + timedelta(hours=5))
    # a correction changes no count
    corrected = pl.when(late).then(pl.col("value") * 2).otherwise("value")
    table.overwrite(rows.with_columns(value=corrected), partition_by=["month"])
    assert house.run("toy_monitor", at).success
    assert weeks_computed(house) == [f"{starts[0]:%Y-%m-%d}"]
    table.overwrite(rows.with_columns(value=pl.when(~late).then("value")), partition_by=["month"])
    assert house.run("toy_monitor", at).success
    assert weeks_computed(house) == [f"{starts[0]:%Y-%m-%d}"]
    fewer = comparisons(house, "consecutive").filter(WHOLE, column="value", window_start=starts[1])
    assert fewer["count_delta"].to_list() == [6], "the week after is compared anew"
    assert profiles(house).filter(BY_WEEK).select("window_start").n_unique() == len(starts)
    keys = ["granularity", "window_start", "slice_key", "slice_value", "column"]
    assert not profiles(house).select(keys).is_duplicated().any()


def test_a_drift_table_of_the_old_shape_is_taken_over(house: House) -> None:
    assert house.run("toy_retrain", house.know(120)).success
    at = operated(house, 142)
    # nor does it matter that the evidence of an old training has been cleared away
    run = house.registry.get("toy", "champion").run_id
    shutil.rmtree(next(house.folder.glob(f"mlartifacts/**/{run}/artifacts/backtest")))
    shutil.rmtree(house.table("monitoring/toy_profile").uri)
    table = house.table("monitoring/toy_drift")
    judged = house.verdicts()
    old = judged.select("model_version", *TOY.kind.drift_columns, "report", "fleet_verdict")
    shutil.rmtree(table.uri)
    table.append(old)
    assert house.run("toy_monitor", at).success
    keys = ["week", "series_id"]
    assert house.verdicts().sort(keys).equals(judged.sort(keys))
    assert house.verdicts().equals(verdicts(house.verdicts(), TOY))
    assert set(comparisons(house, "baseline")["column"]) == {"value", "published_forecast"}
    again = table.version()
    assert house.run("toy_monitor", at).success
    assert table.version() == again
