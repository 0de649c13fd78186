"""Measures of forecasts, and the test whether one forecast is better than another.

Hourly losses are autocorrelated, so a mean difference is judged by its long-run variance (Diebold and Mariano, 1995).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Array = npt.NDArray[np.float64]

REFERENCE = "reference"
"""The column of a losses frame with the seasonal naive forecast that others are measured against."""


def forecast_metrics(losses: pl.DataFrame, candidates: Sequence[str]) -> pl.DataFrame:
    """Metrics of each candidate overall, by series, by horizon and by fold: see :func:`metrics_from`.

    losses: fold, series_id, horizon, y, mase_scale (the series' mean absolute error of the naive forecast before the
    first fold), ``REFERENCE`` and one column of forecasts for each candidate.
    """
    return metrics_from([metric_sums(losses, candidates)])


def metric_sums(losses: pl.DataFrame, candidates: Sequence[str]) -> pl.DataFrame:
    """What metrics are made of, for some series with all of their rows: sums that add up over disjoint sets of series.

    losses: as of :func:`forecast_metrics`. Returns candidate, slice, key, and sums and counts; in the order of the rows
    whatever the machine, so that the bits are the same always.
    """
    y, scale = losses["y"].to_numpy(), losses["mase_scale"].to_numpy()
    naive = np.abs(losses[REFERENCE].to_numpy() - y)
    keys = {
        "overall": pl.Series([""] * losses.height, dtype=pl.String),
        "series": losses["series_id"],
        "horizon": losses["horizon"].cast(pl.String),
        "fold": losses["fold"].cast(pl.String),
    }
    series, names = _codes(losses["series_id"])
    parts = [pl.DataFrame(schema=_SUMS_SCHEMA)]
    for name, key in keys.items():
        code, members = _codes(key)
        groups = len(members)
        pair = code * len(names) + series  # a series within a member of the slice
        owner = np.repeat(np.arange(groups), len(names))
        for candidate in candidates:
            error = losses[candidate].to_numpy() - y
            size = np.abs(error)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.log(_means(size, pair, len(owner))) - np.log(_means(naive, pair, len(owner)))
                measured = {
                    "mae": (size, code),
                    "mape": (size / np.where(y != 0, np.abs(y), np.nan), code),
                    "rmse": (error**2, code),
                    "mase": (size / scale, code),
                    "bias": (error, code),
                    "relative_mae": (ratio, owner),
                }
            columns: dict[str, object] = {"candidate": [candidate] * groups, "slice": [name] * groups, "key": members}
            for metric, (values, place) in measured.items():
                columns[metric], columns[f"{metric}_count"] = _totals(values, place, groups)
            parts.append(pl.DataFrame(columns | {"hours": np.bincount(code, minlength=groups)}, schema=_SUMS_SCHEMA))
    return pl.concat(parts)


METRICS = ("mae", "mape", "rmse", "mase", "bias", "relative_mae")
_SUMS_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(("candidate", "slice", "key"), pl.String),
    **{name: dtype for m in METRICS for name, dtype in ((m, pl.Float64), (f"{m}_count", pl.Int64))},
    "hours": pl.Int64,
}


def metrics_from(sums: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Metrics from the sums of all shards.

    Returns candidate, slice, key, mae, mape (%), rmse, mase (Hyndman and Koehler, 2006), bias (mean of forecast minus
    actual), relative_mae (geometric mean over series of the MAE relative to the reference's: Davydenko and Fildes,
    2013) and hours.
    """
    every = pl.concat(sums)
    head = ["candidate", "slice", "key"]
    code, place = _codes(every.select(pl.concat_str(head, separator="\x1f")).to_series())
    heads = pl.DataFrame([name.split("\x1f") for name in place], schema=dict.fromkeys(head, pl.String), orient="row")

    def total(name: str) -> Array:
        # Added in the order of the shards: the same bits always.
        return np.bincount(code, every[name].to_numpy(), minlength=len(place)).astype(np.float64)

    with np.errstate(divide="ignore", invalid="ignore"):
        means = {name: total(name) / total(f"{name}_count") for name in METRICS}
    means["mape"] *= 100
    means["rmse"] = np.sqrt(means["rmse"])
    means["relative_mae"] = np.exp(means["relative_mae"])
    table = heads.with_columns(
        **{n: pl.Series(v) for n, v in means.items()}, hours=pl.Series(total("hours").astype(int))
    )
    return table.with_columns(pl.col(pl.Float64).fill_nan(None)).sort(head)


