import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError
from polars.testing import assert_frame_equal

from lakehouse_assets.lake.predicate import parse_predicate
from lakehouse_assets.lake.table import Frame, Lake, SchemaChangedError, Table, WriteRefusedError, WriteResult
from lakehouse_assets.settings import Settings

MONTHS = [date(2024, month, 1) for month in range(1, 5)]
ROWS = pl.DataFrame({"month": MONTHS, "id": [1, 2, 3, 4], "value": [1.0, 2.0, 3.0, 4.0]})
FEBRUARY = "month >= '2024-02-01' AND month < '2024-03-01'"
lazy_or_not = pytest.mark.parametrize("form", [pl.DataFrame.lazy, pl.DataFrame.clone], ids=["lazy", "eager"])
Form = Callable[[pl.DataFrame], Frame]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "silver" / "demand")


def values(table: Table) -> dict[int, float]:
    rows = table.scan().select("id", "value").collect()
    assert rows["id"].is_unique().all()
    return dict(sorted(rows.rows()))


def keep_only_files_of(table: Table, month: str) -> None:
    """Remove the data files of all other months: whoever opens one fails."""
    for path in table.files()["path"]:
        if f"month={month}" not in path:
            (Path(table.uri) / path).unlink()


# ---------------------------------------------------------------- round trip


@lazy_or_not
def test_types_survive(table: Table, form: Form) -> None:
    rows = pl.DataFrame(
        {
            "month": [date(2024, 1, 1), date(2024, 2, 1)],
            "text": ["a", None],
            "at": [datetime(2024, 1, 1, 5, tzinfo=UTC), None],
            "naive": [datetime(2024, 1, 1, 5, 0, 0, 1), None],
            "small": [1, None],
            "flag": [True, None],
            "single": [0.1, None],
            "rules": [["a", "b"], None],
            "empty": [None, None],
        },
        schema_overrides={
            "at": pl.Datetime("us", "UTC"),
            "small": pl.Int16,
            "single": pl.Float32,
            "rules": pl.List(pl.String),
            "empty": pl.String,
        },
    )
    assert table.append(form(rows), partition_by=["month"]) == WriteResult(version=0, rows=2)
    assert_frame_equal(table.scan().sort("month").collect(), rows)
    assert table.schema() == rows.schema


def test_types_that_delta_lacks_become_wider_ones(table: Table) -> None:
    table.append(
        pl.DataFrame(
            {
                "u32": pl.Series([2**32 - 1], dtype=pl.UInt32),
                "category": pl.Series(["a"], dtype=pl.Categorical()),
                "local": pl.Series([datetime(2024, 7, 1, 12)], dtype=pl.Datetime("ms", "Europe/Berlin")),
                "list": pl.Series([[1]], dtype=pl.List(pl.UInt8)),
            }
        )
    )
    stored = table.scan().collect()
    assert stored.dtypes == [pl.Int64, pl.String, pl.Datetime("us", "UTC"), pl.List(pl.Int16)]
    assert stored.row(0)[0] == 2**32 - 1
    assert stored["local"][0] == datetime(2024, 7, 1, 12, tzinfo=UTC)


def test_an_untyped_null_column_takes_the_type_of_the_table_or_is_refused(table: Table) -> None:
    untyped = ROWS.with_columns(value=None)
    with pytest.raises(WriteRefusedError, match=r"no type for \{'value': Null\}"):
        table.append(untyped)
    assert not table.exists()
    table.append(ROWS)
    table.append(untyped)
    assert table.scan().collect()["value"].null_count() == 4


# ------------------------------------------------------------------- missing


def test_only_a_missing_table_is_a_missing_table(table: Table) -> None:
    assert not table.exists()
    with pytest.raises(TableNotFoundError):
        table.scan()
    table.append(ROWS)
    (commit,) = (Path(table.uri) / "_delta_log").glob("*.json")
    damaged = commit.read_text()[:-40] + "}"
    commit.write_text(damaged)
    for use in (table.exists, table.scan, table.version, lambda: table.append(ROWS), lambda: table.overwrite(ROWS)):
        with pytest.raises(DeltaError) as caught:
            use()
        assert not isinstance(caught.value, TableNotFoundError)
    assert commit.read_text() == damaged


# ----------------------------------------------------------------- overwrite


@lazy_or_not
def test_overwrite_replaces_what_the_predicate_says(table: Table, form: Form) -> None:
    table.overwrite(form(ROWS), partition_by=["month"])
    result = table.overwrite(form(ROWS[1:2].with_columns(value=9.0)), predicate=FEBRUARY)
    assert result == WriteResult(version=1, rows=1)
    assert values(table) == {1: 1.0, 2: 9.0, 3: 3.0, 4: 4.0}
    table.overwrite(form(ROWS[1:2].clear()), predicate=FEBRUARY)
    assert values(table) == {1: 1.0, 3: 3.0, 4: 4.0}
    table.overwrite(form(ROWS[:1]))
    assert values(table) == {1: 1.0}


