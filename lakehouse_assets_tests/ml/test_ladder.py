"""Who speaks where the champion cannot: training and forecasts of a fleet with faults, rung by rung."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lakehouse_assets.ml.definition import BacktestResult, GatePolicy
from lakehouse_assets.ml.estimators import Blend, Boosting, Ridge, SeasonalNaive
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets.ml.ladder import REACH, RUNGS, Reach, rungs_of, step_down
from lakehouse_assets.ml.panel import Panel
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

DAYS, HEALTHY = 150, 3
KIND = Forecast(spread=1, recent=2)
SERIES = {"seasonal_naive": SeasonalNaive(), "ridge": Ridge(), "on_published": Ridge(on_published=True, half_life=60.0)}
CANDIDATES = {**SERIES, "boosting": Boosting(iterations=10, rows=4000), "blend": Blend(("ridge", "on_published"))}
LATEST = datetime(2023, 1, 2, tzinfo=UTC) + timedelta(days=DAYS - 1)
FAULTS = ("constant", "dead", "empty", "gaps", "week", "outliers", "ended", "spike")


def spoiled() -> tuple[np.ndarray, np.ndarray]:
    """Three healthy series, and one for each of the faults."""
    rng = np.random.default_rng(0)
    demand, published = load_curves(HEALTHY, DAYS)
    base, theirs = np.tile(demand[0], (len(FAULTS), 1)), np.tile(published[0], (len(FAULTS), 1))
    base[0] = 42.0
    base[1] = 0.0
    base[2] = np.nan
    base[3, rng.random(base.shape[1]) < 0.6] = np.nan
    base[4, : -8 * 24] = np.nan
    base[5, rng.random(base.shape[1]) < 0.01] = 1e12
    base[6, -40 * 24 :] = np.nan
    base[7, -48:-24] = 1e12  # the day before the latest issue time
    return np.concatenate([demand, base]), np.concatenate([published, theirs])


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    demand, published = spoiled()
    names = {f"S{HEALTHY + i}": fault for i, fault in enumerate(FAULTS)}
    with np.errstate(all="ignore"):
        rows = feature_frame(demand, published)
    known = pl.col("ts") < LATEST
    return rows.with_columns(
        pl.col("series_id").replace(names),
        value=pl.when(known).then(pl.col("value").fill_nan(None)),
        known_at=pl.when(known).then("known_at"),
    )


@pytest.fixture(scope="module")
def result(frame: pl.DataFrame) -> BacktestResult:
    return KIND.backtest(KIND.dataset(frame), CANDIDATES, cutoff=LATEST)


def test_faulty_series_change_nothing_for_the_healthy_ones(frame: pl.DataFrame, result: BacktestResult) -> None:
    healthy = ~pl.col("series_id").is_in(FAULTS)
    alone = KIND.backtest(KIND.dataset(frame.filter(healthy)), SERIES, cutoff=LATEST)
    day = frame.filter(healthy, pl.col("issued_at") == LATEST)
    for name in SERIES:
        ours, theirs = (r.losses.filter(healthy).select("series_id", "ts", name).collect() for r in (result, alone))
        assert ours.equals(theirs)
        assert result.fitted[name].predict(day).equals(alone.fitted[name].predict(day))
    losses = result.losses.collect()
    assert {"empty", "ended"}.isdisjoint(losses["series_id"])
    assert dict(result.unscored.iter_rows()) == {
        "empty": "no value to learn from yet",
        "ended": "retired: no value in the last 28 days",
    }
    decision = KIND.gate(result, "on_published", GatePolicy(), has_champion=False)
    assert decision.promote


def test_each_series_below_the_champion_has_its_rung_and_reason(frame: pl.DataFrame, result: BacktestResult) -> None:
    day = frame.filter(pl.col("issued_at") == LATEST)
    said = result.fitted["on_published"].predict(day).with_columns(model_version=pl.lit(1, pl.Int64))
    assert said.filter(pl.col("yhat").is_not_null()).select((pl.col("yhat").abs() < 1e5).all()).item()
    below = {
        (r["series_id"], r["rung"]): r for r in rungs_of(said.lazy(), "issued_at", "series_id").collect().to_dicts()
    }
    assert {name for name, _ in below}.isdisjoint({"S0", "S1", "S2"})
    assert below["empty", "none"]["reason"] == "no level known: no value in the last 28 days"
    assert below["empty", "none"]["rows"] == 24
    assert below["dead", "seasonal_naive"]["reason"] == "no level: nothing but zeros lately"
    assert below["week", "stand_in"]["reason"] == "too little history when it was trained: 7 issue times"
    assert "not plausible" in below["spike", "last_level"]["reason"]
    assert below["ended", "none"]["reason"] == "no level known: no value in the last 28 days"
    assert below["constant", "stand_in"]["reason"] == "the published forecast is not plausible"
    assert set(said["rung"]) <= set(RUNGS)
    assert said.filter(rung="champion")["reason"].null_count() == said.filter(rung="champion").height
    no_curve = day.with_columns(published_forecast=pl.lit(None, pl.Float32)).filter(series_id="S0")
    assert set(result.fitted["on_published"].predict(no_curve)["reason"]) == {"the published forecast is missing"}


def test_a_newcomer_is_forecast_by_the_model_across_series(frame: pl.DataFrame, result: BacktestResult) -> None:
    day = frame.filter(pl.col("issued_at") == LATEST, series_id="S1").with_columns(series_id=pl.lit("new"))
    said = result.fitted["on_published"].predict(day)
    assert set(said["rung"]) == {"stand_in"}
    assert set(said["reason"]) == {"the champion does not know this series"}
    assert said["yhat"].equals(result.fitted["boosting"].predict(day)["yhat"])


def test_the_version_before_speaks_between_the_stand_ins_and_the_naive() -> None:
    def said(rung: str, yhat: float, version: int) -> dict:
        return {"series_id": rung, "yhat": yhat, "rung": rung, "reason": f"of {version}", "model_version": version}

    ours = pl.DataFrame([said(rung, 1.0, 2) for rung in ("champion", "stand_in", "seasonal_naive", "none")])
    theirs = ours.filter(pl.col("series_id") != "none").with_columns(
        yhat=2.0, rung=pl.lit("champion"), model_version=pl.lit(1, pl.Int64)
    )
    both = step_down(ours, theirs, ["series_id"])
    assert both.columns == ours.columns
    assert both.filter(rung="previous").rows() == [("seasonal_naive", 2.0, "previous", "of 2", 1)]
    kept = ours.filter(pl.col("rung") != "seasonal_naive").sort("series_id")
    assert both.filter(pl.col("rung") != "previous").equals(kept)


def test_who_leaves_is_told_once() -> None:
    at = [LATEST + timedelta(days=k) for k in range(3)]
    rows = [(at[0], "a"), (at[0], "b"), (at[1], "a"), (at[2], "a"), (at[2], "c")]
    said = pl.DataFrame(rows, schema=["issued_at", "series_id"], orient="row").with_columns(
        rung=pl.lit("champion"), reason=pl.lit(None, pl.String), model_version=pl.lit(3, pl.Int64)
    )
    left = rungs_of(said.lazy(), "issued_at", "series_id").collect()
    assert left.select("issued_at", "series_id", "rung", "rows").rows() == [(at[1], "b", "none", 0)]
    assert "left" in left["reason"][0]


@settings(max_examples=50, deadline=None)
@given(
    normal=arrays(np.float32, (20 * 24,), elements=st.floats(50, 150, width=32)),
    wild=st.sampled_from([1e12, -1e12, np.inf, np.nan, 0.0]),
)
def test_outliers_in_a_tenth_of_the_hours_do_not_widen_the_reach(normal: np.ndarray, wild: float) -> None:
    def reach(values: np.ndarray) -> Reach:
        demand = np.tile(values.astype(float), (1, 1))
        with np.errstate(all="ignore"):
            return Reach.of(Panel.from_frame(feature_frame(demand, first_day=15)))

    values = normal.copy()
    values[5::12] = wild
    found = reach(values)
    assert not found.excess(np.full((1, 5, 24), 100.0)).any()
    assert found.excess(np.full((1, 5, 24), (REACH + 1) * 150 + 150)).all()
    assert found.excess(np.full((1, 5, 24), np.inf)).all()
