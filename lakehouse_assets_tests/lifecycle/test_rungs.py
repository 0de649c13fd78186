"""Below the champion: the version before speaks, and every member's rung and reason is a row."""

from datetime import timedelta

import polars as pl

from lakehouse_assets_tests.lifecycle.conftest import House


def _below(house: House) -> list[tuple]:
    rows = house.table("monitoring/toy_rungs").scan().collect().sort("issued_at", "series_id")
    return rows.select("issued_at", "series_id", "rung", "rows", "model_version").rows()


def test_the_version_before_the_naive_and_whoever_leaves(house: House) -> None:
    whole = house.frame
    first = house.know(120)
    assert house.run("toy_retrain", first).success
    assert _below(house) == []

    # the published forecast has changed its habits, and S3 is not there when the new champion learns that
    house.frame = whole.filter(pl.col("series_id") != "S3")
    second = house.know(175)
    assert house.run("toy_retrain", second).success
    assert house.registry.get("toy", "champion").version == 2
    left = (first + timedelta(days=1), "S3", "none", 0, 1)
    assert _below(house) == [left]

    # S3 is back as a member that has no version of its own; and S1 has no published forecast today
    gone = (pl.col("series_id") == "S1") & (pl.col("issued_at") > second)
    house.frame = whole.with_columns(published_forecast=pl.when(~gone).then("published_forecast"))
    members = house.table("registry/toy_series")
    members.overwrite(members.scan().filter(pl.col("series_id") != "S3").collect())
    third = house.know(176)
    assert house.run("toy_predict", third).success
    assert _below(house) == [
        left,
        (third, "S1", "seasonal_naive", 24, 2),
        (third, "S3", "previous", 24, 1),
    ]
    reasons = house.table("monitoring/toy_rungs").scan().filter(pl.col("issued_at") == third).collect()
    said = dict(reasons.select("series_id", "reason").iter_rows())
    assert said == {
        "S1": "the published forecast is missing",
        "S3": "the champion does not know this series",
    }
    predicted = house.table("predictions/toy").scan().filter(pl.col("issued_at") == third).collect()
    assert predicted.height == 4 * 24
    by_rung = predicted.group_by("rung").agg(pl.col("series_id").unique().sort(), pl.col("model_version").unique())
    assert {row[0]: row[1:] for row in by_rung.iter_rows()} == {
        "champion": (["S0", "S2"], [2]),
        "previous": (["S3"], [1]),
        "seasonal_naive": (["S1"], [2]),
    }
    assert predicted["yhat"].is_finite().all()
    before = _below(house)
    assert house.run("toy_predict", third).success
    assert _below(house) == before
