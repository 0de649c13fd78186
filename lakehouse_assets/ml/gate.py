"""The gate of a forecast: whether the challenger replaces the champion, for the fleet as one and for each series.

Both are judged on identical hours of a backtest. Losses are read in chunks of series, so that memory is bounded by the
chunk: the fleet's statistics are sums by hour that add up over chunks, a series' own need its own hours alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.definition import CHAMPION, BacktestResult, GateDecision, GatePolicy
from lakehouse_assets.ml.metrics import REFERENCE, MeanTest, benjamini_hochberg, mean_test, mean_tests

Array = npt.NDArray[np.float64]
Losses = pl.DataFrame | pl.LazyFrame
CHUNK = 500
"""Series that are held in memory at a time."""
OWN = "champion_own"
"""Column of losses: whether the champion's stored fit made its forecast; else its recipe did, fitted at the origin."""
LEAST_HOURS = 14 * 24
"""Two weeks of hours: less decides nothing about a model's own fit, nor about a series."""
PEAK_HOURS_PER_WAVE = 96
"""Peak hours come a few a day, so that fewer of them than of all hours span two weeks."""
INTERVAL = ("q10", "q90")
"""Suffixes of the columns of an interval's bounds, where losses carry them ..."""
NOMINAL_COVERAGE = 0.8
"""... and the share of the hours that should lie between."""

EVIDENCE_SCHEMA: dict[str, pl.DataType] = {
    "series_id": pl.String(),
    "hours": pl.Int64(),
    "gain": pl.Float64(),
    "p_value": pl.Float64(),
    "p_worse": pl.Float64(),
    "peak_change": pl.Float64(),
    "peak_p_worse": pl.Float64(),
    "coverage_change": pl.Float64(),
    "coverage_p_worse": pl.Float64(),
}


# --- the fleet --------------------------------------------------------------------------------------------------------


def decide(
    result: BacktestResult,
    challenger: str,
    policy: GatePolicy,
    groups: Mapping[str, str | None],
    has_champion: bool,
) -> GateDecision:
    """Challenger against champion on identical hours, the fleet as one, and series by series.

    Losses are absolute errors in units of the series' mean error of both, averaged over the series of each hour;
    their difference is tested with :func:`lakehouse_assets.ml.metrics.mean_test`. The challenger must gain more than
    ``minimum_gain``, significantly, so that one that is no better passes more rarely than the level ``significance``
    says; no group may lose more than ``group_tolerance``, significantly; and it must be better than the seasonal
    naive. Without a champion the last condition stands alone. Of a series whose champion's own stored fit was out of
    sample for two weeks or more, only those folds count; of the fleet, those for which this holds of all such series.
    ``series`` of the decision is :func:`decide_series`; the evidence holds its counts.
    """
    losses = result.losses.lazy()
    evidence: dict[str, Any] = {"challenger": challenger, "folds_scored": result.folds.height}
    against_naive = _hourly(losses, challenger, REFERENCE)
    naive_gain, naive_test = _compare(against_naive)
    evidence["against_seasonal_naive"] = {"gain": naive_gain, **_numbers(naive_test)}
    beats_naive = naive_gain > 0
    if not has_champion:
        reason = f"{'first model' if beats_naive else 'no model yet'}: {naive_gain:+.1%} gain on the seasonal naive"
        return GateDecision(beats_naive, reason, evidence)
    if OWN not in losses.collect_schema():  # evidence of an earlier release tells it by fold
        own = result.folds.filter(OWN)["fold"]
        losses = losses.with_columns(pl.col("fold").is_in(own.implode()).alias(OWN))
    own_fit = _own_fit(losses, against_naive["ts"].unique())
    # The fleet in hours in which all are there: those of the oldest version alone would count as much as all do.
    together = losses.filter(pl.col("ts") >= own_fit["ts"].max()) if own_fit.height else losses
    each = losses.filter(pl.col(OWN) | ~pl.col("series_id").is_in(own_fit["series_id"].implode()))
    hourly = _hourly(together, challenger, CHAMPION, groups)
    gain, test = _compare(hourly, policy.minimum_gain)
    evidence |= {"gain": gain, **_numbers(test), "minimum_gain": policy.minimum_gain}
    evidence |= {"significance": policy.significance, "champion_own_fit": own_fit.height}
    evidence["folds_used"] = sorted(hourly["fold"].unique().to_list())
    table = []
    harmed = []
    for (group,), rows in sorted(hourly.drop_nulls("group").partition_by("group", as_dict=True).items()):
        group_gain, group_test = _compare(rows)
        p_worse = 1 - group_test.p_value
        table.append({"group": group, "loss_change": -group_gain, "p_worse": p_worse})
        if -group_gain > policy.group_tolerance and p_worse < policy.significance:
            harmed.append(str(group))
    evidence["groups"] = table
    series = decide_series(each, challenger, policy)
    evidence["series"] = {
        "decided": int(series["p_value"].is_not_null().sum()),
        "promote": int(series["promote"].sum()),
        "harmed": int(series["harmed"].sum()),
        "false_discovery_rate": policy.false_discovery_rate,
    }
    promote = False
    if not beats_naive:
        reason = f"kept: the challenger does not beat the seasonal naive ({naive_gain:+.1%})"
    elif gain < policy.minimum_gain:
        reason = f"kept: gain of {gain:+.2%} is below the minimum of {policy.minimum_gain:.2%}"
    elif test.p_value >= policy.significance:
        reason = (
            f"kept: gain of {gain:+.2%} is not significantly above {policy.minimum_gain:.2%} (p = {test.p_value:.3f})"
        )
    elif harmed:
        reason = (
            f"kept: gain of {gain:+.2%}, but worse by more than {policy.group_tolerance:.0%} in {', '.join(harmed)}"
        )
    else:
        promote = True
        reason = f"promoted: gain of {gain:+.2%} over {test.n} hours (p = {test.p_value:.4f})"
    return GateDecision(promote, reason, evidence, series)


