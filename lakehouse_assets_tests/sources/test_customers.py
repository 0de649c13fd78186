"""The section `customers` of a declaration, and how its files are landed."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.bronze import bills, contacts, usage
from lakehouse_assets.features import customer, load_shape
from lakehouse_assets.gold import customer_month
from lakehouse_assets.settings import Settings
from lakehouse_assets.silver import customers as silver
from lakehouse_assets.sources.customers import RESERVED_NAMES, TABLES, Customers
from lakehouse_assets.sources.declaration import (
    SIMULATED,
    DeclarationError,
    active_customers,
    active_source,
    load_declaration,
    load_source,
)
from lakehouse_assets.sources.landing import land_records, months_touched_by_records
from lakehouse_assets_tests.customers import NOW, utc

ALONE = """\
name: shop
customers:
  files: {glob: "customers*.csv", format: csv}
  columns:
    customer_id: id
    updated_at: updated
    published_at: sent
    left_on: left
  start: 2024-01-01
  attributes:
    plan: {column: plan, type: category}
    seats:
      column: seats
      type: number
  personal:
    mail: {column: mail, kind: email}
  bills:
    files: {glob: "bills*.csv", format: csv}
    columns: {customer_id: id, month: month, amount: amount}
"""


def _load(folder: Path, text: str) -> Customers:
    (folder / "x.yaml").write_text(text)
    found = load_source(folder / "x.yaml").customers
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "type: number",
            "type: integer",
            "14: customers.attributes.seats.type: must be 'number', 'category' or 'flag'",
        ),
        ("    seats:\n", "    churned:\n", "12: customers.attributes.churned: the name is taken by a column of the ta"),
        ("    seats:\n", "    Seats:\n", "12: customers.attributes.Seats: must be a snake_case word"),
        ("kind: email", "kind: secret", "16: customers.personal.mail.kind: must be 'name', 'address', 'email' or 'ph"),
        ("{column: mail, k", "{column: plan, k", "16: customers.personal.mail.column: plan is personal, so the attri"),
        ("    mail: {", "    plan: {", "16: customers.personal.plan: is an attribute too"),
        ("    updated_at: updated\n", "", "customers.columns.updated_at: give this column, or as_of"),
        ("  start: 2024-01-01\n", "", "customers.start: is missing"),
        ("start: 2024", "as_of: 2024-01-01\n  start: 2024", "customers.columns.updated_at: give this column, or as_of"),
        ("  personal:", "  churned: {column: c, yes: y}\n  personal:", "customers.churned: columns.left_on says"),
        (
            "amount: amount}",
            "sum: amount}",
            "19: customers.bills.columns.sum: is not known here; known are customer_id",
        ),
        ("    customer_id: id\n", "", "4: customers.columns.customer_id: is missing"),
        ("name: shop", "title: shop", "name: is missing"),
    ],
)
def test_an_error_names_line_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    _load(tmp_path, ALONE)
    assert old in ALONE
    with pytest.raises(DeclarationError) as error:
        _load(tmp_path, ALONE.replace(old, new))
    assert said in str(error.value).replace(f"{tmp_path / 'x.yaml'}:", "")


def test_what_a_source_may_fill(tmp_path: Path) -> None:
    _load(tmp_path, ALONE)
    settings = Settings(home=tmp_path, config=tmp_path / "x.yaml")
    assert active_source(settings).tables == ("customers", "bills")
    assert active_customers(settings).first_month == date(2024, 1, 1)
    with pytest.raises(DeclarationError, match="no demand"):
        load_declaration(tmp_path / "x.yaml")
    with pytest.raises(LookupError, match="no files of usage"):
        active_customers(settings).layout("usage")
    assert load_source(SIMULATED).tables == ("demand", *TABLES)


def test_no_attribute_can_take_the_name_of_a_column() -> None:
    bare = Customers.model_validate(
        {
            "files": {"glob": "*", "format": "csv"},
            "columns": {"customer_id": "id", "updated_at": "u", "signed_on": "s", "left_on": "l"},
            "start": "2024-01-01",
            **{name: load_source(SIMULATED).customers.model_dump()[name] for name in ("contacts", "bills")},  # type: ignore[union-attr]
        }
    )
    columns = [made.contract(bare).column_names() for made in (silver, customer_month, customer)]
    assert {name for names in columns for name in names} - RESERVED_NAMES == set()


def _landed(folder: Path, until: datetime | None, **files: str) -> dict[str, Any]:
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    declared, found = _load(folder, ALONE), {}
    for table in declared.tables:
        landing = land_records(declared.layout(table), folder, None, until, NOW, folder / "aside")
        found[table] = None if landing.frame is None else landing.frame.to_dicts()
    return found


def test_rows_are_landed_when_they_are_known(tmp_path: Path) -> None:
    records = "id,updated,sent,left,plan,seats,mail\nA,2024-01-05,2024-02-01,,x,1,a@b\nB,2024-01-31,2024-03-01,,x,1,\n"
    bills_ = "id,month,amount\nA,2024-01-15,10\nA,2024-02-15,10\nB,never,1\n"
    found = _landed(tmp_path, utc(2024, 2, 15), customers=records, bills=bills_)
    (record,) = found["customers"]
    assert (record["customer_id"], record["ts_utc"], record["known_at"]) == ("A", utc(2024, 1, 5), utc(2024, 2, 1))
    assert record["mail"] == "a@b"
    # A bill without a time of its own is known when its month has ended; one without a month is landed at once.
    assert [(row["ts_utc"], row["known_at"]) for row in found["bills"]] == [
        (utc(2024, 1, 1), utc(2024, 2, 1)),
        (None, None),
    ]


def test_a_landing_touches_the_year_before_it() -> None:
    import polars as pl

    times = pl.DataFrame({"ts_utc": [utc(2024, 5, 3), None], "known_at": [utc(2024, 6, 1), utc(2024, 6, 1)]})
    months = months_touched_by_records(times, date(2022, 1, 1), utc(2024, 5, 1))
    assert (months[0], months[-1], len(months)) == (date(2023, 4, 1), date(2024, 6, 1), 15)
    # What was silent for long has labels that are open for as long.
    assert months_touched_by_records(times, date(2022, 1, 1), utc(2023, 6, 1))[0] == date(2022, 5, 1)
    assert months_touched_by_records(times, date(2024, 1, 1), None)[0] == date(2024, 1, 1)


def test_every_table_has_its_contract() -> None:
    for contract in (contacts.BronzeContacts, bills.BronzeBills, usage.BronzeUsage, load_shape.FeaturesLoadShape):
        assert all(column.description for column in contract.columns().values())
