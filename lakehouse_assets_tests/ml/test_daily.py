from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.daily import DailyFit, DailyRidge
from lakehouse_assets.ml.estimators import naive_from
from lakehouse_assets.ml.panel import Panel
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves


@pytest.fixture(scope="module")
def panel() -> Panel:
    return Panel.from_frame(feature_frame(*load_curves(3, 200)))


@pytest.fixture(params=[0, 40], ids=["straight", "waves"])
def recipe(request: pytest.FixtureRequest) -> DailyRidge:
    return DailyRidge(waves=request.param)


def _error(forecast: np.ndarray, panel: Panel) -> float:
    return float(np.abs(forecast / panel.target - 1).mean())


def test_whole_days_are_forecast_better_than_by_yesterday_and_by_what_is_published(panel: Panel) -> None:
    cutoff = int(panel.issued[140])
    late = panel.between(cutoff, int(panel.issued[-1]))
    (own,) = DailyRidge().fit(panel, [cutoff], 0)
    (corrected,) = DailyRidge(on_published=True, strength=30.0).fit(panel, [cutoff], 0)
    assert _error(own.predict(late), late) < 0.8 * _error(naive_from(late), late)
    assert _error(corrected.predict(late), late) < 0.8 * _error(late.full("published_forecast"), late)
    assert not DailyRidge(on_published=True).usable(Panel.from_frame(feature_frame(load_curves(1, 60)[0])))


def test_on_logarithms_a_day_of_rest_takes_its_share_of_a_high_and_of_a_low_load() -> None:
    days = 400
    size = np.exp(0.8 * np.sin(np.arange(days) / 5))
    rest = np.where(np.arange(days) % 7 == 6, 0.5, 1.0)
    hours = 1.0 + 0.3 * np.sin(np.arange(24) / 24 * 2 * np.pi)
    panel = Panel.from_frame(feature_frame((100 * (size * rest)[:, None] * hours).reshape(1, -1)))
    cutoff = int(panel.issued[300])
    late = panel.between(cutoff, int(panel.issued[-1]))
    plain = DailyRidge(clip=(-1.0, 3.0))
    (linear,) = plain.fit(panel, [cutoff], 0)
    (on_logarithms,) = replace(plain, log=True, clip=(-3.0, 2.0)).fit(panel, [cutoff], 0)
    assert _error(on_logarithms.predict(late), late) < 0.5 * _error(linear.predict(late), late)
    assert (on_logarithms.predict(late) > 0).all()


def test_a_fit_knows_no_later_target(panel: Panel, recipe: DailyRidge) -> None:
    cutoffs = [int(panel.issued[i]) for i in (100, 130)]
    spoiled = replace(panel, target=np.where(panel.known_at > cutoffs[0], panel.target * 3, panel.target))
    before, after = (recipe.fit(p, cutoffs, 0) for p in (panel, spoiled))
    np.testing.assert_array_equal(before[0].coefficients, after[0].coefficients)
    assert not np.array_equal(before[1].coefficients, after[1].coefficients)


def test_a_cutoff_has_the_fit_that_it_would_have_alone(panel: Panel, recipe: DailyRidge) -> None:
    cutoffs = [int(panel.issued[i]) for i in (100, 130)]
    both, alone = recipe.fit(panel, cutoffs, 0), recipe.fit(panel, cutoffs[:1], 0)
    np.testing.assert_array_equal(both[0].coefficients, alone[0].coefficients)


def test_a_series_has_the_fit_and_the_forecast_that_it_would_have_alone(panel: Panel, recipe: DailyRidge) -> None:
    cutoff, one = int(panel.issued[140]), panel.take(slice(1, 2))
    (both,), (alone,) = recipe.fit(panel, [cutoff], 0), recipe.fit(one, [cutoff], 0)
    np.testing.assert_array_equal(both.coefficients[1:2], alone.coefficients)
    np.testing.assert_array_equal(both.predict(panel)[1:2], alone.predict(one))


def test_a_row_does_not_depend_on_the_rows_beside_it(panel: Panel, recipe: DailyRidge) -> None:
    (fit,) = recipe.fit(panel, [int(panel.issued[140])], 0)
    whole = fit.predict(panel)
    np.testing.assert_array_equal(fit.predict(panel.take(slice(1, 2), slice(150, 151))), whole[1:2, 150:151])
    strange = replace(panel, series=np.array(["S0", "S1", "new"]))
    assert np.isnan(fit.predict(strange)[2]).all()
    np.testing.assert_array_equal(fit.predict(strange)[:2], whole[:2])


