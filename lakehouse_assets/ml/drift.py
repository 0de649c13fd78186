"""Drift as regret: a champion has drifted when a fresh fit of its own recipe does better on the same new rows.

That is the drift that retraining can mend (see :mod:`lakehouse_assets.ml.regret`). Errors against the backtest and the
distributions of the inputs (:mod:`lakehouse_assets.ml.inputs`) stand beside it as explanations: a seasonal change
raises both without any fault of the model's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml import channels, errors
from lakehouse_assets.ml.channels import Call, Evidence, together
from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.metrics import benjamini_hochberg
from lakehouse_assets.ml.regret import Judged, judge, latest_mean, relative, spread

Array = npt.NDArray[np.float64]
MINIMUM_HOURS = 24
"""A week with fewer scored hours says nothing about a series."""
HISTORY_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "series_id": pl.String,
    "week": pl.Datetime("us", "UTC"),
    "hours": pl.Int64,
    "champion_loss": pl.Float64,
    "fresh_loss": pl.Float64,
    "disagreement": pl.Float64,
    "expected_loss": pl.Float64,
    "bias": pl.Float64,
    "worst_hour": pl.Int64,
}

# What a member's row of the weekly history says: its losses in the week, and the verdict over the weeks up to it.
COLUMNS: dict[str, tuple[pl.DataType, str]] = {
    "series_id": (pl.String(), "The series."),
    "week": (pl.Datetime("us", "UTC"), "Start of the week (UTC) of issue times that was judged."),
    "hours": (pl.Int64(), "Hours of the week that could be scored."),
    "champion_loss": (pl.Float64(), "Mean absolute error of the champion in the week."),
    "fresh_loss": (pl.Float64(), "Mean absolute error of a fresh fit of its recipe, made at the start of the week."),
    "disagreement": (pl.Float64(), "Root mean square of the difference between the two forecasts in the week."),
    "expected_loss": (pl.Float64(), "Mean absolute error of the champion in its backtest: the reference."),
    "bias": (pl.Float64(), "Mean error of the champion in the week."),
    "worst_hour": (
        pl.Int64(),
        "First of the six hours of the horizon in which the champion loses most to the fresh fit.",
    ),
    "champion_by_hour": (pl.List(pl.Float32()), "The champion's mean absolute error in the week, by hour of the day."),
    "fresh_by_hour": (pl.List(pl.Float32()), "That of the fresh fit."),
    "verdict": (pl.String(), "ok, drift or insufficient_data, for the series."),
    "weeks": (pl.Int64(), "Weeks that the verdict is about."),
    "regret": (pl.Float64(), "Mean log ratio of the champion's loss to the fresh fit's: what retraining would mend."),
    "lasting_regret": (pl.Float64(), "That over two months, a part of it the regret at stake."),
    "t": (pl.Float64(), "t-statistic of the regret of two months, with a spread pooled across series."),
    "p_value": (pl.Float64(), "One-sided p-value of it."),
    "q_value": (pl.Float64(), "The p-value corrected for the number of series (Benjamini and Hochberg)."),
    "stake": (
        pl.Float64(),
        "Regret that the disagreement of four weeks would mean if the fresh fit were right.",
    ),
    "e_value": (pl.Float64(), "Evidence for a lasting regret, by bets on the weeks so far; 1 is none."),
    "since": (pl.Datetime("us", "UTC"), "Start of the week in which the evidence begins; null without a drift."),
    "expected_gain": (pl.Float64(), "Share of the champion's loss that a training is expected to save."),
    "due": (pl.Boolean(), "Whether a training of the series pays, see DriftPolicy."),
    "error_change": (pl.Float64(), "Mean log ratio of the champion's loss to its backtest's."),
    "error_q_value": (pl.Float64(), "Corrected p-value of the change of error."),
    "channel": (pl.String(), "The channel that calls the drift: challenger, error or input; null without a drift."),
    "error_p_value": (pl.Float64(), "Of the error channel: p-value of bias and size of the errors, by resampling."),
    "input_p_value": (pl.Float64(), "Of the input channel: p-value of the widest move of an input, by resampling."),
    **channels.COLUMNS,
}


def weekly_losses(
    series: npt.NDArray[np.str_],
    week: datetime,
    y: Array,
    champion: Array,
    fresh: Array | None,
    expected: Mapping[str, float],
    *,
    hour: npt.NDArray[np.floating] | None = None,
    holidays: npt.NDArray[np.floating] | None = None,
    faults: Sequence[tuple[str, datetime] | None] = (),
) -> pl.DataFrame:
    """Errors of one week by series, for :func:`verdict`: ``HISTORY_SCHEMA``, by hour, and ``channels.COLUMNS``.

    y, champion, fresh: (S, D, H) of the issue times in the week; only hours where all three are finite count. fresh:
    None where no fresh fit was made: what it would say is null. expected: the champion's mean absolute error in its
    backtest. bias: the champion's mean error. hour: (S, D, H), of the day (default: as counted from the issue time).
    holidays: (S, D) or (S, D, H), 1 on holidays: they explain errors. faults: (S,) name and beginning of a lasting
    fault, the hours of which are NaN in y.
    """
    both = np.isfinite(y) & np.isfinite(champion)
    if fresh is not None:
        both &= np.isfinite(fresh)
    hours = both.sum(axis=(1, 2))

    def mean(values: Array) -> Array:
        return np.where(both, values, 0.0).sum(axis=(1, 2)) / np.maximum(hours, 1)

    hour = np.broadcast_to(np.arange(y.shape[2]) % 24, y.shape) if hour is None else hour

    def by_hour(loss: Array) -> pl.Series:
        means = np.full((len(loss), 24), np.nan)
        for k in range(24):
            mine = both & (hour == k)
            count = mine.sum(axis=(1, 2))
            means[:, k] = np.where(mine, loss, 0.0).sum(axis=(1, 2)) / np.where(count > 0, count, np.nan)
        lists = pl.Series(means.astype(np.float32), dtype=pl.Array(pl.Float32, 24)).arr.to_list()
        return lists.list.eval(pl.element().fill_nan(None))

    frame = pl.DataFrame(
        {
            "series_id": series.tolist(),
            "week": [week] * len(series),
            "hours": hours,
            "champion_loss": mean(np.abs(champion - y)),
            "fresh_loss": None if fresh is None else mean(np.abs(fresh - y)),
            "disagreement": None if fresh is None else np.sqrt(mean((champion - fresh) ** 2)),
            "expected_loss": [expected.get(s) for s in series.tolist()],
            "bias": mean(champion - y),
            "worst_hour": None
            if fresh is None
            else worst_hour(np.where(both, np.abs(champion - y) - np.abs(fresh - y), 0.0)),
            "champion_by_hour": by_hour(np.abs(champion - y)),
            "fresh_by_hour": None if fresh is None else by_hour(np.abs(fresh - y)),
            **_of_blocks(week, y, champion, holidays),
            "fault": [fault and fault[0] for fault in faults] or None,
            "fault_since": [fault and fault[1] for fault in faults] or None,
        },
        schema_overrides=HISTORY_SCHEMA
        | {name: COLUMNS[name][0] for name in ("champion_by_hour", "fresh_by_hour", *channels.COLUMNS)},
    )
    # Of a week that is lost to a fault only the fault is told.
    losses = ("champion_loss", "fresh_loss", "disagreement", "bias", "worst_hour")
    frame = frame.filter((pl.col("hours") > 0) | pl.col("fault").is_not_null())
    return frame.with_columns(pl.when(pl.col("hours") > 0).then(pl.col(losses)))


def _of_blocks(
    week: datetime, y: Array, champion: Array, holidays: npt.NDArray[np.floating] | None
) -> dict[str, list[list[float] | None]]:
    """The week's columns of the error channel; null with too few days."""
    start = np.array([int(week.timestamp() * 1_000_000)], np.int64)
    further = None if holidays is None else holidays[:, None]
    at = errors.weekly(y[:, None], champion[:, None], start, {"holidays": further})
    columns = {"block_bias": at.bias, "block_loss": at.loss, "explaining": at.explaining}
    known = np.all(np.isfinite(at.loss), axis=(1, 2)).tolist()
    return {
        name: [row if there else None for row, there in zip(values[:, 0].tolist(), known, strict=True)]
        for name, values in columns.items()
    }


