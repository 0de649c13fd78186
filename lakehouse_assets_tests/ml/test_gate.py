from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy.signal import lfilter

from lakehouse_assets.ml import gate
from lakehouse_assets.ml.definition import CHAMPION, BacktestResult, GatePolicy
from lakehouse_assets.ml.gate import OWN, decide, decide_series, judge_series, series_evidence

POLICY = GatePolicy()


def _losses(
    gains: np.ndarray, *, weeks: int = 12, rho: float = 0.9, seed: int = 0, peak_gains: np.ndarray | None = None
) -> pl.DataFrame:
    """Losses of two forecasts whose errors are autocorrelated and alike, the challenger's smaller by the true gain."""
    rng = np.random.default_rng(seed)
    series, n = len(gains), weeks * 168
    t = np.arange(n)
    load = 10 + 2 * np.sin(2 * np.pi * t / 24) + np.sin(2 * np.pi * t / n) + 0 * gains[:, None]
    peak = load >= np.quantile(load, 0.9, axis=1, keepdims=True)
    gain = np.where(peak, (gains if peak_gains is None else peak_gains)[:, None], gains[:, None])

    def noise() -> np.ndarray:
        e = rng.standard_t(5, (series, n))
        e[:, 0] /= np.sqrt(1 - rho)
        return lfilter([1.0], [1.0, -np.sqrt(rho)], e, axis=1) * np.sqrt(1 - rho)

    common = noise()
    champion, challenger = (np.sqrt(0.9) * common + np.sqrt(0.1) * noise() for _ in "ab")
    start = datetime(2024, 1, 1, tzinfo=UTC)
    ts = pl.datetime_range(start, start + timedelta(hours=n - 1), "1h", time_unit="us", eager=True)
    return pl.DataFrame(
        {
            "series_id": np.repeat([f"s{i:04}" for i in range(series)], n),
            "fold": pl.Series(np.tile(t // 168, series), dtype=pl.Int32),
            "ts": pl.concat([ts] * series),
            "y": load.ravel(),
            CHAMPION: (load + champion).ravel(),
            OWN: True,
            "new": (load + challenger * (1 - gain)).ravel(),
            "reference": (load + 3 * common).ravel(),
        }
    )


def _result(losses: pl.DataFrame | pl.LazyFrame, weeks: int = 12) -> BacktestResult:
    folds = pl.DataFrame({"fold": range(weeks)})
    return BacktestResult("new", "relative_mae", pl.DataFrame(), folds, losses.lazy(), {})


# --- the fleet --------------------------------------------------------------------------------------------------------


def _scored(gains: dict[str, float], naive: float = 3.0, days: int = 28) -> BacktestResult:
    """Losses where the challenger's error is the champion's times (1 - gain), by series."""
    rng = np.random.default_rng(0)
    hours = days * 24
    start = datetime(2024, 1, 1, tzinfo=UTC)
    frames = []
    for series, gain in gains.items():
        error = np.abs(rng.normal(size=hours))
        columns = {CHAMPION: error, "new": error * (1 - gain), "reference": np.full(hours, naive), "y": np.zeros(hours)}
        ts = [start + timedelta(hours=hour) for hour in range(hours)]
        keys = {"fold": np.arange(hours) // 168, "series_id": series, "ts": ts, OWN: True}
        frames.append(pl.DataFrame({**keys, **columns}))
    return _result(pl.concat(frames), days // 7)


def test_the_gate_promotes_and_keeps_with_reasons() -> None:
    groups = {"a": "north", "b": "south", "c": None}
    better = decide(_scored({"a": 0.03, "b": 0.03, "c": 0.03}), "new", POLICY, groups, True)
    assert better.promote
    assert better.evidence["gain"] == pytest.approx(0.03, abs=1e-6)
    assert better.evidence["folds_used"] == [0, 1, 2, 3]
    assert [row["group"] for row in better.evidence["groups"]] == ["north", "south"]
    small = decide(_scored({"a": 0.001, "b": 0.001}), "new", POLICY, groups, True)
    assert not small.promote
    assert "below the minimum" in small.reason
    harm = decide(_scored({"a": 0.3, "b": -0.1}), "new", POLICY, groups, True)
    assert not harm.promote
    assert "south" in harm.reason
    bad = decide(_scored({"a": 0.5, "b": 0.5}, naive=0.1), "new", POLICY, groups, True)
    assert not bad.promote
    assert "seasonal naive" in bad.reason


def test_the_first_model_needs_only_to_beat_the_seasonal_naive() -> None:
    first = decide(_scored({"a": -0.5}), "new", POLICY, {}, False)
    assert first.promote
    assert first.series is None
    assert not decide(_scored({"a": 0.5}, naive=0.1), "new", POLICY, {}, False).promote


def test_an_accidental_gain_is_not_enough() -> None:
    noise = _scored({"a": 0.0, "b": 0.0})
    weekly = pl.Series(np.tile(np.repeat([-0.5, 0.2, -0.3, 0.3], 168), 2))
    swaying = _result(noise.losses.collect().with_columns(new=pl.col("new") * (1 + weekly)), 4)
    decision = decide(swaying, "new", POLICY, {}, True)
    assert decision.evidence["gain"] > 0.05
    assert decision.evidence["p_value"] > 0.1
    assert not decision.promote
    assert "not significant" in decision.reason


def test_only_the_champions_own_folds_count_where_there_are_two_weeks_of_them() -> None:
    result = _scored({"a": 0.1})
    late = pl.col("fold") >= 2
    turned = result.losses.collect().with_columns(new=pl.when(late).then(pl.col(CHAMPION) * 1.2).otherwise("new"))
    turned = turned.with_columns(late.alias(OWN))
    decision = decide(_result(turned, 4), "new", POLICY, {}, True)
    assert decision.evidence["folds_used"] == [2, 3]
    assert decision.evidence["gain"] == pytest.approx(-0.2)
    assert decision.series is not None
    assert decision.series["hours"].to_list() == [336]
    younger = turned.with_columns((pl.col("fold") >= 3).alias(OWN))
    decision = decide(_result(younger, 4), "new", POLICY, {}, True)
    assert decision.evidence["folds_used"] == [0, 1, 2, 3]
    # a fleet of two versions: each series by the age of its own
    both = pl.concat([turned, younger.with_columns(series_id=pl.lit("b"))])
    decision = decide(_result(both, 4), "new", POLICY, {}, True)
    assert decision.evidence["champion_own_fit"] == 1
    assert decision.evidence["folds_used"] == [2, 3]
    older = turned.with_columns(pl.lit(True).alias(OWN), series_id=pl.lit("c"))
    decision = decide(_result(pl.concat([both, older]), 4), "new", POLICY, {}, True)
    assert decision.evidence["champion_own_fit"] == 2
    assert decision.evidence["folds_used"] == [2, 3], "the fleet, when all are there"
    assert decision.series is not None
    assert decision.series["hours"].to_list() == [336, 672, 672]


def test_a_fleet_that_is_kept_may_promote_series_and_one_that_is_promoted_may_spare_some() -> None:
    gains = {"a": 0.3, "b": -0.1, "c": 0.0}
    kept = decide(_scored(gains), "new", POLICY, {"b": "south"}, True)
    assert not kept.promote
    assert kept.series is not None
    assert kept.series.select("promote", "harmed").rows() == [(True, False), (False, True), (False, False)]
    assert kept.evidence["series"] == {"decided": 3, "promote": 1, "harmed": 1, "false_discovery_rate": 0.05}
    promoted = decide(_scored(gains), "new", POLICY, {}, True)
    assert promoted.promote
    assert promoted.series is not None
    assert promoted.series.filter("harmed")["series_id"].to_list() == ["b"]


# --- series by series -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_equal_series_are_rarely_promoted_or_called_harmed(rho: float) -> None:
    evidence = series_evidence(_losses(np.zeros(400), rho=rho, weeks=4), "new", POLICY)
    alone = [judge_series(row, POLICY) for row in evidence.iter_slices(1)]
    # Five percent and two and a half standard errors; harm is looked for in all hours and in peak hours.
    assert np.mean([row["promote"].item() for row in alone]) <= 0.077
    assert np.mean([row["harmed"].item() for row in alone]) <= 0.137
    together = judge_series(evidence, POLICY)
    assert together["promote"].sum() + together["harmed"].sum() <= 2


def test_better_and_worse_series_are_told_from_equal_ones() -> None:
    gains = np.repeat([0.2, 0.0, -0.2], 60)
    table = decide_series(_losses(gains, rho=0.5), "new", POLICY)
    better, equal, worse = (table.filter(pl.Series(gains == g)) for g in (0.2, 0.0, -0.2))
    assert better["promote"].mean() > 0.9
    assert worse["harmed"].mean() > 0.9
    assert better["harmed"].sum() == worse["promote"].sum() == 0
    assert equal["promote"].sum() + equal["harmed"].sum() <= 6
    assert better["gain"].mean() == pytest.approx(0.2, abs=0.02)
    reasons = table["reason"].str.split(":").list.first()
    said = {"promoted": table["promote"], "harmed": table["harmed"]}
    assert all((reasons == word).to_list() == column.to_list() for word, column in said.items())


def test_the_correction_for_many_series_is_benjamini_and_hochbergs() -> None:
    table = decide_series(_losses(np.array([0.05] * 3 + [0.0] * 30), weeks=12), "new", POLICY)
    np.testing.assert_allclose(table["q_value"], gate.benjamini_hochberg(table["p_value"].to_numpy()))
    assert (table["q_value"] >= table["p_value"]).all()
    assert not table.filter(pl.col("q_value") > POLICY.false_discovery_rate)["promote"].any()


def test_a_gain_that_is_paid_for_in_peak_hours_is_none() -> None:
    gains, peaks = np.array([0.3, 0.3]), np.array([0.3, -0.5])
    table = decide_series(_losses(gains, rho=0.5, peak_gains=peaks), "new", POLICY)
    assert table["promote"].to_list() == [True, False]
    assert table["harmed"].to_list() == [False, True]
    assert table["gain"][1] > 0.1
    assert table["peak_change"][1] == pytest.approx(0.5, abs=0.2)
    assert table["peak_p_worse"][1] < 0.05 < 0.95 < table["peak_p_worse"][0]
    assert "peak hours" in table["reason"][1]


def test_an_interval_that_covers_less_is_harm_and_a_wide_one_is_not() -> None:
    losses = _losses(np.array([0.3, 0.3, 0.3]), rho=0.5)
    narrow = {"s0000": 1.3, "s0001": 0.6, "s0002": 4.0}
    width = pl.col("series_id").replace_strict(narrow, return_dtype=pl.Float64)
    bounds = [
        (pl.col(name) + side * (width if name == "new" else 1.3) * 1.0).alias(f"{name}_{suffix}")
        for name in ("new", CHAMPION)
        for side, suffix in ((-1, "q10"), (1, "q90"))
    ]
    table = decide_series(losses.with_columns(bounds), "new", POLICY)
    assert table["promote"].to_list() == [True, False, True]
    assert table["harmed"].to_list() == [False, True, False]
    assert table["coverage_change"][1] < -0.1
    assert "interval" in table["reason"][1]
    assert decide_series(losses, "new", POLICY)["coverage_change"].null_count() == 3


def test_series_with_few_hours_decide_nothing_and_do_not_count() -> None:
    losses = _losses(np.array([0.3, 0.3, 0.3]), rho=0.5)
    few = losses.filter((pl.col("series_id") != "s0001") | (pl.col("fold") < 1))
    table = decide_series(few, "new", POLICY)
    row = table.row(1, named=True)
    assert row["hours"] == 168
    assert row["p_value"] is row["gain"] is row["q_value"] is None
    assert (row["promote"], row["harmed"]) == (False, False)
    assert "168 hours" in row["reason"]
    rest = decide_series(few.filter(pl.col("series_id") != "s0001"), "new", POLICY)
    assert table.filter(pl.col("series_id") != "s0001").equals(rest)
    nothing = decide_series(losses.clear(), "new", POLICY)
    assert nothing.schema == table.schema
    assert decide(_result(losses.clear()), "new", POLICY, {}, True).reason.startswith("kept")


def test_identical_and_perfect_forecasts_are_neither_better_nor_worse() -> None:
    losses = _losses(np.zeros(2)).with_columns(new=CHAMPION)
    perfect = losses.with_columns(pl.when(pl.col("series_id") == "s0001").then("y").otherwise("new").alias("new"))
    both = perfect.with_columns(pl.when(pl.col("series_id") == "s0001").then("y").otherwise(CHAMPION).alias(CHAMPION))
    table = decide_series(both, "new", POLICY)
    assert table["gain"].to_list() == [0.0, 0.0]
    assert not table.select(pl.any_horizontal("promote", "harmed")).to_series().any()
    assert decide_series(perfect, "new", POLICY)["gain"].to_list() == [0.0, 1.0]


@settings(max_examples=8, deadline=None)
@given(chunk=st.integers(1, 8), seed=st.integers(0, 99))
def test_chunks_of_series_give_what_the_whole_gives(
    chunk: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    losses = _losses(rng.choice([0.0, 0.1], 7), weeks=3, rho=0.5, seed=seed)
    losses = losses.filter(rng.random(losses.height) < 0.98)
    groups = {f"s{i:04}": ("even", "odd", None)[i % 3] for i in range(7)}
    folder: Path = tmp_path_factory.mktemp("losses")
    for i in range(3):  # parts as shards write them
        part = losses.filter(pl.col("series_id").is_between(pl.lit(f"s{3 * i:04}"), pl.lit(f"s{3 * i + 2:04}")))
        part.write_parquet(folder / f"{i}.parquet")
    whole = decide(_result(losses, 3), "new", POLICY, groups, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "CHUNK", chunk)
        parts = decide(_result(pl.scan_parquet(folder), 3), "new", POLICY, groups, True)
    assert parts.series is not None
    assert whole.series is not None
    assert_frame_equal(parts.series, whole.series, rel_tol=1e-9)
    assert (parts.promote, parts.reason) == (whole.promote, whole.reason)
    assert parts.evidence["p_value"] == pytest.approx(whole.evidence["p_value"], rel=1e-9)
    assert [g["p_worse"] for g in parts.evidence["groups"]] == pytest.approx(
        [g["p_worse"] for g in whole.evidence["groups"]], rel=1e-9
    )


def test_an_hour_that_is_forecast_at_two_horizons_counts_once() -> None:
    losses = _losses(np.array([0.1, 0.0]), weeks=3)
    once, twice = (decide_series(frame, "new", POLICY) for frame in (losses, pl.concat([losses, losses])))
    assert twice.equals(once)
