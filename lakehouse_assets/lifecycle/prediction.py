"""Prediction: batch scoring with what is in force, idempotent for each time at which predictions are made."""

from datetime import datetime

import dagster as dg
import polars as pl

from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table import Table
from lakehouse_assets.lake.table_asset import column_schema, contract_check
from lakehouse_assets.lifecycle.contracts import MODEL_VERSION, MONTH, contract_of, grow, has_ladder
from lakehouse_assets.lifecycle.fleet import Assignment, FleetRegistry
from lakehouse_assets.lifecycle.names import Names, table_key
from lakehouse_assets.ml.definition import ALL, Kind, ModelDefinition
from lakehouse_assets.ml.ladder import PREVIOUS, RUNGS, below_stand_ins, step_down
from lakehouse_assets.registry.resource import RegistryResource


def prediction_asset(definition: ModelDefinition) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """The asset `predictions/<name>` and the check of its contract."""
    names, kind = Names(definition.name), definition.kind
    time = kind.time_column
    contract = contract_of("Predictions", kind.prediction_columns, kind.keys, {**MODEL_VERSION, **MONTH})

    @dg.asset(
        key=names.prediction,
        deps=[names.promotion, names.series, dg.AssetKey(definition.features.split("/"))],
        group_name="predictions",
        description=(
            f"Predictions of what is in force of {definition.name}, each member's champion: for every {time} that has "
            "features and no prediction yet, and for the latest one again when another version came into force. "
            "One prediction a key."
        ),
        kinds={"delta", "polars"},
        owners=["team:lakehouse"],
        tags={"model": definition.name, "layer": "predictions"},
        metadata={"partition_expr": "month", "dagster/column_schema": column_schema(contract)},
    )
    def predict(
        context: dg.AssetExecutionContext, lake: LakeResource, registry: RegistryResource
    ) -> dg.MaterializeResult:
        fleet = FleetRegistry(definition.name, registry.registry(), lake.lake())
        in_force = fleet.assignment()
        table = lake.lake().table(table_key(names.prediction))
        grow(table, kind.prediction_columns)
        if in_force is None:
            context.log.warning(f"{definition.name} has no champion yet; nothing is predicted")
            return dg.MaterializeResult(metadata={"reason": "no champion yet"})
        features = lake.lake().table(definition.features).scan()
        times = _times_to_predict(table, features, kind, in_force)
        if not times:
            return dg.MaterializeResult(metadata={"reason": "every time with features has been predicted"})
        # The months are there to prune by: without them every file of the features would be read.
        months = sorted({moment.date().replace(day=1) for moment in times})
        frame = features.filter(pl.col("month").is_in(months) & pl.col(time).is_in(times)).collect()
        members = frame[kind.member].unique().to_list() if kind.member in kind.keys else None
        predicted = fleet.load(kind, in_force, members).predict(frame)
        laddered = has_ladder(kind)
        if laddered:
            predicted = _with_previous(predicted, frame, fleet, kind)
        predicted = predicted.with_columns(month=pl.col(time).dt.date().dt.month_start())
        known = pl.col("month") >= (min(times) - kind.look_back).date().replace(day=1)
        earlier = table.scan().filter(known) if table.exists() else predicted.clear().lazy()
        predicted = kind.calibrate(predicted, earlier, features.filter(known))
        result = table.merge(predicted, keys=kind.keys, partition_by=["month"], run_id=context.run_id)
        return dg.MaterializeResult(
            metadata={
                "model_version": in_force.champion,
                "versions": dg.MetadataValue.json(_by_version(predicted, kind.keys[1])),
                "first": str(min(times)),
                "last": str(max(times)),
                "dagster/row_count": table.row_count(),
                "rows_predicted": predicted.height,
                **({"rungs": dg.MetadataValue.json(_counted(predicted["rung"]))} if laddered else {}),
                "delta_version": result.version,
            },
            data_version=dg.DataVersion(str(result.version)),
        )

    return predict, contract_check(predict, contract)


def _counted(values: pl.Series) -> dict[str, int]:
    return dict(values.value_counts().sort(values.name).iter_rows())


def _by_version(predicted: pl.DataFrame, entity: str) -> dict[str, int]:
    """For how many each version predicted."""
    counts = predicted.group_by("model_version").agg(pl.col(entity).n_unique()).sort("model_version")
    return {str(version): count for version, count in counts.iter_rows()}


def _with_previous(predicted: pl.DataFrame, frame: pl.DataFrame, fleet: FleetRegistry, kind: Kind) -> pl.DataFrame:
    """The predictions; where what is in force left something unsaid, those of what was in force before it."""
    member = kind.member
    below = predicted.filter(below_stand_ins())[member].unique()
    before = None if below.is_empty() else fleet.before()
    if before is None:
        return predicted
    rows = frame.filter(pl.col(member).is_in(below.implode()))
    return step_down(predicted, fleet.load(kind, before, below.to_list()).predict(rows), kind.keys)


def _times_to_predict(table: Table, features: pl.LazyFrame, kind: Kind, in_force: Assignment) -> list[datetime]:
    """The times without predictions since the last one with; and that one again when another version made some of it.

    At the very first there is no last one: then the latest time with features is the first to be predicted, or, of a
    kind that describes, the first of all.
    """
    time = kind.time_column
    latest = features.select(pl.col(time).max()).collect().item()
    if latest is None:
        return []
    if not table.exists():
        return features.select(pl.col(time).unique().sort()).collect()[time].to_list() if kind.describes else [latest]
    last = table.scan().select(pl.col(time).max()).collect().item()
    month = last.date().replace(day=1)
    wanted = pl.col(time) > last
    if last == latest:
        rows = table.scan().filter(pl.col("month") == month, pl.col(time) == last)
        if "rung" in rows.collect_schema():  # what was in force before has spoken for what is
            rows = rows.filter(pl.col("rung").ne_missing(RUNGS[PREVIOUS]))
        member = pl.col(kind.member) if kind.member in kind.keys else pl.lit(ALL)
        by = rows.select(member.alias("member"), "model_version")
        if any(in_force.version_of(one) != version for one, version in by.unique().collect().iter_rows()):
            wanted = pl.col(time) >= last
    found = features.filter(wanted & (pl.col("month") >= month))
    return found.select(pl.col(time).unique().sort()).collect()[time].to_list()