HOURS = 6
"""So many hours of the horizon are told of as those in which a champion loses most."""


def worst_hour(lost: Array) -> npt.NDArray[np.int64]:
    """(S,) the first of the hours of the horizon, in blocks of six, that lose most; lost: (S, D, H)."""
    by_step = lost.sum(axis=1)
    starts = np.arange(0, by_step.shape[1], HOURS)
    return starts[np.add.reduceat(by_step, starts, axis=1).argmax(axis=1)]


@dataclass(frozen=True)
class Verdict:
    """What a history of weekly losses says.

    verdict: of the fleet, ``ok``, ``drift`` or ``insufficient_data``.
    window_start, window_end: of the weeks judged, the end exclusive.
    series: series_id, verdict, weeks, regret (mean log ratio of the losses over the window), t, p_value, q_value
    (Benjamini and Hochberg), stake, e_value, since, expected_gain, due (a training pays), error_change (mean log ratio
    to the backtest's loss), error_q_value.
    summary: series_tested, series_drifted, share_drifted, fleet_regret, fleet_p_value, members_due.
    findings: the drifts, each with its members (those that began together are one), since when, regret, expected gain,
    and the hours of the horizon that lose most; JSON-able, the largest first. Then those of other channels, changes of
    regime, and lasting faults: see :mod:`lakehouse_assets.ml.channels`.
    """

    verdict: str
    window_start: datetime | None
    window_end: datetime | None
    series: pl.DataFrame
    summary: dict[str, Any]
    findings: list[dict[str, Any]] = field(default_factory=list)


