"""The gate of a forecast: whether the challenger replaces the champion, for the fleet as one and for each series.

Both are judged on identical hours of a backtest. Losses are read in chunks of series, so that memory is bounded by the
chunk: the fleet's statistics are sums by hour that add up over chunks, a series' own need its own hours alone.
"""

from collections.abc import Iterator, Mapping, Sequence
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
    their difference is tested with :func:`lakehouse_assets.ml.metrics.mean_test`. The challenger must gain at least
    ``minimum_gain``, significantly; no group may lose more than ``group_tolerance``, significantly; and it must be
    better than the seasonal naive. Without a champion the last condition stands alone. Where the champion's own
    stored fit was out of sample for two weeks or more, only those folds count. ``series`` of the decision is
    :func:`decide_series` on the same hours; the evidence holds its counts.
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
    own = pl.col("fold").is_in(result.folds.filter("champion_own")["fold"].to_list())
    enough = against_naive.filter(own)["ts"].n_unique() >= LEAST_HOURS
    used = losses.filter(own) if enough else losses
    hourly = _hourly(used, challenger, CHAMPION, groups)
    gain, test = _compare(hourly)
    evidence |= {"gain": gain, **_numbers(test), "minimum_gain": policy.minimum_gain}
    evidence |= {"significance": policy.significance, "champion_own_fit": enough}
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
    series = decide_series(used, challenger, policy)
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
        reason = f"kept: gain of {gain:+.2%} is not significant (p = {test.p_value:.3f})"
    elif harmed:
        reason = (
            f"kept: gain of {gain:+.2%}, but worse by more than {policy.group_tolerance:.0%} in {', '.join(harmed)}"
        )
    else:
        promote = True
        reason = f"promoted: gain of {gain:+.2%} over {test.n} hours (p = {test.p_value:.4f})"
    return GateDecision(promote, reason, evidence, series)


