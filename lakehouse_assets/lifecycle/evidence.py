"""The backtest of a training as artifacts of its MLflow run: what the gate decides on, today or when asked again."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from lakehouse_assets.ml.definition import BacktestResult
from lakehouse_assets.registry.tracking import Registry
from lakehouse_assets.registry.training_run import TrainingRun

_FRAMES = ("metrics", "folds", "losses", "costs", "unscored")


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
    about = {
        "best": result.best,
        "primary": result.primary,
        "higher_is_better": result.higher_is_better,
        "groups": groups,
        "champion_version": champion_version,
    }
    with TemporaryDirectory() as temporary:
        for name in _FRAMES:
            file = Path(temporary, f"{name}.parquet")
            # Small row groups: who reads the losses of some series skips those of the others.
            getattr(result, name).lazy().sink_parquet(file, row_group_size=100_000)
            run.artifact_file(f"backtest/{name}.parquet", file)
    run.artifact_bytes("backtest/about.json", json.dumps(about).encode())


def has_backtest(store: Registry, run_id: str) -> bool:
    """Whether a run still has the backtest that `save_backtest` logged: artifacts may have been cleared away."""
    return bool(store.client.list_artifacts(run_id, "backtest"))


@contextmanager
def load_backtest(store: Registry, run_id: str) -> Iterator[Backtest]:
    """What `save_backtest` logged; the losses are read when they are asked for, so long as the context lasts."""
    with TemporaryDirectory() as temporary:
        folder = Path(store.client.download_artifacts(run_id, "backtest", temporary))
        about = json.loads((folder / "about.json").read_text())
        frames = {name: pl.scan_parquet(folder / f"{name}.parquet") for name in _FRAMES}
        result = BacktestResult(
            best=about["best"],
            primary=about["primary"],
            metrics=frames["metrics"].collect(),
            folds=frames["folds"].collect(),
            losses=frames["losses"],
            fitted={},
            costs=frames["costs"].collect(),
            unscored=frames["unscored"].collect(),
            higher_is_better=about.get("higher_is_better", False),
        )
        yield Backtest(result, about["groups"], about["champion_version"])
