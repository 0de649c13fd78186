"""Demand by local day of each series, for people and dashboards: energy, peak, load factor, completeness."""

from datetime import timedelta

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.gold import demand_hourly as hourly
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import contract_check, delta_asset, lineage, months_of_run, table_key
from lakehouse_assets.settings import get_settings
from lakehouse_assets.sources.declaration import Declaration, active_declaration
from lakehouse_assets.sources.partitions import MONTHS
from lakehouse_assets.sources.series import series_table

KEY = table_key(__name__)


class GoldDemandDaily(dy.Schema):
    """A local day of a series."""

    series_id = dy.String(primary_key=True, description="Series.")
    date = dy.Date(primary_key=True, description="Day, in the series' time zone.")
    energy = dy.Float64(nullable=True, description="Energy of the day (MWh); null if an hour of the day has no value.")
    peak = dy.Float64(nullable=True, description="Highest hourly mean power of the day (MW); null as `energy`.")
    load_factor = dy.Float64(nullable=True, description="Mean power over peak, at most 1; null as `energy`.")
    completeness = dy.Float64(min=0, max=1, description="Share of the day's hours that were reported good.")
    month = dy.Date(description="First day of the month of `date`: the partition.")


_PREFIXES = {"W": 1e-6, "kW": 1e-3, "MW": 1.0, "GW": 1e3}


def megawatts(declaration: Declaration) -> float:
    """Factor from the declared unit to MW (or MWh); 1 for a unit that is none of W, kW, MW, GW (with or without h)."""
    return _PREFIXES.get(declaration.unit.name.removesuffix("h"), 1.0)


def transform(hours: pl.LazyFrame, declaration: Declaration, series: pl.DataFrame | None) -> pl.LazyFrame:
    """Hours as local days.

    Args:
        hours: rows of gold/demand_hourly; a day that they hold in part only has no energy.
        declaration: the source; its time zone is that of series without one of their own.
        series: the table of the series, if there is one.
    """
    zones = pl.DataFrame(schema={"series_id": pl.String, "zone": pl.String})
    if series is not None:
        zones = series.select("series_id", zone="time_zone").drop_nulls()
    hours = hours.select("series_id", "ts", "value", "imputed", "pending")
    hours = hours.join(zones.lazy(), on="series_id", how="left").with_columns(
        pl.col("zone").fill_null(declaration.time_zone)
    )
    parts = []
    for zone in {declaration.time_zone, *zones["zone"]}:
        local = pl.col("ts").dt.convert_time_zone(zone)
        midnight = local.dt.truncate("1d")
        length = (midnight.dt.offset_by("1d") - midnight).dt.total_hours()
        parts.append(hours.filter(pl.col("zone") == zone).with_columns(date=local.dt.date(), length=length))
    value = pl.col("value") * megawatts(declaration)
    # Summed in whole watt hours, so that the bits do not depend on the order of the rows.
    energy = (value * 1e6).round().cast(pl.Int64, strict=False).sum() / 1e6
    whole = value.count() == pl.col("length").first()
    good = (pl.col("imputed").is_null() | (pl.col("imputed") == "spread")) & pl.col("value").is_not_null()
    return (
        pl.concat(parts)
        .filter(~pl.col("pending"))
        .group_by("series_id", "date")
        .agg(
            energy=pl.when(whole).then(energy),
            peak=pl.when(whole).then(value.max()),
            load_factor=pl.when(whole & (value.max() > 0)).then(energy / pl.col("length").first() / value.max()),
            completeness=good.sum() / pl.col("length").first(),
        )
        .with_columns(month=pl.col("date").dt.month_start())
        .select(GoldDemandDaily.column_names())
        .sort("series_id", "date")
    )


_LINEAGE = {
    "date": ["gold/demand_hourly:ts"],
    "energy": ["gold/demand_hourly:value"],
    "peak": ["gold/demand_hourly:value"],
    "load_factor": ["gold/demand_hourly:value"],
    "completeness": ["gold/demand_hourly:imputed"],
}


@delta_asset(
    GoldDemandDaily,
    lineage=lineage(GoldDemandDaily, {"gold/demand_hourly": hourly.contract()}, _LINEAGE),
    partitions_def=MONTHS,
    deps=[
        dg.AssetDep(
            hourly.KEY,
            # A local day may begin in the month before, in UTC, or end in the month after.
            partition_mapping=dg.TimeWindowPartitionMapping(
                start_offset=-1, end_offset=1, allow_nonexistent_upstream_partitions=True
            ),
        )
    ],
)
def demand_daily(context: dg.AssetExecutionContext, lake: LakeResource) -> pl.LazyFrame:
    """The days of the months in hand."""
    first, last = months_of_run(context)
    near = pl.col("month").is_between(first - timedelta(days=31), last + timedelta(days=31))
    hours = lake.lake().table(hourly.KEY.path).scan().filter(near)
    declaration = active_declaration()
    days = transform(hours, declaration, series_table(declaration, get_settings().data))
    return days.filter(pl.col("month").is_between(first, last))


contract_of_demand_daily = contract_check(demand_daily, GoldDemandDaily)
