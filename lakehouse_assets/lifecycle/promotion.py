"""Promotion: the gate decides whether the challenger becomes champion; a decision is a row with its evidence."""

import json
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table import Table
from lakehouse_assets.lake.table_asset import column_schema, contract_check
from lakehouse_assets.lifecycle.evidence import load_backtest
from lakehouse_assets.lifecycle.names import REPORT_TAG, Names, table_key
from lakehouse_assets.ml.definition import ModelDefinition
from lakehouse_assets.registry.resource import RegistryResource
from lakehouse_assets.registry.tracking import ModelVersion, Registry


class Decisions(dy.Schema):
    """A decision about a version of a model: of the gate, or of a person who rolled back."""

    version = dy.Int64(primary_key=True, description="Version that was decided about.")
    decided_at = dy.Datetime(primary_key=True, time_zone="UTC", description="When it was decided, on the run's clock.")
    decision = dy.String(description="promoted, kept (the champion stays) or rolled_back.")
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


def promotion_asset(definition: ModelDefinition) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """The asset `registry/<name>` and the check of its contract."""
    names = Names(definition.name)

    @dg.asset(
        key=names.promotion,
        deps=[names.training],
        group_name="registry",
        description=(
            "The gate's decisions: challenger against champion on identical folds, by a test that knows that errors "
            "are autocorrelated. A promotion sets the MLflow aliases `champion` and `previous`; "
            f"`lakehouse rollback {definition.name}` undoes it."
        ),
        kinds={"mlflow", "delta"},
        owners=["team:lakehouse"],
        tags={"model": definition.name, "layer": "registry"},
        metadata={"dagster/column_schema": column_schema(Decisions)},
        # Two gates at once would decide against the same champion; the registry's compare-and-set is the safeguard.
        pool=f"{definition.name}_registry",
    )
    def decide(
        context: dg.AssetExecutionContext, lake: LakeResource, registry: RegistryResource, clock: Clock
    ) -> dg.MaterializeResult:
        store = registry.registry()
        table = lake.lake().table(table_key(names.promotion))
        challenger = store.get(definition.name, "challenger")
        waiting = [v for v in (_champion_without_row(store, definition, table), challenger) if v is not None]
        if not waiting:
            return _nothing_to_decide(store, definition, table)
        for version in waiting:
            row = _decide(store, definition, version, clock.now(), context.run)
            # One row a decision about a version: repeating a run that was killed here changes nothing.
            table.merge(_frame(row), keys=["version", "decision"], run_id=context.run_id)
        return dg.MaterializeResult(
            metadata={
                **{name: row[name] for name in ("decision", "reason", "candidate", "trigger")},
                "version": row["version"],
                "champion_version": row["champion_after"] or 0,
                "previous_version": row["champion_before"] or 0,
                "evidence": dg.MetadataValue.json(json.loads(row["evidence"])),
                "delta_version": table.version(),
                "dagster/row_count": table.row_count(),
            },
            data_version=dg.DataVersion(str(table.version())),
        )

    return decide, contract_check(decide, Decisions)


def _decide(
    store: Registry, definition: ModelDefinition, challenger: ModelVersion, now: datetime, run: dg.DagsterRun
) -> dict[str, Any]:
    """Let the gate decide about a version, set the aliases, and return the row of the decision."""
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
    promote, reason = decision.promote, decision.reason
    if promote and before not in (backtest.champion_version, challenger.version):
        promote = False
        reason = (
            f"kept: the challenger was compared with version {backtest.champion_version}, but version {before} is "
            "champion by now; train again"
        )
    evidence = decision.evidence
    if promote:
        store.promote(definition.name, challenger.version, before)
    return {
        "version": challenger.version,
        "decided_at": now,
        "decision": "promoted" if promote else "kept",
        "reason": reason,
        "champion_before": backtest.champion_version if promote else before,
        "champion_after": challenger.version if promote else before,
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


def _champion_without_row(store: Registry, definition: ModelDefinition, table: Table) -> ModelVersion | None:
    """The champion, if a run was killed between its promotion and the row that tells of it."""
    champion = store.get(definition.name, "champion")
    if champion is None or "requested_at" not in champion.tags:
        return None
    if table.exists() and not table.scan().filter(version=champion.version).collect().is_empty():
        return None
    return champion


def roll_back(
    definition: ModelDefinition, store: Registry, table: Table, instance: dg.DagsterInstance, now: datetime
) -> tuple[int, int]:
    """Put the previous champion in force again, with a row in the decisions and an event in the asset's history.

    Returns:
        The version that was champion, and the one that is.

    Raises:
        NothingToRollBack: there is no previous champion.
    """
    names = Names(definition.name)
    left, entered = store.rollback(definition.name)
    version = next(v for v in store.versions(definition.name) if v.version == entered)
    row = {
        "version": entered,
        "decided_at": now,
        "decision": "rolled_back",
        "reason": f"rolled back from version {left} by hand",
        "champion_before": left,
        "champion_after": entered,
        "trigger": "manual",
        "report": None,
        "requested_at": now,
        "candidate": version.tags["candidate"],
        "gain": None,
        "p_value": None,
        "evidence": "{}",
        "run_id": "",
        "mlflow_run_id": version.run_id,
    }
    table.append(_frame(row))
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            names.promotion,
            metadata={
                "decision": "rolled_back",
                "reason": str(row["reason"]),
                "champion_version": entered,
                "previous_version": left,
            },
        )
    )
    return left, entered


def _nothing_to_decide(store: Registry, definition: ModelDefinition, table: Table) -> dg.MaterializeResult:
    """The challenger was promoted already (a run was repeated), or nothing was trained."""
    champion = store.get(definition.name, "champion")
    if champion is None:
        raise dg.Failure(f"{definition.name} has no challenger: materialize models/{definition.name} first.")
    return dg.MaterializeResult(
        metadata={"decision": "none", "reason": "no challenger waits", "champion_version": champion.version},
        data_version=dg.DataVersion(str(table.version())) if table.exists() else None,
    )


def _frame(row: dict) -> pl.DataFrame:
    return pl.DataFrame([row], schema={name: column.dtype for name, column in Decisions.columns().items()})
