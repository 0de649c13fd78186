"""How unusual a day of hours is: the recipes of anomaly detection on days, from residuals against what was expected.

A data set of days holds, for each entity and day, 24 residuals (actual less expected) and 24 expectations, all relative
to the entity's level. A recipe learns from days what is usual, and scores days: at one, a day is as unusual as the
hundredth part of those learned from. An entity's own days count, and those of all others where it has few.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

Array = npt.NDArray[np.float64]
HOURS = 24
RESIDUALS = tuple(f"r{hour:02}" for hour in range(HOURS))
EXPECTED = tuple(f"e{hour:02}" for hour in range(HOURS))
MOST = 20.0
"""No hour counts for more than so many standard deviations: the farthest of all must not rule a scale or a forest."""
LEAST_DAYS = 14
"""Days of an entity from which a scale of its own is taken."""
PRIOR_DAYS = 30.0
"""How many days the scale of all entities counts for beside that of one's own days."""
LEAST_SCALE = 0.002
"""Of the level: what is less is no spread but a series that repeats itself."""


@dataclass(frozen=True)
class Days:
    """Days of entities, in order of time.

    entities: (N,) names. as_of: (N,) microseconds since the epoch, the end of each day. residual, expected: (N, 24)
    relative to level, NaN where not known. level: (N,) in MW. forecast: (N,) whether most of the day was expected by a
    forecast (else by like weekdays).
    """

    entities: npt.NDArray[np.str_]
    as_of: npt.NDArray[np.int64]
    residual: Array
    expected: Array
    level: Array
    forecast: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, rows: pl.DataFrame, entity: str) -> "Days":
        """Rows of a feature table (entity, as_of, level, forecast_hours, r00.., e00..), in order of time."""
        rows = rows.sort("as_of", entity)

        def matrix(names: Sequence[str]) -> Array:
            return rows.select(pl.col(n).cast(pl.Float64).fill_null(np.nan) for n in names).to_numpy()

        return cls(
            rows[entity].to_numpy().astype(str),
            rows["as_of"].dt.epoch("us").to_numpy(),
            matrix(RESIDUALS),
            matrix(EXPECTED),
            rows["level"].cast(pl.Float64).to_numpy(),
            rows["forecast_hours"].to_numpy() >= HOURS / 2,
        )

    def __len__(self) -> int:
        return len(self.as_of)

    def where(self, which: npt.NDArray[np.bool_]) -> "Days":
        """Some of them."""
        return Days(
            self.entities[which],
            self.as_of[which],
            self.residual[which],
            self.expected[which],
            self.level[which],
            self.forecast[which],
        )

    def between(self, start: int, end: int) -> "Days":
        """Those with start <= as_of < end (microseconds)."""
        return self.where((self.as_of >= start) & (self.as_of < end))


def statistics_of(residual: Array, spread: Array, step: Array) -> tuple[Array, Array]:
    """(N, 24) residuals in standard deviations, and (N, 4) what a day has of them.

    The largest of one hour; of a step from one hour to the next, which a spike has and a warm day has not; the largest
    mean over four hours; and the mean of the day, all without sign.
    """
    z = np.clip(np.nan_to_num(residual / spread), -MOST, MOST)
    steps = np.clip(np.nan_to_num(np.diff(residual, axis=1) / step), -MOST, MOST)
    total = np.concatenate([np.zeros((len(z), 1)), np.cumsum(z, axis=1)], axis=1)
    block = np.abs(total[:, 4:] - total[:, :-4]).max(axis=1) / 4
    day = np.abs(total[:, -1]) / HOURS
    return z, np.stack([np.abs(z).max(axis=1), np.abs(steps).max(axis=1), block, day], axis=1)


