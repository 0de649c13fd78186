"""The records of customers are right at any point in time, whatever order they arrive in."""

from datetime import timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.lake.table_asset import personal_columns
from lakehouse_assets.silver import customers as silver
from lakehouse_assets.sources.customers import CustomerColumns, Customers
from lakehouse_assets_tests.customers import NOW, utc

DECLARED = Customers.model_validate(
    {
        "files": {"glob": "*.csv", "format": "csv"},
        "columns": CustomerColumns(customer_id="id", updated_at="u", published_at="p", left_on="l").model_dump(),
        "start": "2024-01-01",
        "attributes": {"tariff": {"column": "t", "type": "category"}, "size": {"column": "s", "type": "number"}},
        "personal": {"mail": {"column": "m", "kind": "email"}},
    }
)
EPOCH = utc(2024, 1, 1)


def bronze(rows: list[tuple[str, int | None, int, str]], **columns: list[str | None]) -> pl.LazyFrame:
    """Landed records: customer, valid from and known at (days since the epoch), tariff."""

    def times(position: int) -> pl.Series:
        days = [row[position] for row in rows]
        return pl.Series(
            [None if d is None else EPOCH + timedelta(days=d) for d in days], dtype=pl.Datetime("us", "UTC")
        )

    n = len(rows)
    text = {name: pl.Series([None] * n, dtype=pl.String) for name in ("signed_on", "left_on", "size", "mail")}
    return pl.DataFrame(
        {
            "source": ["s"] * n,
            "file": ["f"] * n,
            "fingerprint": ["x"] * n,
            "row_number": range(1, n + 1),
            "batch_id": ["b"] * n,
            "ingested_at": [NOW] * n,
            "month": [EPOCH.date()] * n,
            "customer_id": [row[0] for row in rows],
            "updated_at": ["as written"] * n,
            "published_at": ["as written"] * n,
            "ts_utc": times(1),
            "known_at": times(2),
            "tariff": [row[3] for row in rows],
            **text,
            **{name: pl.Series(values, dtype=pl.String) for name, values in columns.items()},
        }
    ).lazy()


def refine(rows: pl.LazyFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    accepted, rejected = silver.split(rows, silver.rules(DECLARED))
    assert accepted is not None
    made, _ = silver.transform(rows, DECLARED)
    return made.collect(), rejected.collect()


DAY = st.integers(0, 12)
RECORDS = st.lists(st.tuples(st.sampled_from("AB"), DAY, DAY, st.sampled_from("xyz")), min_size=1, max_size=14)


@settings(max_examples=60, deadline=None)
@given(rows=RECORDS)
def test_at_any_time_the_record_in_force_is_that_of_a_naive_search(rows: list[tuple[str, int, int, str]]) -> None:
    made, _ = refine(bronze(rows))
    assert made["landed_rows"].sum() == len(rows)
    timeline = silver.timeline(made.lazy()).collect()
    numbered = [(row, number) for number, row in enumerate(rows)]
    for customer in "AB":
        mine = [(row, number) for row, number in numbered if row[0] == customer]
        for day in range(14):
            at = EPOCH + timedelta(days=day)
            # As known in the end: the latest record that is valid by then, of those the one that was known last.
            believed = max(((r[1], r[2], n, r[3]) for r, n in mine if r[1] <= day), default=None)
            open_ = pl.col("valid_to").is_null() | (pl.col("valid_to") > at)
            found = made.filter(pl.col("customer_id") == customer, pl.col("valid_from") <= at, open_)[
                "tariff"
            ].to_list()
            assert found == ([] if believed is None else [believed[3]])
            # As known then: only what was known by the day.
            known = max(((r[1], r[2], n, r[3]) for r, n in mine if r[1] <= day and r[2] <= day), default=None)
            last = (
                timeline.filter(pl.col("customer_id") == customer, pl.col("effective_at") <= at)
                .tail(1)["tariff"]
                .to_list()
            )
            assert last == ([] if known is None else [known[3]])


def test_a_late_record_takes_its_place_and_a_correction_replaces() -> None:
    rows = [("A", 0, 0, "x"), ("A", 8, 8, "z"), ("A", 4, 9, "y"), ("A", 8, 10, "w")]
    made, rejected = refine(bronze(rows))
    assert rejected.is_empty()
    days = (pl.col("valid_from", "valid_to", "known_until") - EPOCH).dt.total_days()
    shown = made.sort("valid_from", "known_at").select("tariff", days)
    assert shown.rows() == [("x", 0, 4, None), ("y", 4, 8, None), ("z", 8, 8, 10), ("w", 8, None, None)]


def test_rows_that_break_a_rule_are_in_the_quarantine_with_its_name() -> None:
    rows = [("A", 0, 0, "x"), (" ", 0, 0, "x"), ("B", None, 0, "x"), ("C", 0, 0, "x"), ("D", 0, 0, "x")]
    left = [None, None, None, "2024-02-31", None]
    made, rejected = refine(bronze(rows, left_on=left, size=["1", "1", "1", "1", "one"]))
    assert made["customer_id"].to_list() == ["A"]
    assert rejected["rules"].to_list() == [
        ["customer_id_present"],
        ["updated_at_is_a_time"],
        ["left_on_is_a_date"],
        ["size_is_a_number"],
    ]


def test_personal_columns_are_classified() -> None:
    assert personal_columns(silver.contract(DECLARED)) == {"mail": "email"}
