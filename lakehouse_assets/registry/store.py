"""Where MLflow keeps runs and versions: preparing the store once, its lock between processes, a look without MLflow."""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from lakehouse_assets.settings import get_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

SQLITE = "sqlite:///"


def disable_telemetry() -> None:
    """Keep MLflow from reporting its use over the network and from drawing bars, unless the environment says otherwise.

    MLflow reads the variable once, when it is imported, and has no other switch.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


class Store:
    """The MLflow store at `tracking_uri`: a SQLite file, another database or a tracking server."""

    def __init__(self, tracking_uri: str, artifact_root: Path | str) -> None:
        self.tracking_uri = tracking_uri
        self.artifact_root = str(artifact_root)
        if "://" not in self.artifact_root:
            self.artifact_root = Path(self.artifact_root).expanduser().resolve().as_uri()

    @property
    def sqlite_file(self) -> Path | None:
        """The database file of a SQLite store, else None."""
        return Path(self.tracking_uri.removeprefix(SQLITE)) if self.tracking_uri.startswith(SQLITE) else None

    @cached_property
    def lock(self) -> FileLock:
        """Held while aliases are written or a new store is prepared.

        It lies beside a SQLite file; for other stores in LAKEHOUSE_HOME, where it keeps apart the processes of this
        machine only.
        """
        path = self.sqlite_file or get_settings().home / "mlflow"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{path}.lock")

    @cached_property
    def client(self) -> "MlflowClient":
        """The client of this store, which is prepared at first use (two seconds for a new SQLite file)."""
        disable_telemetry()
        from mlflow import MlflowClient

        self._prepare()
        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def exists(self) -> bool:
        """Whether there is anything to be found: False for a SQLite file that was not made yet."""
        return self.sqlite_file is None or self.sqlite_file.exists()

    def may_have_open_runs(self) -> bool:
        """Whether a run is RUNNING; cheap for SQLite, where MLflow need not be imported; True where unknown."""
        file = self.sqlite_file
        if file is None:
            return True
        if not file.exists():
            return False
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=20)) as connection:
            return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM runs WHERE status = 'RUNNING')").fetchone()[0])

    def _prepare(self) -> None:
        """Make a SQLite store, in a file of another name that is moved into place when it is whole.

        MLflow migrates an empty database through its whole history. Two processes that do so at once collide, and one
        that is killed leaves a file that cannot be migrated again.
        """
        file = self.sqlite_file
        if file is None or file.exists():
            return
        with self.lock:
            if file.exists():
                return
            logger.info("Preparing the MLflow store %s; this happens once.", file)
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            new = file.with_name(f"{file.name}.new")
            new.unlink(missing_ok=True)
            with _unsynchronised_sqlite(), quiet_loggers("mlflow.store.db.utils", "alembic"):
                # the root also becomes the place of MLflow's experiment `Default`, instead of the working directory
                SqlAlchemyStore(f"{SQLITE}{new}", self.artifact_root).engine.dispose()
            descriptor = os.open(new, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            new.replace(file)


@contextmanager
def _unsynchronised_sqlite() -> Iterator[None]:
    """Connections opened meanwhile do not wait for the disk: a third of the time, and the file is synced once."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def relax(connection: object, _record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA journal_mode=MEMORY")

    event.listen(Engine, "connect", relax)
    try:
        yield
    finally:
        event.remove(Engine, "connect", relax)


@contextmanager
def quiet_loggers(*names: str) -> Iterator[None]:
    """Only errors from these loggers: MLflow's migrations log forty lines, its models warn of what we do on purpose."""
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
