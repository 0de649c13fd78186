"""Rungs: which members the champion had nothing to say about, who spoke for them, and why; never silence."""

from datetime import datetime

import dagster as dg
import polars as pl

from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import column_schema, contract_check
from lakehouse_assets.lifecycle.contracts import MODEL_VERSION, MONTH, RUNGS, contract_of
from lakehouse_assets.lifecycle.names import Names, table_key
from lakehouse_assets.ml.definition import ModelDefinition
from lakehouse_assets.ml.ladder import rungs_of


def rungs_asset(definition: ModelDefinition) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """The asset `monitoring/<name>_rungs` and the check of its contract."""
    names, kind = Names(definition.name), definition.kind
    time, member = kind.time_column, kind.member
    keys = (time, member, "rung")
    of_member = {name: kind.prediction_columns[name] for name in (time, member)}
    contract = contract_of("Rungs", {**of_member, **RUNGS}, keys, {**MODEL_VERSION, **MONTH})

    @dg.asset(
        key=names.rungs,
        deps=[names.prediction],
        group_name="monitoring",
        description=(
            f"Predictions of {definition.name} below the champion's own: a row for each {time} and {member} that has "
            "any, with the rung of the ladder and the reason; and one where a member leaves, when its predictions end."
        ),
        kinds={"delta", "polars"},
        owners=["team:lakehouse"],
        tags={"model": definition.name, "layer": "monitoring"},
        metadata={"partition_expr": "month", "dagster/column_schema": column_schema(contract)},
    )
    def rungs(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        predictions = lake.lake().table(table_key(names.prediction))
        if not predictions.exists():
            return dg.MaterializeResult(metadata={"reason": "nothing has been predicted yet"})
        table = lake.lake().table(table_key(names.rungs))
        predicted, since = predictions.scan(), _covered(context.instance, names) if table.exists() else None
        if since is not None:  # the month before is there for who was predicted last in it
            predicted = predicted.filter(pl.col("month") >= since.date().replace(day=1) - pl.duration(days=1))
        found = rungs_of(predicted, time, member).with_columns(month=pl.col(time).dt.date().dt.month_start()).collect()
        until = predicted.select(pl.col(time).max()).collect().item()
        predicate = None
        if since is not None:
            first = since.date().replace(day=1)
            found, predicate = found.filter(pl.col("month") >= first), f"month >= '{first}'"
        result = table.overwrite(found, predicate=predicate, partition_by=["month"], run_id=context.run_id)
        latest = found.filter(pl.col(time) == until)
        return dg.MaterializeResult(
            metadata={
                "until": str(until),
                "dagster/row_count": table.row_count(),
                "members_below_champion": latest[member].n_unique(),
                "reasons": dg.MetadataValue.json(dict(latest["reason"].value_counts().sort("reason").iter_rows())),
                "delta_version": result.version,
            },
            data_version=dg.DataVersion(str(result.version)),
        )

    return rungs, contract_check(rungs, contract)


def _covered(instance: dg.DagsterInstance, names: Names) -> datetime | None:
    """Until when the last run has looked."""
    event = instance.get_latest_materialization_event(names.rungs)
    metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
    return datetime.fromisoformat(str(metadata["until"].value)) if "until" in metadata else None
