"""Migrations of Dagster and MLflow, read once a process: they load some ninety scripts for every database."""

from typing import Any

from alembic.script import ScriptDirectory

_KNOWN: dict[str, ScriptDirectory] = {}
_read = ScriptDirectory.from_config


def read_once() -> None:
    """From now on; the scripts do not change while the tests run."""

    def from_config(config: Any) -> ScriptDirectory:
        place = config.get_main_option("script_location")
        if place not in _KNOWN:
            _KNOWN[place] = _read(config)
        return _KNOWN[place]

    ScriptDirectory.from_config = staticmethod(from_config)  # type: ignore[method-assign, assignment]


def read_all() -> None:
    """Read them now, MLflow's too, for all processes that are forked later."""
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import __file__ as beside
    from dagster._core.storage.sql import get_alembic_config
    from mlflow.store.db.utils import _get_latest_schema_revision

    read_once()
    ScriptDirectory.from_config(get_alembic_config(beside)).get_current_head()
    _get_latest_schema_revision()
