import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.lake.io_manager import (
    AzureConfig,
    ClientConfig,
    DeltaIOManager,
    MissingTableError,
    storage_options_dict,
)
from lakehouse_assets.lake.table import Lake, Table, WriteRefusedError

KEY = dg.AssetKey(["silver", "demand"])
SINGLE_RUN = dg.BackfillPolicy.single_run()
HOURLY = dg.HourlyPartitionsDefinition("2024-01-01-00:00", end_offset=0)
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-01")
WEEKLY = dg.WeeklyPartitionsDefinition("2023-12-31", end_date="2024-03-03")
MONTHLY = dg.MonthlyPartitionsDefinition("2023-11-01", end_date="2024-07-01")
GERMAN = dg.DailyPartitionsDefinition("01.01.2024", end_date="01.03.2024", fmt="%d.%m.%Y")
BERLIN = dg.DailyPartitionsDefinition("2024-03-01", end_date="2024-05-01", timezone="Europe/Berlin")
STATIC = dg.StaticPartitionsDefinition(["a", "b", "c", "d", "it's"])


class World:
    """An instance, a lake in a folder, and what is needed to run assets on them."""

    def __init__(self, folder: Path) -> None:
        self.lake = Lake(folder / "lake")
        self.instance = dg.DagsterInstance.ephemeral()
        self.resources = {"io_manager": DeltaIOManager(root_uri=self.lake.root_uri)}

    def run(self, asset: Any, *partitions: str, upstream: Iterable[Any] = (), **options: Any) -> Any:
        """Materialise an asset: one partition, or the range of two in a single run."""
        if len(partitions) == 2:
            names = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
            options["tags"] = dict(zip(names, partitions, strict=True))
        elif partitions:
            options["partition_key"] = partitions[0]
        assets = [asset, *upstream]
        return dg.materialize(assets, selection=[asset], instance=self.instance, resources=self.resources, **options)

    @property
    def table(self) -> Table:
        return self.lake.table(KEY.path)

    def rows(self) -> list[tuple[Any, ...]]:
        return sorted(self.table.scan().collect().rows())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def returning(frame: Any, metadata: dict[str, Any] | None = None, **options: Any) -> dg.AssetsDefinition:
    @dg.asset(key=KEY, metadata=metadata or {}, **options)
    def table() -> Any:
        return frame

    return table


def hours(start: datetime, end: datetime) -> pl.Expr:
    return pl.datetime_range(start.astimezone(UTC), end.astimezone(UTC), "1h", closed="left", time_unit="us")


# Columns that hold a window's hours or days, by type; local is the clock of the partitions' time zone.
AS_COLUMN: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "utc": lambda local: local.dt.convert_time_zone("UTC"),
    "naive": lambda local: local.dt.replace_time_zone(None),
    "date": lambda local: local.dt.date(),
    "string": lambda local: local.dt.strftime("%Y-%m-%d"),
    "key": lambda local: local.dt.strftime("%d.%m.%Y"),
}


def stamped(definition: dg.TimeWindowPartitionsDefinition, kind: str) -> dg.AssetsDefinition:
    """Each hour of a partition, stamped with the run that wrote it."""

    @dg.asset(key=KEY, partitions_def=definition, metadata={"partition_expr": "at"}, backfill_policy=SINGLE_RUN)
    def table(context: dg.AssetExecutionContext) -> pl.LazyFrame:
        window = context.partition_time_window
        local = hours(window.start, window.end).dt.convert_time_zone(definition.timezone)
        return pl.select(
            hour=hours(window.start, window.end), at=AS_COLUMN[kind](local), run=pl.lit(context.run_id)
        ).lazy()

    return table


