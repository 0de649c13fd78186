"""Rows of demand as they were landed: the text of each field, where it was read, and when.

A run lands what is new in the declared files and known by the time on its clock, in one Delta commit; running again
adds nothing.
Rows of the coming hours whose covariates are published already are landed as pending, and again in whole when their
value is known.
"""

from datetime import date, datetime, timedelta

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.landed import append_batch, files_set_aside, last_batch
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import ContractClass, contract_check, delta_asset, extended, table_key
from lakehouse_assets.settings import get_settings
from lakehouse_assets.sources.declaration import Declaration, active_declaration
from lakehouse_assets.sources.landing import land

KEY = table_key(__name__)


class BronzeDemand(dy.Schema):
    """A landed row of demand; the covariates of the declaration come on top, as text."""

    source = dy.String(description="Name of the declaration that the row was landed by.")
    file = dy.String(primary_key=True, description="File, relative to the fixed part of the declared glob.")
    fingerprint = dy.String(primary_key=True, description="Hash of the file's content.")
    row_number = dy.Int64(primary_key=True, min=1, description="Position of the row in its file, from 1.")
    pending = dy.Bool(
        primary_key=True,
        description="Landed ahead for its published covariates; the value was not yet known and is left out.",
    )
    batch_id = dy.String(description="Dagster run that landed the row.")
    ingested_at = dy.Datetime(time_zone="UTC", description="The clock's time at landing (UTC).")
    series_id = dy.String(nullable=True, description="Series, as written.")
    ts = dy.String(nullable=True, description="Time of the interval, as written.")
    value = dy.String(nullable=True, description="Value, as written, in the declared unit.")
    ts_utc = dy.Datetime(
        nullable=True, time_zone="UTC", description="Start of the interval (UTC) that `ts` says; null if it is no time."
    )
    known_at = dy.Datetime(
        nullable=True, time_zone="UTC", description="When the row was known (UTC): as published, or the declared delay."
    )
    month = dy.Date(
        description="First day of the UTC month of `ts_utc` if that is in range, else of `ingested_at`: the partition."
    )


def contract(declaration: Declaration | None = None) -> ContractClass:
    """The contract for what is declared (by default the declaration in force)."""
    declaration = declaration or active_declaration()
    columns: dict[str, dy.Column] = {}
    if declaration.columns.published_at:
        columns["published_at"] = dy.String(nullable=True, description="When the row was published, as written.")
    for name, covariate in declaration.covariate_sources.items():
        columns[name] = dy.String(
            nullable=True, description=f"Covariate `{covariate.column}`, known {covariate.known} the hour, as written."
        )
    return extended(BronzeDemand, columns)


def last_time(declaration: Declaration, ingested_at: pl.Expr) -> pl.Expr:
    """The latest start of an interval that a row landed at a time can have: the horizon and two days ahead (UTC)."""
    return ingested_at + declaration.horizon_td + timedelta(days=2)


def due_at(ts: pl.Expr, declaration: Declaration, length: timedelta | None = None) -> pl.Expr:
    """When the value of an interval is due to be known (UTC): its end plus the publication delay.

    Args:
        ts: a time within the interval (UTC); its start where intervals are an hour or shorter.
        declaration: the source.
        length: length of the intervals, by default the declared one. Those longer than an hour keep to the local clock.
    """
    length = length or declaration.interval_td
    if length <= timedelta(hours=1):
        return ts + length + declaration.publication_delay_td
    every = "1d" if length == timedelta(days=1) else f"{length // timedelta(minutes=1)}m"
    local = ts.dt.convert_time_zone(declaration.time_zone).dt.truncate(every).dt.offset_by(every)
    return local.dt.convert_time_zone("UTC") + declaration.publication_delay_td


def transform(landed: pl.LazyFrame, declaration: Declaration, batch_id: str, now: datetime) -> pl.LazyFrame:
    """Landed rows (columns of `sources.landing.land`) with their batch, in the columns of the contract.

    Args:
        landed: the rows.
        declaration: the source.
        batch_id: what landed them.
        now: time of landing (UTC).
    """
    ingested_at = pl.lit(now).cast(pl.Datetime("us", "UTC"))
    start = datetime(declaration.start.year, declaration.start.month, declaration.start.day)
    in_range = (
        pl.col("ts_utc")
        .is_between(pl.lit(start).dt.replace_time_zone("UTC"), last_time(declaration, ingested_at))
        .fill_null(False)
    )
    return landed.with_columns(
        source=pl.lit(declaration.name),
        batch_id=pl.lit(batch_id),
        ingested_at=ingested_at,
        month=pl.when(in_range).then(pl.col("month")).otherwise(pl.lit(now.date().replace(day=1))),
    ).select(contract(declaration).column_names())


def months_touched(rows: pl.DataFrame, declaration: Declaration, last_month: date | None) -> list[date]:
    """The months whose tables change by these rows.

    Those of the rows; those of the issue times that have the rows in their horizon; and those between the last month
    landed before and these, whose grid ends later now. (Trailing statistics carry a change on into the month after;
    whoever refines adds it.)

    Args:
        rows: rows of this table.
        declaration: the source.
        last_month: last month that had rows before, if any.
    """
    months = set(rows["month"].unique())
    in_range = rows.filter(pl.col("ts_utc").dt.date().dt.month_start() == pl.col("month"))
    first = pl.col("ts_utc").min() - declaration.horizon_td - declaration.interval_td
    months |= set(in_range.group_by("month").agg(reached=first.dt.date().dt.month_start())["reached"])
    if last_month is not None:
        month = last_month
        while month < max(months):
            months.add(month)
            month = (month + timedelta(days=31)).replace(day=1)
    return sorted(month for month in months if month >= declaration.start.replace(day=1))


@delta_asset(
    contract,
    freshness=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=3), warn_window=timedelta(hours=26)),
    check_specs=[files_set_aside(KEY)],
)
def demand(context: dg.AssetExecutionContext, lake: LakeResource, clock: Clock) -> dg.MaterializeResult:
    """Land what is new and known by now, on the run's clock; append it in one commit."""
    declaration, settings = active_declaration(), get_settings()
    table = lake.lake().table(KEY.path)
    landed = table.scan() if table.exists() else None
    last_month = None if landed is None else landed.select(pl.col("month").max()).collect().item()
    now = clock.now()
    landing = land(declaration, settings.data, landed, now, now, settings.landing / "set_aside")
    rows = None
    months: list[date] = []
    if landing.frame is not None:
        rows = transform(landing.frame.lazy(), declaration, context.run_id, now).collect()
        months = months_touched(rows, declaration, last_month)
    return append_batch(
        context,
        table,
        rows,
        months,
        empty=contract(declaration).create_empty,
        files=[file.name for file in landing.files],
        set_aside={item.name: item.reason for item in landing.set_aside},
        now=now,
        metadata={"rows_pending": 0 if rows is None else int(rows["pending"].sum())},
    )


contract_of_demand = contract_check(demand, contract, written=last_batch(KEY))
