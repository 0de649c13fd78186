"""Profiles: what the values of a window were like, in a few numbers; and how far one profile is from another.

A profile is a row: counts, moments and quantiles of a column. Profiles of single members are made from their rows;
those of groups and of the whole are made from the members', so that no more than some members' rows are in memory.
Distances are the measures of :mod:`lakehouse_assets.ml.inputs`, from the quantiles alone and for all rows at once: to
compare two windows, nobody reads what lies in them again.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.definition import Columns

Array = npt.NDArray[np.float64]
LEVELS = np.linspace(0.0, 1.0, 21)
"""Levels of the quantiles that a profile keeps: every five percent, from the least value to the greatest."""
_ROWS_AT_A_TIME = 5_000

STATISTICS: Columns = {
    "count": (pl.Int64(), "Values that are known."),
    "nulls": (pl.Int64(), "Rows without a value."),
    "zeros": (pl.Int64(), "Values that are zero."),
    "mean": (pl.Float64(), "Mean of the values."),
    "standard_deviation": (pl.Float64(), "Standard deviation of the values, about their own mean."),
    "min": (pl.Float64(), "The least value."),
    "max": (pl.Float64(), "The greatest value."),
    "quantiles": (pl.List(pl.Float32()), "Quantiles from 0 to 100 %, every 5 %; of several members together, nearly."),
    "mae": (pl.Float64(), "Mean absolute error, where the column is an error; else null."),
    "rmse": (pl.Float64(), "Root mean square of the error, where the column is one; else null."),
    "bias": (pl.Float64(), "Mean error, where the column is an error; else null."),
}
DISTANCES: Columns = {
    "count": (pl.Int64(), "Values that are known in the window."),
    "mean": (pl.Float64(), "Mean of the values in the window."),
    "count_delta": (pl.Int64(), "By how many they are more than in the window that it is compared with."),
    "null_share_delta": (pl.Float64(), "Change of the share of rows without a value."),
    "zero_share_delta": (pl.Float64(), "Change of the share of values that are zero."),
    "mean_delta": (pl.Float64(), "Change of the mean."),
    "standard_deviation_delta": (pl.Float64(), "Change of the standard deviation."),
    "psi": (pl.Float64(), "Population stability index over the deciles of what is compared with."),
    "kolmogorov_smirnov": (pl.Float64(), "The widest gap between the two distribution functions."),
    "wasserstein": (pl.Float64(), "First Wasserstein distance, in standard deviations of what is compared with."),
    "jensen_shannon": (pl.Float64(), "Jensen-Shannon distance over the same deciles, 0 to 1."),
    "chi_squared": (pl.Float64(), "Sum of (share - expected share)^2 / expected share over the same deciles."),
}


def profiled(rows: pl.DataFrame, by: Sequence[str], columns: Sequence[str], errors: Sequence[str] = ()) -> pl.DataFrame:
    """One row for each key of ``by`` and column: the key, ``column``, and ``STATISTICS``.

    A value that is not finite counts as none. errors: those of the columns that are errors of predictions.
    """
    x = pl.col("x")
    # A column may be called as one of the two that it is turned into.
    known = [pl.when(pl.col(c).is_finite()).then(pl.col(c)).cast(pl.Float64).alias(f"of {c}") for c in columns]
    wide = rows.select(*by, *known)
    tall = wide.unpivot(on=[f"of {c}" for c in columns], index=list(by), variable_name="column", value_name="x")
    tall = tall.with_columns(pl.col("column").str.strip_prefix("of "))
    made = tall.group_by(*by, "column").agg(
        count=x.count().cast(pl.Int64),
        nulls=x.null_count().cast(pl.Int64),
        zeros=(x == 0).sum().cast(pl.Int64),
        mean=x.mean(),
        standard_deviation=x.std(ddof=0),
        min=x.min(),
        max=x.max(),
        quantiles=pl.concat_list([x.quantile(level, "linear") for level in LEVELS]).cast(pl.List(pl.Float32)),
        mae=x.abs().mean(),
    )
    return _finished(made.with_columns(mae=pl.when(pl.col("column").is_in(list(errors))).then("mae")), by)


def united(profiles: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Profiles of the members that share a key of ``by``, as one: exact, but the quantiles are interpolated."""
    n, mean = pl.col("count"), pl.col("mean")
    total = n.sum()
    whole_mean = (n * mean).sum() / total
    spread = n * (pl.col("standard_deviation") ** 2 + (mean - whole_mean) ** 2)
    made = profiles.group_by(*by, "column").agg(
        count=total,
        nulls=pl.col("nulls").sum(),
        zeros=pl.col("zeros").sum(),
        mean=whole_mean,
        standard_deviation=(spread.sum() / total).sqrt(),
        min=pl.col("min").min(),
        max=pl.col("max").max(),
        mae=pl.when(pl.col("mae").count() > 0).then((n * pl.col("mae")).sum() / total),
    )
    made = made.with_columns(pl.when(pl.col("count") > 0).then(name).alias(name) for name in ("mean", "mae"))
    made = made.with_columns(standard_deviation=pl.when(pl.col("count") > 0).then("standard_deviation"))
    made = made.with_row_index("row")
    return _finished(made.join(_mixed(profiles, made, by), on="row", how="left"), by)


