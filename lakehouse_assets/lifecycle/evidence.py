"""The backtest of a training as artifacts of its MLflow run: what the gate decides on, today or when asked again."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from lakehouse_assets.ml.definition import BacktestResult
from lakehouse_assets.registry.tracking import Registry
from lakehouse_assets.registry.training_run import TrainingRun

_FRAMES = ("metrics", "folds", "losses")


@dataclass(frozen=True)
class Backtest:
    """A stored backtest: its result (without the fitted candidates), the groups, and the champion that took part."""

    result: BacktestResult
    groups: Mapping[str, str | None] | None
    champion_version: int | None


def save_backtest(
    run: TrainingRun, result: BacktestResult, groups: Mapping[str, str | None] | None, champion_version: int | None
) -> None:
    """Log a backtest's tables as Parquet artifacts of a run."""
    for name in _FRAMES:
        buffer = io.BytesIO()
        getattr(result, name).write_parquet(buffer)
        run.artifact_bytes(f"backtest/{name}.parquet", buffer.getvalue())
    about = {"best": result.best, "primary": result.primary, "groups": groups, "champion_version": champion_version}
    run.artifact_bytes("backtest/about.json", json.dumps(about).encode())


def load_backtest(store: Registry, run_id: str) -> Backtest:
    """Read what `save_backtest` logged."""
    with TemporaryDirectory() as temporary:
        folder = Path(store.client.download_artifacts(run_id, "backtest", temporary))
        about = json.loads((folder / "about.json").read_text())
        frames = {name: pl.read_parquet((folder / f"{name}.parquet").read_bytes()) for name in _FRAMES}
    result = BacktestResult(best=about["best"], primary=about["primary"], fitted={}, **frames)
    return Backtest(result, about["groups"], about["champion_version"])