@pytest.mark.parametrize(
    ("definition", "kind"),
    [
        *[(definition, kind) for definition in (DAILY, WEEKLY, MONTHLY) for kind in ("utc", "naive", "date", "string")],
        *[(BERLIN, kind) for kind in ("utc", "naive", "date", "string")],
        (GERMAN, "key"),
        (HOURLY, "utc"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__[:6]}-{value.timezone}",
)
def test_windows_are_half_open_on_write_and_read(
    world: World, definition: dg.TimeWindowPartitionsDefinition, kind: str
) -> None:
    asset = stamped(definition, kind)
    keys = definition.get_partition_keys(current_time=datetime(2024, 4, 25, tzinfo=UTC))
    keys = keys[keys.index("2024-03-29") :][:5] if definition is BERLIN else keys[:5]  # with a change of the clock
    first, second, third, fourth, _ = keys
    windows = {key: definition.time_window_for_partition_key(key) for key in keys}
    model: dict[datetime, str] = {}
    for partitions in ((third,), (first, third), (second, fourth), (second,)):
        run_id = world.run(asset, *partitions).run_id
        for key in keys[keys.index(partitions[0]) : keys.index(partitions[-1]) + 1]:
            model |= dict.fromkeys(pl.select(hours(*windows[key])).to_series(), run_id)
    assert dict(world.table.scan().select("hour", "run").collect().rows()) == model
    assert world.table.row_count() == len(model)

    seen: list[datetime] = []

    @dg.asset(partitions_def=definition, ins={"rows": dg.AssetIn(KEY)}, backfill_policy=SINGLE_RUN)
    def reader(rows: pl.LazyFrame) -> None:
        seen.extend(rows.collect()["hour"])

    world.run(reader, second, third, upstream=[asset])
    assert sorted(seen) == pl.select(hours(windows[second].start, windows[third].end)).to_series().to_list()


def test_a_column_that_cannot_tell_partitions_apart_is_an_error(world: World) -> None:
    with pytest.raises(ValueError, match="cannot tell the partitions"):
        world.run(stamped(HOURLY, "date"), "2024-01-01-05:00")


# ---------------------------------------------------------------- dimensions


GRID = dg.MultiPartitionsDefinition({"day": DAILY, "part": STATIC})
PARTS = dg.MultiPartitionsDefinition({"part": STATIC, "size": dg.StaticPartitionsDefinition(["1", "2"])})
DAYS = [date(2024, 1, day) for day in range(1, 5)]


def test_dates_by_static_keys_in_ranges(world: World) -> None:
    @dg.asset(
        key=KEY,
        partitions_def=GRID,
        metadata={"partition_expr": {"day": "day", "part": "part"}},
        backfill_policy=SINGLE_RUN,
    )
    def table(context: dg.AssetExecutionContext) -> pl.DataFrame:
        keys = [key.keys_by_dimension for key in context.partition_keys if isinstance(key, dg.MultiPartitionKey)]
        days = [date.fromisoformat(key["day"]) for key in keys]
        return pl.DataFrame({"day": days, "part": [key["part"] for key in keys], "run": context.run_id})

    model = {}
    for ranges in ((("2024-01-01", "c"), ("2024-01-03", "it's")), (("2024-01-02", "d"),), (("2024-01-02", "a"),)):
        keys = [dg.MultiPartitionKey({"day": day, "part": part}) for day, part in ranges]
        run_id = world.run(table, *keys).run_id
        parts = STATIC.get_partition_keys()
        for day in DAYS[
            DAYS.index(date.fromisoformat(ranges[0][0])) : DAYS.index(date.fromisoformat(ranges[-1][0])) + 1
        ]:
            for part in parts[parts.index(ranges[0][1]) : parts.index(ranges[-1][1]) + 1]:
                model[day, part] = run_id
    assert {(day, part): run_id for day, part, run_id in world.rows()} == model
    assert world.table.delta().metadata().partition_columns == ["day", "part"]


def test_static_by_static_with_numbers(world: World) -> None:
    @dg.asset(key=KEY, partitions_def=PARTS, metadata={"partition_expr": {"part": "part", "size": "size"}})
    def table(context: dg.AssetExecutionContext) -> pl.DataFrame:
        assert isinstance(context.partition_key, dg.MultiPartitionKey)
        key = context.partition_key.keys_by_dimension
        return pl.DataFrame({"part": key["part"], "size": int(key["size"]), "value": [1, 2]})

    for part, size in (("a", "1"), ("a", "2"), ("b", "1"), ("a", "1")):
        world.run(table, dg.MultiPartitionKey({"part": part, "size": size}))
    assert world.rows() == [(part, size, value) for part, size in (("a", 1), ("a", 2), ("b", 1)) for value in (1, 2)]


# ------------------------------------------------------------------ mappings


def read_by(world: World, upstream: Any, mapping: Any, *partitions: str, definition: Any = DAILY) -> list[Any]:
    seen: list[Any] = []

    @dg.asset(
        partitions_def=definition,
        ins={"rows": dg.AssetIn(KEY, partition_mapping=mapping, metadata={"columns": ["at"]})},
        backfill_policy=SINGLE_RUN,
    )
    def reader(rows) -> None:  # type: ignore[no-untyped-def]
        assert isinstance(rows, pl.LazyFrame)  # what an input without annotation gets
        assert rows.collect_schema().names() == ["at"]
        seen.extend(rows.collect()["at"])

    world.run(reader, *partitions, upstream=[upstream])
    return sorted(set(seen))


def test_partition_mappings(world: World) -> None:
    asset = stamped(DAILY, "date")
    world.run(asset, "2024-01-01", "2024-01-10")
    day = [date(2024, 1, 1) + timedelta(index) for index in range(10)]
    week_back = dg.TimeWindowPartitionMapping(start_offset=-7, end_offset=-1)
    assert read_by(world, asset, week_back, "2024-01-08", "2024-01-09") == day[:8]
    assert read_by(world, asset, dg.AllPartitionMapping(), "2024-01-02") == day
    some = dg.SpecificPartitionsPartitionMapping(["2024-01-02", "2024-01-05", "2024-01-06"])
    assert read_by(world, asset, some, "2024-01-01") == [day[1], day[4], day[5]]
    assert read_by(world, asset, None, "2024-02-25") == []  # a partition without rows
    assert read_by(world, asset, None, definition=None) == day
    assert read_by(world, asset, dg.TimeWindowPartitionMapping(), "2024-01-01", definition=MONTHLY) == day


def test_a_set_of_keys_with_gaps(world: World) -> None:
    @dg.asset(key=KEY, partitions_def=STATIC, metadata={"partition_expr": "at"}, backfill_policy=SINGLE_RUN)
    def table(context: dg.AssetExecutionContext) -> pl.DataFrame:
        return pl.DataFrame({"at": context.partition_keys, "value": 1})

    world.run(table, "a", "it's")
    odd = dg.StaticPartitionsDefinition(["odd", "rest"])
    mapping = dg.StaticPartitionMapping({"a": "odd", "c": "odd", "it's": "odd"})
    assert read_by(world, table, mapping, "odd", definition=odd) == ["a", "c", "it's"]
    assert read_by(world, table, mapping, "rest", definition=odd) == []


def test_an_input_can_be_a_data_frame(world: World) -> None:
    seen = []

    @dg.asset(ins={"rows": dg.AssetIn(KEY)})
    def reader(rows: pl.DataFrame) -> None:
        seen.append(rows)

    upstream = returning(pl.DataFrame({"value": [1]}))
    world.run(upstream)
    world.run(reader, upstream=[upstream])
    assert seen[0].rows() == [(1,)]


def test_a_missing_table_says_what_to_do(world: World) -> None:
    @dg.asset(ins={"rows": dg.AssetIn(KEY)})
    def reader(rows: pl.LazyFrame) -> None: ...

    with pytest.raises(MissingTableError, match="silver/demand must be materialised before 'reader'"):
        world.run(reader, upstream=[returning(None)])


# ------------------------------------------------------------------- refused


@pytest.mark.parametrize("mode", ["overwrite", "append", "merge"])
@pytest.mark.parametrize("stray", [date(2024, 1, 3), None])
@pytest.mark.parametrize("lazy", [True, False])
def test_rows_outside_of_the_partition_are_refused(world: World, mode: str, stray: date | None, lazy: bool) -> None:
    metadata = {"partition_expr": "day", "mode": mode, "merge_keys": ["id"]}
    day = date(2024, 1, 2)
    world.run(returning(pl.DataFrame({"day": [day], "id": [1]}), metadata, partitions_def=DAILY), "2024-01-02")
    before = world.rows()
    frame = pl.DataFrame({"day": [day, stray, stray], "id": [2, 3, 4]}, schema_overrides={"day": pl.Date})
    asset = returning(frame.lazy() if lazy else frame, metadata, partitions_def=DAILY)
    with pytest.raises(WriteRefusedError) as caught:
        world.run(asset, "2024-01-02")
    message = str(caught.value)
    for part in ("2 of 3 rows", "silver/demand", """"day" >= '2024-01-02'""", f"day = {stray}"):
        assert part in message
    assert (world.rows(), world.table.version()) == (before, 0)


@pytest.mark.parametrize(
    ("frame", "metadata", "message"),
    [
        (pl.DataFrame({"day": [1]}), {}, "no metadata 'partition_expr'"),
        (pl.DataFrame({"day": [1]}), {"partition_expr": "month"}, r"\['month'\] are not among the columns \['day'\]"),
        (pl.DataFrame({"day": [1]}), {"partition_expr": "day"}, "cannot be compared with time windows"),
        (pl.DataFrame({"day": [date(2024, 1, 2)]}), {"partition_expr": "day", "mode": "upsert"}, "must be 'overwrite'"),
        (pl.DataFrame({"day": [date(2024, 1, 2)]}), {"partition_expr": "day", "mode": "merge"}, "'merge_keys'"),
        ([1, 2], {"partition_expr": "day"}, "is a list"),
    ],
)
def test_what_is_not_said_clearly_is_an_error(world: World, frame: Any, metadata: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        world.run(returning(frame, metadata, partitions_def=DAILY), "2024-01-02")
    assert not world.table.exists()


# --------------------------------------------------------------------- modes


def test_an_empty_frame_empties_its_partition_alone(world: World) -> None:
    frame = pl.DataFrame({"part": ["a"], "value": [1]})
    metadata = {"partition_expr": "part"}
    world.run(returning(frame.with_columns(part=pl.lit("b")), metadata, partitions_def=STATIC), "b")
    world.run(returning(frame, metadata, partitions_def=STATIC), "a")
    world.run(returning(frame.clear(), metadata, partitions_def=STATIC), "a")
    assert world.rows() == [("b", 1)]


def test_append_and_merge_within_partitions(world: World) -> None:
    def asset(mode: str, ids: list[int], value: int) -> dg.AssetsDefinition:
        metadata = {"partition_expr": "part", "mode": mode, "merge_keys": ["id"]}
        frame = pl.DataFrame({"part": "a", "id": ids, "value": value})
        return returning(frame, metadata, partitions_def=STATIC)

    world.run(asset("merge", [1, 2], 0), "a")
    world.run(asset("append", [3], 1), "a")
    world.run(asset("merge", [2, 4], 2), "a")
    assert world.rows() == [("a", 1, 0), ("a", 2, 2), ("a", 3, 1), ("a", 4, 2)]


def test_partitioning_of_the_files(world: World) -> None:
    def partitioning(metadata: dict[str, Any], frame: pl.DataFrame, key: str, definition: Any) -> list[str]:
        other = World(Path(world.lake.root_uri) / str(len(list(Path(world.lake.root_uri).glob("*")))))
        other.run(returning(frame, metadata, partitions_def=definition), *([key] if key else []))
        return other.table.delta().metadata().partition_columns

    at = datetime(2024, 1, 2, 5, tzinfo=UTC)
    frame = pl.DataFrame({"at": [at], "day": [at.date()], "part": ["a"]})
    assert partitioning({"partition_expr": "day"}, frame, "2024-01-02", DAILY) == ["day"]
    assert partitioning({"partition_expr": "at"}, frame, "2024-01-02", DAILY) == []
    both = {"partition_expr": "at", "partition_by": ["day", "part"]}
    assert partitioning(both, frame, "2024-01-02", DAILY) == ["day", "part"]
    assert partitioning({"partition_by": ["part"]}, frame, "", None) == ["part"]
    assert partitioning({"partition_expr": "part"}, frame.select("part"), "a", STATIC) == []


def test_a_table_keeps_the_partitioning_that_it_has(world: World) -> None:
    frame = pl.DataFrame({"part": ["a", "b"], "year": [2024, 2024], "value": [1, 2]})
    world.table.append(frame, partition_by=["year"])
    world.run(
        returning(frame[:1].with_columns(value=pl.lit(3, pl.Int64)), {"partition_expr": "part"}, partitions_def=STATIC),
        "a",
    )
    assert world.rows() == [("a", 2024, 3), ("b", 2024, 2)]


# ------------------------------------------------------------------ metadata


def test_metadata_data_version_and_run_id(world: World) -> None:
    frame = pl.DataFrame({"part": ["a", "b"], "value": [1, 2]})
    metadata = {"partition_expr": "part"}
    asset = returning(frame, metadata, partitions_def=STATIC, backfill_policy=SINGLE_RUN)
    world.run(asset, "a", "b")
    result = world.run(returning(frame[:1], metadata, partitions_def=STATIC), "a")
    newest, *older = world.instance.fetch_materializations(KEY, limit=5).records
    assert {record.partition_key for record in older} == {"a", "b"}
    event = newest.asset_materialization
    assert event is not None
    assert event.tags is not None
    assert (newest.partition_key, event.tags["dagster/data_version"]) == ("a", "1")
    for record in older:
        assert record.asset_materialization is not None
        assert record.asset_materialization.tags is not None
        assert record.asset_materialization.tags["dagster/data_version"] == "0"
        assert record.asset_materialization.metadata["dagster/row_count"].value == 2
        assert "dagster/partition_row_count" not in record.asset_materialization.metadata
    plain = {name: value.value for name, value in event.metadata.items()}
    schema = plain.pop("dagster/column_schema")
    assert [(column.name, column.type) for column in schema.columns] == [("part", "String"), ("value", "Int64")]
    assert plain == {
        "dagster/row_count": 1,
        "dagster/partition_row_count": 1,
        "dagster/table_name": "silver.demand",
        "dagster/uri": world.table.uri,
        "delta_version": 1,
        "size_bytes": world.table.size_bytes(),
        "files": 2,
    }
    assert world.table.history(1)[0]["dagster_run_id"] == result.run_id


def test_a_declared_column_schema_and_data_version_are_kept(world: World) -> None:
    declared = dg.TableSchema(columns=[dg.TableColumn("value", "Float64", description="MW")])

    @dg.asset(key=KEY, metadata={"dagster/column_schema": declared})
    def table() -> dg.MaterializeResult:
        frame = pl.DataFrame({"value": [1.0]})
        return dg.MaterializeResult(value=frame, data_version=dg.DataVersion("mine"), metadata={"files": 77})

    world.run(table)
    (record,) = world.instance.fetch_materializations(KEY, limit=5).records
    event = record.asset_materialization
    assert event is not None
    assert event.tags is not None
    assert "dagster/column_schema" not in event.metadata  # the asset's own is shown
    assert event.metadata["files"].value == 77
    assert event.tags["dagster/data_version"] == "mine"


# ----------------------------------------------------------- kinds of assets


def test_outputs_of_multi_assets(world: World) -> None:
    outs = {"one": dg.AssetOut(key=["m", "one"]), "two": dg.AssetOut(key=["m", "two"], is_required=False)}

    @dg.multi_asset(outs=outs, can_subset=True)
    def many(context: dg.AssetExecutionContext) -> Any:
        for name in sorted(context.op_execution_context.selected_output_names):
            yield dg.Output(pl.LazyFrame({"value": [name]}), output_name=name)

    world.run(many)
    assert world.lake.table("m/two").scan().collect().rows() == [("two",)]
    assert world.lake.tables() == ["m/one", "m/two"]


def test_graph_assets_hand_frames_from_op_to_op(world: World) -> None:
    @dg.op
    def first() -> pl.LazyFrame:
        return pl.LazyFrame({"value": [1, 2]})

    @dg.op
    def second(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.with_columns(pl.col("value") * 10)

    @dg.graph_asset(key=KEY)
    def table() -> Any:
        return second(first())

    for _ in range(2):
        world.run(table)
    assert world.rows() == [(10,), (20,)]
    assert world.lake.tables() == ["silver/demand"]


@pytest.mark.parametrize("value", [None, dg.MaterializeResult(metadata={"note": 1})])
def test_an_asset_without_a_frame_writes_nothing(world: World, value: Any) -> None:
    @dg.asset(key=KEY)
    def typed() -> None: ...

    for asset in (returning(value), typed):
        assert world.run(asset).success
    assert not world.table.exists()


# -------------------------------------------------------------- random walks


@settings(max_examples=12, deadline=None)
@given(
    writes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=5),
    kind=st.sampled_from(["utc", "naive", "date", "string"]),
)
def test_any_sequence_of_writes_is_as_in_a_dict(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int, int]], kind: str
) -> None:
    """Writes of single days and of ranges, some without rows, against a dict of days."""
    world = World(tmp_path_factory.mktemp("lake"))
    days = [date(2024, 1, 30) + timedelta(index) for index in range(9)]
    model: dict[date, list[int]] = {}
    for number, (start, length, rows) in enumerate(writes):
        span = days[start : start + length + 1]
        local = pl.Series(
            "at", [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in span for _ in range(rows)]
        )
        frame = pl.DataFrame(
            {"at": local, "run": number}, schema_overrides={"at": pl.Datetime("us", "UTC"), "run": pl.Int64}
        ).with_columns(AS_COLUMN[kind](pl.col("at")), day=pl.col("at").dt.date())
        asset = returning(
            frame.lazy() if number % 2 else frame,
            {"partition_expr": "at"},
            partitions_def=DAILY,
            backfill_policy=SINGLE_RUN,
        )
        world.run(asset, *dict.fromkeys([str(span[0]), str(span[-1])]))
        model |= {day: [number] * rows for day in span}
    stored = world.table.scan().select("day", "run").collect()
    assert sorted(stored.rows()) == sorted((day, run) for day, runs in model.items() for run in runs)