def test_days_of_slips_hardly_count_and_gaps_do_no_harm(panel: Panel) -> None:
    cutoff = int(panel.issued[140])
    late = panel.between(cutoff, int(panel.issued[-1]))
    target = panel.target.copy()
    target[:, 20:140:12] *= 1.9
    target[:, 5:140:7, 3:7] = np.nan
    target[2, :140, :12] = np.nan  # of this one no day is known well enough

    def fit(values: np.ndarray, robustness: float = 1.0) -> DailyFit:
        return DailyRidge(robustness=robustness).fit(replace(panel, target=values), [cutoff], 0)[0]

    clean, spoiled = fit(panel.target).predict(late), fit(target).predict(late)
    assert _error(spoiled[:2], late.take(slice(0, 2))) < 1.5 * _error(clean[:2], late.take(slice(0, 2)))
    assert np.isnan(spoiled[2]).all()
    pairs = late.take(slice(0, 2))
    errors = [_error(fit(target, power).predict(late)[:2], pairs) for power in (0.0, 1.0, 2.0)]
    assert errors == sorted(errors, reverse=True)


def test_the_features_names_do_not_depend_on_how_a_panel_stores_them() -> None:
    frame = feature_frame(*load_curves(2, 100)).with_columns(
        near_change_3h=pl.col("last_1h") / pl.col("mean_24h") - 1, near_last_day=pl.col("lag_24h") / pl.col("mean_24h")
    )
    # A day with an hour less: what is the same for a whole horizon elsewhere is not here.
    gap = frame.filter((pl.col("issued_at") != frame["issued_at"].max()) | (pl.col("horizon") < 23))
    whole, other = (Panel.from_frame(f, horizon=24) for f in (frame, gap))
    assert whole.columns["near_change_3h"].ndim < other.columns["near_change_3h"].ndim
    for recipe in (DailyRidge(), DailyRidge(on_published=True)):
        (fit,) = recipe.fit(whole, [int(whole.issued[60])], 0)
        assert np.isfinite(fit.predict(other)[:, :-1]).all()


def _without_seasons(panel: Panel) -> Panel:
    still = {name: np.zeros_like(panel.columns[name]) for name in ("season_sin", "season_cos")}
    return replace(panel, columns=panel.columns | still)


def _error_late(panel: Panel, days: int, hours: slice = slice(None), waves: int = 0) -> float:
    """Of a fit by then, over the last days."""
    cutoff = int(panel.issued[-days])
    late = panel.between(cutoff, int(panel.issued[-1]))
    (fit,) = DailyRidge(log=True, strength=2.0, waves=waves).fit(panel, [cutoff], 0)
    return float(np.abs(fit.predict(late) / late.target - 1)[:, :, hours].mean())


def test_what_the_last_hours_say_depends_on_the_season() -> None:
    days = 1200
    rng = np.random.default_rng(0)
    warmth = rng.normal(0, 0.1, days)
    season = np.cos(2 * np.pi * np.arange(days) / 365.25)
    # The evening tells how warm it is; of that the day after goes up in one half of the year, down in the other.
    load = 0.5 * np.sin(np.arange(24) / 4) + (np.roll(warmth, 1) * season)[:, None] + rng.normal(0, 0.01, (days, 24))
    load[:, -2:] = warmth[:, None]
    panel = Panel.from_frame(feature_frame(100 * np.exp(load).reshape(1, -1)))
    day = slice(0, 22)
    assert _error_late(panel, 180, day) < 0.5 * _error_late(_without_seasons(panel), 180, day)


def test_waves_follow_what_a_straight_line_cannot() -> None:
    days = 700
    rng = np.random.default_rng(0)
    warmth = rng.uniform(-0.2, 0.2, days)
    # The evening tells how warm it is; the day after is high when that is much or little.
    load = 0.2 * np.sin(np.arange(24) / 4) + 5 * np.roll(warmth, 1)[:, None] ** 2 + rng.normal(0, 0.01, (days, 24))
    load[:, -2:] = warmth[:, None]
    panel = Panel.from_frame(feature_frame(100 * np.exp(load).reshape(1, -1)))
    panel = panel.select(["lag_24h", "mean_168h", "last_1h", "last_2h"])
    day = slice(0, 22)
    assert _error_late(panel, 180, day, waves=100) < 0.7 * _error_late(panel, 180, day)


def test_waves_are_those_of_the_seed(panel: Panel) -> None:
    cutoff = int(panel.issued[140])
    first, again, other = (DailyRidge(waves=40).fit(panel, [cutoff], seed)[0].predict(panel) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("waves", [0, 100])
@pytest.mark.parametrize("days", [60, 150, 250])
def test_in_less_than_a_year_a_season_is_no_trend(days: int, waves: int) -> None:
    rng = np.random.default_rng(1)
    load = np.cumsum(rng.normal(0, 0.02, days + 60))[:, None] + rng.normal(0, 0.01, (days + 60, 24))
    panel = Panel.from_frame(feature_frame(100 * np.exp(load + 0.2 * np.sin(np.arange(24) / 4)).reshape(1, -1)))
    assert _error_late(panel, 31, waves=waves) < 1.05 * _error_late(_without_seasons(panel), 31)