def _chunks(losses: Losses, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The named columns of all hours of ``CHUNK`` series at a time, in order of the series' names."""
    losses = losses.lazy()
    names = losses.select(pl.col("series_id").unique().sort()).collect()
    for part in names.iter_slices(CHUNK) if len(names) else [names]:  # without series one chunk without rows
        # A range, not a list: Parquet parts sorted by series are skipped by their statistics.
        first, last = pl.lit(part["series_id"].min()), pl.lit(part["series_id"].max())
        rows = losses.filter(pl.col("series_id").is_between(first, last))
        yield rows.select("series_id", "fold", "ts", "y", *columns).collect()


def _error(name: str) -> pl.Expr:
    return (pl.col(name) - pl.col("y")).abs()


def _hourly(losses: Losses, ours: str, theirs: str, groups: Mapping[str, str | None] | None = None) -> pl.DataFrame:
    """Sums over series of scaled losses: group (null without), fold, ts, ours, theirs, series.

    A series counts in units of the mean of both its errors: all alike, and none can rule the fleet by being hopeless.
    """
    keys = ("group", "fold", "ts")
    member = pl.DataFrame(
        {"series_id": list(groups or {}), "group": list((groups or {}).values())},
        schema={"series_id": pl.String, "group": pl.String},
    )
    sums = [
        chunk.select("series_id", "fold", "ts", ours=_error(ours), theirs=_error(theirs))
        .with_columns(scale=((pl.col("ours") + pl.col("theirs")) / 2).mean().over("series_id"))
        .filter(pl.col("scale") > 0)
        .join(member, on="series_id", how="left")
        .group_by(keys)
        .agg(pl.col("ours", "theirs") / pl.col("scale"), series=pl.len())
        .with_columns(pl.col("ours", "theirs").list.sum())
        for chunk in _chunks(losses, [ours, theirs])
    ]
    return pl.concat(sums).group_by(keys).sum().sort(keys)


def _compare(hourly: pl.DataFrame) -> tuple[float, MeanTest]:
    """Relative gain of one forecast over another, and the test of their difference, from :func:`_hourly`'s sums."""
    hours = hourly.group_by("fold", "ts").agg(pl.col("ours", "theirs", "series").sum()).sort("fold", "ts")
    theirs = (hours["theirs"] / hours["series"]).to_numpy()
    test = mean_test(theirs - (hours["ours"] / hours["series"]).to_numpy())
    loss = float(theirs.mean()) if len(theirs) else 0.0
    return (test.mean / loss if loss > 0 else 0.0), test


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

    - gain: relative gain in mean absolute error. p_value: one-sided, that it is more than nothing.
    - peak_change: relative change of the loss in the series' peak hours (the share ``policy.peak_share`` of its hours
      with the highest load). peak_p_worse: one-sided, that it is more than ``policy.peak_tolerance``; near one, the
      challenger is shown not to be worse by so much.
    - coverage_change: of the share of hours inside the interval, as far as it is below nominal (above costs nothing).
      coverage_p_worse: one-sided, that fewer hours lie inside. Null without intervals.
    """
    names = losses.lazy().collect_schema().names()
    bounds = [f"{name}_{bound}" for name in (challenger, champion) for bound in INTERVAL]
    bounds = bounds if all(name in names for name in bounds) else []
    return pl.concat(
        _chunk_evidence(chunk, challenger, champion, policy, bool(bounds))
        for chunk in _chunks(losses, [challenger, champion, *bounds])
    )


def judge_series(evidence: pl.DataFrame, policy: GatePolicy) -> pl.DataFrame:
    """Judge the series of :func:`series_evidence` together: who is promoted, who is harmed, and why.

    promote: gains at least ``minimum_gain``, at the false discovery rate; is shown not to be worse by
    ``peak_tolerance`` in peak hours, at the level ``significance``; and covers as well, within ``coverage_tolerance``.
    harmed, each at the false discovery rate: loses ``minimum_gain``, or is worse by more than ``peak_tolerance`` in
    peak hours, or covers less, by more than ``coverage_tolerance``.

    Returns series_id, hours, gain, p_value, q_value, peak_change, peak_p_worse, coverage_change, promote, harmed,
    reason (one sentence).
    """
    p_value = evidence["p_value"].to_numpy()
    tests = {"q_value": p_value, "q_worse": 1 - p_value}
    tests |= {f"{name}_q_worse": evidence[f"{name}_p_worse"].to_numpy() for name in ("peak", "coverage")}
    judged = evidence.with_columns(
        pl.Series(name, benjamini_hochberg(p), nan_to_null=True) for name, p in tests.items()
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
    if gain <= -policy.minimum_gain and row["q_worse"] <= rate:
        return "harmed", f"gain of {gain:+.2%} (q = {row['q_worse']:.4f})"
    if row["peak_q_worse"] <= rate:
        return "harmed", f"gain of {gain:+.2%}, but {peaks}"
    if covers_less and row["coverage_q_worse"] <= rate:
        return "harmed", f"gain of {gain:+.2%}, but {less_covered}"
    if gain < policy.minimum_gain:
        return "kept", f"gain of {gain:+.2%} is below the minimum of {policy.minimum_gain:.2%}"
    if row["q_value"] > rate:
        return "kept", f"gain of {gain:+.2%} may be chance (q = {row['q_value']:.3f})"
    if row["peak_p_worse"] <= 1 - policy.significance:
        return "kept", f"gain of {gain:+.2%}, but {peaks}, and {policy.peak_tolerance:.0%} more is not ruled out"
    if covers_less:
        return "kept", f"gain of {gain:+.2%}, but {less_covered}"
    return "promoted", f"gain of {gain:+.2%} (q = {row['q_value']:.4f})"


def _chunk_evidence(
    chunk: pl.DataFrame, challenger: str, champion: str, policy: GatePolicy, intervals: bool
) -> pl.DataFrame:
    """:func:`series_evidence` of the series of a chunk."""
    covered = {
        name: (pl.col(f"{forecast}_{INTERVAL[0]}") <= pl.col("y"))
        & (pl.col("y") <= pl.col(f"{forecast}_{INTERVAL[1]}"))
        for name, forecast in (("our_cover", challenger), ("their_cover", champion))
        if intervals
    }
    hours = (
        chunk.select("series_id", "fold", "ts", "y", ours=_error(challenger), theirs=_error(champion), **covered)
        .group_by("series_id", "fold", "ts")  # an hour that is forecast at several horizons counts once
        .agg(pl.all().cast(pl.Float64).mean())
        .sort("series_id", "fold", "ts")
        .with_columns(
            place=pl.int_range(pl.len()).over("series_id"),
            series=pl.col("series_id").rle_id(),
            peak=pl.col("y") >= pl.col("y").quantile(1 - policy.peak_share, "higher").over("series_id"),
        )
    )
    names = hours["series_id"].unique(maintain_order=True)
    at = hours["series"].to_numpy(), hours["place"].to_numpy()

    def rows(column: str) -> Array:
        """(series, hours of the longest), NaN beyond a series' own."""
        out = np.full((len(names), int(at[1].max(initial=-1)) + 1), np.nan)
        out[at] = hours[column].to_numpy()
        return out

    ours, theirs = rows("ours"), rows("theirs")
    peak = rows("peak") == 1
    test = mean_tests(theirs - ours)
    peak_margin = np.where(peak, (1 + policy.peak_tolerance) * theirs - ours, np.nan)
    peaks = mean_tests(peak_margin, PEAK_HOURS_PER_WAVE)
    peak_loss = [np.where(peak, loss, 0.0).sum(axis=1) for loss in (ours, theirs)]
    columns: dict[str, Array] = {
        "gain": -_change(np.nansum(ours, axis=1), np.nansum(theirs, axis=1)),
        "p_value": test.p_value,
        "peak_change": _change(*peak_loss),
        "peak_p_worse": 1 - peaks.p_value,
    }
    if intervals:
        our_cover, their_cover = rows("our_cover"), rows("their_cover")
        shares = [np.minimum(np.nanmean(cover, axis=1), NOMINAL_COVERAGE) for cover in (our_cover, their_cover)]
        columns["coverage_change"] = shares[0] - shares[1]
        columns["coverage_p_worse"] = mean_tests(their_cover - our_cover).p_value
    enough = test.n >= LEAST_HOURS
    return pl.DataFrame(
        {
            "series_id": names,
            "hours": test.n,
            **{name: np.where(enough, columns.get(name, np.nan), np.nan) for name in list(EVIDENCE_SCHEMA)[2:]},
        },
        schema_overrides=EVIDENCE_SCHEMA,
    ).with_columns(pl.col(pl.Float64).fill_nan(None))


def _change(ours: Array, theirs: Array) -> Array:
    """Relative change from theirs to ours; nothing from nothing is no change."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ours == theirs, 0.0, ours / theirs - 1)