WRITE_FOR_EVER = """
import sys
import dagster as dg, polars as pl
from lakehouse_assets.lake.io_manager import DeltaIOManager

parts = dg.StaticPartitionsDefinition(list("abcdef"))
step = 0

@dg.asset(partitions_def=parts, metadata={"partition_expr": "part"})
def table(context) -> pl.LazyFrame:
    return pl.LazyFrame({"part": context.partition_key, "step": [step] * 1000})

with dg.DagsterInstance.ephemeral() as instance:
    while True:
        for part in parts.get_partition_keys():
            resources = {"io_manager": DeltaIOManager(root_uri=sys.argv[1])}
            dg.materialize([table], partition_key=part, resources=resources, instance=instance)
        step += 1
        print(step, flush=True)
"""


def test_kill_9_while_writing_loses_no_partition(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # each partition has been written
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.wait()
    rows = Table(tmp_path / "table").scan().group_by("part").agg(pl.len(), pl.col("step").n_unique()).sort("part")
    assert rows.collect().rows() == [(part, 1000, 1) for part in "abcdef"]


# ------------------------------------------------------------- configuration


def test_storage_options_are_text_as_object_stores_read_it() -> None:
    azure = AzureConfig(account_name="lake", use_azure_cli=False)
    assert storage_options_dict(azure, ClientConfig(allow_http=True, timeout="30s")) == {
        "account_name": "lake",
        "use_azure_cli": "false",
        "allow_http": "true",
        "timeout": "30s",
    }


def test_there_is_no_field_that_is_not_read() -> None:
    assert set(DeltaIOManager.model_fields) == {"root_uri", "storage_options", "client_options"}


IMPORTS = """
import sys
from lakehouse_assets.lake.io_manager import DeltaIOManager
from lakehouse_assets.lake.resource import LakeResource

assert not {"pyarrow", "pandas", "mlflow", "sklearn"} & set(sys.modules)
import dagster_deltalake
import dagster_deltalake.config as config
from dagster_deltalake import DeltaLakeIOManager, DeltaLakePyarrowIOManager, LocalConfig
from dagster_deltalake_polars import DeltaLakePolarsIOManager

assert issubclass(DeltaIOManager, DeltaLakeIOManager) and issubclass(DeltaLakePolarsIOManager, DeltaLakeIOManager)
assert dagster_deltalake.config is config and config.LocalConfig is LocalConfig
assert dagster_deltalake.__version__
"""


def test_importing_the_io_manager_is_cheap_and_leaves_dagster_deltalake_usable() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