@lazy_or_not
@pytest.mark.parametrize("exists", [True, False])
def test_rows_outside_are_refused_and_nothing_is_written(table: Table, form: Form, exists: bool) -> None:
    if exists:
        table.append(ROWS)
    batches = pl.concat([ROWS] * 50_000).with_columns(month=pl.lit(date(2024, 2, 1)))
    with_strays = pl.concat([batches, ROWS[2:4], ROWS[:1].with_columns(month=pl.lit(None, dtype=pl.Date))])
    for write in (table.overwrite, table.append):
        with pytest.raises(WriteRefusedError, match=r"demand: 3 of 200003 rows lie outside .* month = 2024-03-01"):
            write(form(with_strays), predicate=FEBRUARY)
    with pytest.raises(WriteRefusedError, match="3 of 4 rows"):
        table.merge(form(ROWS), keys=["id"], predicate=FEBRUARY)
    assert table.exists() == exists
    if exists:
        assert (table.version(), table.row_count()) == (0, 4)


def test_overwrite_leaves_rows_for_which_the_predicate_is_unknown(table: Table) -> None:
    table.append(ROWS.with_columns(pl.when(pl.col("id") > 1).then("month")))
    table.overwrite(ROWS[1:2].with_columns(value=9.0), predicate=FEBRUARY)
    assert values(table) == {1: 1.0, 2: 9.0, 3: 3.0, 4: 4.0}


def test_a_predicate_need_not_follow_the_delta_partitions(table: Table) -> None:
    table.append(ROWS, partition_by=["month"])
    table.overwrite(
        pl.concat([ROWS[1:3], ROWS[1:2].with_columns(id=pl.lit(5, pl.Int64))]), predicate="id IN (2, 3, 5) OR id > 5"
    )
    assert values(table) == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0, 5: 2.0}


AT = datetime(2024, 1, 1, tzinfo=UTC)
TIMES = pl.DataFrame({"day": pl.date_range(AT.date(), AT.date() + timedelta(5), eager=True)}).with_columns(
    at=pl.col("day").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
    naive=pl.col("day").cast(pl.Datetime("us")),
    text=pl.col("day").dt.strftime("%Y-%m-%d"),
    quoted=pl.lit("it's ' AND day < '2000-01-01"),
    id=pl.int_range(6),
)


