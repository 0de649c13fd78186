"""Who is trained: the whole fleet, or the members for which a drift report or a person asks; or nobody, with a reason.

A version that was trained on some of the members is *partial*: it is in force for members that moved to it, and never
the fleet's champion, which serves whoever has no version of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.lifecycle.contracts import grow
from lakehouse_assets.lifecycle.fleet import Assignment, say
from lakehouse_assets.lifecycle.names import Names, table_key
from lakehouse_assets.ml.definition import ModelDefinition


@dataclass(frozen=True)
class Scope:
    """members: who is trained, sorted; None: everybody; empty: nobody. reason: why, in one sentence.

    breaks: since when each member that a report found to have drifted has.
    """

    members: tuple[str, ...] | None
    reason: str
    breaks: Mapping[str, datetime] = field(default_factory=dict)


def scope_of(
    definition: ModelDefinition, lake: Lake, in_force: Assignment | None, report: str | None, named: Sequence[str]
) -> Scope:
    """Who is to be trained.

    Args:
        definition: the model's.
        lake: where the drift table and the features lie.
        in_force: what is in force; None: nothing yet, and everybody is trained.
        report: the drift report that asks, if one does.
        named: members that a person names; they go before a report.

    Raises:
        ValueError: members are named, but one model serves everybody.
    """
    if in_force is None:
        return Scope(None, "nothing is in force yet")
    if named:
        if definition.kind.member not in definition.kind.keys:
            raise ValueError(f"{definition.name} is one model for everybody: it is trained without naming {say(named)}")
        members = tuple(sorted(set(named)))
        return Scope(members, f"asked for by hand: {say(members)}")
    if report is None:
        return Scope(None, "not asked for by a drift report")
    table = lake.table(table_key(Names(definition.name).drift))
    if not table.exists():
        return Scope(None, f"there is no report {report}")
    grow(table, definition.kind.drift_columns)
    member = definition.kind.member
    current = pl.col("model_version") == in_force.versions_of(member)
    rows = table.scan().filter(pl.col("report") == report).with_columns(in_force=current).collect()
    rows = rows.sort("in_force", member, descending=[True, False]).unique(member, keep="first", maintain_order=True)
    return scope_of_report(rows, definition, report)


def scope_of_report(rows: pl.DataFrame, definition: ModelDefinition, report: str) -> Scope:
    """Who is to be trained by a drift report: its rows, one a member, and whether the version judged is `in_force`.

    What is not in force any more, training mends no more. All are trained, when a training pays for a large enough
    share of those that it judged, or when they drifted together and so few by themselves that the fleet's verdict does
    not follow from them.
    """
    member, policy = definition.kind.member, definition.retrain
    judged = rows.filter(pl.col("verdict") != "insufficient_data")
    if not judged["in_force"].any():
        return Scope((), f"report {report} judges nobody whose version is in force")
    drifted = judged.filter(verdict="drift")
    breaks = dict(drifted.drop_nulls("since").select(member, "since").iter_rows())
    due = tuple(judged.filter("due", "in_force")[member].sort())
    if len(due) >= max(1.0, policy.whole_fleet_share * judged.height):
        return Scope(None, f"a training pays for {len(due)} of {judged.height} by report {report}", breaks)
    few = drifted.height < max(1.0, definition.drift.fleet_share * judged.height)
    if few and "drift" in judged["fleet_verdict"]:
        return Scope(None, f"the fleet as a whole has drifted by report {report}", breaks)
    if due:
        why = f"a training pays for {len(due)} of {judged.height} by report {report}: {say(due)}"
        return Scope(due, why, {one: since for one, since in breaks.items() if one in due})
    mended = drifted.height - drifted.filter("in_force").height
    if mended:
        since = f"{mended} drifted and have another version by now"
        return Scope((), f"a training pays for none of {judged.height} any more by report {report}: {since}")
    most = drifted["expected_gain"].max()
    gain = f", where {most:.1%} is expected at most" if isinstance(most, float) else ""
    return Scope(
        (),
        f"a training pays for none of {judged.height} by report {report}: {drifted.height} drifted{gain}, and a "
        f"training costs {definition.drift.cost:.1%} of the loss",
    )
