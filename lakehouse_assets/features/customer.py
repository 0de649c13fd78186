"""The feature set of customers: one row a customer and snapshot, at the first of each month (00:00 UTC).

Everything in a row but the targets was known by its `as_of`: the record then in force, bills and contacts as they were
known then, the latest segment that was predicted before it. A row is made for who was under contract and had given no
notice, as far as was known. The targets are known months later, and are then written into the snapshots of before: a
landing touches the months of the year before it, too. Personal columns are never here.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.gold import customer_month as gold
from lakehouse_assets.lake.frames import exact_mean, exact_sum
from lakehouse_assets.lake.records import as_known_at, as_known_now, edge_of
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
SEGMENTS = dg.AssetKey(["predictions", "load_segments"])
LABEL_DAYS = 90
"""Days after a snapshot within which a contract that ends counts as churned."""
VALUE_MONTHS = 12
"""Months of the margin that is the customer's value."""
_BILL_MONTHS = 15  # how far back bills are looked at: the latest may be three months old
_STALE_MONTHS = 3  # without a bill of so many months nothing is said of the bills
_CONTACT_MONTHS = 12
_DAYS_A_MONTH = 30.4375


class FeaturesCustomer(dy.Schema):
    """A customer at a snapshot; the declared attributes, what follows from the files, and the targets come on top."""

    customer_id = dy.String(primary_key=True, description="Customer.")
    as_of = dy.Datetime(primary_key=True, time_zone="UTC", description="Time of the snapshot (UTC).")
    month = dy.Date(description="First day of the UTC month of `as_of`: the partition.")


_OF_BILLS = {
    "price": "Price of a kWh on the latest bill (currency).",
    "price_change_3m": "That price against the one of three months before it, less 1.",
    "consumption_1m": "Energy of the latest bill (kWh).",
    "consumption_12m": "Mean energy of the bills of the last 12 months up to it (kWh a month).",
    "consumption_change": "Mean energy of its last three months against that of the last 12, less 1.",
    "bill_1m": "Amount of the latest bill (currency).",
    "bill_shock": "That amount against the mean of the 12 months before it (three at least), less 1.",
    "outage_hours_3m": "Time without supply in its last three months (hours).",
    "margin_last_12m": "Margin of the bills of the last 12 months up to it (currency).",
}
_OF_CONTACTS = {
    "contacts_1m": "Contacts in the month before.",
    "contacts_3m": "Contacts in the three months before.",
    "contacts_12m": "Contacts in the twelve months before.",
    "complaints_3m": "Complaints in the three months before.",
}


def contract(customers: Customers | None = None) -> ContractClass:
    """The contract for what is declared (by default the declaration in force)."""
    customers = customers or active_customers()
    columns: dict[str, dy.Column] = dict(silver.attribute_columns(customers))
    if customers.columns.signed_on is not None:
        columns["tenure_months"] = dy.Float64(nullable=True, description="Time since the contract began (months).")
    if "bills" in customers.tables:
        columns |= {name: dy.Float64(nullable=True, description=said) for name, said in _OF_BILLS.items()}
    if "contacts" in customers.tables:
        columns |= {name: dy.Int64(min=0, description=said) for name, said in _OF_CONTACTS.items()}
        columns["response_days_3m"] = dy.Float64(
            nullable=True, description="Mean days until an answer, of the contacts of the three months before."
        )
    if "usage" in customers.tables:
        columns["segment"] = dy.String(
            nullable=True, description="Number of the load segment last predicted before; null: none was."
        )
    if customers.churned is not None:
        columns["churned"] = dy.Bool(nullable=True, description="Target: whether the customer left, as the files say.")
    elif customers.columns.left_on is not None:
        said = f"Target: whether the contract ends within the {LABEL_DAYS} days after; null: not yet known."
        columns["churned"] = dy.Bool(nullable=True, description=said)
    if _has_margin(customers):
        said = f"Target: margin of the {VALUE_MONTHS} months that begin (currency); null: not yet known."
        columns["margin_12m"] = dy.Float64(nullable=True, description=said)
    return extended(FeaturesCustomer, columns)


def _has_margin(customers: Customers) -> bool:
    return customers.bills is not None and customers.bills.columns.supply_cost is not None


