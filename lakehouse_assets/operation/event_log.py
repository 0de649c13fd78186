"""Dagster's event log in SQLite with connections that stay open: a run over many partitions writes many events.

Dagster's own opens a new engine and connection for each statement and waits for the disk at each commit: some 40 ms an
event, so that the events of a run over five years of months cost more than its tables. To use it, in dagster.yaml:

    event_log_storage:
      module: lakehouse_assets.operation.event_log
      class: PooledSqliteEventLogStorage
"""

import os
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

# One database a run, and the index of them all: a process works with few at a time.
_MOST_ENGINES = 4


def _spare_the_disk(connection: sqlite3.Connection, _: object) -> None:
    """Before the first table is made: a new database has some twenty statements, and each would wait for the disk."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


class PooledSqliteEventLogStorage(SqliteEventLogStorage):
    """The same files as Dagster's default storage, written with fewer round trips.

    Commits are in the write-ahead log and survive the end of the process, however it ends (`synchronous=NORMAL`); the
    last ones may be lost when the machine loses power, which leaves the files whole.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        super().__init__(base_dir, inst_data)

    @classmethod
    def config_type(cls) -> Any:
        """The folder of the databases, which may be left out."""
        return {"base_dir": dg.Field(dg.StringSource, is_required=False)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PooledSqliteEventLogStorage":
        """By default in the folder of Dagster's default storage, below DAGSTER_HOME."""
        folder = config_value.get("base_dir") or str(Path(os.environ["DAGSTER_HOME"]) / "history" / "runs")
        return cls(folder, inst_data)

    def _engine(self, shard: str) -> Engine:
        if shard not in self._engines:
            # Used by one thread at a time (`_db_lock`), though not always by the same.
            engine = create_engine(
                self.conn_string_for_shard(shard),
                poolclass=QueuePool,
                pool_size=1,
                max_overflow=10,
                connect_args={"timeout": 30, "check_same_thread": False},
            )
            event.listen(engine, "connect", _spare_the_disk)
            self._initdb(engine)
            self._engines[shard] = engine
            while len(self._engines) > _MOST_ENGINES:
                self._engines.popitem(last=False)[1].dispose()
        self._engines.move_to_end(shard)
        return self._engines[shard]

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock, self._engine(shard).connect() as connection, connection.begin():
            yield connection

    def dispose(self) -> None:
        """Close the connections."""
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()
        super().dispose()
