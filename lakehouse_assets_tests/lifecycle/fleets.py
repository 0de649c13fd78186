"""A small registered model, and the processes that change what is in force and are killed on the way."""

import os
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from lakehouse_assets.lake.table import Lake, Table
from lakehouse_assets.lifecycle.fleet import FleetRegistry
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets.registry.tracking import Registry
from lakehouse_assets_tests.registry.conftest import registry_in
from lakehouse_assets_tests.registry.killed import ALIAS_WRITES

KIND = Forecast()
NOW = datetime(2024, 5, 1, tzinfo=UTC)
SERIES = ["A", "B", "C", "D"]


@dataclass(frozen=True)
class Level:
    """Forecasts the same for all series; of some members alone, it has nothing to say about others."""

    series_ids: list[str]
    partial: bool = False

    def predict(self, frame: pl.DataFrame) -> pl.DataFrame:
        said = pl.when(pl.col("series_id").is_in(self.series_ids) | (not self.partial)).then(1.0)
        return frame.select("series_id", yhat=said)


def train(registry: Registry, series: list[str] | None = None, name: str = "demand", partial: bool = False) -> int:
    tags = {"candidate": "level", "scope": "partial" if partial else "whole"}
    with registry.run("demand", "training") as run:
        return registry.register(run, name, Level(series or SERIES, partial), tags=tags)


def fleet_in(folder: Path, name: str = "demand") -> FleetRegistry:
    return FleetRegistry(name, registry_in(folder), Lake(folder / "lake"))


def findings(**verdicts: str) -> pl.DataFrame:
    """What the gate found about series: promote, harmed or neither."""
    return pl.DataFrame(
        [
            {
                "series_id": series,
                "gain": 0.1,
                "p_value": 0.01,
                "promote": said == "promote",
                "harmed": said == "harmed",
            }
            for series, said in verdicts.items()
        ]
    ).with_columns(reason=pl.format("the gate says so of {}", "series_id"))


def promote_and_die(folder: Path, version: int, nth: int) -> None:
    fleet = fleet_in(folder)
    _kill_before(fleet, nth)
    fleet.promote(KIND, version, whole=True, reason="better", now=NOW, series=findings(A="harmed"))


def roll_back_and_die(folder: Path, members: list[str] | None, nth: int) -> None:
    fleet = fleet_in(folder)
    _kill_before(fleet, nth)
    fleet.roll_back(KIND, members, NOW)


def _kill_before(fleet: FleetRegistry, nth: int) -> None:
    """Die in the place of the nth write of a table or of MLflow's registry (from 0)."""
    writes = iter(range(1000))

    def counted(original: Any) -> Any:
        def write(*args: Any, **kwargs: Any) -> Any:
            if next(writes) == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return write

    for name in ("append", "overwrite"):
        setattr(Table, name, counted(getattr(Table, name)))
    for name in ALIAS_WRITES:
        setattr(fleet.store.client, name, counted(getattr(fleet.store.client, name)))
