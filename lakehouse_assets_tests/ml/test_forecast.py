import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.definition import CHAMPION, BacktestResult, DriftPolicy, GatePolicy
from lakehouse_assets.ml.estimators import Blend, Boosting, Ridge, SeasonalNaive
from lakehouse_assets.ml.forecast import FittedForecast, Forecast, microseconds
from lakehouse_assets.ml.panel import Panel
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

KIND = Forecast(spread=3, recent=3)
CANDIDATES = {
    "seasonal_naive": SeasonalNaive(),
    "ridge": Ridge(),
    "ridge_on_published": Ridge(on_published=True),
    "boosting": Boosting(iterations=8, rows=4000),
    "blend": Blend(("ridge", "ridge_on_published", "boosting")),
}
CUTOFF = datetime(2023, 5, 29, tzinfo=UTC)


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return feature_frame(*load_curves(3, 170))


@pytest.fixture(scope="module")
def panel(frame: pl.DataFrame) -> Panel:
    return Panel.from_frame(frame)


@pytest.fixture(scope="module")
def result(panel: Panel) -> BacktestResult:
    return KIND.backtest(panel, CANDIDATES, cutoff=CUTOFF, seed=1)


@pytest.fixture(scope="module")
def losses(result: BacktestResult) -> pl.DataFrame:
    return result.losses.collect()


def test_the_leaderboard_is_as_the_world_was_made(result: BacktestResult) -> None:
    summary = result.summary()
    assert next(iter(summary)) == result.best
    assert summary["blend"]["relative_mae"] < summary["ridge"]["relative_mae"] < 1
    assert summary["ridge_on_published"]["mae"] < summary["ridge"]["mae"]
    assert summary["seasonal_naive"]["relative_mae"] == pytest.approx(1)
    assert set(result.metrics["slice"]) == {"overall", "series", "horizon", "fold"}


def test_origins_are_the_same_for_all_and_only_score_what_was_known(
    result: BacktestResult, losses: pl.DataFrame
) -> None:
    assert result.folds.height == 6
    origins = result.folds["origin"].to_list()
    assert all(later - earlier >= timedelta(days=7) for earlier, later in pairwise(origins))
    assert [b - a for a, b in zip(origins[-3:], origins[-2:], strict=False)] == [timedelta(days=7)] * 2
    assert losses["ts"].max() < CUTOFF
    assert (losses["issued_at"] >= losses["origin"]).all()
    assert losses.select(pl.col(*CANDIDATES, "y").is_finite().all()).row(0) == (True,) * 6


def test_short_histories_spread_over_what_there_is(panel: Panel) -> None:
    kind = Forecast()
    many = kind.folds(panel, microseconds(CUTOFF))
    scored = [f for f in many if f.number >= 0]
    assert len(scored) >= 8
    assert all(b.start >= a.stop for a, b in pairwise(many))
    assert scored[0].start >= kind.minimum_training_days
    with pytest.raises(ValueError, match="issue days are known"):
        kind.folds(panel.take(days=slice(0, 60)), microseconds(CUTOFF))


