"""Bills of customers by month, typed, every version of each: one that was wrong is here beside its correction."""

import dataframely as dy
import polars as pl

from lakehouse_assets.bronze.bills import BronzeBills
from lakehouse_assets.lake.records import KEPT, Record, record_assets, record_checks, split, versions
from lakehouse_assets.lake.table_asset import table_key
from lakehouse_assets.silver import bills_quarantine
from lakehouse_assets.silver.bills_quarantine import SilverBillsQuarantine
from lakehouse_assets.sources.partitions import CUSTOMER_MONTHS
from lakehouse_assets.sources.texts import is_a_number, number, says_nothing, word

NUMBERS = ("amount", "consumption", "price", "supply_cost", "outage_hours")

KEY = table_key(__name__)
QUARANTINE_KEY = table_key(bills_quarantine.__name__)


class SilverBills(Record):
    """A version of a bill."""

    customer_id = dy.String(primary_key=True, description="Customer.")
    month = dy.Date(primary_key=True, description="First day of the month that the bill is for: the partition.")
    amount = dy.Float64(nullable=True, description="What the customer has to pay (currency).")
    consumption = dy.Float64(nullable=True, description="Energy of the month (kWh).")
    price = dy.Float64(nullable=True, description="Price of a kWh (currency).")
    supply_cost = dy.Float64(nullable=True, description="What the supply of the month cost the company (currency).")
    outage_hours = dy.Float64(nullable=True, min=0, description="Time without supply in the month (hours).")


def rules() -> dict[str, pl.Expr]:
    """The rules of a landed row, by name: true where it satisfies them."""
    return {
        "customer_id_present": ~says_nothing("customer_id"),
        "month_is_a_month": pl.col("ts_utc").is_not_null(),
        "month_in_range": pl.col("ts_utc").is_null() | (pl.col("ts_utc").dt.date() == pl.col("month")),
        **{f"{name}_is_a_number": is_a_number(name) for name in NUMBERS},
        "outage_hours_not_negative": (number("outage_hours") >= 0).fill_null(True),
    }


def transform(landed: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Landed rows (of whole months) as (silver/bills, silver/bills_quarantine)."""
    accepted, rejects = split(landed, rules())
    typed = accepted.select(
        *KEPT,
        customer_id=word("customer_id"),
        **{name: number(name) for name in NUMBERS},
    ).with_columns(pl.col("known_at").fill_null(pl.col("ingested_at")))
    made = versions(typed, ["customer_id", "month"])
    return made.select(SilverBills.column_names()), rejects.select(SilverBillsQuarantine.column_names())


bills = record_assets(
    __name__,
    transform,
    SilverBills,
    quarantine=bills_quarantine.__name__,
    rejected_contract=SilverBillsQuarantine,
    bronze=BronzeBills,
    explicit={"month": ["ts_utc"], "known_until": ["known_at"]},
    domain="customers",
    partitions_def=CUSTOMER_MONTHS,
)
contract_of_bills, contract_of_quarantine, nothing_lost = record_checks(
    bills, __name__, SilverBills, bills_quarantine.__name__, SilverBillsQuarantine
)
