from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.estimators import Blend, Boosting, SeasonalNaive, level, published
from lakehouse_assets.ml.panel import Panel
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
