"""A real MLflow store for each test, and processes that use it."""

import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.registry.tracking import Registry


def registry_in(folder: Path) -> Registry:
    return Registry(f"sqlite:///{folder / 'mlflow.db'}", folder / "mlartifacts")


@pytest.fixture
def registry(migrated_store: Path, tmp_path: Path) -> Registry:
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    return registry_in(tmp_path)


@pytest.fixture(scope="session")
def processes() -> Any:
    """Real processes that start in milliseconds: forked from a server that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "dagster._daemon.sensor",
            "lakehouse_assets.lifecycle.build",
            "lakehouse_assets_tests.lifecycle.daemons",
            "lakehouse_assets_tests.lifecycle.fleets",
            "lakehouse_assets_tests.registry.forked",
            "lakehouse_assets_tests.registry.killed",
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
