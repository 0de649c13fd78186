"""What the tests share: commands without the slow imports, a prepared MLflow store, migrations that are read once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse_assets_tests.migrations import read_once
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
def migrations_are_read_once() -> None:
    read_once()