@dataclass(frozen=True)
class Usual:
    """What is usual, by entity and by what a day is expected from: scales in shares of the level.

    spread, step: (E + 1, 2, 24) and (E + 1, 2, 23) standard deviations of residuals and their steps by hour. edge:
    (E + 1, 2, 4) what the hundredth part of the days exceeds of each statistic. The last entity stands for newcomers.
    """

    entities: tuple[str, ...]
    spread: Array
    step: Array
    edge: Array

    @classmethod
    def learn(cls, days: Days) -> "Usual":
        """From days: medians, so that the anomalies among them hardly count."""
        names = tuple(sorted(set(days.entities.tolist())))
        place = np.searchsorted(names, days.entities) if names else np.empty(0, np.int64)
        group = place * 2 + days.forecast
        spread = _scales(np.abs(days.residual), group, len(names), _deviation)
        step = _scales(np.abs(np.diff(days.residual, axis=1)), group, len(names), _deviation)
        at = np.divmod(group, 2)
        _, statistics = statistics_of(days.residual, spread[at], step[at])
        edge = _scales(statistics, group, len(names), _edge)
        return cls(names, spread, step, np.maximum(edge, 0.5))

    def statistics(self, days: Days) -> tuple[Array, Array]:
        """(N, 24) residuals in standard deviations, and (N, 4) statistics, one at the edge of what is usual."""
        found = np.searchsorted(self.entities, days.entities) if self.entities else np.zeros(len(days), np.int64)
        known = np.isin(days.entities, self.entities)
        at = np.where(known, found, len(self.entities)), days.forecast.astype(np.int64)
        z, statistics = statistics_of(days.residual, self.spread[at], self.step[at])
        return z, statistics / self.edge[at]


def _deviation(values: Array) -> Array:
    """Robust standard deviation of columns from absolute values; NaN without any."""
    ordered = np.sort(values, axis=0)  # what is not known is last
    count = np.isfinite(values).sum(axis=0)
    middle = ordered[np.maximum(count - 1, 0) // 2, np.arange(values.shape[1])]
    return np.maximum(1.4826 * middle, LEAST_SCALE)


def _edge(values: Array) -> Array:
    return np.asarray(np.quantile(values, 0.99, axis=0))


def _scales(values: Array, group: npt.NDArray[np.int64], entities: int, scale: Any) -> Array:
    """(E + 1, 2, K) scale of each group of rows (entity, basis), drawn to that of all rows of the basis."""
    out = np.full((entities + 1, 2, values.shape[1]), np.nan)
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(2 * entities + 1))
    whole = scale(values) if len(values) else np.full(values.shape[1], 0.05)
    whole = np.where(np.isfinite(whole), whole, np.nanmedian(whole) if np.isfinite(whole).any() else 0.05)
    for basis in (0, 1):
        mine = values[group % 2 == basis]
        shared = scale(mine) if len(mine) >= LEAST_DAYS else whole
        out[:, basis] = np.where(np.isfinite(shared), shared, whole)
        for entity in range(entities):
            first, last = bounds[2 * entity + basis], bounds[2 * entity + basis + 1]
            if last - first < LEAST_DAYS:
                continue
            own = scale(values[order[first:last]])
            weight = (last - first) / (last - first + PRIOR_DAYS)
            # Geometrically: entities differ by factors.
            drawn = np.exp(weight * np.log(own) + (1 - weight) * np.log(out[-1, basis]))
            out[entity, basis] = np.where(np.isfinite(drawn), drawn, out[-1, basis])
    return out


# --- recipes ----------------------------------------------------------------------------------------------------------


class Recipe(Protocol):
    """A way to score days: learned from days, scores days; a candidate."""

    def parameters(self) -> dict[str, Any]:
        """JSON-able parameters."""
        ...

    def fit(self, days: Days, usual: Usual, seed: int) -> "Recipe":
        """A copy that has learned from the days."""
        ...

    def score(self, z: Array, statistics: Array) -> Array:
        """(N,) scores from :meth:`Usual.statistics`, higher for less usual."""
        ...


@dataclass(frozen=True)
class ResidualRule:
    """The largest of what a day has, each in units of what the hundredth part of the entity's days exceeds."""

    def parameters(self) -> dict[str, Any]:
        """None: scales are the data's."""
        return {}

    def fit(self, days: Days, usual: Usual, seed: int) -> "ResidualRule":
        """Nothing more to learn."""
        return self

    def score(self, z: Array, statistics: Array) -> Array:
        """The largest statistic."""
        return np.asarray(statistics.max(axis=1, initial=0.0))


