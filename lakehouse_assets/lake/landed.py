"""What bronze tables share: a batch of landed rows is appended in one commit, and the months that it touched are told.

The months are kept in the commit too: a run that is killed between the commit and its event loses none of them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.table import Table
from lakehouse_assets.lake.table_asset import ContractClass

_TOUCHED = "months_touched"

_SET_ASIDE = "files_set_aside"


class LandedRecord(dy.Schema):
    """Columns of a landed row of customers' files; what the files say comes on top, as text."""

    source = dy.String(description="Name of the declaration that the row was landed by.")
    file = dy.String(primary_key=True, description="File, relative to the fixed part of the declared glob.")
    fingerprint = dy.String(primary_key=True, description="Hash of the file's content.")
    row_number = dy.Int64(primary_key=True, min=1, description="Position of the row in its file, from 1.")
    batch_id = dy.String(description="Dagster run that landed the row.")
    ingested_at = dy.Datetime(time_zone="UTC", description="The clock's time at landing (UTC).")
    ts_utc = dy.Datetime(
        nullable=True, time_zone="UTC", description="When what the row tells was so (UTC); null if it says no time."
    )
    known_at = dy.Datetime(
        nullable=True, time_zone="UTC", description="When the row was known (UTC): as published, else as `ts_utc` says."
    )
    month = dy.Date(
        description="First day of the UTC month of `ts_utc` if that is in range, else of `ingested_at`: the partition."
    )


def record_batch(
    landed: pl.LazyFrame, contract: ContractClass, source: str, first_month: date, batch_id: str, now: datetime
) -> pl.LazyFrame:
    """Landed records (columns of `sources.landing.land_records`) with their batch, in the columns of a contract.

    Args:
        landed: the rows.
        contract: `LandedRecord` with the columns of the files.
        source: name of the declaration.
        first_month: the first month of history.
        batch_id: what landed them.
        now: time of landing (UTC).
    """
    ingested_at = pl.lit(now).cast(pl.Datetime("us", "UTC"))
    month = pl.col("ts_utc").dt.date().dt.month_start()
    in_range = month.is_between(first_month, now.date()).fill_null(False)
    return landed.with_columns(
        source=pl.lit(source),
        batch_id=pl.lit(batch_id),
        ingested_at=ingested_at,
        month=pl.when(in_range).then(month).otherwise(pl.lit(now.date().replace(day=1))),
    ).select(contract.column_names())


def append_batch(
    context: dg.AssetExecutionContext,
    table: Table,
    rows: pl.DataFrame | None,
    months: Sequence[date],
    *,
    empty: Callable[[], pl.DataFrame],
    files: Sequence[str],
    set_aside: Mapping[str, str],
    now: datetime,
    metadata: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult:
    """Append a batch to a bronze table, make the table where there is none, and tell what was landed.

    Args:
        context: of the table's asset, which has the check `files_set_aside`.
        table: the table.
        rows: the batch; None: nothing is new.
        months: the months whose tables change by it.
        empty: makes a frame without rows, for a new table.
        files: names of the files that the rows are from.
        set_aside: files that cannot be read, with the reason.
        now: the clock's time.
        metadata: further metadata of the event.
    """
    exists = table.exists()
    touched = _months_without_event(context.instance, table, context.asset_key) | set(months)
    if rows is not None or not exists:
        table.append(
            empty() if rows is None else rows,
            partition_by=["month"],
            run_id=context.run_id,
            metadata={_TOUCHED: json.dumps([month.isoformat() for month in months])},
            schema_mode="merge" if exists else None,
        )
    return dg.MaterializeResult(
        metadata={
            "rows_landed": 0 if rows is None else rows.height,
            **(metadata or {}),
            "dagster/row_count": table.row_count(),
            "files": dg.MetadataValue.json(list(files)),
            "set_aside": dg.MetadataValue.json([f"{name}: {reason}" for name, reason in set_aside.items()]),
            "months_touched": dg.MetadataValue.json([month.isoformat() for month in sorted(touched)]),
            "batch_id": context.run_id,
            "known_by": now.isoformat(),
            "delta_version": table.version(),
            "dagster/uri": table.uri,
        },
        data_version=dg.DataVersion(str(table.version())),
        check_results=[
            dg.AssetCheckResult(
                check_name=_SET_ASIDE,
                passed=not set_aside,
                severity=dg.AssetCheckSeverity.WARN,
                description="; ".join(f"{name}: {reason}" for name, reason in set_aside.items()),
                metadata={"files": len(set_aside)},
            )
        ],
    )


def files_set_aside(key: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check of a bronze table that every file of its source could be read."""
    return dg.AssetCheckSpec(_SET_ASIDE, asset=key, description="Every file of the source could be read.")


def _months_without_event(instance: dg.DagsterInstance, table: Table, key: dg.AssetKey) -> set[date]:
    """Months touched by commits that no event tells of: a run that is killed between the two leaves one."""
    if not table.exists():
        return set()
    event = instance.get_latest_materialization_event(key)
    told = event.asset_materialization.metadata.get("delta_version") if event and event.asset_materialization else None
    known = -1 if told is None else int(str(told.value))
    untold = table.version() - known
    commits = table.history(limit=untold) if untold > 0 else []
    return {date.fromisoformat(month) for commit in commits for month in json.loads(commit.get(_TOUCHED, "[]"))}


def last_batch(key: dg.AssetKey) -> Callable[[dg.AssetCheckExecutionContext], pl.Expr | None]:
    """For `contract_check`: filters the rows that the latest run landed in a bronze table."""

    def written(context: dg.AssetCheckExecutionContext) -> pl.Expr | None:
        event = context.instance.get_latest_materialization_event(key)
        if event is None or event.asset_materialization is None:
            return None
        return pl.col("batch_id") == str(event.asset_materialization.metadata["batch_id"].value)

    return written
