"""The candidates of a forecast: seasonal naive, ridge, boosting across series, and their blend.

An estimator is a frozen dataclass of parameters. ``fit`` takes a panel and ascending cutoffs (microseconds since the
epoch) and returns one fit for each, made only from targets known by then. A fit predicts (S, D, H) arrays for any
panel with the same features; NaN where it cannot say anything, which a
:class:`lakehouse_assets.ml.forecast.FittedForecast` then fills from the next rung of its ladder.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.linear import YEAR, Grams, decayed_grams, in_season, solve_ridge
from lakehouse_assets.ml.panel import DAY_US, Panel

Array = npt.NDArray[np.float64]
PUBLISHED = "published_forecast"
QUARTERS = 4
"""Parts of a horizon whose means stand for it where its hours would cost too much."""
MINIMUM_ROWS = 14
"""Fewer issue times make no regression: with 14 a ridge is as good as the seasonal naive (EIA-930, geometric mean over
regions of the error relative to it: 1.10 with 7, 1.01 with 14, 0.97 with 28, 0.85 with 56)."""
CHUNK_BYTES = 24_000_000
"""Size of the largest design matrix that is held at once; the memory of a fit is a small multiple of it."""


class Columns(Protocol):
    """Data that can say which features hold values: a panel, or all shards of a fleet."""

    def has(self, name: str, /) -> bool:
        """Whether the feature exists and holds a value anywhere."""
        ...


class Fit(Protocol):
    """What an estimator has learned by one cutoff."""

    def predict(self, panel: Panel) -> Array:
        """(S, D, H) forecasts, NaN where this fit has nothing to say."""
        ...


class Estimator(Protocol):
    """A candidate that is fitted to a panel."""

    def parameters(self) -> dict[str, Any]:
        """JSON-able parameters, for the record."""
        ...

    def usable(self, data: Columns) -> bool:
        """Whether the data have the columns that this estimator cannot do without."""
        ...

    def fit(self, panel: Panel, cutoffs: Sequence[int], seed: int, standing: bool = True) -> Sequence[Fit]:
        """One fit for each cutoff.

        standing: whether the last fit must serve for a year; all others serve the week after their cutoff alone.
        """
        ...


@dataclass(frozen=True)
class Sample:
    """What some series contribute to a model across all: for each fit, rows (n, p) of the design and targets (n,)."""

    on_published: bool
    names: list[str]
    rows: list[tuple[npt.NDArray[np.float32], Array]]


class _Parameters:
    minimum_rows: ClassVar[int] = 0
    """Issue times with known targets that a series needs for a fit of its own to count."""

    def parameters(self) -> dict[str, Any]:
        """The dataclass's fields, with the estimator's name."""
        return {"estimator": type(self).__name__} | asdict(self)  # type: ignore[call-overload]

    def usable(self, data: Columns) -> bool:
        """Any data will do."""
        return True


_LEAST, _MOST = 0.001, 7.0
"""Bounds of a ratio to the level, and of its logarithm, where logarithms are taken."""


class Relative(_Parameters):
    """What forecasts values relative to the level of their series, as differences or as logarithms."""

    log: bool

    def _relative(self, ratio: np.ndarray) -> np.ndarray:
        """A ratio to the level as the difference that the regression works with."""
        return np.log(np.maximum(ratio, _LEAST)) if self.log else ratio - 1.0

    def _ratio(self, relative: Array) -> Array:
        """The ratio to the level of such a difference."""
        return np.exp(np.minimum(relative, _MOST)) if self.log else relative + 1.0


def hours_back(panel: Panel, pattern: str) -> list[tuple[int, str]]:
    """The features whose name matches ``pattern`` with the hours as its group, ascending by hours."""
    found = ((re.fullmatch(pattern, name), name) for name in panel.columns)
    return sorted((int(m.group(1)), name) for m, name in found if m)


def level(panel: Panel) -> Array:
    """(S, D) size of a series at issue time, always positive where known: |mean of the week|, or its spread if larger.

    The spread stands in for series that wander around zero (net load).
    """
    size = np.full(panel.shape[:2], np.nan)
    for mean in ("mean_168h", "mean_24h", "mean_672h"):
        if mean in panel.columns:
            size = np.where(np.isnan(size), np.abs(panel.once(mean).astype(float)), size)
    if "std_168h" in panel.columns:
        size = np.fmax(size, panel.once("std_168h").astype(float))
    return np.where(size > 0, size, np.nan)


def published(panel: Panel) -> Array:
    """(S, D, H) the published forecast where it is plausible, NaN elsewhere.

    Published curves have gaps, zeros and slips of the decimal point, and a correction cannot mend those: not plausible
    is what is not positive although the last day was, or lies beyond half the level and three standard deviations of
    the last week from its mean.
    """
    values = panel.full(PUBLISHED).astype(np.float64)
    plausible = np.isfinite(values)
    if "min_24h" in panel.columns:
        plausible &= ~((values <= 0) & (panel.full("min_24h") > 0))
    if "mean_168h" in panel.columns and "std_168h" in panel.columns:
        reach = 0.5 * level(panel)[:, :, None] + 3 * panel.full("std_168h")
        plausible &= ~(np.abs(values - panel.full("mean_168h")) > reach)
    return np.where(plausible, values, np.nan)


def day_lags(panel: Panel) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """The same-hour lags (hours, (S, D, H)) of whole days, ascending."""
    return [(hours, panel.full(name)) for hours, name in hours_back(panel, r"lag_(\d+)h") if hours % 24 == 0]


def naive_from(panel: Panel, order: Sequence[int] = (24, 168)) -> Array:
    """(S, D, H) the first known of the day lags in ``order``, then of the others; then the week's mean."""
    lags = dict(day_lags(panel))
    out = np.full(panel.shape, np.nan)
    for hours in [*(h for h in order if h in lags), *(h for h in lags if h not in order)]:
        out = np.where(np.isnan(out), lags[hours], out)
    for name in ("mean_24h", "mean_168h", "mean_672h"):
        if name in panel.columns:
            out = np.where(np.isnan(out), panel.full(name), out)
    return out