def verdict(history: pl.DataFrame, policy: DriftPolicy, evidence: Evidence | None = None) -> Verdict:
    """Judge the latest week of a history of weekly losses of one champion, by it and the weeks before.

    history: rows of :func:`weekly_losses`, one for each series and week. evidence: what the channels of the policy lean
    on besides; a channel without is silent. A series is judged when it has enough hours in the latest week and
    ``policy.weeks`` weeks in all (for the input channel: when its inputs have a history). See
    :func:`lakehouse_assets.ml.regret.judge` and :mod:`lakehouse_assets.ml.channels`.
    """
    evidence = evidence or Evidence()
    everything = history
    history = history.filter(pl.col("hours") >= MINIMUM_HOURS)
    weeks = history["week"].unique().sort().to_list()
    known = history["series_id"].unique()
    if evidence.inputs is not None:
        known = pl.concat([known, evidence.inputs["series_id"]]).unique()
    ids = known.sort().to_list()
    champion, fresh, disagreement, expected = (
        _matrix(history, ids, len(weeks), name)
        for name in ("champion_loss", "fresh_loss", "disagreement", "expected_loss")
    )
    regret = _log_ratio(champion, fresh)
    judged = judge(regret, relative(disagreement, fresh), policy)
    change = _log_ratio(champion, expected)
    noise, freedom = spread(change)
    error_mean = latest_mean(change, policy.weeks)[:, -1]
    error_p = _p_value(error_mean / (noise[:, -1] / np.sqrt(policy.weeks)), freedom[:, -1])
    calls = _calls(history, ids, weeks, judged, evidence, policy)
    nobody = np.zeros(len(ids), bool)
    tested, drifted, channel = nobody, nobody, np.full(len(ids), None, object)
    since: list[datetime | None] = [None] * len(ids)
    unknown = np.full(len(ids), np.nan)
    gain, first = unknown.copy(), {}
    for name, call in calls.items():
        first[name] = call.drifted & ~drifted
        channel[first[name]] = name
        gain[first[name]] = call.gain[first[name]]
        since = [mine if new else old for mine, new, old in zip(call.since, first[name], since, strict=True)]
        tested, drifted = tested | call.tested, drifted | call.drifted
    by_regret, mean = judged.tested[:, -1], judged.mean[:, -1]
    expected_gain = np.where(drifted, gain, judged.gain[:, -1])
    due = judged.due[:, -1] & ("challenger" in calls)
    for name in first:
        if name != "challenger":
            # What a training gains is not known of all drifts: then it is tried.
            due |= first[name] & ~(gain < policy.cost)
    frame = pl.DataFrame(
        {
            "series_id": ids,
            "verdict": np.where(~tested, "insufficient_data", np.where(drifted, "drift", "ok")).tolist(),
            "weeks": np.isfinite((regret if "challenger" in calls else champion)[:, -policy.weeks :]).sum(axis=1),
            "regret": mean,
            "lasting_regret": judged.lasting[:, -1],
            "t": judged.t[:, -1],
            "p_value": judged.p[:, -1],
            "q_value": judged.q[:, -1],
            "stake": judged.stake[:, -1],
            "e_value": judged.e[:, -1],
            "since": since,
            "expected_gain": expected_gain,
            "due": due,
            "error_change": np.where(tested, error_mean, np.nan),
            "error_q_value": benjamini_hochberg(np.where(tested, error_p, np.nan)),
            "channel": channel.tolist(),
            "error_p_value": calls["error"].p if "error" in calls else unknown,
            "input_p_value": calls["input"].p if "input" in calls else unknown,
        },
        schema_overrides={name: COLUMNS[name][0] for name in ("series_id", "verdict", "weeks", "since", "channel")},
    ).with_columns(pl.col(pl.Float64).fill_nan(None))
    n, hits = int(tested.sum()), int(drifted.sum())
    fleet_regret = float(mean[by_regret].mean()) if by_regret.any() else None
    fleet_p = _mean_p_value(mean[by_regret]) if by_regret.sum() > 1 else None
    share = hits / n if n else 0.0
    all_together = fleet_regret is not None and fleet_regret >= np.log1p(policy.minimum_effect)
    all_together = all_together and fleet_p is not None and fleet_p <= policy.false_discovery_rate
    drift = (hits and share >= policy.fleet_share) or all_together
    fleet = ("drift" if drift else "ok") if n else "insufficient_data"
    summary = {
        "series_tested": n,
        "series_drifted": hits,
        "share_drifted": share,
        "fleet_regret": fleet_regret,
        "fleet_p_value": fleet_p,
        "members_due": int(frame["due"].sum()),
    }
    window = weeks[-policy.weeks :]
    if evidence.inputs is not None and evidence.week is not None and evidence.week not in window:
        window = [*window, evidence.week]  # inputs of a week whose labels have not come
    start, end = (window[0], window[-1] + timedelta(days=7)) if window else (None, None)
    latest = everything.filter(pl.col("week") == pl.col("week").max())
    found: list[dict[str, Any]] = []
    if "challenger" in calls:
        worst = history.filter(pl.col("week") == weeks[-1]) if weeks else history
        worst_hours = dict(worst.select("series_id", "worst_hour").iter_rows()) if "worst_hour" in worst.columns else {}
        begun = judged.since[:, -1]
        hit = first["challenger"]
        lost = [float(np.nanmean(row[i:])) if h else None for row, i, h in zip(regret, begun, hit, strict=True)]
        told = frame.filter(pl.Series(hit, dtype=pl.Boolean)).with_columns(
            lost=pl.Series([x for x in lost if x is not None], dtype=pl.Float64),
            worst_hour=pl.Series([worst_hours.get(s) for s, h in zip(ids, hit, strict=True) if h], dtype=pl.Int64),
        )
        found += findings(told, n, policy.fleet_share)
    for name in first:
        if name != "challenger":
            found += channels.call_findings(name, calls[name], ids, first[name], n, policy)
    found = channels.with_moves(found, evidence.widest)
    found += channels.regime_findings(evidence.regimes, len(ids), policy)
    found += channels.quality_findings(latest, len(ids), policy)
    return Verdict(fleet, start, end, frame, summary, found)


