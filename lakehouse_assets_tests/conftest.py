"""What the tests share: commands without the slow imports, a prepared MLflow store, migrations that are read once."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets_tests.operation.commands import Commands


@pytest.fixture(scope="session")
def lakehouse() -> Iterator[Commands]:
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store that nothing was written to, for tests to copy; the workers of a session make it together."""
    from lakehouse_assets.registry.store import Store

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    file = folder / "migrated" / "mlflow.db"
    assert Store(f"sqlite:///{file}", folder / "migrated" / "mlartifacts").client
    return file


@pytest.fixture(scope="session", autouse=True)
def migrations_are_read_once() -> Iterator[None]:
    """Dagster loads ninety scripts of migrations for every instance; they do not change while the tests run."""
    from alembic.script import ScriptDirectory

    read, known = ScriptDirectory.from_config, {}

    def from_config(config: Any) -> ScriptDirectory:
        place = config.get_main_option("script_location")
        if place not in known:
            known[place] = read(config)
        return known[place]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ScriptDirectory, "from_config", from_config)
        yield