def transform(
    times: Sequence[datetime],
    records: pl.LazyFrame,
    bills: pl.LazyFrame | None,
    contacts: pl.LazyFrame | None,
    months: pl.LazyFrame | None,
    edge: datetime,
    customers: Customers | None = None,
    segments: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """The snapshots at some times.

    Args:
        times: when snapshots are taken (UTC), in order.
        records: rows of silver/customers.
        bills: rows of silver/bills of the `_BILL_MONTHS` before; None: none are declared.
        contacts: rows of silver/contacts of the year before; None: none are declared.
        months: rows of gold/customer_month of these months and later ones, for the targets; None: there are none.
        edge: until when things are known (UTC).
        customers: the source (by default the one in force).
        segments: rows of predictions/load_segments; None: there are none yet.
    """
    customers = customers or active_customers()
    columns = contract(customers).column_names()
    if not times:
        return contract(customers).create_empty(lazy=True)
    snapshots = _in_force(times, records, customers)
    keys = ["customer_id", "as_of"]
    # Snapshot by snapshot: what is read is what was known by then, whatever is made of it.
    if bills is not None:
        parts = [_of_bills(as_known_at(bills, at), at) for at in times]
        snapshots = snapshots.join(pl.concat(parts), on=keys, how="left")
    if contacts is not None:
        parts = [_of_contacts(as_known_at(contacts, at), at) for at in times]
        counts = pl.col(list(_OF_CONTACTS)).fill_null(0)
        snapshots = snapshots.join(pl.concat(parts), on=keys, how="left").with_columns(counts)
    if "segment" in columns:
        snapshots = _with_segment(snapshots, segments)
    if customers.churned is None and "churned" in columns:
        snapshots = _with_churned(snapshots, records, edge)
    if "margin_12m" in columns:
        assert months is not None
        snapshots = _with_margin(snapshots, months)
    return snapshots.select(columns).sort("customer_id", "as_of")


def _in_force(times: Sequence[datetime], records: pl.LazyFrame, customers: Customers) -> pl.LazyFrame:
    """Who was under contract and had given no notice, as known at each time, with attributes and tenure."""
    found = silver.timeline(records)
    ids = found.select("customer_id").unique()
    grid = pl.LazyFrame({"as_of": pl.Series(times, dtype=pl.Datetime("us", "UTC"))}).join(ids, how="cross")
    said = ["signed_on", "left_on", *customers.attributes, *(["churned"] if customers.churned else [])]
    state = grid.sort("as_of").join_asof(
        found.select("customer_id", "effective_at", *said),
        left_on="as_of",
        right_on="effective_at",
        by="customer_id",
        check_sortedness=False,
    )
    day = pl.col("as_of").dt.date()
    here = pl.col("effective_at").is_not_null() & pl.col("left_on").is_null()
    return state.filter(here & (pl.col("signed_on") <= day).fill_null(True)).with_columns(
        month=day.dt.month_start(), tenure_months=(day - pl.col("signed_on")).dt.total_days() / _DAYS_A_MONTH
    )


def _of_bills(known: pl.LazyFrame, at: datetime) -> pl.LazyFrame:
    """What the bills that were known at a time say of each customer."""
    age = (at.year - pl.col("month").dt.year().cast(pl.Int64)) * 12 + at.month - pl.col("month").dt.month()
    recent = known.with_columns(age=age).filter(pl.col("age").is_between(1, _BILL_MONTHS))
    latest = pl.col("age").min().over("customer_id")
    recent = recent.with_columns(back=pl.col("age") - latest).filter(latest <= _STALE_MONTHS)

    def mean(column: str, first: int, last: int) -> pl.Expr:
        return exact_mean(pl.col(column).filter(pl.col("back").is_between(first, last)))

    def of(column: str, back: int) -> pl.Expr:
        return pl.col(column).filter(pl.col("back") == back).first()

    usual = pl.when(pl.col("amount").filter(pl.col("back").is_between(1, 12)).count() >= 3).then(mean("amount", 1, 12))
    year = pl.col("back") < 12
    margin = pl.col("amount") - pl.col("supply_cost")
    return (
        recent.group_by("customer_id")
        .agg(
            price=of("price", 0),
            price_change_3m=_against(of("price", 0), of("price", 3)),
            consumption_1m=of("consumption", 0),
            consumption_12m=mean("consumption", 0, 11),
            consumption_change=_against(mean("consumption", 0, 2), mean("consumption", 0, 11)),
            bill_1m=of("amount", 0),
            bill_shock=_against(of("amount", 0), usual),
            outage_hours_3m=exact_sum(pl.col("outage_hours").filter(pl.col("back") < 3)),
            margin_last_12m=pl.when(margin.filter(year).count() > 0).then(exact_sum(margin.filter(year))),
        )
        .with_columns(as_of=pl.lit(at, dtype=pl.Datetime("us", "UTC")))
    )


def _against(value: pl.Expr, usual: pl.Expr) -> pl.Expr:
    return pl.when(usual > 0).then(value / usual - 1)


def _of_contacts(known: pl.LazyFrame, at: datetime) -> pl.LazyFrame:
    """What the contacts that were known at a time say of each customer."""

    def within(months: int) -> pl.Expr:
        return pl.col("ts") >= pl.lit(at).dt.offset_by(f"-{months}mo")

    return (
        known.filter(within(_CONTACT_MONTHS), pl.col("ts") < at)
        .group_by("customer_id")
        .agg(
            contacts_1m=within(1).sum().cast(pl.Int64),
            contacts_3m=within(3).sum().cast(pl.Int64),
            contacts_12m=pl.len().cast(pl.Int64),
            complaints_3m=(within(3) & pl.col("complaint").fill_null(False)).sum().cast(pl.Int64),
            response_days_3m=exact_mean(pl.col("response_days").filter(within(3))),
        )
        .with_columns(as_of=pl.lit(at, dtype=pl.Datetime("us", "UTC")))
    )


def _with_segment(snapshots: pl.LazyFrame, segments: pl.LazyFrame | None) -> pl.LazyFrame:
    """With `segment`: of the latest prediction before the snapshot."""
    if segments is None:
        return snapshots.with_columns(segment=pl.lit(None, pl.String))
    predicted = segments.select("customer_id", segmented_at="as_of", segment=pl.col("segment").cast(pl.String))
    # Not of the same time: a prediction as of the snapshot is made after it, or has not been made yet.
    return snapshots.sort("as_of").join_asof(
        predicted.sort("segmented_at"),
        left_on="as_of",
        right_on="segmented_at",
        by="customer_id",
        allow_exact_matches=False,
        check_sortedness=False,
    )


def _with_churned(snapshots: pl.LazyFrame, records: pl.LazyFrame, edge: datetime) -> pl.LazyFrame:
    """With `churned`, as known now: null until the days after the snapshot have passed, and for who had left before."""
    day = pl.col("left_on").cast(pl.Datetime("us", "UTC"))
    # A notice that was withdrawn is no end: the record that says so was in force no more.
    ends = (
        as_known_now(records)
        .filter(pl.col("left_on").is_not_null() & (pl.col("valid_to").is_null() | (pl.col("valid_to") > day)))
        .select("customer_id", ended=day)
        .unique()
        .sort("ended")
    )
    following = ends.with_columns(next_end="ended")
    snapshots = snapshots.sort("as_of").join_asof(
        following,
        left_on="as_of",
        right_on="ended",
        by="customer_id",
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    snapshots = snapshots.join_asof(
        ends.rename({"ended": "last_end"}),
        left_on="as_of",
        right_on="last_end",
        by="customer_id",
        check_sortedness=False,
    )
    horizon = pl.col("as_of") + timedelta(days=LABEL_DAYS)
    # Nobody had been told yet, but the contract was over; a contract that began after that is another one.
    over = pl.col("last_end").is_not_null() & (pl.col("signed_on") <= pl.col("last_end").dt.date()).fill_null(True)
    within = (pl.col("next_end") <= horizon).fill_null(False)
    known = (horizon <= edge) & ~over
    return snapshots.with_columns(churned=pl.when(known).then(within))


def _with_margin(snapshots: pl.LazyFrame, months: pl.LazyFrame) -> pl.LazyFrame:
    """With `margin_12m`: the margin of the twelve months from the snapshot's on, when all of them have been billed."""
    billed = months.filter(pl.col("amount").is_not_null())
    span = [pl.col("month").dt.offset_by(f"-{k}mo") for k in range(VALUE_MONTHS)]
    sums = (
        billed.select("customer_id", "margin", month=pl.concat_list(span))
        .explode("month")
        .group_by("customer_id", "month")
        .agg(margin_12m=exact_sum(pl.col("margin")))
    )
    last = billed.select(pl.col("month").max().alias("last_billed"))
    whole = pl.col("month").dt.offset_by(f"{VALUE_MONTHS - 1}mo") <= pl.col("last_billed")
    return (
        snapshots.join(sums, on=["customer_id", "month"], how="left")
        .join(last, how="cross")
        .with_columns(margin_12m=pl.when(whole).then(pl.col("margin_12m").fill_null(0.0)))
    )


def snapshot_times(first: date, last: date, edge: datetime, customers: Customers | None = None) -> list[datetime]:
    """When snapshots are taken in the months from `first` to `last`, as far as is known until `edge`."""
    customers = customers or active_customers()
    if customers.snapshot is not None:
        return [customers.snapshot] if first <= customers.snapshot.date().replace(day=1) <= last else []
    months = pl.date_range(first, last, "1mo", eager=True).to_list()
    times = [datetime(month.year, month.month, 1, tzinfo=UTC) for month in months]
    return [at for at in times if at <= edge]


# ---------------------------------------------------------------- asset

_BILLS, _CONTACTS, _USAGE = (name in active_customers().tables for name in ("bills", "contacts", "usage"))


class _Segments(dy.Schema):
    """What is read of the predictions of segments."""

    customer_id = dy.String(primary_key=True)
    as_of = dy.Datetime(primary_key=True, time_zone="UTC")
    segment = dy.Int64(nullable=True)


def _months_around(key: dg.AssetKey, before: int, after: int = 0) -> dg.AssetDep:
    mapping = dg.TimeWindowPartitionMapping(
        start_offset=-before, end_offset=after, allow_nonexistent_upstream_partitions=True
    )
    return dg.AssetDep(key, partition_mapping=mapping)


_DEPS: list[dg.AssetKey | dg.AssetDep] = [silver.KEY]
_SOURCES: dict[str, ContractClass] = {"silver/customers": silver.contract()}
_LINEAGE: dict[str, list[str]] = {"as_of": [], "month": [], "customer_id": ["silver/customers:customer_id"]}
if "tenure_months" in contract().column_names():
    _LINEAGE["tenure_months"] = ["silver/customers:signed_on"]
if "churned" in contract().column_names() and active_customers().churned is None:
    _LINEAGE["churned"] = ["silver/customers:left_on"]
if _BILLS:
    _DEPS += [_months_around(silver_bills.KEY, _BILL_MONTHS), _months_around(gold.KEY, 0, VALUE_MONTHS)]
    _SOURCES |= {"silver/bills": silver_bills.SilverBills, "gold/customer_month": gold.contract()}
    _WORDS = {"price": "price", "consumption": "consumption", "bill": "amount", "outage": "outage_hours"}
    _LINEAGE |= {
        name: [f"silver/bills:{_WORDS[word]}"] for name in _OF_BILLS if (word := name.partition("_")[0]) in _WORDS
    }
    _LINEAGE["margin_last_12m"] = ["silver/bills:amount", "silver/bills:supply_cost"]
    if _has_margin(active_customers()):
        _LINEAGE["margin_12m"] = ["gold/customer_month:margin"]
if _CONTACTS:
    _DEPS.append(_months_around(silver_contacts.KEY, _CONTACT_MONTHS))
    _SOURCES["silver/contacts"] = silver_contacts.SilverContacts
    _LINEAGE |= {name: ["silver/contacts:ts"] for name in _OF_CONTACTS}
    _LINEAGE["complaints_3m"] = ["silver/contacts:complaint"]
    _LINEAGE["response_days_3m"] = ["silver/contacts:response_days"]
if _USAGE:
    _DEPS.append(SEGMENTS)
    _SOURCES[SEGMENTS.to_user_string()] = _Segments
for _name in active_customers().attributes:
    _LINEAGE[_name] = [f"silver/customers:{_name}"]


@delta_asset(
    contract,
    lineage=lineage(contract(), _SOURCES, _LINEAGE),
    partitions_def=CUSTOMER_MONTHS,
    metadata={"schema_mode": "merge", "targets": ["churned", "margin_12m"]},
    deps=_DEPS,
    domain="customers",
)
def customer(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.Output[pl.LazyFrame]:
    """The snapshots of the months in hand."""
    first, last = months_of_run(context)

    def rows(key: dg.AssetKey, declared: bool, before: int) -> pl.LazyFrame | None:
        since = pl.lit(first).dt.offset_by(f"-{before}mo")
        return lake.lake().table(key.path).scan().filter(pl.col("month") >= since) if declared else None

    records = lake.lake().table(silver.KEY.path).scan().collect().lazy()
    bills = rows(silver_bills.KEY, _BILLS, _BILL_MONTHS)
    contacts = rows(silver_contacts.KEY, _CONTACTS, _CONTACT_MONTHS)
    edge = edge_of(records, bills, contacts)
    if edge is None:
        return dg.Output(contract().create_empty(lazy=True))
    times = snapshot_times(first, last, edge)
    predicted = lake.lake().table(SEGMENTS.path)
    segments = predicted.scan() if _USAGE and predicted.exists() else None
    months = rows(gold.KEY, _BILLS, 0)
    frame = transform(times, records, bills, contacts, months, edge, segments=segments).collect()
    known = {"snapshots": len(times)}
    if "churned" in frame.columns:
        known |= {"labelled": frame["churned"].count(), "churned": int(frame["churned"].sum())}
    return dg.Output(frame.lazy(), metadata=known)


contract_of_customer = contract_check(customer, contract)