@pytest.mark.parametrize("partition_by", [[], ["day"], ["at"], ["naive"], ["text"]], ids=str)
@pytest.mark.parametrize(
    ("predicate", "ids"),
    [
        ("day = '2024-01-02'", [1]),
        ("day IN (DATE '2024-01-02', '2024-01-04')", [1, 3]),
        ("day BETWEEN '2024-01-02' AND '2024-01-03' AND text <> '2024-01-02'", [2]),
        ("at >= '2024-01-05'", [4, 5]),
        ("at < '2024-01-02T01:00:00+01:00'", [0]),
        ("naive >= TIMESTAMP '2024-01-05' OR naive = '2024-01-01 00:00:00'", [0, 4, 5]),
        ("text >= '2024-01-05'", [4, 5]),
        ("""quoted = 'it''s '' AND day < ''2000-01-01' AND "day" < '2024-01-02'""", [0]),
    ],
)
def test_delta_and_polars_read_a_predicate_alike(
    table: Table, predicate: str, ids: list[int], partition_by: list[str]
) -> None:
    table.append(TIMES, partition_by=partition_by)
    inside = parse_predicate(predicate, TIMES.schema)[1]
    assert TIMES.filter(inside)["id"].to_list() == ids
    table.overwrite(TIMES.filter(inside).clear(), predicate=predicate)
    assert sorted(table.scan().collect()["id"]) == sorted(set(range(6)) - set(ids))


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        ("nowhere = 1", r"names \['nowhere'\]"),
        ("month = 'soon'", "is not a time"),
        ("month = '2024-01-01 12:00'", "is no date"),
    ],
)
def test_a_predicate_that_cannot_be_meant_is_an_error(table: Table, predicate: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table.overwrite(ROWS, predicate=predicate)


# -------------------------------------------------------------------- schema


@lazy_or_not
def test_a_changed_schema_is_an_error_unless_asked_for(table: Table, form: Form) -> None:
    table.append(form(ROWS))
    for write in (table.append, table.overwrite, lambda frame: table.merge(frame, keys=["id"])):
        with pytest.raises(SchemaChangedError, match=r"new columns \['unit'\]; missing columns \['value'\]"):
            write(form(ROWS.rename({"value": "unit"})))
        with pytest.raises(SchemaChangedError, match="Float64 in the table, String in the frame"):
            write(form(ROWS.cast({"value": pl.String})))
    assert table.version() == 0
    table.append(form(ROWS.select(reversed(ROWS.columns))))  # the order of columns is no part of the schema
    assert table.row_count() == 8


def test_schema_merge_adds_columns_and_fills_missing_ones(table: Table) -> None:
    table.append(ROWS)
    more = pl.DataFrame({"id": [4, 5], "month": MONTHS[3], "unit": "MW"})
    table.merge(more, keys=["id"], schema_mode="merge")
    assert sorted(table.scan().select("id", "value", "unit").collect().rows())[2:] == [
        (3, 3.0, None),
        (4, None, "MW"),
        (5, None, "MW"),
    ]
    with pytest.raises(SchemaChangedError, match="other types"):
        table.append(ROWS.cast({"value": pl.String}), schema_mode="merge")
    table.append(ROWS, schema_mode="merge")
    assert table.row_count() == 9


def test_schema_overwrite_replaces_schema_and_partitioning(table: Table) -> None:
    table.append(ROWS)
    other = pl.DataFrame({"month": ["2024"], "value": ["x"]})
    with pytest.raises(ValueError, match="takes no predicate"):
        table.overwrite(other, predicate="value = 'x'", schema_mode="overwrite")
    with pytest.raises(WriteRefusedError, match=r"partitioned by nothing, not by \['month'\]"):
        table.append(ROWS, partition_by=["month"])
    table.overwrite(other, schema_mode="overwrite", partition_by=["month"])
    assert_frame_equal(table.scan().collect(), other)
    assert table.delta().metadata().partition_columns == ["month"]


# --------------------------------------------------------------------- merge


@lazy_or_not
def test_merge_replaces_and_inserts(table: Table, form: Form) -> None:
    assert table.merge(form(ROWS[:3]), keys=["id"], partition_by=["month"]) == WriteResult(0, 3)
    changed = ROWS[2:].with_columns(value=9.0)
    assert table.merge(form(changed), keys=["id"], partition_by=["month"]) == WriteResult(1, 2)
    assert table.merge(form(changed), keys=["id", "month"]) == WriteResult(2, 2)
    assert values(table) == {1: 1.0, 2: 2.0, 3: 9.0, 4: 9.0}
    assert table.merge(form(changed.clear()), keys=["id"]) == WriteResult(2, 0)


def test_merge_opens_only_the_partitions_of_its_rows(table: Table) -> None:
    table.append(ROWS, partition_by=["month"])
    keep_only_files_of(table, "2024-02-01")
    table.merge(ROWS[1:2].with_columns(value=9.0), keys=["id"], partition_by=["month"])
    assert table.scan().filter(month=date(2024, 2, 1)).collect()["value"].to_list() == [9.0]


def test_a_scan_opens_only_the_partitions_asked_for(table: Table) -> None:
    table.append(ROWS, partition_by=["month"])
    keep_only_files_of(table, "2024-02-01")
    inside = parse_predicate(FEBRUARY, ROWS.schema)[1]
    assert table.scan().filter(inside).collect()["id"].to_list() == [2]


@pytest.mark.parametrize(
    ("rows", "keys", "message"),
    [
        (pl.concat([ROWS, ROWS[:2]]), ["id"], "2 merge keys occur more than once"),
        (ROWS.with_columns(pl.when(pl.col("id") > 1).then("id")), ["id"], "merge keys are null"),
        (ROWS, ["series"], "are not among the columns"),
    ],
)
def test_keys_that_do_not_identify_a_row_are_refused(
    table: Table, rows: pl.DataFrame, keys: list[str], message: str
) -> None:
    for _ in range(2):
        with pytest.raises(WriteRefusedError, match=message):
            table.merge(rows, keys=keys)
        table.append(ROWS)
    assert table.row_count() == 8


# ------------------------------------------------------------------- history


def test_history_and_restore(table: Table) -> None:
    before = datetime.now(UTC)
    table.append(ROWS, run_id="run-1", metadata={"source": "files"})
    table.overwrite(ROWS[:1], run_id="run-2")
    table.merge(ROWS[:2], keys=["id"], run_id="run-3")
    newest, second, oldest = table.history()
    assert [commit["dagster_run_id"] for commit in (oldest, second, newest)] == ["run-1", "run-2", "run-3"]
    assert oldest["source"] == "files"
    assert (newest["version"], table.version()) == (2, 2)
    assert before - timedelta(seconds=5) <= table.updated_at() <= datetime.now(UTC) + timedelta(seconds=5)
    assert [table.row_count(version) for version in range(3)] == [4, 1, 2]
    assert table.scan(version=0).collect().height == 4
    assert table.size_bytes() > 0
    table.restore(0, run_id="run-4")
    assert table.version() == 3
    assert values(table) == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}
    assert table.history(1)[0]["dagster_run_id"] == "run-4"