def _own_fit(losses: pl.LazyFrame, times: pl.Series) -> pl.DataFrame:
    """The series whose champion's own fit was out of sample for two weeks of hours or more, and since when (ts).

    Versions are of different ages: of one that was trained last week a backtest can only judge the recipe.
    """
    since = losses.filter(OWN).group_by("series_id").agg(pl.col("ts").min()).collect()
    order = times.sort()
    return since.filter(len(order) - order.search_sorted(since["ts"]) >= LEAST_HOURS)


@dataclass(frozen=True)
class _Hours:
    """The hours of some series: names (S,), times (fold, ts) in order (T), values by name (S, T), NaN where none is."""

    names: list[str]
    times: pl.DataFrame
    values: Mapping[str, Array]


def _chunks(losses: Losses, values: Mapping[str, pl.Expr]) -> Iterator[_Hours]:
    """The hours of ``CHUNK`` series at a time, in order of their names; without any series, one chunk of none.

    An hour that is forecast at several horizons counts once, with the mean of its values.
    """
    losses = losses.lazy()
    names = losses.select(pl.col("series_id").unique().sort()).collect()
    for part in names.iter_slices(CHUNK) if len(names) else [names]:
        # A range, not a list: Parquet parts sorted by series are skipped by their statistics.
        first, last = pl.lit(part["series_id"].min()), pl.lit(part["series_id"].max())
        rows = losses.filter(pl.col("series_id").is_between(first, last)).select("series_id", "fold", "ts", **values)
        chunk = rows.collect()
        times = chunk.select("fold", "ts").unique().sort("fold", "ts").with_row_index("time")
        time = chunk.select("fold", "ts").join(times, on=["fold", "ts"], how="left", maintain_order="left")["time"]
        series = chunk["series_id"].cast(pl.Enum(part["series_id"])).to_physical()
        shape = len(part), len(times)
        place = series.to_numpy().astype(np.int64) * shape[1] + time.to_numpy()
        count = np.bincount(place, minlength=shape[0] * shape[1])
        with np.errstate(invalid="ignore"):
            matrices = {
                name: (np.bincount(place, chunk[name].cast(pl.Float64), len(count)) / count).reshape(shape)
                for name in values
            }
        yield _Hours(part["series_id"].to_list(), times.drop("time"), matrices)


def _errors(ours: str, theirs: str) -> dict[str, pl.Expr]:
    return {"ours": (pl.col(ours) - pl.col("y")).abs(), "theirs": (pl.col(theirs) - pl.col("y")).abs()}


