"""What is known of each customer, and was: a slowly changing dimension (type 2), with personal data.

A record is valid from `valid_from` to before `valid_to` (null: open): at any time one record of a customer is.
A record that arrives late takes its place between the others; one that was put right gives its place to the correction
and is valid no more (`valid_to` is `valid_from`), but stays, with until when it was believed: what was known then can
be told at any time, see `timeline`.
"""

from datetime import timedelta

import dataframely as dy
import polars as pl

from lakehouse_assets.bronze import customers as bronze
from lakehouse_assets.lake.records import KEPT, Record, record_assets, record_checks, split, versions
from lakehouse_assets.lake.table_asset import ContractClass, extended, table_key
from lakehouse_assets.silver import customers_quarantine
from lakehouse_assets.sources.customers import Customers
from lakehouse_assets.sources.declaration import active_customers
from lakehouse_assets.sources.texts import day, flag, is_a_day, is_a_flag, is_a_number, number, says_nothing, word

KEY = table_key(__name__)
QUARANTINE_KEY = table_key(customers_quarantine.__name__)


class SilverCustomers(Record):
    """A version of a customer's record; the declared attributes and personal columns come on top."""

    customer_id = dy.String(primary_key=True, description="Customer.")
    valid_from = dy.Datetime(primary_key=True, time_zone="UTC", description="From when the record is valid (UTC).")
    valid_to = dy.Datetime(
        nullable=True,
        time_zone="UTC",
        description="Until when it is valid, excluded (UTC); null: until further notice.",
    )
    signed_on = dy.Date(nullable=True, description="Day on which the contract began.")
    left_on = dy.Date(nullable=True, description="Day on which the contract ends; null: no end is known.")


ATTRIBUTES: dict[str, type[dy.Column]] = {"number": dy.Float64, "category": dy.String, "flag": dy.Bool}


def attribute_columns(customers: Customers) -> dict[str, dy.Column]:
    """The columns of the declared attributes in silver, gold and the features."""
    return {
        name: ATTRIBUTES[attribute.type](nullable=True, description=f"Attribute `{attribute.column}`.")
        for name, attribute in customers.attributes.items()
    }


def contract(customers: Customers | None = None) -> ContractClass:
    """The contract for what is declared (by default the declaration in force)."""
    customers = customers or active_customers()
    columns = attribute_columns(customers)
    for name, personal in customers.personal.items():
        columns[name] = dy.String(
            nullable=True, description=f"Personal: {personal.kind}.", metadata={"personal": personal.kind}
        )
    if customers.churned is not None:
        columns["churned"] = dy.Bool(nullable=True, description="Whether the customer left, as the files say.")
    return extended(SilverCustomers, columns)


def rules(customers: Customers) -> dict[str, pl.Expr]:
    """The rules of a landed record, by name: true where it satisfies them."""
    ahead = pl.col("ingested_at") + timedelta(days=366)
    found = {
        "customer_id_present": ~says_nothing("customer_id"),
        "updated_at_is_a_time": pl.col("ts_utc").is_not_null(),
        "updated_at_in_range": pl.col("ts_utc").is_null() | (pl.col("ts_utc") <= ahead),
        "signed_on_is_a_date": is_a_day("signed_on"),
        "left_on_is_a_date": is_a_day("left_on"),
        "left_on_after_signed_on": (day("left_on") >= day("signed_on")).fill_null(True),
    }
    is_a = {"number": is_a_number, "flag": is_a_flag}
    for name, attribute in customers.attributes.items():
        if attribute.type in is_a:
            found[f"{name}_is_a_{attribute.type}"] = is_a[attribute.type](name)
    return found


def transform(landed: pl.LazyFrame, customers: Customers | None = None) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Landed records as (silver/customers, silver/customers_quarantine); all records of a customer at once.

    Args:
        landed: rows of bronze/customers.
        customers: the source (by default the one in force).
    """
    customers = customers or active_customers()
    accepted, rejects = split(landed, rules(customers))
    read = {"number": number, "flag": flag, "category": word}
    typed = accepted.select(
        *KEPT,
        customer_id=word("customer_id"),
        valid_from="ts_utc",
        signed_on=day("signed_on"),
        left_on=day("left_on"),
        **{name: read[attribute.type](name) for name, attribute in customers.attributes.items()},
        **{name: word(name) for name in customers.personal},
        **({"churned": word("churned") == customers.churned.yes} if customers.churned else {}),
    ).with_columns(pl.col("known_at").fill_null(pl.col("ingested_at")))
    made = versions(typed, ["customer_id", "valid_from"])
    believed = pl.col("known_until").is_null()
    # The next record that is still believed; those that were put right are valid no more.
    following = pl.when(believed).then("valid_from").shift(-1).backward_fill()
    made = made.with_columns(
        valid_to=pl.when(believed)
        .then(following.over("customer_id", order_by=["valid_from", "known_at"]))
        .otherwise("valid_from")
    )
    columns = contract(customers).column_names()
    return made.select(columns), rejects.select(customers_quarantine.contract().column_names())


def timeline(records: pl.LazyFrame) -> pl.LazyFrame:
    """What was known to be so, moment by moment: the records in force from `effective_at` on, for `join_asof`.

    At a moment that record is in force which is the latest valid one among those that were known and valid by then. A
    record is so from the later of `valid_from` and `known_at` on, unless a later valid one has come before it.

    Args:
        records: rows of silver/customers.

    Returns:
        Rows with `effective_at`, sorted by it and unique by (customer_id, effective_at).
    """
    rank = pl.struct("valid_from", "known_at").rank("dense").over("customer_id")
    order = ["effective_at", "_rank"]
    return (
        records.with_columns(effective_at=pl.max_horizontal("valid_from", "known_at"), _rank=rank.cast(pl.Int64))
        .with_columns(_best=pl.col("_rank").cum_max().over("customer_id", order_by=order))
        .filter(pl.col("_rank") == pl.col("_best"))
        .sort("effective_at", "_rank")
        .unique(["customer_id", "effective_at"], keep="last", maintain_order=True)
        .drop("_rank", "_best")
    )


customers = record_assets(
    __name__,
    transform,
    contract,
    quarantine=customers_quarantine.__name__,
    rejected_contract=customers_quarantine.contract,
    bronze=bronze.contract,
    explicit={"valid_from": ["ts_utc"], "valid_to": ["ts_utc", "known_at"], "known_until": ["known_at"]},
    domain="customers",
)
contract_of_customers, contract_of_quarantine, nothing_lost = record_checks(
    customers, __name__, contract, customers_quarantine.__name__, customers_quarantine.contract
)
