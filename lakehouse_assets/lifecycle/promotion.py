"""Promotion: the gate decides what comes into force, for the fleet and its members; a decision is a row."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table import Lake, Table
from lakehouse_assets.lake.table_asset import ContractClass, column_schema, contract_check
from lakehouse_assets.lifecycle.evidence import load_backtest
from lakehouse_assets.lifecycle.fleet import (
    ASKED_TAG,
    SINCE_CHANGE_TAG,
    Change,
    FleetRegistry,
    history_contract,
    series_contract,
    summary,
)
from lakehouse_assets.lifecycle.names import REPORT_TAG, REQUESTED_AT_TAG, TRIGGER_TAG, Names, table_key
from lakehouse_assets.ml.definition import ModelDefinition
from lakehouse_assets.registry.resource import RegistryResource
from lakehouse_assets.registry.tracking import ModelVersion, Registry


class Decisions(dy.Schema):
    """A decision about a version of a model: of the gate, or of a person who rolled back or pinned."""

    version = dy.Int64(primary_key=True, description="Version that was decided about.")
    decided_at = dy.Datetime(primary_key=True, time_zone="UTC", description="When it was decided, on the run's clock.")
    decision = dy.String(
        description=(
            "promoted, promoted_in_part (a version of some members, of which some moved to it), kept (the champion "
            "stays), not_trained (a drift report asked, but no training pays), rolled_back or pinned."
        )
    )
    reason = dy.String(description="The reason in one sentence.")
    champion_before = dy.Int64(nullable=True, description="Champion before the decision; null: there was none.")
    champion_after = dy.Int64(nullable=True, description="Champion after the decision; null: there is none yet.")
    trigger = dy.String(description="What asked for the training: drift, schedule or manual.")
    report = dy.String(nullable=True, description="The drift report that asked for the training, if one did.")
    requested_at = dy.Datetime(time_zone="UTC", description="When the training was asked for, on the run's clock.")
    candidate = dy.String(description="The challenger's recipe.")
    gain = dy.Float64(
        nullable=True, description="Relative gain in loss on the champion (on the baseline: first model)."
    )
    p_value = dy.Float64(nullable=True, description="One-sided p-value of the gain.")
    evidence = dy.String(description="All that the gate looked at, as JSON.")
    run_id = dy.String(description="Dagster run that decided.")
    mlflow_run_id = dy.String(description="MLflow run of the training.")


def promotion_asset(definition: ModelDefinition) -> tuple[dg.AssetsDefinition, list[dg.AssetChecksDefinition]]:
    """The assets `registry/<name>`, `registry/<name>_series` and its history, of one step, and their contracts."""
    names, kind = Names(definition.name), definition.kind
    member = kind.member
    contracts: dict[dg.AssetKey, ContractClass] = {
        names.promotion: Decisions,
        names.series: series_contract(kind),
        names.series_history: history_contract(kind),
    }
    descriptions = {
        names.promotion: (
            "The gate's decisions: challenger against what is in force on identical folds, by a test that knows that "
            "errors are autocorrelated. A promotion sets the MLflow aliases `champion` and `previous`; "
            f"`lakehouse rollback {definition.name}` undoes it."
        ),
        names.series: (
            f"What is in force: one row a {member} with its champion, since when and why. It changes together with "
            f"MLflow's aliases; `lakehouse rollback {definition.name} --series X` changes one row."
        ),
        names.series_history: (
            f"What was in force: one row a {member} and decision about it, with the reason. "
            f"`lakehouse models show {definition.name} --series X` prints one."
        ),
    }

    @dg.multi_asset(
        name=f"registry__{definition.name}",
        specs=[
            dg.AssetSpec(
                key,
                deps=[names.training],
                group_name="registry",
                description=descriptions[key],
                kinds={"mlflow", "delta"} if key == names.promotion else {"delta"},
                owners=["team:lakehouse"],
                tags={"model": definition.name, "layer": "registry"},
                metadata={"dagster/column_schema": column_schema(contract)},
            )
            for key, contract in contracts.items()
        ],
        # Two gates at once would decide against the same champion; compare-and-set is the safeguard.
        pool=f"{definition.name}_registry",
    )
    def decide(
        context: dg.AssetExecutionContext, lake: LakeResource, registry: RegistryResource, clock: Clock
    ) -> Iterator[dg.MaterializeResult]:
        store = registry.registry()
        table = lake.lake().table(table_key(names.promotion))
        fleet = FleetRegistry(definition.name, store, lake.lake())
        fleet.repair()
        challenger = store.get(definition.name, "challenger")
        waiting = [v for v in (_champion_without_row(store, definition, table), challenger) if v is not None]
        if waiting:
            for version in waiting:
                row, change = _decide(fleet, definition, version, clock.now(), context.run)
                # One row a decision about a version: repeating a run that was killed here changes nothing.
                table.merge(_frame(row), keys=["version", "decision"], run_id=context.run_id)
            told = {
                **{name: row[name] for name in ("decision", "reason", "candidate", "trigger")},
                "version": row["version"],
                "champion_version": row["champion_after"] or 0,
                "previous_version": row["champion_before"] or 0,
                "evidence": dg.MetadataValue.json(json.loads(row["evidence"])),
                **{f"series_{name}": getattr(change, name) for name in ("moved", "stayed", "pinned", "harmed")},
            }
        else:
            told = _nothing_to_decide(store, definition)
        yield _materialized(names.promotion, table, told)
        yield _materialized(names.series, fleet.table, summary(fleet.rows()))
        yield _materialized(names.series_history, fleet.history_table, {})

    return decide, [contract_check(decide, contract, key=key) for key, contract in contracts.items()]


def _materialized(key: dg.AssetKey, table: Table, metadata: Mapping[str, Any]) -> dg.MaterializeResult:
    if not table.exists():
        return dg.MaterializeResult(asset_key=key, metadata={"dagster/row_count": 0, **metadata})
    version = table.version()
    return dg.MaterializeResult(
        asset_key=key,
        metadata={**metadata, "delta_version": version, "dagster/row_count": table.row_count()},
        data_version=dg.DataVersion(str(version)),
    )


def _decide(
    fleet: FleetRegistry, definition: ModelDefinition, challenger: ModelVersion, now: datetime, run: dg.DagsterRun
) -> tuple[dict[str, Any], Change]:
    """Let the gate decide about a version, change what is in force, and return the row of the decision."""
    store = fleet.store
    with load_backtest(store, challenger.run_id) as backtest:
        decision = definition.kind.gate(
            backtest.result,
            backtest.result.best,
            definition.gate,
            groups=backtest.groups,
            has_champion=backtest.champion_version is not None,
        )
    champion = store.get(definition.name, "champion")
    before = champion.version if champion else None
    reason, series = decision.reason, decision.series
    whole = decision.promote
    if before not in (backtest.champion_version, challenger.version):
        whole, series = False, None
        reason = (
            f"kept: the challenger was compared with version {backtest.champion_version}, but version {before} is "
            "champion by now; train again"
        )
    change = fleet.promote(
        definition.kind,
        challenger.version,
        whole=whole,
        reason=reason,
        now=now,
        series=series,
        unscored=backtest.result.unscored,
        since_change=int(challenger.tags.get(SINCE_CHANGE_TAG, 0)),
        run_id=run.run_id,
    )
    promoted = change.champion == challenger.version
    verdict = "promoted" if promoted else "kept"
    if fleet.is_partial(challenger.version):
        verdict, reason = _in_part(fleet, definition, challenger, reason if series is None else None)
    elif whole and not promoted:
        reason = f"kept: every series is pinned, harmed or changed meanwhile ({reason})"
    elif change.moved and not promoted:
        reason = f"{reason}; {change.moved} series promoted by themselves"
    evidence = decision.evidence
    row = {
        "version": challenger.version,
        "decided_at": now,
        "decision": verdict,
        "reason": reason,
        "champion_before": backtest.champion_version if promoted else before,
        "champion_after": change.champion or None,
        "trigger": challenger.tags.get("trigger", "manual"),
        "report": run.tags.get(REPORT_TAG),
        "requested_at": datetime.fromisoformat(challenger.tags["requested_at"]).astimezone(UTC),
        "candidate": challenger.tags["candidate"],
        "gain": evidence.get("gain", evidence.get("against_seasonal_naive", {}).get("gain")),
        "p_value": evidence.get("p_value"),
        "evidence": json.dumps(evidence),
        "run_id": run.run_id,
        "mlflow_run_id": challenger.run_id,
    }
    return row, change


def _in_part(
    fleet: FleetRegistry, definition: ModelDefinition, challenger: ModelVersion, refused: str | None
) -> tuple[str, str]:
    """The decision about a version of some members, and its reason, from what is in force now.

    refused: why the gate did not look at it, if it did not.
    """
    member, rows = definition.kind.member, fleet.rows()
    trained = fleet.store.load(definition.name, challenger.version).series_ids
    moved = rows.filter(version=challenger.version)[member].to_list()
    stayed = rows.filter(pl.col(member).is_in(trained) & (pl.col("version") != challenger.version))
    why = [f"{name} {reason}" for name, reason in stayed.head(3).select(member, "reason").iter_rows()]
    said = refused or "; ".join([f"{len(moved)} of {len(trained)} series promoted", *why])
    return "promoted_in_part" if moved else "kept", f"{said} ({challenger.tags[ASKED_TAG]})"


def not_trained(
    definition: ModelDefinition, fleet: FleetRegistry, lake: Lake, run: dg.DagsterRun, reason: str, now: datetime
) -> dict[str, Any]:
    """Write down that a report asked for a training that does not pay; the decision as metadata."""
    champion = fleet.store.get(definition.name, "champion")
    assert champion is not None  # a report is about one
    row = {
        "version": champion.version,
        "decided_at": now,
        "decision": "not_trained",
        "reason": reason,
        "champion_before": champion.version,
        "champion_after": champion.version,
        "trigger": run.tags.get(TRIGGER_TAG, "manual"),
        "report": run.tags.get(REPORT_TAG),
        "requested_at": datetime.fromisoformat(run.tags.get(REQUESTED_AT_TAG, now.isoformat())).astimezone(UTC),
        "candidate": champion.tags["candidate"],
        "gain": None,
        "p_value": None,
        "evidence": "{}",
        "run_id": run.run_id,
        "mlflow_run_id": champion.run_id,
    }
    table = lake.table(table_key(Names(definition.name).promotion))
    table.merge(_frame(row), keys=["version", "decision", "report"], run_id=run.run_id)
    return {name: row[name] for name in ("decision", "reason", "trigger")} | {"champion_version": champion.version}


def _champion_without_row(store: Registry, definition: ModelDefinition, table: Table) -> ModelVersion | None:
    """The champion, if a run was killed between its promotion and the row that tells of it."""
    champion = store.get(definition.name, "champion")
    if champion is None or "requested_at" not in champion.tags:
        return None
    if table.exists() and not table.scan().filter(version=champion.version).collect().is_empty():
        return None
    return champion


def tell(
    definition: ModelDefinition,
    fleet: FleetRegistry,
    lake: Lake,
    instance: dg.DagsterInstance,
    before: int,
    change: Change,
) -> None:
    """Tell of a change that a person made: an event of each table, and a decision if the fleet has another champion.

    before: the fleet's champion before the change.
    """
    names = Names(definition.name)
    rows = fleet.rows()
    metadata: dict[str, Any] = {"champion_version": change.champion}
    if change.champion != before:
        version = fleet.store.version(definition.name, change.champion)
        last = rows.filter(pl.col("change") == change.number).row(0, named=True)
        row = {
            "version": change.champion,
            "decided_at": last["decided_at"],
            "decision": last["decision"],
            "reason": f"{last['decision'].replace('_', ' ')} by hand; version {before} was champion",
            "champion_before": before,
            "champion_after": change.champion,
            "trigger": "manual",
            "report": None,
            "requested_at": last["decided_at"],
            "candidate": version.tags["candidate"],
            "gain": None,
            "p_value": None,
            "evidence": "{}",
            "run_id": "",
            "mlflow_run_id": version.run_id,
        }
        lake.table(table_key(names.promotion)).append(_frame(row))
        metadata |= {"decision": row["decision"], "reason": row["reason"], "previous_version": before}
    counts = {f"series_{name}": getattr(change, name) for name in ("moved", "stayed", "pinned")}
    for key, shown in (
        (names.promotion, {**metadata, **counts}),
        (names.series, summary(rows)),
        (names.series_history, {}),
    ):
        instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=shown))


def _nothing_to_decide(store: Registry, definition: ModelDefinition) -> dict[str, Any]:
    """The challenger was promoted already (a run was repeated), or nothing was trained."""
    champion = store.get(definition.name, "champion")
    if champion is None:
        raise dg.Failure(f"{definition.name} has no challenger: materialize models/{definition.name} first.")
    return {"decision": "none", "reason": "no challenger waits", "champion_version": champion.version}


def _frame(row: dict) -> pl.DataFrame:
    return pl.DataFrame([row], schema={name: column.dtype for name, column in Decisions.columns().items()})
