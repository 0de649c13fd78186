"""What dagster-deltalake's own IO manager loses, as tests that ours passes.

Each runs against the stock manager too, as a strict expected failure: when upstream mends one, this file says so.
Both managers keep the table of the asset `lake/table` in `<root>/lake/table`.
"""

import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster_deltalake import LocalConfig
from dagster_deltalake_polars import DeltaLakePolarsIOManager
from deltalake import write_deltalake

from lakehouse_assets.lake.io_manager import DeltaIOManager

KEY = dg.AssetKey(["lake", "table"])
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")
WEEKLY = dg.WeeklyPartitionsDefinition("2023-12-31", end_date="2024-02-04")
STATIC = dg.StaticPartitionsDefinition(["a", "b", "c", "d"])
SINGLE_RUN = dg.BackfillPolicy.single_run()
Manager = dg.ConfigurableIOManagerFactory
AS_COLUMN: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "string": lambda at: at.dt.strftime("%Y-%m-%d"),
    "date": lambda at: at.dt.date(),
    "naive": lambda at: at,
    "utc": lambda at: at.dt.replace_time_zone("UTC"),
}


def ours(root: Path) -> Manager:
    return DeltaIOManager(root_uri=str(root))


def stock(root: Path) -> Manager:
    return DeltaLakePolarsIOManager(root_uri=str(root), storage_options=LocalConfig())


def loses(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "manager", [ours, pytest.param(stock, marks=pytest.mark.xfail(strict=True, reason=reason))]
    )


both = pytest.mark.parametrize("manager", [ours, stock])


def days(start: datetime, end: datetime, kind: str) -> pl.DataFrame:
    """One row a day, with the day as a column of that kind."""
    at = pl.datetime_range(start.replace(tzinfo=None), end.replace(tzinfo=None), "1d", closed="left", time_unit="us")
    return (
        pl.select(at.alias("day"))
        .with_columns(pl.col("day").dt.day().cast(pl.Int64).alias("value"))
        .with_columns(AS_COLUMN[kind](pl.col("day")))
    )


def dated(kind: str, partitions_def: dg.PartitionsDefinition = DAILY) -> dg.AssetsDefinition:
    @dg.asset(key=KEY, partitions_def=partitions_def, metadata={"partition_expr": "day"}, backfill_policy=SINGLE_RUN)
    def table(context: dg.AssetExecutionContext) -> pl.DataFrame:
        window = context.partition_time_window
        return days(window.start, window.end, kind)

    return table


@dg.asset(key=KEY, partitions_def=STATIC, metadata={"partition_expr": "part"}, backfill_policy=SINGLE_RUN)
def parts(context: dg.AssetExecutionContext) -> pl.DataFrame:
    return pl.DataFrame({"part": context.partition_keys, "value": [1] * len(context.partition_keys)})


def run(asset: dg.AssetsDefinition, manager: Manager, *partitions: str) -> dg.ExecuteInProcessResult:
    """Materialise one partition, or the range of two in a single run."""
    resources = {"io_manager": manager}
    if len(partitions) == 2:
        names = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
        return dg.materialize([asset], resources=resources, tags=dict(zip(names, partitions, strict=True)))
    return dg.materialize([asset], resources=resources, partition_key=partitions[0] if partitions else None)


def stored(root: Path) -> pl.DataFrame:
    return pl.read_delta(str(root / "lake" / "table"))


OTHER_PARTITIONS_GO = "an error while writing is read as `no table yet`, and the table is overwritten whole"


@pytest.mark.parametrize("kind", ["string", "naive"])
@loses(OTHER_PARTITIONS_GO)
def test_daily_partitions_stay(tmp_path: Path, manager: Callable[[Path], Manager], kind: str) -> None:
    for day in ("2024-01-01", "2024-01-02", "2024-01-03"):
        run(dated(kind), manager(tmp_path), day)
    assert sorted(stored(tmp_path)["value"]) == [1, 2, 3]


@loses("the predicate of a day is `= its first moment`")
def test_hours_of_daily_partitions_stay(tmp_path: Path, manager: Callable[[Path], Manager]) -> None:
    @dg.asset(key=KEY, partitions_def=DAILY, metadata={"partition_expr": "ts"})
    def table(context: dg.AssetExecutionContext) -> pl.DataFrame:
        window = context.partition_time_window
        hours = pl.datetime_range(window.start, window.end, "1h", closed="left", time_unit="us", time_zone="UTC")
        return pl.select(ts=hours, value=1)

    for day in ("2024-01-01", "2024-01-02", "2024-01-02"):
        run(table, manager(tmp_path), day)
    assert stored(tmp_path).height == 48


@loses("several keys in one run end in an error that is read as `no table yet`")
def test_single_run_leaves_other_static_partitions(tmp_path: Path, manager: Callable[[Path], Manager]) -> None:
    run(parts, manager(tmp_path), "c")
    run(parts, manager(tmp_path), "a", "b")
    assert sorted(stored(tmp_path)["part"]) == ["a", "b", "c"]


@pytest.mark.parametrize("kind", list(AS_COLUMN))
@loses("the predicate of a range is `= start`")
def test_single_run_over_days(tmp_path: Path, manager: Callable[[Path], Manager], kind: str) -> None:
    run(dated(kind), manager(tmp_path), "2024-01-09")
    run(dated(kind), manager(tmp_path), "2024-01-02", "2024-01-04")
    run(dated(kind), manager(tmp_path), "2024-01-03", "2024-01-05")
    assert sorted(stored(tmp_path)["value"]) == [2, 3, 4, 5, 9]


