"""The input channel: how far the inputs have moved from a reference, by five measures, by column and by slice.

Inputs move with the seasons, and most moves cost a model nothing. So a distance says little by itself: it counts
against what the reference's own weeks have from each other at the same season. As a rule the channel explains a drift
(:func:`input_drift`); where labels come late it may call one (:func:`surprises`).

Samples are compared as counts of equal cells, so that distances of thousands of windows come from one pass over the
values.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.metrics import benjamini_hochberg
from lakehouse_assets.ml.panel import DAY_US, Panel
from lakehouse_assets.ml.unusual import COMPARABLE, SEASON_WEEKS, season_distance, unusual

Array = npt.NDArray[np.floating]
MEASURES = ("psi", "kolmogorov_smirnov", "wasserstein", "jensen_shannon", "chi_squared")
CELLS, BINS = 2048, 10
"""Equal cells on which distributions are compared, and the reference's quantile bins made of them."""
_SAMPLE = 10_000


@dataclass(frozen=True)
class Cells:
    """Samples (...) as counts (..., cells + 2) of equal cells, the first and the last for what lies beyond.

    below, above: (...) sums of how far values lie beyond.
    """

    counts: npt.NDArray[np.floating]
    below: npt.NDArray[np.floating]
    above: npt.NDArray[np.floating]

    @property
    def number(self) -> npt.NDArray[np.floating]:
        """(...) how many values there are."""
        return np.asarray(self.counts.sum(axis=-1))

    def mixed(self, weights: npt.NDArray[np.floating]) -> "Cells":
        """Sums over the windows (axis 1) with weights (M, N): of (S, N, ...) samples, (S, M, ...)."""
        return Cells(*(np.moveaxis(np.tensordot(weights, a, (1, 1)), 0, 1) for a in self._parts))

    def at(self, *place: int | slice) -> "Cells":
        """Some of the samples."""
        return Cells(*(a[place] for a in self._parts))

    @property
    def _parts(self) -> tuple[npt.NDArray[np.floating], ...]:
        return self.counts, self.below, self.above


