from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest
from sklearn import linear_model

from lakehouse_assets.ml.estimators import Blend, Boosting, Ridge, SeasonalNaive, level, naive_from, published
from lakehouse_assets.ml.panel import DAY_US, HOUR_US, Panel
from lakehouse_assets.ml.regressions import ElasticNet, Linear
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves


@pytest.fixture(scope="module")
def panel() -> Panel:
    return Panel.from_frame(feature_frame(*load_curves(3, 100)))


def test_seasonal_naive_takes_the_better_day_of_each_series() -> None:
    t = np.arange(100 * 24)
    weekly = 100.0 + 30 * (t // 24 % 7 >= 5)  # the week before is right
    drifting = 100.0 + 0.01 * t  # the day before is nearer
    panel = Panel.from_frame(feature_frame(np.stack([weekly, drifting])))
    (fit,) = SeasonalNaive().fit(panel, [int(panel.issued[-1])], 0)
    assert fit.weekly == {"S0": True, "S1": False}
    np.testing.assert_allclose(fit.predict(panel)[0], panel.target[0])


def test_an_implausible_published_value_is_no_forecast(panel: Panel) -> None:
    values = panel.columns["published_forecast"].copy()
    values[0, 0, :4] = [0.0, -99_999.0, 1e6, np.nan]
    broken = replace(panel, columns=panel.columns | {"published_forecast": values})
    assert np.isnan(published(broken)[0, 0, :4]).all()
    assert np.isfinite(published(broken)).sum() == values.size - 4


def test_the_level_of_a_series_around_zero_is_its_spread() -> None:
    demand, _ = load_curves(1, 60)
    panel = Panel.from_frame(feature_frame(demand - demand.mean()))
    assert (level(panel) >= panel.once("std_168h") * 0.999).all()


def _errors(*sizes: float, hours: int = 2000, series: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([rng.normal(0, size, (series, hours)) for size in sizes])


def test_weights_of_a_blend_follow_the_errors() -> None:
    blend = Blend(("a", "b"), prior_days=0.0)
    equal = blend.learn(["x", "y"], _errors(1.0, 1.0))[0].weights
    assert equal is not None
    assert equal["x"]["a"] == pytest.approx(0.5, abs=0.05)
    better = blend.learn(["x", "y"], _errors(1.0, 2.0))[0].weights
    assert better is not None
    assert better["x"]["a"] == pytest.approx(0.8, abs=0.05)  # of independent errors: by one over their variance
    assert sum(better["x"].values()) == pytest.approx(1)


def test_members_that_err_alike_share_the_weight() -> None:
    both, own = _errors(1.0, 0.2)
    errors = np.stack([both, 1.1 * both + own])
    strict, lenient = (Blend(("a", "b"), unrelated=u).learn(["x", "y"], errors)[0].weights for u in (0.0, 0.3))
    assert strict is not None
    assert lenient is not None
    assert strict["x"]["a"] > 0.99  # the second adds nothing to the first but noise
    assert 0.5 < lenient["x"]["a"] < 0.8


def test_a_hopeless_member_has_no_weight_and_rare_slips_do_not_rule() -> None:
    errors = _errors(1.0, 1.0, series=40)
    errors[1, 0] = 30.0  # of the first series, the second member is far off always
    errors[1, 1, ::500] = 100.0  # of the second, four times (by squares its weight would be 0.05)
    weights = Blend(("a", "b")).learn([f"S{i}" for i in range(40)], errors)[0].weights
    assert weights is not None
    assert weights["S0"]["b"] < 0.005
    assert weights["S1"]["b"] > 0.25
    assert weights["S2"]["b"] == pytest.approx(0.5, abs=0.05)


def test_a_blend_speaks_with_the_members_that_can() -> None:
    blend = replace(Blend(("a", "b")), weights={"": {"a": 1.0, "b": 0.0}, "x": {"a": 0.25, "b": 0.75}})
    forecasts = np.array([[[[4.0, np.nan, np.nan]]], [[[8.0, 8.0, np.nan]]]])
    np.testing.assert_allclose(blend.combine(["x"], forecasts)[0, 0], [7.0, 8.0, np.nan])
    np.testing.assert_allclose(blend.combine(["new"], forecasts)[0, 0], [4.0, 8.0, np.nan])


def test_boosting_is_the_same_for_the_same_seed(panel: Panel) -> None:
    recipe, cutoff = Boosting(iterations=4, rows=500), [int(panel.issued[-8])]
    first, again, other = (recipe.fit(panel, cutoff, seed)[0].predict(panel) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_boosting_uses_a_recent_fit_again_but_never_a_newer_one(panel: Panel) -> None:
    recipe = Boosting(iterations=2, rows=500, refit_days=14)
    cutoffs = [int(panel.issued[i]) for i in (30, 37, 44, 51, 58)]
    models = [fit.model for fit in recipe.fit(panel, cutoffs, 0)]
    assert models[0] is models[1]
    assert models[1] is not models[2]
    assert models[4] is not models[3]  # the last has its own


def test_parameters_are_a_record(panel: Panel) -> None:
    assert Boosting().parameters()["estimator"] == "Boosting"
    assert "weights" not in Blend(("a",)).parameters()
    assert pl.DataFrame([Boosting().parameters()]).height == 1


def _relative_error(recipe: Ridge | Boosting, demand: np.ndarray) -> np.ndarray:
    """(S,) mean absolute error of the last weeks, in units of the error of the same hour yesterday."""
    panel = Panel.from_frame(feature_frame(demand))
    cut = len(panel.issued) - 14
    (fit,) = recipe.fit(panel, [int(panel.issued[cut])], 0, standing=False)
    late = panel.take(days=slice(cut, None))
    error = np.abs(fit.predict(late) - late.target).mean(axis=(1, 2))
    return error / np.abs(naive_from(late) - late.target).mean(axis=(1, 2))


@pytest.fixture(scope="module")
def mixed() -> pl.DataFrame:
    """Three series: one like all others, one with gaps, one whose days of the week begin elsewhere."""
    demand, theirs = load_curves(3, 100)
    demand[1, 1300:1340] = np.nan
    hours = feature_frame(demand, theirs)
    shifted = (pl.col("day_of_week") + (pl.col("horizon") >= 7)) % 7 + 1
    return hours.with_columns(day_of_week=pl.when(pl.col("series_id") == "S2").then(shifted).otherwise("day_of_week"))


@pytest.mark.parametrize(
    "recipe",
    [Ridge(), Ridge(on_published=True), Ridge(scaled=True, hours=True), Ridge(robustness=1.0), Linear(), ElasticNet()],
)
def test_a_series_has_the_same_coefficients_in_any_company(recipe: Ridge, mixed: pl.DataFrame) -> None:
    together = Panel.from_frame(mixed)
    assert together.columns["day_of_week"].ndim == 3
    cutoffs = [int(together.issued[40]), int(together.issued[60])]
    fits = recipe.fit(together, cutoffs, 0)

    class OneByOne(type(recipe)):  # type: ignore[misc]
        chunk_bytes = 1

    one_by_one = OneByOne(**{field.name: getattr(recipe, field.name) for field in fields(recipe)})
    for fit, other in zip(fits, one_by_one.fit(together, cutoffs, 0), strict=True):
        np.testing.assert_array_equal(fit.coefficients, other.coefficients)
    for i, name in enumerate(["S0", "S1", "S2"]):
        alone = Panel.from_frame(mixed.filter(pl.col("series_id") == name))
        for fit, other in zip(fits, recipe.fit(alone, cutoffs, 0), strict=True):
            assert fit.names == other.names
            np.testing.assert_array_equal(fit.coefficients[:, i], other.coefficients[:, 0])
            np.testing.assert_array_equal(fit.predict(together)[i], other.predict(alone)[0])


def test_the_future_does_not_decide_how_a_ridge_is_computed(mixed: pl.DataFrame) -> None:
    panel = Panel.from_frame(mixed.filter(pl.col("series_id") == "S0"))
    cutoff = int(panel.issued[60])
    other = panel.full("day_of_week").copy()
    other[:, 60:] = np.arange(24) % 7 + 1
    (fit,), (again,) = (
        Ridge().fit(p, [cutoff], 0) for p in (panel, replace(panel, columns=panel.columns | {"day_of_week": other}))
    )
    np.testing.assert_array_equal(fit.coefficients, again.coefficients)


def test_a_ridge_is_scikit_learns_with_weights_of_age_and_season(mixed: pl.DataFrame) -> None:
    panel = Panel.from_frame(mixed)
    recipe = Ridge(half_life=40.0)
    cutoffs = [int(panel.issued[40]) + 5 * HOUR_US, int(panel.issued[60])]  # at the first hours know different days
    fits = recipe.fit(panel, cutoffs, 0, standing=False)
    size = level(panel)[:, :, None]
    y = np.clip(panel.target / size - 1, *recipe.clip)
    for fit, cutoff in zip(fits, cutoffs, strict=True):
        features = recipe.design(panel, fit.scales).values()
        x = np.stack([np.broadcast_to(a if a.ndim == 3 else a[:, :, None], panel.shape) for a in features], axis=-1)
        now = cutoff / DAY_US
        weight = 0.5 ** ((now - panel.days) / 40.0) * (1 + 0.9 * np.cos(2 * np.pi / 365.25 * (panel.days - now - 3.5)))
        for s, h in ((0, 3), (1, 4), (1, 20), (2, 0), (2, 23)):
            known = np.isfinite(y[s, :, h]) & (panel.known_at[s, :, h] <= cutoff)
            theirs = linear_model.Ridge(alpha=recipe.strength)
            theirs.fit(x[s, known, h], y[s, known, h], sample_weight=weight[known])
            np.testing.assert_allclose(fit.coefficients[0, s, h], [theirs.intercept_, *theirs.coef_], atol=1e-6)


def test_a_ridge_on_logarithms_follows_series_that_multiply() -> None:
    demand, _ = load_curves(2, 90)
    wild = 100.0 * (demand / demand.mean(axis=1, keepdims=True)) ** 12  # from a tenth to tenfold within a day
    plain = Ridge(season=0.0, clip=(-1.0, 30.0))
    on_logarithms = replace(plain, log=True, clip=(-5.0, 5.0))
    assert (_relative_error(on_logarithms, wild) < 0.97 * _relative_error(plain, wild)).all()
    panel = Panel.from_frame(feature_frame(wild))
    (fit,) = Ridge(log=True, clip=(-5.0, 5.0)).fit(panel, [int(panel.issued[-1])], 0)
    assert (fit.predict(panel) > 0).all()


@pytest.mark.parametrize(
    "recipe", [Ridge(scaled=True, season=0.0, strength=3.0), Boosting(iterations=20, by_spread=True)]
)
def test_a_series_with_small_swings_is_learned_like_one_with_large(recipe: Ridge | Boosting) -> None:
    demand, _ = load_curves(1, 90)
    centre = demand.mean()
    swings = np.concatenate([centre + (demand - centre) * factor for factor in (1.0, 0.01)])
    large, small = _relative_error(recipe, swings)
    assert small == pytest.approx(large, rel=0.02)
    other = replace(recipe, **({"scaled": False} if isinstance(recipe, Ridge) else {"by_spread": False}))
    large, small = _relative_error(other, swings)
    assert small > 1.2 * large


def test_a_step_of_hourly_issues_needs_the_hour_of_day() -> None:
    """Every hour of day has its own value; issued at any hour, a step alone does not say which it is."""
    hour = np.arange(24 * 60) % 24
    level = 100.0 + np.random.default_rng(0).permutation(24)
    d, h = 24 * 50, 12
    at = 24 * 8 + np.arange(d)
    steps = at[:, None] + np.arange(h)
    columns = {
        "mean_168h": np.full((1, d), level.mean(), np.float32),
        "std_168h": np.full((1, d), level.std(), np.float32),
        "hour": (steps % 24).astype(np.float32)[None],
    }
    issued = at * 3_600_000_000
    target = level[hour][steps][None]
    panel = Panel(np.array(["a"]), issued, target, np.zeros((1, d, h), np.int64), np.ones((1, d), bool), columns)
    recipe = Ridge(season=0.0, strength=0.001)
    without, having = (
        r.fit(panel, [int(issued[-1])], 0)[0].predict(panel) for r in (recipe, replace(recipe, hours=True))
    )
    assert np.abs(without - target).mean() > 1.0
    assert np.abs(having - target).mean() < 0.05


def test_days_like_no_other_teach_a_robust_ridge_little() -> None:
    panel = Panel.from_frame(feature_frame(*load_curves(3, 250)))
    cutoff = int(panel.issued[190])
    late = panel.between(cutoff, int(panel.issued[-1]))
    spoiled = panel.target.copy()
    spoiled[:, 10:190:10] *= 1.5

    def error(target: np.ndarray, robustness: float) -> float:
        recipe = Ridge(log=True, season=0.0, robustness=robustness)
        (fit,) = recipe.fit(replace(panel, target=target), [cutoff], 0)
        return float(np.abs(fit.predict(late) / late.target - 1).mean())

    assert error(spoiled, 1.0) < 0.7 * error(spoiled, 0.0)
    assert error(panel.target, 1.0) < 1.1 * error(panel.target, 0.0)


def test_a_weight_knows_nothing_that_came_after_its_day(panel: Panel) -> None:
    cutoffs = [int(panel.issued[i]) for i in (40, 60)]
    recipe = Ridge(log=True, robustness=1.0)
    later = replace(panel, target=np.where(panel.known_at > cutoffs[0], panel.target * 2, panel.target))
    before, after = (recipe.fit(p, cutoffs, 0, standing=False) for p in (panel, later))
    np.testing.assert_array_equal(before[0].coefficients, after[0].coefficients)
    assert not np.array_equal(before[1].coefficients, after[1].coefficients)