# --- seasonal naive ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeasonalNaive(_Parameters):
    """The same hour of an earlier day: for each series, the better of the latest known day and a week before."""

    window_days: int = 364

    def fit(self, panel: Panel, cutoffs: Sequence[int], seed: int, standing: bool = True) -> "list[NaiveFit]":
        """Choose between one day (the earliest known) and a week, by absolute error in the window before a cutoff."""
        errors = [np.abs(naive_from(panel, rule) - panel.target) for rule in ((24, 48, 168), (168, 24, 48))]
        fits = []
        for cutoff in cutoffs:
            first, last = np.searchsorted(panel.issued, [cutoff - self.window_days * DAY_US, cutoff])
            known = panel.known_at[:, first:last] <= cutoff
            loss = np.full((2, len(panel.series)), np.inf)
            for i, error in enumerate(errors):
                past = error[:, first:last]
                there = known & np.isfinite(past)
                count = there.sum(axis=(1, 2))
                total = np.sum(past, axis=(1, 2), where=there)
                loss[i] = np.where(count > 0, total / np.maximum(count, 1), np.inf)
            weekly = loss[1] < loss[0]
            fits.append(NaiveFit(dict(zip(panel.series.tolist(), weekly.tolist(), strict=True))))
        return fits


@dataclass(frozen=True)
class NaiveFit:
    """Whether the week beats the day, by series id."""

    weekly: Mapping[str, bool]

    def predict(self, panel: Panel) -> Array:
        """See :class:`Fit`."""
        weekly = np.array([self.weekly.get(s, False) for s in panel.series])[:, None, None]
        return np.where(weekly, naive_from(panel, (168, 24, 48)), naive_from(panel, (24, 48, 168)))


# --- ridge ------------------------------------------------------------------------------------------------------------

HOLIDAYS = ("is_holiday", "is_day_before_holiday", "is_day_after_holiday", "is_year_end")
_CALENDAR = ("season_sin", "season_cos", *HOLIDAYS)
_KNOWN = re.compile(
    r"(lag|last|mean|std|min|max|forecast_lag|error_lag|error_last|error_mean)_\d+h|hour|day_of_week|"
    + "|".join((*_CALENDAR, PUBLISHED))
)

AROUND = re.compile(
    r"(near|north|east|south|west)_(last_day|change_3h|published_forecast|error_last_1h|error_mean_24h)"
)
"""Features of what was known around a series: already relative to the levels of the series there."""


def covariates(panel: Panel) -> list[str]:
    """The features that belong to declared covariates, in units of their own."""
    return [name for name in panel.columns if not _KNOWN.fullmatch(name) and not AROUND.fullmatch(name)]


@dataclass(frozen=True)
class Scales:
    """Place and width of each covariate in each series, from what was known before the first cutoff of a fit."""

    place: Mapping[str, Mapping[str, float]]
    width: Mapping[str, Mapping[str, float]]

    @classmethod
    def learn(cls, panel: Panel, before: int) -> "Scales":
        """Mean and standard deviation by series and covariate over the issue times before a cutoff."""
        past = panel.between(int(panel.issued[0]), before)
        place: dict[str, dict[str, float]] = {}
        width: dict[str, dict[str, float]] = {}
        for name in covariates(panel):
            values = past.columns[name].astype(np.float64).reshape(len(panel.series), -1)
            count = np.isfinite(values).sum(axis=1)
            mean = np.nansum(values, axis=1) / np.maximum(count, 1)
            spread = np.sqrt(np.nansum((values - mean[:, None]) ** 2, axis=1) / np.maximum(count, 1))
            place[name] = dict(zip(panel.series.tolist(), mean.tolist(), strict=True))
            width[name] = dict(zip(panel.series.tolist(), np.where(spread > 0, spread, np.inf).tolist(), strict=True))
        return cls(place, width)

    def apply(self, panel: Panel, name: str) -> Array:
        """The covariate as (S, D, H), about as large as the relative lags: a tenth for one standard deviation."""
        at = np.array([self.place[name].get(s, 0.0) for s in panel.series])[:, None, None]
        by = np.array([self.width[name].get(s, np.inf) for s in panel.series])[:, None, None]
        return (panel.full(name) - at) / by * 0.1


