"""Delta tables: read, append, overwrite by predicate, merge by keys, go back; and the lake that holds them.

Everything that touches a Delta table in this project goes through here, so what must never happen to one is said once:
an error is never read as "there is no table", a write never touches rows outside of its predicate, and a changed schema
is an error unless the caller asks for it.
"""

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import polars as pl
from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from lakehouse_assets.lake.predicate import literal, parse_predicate, quote
from lakehouse_assets.settings import Settings, get_settings

Frame = pl.DataFrame | pl.LazyFrame
SchemaMode = Literal["merge", "overwrite"]
_T = TypeVar("_T")

_ATTEMPTS = 6
_FIRST_WAIT_SECONDS = 0.05
_MAX_PRUNE_VALUES = 500
# Delta's default is 30 days, but a model's pins name the versions that it was trained on for as long as it is in use.
_CONFIGURATION = {"delta.logRetentionDuration": "interval 3650 days"}
# Small row groups: who reads some series of a table that is sorted by them skips those of the others.
_WRITER = WriterProperties(compression="SNAPPY", max_row_group_size=64 * 1024)


class WriteRefusedError(ValueError):
    """A write would lose or misplace rows; nothing was committed."""


class SchemaChangedError(WriteRefusedError):
    """A frame's columns differ from the table's and the caller did not ask for a change."""


@dataclass(frozen=True)
class WriteResult:
    """What a write did: the Delta version that it made (or found, if there was nothing to do) and the rows written."""

    version: int
    rows: int


