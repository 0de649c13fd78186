"""Customers by month of their contract, as known now, for people and dashboards: consumption, bill, margin, contacts.

Attributes are those at the end of the month. What was known at a time is not told here, but in features/customer.
"""

from datetime import date, timedelta

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.frames import exact_mean
from lakehouse_assets.lake.records import as_known_now, edge_of
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import (
    ContractClass,
    contract_check,
    delta_asset,
    extended,
    lineage,
    months_of_run,
    table_key,
)
from lakehouse_assets.silver import bills as silver_bills
from lakehouse_assets.silver import contacts as silver_contacts
from lakehouse_assets.silver import customers as silver
from lakehouse_assets.sources.customers import Customers
from lakehouse_assets.sources.declaration import active_customers
from lakehouse_assets.sources.partitions import CUSTOMER_MONTHS

KEY = table_key(__name__)
BILLS_BEFORE = 12


class GoldCustomerMonth(dy.Schema):
    """A month of a customer's contract; the declared attributes come on top."""

    customer_id = dy.String(primary_key=True, description="Customer.")
    month = dy.Date(primary_key=True, description="First day of the month: the partition.")
    tenure_months = dy.Float64(
        nullable=True,
        description="Time under contract at the end of the month (months); null: no start is known.",
    )
    consumption = dy.Float64(nullable=True, description="Energy of the month (kWh).")
    price = dy.Float64(nullable=True, description="Price of a kWh (currency).")
    amount = dy.Float64(nullable=True, description="Bill of the month (currency).")
    bill_shock = dy.Float64(nullable=True, description="Bill against the mean of the 12 months before, less 1.")
    supply_cost = dy.Float64(nullable=True, description="What the supply of the month cost (currency).")
    margin = dy.Float64(nullable=True, description="Bill less supply cost (currency).")
    outage_hours = dy.Float64(nullable=True, description="Time without supply (hours).")
    contacts = dy.Int64(min=0, description="Contacts in the month.")
    complaints = dy.Int64(min=0, description="Of these, complaints.")
    response_days = dy.Float64(nullable=True, description="Mean days until these were answered; null: none was.")


def contract(customers: Customers | None = None) -> ContractClass:
    """The contract for what is declared (by default the declaration in force)."""
    return extended(GoldCustomerMonth, silver.attribute_columns(customers or active_customers()))


