import numpy as np
import pytest

from lakehouse_assets.ml.estimators import SeasonalNaive
from lakehouse_assets.ml.panel import DAY_US, Panel
from lakehouse_assets.ml.smoothing import ExponentialSmoothing, _smooth
from lakehouse_assets_tests.ml.frames import feature_frame

DAYS = 130


def panel_of(*series: np.ndarray) -> Panel:
    return Panel.from_frame(feature_frame(np.stack(series)))


def test_the_recursion_is_that_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    panel = panel_of(100 + 10 * rng.random(DAYS * 24))
    season = rng.normal(0, 0.05, (1, 7, 24)).astype(np.float32)
    got = _smooth(panel, season, np.array([0.3]), np.array([0.2]))
    d, h = 40, 5
    size = max(abs(panel.once("mean_168h")[0, d]), panel.once("std_168h")[0, d])
    y = {k: panel.columns[f"lag_{24 * k}h"][0, d, h] / size for k in range(1, 15)}
    weekday = int(panel.full("day_of_week")[0, d, h]) - 1
    s = {k: float(season[0, k, h]) for k in range(7)}
    state = np.mean([y[k] - s[(weekday - k) % 7] for k in y])
    for k in range(14, 0, -1):
        error = y[k] - state - s[(weekday - k) % 7]
        state += 0.3 * error
        s[(weekday - k) % 7] += 0.2 * (1 - 0.3) * error
    assert got[0, d, h] == pytest.approx(size * (state + s[weekday]), rel=1e-6)


def test_constants_follow_the_series() -> None:
    rng = np.random.default_rng(1)
    noise = 100 + rng.normal(0, 5, DAYS * 24)  # the mean is best: small alpha
    walk = 100 + np.repeat(rng.normal(0, 3, DAYS).cumsum(), 24)  # the latest is best: large alpha
    panel = panel_of(noise, walk)
    (fit,) = ExponentialSmoothing().fit(panel, [int(panel.issued[-1])], 0)
    alpha = fit.constants[:, 0]
    assert alpha[0] <= 0.1
    assert alpha[1] >= 0.7


def test_a_weekly_season_is_learned_and_the_naive_is_beaten() -> None:
    rng = np.random.default_rng(2)
    t = np.arange(DAYS * 24)
    weekly = 100 + 20 * np.sin(2 * np.pi * t / 24) - 15 * (t // 24 % 7 >= 5) + rng.normal(0, 4, t.size)
    panel = panel_of(weekly)
    cutoff = int(panel.issued[-14])
    window = panel.between(cutoff, cutoff + 14 * DAY_US)
    errors = [
        np.abs(recipe.fit(panel, [cutoff], 0)[0].predict(window) - window.target).mean()
        for recipe in (SeasonalNaive(), ExponentialSmoothing())
    ]
    assert errors[1] < 0.85 * errors[0]


def test_missing_days_change_nothing_and_new_series_are_forecast() -> None:
    values = np.tile(100 + 10 * np.sin(np.arange(24)), DAYS)
    panel = panel_of(values)
    panel.columns["lag_24h"][:, ::2] = np.nan
    panel.columns["lag_72h"][:] = np.inf
    (fit,) = ExponentialSmoothing().fit(panel, [int(panel.issued[-1])], 0)
    np.testing.assert_allclose(fit.predict(panel), panel.target, rtol=1e-5)
    other = panel_of(values, 3 * values).take(np.array([1]))
    np.testing.assert_allclose(fit.predict(other), other.target, rtol=1e-5)


def test_only_what_was_known_counts() -> None:
    rng = np.random.default_rng(3)
    panel = panel_of(*(100 + np.repeat(rng.normal(0, 5, (9, DAYS)), 24, axis=1)))
    panel.known_at[:] += 30 * DAY_US // 24
    cutoff = int(panel.issued[60])
    before = ExponentialSmoothing().fit(panel, [cutoff], 0)[0].predict(panel)
    panel.target[panel.known_at > cutoff] = 1e9
    np.testing.assert_array_equal(ExponentialSmoothing().fit(panel, [cutoff], 0)[0].predict(panel), before)
