"""The feature set of load shapes: when customers use their energy, over the month before a snapshot.

One row a customer and first of a month (00:00 UTC), of those whose profile of the month before was known by then.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.records import as_known_at
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import (
    contract_check,
    delta_asset,
    extended,
    lineage,
    months_of_run,
    table_key,
)
from lakehouse_assets.silver import usage as silver
from lakehouse_assets.sources.customers import HOURS
from lakehouse_assets.sources.partitions import CUSTOMER_MONTHS

KEY = table_key(__name__)
PREFIXES = {"h": "working", "w": "off"}
"""First letter of the columns of each kind of day."""


class LoadShape(dy.Schema):
    """A customer at a snapshot; the shares of the hours come on top."""

    customer_id = dy.String(primary_key=True, description="Customer.")
    as_of = dy.Datetime(primary_key=True, time_zone="UTC", description="Time of the snapshot (UTC).")
    daily_kwh = dy.Float64(min=0, description="Mean energy of a day: five working days and two days off (kWh).")
    month = dy.Date(description="First day of the UTC month of `as_of`: the partition.")


_SAID = {"working": "working days", "off": "days off"}
FeaturesLoadShape = extended(
    LoadShape,
    {
        f"{letter}{hour[1:]}": dy.Float64(
            min=0, max=1, description=f"Share of the day's energy from {hour[1:]}:00 local time, on {_SAID[day]}."
        )
        for letter, day in PREFIXES.items()
        for hour in HOURS
    },
)
FeaturesLoadShape.__name__ = "FeaturesLoadShape"


def transform(times: Sequence[datetime], usage: pl.LazyFrame) -> pl.LazyFrame:
    """The snapshots at some times.

    Args:
        times: firsts of months (UTC), in order.
        usage: rows of silver/usage of the month before each.
    """
    parts: list[pl.LazyFrame] = [FeaturesLoadShape.create_empty(lazy=True)]
    for at in times:
        known = as_known_at(usage, at).filter(pl.col("month") == pl.lit(at.date()).dt.offset_by("-1mo"))
        total = pl.sum_horizontal(HOURS)
        whole = pl.all_horizontal(pl.col(HOURS).is_not_null()) & (total > 0)
        days = [
            known.filter(whole, pl.col("day") == day).select(
                "customer_id", total.alias(day), *((pl.col(hour) / total).alias(letter + hour[1:]) for hour in HOURS)
            )
            for letter, day in PREFIXES.items()
        ]
        parts.append(
            days[0]
            .join(days[1], on="customer_id")
            .with_columns(
                as_of=pl.lit(at, dtype=pl.Datetime("us", "UTC")),
                month=pl.lit(at.date()),
                daily_kwh=(5 * pl.col("working") + 2 * pl.col("off")) / 7,
            )
            .select(FeaturesLoadShape.column_names())
        )
    return pl.concat(parts).sort("customer_id", "as_of")


_LINEAGE = {
    f"{letter}{hour[1:]}": [f"silver/usage:{hour}", "silver/usage:day"] for letter in PREFIXES for hour in HOURS
}


@delta_asset(
    FeaturesLoadShape,
    lineage=lineage(
        FeaturesLoadShape,
        {"silver/usage": silver.SilverUsage},
        {**_LINEAGE, "daily_kwh": [f"silver/usage:{hour}" for hour in HOURS], "month": []},
    ),
    partitions_def=CUSTOMER_MONTHS,
    deps=[
        dg.AssetDep(
            silver.KEY,
            partition_mapping=dg.TimeWindowPartitionMapping(
                start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True
            ),
        )
    ],
    domain="customers",
)
def load_shape(context: dg.AssetExecutionContext, lake: LakeResource) -> pl.LazyFrame:
    """The snapshots of the months in hand."""
    first, last = months_of_run(context)
    months: list[date] = pl.date_range(first, last, "1mo", eager=True).to_list()
    times = [datetime(month.year, month.month, 1, tzinfo=UTC) for month in months]
    around = pl.col("month").is_between(pl.lit(first).dt.offset_by("-1mo"), last)
    return transform(times, lake.lake().table(silver.KEY.path).scan().filter(around))


contract_of_load_shape = contract_check(load_shape, FeaturesLoadShape)