def _hourly(losses: Losses, ours: str, theirs: str, groups: Mapping[str, str | None] | None = None) -> pl.DataFrame:
    """Sums over series of scaled losses: group (null without), fold, ts, ours, theirs, series.

    A series counts in units of the mean of both its errors: all alike, and none can rule the fleet by being hopeless.
    """
    sums = []
    for hours in _chunks(losses, _errors(ours, theirs)):
        both = hours.values["ours"] + hours.values["theirs"]
        count = np.isfinite(both).sum(axis=1)
        scale = np.where(np.isfinite(both), both, 0.0).sum(axis=1) / np.maximum(2 * count, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = {name: values / scale[:, None] for name, values in hours.values.items()}  # not finite: left out
        member = [(groups or {}).get(name) for name in hours.names]
        for group in dict.fromkeys(member) or {None: None}:
            rows = [i for i, other in enumerate(member) if other == group]
            known = np.isfinite(scaled["ours"][rows])
            columns = {name: np.where(known, values[rows], 0.0).sum(axis=0) for name, values in scaled.items()}
            group_name = pl.lit(group, pl.String).alias("group")
            sums.append(hours.times.with_columns(group_name, **columns, series=known.sum(axis=0)))
    keys = ("group", "fold", "ts")
    return pl.concat(sums).filter(pl.col("series") > 0).group_by(keys).sum().sort(keys)


def _compare(hourly: pl.DataFrame, least: float = 0.0) -> tuple[float, MeanTest]:
    """Relative gain of one forecast over another, from :func:`_hourly`'s sums, and the test that it exceeds one."""
    hours = hourly.group_by("fold", "ts").agg(pl.col("ours", "theirs", "series").sum()).sort("fold", "ts")
    ours, theirs = ((hours[name] / hours["series"]).to_numpy() for name in ("ours", "theirs"))
    gain = float(1 - ours.mean() / theirs.mean()) if theirs.sum() > 0 else 0.0
    return gain, mean_test((1 - least) * theirs - ours)


def _numbers(test: MeanTest) -> dict[str, float]:
    return {
        "statistic": test.statistic,
        "p_value": test.p_value,
        "hours": test.n,
        "degrees_of_freedom": test.freedom,
    }


# --- series by series -------------------------------------------------------------------------------------------------


def decide_series(losses: Losses, challenger: str, policy: GatePolicy, *, champion: str = CHAMPION) -> pl.DataFrame:
    """The decision about each series: :func:`series_evidence`, judged by :func:`judge_series`."""
    return judge_series(series_evidence(losses, challenger, policy, champion=champion), policy)


def series_evidence(losses: Losses, challenger: str, policy: GatePolicy, *, champion: str = CHAMPION) -> pl.DataFrame:
    """What the hours of each series say of the challenger against the champion; one row a series, sorted.

    losses: series_id, fold, ts, y and the forecasts of both; where both have columns of an interval
    (``<name>_q10``, ``<name>_q90``), its coverage is compared, too.

    Returns series_id, hours, and (null with less than two weeks of hours):

    - gain: relative gain in mean absolute error. p_value: one-sided, that it is more than ``policy.minimum_gain``.
      p_worse: one-sided, that the loss grows by more than that.
    - peak_change: relative change of the loss in the series' peak hours (the share ``policy.peak_share`` of its hours
      with the highest load). peak_p_worse: one-sided, that it is more than ``policy.peak_tolerance``; near one, the
      challenger is shown not to be worse by so much.
    - coverage_change: of the share of hours inside the interval, as far as it is below nominal (above costs nothing).
      coverage_p_worse: one-sided, that fewer hours lie inside. Null without intervals.
    """
    names = losses.lazy().collect_schema().names()
    values = {"y": pl.col("y"), **_errors(challenger, champion)}
    bounds = {
        cover: [f"{forecast}_{bound}" for bound in INTERVAL]
        for cover, forecast in (("our_cover", challenger), ("their_cover", champion))
    }
    if all(name in names for pair in bounds.values() for name in pair):
        values |= {cover: pl.col("y").is_between(pl.col(low), pl.col(high)) for cover, (low, high) in bounds.items()}
    return pl.concat(_chunk_evidence(hours, policy) for hours in _chunks(losses, values))


def judge_series(evidence: pl.DataFrame, policy: GatePolicy) -> pl.DataFrame:
    """Judge the series of :func:`series_evidence` together: who is promoted, who is harmed, and why.

    promote: gains more than ``minimum_gain``, at the false discovery rate; is shown not to be worse by
    ``peak_tolerance`` in peak hours, at the level ``significance``; and covers as well, within ``coverage_tolerance``.
    harmed, each at the false discovery rate: loses more than ``minimum_gain``, or is worse by more than
    ``peak_tolerance`` in peak hours, or covers less, by more than ``coverage_tolerance``.

    Returns series_id, hours, gain, p_value, q_value, peak_change, peak_p_worse, coverage_change, promote, harmed,
    reason (one sentence).
    """
    judged = evidence.with_columns(
        pl.Series(name.replace("p_", "q_"), benjamini_hochberg(evidence[name].to_numpy()), nan_to_null=True)
        for name in ("p_value", "p_worse", "peak_p_worse", "coverage_p_worse")
    )
    verdicts = [_judge(row, policy) for row in judged.iter_rows(named=True)]
    return judged.select(
        *["series_id", "hours", "gain", "p_value", "q_value", "peak_change", "peak_p_worse", "coverage_change"],
        promote=pl.Series([v == "promoted" for v, _ in verdicts], dtype=pl.Boolean),
        harmed=pl.Series([v == "harmed" for v, _ in verdicts], dtype=pl.Boolean),
        reason=pl.Series([f"{v}: {why}" for v, why in verdicts], dtype=pl.String),
    )


def _judge(row: Mapping[str, Any], policy: GatePolicy) -> tuple[str, str]:
    """promoted, kept or harmed, and why, for a row of evidence with its q-values."""
    if row["p_value"] is None:
        return "kept", f"{row['hours']} hours are scored, a decision takes {LEAST_HOURS}"
    gain, coverage = row["gain"], row["coverage_change"] or 0.0
    peaks = f"{row['peak_change']:+.1%} loss in peak hours"
    less_covered = f"the interval covers {coverage:+.1%} of the hours"
    rate = policy.false_discovery_rate
    covers_less = coverage < -policy.coverage_tolerance
    if row["q_worse"] <= rate:
        return "harmed", f"gain of {gain:+.2%} (q = {row['q_worse']:.4f})"
    if row["peak_q_worse"] <= rate:
        return "harmed", f"gain of {gain:+.2%}, but {peaks}"
    if covers_less and row["coverage_q_worse"] <= rate:
        return "harmed", f"gain of {gain:+.2%}, but {less_covered}"
    if gain < policy.minimum_gain:
        return "kept", f"gain of {gain:+.2%} is below the minimum of {policy.minimum_gain:.2%}"
    if row["q_value"] > rate:
        return (
            "kept",
            f"gain of {gain:+.2%} is not significantly above {policy.minimum_gain:.2%} (q = {row['q_value']:.3f})",
        )
    if row["peak_p_worse"] <= 1 - policy.significance:
        return "kept", f"gain of {gain:+.2%}, but {peaks}, and {policy.peak_tolerance:.0%} more is not ruled out"
    if covers_less:
        return "kept", f"gain of {gain:+.2%}, but {less_covered}"
    return "promoted", f"gain of {gain:+.2%} (q = {row['q_value']:.4f})"


def _chunk_evidence(hours: _Hours, policy: GatePolicy) -> pl.DataFrame:
    """:func:`series_evidence` of the series of a chunk."""
    y, ours, theirs = (hours.values[name] for name in ("y", "ours", "theirs"))
    known = np.isfinite(ours)
    count = known.sum(axis=1)
    # The lowest load of the peak hours: so many from the end, where NaN lies.
    order = np.sort(y, axis=1)
    lowest = np.maximum(count - 1 - np.floor(policy.peak_share * (count - 1)).astype(int), 0)
    peak = known & (y >= np.take_along_axis(order, lowest[:, None], axis=1)) if y.size else known
    least, margin = policy.minimum_gain, policy.peak_tolerance
    peaks = mean_tests(np.where(peak, (1 + margin) * theirs - ours, np.nan), PEAK_HOURS_PER_WAVE)
    columns: dict[str, Array] = {
        "gain": -_change(ours, theirs, known),
        "p_value": mean_tests((1 - least) * theirs - ours).p_value,
        "p_worse": mean_tests(ours - (1 + least) * theirs).p_value,
        "peak_change": _change(ours, theirs, peak),
        "peak_p_worse": 1 - peaks.p_value,
    }
    if "our_cover" in hours.values:
        covers = [hours.values[name] for name in ("our_cover", "their_cover")]
        there = known & np.isfinite(covers[0]) & np.isfinite(covers[1])  # the first fold has no interval yet
        shares = [np.where(there, c, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1) for c in covers]
        columns["coverage_change"] = np.subtract(*(np.minimum(share, NOMINAL_COVERAGE) for share in shares))
        columns["coverage_p_worse"] = mean_tests(covers[1] - covers[0]).p_value
    enough = count >= LEAST_HOURS
    measured = {name: np.where(enough, columns.get(name, np.nan), np.nan) for name in list(EVIDENCE_SCHEMA)[2:]}
    frame = pl.DataFrame({"series_id": hours.names, "hours": count, **measured}, schema=EVIDENCE_SCHEMA)
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))


def _change(ours: Array, theirs: Array, where: npt.NDArray[np.bool_]) -> Array:
    """Relative change of the sums of rows from theirs to ours; nothing from nothing is no change."""
    after, before = (np.where(where, loss, 0.0).sum(axis=1) for loss in (ours, theirs))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(after == before, 0.0, after / before - 1)