def distances(reference: Array, current: Array) -> dict[str, float]:
    """How far a sample is from a reference; NaN when either is empty. Values that are not finite do not count.

    psi: population stability index over the reference's deciles, empty bins counting half a value.
    kolmogorov_smirnov: the widest gap between the two distribution functions. wasserstein: first distance, in standard
    deviations of the reference. jensen_shannon: distance over the same deciles, in base 2 (0 to 1). chi_squared: mean
    squared contingency with the reference's shares, sum of (share - expected)^2 / expected over the deciles.

    Distributions are compared on ``CELLS`` cells over three times the reference's width, so that a distance is exact to
    about a thousandth of that width; what lies beyond counts by its mean.
    """
    reference, current = _finite(reference), _finite(current)
    if not len(reference) or not len(current):
        return dict.fromkeys(MEASURES, float("nan"))
    low, high = np.quantile(reference[:: max(1, len(reference) // _SAMPLE)], [0.001, 0.999]).astype(float)
    low, width = _widened(low, high)
    before, after = (_cells(values, float(low), float(width)) for values in (reference, current))
    found = compared(before, after, width, np.asarray(reference.std(dtype=np.float64)))
    return {name: float(value) for name, value in found.items()}


def compared(before: Cells, after: Cells, width: npt.NDArray, spread: npt.NDArray) -> dict[str, npt.NDArray]:
    """The measures of samples (...) on common cells that span ``width``; spread: the reference's standard deviation.

    NaN where either sample is empty.
    """
    n, m = before.number, after.number
    there = (n > 0) & (m > 0)
    n, m = np.where(there, n, 1.0), np.where(there, m, 1.0)
    reached = np.cumsum(before.counts, axis=-1) / n[..., None]
    gaps = reached - np.cumsum(after.counts, axis=-1) / m[..., None]
    beyond = np.abs(before.below / n - after.below / m) + np.abs(before.above / n - after.above / m)
    apart = np.abs(gaps[..., 1:-1]).sum(axis=-1) * width / (gaps.shape[-1] - 2) + beyond
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.where(apart > 0, apart / spread, 0.0)
    # The decile in which a cell lies: that of what comes before it.
    decile = np.zeros(before.counts.shape, np.int8)
    decile[..., 1:] = np.minimum(reached[..., :-1] * BINS + 1e-9, BINS - 1)
    place = (np.arange(there.size).reshape(there.shape)[..., None] * BINS + decile).ravel()
    cells = np.bincount(place, minlength=there.size * BINS) > 0
    sums = (np.bincount(place, c.counts.ravel(), minlength=there.size * BINS) for c in (before, after))
    a, b = (np.where(cells, total + 0.5, 0.0).reshape(*there.shape, BINS) for total in sums)
    a, b = a / a.sum(axis=-1, keepdims=True), b / b.sum(axis=-1, keepdims=True)
    a, b = (np.where(a > 0, side, 1.0) for side in (a, b))  # bins without cells: equal shares add nothing
    middle = (a + b) / 2
    psi = ((b - a) * np.log(b / a)).sum(axis=-1)
    divergence = (a * np.log2(a / middle) + b * np.log2(b / middle)).sum(axis=-1) / 2
    chi = ((b - a) ** 2 / a).sum(axis=-1)
    found = (psi, np.abs(gaps).max(axis=-1), apart, np.sqrt(np.maximum(divergence, 0.0)), chi)
    return {name: np.where(there, value, np.nan) for name, value in zip(MEASURES, found, strict=True)}


def _finite(values: Array) -> Array:
    finite = np.isfinite(values)
    return values.ravel() if finite.all() else values[finite]


def _widened(low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[npt.NDArray, npt.NDArray]:
    """The lower end and the span of cells over three times a reference's width."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    width = np.where(high > low, high - low, np.maximum(np.abs(high), 1.0) * 1e-6)
    return low - width, 3 * width


def _cells(values: Array, low: float, width: float) -> Cells:
    """One sample of finite values."""
    place = (values - low) * (CELLS / width)
    np.clip(place, -1, CELLS, out=place)
    counts = np.bincount(np.floor(place).astype(np.int32) + 1, minlength=CELLS + 2).astype(float)
    below, above = (np.asarray(np.maximum(side, 0).sum(dtype=float)) for side in (low - values, values - low - width))
    return Cells(counts, below, above)


def binned(
    values: Array, group: npt.NDArray[np.int64], groups: int, low: npt.NDArray, width: npt.NDArray, cells: int
) -> Cells:
    """Samples (S, groups) of values (S, N) that belong to groups (N,) or (S, N); negative: to none. NaN does not count.

    low, width: (S,) lower end and span of the cells of each series.
    """
    s, at = np.nonzero(np.isfinite(values) & (group >= 0))
    v = values[s, at].astype(float) - low[s]
    sample = s * groups + (group[at] if group.ndim == 1 else group[s, at])
    place = np.clip(np.floor(v * (cells / width[s])), -1, cells).astype(np.int64) + 1
    size = len(values) * groups
    counts = np.bincount(sample * (cells + 2) + place, minlength=size * (cells + 2))
    shape = (len(values), groups)
    below, above = (
        np.bincount(sample, np.maximum(beyond, 0.0), minlength=size).astype(np.float64).reshape(shape)
        for beyond in (-v, v - width[s])
    )
    return Cells(counts.reshape(*shape, cells + 2).astype(np.float64), below, above)


def _bounds(values: Array) -> tuple[npt.NDArray, npt.NDArray]:
    """(S,) lower ends and spans of cells for references (S, N); of series without values, anything."""
    sample = np.sort(values[:, :: max(1, values.shape[1] // _SAMPLE)].astype(float), axis=1)
    last = np.maximum(np.isfinite(sample).sum(axis=1) - 1, 0)
    each = np.arange(len(sample))
    low, high = (sample[each, np.round(q * last).astype(int)] for q in (0.001, 0.999))
    return _widened(np.nan_to_num(low), np.nan_to_num(high))


# --- what moved with a drift ------------------------------------------------------------------------------------------

_NOT_INPUTS = {"horizon", "hour", "day_of_week", "season_sin", "season_cos"}
MONTH_CELLS = 512
MONTH = 28
"""Issue times of the windows whose distances from each other are the measure of a move."""


def input_columns(names: Sequence[str]) -> list[str]:
    """The features that say something of their own: not the calendar, nor the lags beyond a day, which repeat it."""
    names = [n for n in names if n not in _NOT_INPUTS and not n.startswith("is_")]
    return [n for n in names if not (n.startswith(("lag_", "last_")) and n != "lag_24h")]


def input_drift(reference: Panel, current: Panel) -> pl.DataFrame:
    """series_id, column, the measures, usual, reference_mean, current_mean: the widest moves first within a series.

    usual: the largest Wasserstein distance of a month of the reference from the rest of it; moves are sorted by how
    often they are that. Compares the target and the features of :func:`input_columns`.
    """
    both = sorted(set(reference.series.tolist()) & set(current.series.tolist()))
    pairs = [panel.take(series=np.flatnonzero(np.isin(panel.series, both))) for panel in (reference, current)]
    days = pairs[0].shape[1]
    months = days // MONTH
    # The months, what is left of the reference, the current sample.
    window = np.concatenate([np.minimum(np.arange(days) // MONTH, months), np.full(pairs[1].shape[1], months + 1)])
    frames = []
    for name in ["target", *(n for n in input_columns(list(reference.columns)) if n in current.columns)]:
        before, after = (_column(panel, name) for panel in pairs)
        values = np.concatenate([before, after], axis=1)
        low, width = _bounds(before.reshape(len(before), -1))
        flat = values.reshape(len(values), -1)
        cells = binned(flat, np.repeat(window, values.shape[2]), months + 2, low, width, MONTH_CELLS)
        mean, spread = _statistics(before)
        current_mean, _ = _statistics(after)
        weights = np.zeros((months + 1, months + 2))
        weights[:, : months + 1] = 1 - np.eye(months + 1)
        weights[months, : months + 1] = 1
        rest = cells.mixed(weights)
        found = compared(rest.at(slice(None), months), cells.at(slice(None), months + 1), width, spread)
        usual = np.full(len(values), np.nan)
        if months > 1:
            own = compared(
                rest.at(slice(None), slice(months)),
                cells.at(slice(None), slice(months)),
                width[:, None],
                spread[:, None],
            )
            apart = np.where(np.isfinite(own["wasserstein"]), own["wasserstein"], -np.inf).max(axis=1)
            usual = np.where(np.isfinite(apart), apart, np.nan)
        columns = {"series_id": both, "column": [name] * len(both), **found, "usual": usual}
        frames.append(pl.DataFrame({**columns, "reference_mean": mean, "current_mean": current_mean}))
    frame = pl.concat(frames).filter(pl.col("wasserstein").is_not_nan())
    times = pl.col("wasserstein") / pl.max_horizontal(pl.col("usual").fill_nan(None), pl.lit(0.05))
    return frame.sort("series_id", times, descending=[False, True], maintain_order=True)


def _column(panel: Panel, name: str) -> Array:
    """(S, D, H) the target or a feature; (S, D, 1) of a feature that is the same for the whole horizon."""
    values = panel.target if name == "target" else panel.columns[name]
    return values if values.ndim == 3 else values[:, :, None]


def _statistics(values: Array) -> tuple[npt.NDArray, npt.NDArray]:
    """(S,) mean and standard deviation of (S, D, H); NaN where there is nothing."""
    known = np.isfinite(values)
    number = known.sum(axis=(1, 2))
    count = np.where(number > 0, number, np.nan)
    mean = np.where(known, values, 0.0).sum(axis=(1, 2), dtype=float) / count
    apart = np.where(known, values - mean[:, None, None], 0.0)
    return mean, np.sqrt((apart**2).sum(axis=(1, 2), dtype=float) / count)


# --- what may call a drift --------------------------------------------------------------------------------------------

WINDOW, STEP = 4, 4
"""Weeks of a window, and from one window to the next."""
WINDOW_CELLS = 96
BLOCK_HOURS = 6
LEAST_MOVE = 0.2
"""Standard deviations by which a column must have moved in its slice to be worth a word (Wasserstein)."""
HISTORY_WEEKS = 108
"""Weeks of history that are looked at: two years and a window."""
SURPRISES: dict[str, pl.DataType] = {
    "series_id": pl.String(),
    "column": pl.String(),
    "slice": pl.String(),
    "measure": pl.String(),
    "distance": pl.Float64(),
    "wasserstein": pl.Float64(),
    "p_value": pl.Float64(),
}


def decided(surprises: pl.DataFrame, policy: DriftPolicy) -> pl.DataFrame:
    """Those of all series (:func:`surprises`) with ``moved``: whether they call a drift.

    One does that is rarer than ``false_alarm_rate``, more than chance across series, and ``LEAST_MOVE`` or more.
    """
    q = benjamini_hochberg(surprises["p_value"].fill_null(np.nan).to_numpy())
    rare = (pl.col("p_value") <= policy.false_alarm_rate) & (pl.col("wasserstein") >= LEAST_MOVE)
    return surprises.with_columns(moved=rare & pl.lit(pl.Series(q <= policy.false_discovery_rate)))


def surprises(panel: Panel, end: int) -> pl.DataFrame:
    """How far the inputs of the latest ``WINDOW`` weeks have moved, against what they do by themselves at this season.

    panel: the history with the weeks that end at ``end`` (microseconds since the epoch). Of every series its largest
    surprise: column, slice (all hours, a block of hours of the horizon, weekdays, weekends), measure and its distance;
    p_value by resampling of the distances that windows of the history have from the other weeks of their season, all
    columns, slices and measures taken together. Null where the history is too short.
    """
    week = 7 * DAY_US
    number = min(HISTORY_WEEKS, int((end - panel.issued[0]) // week)) if len(panel.issued) else 0
    panel = panel.between(end - number * week, end)
    series = panel.series.tolist()
    nothing = pl.DataFrame({"series_id": series}, schema_overrides={"series_id": pl.String()})
    if number < WINDOW * (STEP + 1):
        return nothing.with_columns(pl.lit(None, t).alias(n) for n, t in SURPRISES.items() if n != "series_id")
    of_week = (panel.issued - (end - number * week)) // week
    centres = end - number * week + np.arange(number, dtype=np.int64) * week
    # Windows that end with the last week, one after the other.
    starts = np.arange(number - WINDOW, -1, -STEP)[::-1]
    own = (np.arange(number) >= starts[:, None]) & (np.arange(number) < starts[:, None] + WINDOW)
    earlier = np.arange(number) < number - WINDOW
    near = (season_distance(centres[starts + WINDOW // 2], centres) <= SEASON_WEEKS) & ~own & earlier
    reference = np.where(near.sum(axis=1, keepdims=True) >= COMPARABLE, near, ~own & earlier)
    weekend = _weekend(panel)
    labels, found = [], []
    for name in ["target", *input_columns(list(panel.columns))]:
        values = _column(panel, name)
        block = np.arange(values.shape[2]) // BLOCK_HOURS
        kinds = int(block.max()) + 1
        group = ((of_week[None, :, None] * kinds + block) * 2 + weekend[:, :, : values.shape[2]]).reshape(
            len(values), -1
        )
        flat = values.reshape(len(values), -1)
        past = np.where((of_week < number - WINDOW)[None, :, None], values, np.nan)
        low, width = _bounds(past.reshape(len(values), -1))
        cells = binned(flat, group, number * kinds * 2, low, width, WINDOW_CELLS)
        split = Cells(
            cells.counts.reshape(len(values), number, kinds, 2, -1),
            cells.below.reshape(len(values), number, kinds, 2),
            cells.above.reshape(len(values), number, kinds, 2),
        )
        _, spread = _statistics(past)
        for slice_name, part in _slices(split):
            before, after = part.mixed(reference.astype(float)), part.mixed(own.astype(float))
            for measure, apart in compared(before, after, width[:, None], spread[:, None]).items():
                labels.append((name, slice_name, measure))
                found.append(apart)
    apart = np.stack(found, axis=2)
    # Those that grow with the square of a move are compared by their roots.
    squares = np.array([measure in ("psi", "chi_squared") for *_, measure in labels])
    size = np.where(np.isfinite(apart), np.where(squares, np.sqrt(np.maximum(apart, 0.0)), apart), np.nan)
    judged = unusual(
        size[:, : -(WINDOW // STEP)],
        size[:, -1:],
        centres[starts[: -(WINDOW // STEP)]],
        centres[starts[-1:]],
        latest=1,
        upwards=np.ones(len(labels), bool),
        wild=np.inf,
    )
    column = judged.column[:, 0]
    at_least = np.array([labels.index((*labels[k][:2], "wasserstein")) for k in column])
    each = np.arange(len(series))
    rows = {
        "series_id": series,
        **{n: [labels[k][i] for k in column] for i, n in enumerate(("column", "slice", "measure"))},
        "distance": apart[each, -1, column],
        "wasserstein": apart[each, -1, at_least],
        "p_value": judged.p[:, 0],
    }
    return pl.DataFrame(rows, schema=SURPRISES).with_columns(pl.col(pl.Float64).fill_nan(None))


def _slices(split: Cells) -> list[tuple[str, Cells]]:
    """Samples (S, W) by the name of their slice, from those (S, W, blocks of hours, weekday or weekend)."""

    def part(*place: slice | int) -> Cells:
        chosen = [a[(slice(None), slice(None), *place)] for a in (split.counts, split.below, split.above)]
        return Cells(chosen[0].sum(axis=(2, 3)), chosen[1].sum(axis=(2, 3)), chosen[2].sum(axis=(2, 3)))

    every = slice(None)
    blocks = split.counts.shape[2]
    out = [
        ("all hours", part(every, every)),
        ("weekdays", part(every, slice(0, 1))),
        ("weekends", part(every, slice(1, 2))),
    ]
    if blocks > 1:
        hours = [f"{k * BLOCK_HOURS} to {(k + 1) * BLOCK_HOURS - 1} of the horizon" for k in range(blocks)]
        out += [(hours[k], part(slice(k, k + 1), every)) for k in range(blocks)]
    return out


def _weekend(panel: Panel) -> npt.NDArray[np.int64]:
    """(S, D, H) 1 on Saturdays and Sundays, by the local calendar where the panel has it."""
    if "day_of_week" in panel.columns:
        return (panel.full("day_of_week") >= 6).astype(np.int64)
    # The epoch was a Thursday.
    hours = panel.issued[:, None] // (DAY_US // 24) + np.arange(panel.shape[2])
    return np.broadcast_to(((hours // 24 + 3) % 7 >= 5).astype(np.int64), panel.shape)


_DERIVED = re.compile(r"(?:^|_)(?:lag|last|mean|std|min|max|change)_\d+h$|_last_day$")
_OF_THE_TARGET = {"error", "forecast"}


def main_inputs(columns: Sequence[str]) -> list[str]:
    """The features that come from outside: published forecasts and covariates, but no calendar and no statistics.

    A covariate that is known only after the fact is watched as of a day before.
    """
    found = [n for n in columns if n not in _NOT_INPUTS and not n.startswith("is_") and not _DERIVED.search(n)]
    found = [n for n in found if not any(n.endswith(f"_{other}") for other in found)]
    bare = {n: n.removesuffix("_lag_24h") for n in columns if n.endswith("_lag_24h")}
    return [*found, *(n for n, name in bare.items() if name not in columns and name not in _OF_THE_TARGET)]