def test_a_scan_is_pinned_to_the_version_it_was_made_at(table: Table) -> None:
    table.append(ROWS)
    scan = table.scan()
    table.overwrite(ROWS[:1])
    assert scan.collect().height == 4


def test_a_version_stays_readable_for_years(table: Table) -> None:
    for index in range(3):
        table.overwrite(ROWS[index:])
    a_year_ago = time.time() - 365 * 86_400
    for commit in (Path(table.uri) / "_delta_log").glob("*.json"):
        os.utime(commit, (a_year_ago, a_year_ago))
    table.delta().create_checkpoint()
    table.delta().cleanup_metadata()
    assert [table.row_count(version) for version in range(3)] == [4, 3, 2]


def test_one_file_a_partition_a_write(table: Table) -> None:
    rows = pl.concat([ROWS] * 100_000)
    table.overwrite(rows.lazy(), partition_by=["month"])
    assert table.files().height == 4
    table.merge(rows[:4].with_columns(id=-pl.col("id")), keys=["id", "month"])
    table.overwrite(ROWS[1:2].lazy(), predicate=FEBRUARY)
    assert table.files().filter(pl.col("path").str.contains("2024-02-01")).height == 1


# --------------------------------------------------------------- concurrency


@pytest.mark.parametrize("kind", ["append", "merge", "overwrite", "same month"])
def test_writers_at_once_lose_nothing(table: Table, kind: str) -> None:
    def write(index: int) -> WriteResult:
        row = ROWS[index % 4 : index % 4 + 1].with_columns(id=pl.lit(index, pl.Int64))
        same = Table(table.uri)
        if kind == "append":
            return same.append(row, partition_by=["month"])
        if kind == "merge":
            return same.merge(row, keys=["id"], partition_by=["month"])
        if kind == "overwrite":
            return same.overwrite(row, predicate=f"id = {index}", partition_by=["month"])
        return same.overwrite(row.with_columns(month=MONTHS[0]), predicate="month = '2024-01-01'")

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(write, range(8)))
    assert sorted(result.version for result in results) == list(range(8))
    ids = sorted(table.scan().collect()["id"])
    assert len(ids) == 1 if kind == "same month" else ids == list(range(8))


WRITE_FOR_EVER = """
import itertools, sys
import polars as pl
from lakehouse_assets.lake.table import Table

table = Table(sys.argv[1])
for step in itertools.count():
    for part in "abcdef":
        rows = pl.LazyFrame({"part": part, "id": range(20_000)}).with_columns(step=pl.lit(step, pl.Int64))
        table.overwrite(rows, predicate=f"part = '{part}'", partition_by=["part"])
        table.merge(rows.head(100), keys=["part", "id"], partition_by=["part"])
    print(step, flush=True)
"""


def test_kill_9_while_writing_leaves_whole_partitions(table: Table) -> None:
    for _ in range(4):
        command = [sys.executable, "-c", WRITE_FOR_EVER, table.uri]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()  # each partition has been written
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.wait()
        parts = table.scan().group_by("part").agg(pl.len(), pl.col("step").n_unique()).sort("part").collect()
        assert parts.rows() == [(part, 20_000, 1) for part in "abcdef"]


# ---------------------------------------------------------------------- lake


def test_lake_finds_its_tables(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert lake.tables() == []
    for key in ("silver/demand", "gold/demand_daily", "flat", "_runs/1/step/result"):
        lake.table(key).append(ROWS, partition_by=["month"])
    (tmp_path / "bronze" / "demand" / "_delta_log").mkdir(parents=True)  # a writer was killed before its first commit
    assert lake.tables() == ["flat", "gold/demand_daily", "silver/demand"]
    assert lake.table(["gold", "demand_daily"]).uri == str(tmp_path / "gold" / "demand_daily")
    assert Lake.from_settings(Settings(lake=str(tmp_path))).tables() == lake.tables()


def test_an_object_store_is_searched_by_its_own_listing(tmp_path: Path) -> None:
    for key in ("silver/demand", "flat", "_runs/1"):
        write_deltalake(str(tmp_path / key), ROWS, partition_by=["month"])
    assert sorted(Lake(tmp_path)._remote_keys()) == ["flat", "silver/demand"]
