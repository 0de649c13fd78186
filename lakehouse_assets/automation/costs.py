"""The cost ledger: what each step of each run took, and each candidate and shard of each training, in one table.

Runs are read from Dagster's event log once they have ended, trainings from what their MLflow run keeps of the backtest.
CPU seconds are those that a training measured; of other steps the log knows the time on the wall alone.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import column_schema, contract_check
from lakehouse_assets.lifecycle.pictures import picture_metadata
from lakehouse_assets.registry.resource import RegistryResource
from lakehouse_assets.registry.tracking import Registry
from lakehouse_assets.settings import get_settings

KEY = dg.AssetKey(["monitoring", "costs"])
_SHOWN = timedelta(days=180)
_WHOLE = -1


class Costs(dy.Schema):
    """A step of a run, or a candidate's stage in a shard of a training."""

    run_id = dy.String(primary_key=True, description="The Dagster run.")
    asset = dy.String(primary_key=True, description="What was made.")
    candidate = dy.String(primary_key=True, description="The candidate of a training; empty: the whole step.")
    shard = dy.Int64(primary_key=True, description="The shard of a fleet; -1: all of it.")
    stage = dy.String(primary_key=True, description="step: the whole; else what a training does with a candidate.")
    at = dy.Datetime(time_zone="UTC", description="When the step began (UTC).")
    cpu_seconds = dy.Float64(nullable=True, description="CPU time (s); null where it is not measured.")
    wall_seconds = dy.Float64(nullable=True, description="Time on the clock (s); null within a step.")
    bytes = dy.Int64(nullable=True, description="Of the table's files after the step; of the rows that a shard read.")


def costs_of_run(instance: dg.DagsterInstance, store: Registry, run_id: str) -> pl.DataFrame:
    """The rows of a run that has ended: a row for each asset that a step made, and those of its trainings."""
    steps = {step.step_key: step for step in instance.get_run_step_stats(run_id)}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    parts = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        made, event = entry.asset_materialization, entry.dagster_event
        step = steps.get(event.step_key or "") if event else None
        if made is None or step is None or step.start_time is None or (step.step_key, str(made.asset_key)) in rows:
            continue
        about = {name: value.value for name, value in made.metadata.items()}
        at = datetime.fromtimestamp(step.start_time, UTC)
        row = {"run_id": run_id, "asset": made.asset_key.to_user_string(), "at": at}
        rows[step.step_key, str(made.asset_key)] = row | {
            "candidate": "",
            "shard": _WHOLE,
            "stage": "step",
            "wall_seconds": None if step.end_time is None else step.end_time - step.start_time,
            "bytes": about.get("size_bytes"),
        }
        if "mlflow_run" in about:
            same = {name: pl.lit(value) for name, value in row.items()}
            parts.append(_training(store, str(about["mlflow_run"])).with_columns(**same))
    schema = Costs.create_empty().schema
    found = pl.concat([pl.DataFrame(list(rows.values()), schema=schema), *(p.match_to_schema(schema) for p in parts)])
    # A job's step may be tried again, and several of a candidate's stages have one name: what they took adds up.
    keys = Costs.primary_key()
    sums = [pl.when(pl.col(n).count() > 0).then(pl.col(n).sum()).alias(n) for n in ("cpu_seconds", "wall_seconds")]
    return found.group_by(keys).agg(pl.col("at").min(), *sums, pl.col("bytes").max()).select(found.columns).sort(keys)


def _training(store: Registry, mlflow_run: str) -> pl.DataFrame:
    """candidate, shard, stage, cpu_seconds and bytes of a training, from its artifacts."""
    with TemporaryDirectory() as folder:
        file = store.client.download_artifacts(mlflow_run, "backtest/costs.parquet", folder)
        ledger = pl.read_parquet(Path(file))
    return ledger.select(
        "candidate",
        pl.col("shard").fill_null(_WHOLE),
        "stage",
        "cpu_seconds",
        pl.lit(None, pl.Float64).alias("wall_seconds"),
        "bytes",
    )


def _ended(instance: dg.DagsterInstance, since: datetime | None, this: str) -> Iterator[tuple[str, datetime]]:
    """The runs that have ended since, and when."""
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    for record in instance.get_run_records(dg.RunsFilter(statuses=ended, updated_after=since)):
        if record.dagster_run.run_id != this:
            yield record.dagster_run.run_id, record.update_timestamp.replace(tzinfo=UTC)


@dg.asset(
    key=KEY,
    group_name="monitoring",
    description="What every step of every run took, and every candidate and shard of every training.",
    kinds={"delta", "polars"},
    owners=["team:lakehouse"],
    tags={"layer": "monitoring"},
    metadata={"dagster/column_schema": column_schema(Costs)},
)
def costs(context: dg.AssetExecutionContext, lake: LakeResource, registry: RegistryResource) -> dg.MaterializeResult:
    """The runs that have ended since the last time, and a picture of the last half year."""
    from lakehouse_assets.ml.pictures import costs_picture

    table = lake.lake().table(KEY.path)
    event = context.instance.get_latest_materialization_event(KEY) if table.exists() else None
    about = event.asset_materialization.metadata if event and event.asset_materialization else {}
    since = datetime.fromisoformat(str(about["until"].value)) if "until" in about else None
    store = registry.registry()
    runs = dict(_ended(context.instance, since, context.run_id))
    found = [costs_of_run(context.instance, store, run) for run in runs]
    rows = pl.concat([Costs.create_empty(), *found])
    result = table.merge(rows, keys=Costs.primary_key(), run_id=context.run_id)
    ledger = table.scan().collect()
    latest = ledger["at"].max()
    recent = ledger.filter(pl.col("at") > latest - _SHOWN) if isinstance(latest, datetime) else ledger
    until = max(runs.values(), default=since)
    return dg.MaterializeResult(
        metadata={
            **({"until": until.isoformat()} if until else {}),
            "runs": len(runs),
            "dagster/row_count": ledger.height,
            "cpu_seconds": float(recent["cpu_seconds"].sum()),
            "wall_seconds": float(recent["wall_seconds"].sum()),
            "delta_version": result.version,
            **(picture_metadata({"costs": costs_picture(recent)}) if recent.height else {}),
        },
        data_version=dg.DataVersion(str(result.version)),
    )


contract = contract_check(costs, Costs)

ledger = dg.define_asset_job("costs", selection=[KEY], description="Book what the runs that have ended took.")
costs_daily = dg.ScheduleDefinition(
    name="costs_daily",
    job=ledger,
    cron_schedule="45 3 * * *",
    description="Books what the runs of a day took. Runs in: local, production.",
    default_status=get_settings().schedule_status("local", "production"),
)