@loses("the predicate of a week is `= its first day`")
def test_weeks_over_a_column_of_days(tmp_path: Path, manager: Callable[[Path], Manager]) -> None:
    for week in ("2023-12-31", "2024-01-07", "2024-01-07"):
        run(dated("date", WEEKLY), manager(tmp_path), week)
    assert stored(tmp_path).height == 14


@pytest.mark.parametrize("kind", list(AS_COLUMN))
@loses("a range is read with `= start`: the first day alone, or an error")
def test_single_run_reads_all_of_its_days(tmp_path: Path, manager: Callable[[Path], Manager], kind: str) -> None:
    rows = days(datetime(2024, 1, 1), datetime(2024, 1, 10), kind)
    write_deltalake(str(tmp_path / "lake" / "table"), rows, mode="error", partition_by=["day"])
    seen: list[int] = []

    @dg.asset(partitions_def=DAILY, ins={"rows": dg.AssetIn(KEY)}, backfill_policy=SINGLE_RUN)
    def reader(rows: pl.DataFrame) -> None:
        seen.extend(rows["value"])

    tags = {
        "dagster/asset_partition_range_start": "2024-01-02",
        "dagster/asset_partition_range_end": "2024-01-05",
    }
    dg.materialize([dated(kind), reader], selection=[reader], resources={"io_manager": manager(tmp_path)}, tags=tags)
    assert sorted(seen) == [2, 3, 4, 5]


WRITE_LAZILY = """
import sys
from pathlib import Path
import dagster as dg, polars as pl
from lakehouse_assets_tests.lake import test_stock_losses as tests

def peak_megabytes():  # of this program; getrusage would begin with the peak of the process that started it
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024

@dg.asset(key=tests.KEY)
def table() -> pl.LazyFrame:
    rows = pl.select(i=pl.int_range(16_000_000)).lazy()  # 128 MB; what is made of it 1,024 MB
    return rows.select((pl.col("i") * k % 997).cast(pl.Float64).alias(f"column_{k}") for k in range(8))

before = peak_megabytes()
dg.materialize([table], resources={"io_manager": getattr(tests, sys.argv[1])(sys.argv[2])})
print(peak_megabytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
@loses("a LazyFrame is collected before it is written")
def test_lazy_frames_are_streamed(tmp_path: Path, manager: Callable[[Path], Manager]) -> None:
    command = [sys.executable, "-c", WRITE_LAZILY, manager.__name__, str(tmp_path)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert pl.scan_delta(str(tmp_path / "lake" / "table")).select(pl.len()).collect().item() == 16_000_000
    assert grown < 0.7 * 1024, f"peak memory grew by {grown} MB"


@loses("there is no merge: the table is overwritten")
def test_merge_keeps_other_rows(tmp_path: Path, manager: Callable[[Path], Manager]) -> None:
    def asset(values: dict[int, str]) -> dg.AssetsDefinition:
        @dg.asset(key=KEY, metadata={"mode": "merge", "merge_keys": ["id"]})
        def table() -> pl.DataFrame:
            return pl.DataFrame({"id": list(values), "value": list(values.values())})

        return table

    run(asset({1: "a", 2: "a"}), manager(tmp_path))
    run(asset({2: "b", 3: "b"}), manager(tmp_path))
    assert dict(stored(tmp_path).rows()) == {1: "a", 2: "b", 3: "b"}


@loses("schema_mode is not read")
def test_schema_merge_adds_columns(tmp_path: Path, manager: Callable[[Path], Manager]) -> None:
    def asset(frame: pl.DataFrame) -> dg.AssetsDefinition:
        @dg.asset(key=KEY, metadata={"mode": "append", "schema_mode": "merge"})
        def table() -> pl.DataFrame:
            return frame

        return table

    run(asset(pl.DataFrame({"a": [1]})), manager(tmp_path))
    run(asset(pl.DataFrame({"a": [2], "b": ["x"]})), manager(tmp_path))
    assert sorted(stored(tmp_path).rows()) == [(1, None), (2, "x")]


@loses("its row count fails, is logged and dropped")
def test_row_count_is_in_the_metadata(tmp_path: Path, manager: Callable[[Path], Manager]) -> None:
    result = run(parts, manager(tmp_path), "a")
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["dagster/row_count"].value == 1


@both
def test_one_date_or_one_key_at_a_time(tmp_path: Path, manager: Callable[[Path], Manager]) -> None:
    for day in ("2024-01-01", "2024-01-02", "2024-01-01"):
        run(dated("date"), manager(tmp_path / "dates"), day)
    assert sorted(stored(tmp_path / "dates")["value"]) == [1, 2]
    for key in ("a", "b", "a"):
        run(parts, manager(tmp_path / "parts"), key)
    assert sorted(stored(tmp_path / "parts")["part"]) == ["a", "b"]


@both
def test_dates_by_keys(tmp_path: Path, manager: Callable[[Path], Manager]) -> None:
    grid = dg.MultiPartitionsDefinition({"date": DAILY, "part": STATIC})

    @dg.asset(key=KEY, partitions_def=grid, metadata={"partition_expr": {"date": "day", "part": "part"}})
    def table(context: dg.AssetExecutionContext) -> pl.DataFrame:
        assert isinstance(context.partition_key, dg.MultiPartitionKey)
        keys = context.partition_key.keys_by_dimension
        return pl.DataFrame({"day": [date.fromisoformat(keys["date"])], "part": [keys["part"]], "value": [1]})

    for day, part in (("2024-01-01", "a"), ("2024-01-01", "b"), ("2024-01-02", "a"), ("2024-01-01", "a")):
        run(table, manager(tmp_path), dg.MultiPartitionKey({"date": day, "part": part}))
    first, second = date(2024, 1, 1), date(2024, 1, 2)
    assert sorted(stored(tmp_path).select("day", "part").rows()) == [(first, "a"), (first, "b"), (second, "a")]
