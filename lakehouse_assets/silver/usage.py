"""Load profiles of customers by month and kind of day, typed, every version of each."""

import dataframely as dy
import polars as pl

from lakehouse_assets.bronze.usage import BronzeUsage
from lakehouse_assets.lake.records import KEPT, Record, record_assets, record_checks, split, versions
from lakehouse_assets.lake.table_asset import table_key
from lakehouse_assets.silver import usage_quarantine
from lakehouse_assets.silver.usage_quarantine import SilverUsageQuarantine
from lakehouse_assets.sources.customers import HOURS
from lakehouse_assets.sources.partitions import CUSTOMER_MONTHS
from lakehouse_assets.sources.texts import is_a_number, number, says_nothing, word

DAYS = ("working", "off")

KEY = table_key(__name__)
QUARANTINE_KEY = table_key(usage_quarantine.__name__)


class SilverUsage(Record):
    """A version of a load profile: the mean day of a month."""

    customer_id = dy.String(primary_key=True, description="Customer.")
    month = dy.Date(primary_key=True, description="First day of the month that the profile is of: the partition.")
    day = dy.String(
        primary_key=True,
        check=lambda column: column.is_in(DAYS),
        description="Kind of day: working, or off (weekends, holidays).",
    )
    h00 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 00:00, local time (kWh).")
    h01 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 01:00, local time (kWh).")
    h02 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 02:00, local time (kWh).")
    h03 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 03:00, local time (kWh).")
    h04 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 04:00, local time (kWh).")
    h05 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 05:00, local time (kWh).")
    h06 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 06:00, local time (kWh).")
    h07 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 07:00, local time (kWh).")
    h08 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 08:00, local time (kWh).")
    h09 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 09:00, local time (kWh).")
    h10 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 10:00, local time (kWh).")
    h11 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 11:00, local time (kWh).")
    h12 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 12:00, local time (kWh).")
    h13 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 13:00, local time (kWh).")
    h14 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 14:00, local time (kWh).")
    h15 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 15:00, local time (kWh).")
    h16 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 16:00, local time (kWh).")
    h17 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 17:00, local time (kWh).")
    h18 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 18:00, local time (kWh).")
    h19 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 19:00, local time (kWh).")
    h20 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 20:00, local time (kWh).")
    h21 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 21:00, local time (kWh).")
    h22 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 22:00, local time (kWh).")
    h23 = dy.Float64(nullable=True, min=0, description="Mean energy of the hour from 23:00, local time (kWh).")


def rules() -> dict[str, pl.Expr]:
    """The rules of a landed row, by name: true where it satisfies them."""
    return {
        "customer_id_present": ~says_nothing("customer_id"),
        "month_is_a_month": pl.col("ts_utc").is_not_null(),
        "month_in_range": pl.col("ts_utc").is_null() | (pl.col("ts_utc").dt.date() == pl.col("month")),
        "day_is_a_kind_of_day": word("day").is_in(DAYS),
        **{f"{hour}_is_a_number": is_a_number(hour) for hour in HOURS},
        **{f"{hour}_not_negative": (number(hour) >= 0).fill_null(True) for hour in HOURS},
    }


def transform(landed: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Landed rows (of whole months) as (silver/usage, silver/usage_quarantine)."""
    accepted, rejects = split(landed, rules())
    typed = accepted.select(
        *KEPT,
        customer_id=word("customer_id"),
        day=word("day"),
        **{hour: number(hour) for hour in HOURS},
    ).with_columns(pl.col("known_at").fill_null(pl.col("ingested_at")))
    made = versions(typed, ["customer_id", "month", "day"])
    return made.select(SilverUsage.column_names()), rejects.select(SilverUsageQuarantine.column_names())


usage = record_assets(
    __name__,
    transform,
    SilverUsage,
    quarantine=usage_quarantine.__name__,
    rejected_contract=SilverUsageQuarantine,
    bronze=BronzeUsage,
    explicit={"month": ["ts_utc"], "known_until": ["known_at"]},
    domain="customers",
    partitions_def=CUSTOMER_MONTHS,
)
contract_of_usage, contract_of_quarantine, nothing_lost = record_checks(
    usage, __name__, SilverUsage, usage_quarantine.__name__, SilverUsageQuarantine
)
