"""Regression on whole days: one design for all hours of a series' horizon, so that it may be wide and costs little.

Where :class:`lakehouse_assets.ml.estimators.Ridge` has a regression of its own for each hour, here the hours share
their inputs, and a single Gram matrix a series serves them all.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.estimators import (
    AROUND,
    CHUNK_BYTES,
    HOLIDAYS,
    PUBLISHED,
    QUARTERS,
    Array,
    Columns,
    Relative,
    Scales,
    check_names,
    covariates,
    day_lags,
    hours_back,
    huber,
    huber_block,
    level,
    published,
)
from lakehouse_assets.ml.linear import YEAR, decayed_grams, in_season, solve_ridge
from lakehouse_assets.ml.panel import DAY_US, Panel

KNOWN_SHARE = 0.75
"""A day counts when so much of its horizon is known; the hours in between are filled in a straight line."""
SWINGING_PUBLISHED = re.compile(r"(mean|min|max)_24h")
SWINGING = re.compile(rf"{SWINGING_PUBLISHED.pattern}|last_\d+h|std_168h|{AROUND.pattern}")
"""Inputs that say one thing in summer and another in winter; fewer where what is published has seen the season."""
STRAIGHT = re.compile(r"(lag|day)_\d+h|.*\*season_")
"""Inputs that stay out of the waves: profiles and days further back, and products with the season."""
STEEPNESS = 0.4
"""Radians (root mean square) that the season of a day adds to the angle of a wave, and as many all else together."""


@dataclass(frozen=True)
class DailyRidge(Relative):
    """One ridge regression for each series from everything known at issue time to all hours of the horizon.

    Inputs are the profiles of the last days, the calendar and what was known around the series, relative to its level
    and then in standard deviations; a second round counts a day less whose error was large (Huber's weights, with the
    median error as the bound). ``on_published`` learns the error of the published forecast instead of the value.
    A day counts half after ``half_life`` days, and by the panel's weight. strength: the penalty; it is greater where
    there is less than a year to learn from, and far greater on what the season does. clip: bounds of the relative
    target. robustness: the power of Huber's weights; the greater, the less a day counts that is like no other.

    log: values relative to the level are taken as logarithms: what a calendar day or a season does to a load is a share
    of it, and the level of one week is not that of another.

    waves: so many cosines of the inputs along random directions stand beside them, which makes the regression nearly
    that with a Gaussian kernel (Rahimi and Recht 2007): what one input says may depend on all the others.
    """

    on_published: bool = False
    log: bool = False
    half_life: float = 1000.0
    strength: float = 10.0
    clip: tuple[float, float] = (-0.7, 1.5)
    robustness: float = 1.0
    waves: int = 0

    def usable(self, data: Columns) -> bool:
        """On the published forecast: only where there is one."""
        return not self.on_published or data.has(PUBLISHED)

    def design(self, panel: Panel, scales: Scales) -> tuple[list[str], Array]:
        """The features' names and their values (S, D, p), relative to the level, NaN where unknown."""
        s, d, h = panel.shape
        size = level(panel)
        day = min(h, 24)
        found: list[tuple[str, np.ndarray]] = []

        def add(name: str, values: np.ndarray) -> None:
            """A feature for each column of (S, D, n), or one of (S, D)."""
            if values.ndim == 2:
                found.append((name, values))
            else:
                found.extend((f"{name}@{j}", values[:, :, j]) for j in range(values.shape[2]))

        def quarters(values: np.ndarray) -> Array:
            """The means of the horizon's quarters, (S, D, 4)."""
            parts = np.array_split(np.asarray(values, np.float64), min(QUARTERS, h), axis=2)
            return np.stack([part.mean(axis=2) for part in parts], axis=2)

        lags = {k: self._relative(lag[:, :, :day] / size[:, :, None]) for k, lag in day_lags(panel)}
        profiles = sorted(lags)[:1] if self.on_published else [*sorted(lags)[:2], *(k for k in lags if k == 168)]
        for k in profiles:
            add(f"lag_{k}h", lags[k])
        for k in (k for k in lags if k not in profiles):
            add(f"day_{k}h", lags[k].mean(axis=2))
        names = [name for _, name in hours_back(panel, r"last_(\d+)h")]
        names += [name for name in ("mean_24h", "mean_672h", "min_24h", "max_24h") if name in panel.columns]
        for name in names:
            add(name, self._relative(panel.once(name) / size))
        if "std_168h" in panel.columns:
            add("std_168h", panel.once("std_168h") / size)
        if "day_of_week" in panel.columns:
            weekday = panel.full("day_of_week")[:, :, day // 2]
            for k in range(1, 8):
                add(f"day_of_week={k}", (weekday == k).astype(float))
        for name in HOLIDAYS:
            if name in panel.columns:
                add(name, quarters(panel.full(name)))
        for name in panel.columns:
            match = AROUND.fullmatch(name)
            if match and (self.on_published or match[2] in ("last_day", "change_3h")):
                # By what it is, not by how the panel happens to store it: the names must be those of the fit.
                wide = match[2] in ("last_day", PUBLISHED)
                add(name, quarters(panel.full(name)) if wide else panel.once(name))
        if "season_sin" in panel.columns and "season_cos" in panel.columns:
            sin, cos = (panel.once(name).astype(np.float64) for name in ("season_sin", "season_cos"))
            turns = {"season_sin": sin, "season_cos": cos}
            for name, values in (turns | {"season_sin2": 2 * sin * cos, "season_cos2": cos * cos - sin * sin}).items():
                add(name, values)
            # What a warmer or longer day does depends on the season.
            swinging = SWINGING_PUBLISHED if self.on_published else SWINGING
            for name, values in [(n, v) for n, v in found if swinging.match(n)]:
                for turn, value in turns.items():
                    add(f"{name}*{turn}", values * value)
        for name in covariates(panel):
            value = scales.apply(panel, name)
            add(name, quarters(value))
            add(f"|{name}|", quarters(np.abs(value)))
        if self.on_published:
            add(PUBLISHED, self._relative(published(panel) / size[:, :, None]))
            for _, name in hours_back(panel, r"error_\w+_(\d+)h"):
                error = np.clip(panel.full(name) / size[:, :, None], -0.5, 0.5)
                add(name, quarters(error) if name.startswith("error_lag_") else error[:, :, 0])
        values = np.empty((s, d, len(found)))
        for j, (_, value) in enumerate(found):
            values[:, :, j] = value
        return [name for name, _ in found], values

    def fit(self, panel: Panel, cutoffs: Sequence[int], seed: int, standing: bool = True) -> "list[DailyFit]":
        """Two passes over the panel for all cutoffs, a block of series at a time."""
        s, d, h = panel.shape
        ends = np.asarray(cutoffs, np.int64)
        scales = Scales.learn(panel, cutoffs[0])
        names = self.design(panel.take(slice(0, 1), slice(0, 1)), scales)[0]
        p = len(names)
        waves = _Waves.draw(names, self.waves, seed)
        names = [*names, *waves.names]
        mean, width = np.zeros((s, p)), np.ones((s, p))
        coefficients = [np.full((s, len(names) + 1, h), np.nan, np.float32) for _ in cutoffs]
        chunk = max(1, int(CHUNK_BYTES // (16 * d * (len(names) + h))))
        before = panel.issued < cutoffs[0]
        for start in range(0, s, chunk):
            mine = slice(start, start + chunk)
            part = panel.take(mine)
            x = self.design(part, scales)[1]
            mean[mine], width[mine] = _moments(x[:, before])
            x = _standardised(x, mean[mine], width[mine])
            base, size = self.base(part)
            y = self._relative(part.target / size[:, :, None]) - self._relative(base / size[:, :, None])
            y, known_at = _whole_days(np.clip(y, *self.clip), part.known_at)
            block = np.searchsorted(ends, known_at)
            x = np.concatenate([np.ones((*x.shape[:2], 1)), x], axis=2).transpose(0, 2, 1)
            y = y.transpose(0, 2, 1)
            counts = np.ones(block.shape) if part.weight is None else part.weight
            learned = counts > 0
            ages = (np.where(learned & (block <= k), end / DAY_US - panel.days, 0.0) for k, end in enumerate(ends))
            penalties = [self.strength * _penalties(names, age.max(axis=1) / YEAR) for age in ages]
            weight = counts
            for last in (False, True):
                if last:  # a day like no other shows without the waves, in a fraction of the time
                    x = np.concatenate([x, waves.of_days(x)], axis=1)
                q = x.shape[1]
                for i, root in enumerate(np.sqrt(weight)):
                    known = np.broadcast_to(block[i], (h, d))
                    parts = x[i] * root, (y[i] * root)[:, None]
                    for k, grams in enumerate(decayed_grams(*parts, panel.days, known, ends / DAY_US, self.half_life)):
                        solved = solve_ridge(in_season(grams, 0.0, 0.0), penalties[k][i, : q - 1])
                        coefficients[k][start + i, :q] = solved.T
                if not last:
                    trust = _huber(x, y, np.where(learned, block, len(ends)), [c[mine, :q] for c in coefficients])
                    weight = counts * trust**self.robustness
        return [DailyFit(self, panel.series.tolist(), names[:p], mean, width, c, scales, waves) for c in coefficients]

    def base(self, panel: Panel) -> tuple[Array, Array]:
        """What is corrected, (S, D, H), and the level, (S, D)."""
        size = level(panel)
        base = published(panel) if self.on_published else np.broadcast_to(size[:, :, None], panel.shape)
        return base, size


@dataclass(frozen=True)
class _Waves:
    """M cosines of some inputs: the places (u,) of these, directions (u, M), phases (M,), and the height of each."""

    places: npt.NDArray[np.intp]
    directions: Array
    phases: Array
    height: float

    @classmethod
    def draw(cls, names: Sequence[str], count: int, seed: int) -> "_Waves":
        """Along random directions, of which the season is half; in sum they vary as much as the inputs they are of."""
        places = np.array([j for j, name in enumerate(names) if not STRAIGHT.match(name)], np.intp)
        season = np.array([names[j].startswith("season_") for j in places], bool)
        share = STEEPNESS / np.sqrt(np.where(season, season.sum(), (~season).sum()))
        rng = np.random.default_rng(seed)
        directions = share[:, None] * rng.standard_normal((len(names), count))[places]
        phases = rng.uniform(0.0, 2 * np.pi, count)
        return cls(places, directions, phases, float(np.sqrt(2 * len(places) / max(count, 1))))

    @property
    def names(self) -> list[str]:
        """What the season says is in each of them."""
        return [f"season_wave{j}" for j in range(len(self.phases))]

    def of_days(self, x: Array) -> Array:
        """(S, M, D) of standardised inputs with the intercept, (S, p + 1, D)."""
        angles = np.stack([self.directions.T @ one[1 + self.places] for one in x])
        return np.asarray(self.height * np.cos(angles + self.phases[:, None]))

    def of_rows(self, x: Array) -> Array:
        """(S, D, M) of standardised inputs (S, D, p), of which no row depends on the rows beside it."""
        angles = np.broadcast_to(self.phases, (*x.shape[:2], len(self.phases))).copy()
        for j, direction in zip(self.places, self.directions, strict=True):
            angles += x[:, :, j, None] * direction
        return np.asarray(self.height * np.cos(angles))


def _moments(x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation (S, p) over the days; infinite where nothing varies, so that it says nothing."""
    there = np.isfinite(x)
    count = np.maximum(there.sum(axis=1), 1)
    mean = np.where(there, x, 0.0).sum(axis=1) / count
    width = np.sqrt((np.where(there, x - mean[:, None], 0.0) ** 2).sum(axis=1) / count)
    return mean, np.where(width > 1e-6, width, np.inf)


def _penalties(names: Sequence[str], years: Array) -> Array:
    """What multiplies the penalty of each feature, (S, p), of series whose first known day is so many years ago, (S,).

    One in the long run. What the season does is seen once a year: in less it is a trend, and a trend is no forecast;
    what it changes about another input takes a second year to be told from the weather of the first.
    """
    season = np.array(["season_" in name for name in names])
    needed = np.array([2.0 if "*season_" in name else 1.0 for name in names])
    scarce: Array = np.maximum(needed / np.maximum(years, 1 / YEAR)[:, None], 1.0)
    return scarce ** np.where(season, 8.0, 1.0)


def _standardised(x: Array, mean: Array, width: Array) -> Array:
    """The features in standard deviations, at most 6; the mean where they are unknown.

    Six, because a flag of few days, a public holiday, lies that far from its mean.
    """
    return np.clip(np.nan_to_num((x - mean[:, None]) / width[:, None], nan=0.0), -6.0, 6.0)


def _whole_days(y: Array, known_at: npt.NDArray[np.int64]) -> tuple[Array, npt.NDArray[np.int64]]:
    """Targets (S, D, H) without gaps, and when they were known, (S, D): never, where too many of the hours are not."""
    there = np.isfinite(y)
    enough = there.mean(axis=2) >= KNOWN_SHARE
    filled = np.where(enough[:, :, None], y, 0.0)
    hours = np.arange(y.shape[2])
    for i, j in zip(*np.nonzero(enough & ~there.all(axis=2)), strict=True):
        mine = there[i, j]
        filled[i, j] = np.interp(hours, hours[mine], y[i, j, mine])
    last = np.where(there, known_at, np.iinfo(np.int64).min).max(axis=2)
    return filled, np.where(enough, last, np.iinfo(np.int64).max)


def _huber(
    x: Array, y: Array, block: npt.NDArray[np.integer], coefficients: Sequence[npt.NDArray[np.float32]]
) -> Array:
    """A day's weight (B, D) by its mean absolute error: see :func:`lakehouse_assets.ml.estimators.huber`."""
    error = np.full(block.shape, np.nan)
    for k in range(len(coefficients)):
        for i, (a, b) in enumerate(zip(x, y, strict=True)):
            mine = np.flatnonzero(huber_block(block[i], k))
            if len(mine):
                fitted = a[:, mine].T @ coefficients[k][i].astype(np.float64)
                error[i, mine] = np.abs(b[:, mine].T - fitted).mean(axis=1)
    return np.stack([huber(e, known) for e, known in zip(error, block, strict=True)])


@dataclass(frozen=True)
class DailyFit:
    """mean, width: (S, p) of the features; coefficients: (S, p + M + 1, H), intercept first, waves last."""

    recipe: DailyRidge
    series: list[str]
    names: list[str]
    mean: Array
    width: Array
    coefficients: npt.NDArray[np.float32]
    scales: Scales
    waves: _Waves

    def predict(self, panel: Panel) -> Array:
        """See :class:`lakehouse_assets.ml.estimators.Fit`; NaN for unknown series and where the base is missing."""
        if not self.recipe.usable(panel):
            return np.full(panel.shape, np.nan)
        names, x = self.recipe.design(panel, self.scales)
        check_names(self.names, names)
        place = {s: i for i, s in enumerate(self.series)}
        rows = np.array([place.get(s, -1) for s in panel.series])
        x = _standardised(x, self.mean[rows], self.width[rows])
        x = np.concatenate([x, self.waves.of_rows(x)], axis=2)
        b = np.where((rows >= 0)[:, None, None], self.coefficients[rows].astype(np.float64), np.nan)
        relative = np.repeat(b[:, :1], panel.shape[1], axis=1)
        # Not a matrix product: a row's forecast must not depend on how many rows are forecast with it.
        for j in range(x.shape[2]):
            relative += x[:, :, j, None] * b[:, None, j + 1]
        base, size = self.recipe.base(panel)
        size = size[:, :, None]
        return size * self.recipe._ratio(self.recipe._relative(base / size) + relative)