def _mixed(profiles: pl.DataFrame, made: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """The quantiles of each row of ``made``, from those of the profiles in it, each counting by its values."""
    share = np.full(len(LEVELS), 1.0)
    share[[0, -1]] = 0.5
    keys = made.filter(pl.col("count") > 0).select(*by, "column", "row", "min", "max")
    points = (
        profiles.filter(pl.col("count") > 0)
        .select(*by, "column", "quantiles", "count", share=pl.lit(share.tolist()))
        .join(keys, on=[*by, "column"], nulls_equal=True)
        .select("row", "quantiles", weight=pl.col("count") * pl.col("share"))
        .explode("quantiles", "weight")
        .sort("row", "quantiles")
        .with_columns(at=pl.col("weight").cum_sum().over("row") - pl.col("weight") / 2)
        .with_columns(at=pl.col("at") / pl.col("weight").sum().over("row"))
    )
    rows = keys.sort("row")
    # One interpolation for all rows: each has a stretch of its own on the axis, apart from the next.
    axis = points["row"].cast(pl.Float64) * 2 + points["at"]
    wanted = rows["row"].to_numpy().astype(float)[:, None] * 2 + LEVELS
    found = np.interp(wanted, axis.to_numpy(), points["quantiles"].to_numpy()) if rows.height else wanted
    found[:, 0], found[:, -1] = rows["min"].to_numpy(), rows["max"].to_numpy()
    quantiles = pl.Series(found.astype(np.float32), dtype=pl.Array(pl.Float32, len(LEVELS))).arr.to_list()
    return pl.DataFrame({"row": rows["row"], "quantiles": quantiles})


def _finished(made: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    is_error = pl.col("mae").is_not_null()
    return made.with_columns(
        quantiles=pl.when(pl.col("count") > 0).then("quantiles"),
        rmse=pl.when(is_error).then((pl.col("mean") ** 2 + pl.col("standard_deviation") ** 2).sqrt()),
        bias=pl.when(is_error).then("mean"),
    ).select(*by, "column", *STATISTICS)


def compared(current: pl.DataFrame, reference: pl.DataFrame, on: Sequence[str]) -> pl.DataFrame:
    """The rows of ``current`` that have one of ``reference`` with the same ``on``, with ``DISTANCES``.

    Null where either profile is of no values; the Wasserstein distance also where the reference does not vary. Further
    columns of ``reference`` come with the suffix ``_reference``.
    """
    both = current.join(reference, on=list(on), how="inner", nulls_equal=True, suffix="_reference")

    def change(of: pl.Expr, before: pl.Expr) -> pl.Expr:
        return (of - before).fill_nan(None)

    def share(name: str, suffix: str, *, of_rows: bool) -> pl.Expr:
        known = pl.col(f"count{suffix}")
        return pl.col(f"{name}{suffix}") / (known + pl.col(f"nulls{suffix}") if of_rows else known)

    frame = both.with_columns(
        count_delta=pl.col("count") - pl.col("count_reference"),
        null_share_delta=change(share("nulls", "", of_rows=True), share("nulls", "_reference", of_rows=True)),
        zero_share_delta=change(share("zeros", "", of_rows=False), share("zeros", "_reference", of_rows=False)),
        mean_delta=pl.col("mean") - pl.col("mean_reference"),
        standard_deviation_delta=pl.col("standard_deviation") - pl.col("standard_deviation_reference"),
    )
    return pl.concat([_with_distances(part) for part in frame.iter_slices(_ROWS_AT_A_TIME)] or [_with_distances(frame)])


_MEASURES = ("psi", "kolmogorov_smirnov", "wasserstein", "jensen_shannon", "chi_squared")


def _with_distances(both: pl.DataFrame) -> pl.DataFrame:
    measured = np.full((len(_MEASURES), both.height), np.nan)
    there = both.select((pl.col("count") > 0) & (pl.col("count_reference") > 0)).to_series().to_numpy()
    if there.any():
        rows = both.filter(pl.Series(there))
        before, after = (_matrix(rows[name]) for name in ("quantiles_reference", "quantiles"))
        n_before, n_after = (rows[name].to_numpy().astype(float) for name in ("count_reference", "count"))
        spread = rows["standard_deviation_reference"].to_numpy()
        measured[:, there] = _distances(before, after, n_before, n_after, spread)
    found = {name: pl.Series(values).fill_nan(None) for name, values in zip(_MEASURES, measured, strict=True)}
    return both.with_columns(**found)


def _matrix(lists: pl.Series) -> Array:
    return lists.list.to_array(len(LEVELS)).to_numpy().astype(np.float64)


def _distances(before: Array, after: Array, n_before: Array, n_after: Array, spread: Array) -> Array:
    """(5, R) the measures between quantiles (R, 21) of so many values; spread: standard deviation of those before."""
    deciles = before[:, 2:-1:2]
    a, b = (np.diff(_share_below(of, deciles), axis=1, prepend=0.0, append=1.0) for of in (before, after))
    # Half a value in each bin, as in `inputs.distances`, but for the bins that repeated values leave without width.
    some = (a > 0) | (b > 0)
    a, b = (np.where(some, x * n[:, None] + 0.5, 0.0) for x, n in ((a, n_before), (b, n_after)))
    a, b = (np.where(some, x / x.sum(axis=1, keepdims=True), 1.0) for x in (a, b))
    middle = (a + b) / 2
    divergence = (a * np.log2(a / middle) + b * np.log2(b / middle)).sum(axis=1) / 2
    points = np.concatenate([before, after], axis=1)
    gap = np.abs(_share_below(before, points) - _share_below(after, points)).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.trapezoid(np.abs(after - before), LEVELS, axis=1) / np.where(spread > 0, spread, np.nan)
    return np.stack(
        [
            ((b - a) * np.log(b / a)).sum(axis=1),
            gap,
            apart,
            np.sqrt(np.maximum(divergence, 0.0)),
            ((b - a) ** 2 / a).sum(axis=1),
        ]
    )


def _share_below(quantiles: Array, values: Array) -> Array:
    """(R, M) shares of distributions at or below values (R, M), interpolated between their quantiles (R, 21)."""
    last = quantiles.shape[1] - 1
    place = (quantiles[:, None, :] <= values[:, :, None]).sum(axis=2) - 1
    low, high = np.clip(place, 0, last), np.clip(place + 1, 0, last)
    below, above = (np.take_along_axis(quantiles, at, axis=1) for at in (low, high))
    part = np.where(above > below, (values - below) / np.where(above > below, above - below, 1.0), 0.0)
    return np.where(place < 0, 0.0, (low + np.where(place < last, part, 0.0)) / last)
