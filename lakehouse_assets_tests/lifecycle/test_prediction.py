"""Predictions carry intervals, and what came of them is scored."""

import polars as pl
import pytest

from lakehouse_assets.lifecycle.names import Names
from lakehouse_assets.ml.intervals import LEVELS, SCORES, coverage
from lakehouse_assets_tests.lifecycle.conftest import CHANGE_DAY, House


def _predicted(house: House) -> pl.DataFrame:
    return house.table("predictions/toy").scan().collect()


def _shown(house: House) -> dict:
    event = house.instance.get_latest_materialization_event(Names("toy").errors)
    return dict(event.asset_materialization.metadata)


def test_predictions_carry_quantiles_that_follow_the_errors_also_in_a_home_from_before(house: House) -> None:
    assert house.run("toy_retrain", house.know(120)).success
    first = _predicted(house)
    assert first.schema["q10"] == pl.Float32
    assert first.select(pl.col(*LEVELS).is_finite().all()).row(0) == (True,) * 4
    assert (first["q025"] < first["q10"]).all()

    # as a home was before there were intervals
    assert house.run("toy_predict", house.know(122)).success
    for key, further in (("predictions/toy", []), ("monitoring/toy_errors", list(SCORES))):
        rows = house.table(key).scan().collect().drop(*LEVELS, *further)
        house.table(key).overwrite(rows, partition_by=["month"], schema_mode="overwrite")
    assert house.run("toy_predict", house.know(122)).success, "nothing new to predict, and nothing to compare"
    assert "last_week_coverage_80" not in _shown(house)
    assert house.run("toy_predict", house.know(CHANGE_DAY)).success
    predicted = _predicted(house)
    since = pl.col("issued_at") >= first["issued_at"].max() + pl.duration(days=3)
    assert predicted.filter(since)["q10"].is_not_null().all()
    assert predicted.filter(~since)["q10"].is_null().all()

    # the published forecast changes its habits: errors grow, and so do the intervals
    assert house.run("toy_predict", house.know(CHANGE_DAY + 28)).success
    width = pl.col("q90") - pl.col("q10")
    day = (pl.col("issued_at") - first["issued_at"].max()).dt.total_days() + 120
    widths = _predicted(house).group_by(day.alias("day")).agg(width.mean()).sort("day")
    calm, late = (widths.filter(pl.col("day") == d)["q90"].item() for d in (CHANGE_DAY, CHANGE_DAY + 28))
    assert late > 5 * calm
    errors = house.table("monitoring/toy_errors").scan().collect()
    lately = coverage(errors.filter(day > CHANGE_DAY + 14))["coverage_80"].item()
    assert lately == pytest.approx(0.75, abs=0.1), "errors are ten times as large, and of another pattern by the hour"
    last = errors.filter(pl.col("issued_at") > pl.col("issued_at").max() - pl.duration(days=7))
    shown = _shown(house)
    assert shown["last_week_coverage_95"].value == pytest.approx(coverage(last)["coverage_95"].item())
    assert {"coverage_picture", "band_picture"} <= set(shown)
