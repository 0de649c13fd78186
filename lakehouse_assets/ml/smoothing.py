"""Exponential smoothing: the baseline that adapts, beside the seasonal naive that does not.

The panel holds no raw history, but the same hour of the latest days as lags. Each step of the horizon is a daily
series with a weekly season, and Holt-Winters' additive method without trend (Winters 1960; Hyndman and Athanasopoulos,
Forecasting: Principles and Practice, 8.3) runs over its lags, oldest first, for all series, issue times and steps at
once::

    error  = y[t] - level - season[weekday of t]
    level  = level + alpha * error
    season[weekday of t] = season[weekday of t] + gamma * (1 - alpha) * error
    forecast = level + season[weekday of the forecast]

A missing day changes nothing. The recursion begins with the mean of the lags and with the season of the window before
the cutoff; alpha and gamma are those with which a series had the least absolute error lately.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.estimators import Array, _Parameters, day_lags, level, own_cutoffs
from lakehouse_assets.ml.panel import DAY_US, Panel

ALPHAS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
GAMMAS = (0.0, 0.2)


@dataclass(frozen=True)
class ExponentialSmoothing(_Parameters):
    """Holt-Winters over the days of each hour, with a weekly season; its two constants chosen for each series.

    window_days: from which the season is learned; choice_days: the latest ones, on which the constants are chosen. A
    cutoff within refit_days of the latest fit uses that one, except that the last cutoff always has its own.
    """

    window_days: int = 364
    choice_days: int = 42
    refit_days: int = 28

    def fit(self, panel: Panel, cutoffs: Sequence[int], seed: int, standing: bool = True) -> "list[SmoothingFit]":
        """Season and constants of each series at each cutoff, from targets known by then."""
        own, serving = own_cutoffs(cutoffs, self.refit_days)
        fits = [self._fit(panel.between(cutoff - self.window_days * DAY_US, cutoff), cutoff) for cutoff in own]
        return [fits[k] for k in serving]

    def _fit(self, past: Panel, cutoff: int) -> "SmoothingFit":
        season = _seasons(past, cutoff)
        recent = past.between(cutoff - self.choice_days * DAY_US, cutoff)
        # Some days of them will do: every third one comes to all weekdays.
        recent = recent.take(days=slice(None, None, 3 if recent.shape[1] > 21 else 1))
        count = len(past.series)
        best, least = np.zeros(count, np.int64), np.full(count, np.inf)
        actual = np.where(recent.known_at <= cutoff, recent.target, np.nan)
        for i, (alpha, gamma) in enumerate(_GRID):
            constants = np.full(count, alpha), np.full(count, gamma)
            error = np.abs(_smooth(recent, season, *constants) - actual)
            hours = np.isfinite(error).sum(axis=(1, 2))
            mean = np.nansum(error, axis=(1, 2)) / np.maximum(hours, 1)
            better = (hours > 0) & (mean < least)
            best[better], least[better] = i, mean[better]
        return SmoothingFit({s: i for i, s in enumerate(past.series.tolist())}, season, np.array(_GRID)[best])


_GRID = [(0.1, 0.0), *((alpha, gamma) for alpha in ALPHAS for gamma in GAMMAS)]
"""Pairs of alpha and gamma; the first is that of a series without errors to choose by."""


@dataclass(frozen=True)
class SmoothingFit:
    """Place of each series; season: (S, 7, H), relative to the level, by weekday; constants: (S, 2) alpha, gamma."""

    place: Mapping[str, int]
    season: npt.NDArray[np.float32]
    constants: Array

    def predict(self, panel: Panel) -> Array:
        """See :class:`lakehouse_assets.ml.estimators.Fit`; a new series has the mean season of the others."""
        h = panel.shape[2]
        fleet = self.season.mean(axis=0) if len(self.season) else np.zeros((7, h), np.float32)
        rows = np.array([self.place.get(s, len(self.season)) for s in panel.series], np.int64)
        season = np.concatenate([self.season.reshape(-1, 7, h), fleet[None]])[rows]
        constants = np.concatenate([self.constants.reshape(-1, 2), [_GRID[0]]])[rows]
        return _smooth(panel, season, constants[:, 0], constants[:, 1])


def _weekday(panel: Panel) -> npt.NDArray[np.int64]:
    """(S, D, H) weekday of the forecast hour from Monday = 0: the feature's, or that of UTC."""
    hours = panel.issued[:, None] // 3_600_000_000 + np.arange(panel.shape[2])
    utc = np.broadcast_to((hours // 24 + 3) % 7, panel.shape)  # 1970-01-01 was a Thursday
    if "day_of_week" not in panel.columns:
        return utc
    local = panel.full("day_of_week")
    return np.where(np.isfinite(local), np.nan_to_num(local, nan=1.0, posinf=1.0, neginf=1.0) - 1, utc).astype(np.int64)


def _seasons(past: Panel, cutoff: int) -> npt.NDArray[np.float32]:
    """(S, 7, H) how far a weekday lies from the mean of the week, relative to the level, at each step."""
    s, _, h = past.shape
    with np.errstate(invalid="ignore", over="ignore"):
        relative = past.target / level(past)[:, :, None]
    usable = np.isfinite(relative) & (past.known_at <= cutoff)
    # A slip of the decimal point must not pass for a season.
    relative = np.where(usable, np.clip(relative, -3.0, 3.0), 0.0)
    weekday = _weekday(past)
    out = np.zeros((s, 7, h))
    seen = np.zeros((s, 7, h), bool)
    for k in range(7):
        mine = usable & (weekday == k)
        count = mine.sum(axis=1)
        out[:, k], seen[:, k] = (relative * mine).sum(axis=1) / np.maximum(count, 1), count > 0
    days = seen.sum(axis=1, keepdims=True)
    mean = (out * seen).sum(axis=1, keepdims=True) / np.maximum(days, 1)
    return np.where(seen, out - mean, 0.0).astype(np.float32)


def _smooth(panel: Panel, season: npt.NDArray[np.float32], alpha: Array, gamma: Array) -> Array:
    """(S, D, H) one forecast for each cell of the panel; season (S, 7, H), alpha and gamma (S,)."""
    s, _, h = panel.shape
    lags = [(hours // 24, np.where(np.isfinite(values), values, np.nan)) for hours, values in day_lags(panel)]
    if not lags:
        return np.full(panel.shape, np.nan)
    size = level(panel)[:, :, None]
    weekday = _weekday(panel)
    rows, steps = np.arange(s)[:, None, None], np.arange(h)[None, None, :]

    # season by days back from the forecast (modulo a week): 0 is the weekday of the forecast itself
    seasons = [season[rows, (weekday - k) % 7, steps].astype(np.float64) for k in range(7)]
    count, total = np.zeros(panel.shape), np.zeros(panel.shape)
    for back, values in lags:
        known = np.isfinite(values)
        count += known
        total += np.where(known, values / size - seasons[back % 7], 0.0)
    state = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    a, g = alpha[:, None, None], (gamma * (1 - alpha))[:, None, None]
    learns = bool(g.any())
    for back, values in reversed(lags):
        error = np.nan_to_num(values / size - state - seasons[back % 7], nan=0.0, posinf=0.0, neginf=0.0)
        state = state + a * error
        if learns:
            seasons[back % 7] = seasons[back % 7] + g * error
    return (state + seasons[0]) * size