def _calls(
    history: pl.DataFrame,
    ids: list[str],
    weeks: list[datetime],
    judged: Judged,
    evidence: Evidence,
    policy: DriftPolicy,
) -> dict[str, Call]:
    """What each channel of the policy says of the latest week, in its order."""
    calls = {}
    for name in policy.channels:
        if name == "challenger":
            drifted = judged.drifted[:, -1]
            since = [weeks[i] if hit else None for i, hit in zip(judged.since[:, -1], drifted, strict=True)]
            calls[name] = Call(judged.tested[:, -1], drifted, judged.p[:, -1], since, judged.gain[:, -1], {})
        elif name == "error":
            calls[name] = channels.error_call(history, ids, weeks, evidence, policy)
        else:
            calls[name] = channels.input_call(ids, evidence)
    return calls


def findings(series: pl.DataFrame, tested: int, fleet_share: float) -> list[dict[str, Any]]:
    """The drifts that the challenger channel calls, as :func:`lakehouse_assets.ml.channels.together` groups them.

    series: of a :class:`Verdict`, with ``lost``, the mean regret since then, and ``worst_hour``.
    """
    drifted = series.filter(verdict="drift")
    out = [_finding(group, scope) for scope, group in together(drifted, tested, fleet_share)]
    return sorted(out, key=lambda found: (-len(found["members"]), -found["regret"], found["members"]))