@dataclass(frozen=True)
class Forest:
    """Isolation forest on a day's residuals in standard deviations and its statistics (Liu, Ting and Zhou, 2008)."""

    trees: int = 100
    samples: int = 512
    forest: Any = field(default=None, repr=False, compare=False)
    middle: float = 0.0
    edge: float = 1.0

    def parameters(self) -> dict[str, Any]:
        """trees and samples of each."""
        return {"trees": self.trees, "samples": self.samples}

    def fit(self, days: Days, usual: Usual, seed: int) -> "Forest":
        """Grow the forest; scores count from the median, in units of what the hundredth part exceeds."""
        from sklearn.ensemble import IsolationForest

        windows = _windows(*usual.statistics(days))
        some = windows
        if len(windows) > _LEARN:
            some = windows[np.random.default_rng(seed).choice(len(windows), _LEARN, replace=False)]
        forest = IsolationForest(
            n_estimators=self.trees, max_samples=min(self.samples, len(some)), random_state=seed
        ).fit(some)
        found = -forest.score_samples(some)
        middle, edge = np.quantile(found, [0.5, 0.99])
        return replace(self, forest=forest, middle=float(middle), edge=max(float(edge - middle), 1e-9))

    def score(self, z: Array, statistics: Array) -> Array:
        """Isolation relative to that of the days learned from."""
        if not len(z):
            return np.zeros(0)
        return np.asarray((-self.forest.score_samples(_windows(z, statistics)) - self.middle) / self.edge)


_LEARN = 5000
"""Days that a forest learns from at most."""


def _windows(z: Array, statistics: Array) -> Array:
    return np.concatenate([z, np.minimum(statistics, MOST)], axis=1)


@dataclass(frozen=True)
class Blend:
    """The mean of the residual rule's score and the forest's: both are one at the edge of what is usual."""

    rule: ResidualRule = ResidualRule()
    forest: Forest = Forest()

    def parameters(self) -> dict[str, Any]:
        """Those of the forest."""
        return self.forest.parameters()

    def fit(self, days: Days, usual: Usual, seed: int) -> "Blend":
        """Fit the forest."""
        return replace(self, forest=self.forest.fit(days, usual, seed))

    def score(self, z: Array, statistics: Array) -> Array:
        """The mean of both."""
        return (self.rule.score(z, statistics) + self.forest.score(z, statistics)) / 2


# --- injected anomalies -----------------------------------------------------------------------------------------------

INJECTED = ("spike", "gap_as_zero", "shifted_shape")


def inject(days: Days, seed: int) -> tuple[Days, npt.NDArray[np.int64]]:
    """The same days, each with one anomaly, and which (index into ``INJECTED``).

    spike: one to three hours are more, or less, by 15 to 50 % of the level. gap_as_zero: two to six hours are zero.
    shifted_shape: the day's hours come two to five hours late or early.
    """
    rng = np.random.default_rng(seed)
    count = len(days)
    which = rng.integers(0, len(INJECTED), count)
    actual = days.expected + days.residual
    hour = np.arange(HOURS)[None, :]
    start, length = rng.integers(0, HOURS - 6, count)[:, None], rng.integers(1, 4, count)[:, None]
    size = (rng.uniform(0.15, 0.5, count) * rng.choice([-1.0, 1.0], count))[:, None]
    spiked = actual + np.where((hour >= start) & (hour < start + length), size, 0.0)
    gap = np.where((hour >= start) & (hour < start + length * 2), 0.0, actual)
    shift = (rng.integers(2, 6, count) * rng.choice([-1, 1], count))[:, None]
    shifted = np.take_along_axis(actual, (hour + shift) % HOURS, axis=1)
    changed = np.choose(which[:, None], [spiked, gap, shifted])
    return replace(days, residual=changed - days.expected), which


def described(recipe: Recipe) -> dict[str, Any]:
    """The parameters of a recipe with its name, to tell two recipes apart."""
    return {"recipe": type(recipe).__name__, **recipe.parameters()}