@dataclass(frozen=True)
class Ridge(Relative):
    """One ridge regression for each series and step of the horizon, on everything known at issue time.

    Targets and features are relative to the level of the series at issue time. ``on_published`` learns the error of
    the published forecast instead of the value. A row counts half after ``half_life`` days, and less by ``season``
    the further its season is from that of the forecast: a fit that must serve for a year holds coefficients for
    several seasons and goes from one to the next; 0 where there is less than a year to learn from. clip: bounds of the
    relative target.

    log: values relative to the level are taken as logarithms, for series that span orders of magnitude; of these a
    regression forecasts the median. scaled: ``strength`` counts in rows of the target's own variance, so that series
    with small swings around their level and those with large ones are drawn alike; for short histories. hours: the
    hour of day is a feature, as it must be where forecasts are issued more often than daily.

    robustness: a day counts less whose quarters a first fit misses by more than those of most days (Huber's weights to
    this power, with the median error as the bound); 0: all days count alike.
    """

    minimum_rows = MINIMUM_ROWS

    on_published: bool = False
    log: bool = False
    scaled: bool = False
    hours: bool = False
    half_life: float = 1000.0
    strength: float = 0.05
    season: float = 0.9
    clip: tuple[float, float] = (-0.7, 1.5)
    robustness: float = 0.0

    chunk_bytes: ClassVar[int] = CHUNK_BYTES

    def usable(self, data: Columns) -> bool:
        """On the published forecast: only where there is one."""
        return not self.on_published or data.has(PUBLISHED)

    def design(self, panel: Panel, scales: Scales) -> dict[str, Array]:
        """The features by name, (S, D, H), or (S, D) where one is the same for the whole horizon.

        They are finite, relative to the level and at most 3 in size.
        """
        h = panel.shape[2]
        size = level(panel)
        parts: dict[str, np.ndarray] = {}

        def share(values: np.ndarray) -> np.ndarray:
            return values / (size if values.ndim == 2 else size[:, :, None])

        def relative(values: np.ndarray) -> np.ndarray:
            return self._relative(share(values))

        lags = {f"lag_{k}h": _finite(relative(lag)) for k, lag in day_lags(panel)}
        parts |= lags
        parts |= {name: relative(panel.columns[name]) for _, name in hours_back(panel, r"last_(\d+)h")}
        if self.on_published:
            curve = _finite(relative(published(panel)))
            parts |= {name: relative(panel.columns[name]) for _, name in hours_back(panel, r"forecast_lag_(\d+)h")}
            errors = [name for _, name in hours_back(panel, r"error_\w+_(\d+)h")]
            parts |= {name: np.clip(share(panel.columns[name]), -0.5, 0.5) for name in errors}
            # The published curve of the whole day: what a regression needs to see its shape, peak and total.
            parts |= {f"{PUBLISHED}@{j}": curve[:, :, j] for j in range(min(h, 24))}
            for k in (-2, -1, 0, 1, 2):
                parts[f"{PUBLISHED}{k:+d}"] = curve[:, :, np.clip(np.arange(h) + k, 0, h - 1)]
        else:
            yesterday = next(iter(lags.values()), np.zeros(panel.shape))
            parts |= {f"yesterday@{j}": yesterday[:, :, j] for j in range(min(h, 24))}
            means = [name for name in ("mean_24h", "mean_672h", "min_24h", "max_24h") if name in panel.columns]
            parts |= {name: relative(panel.columns[name]) for name in means}
            if "std_168h" in panel.columns:
                parts["std_168h"] = share(panel.columns["std_168h"])
        if "day_of_week" in panel.columns:
            parts |= {f"day_of_week={k}": panel.columns["day_of_week"] == k for k in range(1, 8)}
        if self.hours and "hour" in panel.columns:
            parts |= {f"hour={k}": panel.columns["hour"] == k for k in range(24)}
        # Within a part of a year a season is nothing but a trend, and a trend is no forecast.
        calendar = [n for n in _CALENDAR if n in panel.columns and (self.season or not n.startswith("season"))]
        parts |= {name: _finite(panel.columns[name]) for name in calendar}
        if "season_sin" in parts and "season_cos" in parts:
            sin, cos = parts["season_sin"], parts["season_cos"]
            parts |= {"season_sin2": 2 * sin * cos, "season_cos2": cos * cos - sin * sin}
        for name in panel.columns:
            around = AROUND.fullmatch(name)
            if around and (self.on_published or around[2] in ("last_day", "change_3h")):
                parts[name] = panel.columns[name]
        for name in covariates(panel):
            value = _finite(scales.apply(panel, name))
            # Its size and its signed square let a weather response bend: heating below, cooling above.
            parts |= {name: value, f"{name}^2": value * np.abs(value) * 5, f"|{name}|": np.abs(value)}
        return {name: np.clip(_finite(part), -3.0, 3.0) for name, part in parts.items()}

    def fit(self, panel: Panel, cutoffs: Sequence[int], seed: int, standing: bool = True) -> "list[RidgeFit]":
        """One pass over the panel for all cutoffs, a block of series at a time."""
        s, d, h = panel.shape
        scales = Scales.learn(panel, cutoffs[0])
        ends = np.asarray(cutoffs, np.int64)
        names = list(self.design(panel.take(slice(0, 1), slice(0, 1)), scales))
        width = len(names) + 1
        seasons = [_seasons(end / DAY_US, standing and end == ends[-1] and self.season > 0) for end in ends]
        coefficients = [np.full((len(centres), s, h, width), np.nan, np.float32) for centres in seasons]
        seasonal, weight = self.season > 0, np.ones(d)
        if sum(map(len, seasons)) == 1:  # one season of one cutoff: in the weights it takes one matrix, not three
            seasonal, weight = False, 1 + self.season * np.cos(2 * np.pi / YEAR * (panel.days - seasons[0][0]))
        chunk = max(1, int(self.chunk_bytes // (8 * h * d * width)))
        for start in range(0, s, chunk):
            part = panel.take(slice(start, start + chunk))
            base, size = self._base(part)
            y = self._relative(part.target / size[:, :, None]) - self._relative(base / size[:, :, None])
            block = np.where(np.isfinite(y), np.searchsorted(ends, part.known_at), len(ends)).transpose(0, 2, 1)
            features = list(self.design(part, scales).values())
            used = np.asarray((block < len(ends)).any(axis=1))
            rows = list(_rows(features, np.nan_to_num(np.clip(y, *self.clip)), used))
            passes = [
                decayed_grams(
                    shared, own, panel.days, known, ends / DAY_US, self.half_life, seasonal=seasonal, weight=counts
                )
                for (_, shared, own), known, mine in zip(rows, block, _weights(part), strict=True)
                for counts in [weight * mine * self._trust(shared, own, panel.days, known, ends / DAY_US, mine)]
            ]
            for k, grams in enumerate(zip(*passes, strict=True)):
                for i, centre in enumerate(seasons[k]):
                    solved = self.solve([in_season(one, centre, self.season) for one in grams])
                    for j, (order, _, _) in enumerate(rows):
                        coefficients[k][i, start + j][:, order] = solved[j]
        return [
            RidgeFit(self, panel.series.tolist(), ["intercept", *names], centres, b, scales)
            for centres, b in zip(seasons, coefficients, strict=True)
        ]

    def _trust(
        self,
        shared: Array,
        own: Array,
        days: Array,
        block: npt.NDArray[np.integer],
        cutoffs: Array,
        weight: Array | float,
    ) -> Array:
        """How much each day of a series counts (D,), by the errors of a fit of the means of its quarters.

        See :func:`lakehouse_assets.ml.linear.decayed_grams`. The quarters show what is strange about a day, for a small
        part of what its hours cost.
        """
        if not self.robustness:
            return np.ones(len(days))
        quarters = np.array_split(np.arange(len(own)), min(QUARTERS, len(own)))
        coarse = np.stack([own[hours].mean(axis=0) for hours in quarters])
        known = np.stack([block[hours].max(axis=0) for hours in quarters])
        day = known.max(axis=0)
        error = np.full(len(days), np.nan)
        weight = np.broadcast_to(weight, len(days))
        for k, grams in enumerate(decayed_grams(shared, coarse, days, known, cutoffs, self.half_life, weight=weight)):
            (b,) = self.solve([in_season(grams, 0.0, 0.0)])
            mine = np.flatnonzero(huber_block(day, k) & (weight > 0))
            fitted = b[:, : len(shared)] @ shared[:, mine]
            fitted += np.einsum("qc,qcd->qd", b[:, len(shared) :], coarse[:, :-1, mine])
            error[mine] = np.abs(coarse[:, -1, mine] - fitted).mean(axis=0)
        return huber(error, day) ** self.robustness

    def solve(self, grams: Sequence[Grams]) -> Sequence[Array]:
        """The coefficients (H, p + 1) of each series' regressions: the intercept, the shared and their own."""
        return [solve_ridge(one, self._penalty(one)) for one in grams]

    def _penalty(self, grams: Grams) -> float | Array:
        """The strength, or what it comes to in units of each regression's variance of y: (H, 1)."""
        return self.strength * np.maximum(grams.variance(), 1e-9)[:, None] if self.scaled else self.strength

    def _base(self, panel: Panel) -> tuple[Array, Array]:
        """What is corrected, (S, D, H), and the level, (S, D)."""
        size = level(panel)
        if self.on_published:
            return published(panel), size
        return np.broadcast_to(size[:, :, None], panel.shape), size


SEASONS = 6
"""Seasons of the year for which a standing fit holds coefficients; between them it goes over in a straight line."""


def _weights(panel: Panel) -> Sequence[Array | float]:
    """How much the days of each series count: (D,), or one number for all."""
    return [1.0] * len(panel.series) if panel.weight is None else list(panel.weight)


def _seasons(cutoff: float, standing: bool) -> Array:
    """The days at which a fit's seasons are centred: the week after the cutoff alone, or around the year."""
    return np.arange(SEASONS if standing else 1, dtype=np.float64) * (YEAR / SEASONS) + (cutoff + 3.5)


def _finite(values: np.ndarray) -> Array:
    """Missing inputs say nothing: zero is "as the level", and carries no weight of its own in a regression."""
    return np.where(np.isfinite(values), values, 0.0)


def huber_block(block: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.bool_]:
    """The days whose weight hangs on their error under the fit at the k-th cutoff.

    Days that were known at the first cutoff have the error of its fit, later ones that of the fit before them: a weight
    knows nothing that came after its day. block: (D,) the first cutoff at which a day is known.
    """
    mine: npt.NDArray[np.bool_] = block <= 1 if k == 0 else block == k + 1
    return mine


def huber(error: Array, block: npt.NDArray[np.integer]) -> Array:
    """A day's weight (D,): one over its error, see :func:`huber_block`, in medians of it, at most 1.

    The median is that of the days known at the first cutoff; without any all days count alike.
    """
    learned = error[(block == 0) & np.isfinite(error)]
    if not len(learned):
        return np.ones(len(error))
    bound = max(float(np.median(learned)), 1e-12)  # a series that never changes is met exactly
    return np.asarray(bound / np.maximum(np.nan_to_num(error), bound))


def _rows(
    features: Sequence[Array], y: Array, used: npt.NDArray[np.bool_]
) -> Iterator[tuple[npt.NDArray[np.intp], Array, Array]]:
    """Series by series, rows (a, D) of ``[1, x]`` that all hours share, and (H, c, D) of ``[x, y]`` of their own.

    features: (S, D) or (S, D, H). y: (S, D, H), finite. used: (S, D) the days that are learned from. What turns out to
    be the same for the whole horizon in all of a series' days is shared as well, however it is stored: a series is
    computed alike in any company and before any future.
    Also the place of each coefficient, the shared ones first, in ``[1, *features]``.
    """
    s, d, h = y.shape
    once = np.array([j for j, feature in enumerate(features) if feature.ndim == 2], np.intp)
    each = np.array([j for j, feature in enumerate(features) if feature.ndim == 3], np.intp)
    shared = np.stack([features[j] for j in once], axis=1) if len(once) else np.empty((s, 0, d))
    own = np.empty((s, h, len(each) + 1, d))
    for i, part in enumerate([*(features[j] for j in each), y]):
        own[:, :, i] = part.transpose(0, 2, 1)
    for i in range(s):
        same = ((own[i, :, :-1] == own[i, :1, :-1]) | ~used[i]).all(axis=(0, 2))
        places = np.concatenate([once, each[same]])
        order = np.argsort(places)
        rows = np.concatenate([np.ones((1, d)), np.concatenate([shared[i], own[i, 0, :-1][same]])[order]])
        yield (
            np.concatenate([[0], 1 + places[order], 1 + each[~same]]),
            rows,
            own[i][:, np.append(~same, True)] if same.any() else own[i],
        )


@dataclass(frozen=True)
class RidgeFit:
    """Coefficients by season: (P, S, H, p + 1), intercept first; seasons: (P,) the days at which they are centred."""

    recipe: Ridge
    series: list[str]
    names: list[str]
    seasons: Array
    coefficients: npt.NDArray[np.float32]
    scales: Scales

    def predict(self, panel: Panel) -> Array:
        """See :class:`Fit`; NaN for series without coefficients and where the level or the base is missing."""
        if not self.recipe.usable(panel):
            return np.full(panel.shape, np.nan)
        features = self.recipe.design(panel, self.scales)
        check_names(self.names[1:], list(features))
        place = {s: i for i, s in enumerate(self.series)}
        rows = np.array([place.get(s, -1) for s in panel.series])
        s, _, h = panel.shape
        relative = np.zeros(panel.shape)
        for share, coefficients in zip(self._shares(panel), self.coefficients, strict=True):
            days = np.flatnonzero(share)
            if len(days):
                b = np.where((rows >= 0)[:, None, None], coefficients[rows].astype(np.float64), np.nan)
                # Not a matrix product: a row's forecast must not depend on how many rows are forecast with it.
                product = np.broadcast_to(b[:, None, :, 0], (s, len(days), h)).copy()
                for j, feature in enumerate(features.values(), start=1):
                    x = feature[:, days]
                    product += (x if x.ndim == 3 else x[:, :, None]) * b[:, None, :, j]
                relative[:, days] += share[days, None] * product
        base, size = self.recipe._base(panel)
        if not self.recipe.log:
            return base + size[:, :, None] * relative
        size = size[:, :, None]
        return size * self.recipe._ratio(self.recipe._relative(base / size) + relative)

    def _shares(self, panel: Panel) -> Array:
        """(P, D) how much each season's coefficients count on an issue day: the two nearest, in a straight line."""
        count = len(self.seasons)
        if count == 1:
            return np.ones((1, len(panel.issued)))
        place = ((panel.days - self.seasons[0]) % YEAR) / YEAR * count
        before = np.floor(place).astype(int) % count
        shares = np.zeros((count, len(place)))
        day = np.arange(len(place))
        shares[before, day] = 1 - place % 1
        shares[(before + 1) % count, day] += place % 1
        return shares


# --- boosting across series -------------------------------------------------------------------------------------------


def own_cutoffs(cutoffs: Sequence[int], refit_days: float) -> tuple[list[int], list[int]]:
    """The cutoffs that have their own fit, and for each cutoff which of these serves it."""
    own: list[int] = []
    serving: list[int] = []
    for k, cutoff in enumerate(cutoffs):
        if not own or k == len(cutoffs) - 1 or cutoff - own[-1] >= refit_days * DAY_US:
            own.append(cutoff)
        serving.append(len(own) - 1)
    return own, serving


def check_names(fitted: Sequence[str], found: Sequence[str]) -> None:
    """Raise ValueError where a panel's features are not those that a fit has learned from."""
    if list(found) != list(fitted):
        missing = sorted(set(fitted) ^ set(found))
        raise ValueError(f"the features are not those of the fit; they differ in {', '.join(missing)}")


class Pooled(_Parameters):
    """An estimator across series: every shard of a fleet contributes a sample, from which one fit learns for all."""

    pooled = True

    def sample(self, panel: Panel, cutoffs: Sequence[int], seed: int, share: float) -> Any:
        """What the panel's series, a share of the whole fleet, contribute to the fit at each cutoff; it must pickle."""
        raise NotImplementedError

    def fit_samples(self, samples: Sequence[Any], cutoffs: Sequence[int], seed: int) -> Sequence[Fit]:
        """One fit for each cutoff, from the samples of all shards."""
        raise NotImplementedError

    def fit(self, panel: Panel, cutoffs: Sequence[int], seed: int, standing: bool = True) -> Sequence[Fit]:
        """One fit for each cutoff, where the panel holds all series."""
        return self.fit_samples([self.sample(panel, cutoffs, seed, 1.0)], cutoffs, seed)


@dataclass(frozen=True)
class Boosting(Pooled):
    """Histogram gradient boosting over all series at once, on the error of the published forecast where there is one.

    Costs are bounded: at most ``rows`` rows drawn from the latest ``window_days``; a cutoff within ``refit_days`` of
    the latest fit uses that one (never newer than the cutoff), except that the last cutoff always has its own.

    by_spread: values count in standard deviations of the series' last week from its mean, instead of in levels, so
    that series with small swings teach and learn as much as those with large ones.
    """

    iterations: int = 100
    leaves: int = 31
    learning_rate: float = 0.1
    rows: int = 60_000
    window_days: int = 730
    refit_days: int = 45
    by_spread: bool = False

    def unit(self, panel: Panel) -> tuple[Array, Array]:
        """(S, D) what values are measured from and in."""
        size = level(panel)
        if not self.by_spread or not {"mean_168h", "std_168h"} <= panel.columns.keys():
            return np.zeros(size.shape), size
        std = panel.once("std_168h").astype(float)
        return panel.once("mean_168h").astype(float), np.fmax(std, 1e-3 * size)

    def design(self, panel: Panel) -> tuple[list[str], npt.NDArray[np.float32]]:
        """The features' names and the matrix (S, D, H, p), in units, NaN where unknown."""
        place, size = (a[:, :, None] for a in self.unit(panel))
        parts: list[tuple[str, np.ndarray]] = []
        for name in panel.columns:
            values = panel.full(name)
            scaled = _KNOWN.fullmatch(name) and name not in (*_CALENDAR, "hour", "day_of_week")
            from_zero = name.startswith(("std_", "error_"))
            parts.append((name, (values if from_zero else values - place) / size if scaled else values))
        if self.by_spread:
            parts.append(("spread", size / level(panel)[:, :, None]))
        parts.append(("step", np.arange(panel.shape[2])))
        x = np.empty((*panel.shape, len(parts)), np.float32)
        for j, (_, part) in enumerate(parts):
            x[..., j] = part
        return [name for name, _ in parts], x

    def sample(self, panel: Panel, cutoffs: Sequence[int], seed: int, share: float) -> Sample:
        """Rows of these series for each cutoff that asks for a fit of its own."""
        on_published = panel.has(PUBLISHED)
        names = self.design(panel.take(slice(0, 1), slice(0, 1)))[0]
        own, _ = own_cutoffs(cutoffs, self.refit_days)
        return Sample(on_published, names, [self._draw(panel, c, seed, share) for c in own])

    def _draw(self, panel: Panel, cutoff: int, seed: int, share: float) -> tuple[npt.NDArray[np.float32], Array]:
        past = panel.between(cutoff - self.window_days * DAY_US, cutoff)
        base, size = self.base(past, panel.has(PUBLISHED))
        y = (past.target - base) / size[:, :, None]
        usable = np.flatnonzero((np.isfinite(y) & (past.known_at <= cutoff)).ravel())
        most = max(1, round(self.rows * share))
        if len(usable) > most:
            usable = np.sort(np.random.default_rng(seed).choice(usable, most, replace=False))
        bounds = (-8.0, 8.0) if self.by_spread else (-0.7, 1.5)
        return self._rows(past, usable)[1], np.clip(y.ravel()[usable], *bounds)

    def fit_samples(self, samples: Sequence[Sample], cutoffs: Sequence[int], seed: int) -> "list[BoostingFit]":
        """One model for all series at each cutoff that asks for its own, two at a time."""
        # Where some series have a published forecast, its error is what is learned; the others are left to the ladder.
        on_published = any(sample.on_published for sample in samples)
        samples = [sample for sample in samples if sample.on_published == on_published]
        own, serving = own_cutoffs(cutoffs, self.refit_days)

        def learn(k: int) -> "BoostingFit":
            x = np.concatenate([sample.rows[k][0] for sample in samples])
            y = np.concatenate([sample.rows[k][1] for sample in samples])
            return BoostingFit(self, self._learn(x, y, seed), samples[0].names, on_published)

        with ThreadPoolExecutor(max_workers=2) as pool:
            fits = list(pool.map(learn, range(len(own))))
        return [fits[k] for k in serving]

    def _learn(self, x: npt.NDArray[np.float32], y: Array, seed: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        if not len(y):
            return None
        x[:, np.isnan(x).all(axis=0)] = 0.0  # scikit-learn cannot bin a column without values
        model = HistGradientBoostingRegressor(
            loss="absolute_error",
            max_iter=self.iterations,
            max_leaf_nodes=self.leaves,
            learning_rate=self.learning_rate,
            early_stopping=False,
            random_state=seed,
        )
        # One thread: OpenMP's threads spin when they share the machine, which costs far more than it gains.
        with threadpool_limits(1, "openmp"):
            model.fit(x, y)
        return model

    def base(self, panel: Panel, on_published: bool) -> tuple[Array, Array]:
        """What is corrected, (S, D, H), and the unit of the correction, (S, D)."""
        base, size = _boosting_base(panel, on_published)
        if not self.by_spread:
            return base, size
        place, unit = self.unit(panel)
        own = on_published and PUBLISHED in panel.columns
        return (base if own else np.broadcast_to(place[:, :, None], panel.shape)), unit

    def _rows(self, panel: Panel, rows: np.ndarray) -> tuple[list[str], npt.NDArray[np.float32]]:
        """The design of some rows of the flattened panel, series by series for the sake of memory."""
        each = panel.shape[1] * panel.shape[2]
        names: list[str] = []
        out = []
        for i in range(len(panel.series)):
            mine = rows[(rows >= i * each) & (rows < (i + 1) * each)] - i * each
            names, x = self.design(panel.take(slice(i, i + 1)))
            out.append(x.reshape(each, -1)[mine])
        return names, np.concatenate(out)


def _boosting_base(panel: Panel, on_published: bool) -> tuple[Array, Array]:
    size = level(panel)
    base = np.broadcast_to(size[:, :, None], panel.shape)
    if on_published and PUBLISHED in panel.columns:
        base = published(panel)
    return base, size


@dataclass(frozen=True)
class BoostingFit:
    """A fitted scikit-learn model over all series; also forecasts series that it has never seen."""

    recipe: Boosting
    model: Any
    names: list[str]
    on_published: bool

    def predict(self, panel: Panel) -> Array:
        """See :class:`Fit`."""
        if self.model is None or not panel.target.size:
            return np.full(panel.shape, np.nan)
        from threadpoolctl import threadpool_limits

        base, size = self.recipe.base(panel, self.on_published)
        names, x = self.recipe.design(panel)
        check_names(self.names, names)
        with threadpool_limits(1, "openmp"):
            relative = self.model.predict(x.reshape(-1, x.shape[-1])).reshape(panel.shape)
        return base + size[:, :, None] * relative


# --- blend ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blend(_Parameters):
    """A weighted mean of other candidates; the weights of each series come from their errors out of sample.

    Weights are not negative and sum to one. They minimise the blend's absolute error (iterated non-negative least
    squares), drawn towards the weights of the whole fleet as if those had been seen in ``prior_days`` further days.
    Members' errors count as less alike than they were, by ``unrelated`` (0: not at all): of forecasts that err alike a
    few weeks say little about which is better, and their weights come out near to one over their mean squares.
    """

    members: tuple[str, ...]
    prior_days: float = 28.0
    unrelated: float = 0.3
    weights: Mapping[str, Mapping[str, float]] | None = field(default=None, compare=False)

    def parameters(self) -> dict[str, Any]:
        """The parameters without the learned weights."""
        numbers = {"prior_days": self.prior_days, "unrelated": self.unrelated}
        return {"estimator": "Blend", "members": list(self.members)} | numbers

    def learn(self, series: Sequence[str], errors: Array) -> tuple["Blend", Array]:
        """This blend with weights from out-of-sample errors (M, S, N), relative to each series' level, NaN allowed.

        Also returns what its series say of the weights of a fleet, (M, M): added up over shards, see :meth:`across`.
        """
        m = len(errors)
        full = np.isfinite(errors).all(axis=0)
        e = np.where(full, np.nan_to_num(errors), 0.0)
        count = full.sum(axis=1)
        if not count.any():
            equal = dict.fromkeys(self.members, 1.0 / m)
            return replace(self, weights=dict.fromkeys(["", *series], equal)), np.zeros((m, m))
        # Units of each series: its best member's mean absolute error.
        size = np.abs(e).sum(axis=2) / np.maximum(count, 1)
        unit = np.where(size.min(axis=0) > 0, size.min(axis=0), 1.0)
        e = e / unit[:, None]
        # Begin near the best member: from equal weights the iteration is slow to leave a bad one.
        weights = (np.maximum(size / unit, 1.0) ** -8).T
        weights /= weights.sum(axis=1, keepdims=True)
        fleet = np.full(m, 1.0 / m)
        for _ in range(_ROUNDS):
            # Absolute errors by reweighted squares: an hour counts by one over the blend's error in it.
            pull = np.where(full, 1.0 / np.maximum(np.abs(np.einsum("sm,msn->sn", weights, e)), 0.1), 0.0)
            moments = np.einsum("msn,ksn,sn->smk", e, e, pull)
            moments *= 1.0 + self.unrelated * np.eye(m)
            own = moments / np.maximum(count, 1)[:, None, None]
            total = np.trace(own, axis1=1, axis2=2)
            shared = (own[total > 0] / total[total > 0, None, None]).sum(axis=0)
            fleet = _simplex_weights(shared)
            prior = shared / max(np.diagonal(shared).min(), 1e-300) * self.prior_days * 24
            for i in range(len(series)):
                weights[i] = _simplex_weights(moments[i] + prior) if count[i] else fleet
        table = {
            name: dict(zip(self.members, row.tolist(), strict=True))
            for name, row in zip(["", *series], [fleet, *weights], strict=True)
        }
        return replace(self, weights=table), shared

    def across(self, shared: Array) -> "Blend":
        """This blend with the weights of a fleet alone, which is what a series that it does not know gets."""
        weights = _simplex_weights(shared) if shared.any() else np.full(len(shared), 1.0 / len(shared))
        return replace(self, weights={"": dict(zip(self.members, weights.tolist(), strict=True))})

    def combine(self, series: Sequence[str], forecasts: Array) -> Array:
        """The blend of the members' forecasts (M, S, D, H); members that have none leave their weight to the others."""
        m = len(self.members)
        table = self.weights or {}
        default = table.get("", dict.fromkeys(self.members, 1.0 / m))
        weights = np.array([[table.get(s, default)[n] for s in series] for n in self.members])[:, :, None, None]
        # A little for everyone, so that the one member left can speak although its weight is nothing.
        weights = np.where(np.isfinite(forecasts), weights + 1e-9, 0.0)
        total = weights.sum(axis=0)
        mixed = (weights * np.where(np.isfinite(forecasts), forecasts, 0.0)).sum(axis=0)
        return np.where(total > 0, mixed / np.where(total > 0, total, 1.0), np.nan)


_ROUNDS = 8
"""Iterations of the reweighted least squares for a blend's weights."""


def _simplex_weights(moments: Array) -> Array:
    """The weights w >= 0, sum w = 1, that minimise w' M w (an error's mean square), by non-negative least squares.

    With errors e_m = forecast_m - y and sum w = 1 the blend's error is sum w_m e_m. Minimising w'Mw - 2 t 1'w over
    w >= 0 gives the same direction for any t > 0 (the optimality conditions are homogeneous), so one NNLS will do.
    """
    from scipy.optimize import nnls

    m = len(moments)
    eye = moments + np.eye(m) * (1e-6 * np.trace(moments) / m + 1e-12)
    lower = np.linalg.cholesky(eye)
    weights, _ = nnls(lower.T, np.linalg.solve(lower, np.ones(m)))
    total = weights.sum()
    return weights / total if total > 0 else np.full(m, 1.0 / m)