def test_folds_of_a_day_where_forecasts_are_issued_every_three_hours() -> None:
    issued = np.arange(15 * 8) * 3 * 3_600_000_000
    shape = (1, len(issued), 4)
    nothing = np.zeros(shape[:2], np.float32)
    known_at = np.broadcast_to(issued[None, :, None], shape) + 3_600_000_000
    panel = Panel(np.array(["a"]), issued, np.ones(shape), known_at, np.ones(shape[:2], bool), {"mean_168h": nothing})
    kind = Forecast(minimum_training_days=7, fold_days=1, spread=0, recent=5)
    folds = kind.folds(panel, int(known_at.max()))
    assert [(f.number, f.start // 8, f.stop // 8) for f in folds] == [
        *((-2 + i, 8 + i, 9 + i) for i in range(2)),
        *((i, 10 + i, 11 + i) for i in range(5)),
    ]
    with pytest.raises(ValueError, match="7 issue days are known; a backtest needs 7 to learn from and 1 to be scored"):
        kind.folds(panel.take(days=slice(0, 60)), int(known_at.max()))


def test_the_future_changes_nothing_bit_for_bit(frame: pl.DataFrame, panel: Panel, result: BacktestResult) -> None:
    rng = np.random.default_rng(9)
    late = pl.col("known_at") > CUTOFF
    numbers = [n for n in frame.columns if n not in ("issued_at", "series_id", "ts", "horizon", "known_at", "value")]
    noise = pl.Series(rng.normal(0, 1e6, frame.height))
    broken = frame.with_columns(
        pl.when(late).then(noise).otherwise("value").alias("value"),
        *(pl.when(pl.col("issued_at") >= CUTOFF).then(noise.cast(pl.Float32)).otherwise(n).alias(n) for n in numbers),
    )
    corrupted = KIND.dataset(broken)
    again = KIND.backtest(corrupted, CANDIDATES, cutoff=CUTOFF, seed=1)
    assert again.losses.collect().equals(result.losses.collect())
    assert again.metrics.equals(result.metrics)
    day = panel.between(microseconds(CUTOFF), microseconds(CUTOFF) + 1)
    for name, fitted in result.fitted.items():
        other = again.fitted[name]
        assert isinstance(fitted, FittedForecast)
        assert isinstance(other, FittedForecast)
        np.testing.assert_array_equal(fitted.forecast(day), other.forecast(day), strict=True)
    # A forecast uses only the row of its own issue time, and neither its target nor any later row.
    blind = replace(panel, target=panel.target * np.nan)
    best = result.fitted[result.best]
    alone = best.predict(blind.between(microseconds(CUTOFF), microseconds(CUTOFF) + 1))
    assert alone.equals(best.predict(panel).filter(issued_at=CUTOFF))


@pytest.mark.parametrize("delay", [0, 5])
def test_an_origin_sees_nothing_after_itself(delay: int, panel: Panel, result: BacktestResult) -> None:
    if delay:  # published some hours late: the end of a scored week is not known at the next origin
        panel = replace(panel, known_at=panel.known_at + delay * 3_600_000_000)
        result = KIND.backtest(panel, CANDIDATES, cutoff=CUTOFF, seed=1)
    origin = result.folds["origin"][4]  # among the contiguous weeks
    known = panel.known_at <= microseconds(origin)
    corrupted = replace(panel, target=np.where(known, panel.target, panel.target * 100 + 7))
    again = KIND.backtest(corrupted, CANDIDATES, cutoff=CUTOFF, seed=1)
    names = [*CANDIDATES, *(f"{name}_{bound}" for name in CANDIDATES for bound in ("q10", "q90"))]
    upto = pl.col("fold") <= 4
    before, after = result.losses.collect(), again.losses.collect()
    assert after.filter(upto).select(names).equals(before.filter(upto).select(names))
    assert not after.filter(~upto).select(names).equals(before.filter(~upto).select(names))


def test_a_fitted_model_survives_pickling_and_reads_frames(frame: pl.DataFrame, result: BacktestResult) -> None:
    fitted = pickle.loads(pickle.dumps(result.fitted["blend"]))
    rows = frame.filter(pl.col("issued_at") >= CUTOFF)
    shuffled = rows.select(sorted(rows.columns)).sample(fraction=1.0, shuffle=True, seed=2)
    out = fitted.predict(shuffled)
    names = ["yhat", "q025", "q10", "q90", "q975", "rung", "reason"]
    assert out.columns == ["issued_at", "series_id", "ts", "horizon", *names]
    assert (out["q025"] < out["q10"]).all()
    assert out["q90"].is_between(out["yhat"], out["q975"]).all()
    assert out["rung"].unique().to_list() == ["champion"]
    assert out.height == rows.height
    assert out.equals(result.fitted["blend"].predict(rows))
    assert fitted.predict(rows.clear()).schema == out.schema


@pytest.mark.parametrize("name", list(CANDIDATES))
def test_what_is_missing_falls_back_and_is_never_nan(name: str, frame: pl.DataFrame, result: BacktestResult) -> None:
    fitted = result.fitted[name]
    day = frame.filter(pl.col("issued_at") == CUTOFF)
    unpublished = day.with_columns(pl.lit(None, pl.Float32).alias("published_forecast"))
    assert fitted.predict(unpublished)["yhat"].is_finite().all()
    if name == "ridge_on_published":
        plain = result.fitted["ridge"].predict(unpublished)["yhat"]
        assert fitted.predict(unpublished)["yhat"].to_list() == plain.to_list()
    lags = [c for c in day.columns if c.startswith(("lag", "last", "error", "published", "forecast", "std", "min"))]
    bare = day.with_columns(pl.lit(None, pl.Float32).alias(c) for c in lags if c != "lag_48h")
    assert fitted.predict(bare)["yhat"].is_finite().all()
    newcomer = day.filter(series_id="S0").with_columns(series_id=pl.lit("new"))
    assert fitted.predict(newcomer)["yhat"].is_finite().all()
    empty = day.with_columns(pl.lit(None, pl.Float32).alias(c) for c in day.columns if c.split("_")[0] in _FROM_VALUES)
    assert fitted.predict(empty)["yhat"].is_finite().all()


_FROM_VALUES = {"lag", "last", "mean", "std", "min", "max", "error", "published", "forecast"}


def test_without_a_published_forecast_what_needs_it_does_not_compete(frame: pl.DataFrame) -> None:
    columns = [c for c in frame.columns if c.split("_")[0] not in ("published", "forecast", "error")]
    result = KIND.backtest(KIND.dataset(frame.select(columns)), CANDIDATES)
    assert set(result.summary()) == {"seasonal_naive", "exponential_smoothing", "ridge", "boosting", "blend"}
    assert result.fitted["blend"].parameters()["members"] == ["ridge", "boosting"]
    assert result.summary()[result.best]["relative_mae"] < 1


def test_covariates_of_any_unit_and_series_of_any_kind_pass() -> None:
    demand, published = load_curves(5, 120)
    rng = np.random.default_rng(0)
    kelvin = 280 + 8 * rng.normal(size=demand.shape)
    demand[0] += (kelvin[0] - 280) * 5  # load that follows the temperature
    demand[1] -= demand[1].mean()  # net load around zero
    demand[2] = 7.0
    frame = feature_frame(demand, published)
    weather = kelvin.reshape(5, -1, 24)[:, 28:].ravel().astype(np.float32)
    frame = frame.with_columns(
        pl.Series("temperature", weather),
        pl.lit(None, pl.Float32).alias("price_mean_24h"),
        value=pl.when(pl.col("series_id") == "S3").then(None).otherwise("value"),
    )
    last = frame["issued_at"].max()
    frame = frame.filter((pl.col("series_id") != "S4") | (pl.col("issued_at") > last - timedelta(days=7)))
    with_weather = KIND.backtest(KIND.dataset(frame), CANDIDATES)
    assert all(f.predict(frame)["yhat"].is_finite().all() for f in with_weather.fitted.values())
    few = {"ridge": Ridge()}
    errors = [
        KIND.backtest(KIND.dataset(f), few).metrics.filter(slice="series", key="S0", candidate="ridge")["mae"].item()
        for f in (frame, frame.drop("temperature"))
    ]
    assert errors[0] < 0.7 * errors[1]


def test_the_champion_forecasts_with_its_own_fit_where_that_is_out_of_sample(panel: Panel) -> None:
    early = CUTOFF - timedelta(days=15)
    few = {"ridge": Ridge(), "seasonal_naive": SeasonalNaive()}
    champion = KIND.backtest(panel, few, cutoff=early).fitted["ridge"]
    result = KIND.backtest(panel, few, cutoff=CUTOFF, champion=champion)
    own = result.folds["origin"] >= early
    assert own.sum() == 2
    stored = champion.predict(panel)
    merged = result.losses.collect().join(stored, on=["issued_at", "series_id", "ts"])
    assert merged.select((pl.col("champion_own") == (pl.col("origin") >= early)).all()).item()
    assert merged.filter("champion_own").select((pl.col(CHAMPION) == pl.col("yhat")).all()).item()
    before = merged.filter(~pl.col("champion_own"))
    assert before[CHAMPION].equals(before["ridge"], check_names=False)


def test_another_recipe_of_the_champion_is_fitted_at_earlier_origins(panel: Panel) -> None:
    old = {
        "ridge": Ridge(strength=50.0),
        "blend": Blend(("ridge", "seasonal_naive")),
        "seasonal_naive": SeasonalNaive(),
    }
    champion = KIND.backtest(panel, old, cutoff=CUTOFF - timedelta(days=40)).fitted["blend"]
    result = KIND.backtest(panel, {"ridge": Ridge()}, cutoff=CUTOFF, champion=champion)
    # Whatever a definition names, the baselines compete.
    assert set(result.summary()) == {"ridge", "seasonal_naive", "exponential_smoothing", CHAMPION}
    before = result.losses.filter(pl.col("fold") == 0).collect()
    assert not before[CHAMPION].equals(before["ridge"], check_names=False)
    assert result.best == "ridge"


def test_a_refit_is_the_fit_of_the_backtest(panel: Panel, result: BacktestResult) -> None:
    fitted = result.fitted["blend"]
    again = KIND.refit(fitted, panel, CUTOFF)
    np.testing.assert_allclose(again.forecast(panel), fitted.forecast(panel), rtol=1e-9)
    assert KIND.refit(fitted, panel, CUTOFF - timedelta(days=30)).trained_at < fitted.trained_at


def test_a_fit_for_one_week_agrees_there_with_one_that_stands_for_a_year(panel: Panel) -> None:
    start = microseconds(CUTOFF)
    (standing,), (brief,) = Ridge().fit(panel, [start], 0), Ridge().fit(panel, [start], 0, standing=False)
    assert len(standing.seasons) == 6
    assert len(brief.seasons) == 1
    week = panel.between(start, start + 7 * 86_400_000_000)
    np.testing.assert_allclose(standing.predict(week), brief.predict(week), rtol=0.005)
    several = Ridge().fit(panel, [start - 14 * 86_400_000_000, start], 0, standing=False)
    np.testing.assert_allclose(several[-1].predict(week), brief.predict(week), rtol=1e-6)


def test_a_changed_world_is_drift_and_the_retrained_model_is_promoted() -> None:
    demand, published = load_curves(3, 200)
    change = 150 * 24
    published[:, change:] *= 1.12  # the published forecast becomes biased
    frame = feature_frame(demand, published)
    # Without its own recent errors the correction cannot follow by itself.
    frame = frame.select(c for c in frame.columns if not c.startswith("error"))
    panel = KIND.dataset(frame)
    few = {n: CANDIDATES[n] for n in ("seasonal_naive", "ridge", "ridge_on_published")}
    few["ridge_on_published"] = Ridge(on_published=True, half_life=20.0)
    start = datetime(2023, 1, 2, tzinfo=UTC)
    champion = KIND.backtest(panel, few, cutoff=start + timedelta(days=150)).fitted["ridge_on_published"]
    weeks = [start + timedelta(days=d) for d in (164, 171, 178)]
    history = pl.concat([KIND.window_losses(champion, panel, week, week + timedelta(days=7)) for week in weeks])
    assert history.height == 9
    found = KIND.verdict(history, DriftPolicy())
    assert found.verdict == "drift"
    assert found.summary["series_drifted"] == 3
    result = KIND.backtest(panel, few, cutoff=start + timedelta(days=185), champion=champion)
    decision = KIND.gate(result, result.best, GatePolicy(), has_champion=True)
    assert decision.promote, decision.reason
    assert decision.evidence["champion_own_fit"]
    assert decision.series is not None
    assert decision.series["coverage_change"].is_finite().all()
    told = history.join(found.series, on="series_id").with_columns(model_version=pl.lit(1))
    drawn = KIND.drift_pictures(told, frame.lazy(), DriftPolicy())
    pictures = drawn | KIND.pictures(result)
    assert all(png.startswith(b"\x89PNG") and len(png) < 200_000 for png in pictures.values())


def test_a_champion_whose_fit_is_dear_is_judged_by_its_errors_alone() -> None:
    demand, published = load_curves(3, 260)
    late = np.arange(230 * 24, 260 * 24)
    published[1, late] *= 1 + 0.25 * ((late % 6) - 2.5) / 2.5  # no longer what it was, by the hour
    frame = feature_frame(demand, published)
    start = datetime(2023, 1, 2, tzinfo=UTC)
    few = {"ridge_on_published": Ridge(on_published=True, half_life=20.0)}
    kind = Forecast(spread=4, recent=8)
    data = kind.dataset(frame)
    champion = kind.backtest(data, few, cutoff=start + timedelta(days=217)).fitted["ridge_on_published"]
    assert champion.past is not None
    assert champion.past.weeks.loss.shape == (3, 12, 4)
    policy = DriftPolicy(channels=("error",))
    weeks = [start + timedelta(days=d) for d in range(217, 253, 7)]
    history = pl.concat(
        [kind.window_losses(champion, data, week, week + timedelta(days=7), shadow=False) for week in weeks]
    )
    assert history["fresh_loss"].null_count() == history.height
    evidence = kind.evidence(champion, data, weeks[-1], policy, pl.DataFrame())
    found = kind.verdict(history, policy, evidence)
    assert "S1" in found.series.filter(verdict="drift")["series_id"].to_list()
    assert found.series.sort("error_p_value")["series_id"][0] == "S1"
    assert kind.verdict(history, DriftPolicy(), evidence).verdict == "insufficient_data"


def test_errors_join_what_came_true(frame: pl.DataFrame, result: BacktestResult) -> None:
    rows = frame.filter(pl.col("issued_at") >= CUTOFF)
    predictions = result.fitted["ridge"].predict(rows)
    known = rows.with_columns(value=pl.when(pl.col("horizon") < 10).then("value"))
    errors = KIND.errors(predictions, known)
    assert errors.height == rows.height * 10 // 24
    assert errors.select((pl.col("error") == pl.col("yhat") - pl.col("value")).all()).item()
