"""The input channel: how far a sample has moved from a reference, by five measures, in one pass over its values.

Inputs move with the seasons, and most moves cost a model nothing. So they explain a drift rather than call one, and a
distance says little by itself: it counts in units of what the reference's own months have from each other.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.panel import Panel

Array = npt.NDArray[np.floating]
MEASURES = ("psi", "kolmogorov_smirnov", "wasserstein", "jensen_shannon", "chi_squared")
CELLS, BINS = 2048, 10
"""Equal cells on which distributions are compared, and the reference's quantile bins made of them."""
_SAMPLE = 10_000


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
    width = high - low
    if width == 0:
        width = max(abs(high), 1.0) * 1e-6
    low, width = low - width, 3 * width
    before, after = (_cells(values, low, width) for values in (reference, current))
    gaps = np.cumsum(before / len(reference)) - np.cumsum(after / len(current))
    beyond = sum(
        abs(float(np.maximum(side(reference), 0).mean()) - float(np.maximum(side(current), 0).mean()))
        for side in (lambda v: low - v, lambda v: v - low - width)
    )
    apart = float(np.abs(gaps[1:-1]).sum()) * width / CELLS + beyond
    spread = float(reference.std())
    if spread > 0:
        apart /= spread
    elif apart > 0:
        apart = float("inf")
    cut = np.searchsorted(np.cumsum(before), np.arange(1, BINS) * len(reference) / BINS)
    starts = np.concatenate([[0], np.unique(cut + 1)])
    a, b = (np.add.reduceat(cells, starts[starts < len(cells)]) + 0.5 for cells in (before, after))
    a, b = a / a.sum(), b / b.sum()
    middle = (a + b) / 2
    divergence = (a * np.log2(a / middle) + b * np.log2(b / middle)).sum() / 2
    return {
        "psi": float(((b - a) * np.log(b / a)).sum()),
        "kolmogorov_smirnov": float(np.abs(gaps).max()),
        "wasserstein": apart,
        "jensen_shannon": float(np.sqrt(max(divergence, 0.0))),
        "chi_squared": float(((b - a) ** 2 / a).sum()),
    }


def _finite(values: Array) -> Array:
    finite = np.isfinite(values)
    return values.ravel() if finite.all() else values[finite]


def _cells(values: Array, low: float, width: float) -> npt.NDArray[np.int64]:
    """Counts of values in the cells, and in one more at either end for what lies beyond."""
    place = (values - low) * (CELLS / width)
    np.clip(place, -1, CELLS, out=place)
    return np.bincount(np.floor(place).astype(np.int32) + 1, minlength=CELLS + 2)


_NOT_INPUTS = {"horizon", "hour", "day_of_week", "season_sin", "season_cos"}
MONTH = 28
"""Issue times of the windows whose distances from each other are the measure of a move."""


def input_drift(reference: Panel, current: Panel) -> pl.DataFrame:
    """series_id, column, the measures, usual, reference_mean, current_mean: the widest moves first within a series.

    usual: the largest Wasserstein distance of a month of the reference from the rest of it; moves are sorted by how
    often they are that. Compares the target and the features but the calendar and the lags beyond a day, which only
    repeat it.
    """
    names = [n for n in reference.columns if n not in _NOT_INPUTS and not n.startswith("is_")]
    names = [n for n in names if not (n.startswith(("lag_", "last_")) and n != "lag_24h")]
    rows = []
    place = {s: i for i, s in enumerate(current.series.tolist())}
    for i, series in enumerate(reference.series.tolist()):
        j = place.get(series)
        if j is None:
            continue
        pairs: Mapping[str, tuple[Array, Array]] = {"target": (reference.target[i], current.target[j])} | {
            n: (reference.columns[n][i], current.columns[n][j]) for n in names if n in current.columns
        }
        for column, (before, after) in pairs.items():
            a, b = before[np.isfinite(before)].astype(float), after[np.isfinite(after)].astype(float)
            if len(a) and len(b):
                found = distances(a, b)
                means = (float(a.mean()), float(b.mean()))
                rows.append((series, column, *(found[m] for m in MEASURES), _usual(before), *means))
    numbers = (*MEASURES, "usual", "reference_mean", "current_mean")
    schema = {"series_id": pl.String(), "column": pl.String()} | {name: pl.Float64() for name in numbers}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    times = pl.col("wasserstein") / pl.max_horizontal(pl.col("usual").fill_nan(None), pl.lit(0.05))
    return frame.sort("series_id", times, descending=[False, True])


def _usual(values: Array) -> float:
    """The largest Wasserstein distance of a month from the rest; NaN where there are fewer than two months."""
    months = [slice(k, k + MONTH) for k in range(0, len(values) - MONTH + 1, MONTH)]
    if len(months) < 2:
        return float("nan")
    found = [
        distances(np.delete(values, month, axis=0).astype(float), values[month].astype(float))["wasserstein"]
        for month in months
    ]
    return float(np.nanmax(found)) if np.isfinite(found).any() else float("nan")


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
