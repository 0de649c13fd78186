"""Contacts of customers, typed, every version of each: one that was answered later is here as it was before, too."""

import dataframely as dy
import polars as pl

from lakehouse_assets.bronze.contacts import BronzeContacts
from lakehouse_assets.lake.records import KEPT, Record, record_assets, record_checks, split, versions
from lakehouse_assets.lake.table_asset import table_key
from lakehouse_assets.silver import contacts_quarantine
from lakehouse_assets.silver.contacts_quarantine import SilverContactsQuarantine
from lakehouse_assets.sources.partitions import CUSTOMER_MONTHS
from lakehouse_assets.sources.texts import flag, is_a_flag, is_a_number, number, says_nothing, word

KEY = table_key(__name__)
QUARANTINE_KEY = table_key(contacts_quarantine.__name__)


class SilverContacts(Record):
    """A version of a contact."""

    customer_id = dy.String(primary_key=True, description="Customer.")
    ts = dy.Datetime(primary_key=True, time_zone="UTC", description="When it was (UTC).")
    channel = dy.String(nullable=True, description="How the customer got in touch.")
    topic = dy.String(nullable=True, description="What it was about.")
    complaint = dy.Bool(nullable=True, description="Whether it was a complaint.")
    response_days = dy.Float64(nullable=True, min=0, description="Days until it was answered; null: not yet known.")


def rules() -> dict[str, pl.Expr]:
    """The rules of a landed row, by name: true where it satisfies them."""
    return {
        "customer_id_present": ~says_nothing("customer_id"),
        "ts_is_a_time": pl.col("ts_utc").is_not_null(),
        "ts_in_range": pl.col("ts_utc").is_null() | (pl.col("ts_utc").dt.date().dt.month_start() == pl.col("month")),
        "complaint_is_a_flag": is_a_flag("complaint"),
        "response_days_is_a_number": is_a_number("response_days"),
        "response_days_not_negative": (number("response_days") >= 0).fill_null(True),
    }


def transform(landed: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Landed rows (of whole months) as (silver/contacts, silver/contacts_quarantine)."""
    accepted, rejects = split(landed, rules())
    typed = accepted.select(
        *KEPT,
        customer_id=word("customer_id"),
        ts="ts_utc",
        channel=word("channel"),
        topic=word("topic"),
        complaint=flag("complaint"),
        response_days=number("response_days"),
    ).with_columns(pl.col("known_at").fill_null(pl.col("ingested_at")))
    made = versions(typed, ["customer_id", "ts"])
    return made.select(SilverContacts.column_names()), rejects.select(SilverContactsQuarantine.column_names())


contacts = record_assets(
    __name__,
    transform,
    SilverContacts,
    quarantine=contacts_quarantine.__name__,
    rejected_contract=SilverContactsQuarantine,
    bronze=BronzeContacts,
    explicit={"ts": ["ts_utc"], "known_until": ["known_at"]},
    domain="customers",
    partitions_def=CUSTOMER_MONTHS,
)
contract_of_contacts, contract_of_quarantine, nothing_lost = record_checks(
    contacts, __name__, SilverContacts, contacts_quarantine.__name__, SilverContactsQuarantine
)
