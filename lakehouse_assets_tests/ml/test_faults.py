"""A fault in one series never stops the others, and never makes their forecasts wild."""

from dataclasses import replace

import numpy as np
import pytest

from lakehouse_assets.ml.daily import DailyRidge
from lakehouse_assets.ml.estimators import Boosting, Ridge, SeasonalNaive
from lakehouse_assets.ml.panel import DAY_US, Panel
from lakehouse_assets.ml.regressions import ElasticNet, Linear
from lakehouse_assets.ml.smoothing import ExponentialSmoothing
from lakehouse_assets.ml.tabular import DecisionTree, NearestNeighbours, Perceptron, RandomForest, SupportVectors
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

HEALTHY, DAYS = 6, 120
BY_SERIES = [
    SeasonalNaive(),
    ExponentialSmoothing(),
    Linear(),
    Ridge(),
    Ridge(on_published=True),
    Ridge(log=True, robustness=1.0),
    DailyRidge(),
    DailyRidge(log=True, robustness=1.5),
    ElasticNet(),
    DecisionTree(scope="series"),
    NearestNeighbours(scope="series"),
]
TOGETHER = [
    Boosting(iterations=10, rows=5000),
    DecisionTree(),
    RandomForest(trees=5, scope="cluster"),
    SupportVectors(rows=2000, components=50),
    NearestNeighbours(scope="cluster"),
    Perceptron(epochs=3),
]


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Six healthy series (S0 to S5), and ten with a fault each."""
    rng = np.random.default_rng(0)
    demand, published = load_curves(HEALTHY, DAYS)
    t = np.arange(DAYS * 24)
    base, theirs = np.tile(demand[0], (10, 1)), np.tile(published[0], (10, 1))
    base[0] = 42.0  # constant
    base[1] = 0.0  # dead
    base[2] = np.nan  # empty
    base[3, rng.random(t.size) < 0.7] = np.nan  # mostly missing
    base[4, : -7 * 24] = np.nan  # a single week
    base[5, rng.random(t.size) < 0.01] = 1e12  # huge outliers
    base[6, rng.random(t.size) < 0.01] = np.inf
    base[7, rng.random(t.size) < 0.01] = -np.inf
    base[8] = -base[8] * 1e30  # beyond single precision in its squares
    theirs[9, ::3] = np.inf  # a broken published forecast
    with np.errstate(all="ignore"):
        return Panel.from_frame(feature_frame(np.concatenate([demand, base]), np.concatenate([published, theirs])))


def healthy(panel: Panel) -> Panel:
    return panel.take(np.flatnonzero(np.isin(panel.series, [f"S{i}" for i in range(HEALTHY)])))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("recipe", [*BY_SERIES, *TOGETHER], ids=repr)
def test_the_others_are_forecast_as_ever(recipe: Ridge, panel: Panel) -> None:
    cutoffs = [int(panel.issued[-28]), int(panel.issued[-7])]
    with_them = recipe.fit(panel, cutoffs, 0)[-1].predict(panel.between(cutoffs[-1], cutoffs[-1] + 7 * DAY_US))
    well = healthy(panel)
    week = well.between(cutoffs[-1], cutoffs[-1] + 7 * DAY_US)
    forecast = with_them[np.isin(panel.series, well.series)]
    error = np.abs(forecast - week.target).mean(axis=(1, 2)) / week.target.mean(axis=(1, 2))
    assert (error < 0.2).all()
    without = recipe.fit(well, cutoffs, 0)[-1].predict(week)
    if recipe in BY_SERIES:
        np.testing.assert_allclose(forecast, without, rtol=1e-9)
    else:
        ours = np.abs(without - week.target).mean(axis=(1, 2)) / week.target.mean(axis=(1, 2))
        assert (error < ours + 0.05).all()


def test_a_panel_of_nothing_but_faults(panel: Panel) -> None:
    broken = panel.take(np.flatnonzero(~np.isin(panel.series, healthy(panel).series)))
    for recipe in (*BY_SERIES, *TOGETHER):
        fits = recipe.fit(replace(broken), [int(broken.issued[-7])], 0)
        assert fits[0].predict(broken).shape == broken.shape


@pytest.mark.parametrize("recipe", [Ridge(log=True, robustness=1.0), DailyRidge(log=True, robustness=1.5)], ids=repr)
def test_a_series_that_never_changes_is_forecast_by_a_robust_regression(recipe: Ridge, panel: Panel) -> None:
    constant = panel.take(np.flatnonzero(panel.series == f"S{HEALTHY}"))
    fit = recipe.fit(constant, [int(constant.issued[-7])], 0)[-1]
    np.testing.assert_allclose(fit.predict(constant.take(days=slice(-7, None))), 42.0)
