"""A real MLflow store for each test: migrated once a session, then copied."""

import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.registry.tracking import Registry


def registry_in(folder: Path) -> Registry:
    return Registry(f"sqlite:///{folder / 'mlflow.db'}", folder / "mlartifacts")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    registry = registry_in(tmp_path_factory.mktemp("migrated"))
    assert registry.client.search_registered_models() == []
    file = registry.store.sqlite_file
    assert file is not None
    return file


@pytest.fixture
def registry(migrated: Path, tmp_path: Path) -> Registry:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return registry_in(tmp_path)


@pytest.fixture(scope="session")
def processes() -> Any:
    """Real processes that start in milliseconds: forked from a server that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "dagster._daemon.sensor",
            "lakehouse_assets.lifecycle.build",
            "matplotlib.pyplot",
            "mlflow.pyfunc",
            "mlflow.store.tracking.sqlalchemy_store",
            "mlflow.tracking.client",
            "scipy.special",
            "sklearn.ensemble",
        ]
    )
    return context


@pytest.fixture
def clean_mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow's global state, which dagster-mlflow changes, as it was before."""
    import mlflow

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    yield
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
