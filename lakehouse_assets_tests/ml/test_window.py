"""What a training learns from: a break changes the fits made after it, and none before."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.daily import DailyRidge
from lakehouse_assets.ml.estimators import Ridge
from lakehouse_assets.ml.fitted import microseconds
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets.ml.panel import Panel
from lakehouse_assets.ml.shards import Shards
from lakehouse_assets.ml.window import TrainingWindow, training_window
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

START = datetime(2023, 1, 2, tzinfo=UTC)
BREAK, CUTOFF = START + timedelta(days=100), START + timedelta(days=160)


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Two series; from the break on the published forecast of the first is wrong by the hour."""
    demand, published = load_curves(2, 170)
    hour = np.arange(published.shape[1])
    published[0] *= 1 + 0.2 * ((hour % 6) - 2.5) / 2.5 * (hour >= 100 * 24)
    frame = feature_frame(demand, published)
    return Panel.from_frame(frame.select(c for c in frame.columns if not c.startswith("error")))


@pytest.mark.parametrize("recipe", [Ridge(on_published=True), Ridge(robustness=1.0), DailyRidge(on_published=True)])
def test_a_weight_of_nothing_is_a_day_that_is_not_there(panel: Panel, recipe: Any) -> None:
    window = TrainingWindow({"S0": BREAK}, 0.0, 28)
    weighed = replace(panel, weight=window.weights(panel))
    cutoff, ahead = microseconds(CUTOFF), panel.between(microseconds(CUTOFF), microseconds(CUTOFF) + 10**12)
    (fit,), (plain,) = (recipe.fit(p, [cutoff], 0, standing=False) for p in (weighed, panel))
    ours, everything = fit.predict(ahead), plain.predict(ahead)
    gone = replace(panel, target=np.where(window.weights(panel)[:, :, None] > 0, panel.target, np.nan))
    (cut,) = recipe.fit(gone, [cutoff], 0, standing=False)
    np.testing.assert_allclose(ours[0], cut.predict(ahead)[0], rtol=0.01)
    assert np.abs(ours[0] / everything[0] - 1).max() > 0.01
    np.testing.assert_array_equal(ours[1], everything[1])


def test_a_backtest_heeds_a_break_from_when_enough_is_known_since(panel: Panel) -> None:
    kind, recipes = Forecast(spread=2, recent=4), {"ridge": Ridge(on_published=True)}
    plain = kind.backtest(panel, recipes, cutoff=CUTOFF)
    for before in (0.3, 0.0):
        window = TrainingWindow({"S0": BREAK}, before, 28)
        result = kind.backtest(panel, recipes, cutoff=CUTOFF, window=window)
        both = plain.losses.join(result.losses, on=["fold", "issued_at", "series_id", "ts"], suffix="_window").collect()
        same = both.group_by("fold", "series_id").agg(
            pl.col("origin").first(), same=(pl.col("ridge") == pl.col("ridge_window")).all()
        )
        late = (pl.col("origin") >= BREAK + timedelta(days=28)) & (pl.col("series_id") == "S0")
        assert same.filter(late).height == 3
        assert same.filter(~late).height == 9
        assert same.select((pl.col("same") != late).all()).item()


def test_which_window_it_is_and_what_is_said_of_it() -> None:
    assert training_window("all", {"S0": BREAK}, CUTOFF) == (None, "all history")
    assert training_window("weighted", {}, CUTOFF) == (None, "all history: no break is known")
    young, old = CUTOFF - timedelta(days=27), CUTOFF - timedelta(days=182)
    window, said = training_window("weighted", {"S0": BREAK, "S1": young}, CUTOFF)
    assert window == TrainingWindow({"S0": BREAK}, 0.3, 28)
    less = "30% of what came before the break for 1 members"
    assert said == f"{less}; all history for 1 whose break is less than 28 days old"
    window, said = training_window("since_break", {"S0": BREAK}, CUTOFF)
    assert (window, said) == (None, "all history for 1 whose break is less than 182 days old")
    window, said = training_window("since_break", {"S0": old}, CUTOFF)
    assert window == TrainingWindow({"S0": old}, 0.0, 182)
    assert said == "none of what came before the break for 1 members"


@pytest.mark.parametrize("size", [1, 2])
def test_a_fresh_fit_learns_from_the_window_of_its_champion(panel: Panel, size: int) -> None:
    """At the champion's own cutoff it is the champion, whether the fleet has one shard or several."""
    kind, recipes = Forecast(spread=2, recent=2), {"ridge": Ridge(on_published=True)}
    window, dataset = TrainingWindow({"S0": BREAK}, 0.3, 28), Shards.of(panel, "value", size)
    champion = kind.backtest(dataset, recipes, cutoff=CUTOFF, window=window).fitted["ridge"]
    after = CUTOFF + timedelta(days=7)
    ahead = panel.between(microseconds(CUTOFF), microseconds(after))
    fresh = kind.refit(champion, dataset, CUTOFF)
    assert fresh.window == window
    np.testing.assert_allclose(fresh.forecast(ahead), champion.forecast(ahead))
    of_all = kind.backtest(dataset, recipes, cutoff=CUTOFF).fitted["ridge"]
    apart, beside = (
        kind.window_losses(champion, dataset, CUTOFF, after, fresh=fresh)["disagreement"][0] for fresh in (None, of_all)
    )
    assert apart < 0.1 * beside, "the shadow of the week is a fit of this recipe, not of all history"


def test_a_fit_from_before_a_break_is_old_enough_heeds_none(panel: Panel) -> None:
    window = TrainingWindow({"S0": BREAK}, 0.3, 28)
    assert (window.heeded(panel, microseconds(BREAK + timedelta(days=27))).weight == 1.0).all()
    heeded = window.heeded(panel, microseconds(BREAK + timedelta(days=28))).weight
    np.testing.assert_array_equal(heeded, window.weights(panel))
