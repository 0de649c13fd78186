"""Snapshots of customers hold what was known then, and the targets what came of it."""

import random
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from lakehouse_assets.features import customer as features
from lakehouse_assets.sources.simulated_customers import simulate_customers
from lakehouse_assets_tests.customers import declared, landed, refined, shapes, snapshots, utc

START, END = date(2022, 10, 1), date(2024, 6, 1)
TARGETS = ["churned", "margin_12m"]
TIMES = [utc(2023, month, 1) for month in (1, 3, 6, 12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("company")
    simulate_customers(made, start=START, end=END, customers=150, seed=3)
    return made


@pytest.fixture(scope="module")
def bronze(folder: Path) -> dict[str, pl.DataFrame]:
    return landed(folder, declared())


@pytest.fixture(scope="module")
def silver(bronze: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    return refined(bronze)


def test_nothing_is_lost_of_the_dirt(bronze: dict[str, pl.DataFrame], silver: dict[str, pl.DataFrame]) -> None:
    for table, rows in bronze.items():
        rejected = silver[f"{table}_quarantine"]
        assert silver[table]["landed_rows"].sum() + rejected.height == rows.height, table
        assert silver[table].height < silver[table]["landed_rows"].sum(), table  # some were sent twice
    assert silver["bills_quarantine"]["rules"].explode().unique().to_list() == ["month_is_a_month"]


@pytest.mark.parametrize("at", TIMES)
def test_what_was_known_later_changes_no_feature(bronze: dict[str, pl.DataFrame], at: datetime) -> None:
    before = snapshots(refined(bronze), [at]).drop(TARGETS)
    shape = shapes(refined(bronze), [at])
    assert before.height > 100
    chance = random.Random(1)

    def corrupted(rows: pl.DataFrame) -> pl.DataFrame:
        later = (pl.col("known_at") > at).fill_null(False)
        kept = {"source", "file", "fingerprint", "row_number", "batch_id", "ingested_at", "ts_utc", "known_at", "month"}
        numbers = [name for name in rows.columns if name not in kept | {"customer_id", "updated_at", "day"}]
        future = rows.filter(later).with_columns(pl.col(numbers).shuffle(seed=chance.randrange(100)))
        # And more of it: corrections of everything that was known, made known a day later.
        correction = rows.filter(~later).with_columns(
            pl.col(numbers).shuffle(seed=5),
            known_at=pl.lit(at + timedelta(days=1)),
            row_number=pl.col("row_number") + 10**6,
        )
        return pl.concat([rows.filter(~later), future, correction.select(rows.columns)])

    after = refined({table: corrupted(rows) for table, rows in bronze.items()})
    assert snapshots(after, [at]).drop(TARGETS).equals(before)
    assert shapes(after, [at]).equals(shape)
    # Without the future it is the same too; and with a past that is another it is not.
    past = {table: rows.filter(pl.col("known_at") <= at) for table, rows in bronze.items()}
    assert snapshots(refined(past), [at]).drop(TARGETS).equals(before)
    less = {**past, "bills": past["bills"].filter(pl.col("month") < at.date() - timedelta(days=31))}
    assert not snapshots(refined(less), [at]).drop(TARGETS).equals(before)


def test_churned_is_the_truth_and_null_while_it_is_not_known(folder: Path, silver: dict[str, pl.DataFrame]) -> None:
    truth = pl.read_parquet(folder / "customers_truth.parquet")
    times = [utc(2024, month, 1) for month in (1, 2, 3, 4)]
    found = snapshots(silver, times)
    both = found.join(truth, on=["customer_id", "month"], suffix="_true")
    assert both.height > 0.97 * found.height
    assert (
        both.filter(pl.col("month") > date(2024, 3, 1))["churned"].null_count()
        == both.filter(pl.col("month") > date(2024, 3, 1)).height
    )
    known = both.filter(pl.col("month") <= date(2024, 3, 1)).drop_nulls("churned_true")
    wrong = known.filter(pl.col("churned").ne_missing(pl.col("churned_true")))
    assert wrong.height <= 0.02 * known.height  # records that were quarantined, and notices that were sent late
    assert known["churned_true"].sum() > 10


def test_margin_is_that_of_the_twelve_months(silver: dict[str, pl.DataFrame]) -> None:
    found = snapshots(silver, [utc(2023, 5, 1), utc(2023, 6, 1), utc(2023, 7, 1)])
    one = found.filter(pl.col("month") == date(2023, 6, 1), pl.col("margin_12m") > 0).row(3, named=True)
    bills = silver["bills"].filter(
        pl.col("customer_id") == one["customer_id"],
        pl.col("known_until").is_null(),
        pl.col("month").is_between(date(2023, 6, 1), date(2024, 5, 1)),
    )
    assert one["margin_12m"] == pytest.approx((bills["amount"] - bills["supply_cost"]).sum())
    early = found.filter(pl.col("month") == date(2023, 7, 1))["margin_12m"]
    assert early.null_count() == early.len() > 0


def test_features_by_hand(silver: dict[str, pl.DataFrame]) -> None:
    at = utc(2024, 1, 1)
    one = snapshots(silver, [at]).filter(pl.col("contacts_12m") > 2, pl.col("tenure_months") > 20).row(0, named=True)
    mine = pl.col("customer_id") == one["customer_id"]
    bills = (
        silver["bills"]
        .filter(mine, pl.col("known_at") <= at)
        .sort("month", "known_at")
        .unique("month", keep="last")
        .sort("month")
    )
    assert one["bill_1m"] == bills["amount"][-1]
    assert one["bill_shock"] == pytest.approx(bills["amount"][-1] / bills["amount"][-13:-1].mean() - 1)
    assert one["price_change_3m"] == pytest.approx(bills["price"][-1] / bills["price"][-4] - 1)
    assert one["consumption_12m"] == pytest.approx(bills["consumption"][-12:].mean())
    assert one["margin_last_12m"] == pytest.approx((bills["amount"] - bills["supply_cost"])[-12:].sum())
    contacts = silver["contacts"].filter(mine, pl.col("known_at") <= at)
    assert one["contacts_12m"] == contacts.filter(pl.col("ts") >= utc(2023, 1, 1))["ts"].n_unique()
    assert one["contacts_3m"] == contacts.filter(pl.col("ts") >= utc(2023, 10, 1))["ts"].n_unique()


def test_who_has_given_notice_is_no_row(silver: dict[str, pl.DataFrame]) -> None:
    at = utc(2024, 1, 1)
    found = snapshots(silver, [at])
    told = silver["customers"].filter(pl.col("left_on").is_not_null(), pl.col("known_at") <= at)["customer_id"]
    assert told.len() > 5
    assert set(found["customer_id"]).isdisjoint(told)
    assert not found.select("customer_id", "as_of").is_duplicated().any()


def test_contract_holds_what_is_declared_and_nothing_personal(silver: dict[str, pl.DataFrame]) -> None:
    found = snapshots(silver, [utc(2024, 1, 1)])
    columns = features.contract(declared()).column_names()
    assert found.columns == columns
    assert set(declared().attributes) < set(columns)
    assert set(declared().personal).isdisjoint(columns)
    assert features.contract(declared()).is_valid(found)


def test_the_segment_is_the_last_one_predicted_before(silver: dict[str, pl.DataFrame]) -> None:
    times = [utc(2023, month, 1) for month in (1, 2, 3, 6)]
    without = snapshots(silver, times)
    assert without["segment"].null_count() == without.height
    assert without.schema["segment"] == pl.String
    known = without.filter(pl.col("as_of") == times[-1])["customer_id"].head(3).to_list()
    rows = [(times[0], who, i + 1) for i, who in enumerate(known)]
    rows += [(times[2], known[0], 8), (times[2], known[1], None)]
    predicted = pl.DataFrame(rows, schema=["as_of", "customer_id", "segment"], orient="row")
    predicted = predicted.with_columns(pl.col("as_of").dt.cast_time_unit("us"))
    found = snapshots(silver, times, predicted.sample(fraction=1, shuffle=True, seed=1))
    assert found.drop("segment").equals(without.drop("segment"))
    assert found.filter(~pl.col("customer_id").is_in(known))["segment"].null_count() > 0
    expected = [[None, "1", "1", "8"], [None, "2", "2", None], [None, "3", "3", "3"]]
    for who, said in zip(known, expected, strict=True):
        mine = found.filter(pl.col("customer_id") == who)
        wanted = dict(zip(times, said, strict=True))
        assert dict(mine.select("as_of", "segment").iter_rows()) == {at: wanted[at] for at in mine["as_of"]}, who
    # What is predicted of the day itself, or later, changes nothing.
    late = predicted.with_columns(segment=pl.when(pl.col("as_of") >= times[2]).then(99).otherwise("segment"))
    early = found.filter(pl.col("as_of") <= times[2])
    assert snapshots(silver, times, late).filter(pl.col("as_of") <= times[2]).equals(early)
    assert not snapshots(silver, times, late).equals(found)


def test_without_usage_there_are_no_segments() -> None:
    without = declared().model_copy(update={"usage": None})
    assert "segment" not in features.contract(without).column_names()
    assert "segment" in features.contract(declared()).column_names()
    at = features.transform([], pl.LazyFrame(), None, None, None, utc(2024, 1, 1), without)
    assert "segment" not in at.collect_schema()


def test_shapes_are_shares(silver: dict[str, pl.DataFrame]) -> None:
    found = shapes(silver, TIMES)
    for letter in "hw":
        sums = found.select(pl.sum_horizontal(pl.col(f"^{letter}\\d\\d$"))).to_series()
        assert ((sums - 1).abs() < 1e-9).all()
    assert found["as_of"].n_unique() == len(TIMES)
    assert (found["daily_kwh"] > 0).all()
