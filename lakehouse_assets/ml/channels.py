"""What the channels beside the challenger say of the latest week, and their findings; quality and regime, too.

Each channel makes a :class:`Call` about the series of a verdict (:mod:`lakehouse_assets.ml.drift`), which joins them.
What they need beside the weekly losses is an :class:`Evidence`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml import errors
from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.errors import BLOCK_HOURS, Past, Weekly
from lakehouse_assets.ml.inputs import WINDOW

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
WEEK = timedelta(days=7)
COLUMNS: dict[str, tuple[pl.DataType, str]] = {
    "fault": (pl.String(), "Lasting fault of the meter in the week; its hours are in no loss. Null: none."),
    "fault_since": (pl.Datetime("us", "UTC"), "When the fault began."),
    "block_bias": (
        pl.List(pl.Float64()),
        "Mean error by block of six hours, in units of the load, extreme days left out; of the error channel.",
    ),
    "block_loss": (pl.List(pl.Float64()), "Mean absolute error likewise."),
    "explaining": (pl.List(pl.Float64()), "What explains the errors of the week: see ml/errors.py."),
}
"""What a week's row says beside the losses."""


@dataclass(frozen=True)
class Evidence:
    """What a verdict may lean on beside the weekly losses.

    week: start of the week that is judged. past: the champion's own errors before it was in force, for the error
    channel. inputs: of :func:`lakehouse_assets.ml.inputs.decided`, for the input channel; None where none is asked for.
    regimes: of :func:`lakehouse_assets.ml.regime.regimes`. widest: of :func:`lakehouse_assets.ml.inputs.input_drift`,
    what moved with a drift.
    """

    week: datetime | None = None
    past: Past | None = None
    inputs: pl.DataFrame | None = None
    regimes: pl.DataFrame = field(default_factory=pl.DataFrame)
    widest: pl.DataFrame = field(default_factory=pl.DataFrame)


@dataclass(frozen=True)
class Call:
    """What a channel says of each series (S,) in the latest week.

    tested, drifted; p: of chance, where the channel has one. since: when it began, None where it has not drifted. gain:
    the share of the loss that a training is expected to save, NaN where nobody knows. told: what a finding says besides
    about the series, by name; of members that share one, the commonest is told, or the mean of numbers.
    """

    tested: Mask
    drifted: Mask
    p: Array
    since: list[datetime | None]
    gain: Array
    told: dict[str, list[Any]]


def error_call(
    history: pl.DataFrame, ids: Sequence[str], weeks: Sequence[datetime], evidence: Evidence, policy: DriftPolicy
) -> Call:
    """The error channel: the weeks of a history against the champion's own past errors.

    history: rows with the columns of ``COLUMNS``, of the series ids in the weeks.
    """
    blocks, columns = (_width(history, name) for name in ("block_bias", "explaining"))
    past = evidence.past
    if past is None or not blocks or not weeks:
        return _silent(len(ids))
    starts = np.array([int(week.timestamp() * 1_000_000) for week in weeks], np.int64)
    bias, loss = (_stacked(history, ids, weeks, name, blocks) for name in ("block_bias", "block_loss"))
    current = Weekly(starts, bias, loss, _stacked(history, ids, weeks, "explaining", columns))
    found = errors.judge(current, past.of(ids), policy)
    drifted = found.drifted[:, -1]
    since = [weeks[i] if hit else None for i, hit in zip(found.since[:, -1], drifted, strict=True)]
    hours = [_hours(block) if block >= 0 else None for block in found.block[:, -1].tolist()]
    biased = found.kind[:, -1] == 1
    told = {
        "hours": hours,
        "bias": np.where(biased, found.bias[:, -1], np.nan).tolist(),
        "error_change": np.expm1(found.change[:, -1]).tolist(),
    }
    # Of errors that have grown without a bias nobody knows what a training would mend.
    gain = np.where(biased, found.gain[:, -1], np.nan)
    return Call(found.tested[:, -1], drifted, found.p[:, -1], since, gain, told)


def input_call(ids: Sequence[str], evidence: Evidence) -> Call:
    """The input channel: the inputs of the latest weeks against those of their season."""
    if evidence.inputs is None or evidence.week is None:
        return _silent(len(ids))
    rows = pl.DataFrame({"series_id": list(ids)}).join(
        evidence.inputs, on="series_id", how="left", maintain_order="left"
    )
    drifted = rows["moved"].fill_null(value=False).to_numpy()
    begun = evidence.week + WEEK - WINDOW * WEEK
    told = {
        "input": rows["column"].to_list(),
        "slice": rows["slice"].to_list(),
        "hours": [name if name and name.endswith("horizon") else None for name in rows["slice"].to_list()],
        "measure": rows["measure"].to_list(),
        "distance": rows["distance"].to_list(),
    }
    return Call(
        rows["p_value"].is_not_null().to_numpy(),
        drifted,
        rows["p_value"].fill_null(np.nan).to_numpy(),
        [begun if hit else None for hit in drifted],
        np.full(len(ids), np.nan),
        told,
    )


def _silent(series: int) -> Call:
    nobody = np.zeros(series, bool)
    return Call(nobody, nobody, np.full(series, np.nan), [None] * series, np.full(series, np.nan), {})


# --- findings ---------------------------------------------------------------------------------------------------------