class Table:
    """One Delta table, which need not exist yet.

    Args:
        uri: local path or object store URI.
        storage_options: options of deltalake's object store (credentials, endpoint).
    """

    def __init__(self, uri: str | os.PathLike[str], storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = os.fspath(uri).removeprefix("file://").rstrip("/")
        self.storage_options = dict(storage_options or {})

    def __repr__(self) -> str:
        return f"Table({self.uri!r})"

    # ------------------------------------------------------------------ read

    def exists(self) -> bool:
        """Whether there is a table. Anything but "not found" (no access, a broken log) is raised."""
        return self._open_if_exists() is not None

    def delta(self, version: int | None = None) -> DeltaTable:
        """The deltalake table at a version (by default the latest).

        Raises:
            TableNotFoundError: there is no table.
        """
        return DeltaTable(self.uri, version=version, storage_options=self.storage_options or None)

    def version(self) -> int:
        """The latest Delta version."""
        return self.delta().version()

    def schema(self, version: int | None = None) -> pl.Schema:
        """Columns and polars types."""
        return pl.Schema(self.delta(version).schema())

    def scan(self, version: int | None = None) -> pl.LazyFrame:
        """The rows, lazily, pinned to the version that is the latest now or to the one given.

        Filters on partition columns and on columns with file statistics prune files.
        """
        delta = self.delta(version)
        # With the version given, a plan that is pickled to another process reads the same one there.
        return pl.scan_delta(delta, version=delta.version(), storage_options=self.storage_options or None)

    def row_count(self, version: int | None = None) -> int:
        """Number of rows, from the log alone where every file has its count."""
        counts = self.files(version)["num_records"]
        if counts.null_count():
            return int(self.scan(version).select(pl.len()).collect().item())
        return int(counts.sum())

    def size_bytes(self, version: int | None = None) -> int:
        """Bytes of the data files of a version."""
        return int(self.files(version)["size_bytes"].sum())

    def files(self, version: int | None = None) -> pl.DataFrame:
        """The data files of a version, from the log: `path`, `num_records` (null if not counted), `size_bytes`."""
        actions = pl.DataFrame(self.delta(version).get_add_actions(flatten=True))
        return actions.select("path", "num_records", "size_bytes")

    def updated_at(self) -> datetime:
        """When the latest version was committed (UTC)."""
        return self.history(1)[0]["timestamp"]

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Commits, newest first: `version`, `timestamp` (UTC), `operation`, its metrics and its metadata."""
        commits = self.delta().history(limit)
        return [{**commit, "timestamp": datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)} for commit in commits]

    # ----------------------------------------------------------------- write

    def append(
        self,
        frame: Frame,
        *,
        predicate: str | None = None,
        partition_by: Sequence[str] = (),
        run_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        schema_mode: Literal["merge"] | None = None,
    ) -> WriteResult:
        """Add rows; make the table if there is none. A LazyFrame is streamed.

        Args:
            frame: the rows.
            predicate: what all rows of the frame must satisfy (see `overwrite`).
            partition_by: Delta partition columns, for a new table.
            run_id: Dagster run, kept in the commit as `dagster_run_id`.
            metadata: further entries of the commit.
            schema_mode: "merge" adds new columns, and fills missing ones with null; by default both are errors.

        Raises:
            WriteRefusedError: rows of the frame do not satisfy the predicate; nothing is committed.
            SchemaChangedError: the frame's columns differ from the table's.
        """

        def attempt(delta: DeltaTable | None) -> WriteResult:
            return self._write(delta, frame, "append", predicate, partition_by, run_id, metadata, schema_mode)

        return self._retrying(attempt)

    def overwrite(
        self,
        frame: Frame,
        *,
        predicate: str | None = None,
        partition_by: Sequence[str] = (),
        run_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        schema_mode: SchemaMode | None = None,
        expected_version: int | None = None,
    ) -> WriteResult:
        """Replace the rows that satisfy the predicate (all rows if there is none) by those of the frame, in one commit.

        Args:
            frame: the rows; a LazyFrame is streamed. No rows: what satisfies the predicate is deleted.
            predicate: SQL over columns and literals, e.g. `month >= '2024-01-01' AND month < '2024-02-01'`; dates and
                timestamps (UTC) as ISO text.
            partition_by: Delta partition columns, for a new table.
            run_id: Dagster run, kept in the commit as `dagster_run_id`.
            metadata: further entries of the commit.
            schema_mode: "merge" adds columns, "overwrite" (without predicate) replaces schema and partitioning.
            expected_version: the version that the frame was made from (-1: there was no table); default: any will do.

        Raises:
            WriteRefusedError: rows of the frame do not satisfy the predicate; nothing is committed.
            SchemaChangedError: the frame's columns differ from the table's.
            DeltaError: another version than the one expected is the latest; nothing is committed.
        """
        if predicate is not None and schema_mode == "overwrite":
            raise ValueError(f"{self.uri}: schema_mode='overwrite' replaces the whole table; it takes no predicate.")

        def attempt(delta: DeltaTable | None) -> WriteResult:
            once = expected_version is not None
            return self._write(
                delta, frame, "overwrite", predicate, partition_by, run_id, metadata, schema_mode, once=once
            )

        if expected_version is None:
            return self._retrying(attempt)
        return attempt(None if expected_version < 0 else self.delta(expected_version))

    def merge(
        self,
        frame: Frame,
        *,
        keys: Sequence[str],
        predicate: str | None = None,
        partition_by: Sequence[str] = (),
        run_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        schema_mode: Literal["merge"] | None = None,
    ) -> WriteResult:
        """Upsert: rows whose keys are in the table are replaced, the others inserted; a missing table is made.

        The frame is collected, because its keys must be checked before anything is written.

        Args:
            frame: the rows, unique by keys.
            keys: columns that identify a row; not null.
            predicate: what all rows of the frame must satisfy (see `overwrite`).
            partition_by: Delta partition columns. Each must be a function of the keys (a month of an issue time): only
                the partitions that occur in the frame are searched for matches.
            run_id: Dagster run, kept in the commit as `dagster_run_id`.
            metadata: further entries of the commit.
            schema_mode: "merge" adds new columns, and fills missing ones with null.

        Raises:
            WriteRefusedError: keys are missing, null or not unique in the frame, or rows do not satisfy the predicate.
            SchemaChangedError: the frame's columns differ from the table's.
        """
        rows = frame.collect(engine="streaming") if isinstance(frame, pl.LazyFrame) else frame
        self._check_keys(rows, keys)

        def attempt(delta: DeltaTable | None) -> WriteResult:
            if delta is None:
                return self._write(None, rows, "append", predicate, partition_by, run_id, metadata, schema_mode)
            self._check_partitioning(delta, partition_by)
            fitted = self._fit(rows, pl.Schema(delta.schema()), schema_mode)
            assert isinstance(fitted, pl.DataFrame)
            _Guard.of(self.uri, predicate, fitted).watch(fitted)
            if fitted.is_empty():
                return WriteResult(delta.version(), 0)
            clauses = [f"target.{quote(key)} = source.{quote(key)}" for key in keys]
            prunable = [c for c in delta.metadata().partition_columns if c in partition_by or c in keys]
            clauses += [_prune_clause(fitted[column]) for column in prunable]
            merger = delta.merge(
                fitted,
                predicate=" AND ".join(clauses),
                source_alias="source",
                target_alias="target",
                merge_schema=schema_mode == "merge",
                streamed_exec=False,
                commit_properties=_commit_properties(run_id, metadata),
            )
            merger.when_matched_update_all().when_not_matched_insert_all().execute()
            return WriteResult(delta.version(), fitted.height)

        return self._retrying(attempt)

    def restore(self, version: int, *, run_id: str | None = None) -> None:
        """Make the rows of an earlier version the latest again, as a new commit; nothing is forgotten."""
        self.delta().restore(version, commit_properties=_commit_properties(run_id, None))

    # --------------------------------------------------------------- details

    def _open_if_exists(self) -> DeltaTable | None:
        try:
            return self.delta()
        except TableNotFoundError:
            return None

    def _retrying(self, attempt: Callable[[DeltaTable | None], _T]) -> _T:
        # deltalake settles conflicts that it can (appends, other partitions); for the rest the write is done anew on
        # what the other writer left.
        wait = _FIRST_WAIT_SECONDS
        for _ in range(_ATTEMPTS - 1):
            try:
                return attempt(self._open_if_exists())
            except CommitFailedError:
                pass
            except DeltaError as error:
                if "already exists" not in str(error):  # lost the race to create the table
                    raise
            time.sleep(wait * (0.5 + random.random()))
            wait *= 2
        return attempt(self._open_if_exists())

    def _write(
        self,
        delta: DeltaTable | None,
        frame: Frame,
        mode: Literal["append", "overwrite"],
        predicate: str | None,
        partition_by: Sequence[str],
        run_id: str | None,
        metadata: Mapping[str, str] | None,
        schema_mode: SchemaMode | None,
        *,
        once: bool = False,
    ) -> WriteResult:
        replaces = schema_mode == "overwrite"
        if delta is not None and not replaces:
            self._check_partitioning(delta, partition_by)
        fitted = self._fit(frame, None if delta is None or replaces else pl.Schema(delta.schema()), schema_mode)
        guard = _Guard.of(self.uri, predicate, fitted)
        options: dict[str, Any] = {
            "commit_properties": _commit_properties(run_id, metadata, once=once or delta is None),
            "writer_properties": _WRITER,
        }
        if delta is None:
            target: str | DeltaTable = self.uri
            options |= {
                "mode": "error",
                "partition_by": list(partition_by) or None,
                "storage_options": self.storage_options or None,
                "configuration": _CONFIGURATION,
            }
        else:
            target = delta
            options |= {"mode": mode, "schema_mode": schema_mode}
            if replaces and partition_by:
                options["partition_by"] = list(partition_by)
            if guard.delta_sql is not None and mode == "overwrite":
                options["predicate"] = guard.delta_sql
        try:
            rows = guard.watch(fitted)
            with _one_stream() if isinstance(fitted, pl.LazyFrame) else nullcontext():
                write_deltalake(target, rows, **options)
        except Exception:
            if guard.refusal is not None:
                raise guard.refusal from None
            raise
        return WriteResult(0 if delta is None else delta.version(), guard.rows)

    def _check_partitioning(self, delta: DeltaTable, partition_by: Sequence[str]) -> None:
        existing = delta.metadata().partition_columns
        if partition_by and list(partition_by) != existing:
            raise WriteRefusedError(
                f"{self.uri} is partitioned by {existing or 'nothing'}, not by {list(partition_by)}. To change that,"
                " overwrite the whole table with schema_mode='overwrite'."
            )

    def _check_keys(self, rows: pl.DataFrame, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError(f"{self.uri}: a merge needs at least one key.")
        if missing := [key for key in keys if key not in rows.columns]:
            raise WriteRefusedError(f"{self.uri}: merge keys {missing} are not among the columns {rows.columns}.")
        nulls = {key: count for key in keys if (count := rows[key].null_count())}
        if nulls:
            raise WriteRefusedError(
                f"{self.uri}: merge keys are null ({nulls} rows); a null matches nothing,"
                " so that the row would be inserted each time."
            )
        if rows.select(keys).n_unique() < rows.height:
            repeated = rows.group_by(keys).len().filter(pl.col("len") > 1).sort(keys)
            example = repeated.row(0, named=True)
            raise WriteRefusedError(
                f"{self.uri}: {repeated.height} merge keys occur more than once, so that it is open which row wins;"
                f" for example {example.pop('len')} times {example}."
            )

    def _fit(self, frame: Frame, existing: pl.Schema | None, schema_mode: SchemaMode | None) -> Frame:
        """The frame with Delta's types and the table's column order; raises where its columns are not the table's."""
        given = frame.collect_schema()
        schema = {name: _delta_type(dtype) for name, dtype in given.items()}
        unsupported = {name: dtype for name, dtype in given.items() if _unsupported(schema[name])}
        if existing is not None:
            new = [name for name in schema if name not in existing]
            missing = [name for name in existing if name not in schema]
            changed = {
                name: f"{existing[name]} in the table, {given[name]} in the frame"
                for name in existing
                if name in schema and schema[name] not in (existing[name], pl.Null)
            }
            if changed or ((new or missing) and schema_mode is None):
                differences = [
                    f"{what} {columns}"
                    for what, columns in (("new columns", new), ("missing columns", missing), ("other types", changed))
                    if columns
                ]
                hint = " schema_mode='merge' adds columns and fills missing ones." if not changed else ""
                raise SchemaChangedError(f"{self.uri}: the schema has changed: {'; '.join(differences)}.{hint}")
            schema |= {name: existing[name] for name in existing}
            unsupported = {name: dtype for name, dtype in unsupported.items() if _unsupported(schema[name])}
            frame = frame.with_columns(pl.lit(None, dtype=existing[name]).alias(name) for name in missing)
            frame = frame.select(*existing, *new)
        if unsupported:
            raise WriteRefusedError(f"{self.uri}: Delta has no type for {unsupported}; cast these columns.")
        casts = [pl.col(name).cast(dtype) for name, dtype in schema.items() if given.get(name) not in (dtype, None)]
        return frame.with_columns(casts) if casts else frame


class Lake:
    """The tables under one root; the key of a table is its path: `silver/demand` lies in `<root>/silver/demand`."""

    def __init__(self, root_uri: str | os.PathLike[str], storage_options: Mapping[str, str] | None = None) -> None:
        self.root_uri = os.fspath(root_uri).removeprefix("file://").rstrip("/")
        self.storage_options = dict(storage_options or {})

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> "Lake":
        """The lake of the settings (by default those of this process)."""
        return cls((settings or get_settings()).lake_uri)

    def table(self, key: str | Sequence[str]) -> Table:
        """The table of a key, `"silver/demand"` or `["silver", "demand"]`; it need not exist."""
        path = key if isinstance(key, str) else "/".join(key)
        return Table(f"{self.root_uri}/{path}", self.storage_options)

    def tables(self) -> list[str]:
        """Keys of the tables that exist, sorted; folders whose names begin with `_` or `.` are passed over.

        An object store is searched folder by folder, by deltalake's own listing.
        """
        if "://" in self.root_uri:
            return sorted(self._remote_keys())
        found = []
        for folder, subfolders, _ in os.walk(self.root_uri):
            if "_delta_log" in subfolders:
                if Table(folder).exists():
                    found.append(os.path.relpath(folder, self.root_uri).replace(os.sep, "/"))
                subfolders.clear()  # nothing but data below
            subfolders[:] = [name for name in subfolders if not _hidden(name)]
        return sorted(found)

    def _remote_keys(self) -> Iterable[str]:
        import pyarrow.fs as pafs
        from deltalake.fs import DeltaStorageHandler

        store = pafs.PyFileSystem(DeltaStorageHandler(self.root_uri, self.storage_options))
        pending = [""]
        while pending:
            folder = pending.pop()
            entries = store.get_file_info(pafs.FileSelector(folder, recursive=False, allow_not_found=True))
            folders = {entry.base_name: entry.path for entry in entries if entry.type == pafs.FileType.Directory}
            if "_delta_log" in folders:
                yield folder
            else:
                pending += [path for name, path in folders.items() if not _hidden(name)]


def _hidden(folder: str) -> bool:
    return folder.startswith(("_", "."))


@dataclass
class _Guard:
    """Counts the rows on their way to Delta and refuses those outside of the predicate."""

    uri: str
    predicate: str | None = None
    delta_sql: str | None = None
    inside: pl.Expr | None = None
    refusal: WriteRefusedError | None = None
    _heights: list[int] = field(default_factory=list)  # a list, since appends are atomic and batches come from threads

    @classmethod
    def of(cls, uri: str, predicate: str | None, frame: Frame) -> "_Guard":
        if predicate is None:
            return cls(uri)
        return cls(uri, predicate, *parse_predicate(predicate, frame.collect_schema()))

    @property
    def rows(self) -> int:
        return sum(self._heights)

    def watch(self, frame: Frame) -> Any:
        """The frame as something that deltalake can read batch by batch."""
        if isinstance(frame, pl.DataFrame):
            if self._outside(frame).height:
                raise self._refuse(frame.lazy())
            self._heights.append(frame.height)
            return frame

        def check(batch: pl.DataFrame) -> pl.DataFrame:
            if self._outside(batch).height:
                # Count over the whole frame: what the error says must not depend on where a batch happens to end.
                self.refusal = self.refusal or self._refuse(frame)
                raise self.refusal
            self._heights.append(batch.height)
            return batch

        watched = frame.map_batches(check, schema=frame.collect_schema(), streamable=True)
        # Not lazy: begun here, so that the threads of polars are not those of one core, see `_one_stream`.
        return watched.collect_batches(engine="streaming")

    def _outside(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.head(0) if self.inside is None else frame.filter(_is_outside(self.inside))

    def _refuse(self, frame: pl.LazyFrame) -> WriteRefusedError:
        assert self.inside is not None
        outside = _is_outside(self.inside)
        total, count = frame.select(pl.len(), outside.sum().alias("outside")).collect(engine="streaming").row(0)
        columns = self.inside.meta.root_names()
        example = frame.filter(outside).select(*dict.fromkeys(columns)).head(1).collect().row(0, named=True)
        values = ", ".join(f"{name} = {value}" for name, value in example.items())
        return WriteRefusedError(
            f"{self.uri}: {count} of {total} rows lie outside of what is to be written ({self.predicate}), for"
            f" example one with {values}. Nothing was written."
        )


@contextmanager
def _one_stream() -> Iterator[None]:
    """While this lasts, what this thread writes goes through one stream, and memory is bounded by a few batches.

    deltalake (1.6) deals partitions out to as many streams as its thread may use cores. Where rows come month after
    month one stream is fed and the others starve; but the queues stop taking rows only when none of them is empty, so
    that a month that is written slower than it is made lies in memory whole. With one core there is one stream.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)  # of this thread alone
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _is_outside(inside: pl.Expr) -> pl.Expr:
    return ~inside.fill_null(False)


def _commit_properties(
    run_id: str | None, metadata: Mapping[str, str] | None, *, once: bool = False
) -> CommitProperties:
    custom = dict(metadata or {}) | ({"dagster_run_id": run_id} if run_id else {})
    # Two writers that create a table at once would both succeed if the slower one were put on top of the other.
    return CommitProperties(custom_metadata=custom, max_commit_retries=0 if once else None)


def _prune_clause(values: pl.Series) -> str:
    column = f"target.{quote(values.name)}"
    distinct = values.drop_nulls().unique().sort()
    if distinct.len() > _MAX_PRUNE_VALUES:
        clause = f"{column} >= {literal(distinct[0])} AND {column} <= {literal(distinct[-1])}"
    elif distinct.len():
        clause = f"{column} IN ({', '.join(literal(value) for value in distinct)})"
    else:
        clause = "false"
    return f"({clause} OR {column} IS NULL)" if values.null_count() else f"({clause})"


def _delta_type(dtype: pl.DataType) -> pl.DataType:
    """The type in which Delta keeps a polars type, without loss (Delta has no unsigned integers and one time unit)."""
    match dtype:
        case pl.UInt8():
            return pl.Int16()
        case pl.UInt16():
            return pl.Int32()
        case pl.UInt32() | pl.UInt64():
            return pl.Int64()
        case pl.Datetime():
            return pl.Datetime("us", "UTC" if dtype.time_zone else None)
        case pl.Categorical() | pl.Enum():
            return pl.String()
        case pl.List() | pl.Array():
            return pl.List(_delta_type(dtype.inner))  # type: ignore[arg-type]
        case pl.Struct():
            return pl.Struct({f.name: _delta_type(f.dtype) for f in dtype.fields})  # type: ignore[arg-type]
        case _:
            return dtype


def _unsupported(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List):
        return _unsupported(dtype.inner)  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return any(_unsupported(f.dtype) for f in dtype.fields)  # type: ignore[arg-type]
    return isinstance(dtype, pl.Null | pl.Time | pl.Duration | pl.Object | pl.Int128 | pl.Unknown)