def _codes(column: pl.Series) -> tuple[npt.NDArray[np.int64], list[str]]:
    """A text column as codes of its sorted members."""
    members = column.unique().sort()
    return column.cast(pl.Enum(members)).to_physical().to_numpy().astype(np.int64), members.to_list()


def _totals(values: Array, code: npt.NDArray[np.int64], groups: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Sums and counts of the finite values of each group; added in the order of the rows: the same bits always."""
    finite = np.isfinite(values)
    count = np.bincount(code[finite], minlength=groups).astype(np.int64)
    return np.bincount(code[finite], values[finite], minlength=groups).astype(np.float64), count


def _means(values: Array, code: npt.NDArray[np.int64], groups: int) -> Array:
    """Means of the finite values of each group, NaN for none."""
    total, count = _totals(values, code, groups)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class MeanTest:
    """mean of the differences, its statistic and degrees of freedom, one-sided p-value (mean > 0), and the hours."""

    mean: float
    statistic: float
    p_value: float
    n: int
    freedom: int


@dataclass(frozen=True)
class MeanTests:
    """One :class:`MeanTest` a row, as arrays (S,); p_value is NaN where a row has fewer than ``MINIMUM_HOURS``."""

    mean: Array
    statistic: Array
    p_value: Array
    n: npt.NDArray[np.int64]
    freedom: npt.NDArray[np.int64]


MINIMUM_HOURS = 8
"""Fewer hours are no evidence for or against anything."""
LEAST_WAVES = 2
"""Waves that measure the noise of a short stretch; fewer would make a test that sees nothing."""


def mean_tests(difference: Array, hours_per_wave: int = 336) -> MeanTests:
    """Test for each row whether the mean of an autocorrelated hourly series exceeds zero.

    difference: (S, T) in order of time; NaN where there is none, which is left out. The noise is what the slowest waves
    of the row find, one for every ``hours_per_wave`` hours: the equal-weighted periodogram, with Student's t of two
    degrees of freedom a wave (Lazarus, Lewis, Stock and Watson, 2018, "HAR inference: recommendations for practice",
    Journal of Business & Economic Statistics 36). With 336 all of them have periods of two weeks and more, so that what
    a series repeats within a day or a week counts neither as noise nor as evidence, and the test keeps its level up to
    autocorrelations of 0.95 from four weeks on.
    """
    from scipy.stats import t as student

    given = np.isfinite(difference)
    n = given.sum(axis=1)
    mean = np.where(given, difference, 0.0).sum(axis=1) / np.maximum(n, 1)
    waves = np.maximum(n // hours_per_wave, LEAST_WAVES)
    error = np.full(len(n), np.nan)
    for count in np.unique(n[n >= MINIMUM_HOURS]):  # rows of one length are transformed together
        rows = np.flatnonzero(n == count)
        values = difference[rows][given[rows]].reshape(len(rows), count)
        transform = np.fft.rfft(values - mean[rows, None], axis=1)[:, 1 : waves[rows[0]] + 1]
        long_run = (np.abs(transform) ** 2).mean(axis=1) / count
        error[rows] = np.where(np.ptp(values, axis=1) > 0, np.sqrt(long_run / count), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(mean == 0, 0.0, mean / error)
    p_value = np.where(np.isnan(error), np.nan, student.sf(statistic, 2 * waves))
    return MeanTests(mean, np.where(np.isnan(error), 0.0, statistic), p_value, n, 2 * waves)


def mean_test(difference: Array) -> MeanTest:
    """:func:`mean_tests` of one series (n,); with too few hours nothing is known: a p-value of one half."""
    row = mean_tests(difference[None, :])
    p_value = float(row.p_value[0])
    return MeanTest(
        float(row.mean[0]),
        float(row.statistic[0]),
        0.5 if np.isnan(p_value) else p_value,
        int(row.n[0]),
        int(row.freedom[0]),
    )


def benjamini_hochberg(p: Array) -> Array:
    """Adjusted p-values (Benjamini and Hochberg, 1995); NaN stays NaN and does not count."""
    q = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    if len(known):
        order = known[np.argsort(p[known], kind="stable")]
        raised = p[order] * len(known) / np.arange(1, len(known) + 1)
        q[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0)
    return q