def together(drifted: pl.DataFrame, tested: int, fleet_share: float) -> list[tuple[str, pl.DataFrame]]:
    """Scope and rows of each finding: those that begin within a week of each other are one of the fleet, when they are
    at least its share of the tested series, and three; all others are one each.

    drifted: series_id, since, and whatever else.
    """
    rest = drifted.sort("since", "series_id")
    groups: list[tuple[str, pl.DataFrame]] = []
    while rest.height:
        # The week, with the next, in which most begin.
        begun = [rest.filter(pl.col("since").is_between(w, w + WEEK)) for w in rest["since"].unique()]
        most = max(begun, key=lambda group: (group.height, -group["since"].min().timestamp()))  # type: ignore[union-attr]
        if most.height < max(3, fleet_share * tested):
            break
        groups.append(("fleet", most))
        rest = rest.join(most, on="series_id", how="anti", maintain_order="left")
    return groups + [("series", one) for one in rest.iter_slices(1)]


def call_findings(
    channel: str, call: Call, ids: Sequence[str], first: Mask, tested: int, policy: DriftPolicy
) -> list[dict[str, Any]]:
    """The findings of a channel about the series that no channel before it has called.

    first: (S,) those series.
    """
    hits: list[int] = np.flatnonzero(first).tolist()
    rows = pl.DataFrame(
        {
            "series_id": [ids[i] for i in hits],
            "since": pl.Series([call.since[i] for i in hits], dtype=pl.Datetime("us", "UTC")),
            "gain": call.gain[hits],
            **{name: [values[i] for i in hits] for name, values in call.told.items()},
        },
        schema_overrides={"series_id": pl.String()},
    )
    kind = "input" if channel == "input" else "drift"
    return [
        {
            "kind": kind,
            "channel": channel,
            "scope": scope,
            "members": group["series_id"].to_list(),
            "since": _moment(group["since"].min()),
            **{name: _common(group[name]) for name in call.told},
            "expected_gain": _common(group["gain"]),
        }
        for scope, group in together(rows, tested, policy.fleet_share)
    ]


def regime_findings(regimes: pl.DataFrame, tested: int, policy: DriftPolicy) -> list[dict[str, Any]]:
    """Changes of level and of shape, those of a kind and direction that began together as one."""
    out: list[dict[str, Any]] = []
    if regimes.is_empty():
        return out
    signed = regimes.with_columns(up=pl.col("change") > 0)
    for (what, up), same in signed.group_by("what", "up", maintain_order=True):
        for scope, group in together(same, tested, policy.fleet_share):
            change = float(group["change"].mean())  # type: ignore[arg-type]
            first, last = (_common(group[name].cast(pl.String)) for name in ("first_hour", "last_hour"))
            direction = "up" if up else "down"
            noun, unit = ("level", "") if what == "level" else ("hours", " of the day's mean")
            finding = {
                "kind": "regime",
                "channel": None,
                "scope": scope,
                "members": group["series_id"].to_list(),
                "since": _moment(group["since"].min()),
                "what": what,
                "change": change,
                "says": f"{noun} {direction} by {abs(change):.0%}{unit}",
                "hours": f"{first} to {last} of the local day" if first is not None else None,
                "expected_gain": None,
            }
            out.append(finding)
    return out


def quality_findings(latest: pl.DataFrame, tested: int, policy: DriftPolicy) -> list[dict[str, Any]]:
    """Lasting faults of the latest week, by name. latest: rows of the history with ``fault`` and ``fault_since``."""
    if "fault" not in latest.columns:
        return []
    faulty = latest.filter(pl.col("fault").is_not_null()).select("series_id", "fault", since="fault_since")
    return [
        {
            "kind": "quality",
            "channel": None,
            "fault": fault,
            "scope": scope,
            "members": group["series_id"].to_list(),
            "since": _moment(group["since"].min()),
            "hours": None,
            "expected_gain": None,
        }
        for (fault,), same in faulty.group_by("fault", maintain_order=True)
        for scope, group in together(same, tested, policy.fleet_share)
    ]


def with_moves(findings: Sequence[dict[str, Any]], widest: pl.DataFrame) -> list[dict[str, Any]]:
    """Findings with ``moved``: the inputs that moved most in their members, the commonest first, three at most."""
    if widest.is_empty():
        return [{**finding, "moved": []} for finding in findings]
    return [
        {
            **finding,
            "moved": widest.filter(pl.col("series_id").is_in(finding["members"]))["column"]
            .value_counts()
            .sort("count", "column", descending=[True, False])["column"]
            .head(3)
            .to_list(),
        }
        for finding in findings
    ]


def _common(values: pl.Series) -> Any:
    """The mean of numbers, the commonest of other values; None where there is none."""
    if values.dtype.is_numeric():
        return values.cast(pl.Float64).fill_nan(None).mean()
    there = values.drop_nulls()
    return there.mode().sort()[0] if len(there) else None


def _moment(since: Any) -> str:
    return str(since.isoformat())


def _hours(block: int) -> str:
    return f"{block * BLOCK_HOURS} to {(block + 1) * BLOCK_HOURS - 1} of the horizon"


# --- columns of lists -------------------------------------------------------------------------------------------------


def _width(history: pl.DataFrame, name: str) -> int:
    """How long the lists of a column are."""
    longest = history[name].list.len().max() if name in history.columns else 0
    return int(longest or 0)  # type: ignore[arg-type]


def _stacked(history: pl.DataFrame, ids: Sequence[str], weeks: Sequence[datetime], name: str, width: int) -> Array:
    """A column of lists as (series, weeks, width), NaN where unknown."""
    out = np.full((len(ids), len(weeks), width), np.nan)
    rows = history["series_id"].cast(pl.Enum(ids)).to_physical().to_numpy()
    columns = pl.Series(weeks, dtype=history["week"].dtype).search_sorted(history["week"]).to_numpy()
    items = [pl.col(name).list.get(k, null_on_oob=True).fill_null(np.nan).alias(str(k)) for k in range(width)]
    out[rows, columns] = history.select(items).to_numpy()
    return out