def transform(
    records: pl.LazyFrame,
    bills: pl.LazyFrame,
    contacts: pl.LazyFrame | None,
    first: date,
    last: date,
    customers: Customers | None = None,
) -> pl.LazyFrame:
    """The months from `first` to `last`.

    Args:
        records: rows of silver/customers.
        bills: rows of silver/bills of these months and the 12 before.
        contacts: rows of silver/contacts of these months; None: none are declared.
        first: first day of the first month.
        last: first day of the last month.
        customers: the source (by default the one in force).
    """
    customers = customers or active_customers()
    valid = as_known_now(records).sort("valid_from")
    contracts = valid.group_by("customer_id").agg(
        began=pl.coalesce(pl.col("signed_on").last(), pl.col("valid_from").first().dt.date()),
        ended=pl.col("left_on").last(),
    )
    months = pl.LazyFrame({"month": pl.date_range(first, last, "1mo", eager=True)})
    end = pl.col("month").dt.offset_by("1mo")
    under_contract = (pl.col("began") < end) & (pl.col("ended").is_null() | (pl.col("ended") > pl.col("month")))
    grid = contracts.join(months, how="cross").filter(under_contract)
    at_end = grid.with_columns(end=end.cast(pl.Datetime("us", "UTC"))).sort("end")
    state = at_end.join_asof(
        valid.select("customer_id", "valid_from", "signed_on", *customers.attributes),
        left_on="end",
        right_on="valid_from",
        by="customer_id",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    days = (pl.min_horizontal(end, "ended") - pl.col("signed_on")).dt.total_days()
    return (
        state.with_columns(tenure_months=(days / 30.4375).clip(0))
        .join(_billed(bills), on=["customer_id", "month"], how="left")
        .join(_contacted(contacts), on=["customer_id", "month"], how="left")
        .with_columns(pl.col("contacts", "complaints").fill_null(0))
        .select(contract(customers).column_names())
        .sort("customer_id", "month")
    )


def _billed(bills: pl.LazyFrame) -> pl.LazyFrame:
    numbers = list(silver_bills.NUMBERS)
    known = as_known_now(bills).select("customer_id", "month", *numbers)
    # Months are numbered, so that a month without a bill is none of the twelve before.
    number = pl.col("month").dt.year().cast(pl.Int64) * 12 + pl.col("month").dt.month()
    usual = (
        known.with_columns(number=number)
        .sort("customer_id", "number")
        .rolling("number", period=f"{BILLS_BEFORE}i", closed="left", group_by="customer_id", offset=f"-{BILLS_BEFORE}i")
        .agg(usual=exact_mean(pl.col("amount")))
    )
    return (
        known.with_columns(number=number)
        .join(usual, on=["customer_id", "number"], how="left")
        .with_columns(
            bill_shock=pl.when(pl.col("usual") > 0).then(pl.col("amount") / pl.col("usual") - 1),
            margin=pl.col("amount") - pl.col("supply_cost"),
        )
        .select("customer_id", "month", *numbers, "bill_shock", "margin")
    )


def _contacted(contacts: pl.LazyFrame | None) -> pl.LazyFrame:
    if contacts is None:
        contacts = silver_contacts.SilverContacts.create_empty(lazy=True)
    return (
        as_known_now(contacts)
        .group_by("customer_id", "month")
        .agg(
            contacts=pl.len().cast(pl.Int64),
            complaints=pl.col("complaint").sum().cast(pl.Int64),
            response_days=exact_mean(pl.col("response_days")),
        )
    )


_LINEAGE = {
    "month": [],
    "tenure_months": ["silver/customers:signed_on", "silver/customers:left_on"],
    "bill_shock": ["silver/bills:amount"],
    "margin": ["silver/bills:amount", "silver/bills:supply_cost"],
}
_SOURCES: dict[str, ContractClass] = {"silver/customers": silver.contract(), "silver/bills": silver_bills.SilverBills}
_DEPS: list[dg.AssetKey | dg.AssetDep] = [
    silver.KEY,
    dg.AssetDep(
        silver_bills.KEY,
        partition_mapping=dg.TimeWindowPartitionMapping(
            start_offset=-BILLS_BEFORE, allow_nonexistent_upstream_partitions=True
        ),
    ),
]
if "contacts" in active_customers().tables:
    _SOURCES["silver/contacts"] = silver_contacts.SilverContacts
    _LINEAGE |= {"contacts": ["silver/contacts:ts"], "complaints": ["silver/contacts:complaint"]}
    _DEPS.append(silver_contacts.KEY)


@delta_asset(
    contract,
    lineage=lineage(contract(), _SOURCES, _LINEAGE),
    partitions_def=CUSTOMER_MONTHS,
    metadata={"schema_mode": "merge"},
    deps=_DEPS,
    domain="customers",
)
def customer_month(context: dg.AssetExecutionContext, lake: LakeResource) -> pl.LazyFrame:
    """The months in hand that have begun by what was landed."""
    first, last = months_of_run(context)
    tables = lake.lake()
    records, bills = (tables.table(key.path).scan() for key in (silver.KEY, silver_bills.KEY))
    contacts = None
    if "contacts" in active_customers().tables:
        in_hand = pl.col("month").is_between(first, last)
        contacts = tables.table(silver_contacts.KEY.path).scan().filter(in_hand)
    edge = edge_of(records, bills)
    if edge is None or edge.date() < first:
        return contract().create_empty(lazy=True)
    before = first - timedelta(days=31 * BILLS_BEFORE)
    recent = bills.filter(pl.col("month").is_between(before, last))
    return transform(records, recent, contacts, first, min(last, edge.date().replace(day=1)))


contract_of_customer_month = contract_check(customer_month, contract)