def _finding(group: pl.DataFrame, scope: str) -> dict[str, Any]:
    hour = group["worst_hour"].drop_nulls().mode().sort()
    since: Any = group["since"].min()
    return {
        "kind": "drift",
        "channel": "challenger",
        "scope": scope,
        "members": group["series_id"].to_list(),
        "since": since.isoformat(),
        "regret": float(np.expm1(group["lost"].mean())),  # type: ignore[arg-type]
        "expected_gain": group["expected_gain"].mean(),
        "hours": f"{hour[0]} to {hour[0] + HOURS - 1} of the horizon" if len(hour) else None,
    }


def _matrix(history: pl.DataFrame, ids: list[str], weeks: int, name: str) -> Array:
    """A column of the history as (series, weeks), NaN where unknown; at least one week wide."""
    out = np.full((len(ids), max(weeks, 1)), np.nan)
    if name in history.columns and not history.is_empty():
        rows = history["series_id"].cast(pl.Enum(ids)).to_physical().to_numpy()
        columns = history["week"].rank("dense").cast(pl.Int64).to_numpy() - 1
        out[rows, columns] = history[name].fill_null(np.nan).to_numpy()
    return out


def _log_ratio(ours: Array, theirs: Array) -> Array:
    """Logarithm of a ratio of losses, NaN where unknown; equal losses are zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(ours == theirs, 0.0, np.log(ours / theirs))
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _p_value(t: Array, freedom: Array) -> Array:
    from scipy.stats import t as student

    return np.where(np.isfinite(t), student.sf(t, freedom), np.nan)


def _mean_p_value(values: Array) -> float:
    """One-sided p-value that the mean across series exceeds zero (Student)."""
    from scipy.stats import t as student

    spread = float(values.std(ddof=1))
    if spread == 0:
        return 0.0 if values.mean() > 0 else 1.0
    return float(student.sf(values.mean() / (spread / np.sqrt(len(values))), len(values) - 1))
