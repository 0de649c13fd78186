"""A small simulated world, and what its tables must always satisfy."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from shutil import copy
from typing import Any

import polars as pl
import pytest

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.sources.simulator import simulate
from lakehouse_assets_tests.operation.commands import Commands, Ended, Kill

START, END = date(2024, 1, 1), date(2024, 6, 1)
# The columns that name a row, by table.
KEYS = {
    "bronze/demand": ["file", "fingerprint", "row_number", "pending"],
    "silver/demand": ["series_id", "ts"],
    "gold/demand_hourly": ["series_id", "ts"],
    "gold/demand_daily": ["series_id", "date"],
    "features/demand": ["issued_at", "series_id", "ts"],
    "predictions/demand_forecast": ["issued_at", "series_id", "ts"],
    "monitoring/demand_forecast_errors": ["issued_at", "series_id", "ts"],
    "monitoring/demand_forecast_profile": ["granularity", "window_start", "slice_key", "slice_value", "column"],
    "monitoring/demand_forecast_drift": ["comparison", "window_start", "slice_key", "slice_value", "column"],
    "registry/demand_forecast": ["version", "decision"],
    "registry/demand_forecast_series": ["series_id"],
    "registry/demand_forecast_series_history": ["series_id", "change"],
}
REFINED = ("silver/demand", "gold/demand_hourly", "gold/demand_daily", "features/demand")


@dataclass(frozen=True)
class House:
    """A home, and the command on it."""

    home: Path
    lakehouse: Commands

    @property
    def world(self) -> Path:
        return self.home / "world"

    @property
    def lake(self) -> Lake:
        return Lake(self.home / "lake")

    def __call__(self, *arguments: object, kill: Kill | None = None) -> Ended:
        return self.lakehouse(*arguments, home=self.home, kill=kill)

    def run(self, until: str, kill: Kill | None = None) -> Ended:
        return self("run", "--config", self.world / "source.yaml", "--until", until, kill=kill)

    def status(self) -> Any:
        ended = self("status", "--json")
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    def frame(self, key: str) -> pl.DataFrame:
        return self.lake.table(key).scan().collect()

    def versions(self, keys: Sequence[str] | None = None) -> dict[str, int]:
        return {key: self.lake.table(key).version() for key in (keys or self.lake.tables())}

    def dagster_runs(self) -> list[tuple[str, str]]:
        """Job and status of each Dagster run."""
        return self._query("dagster/history/runs.db", "select pipeline_name, status from runs")

    def mlflow_runs(self) -> list[str]:
        """Status of each MLflow run."""
        return [status for (status,) in self._query("mlflow.db", "select status from runs")]

    def _query(self, database: str, query: str) -> list[Any]:
        # Read as files: what a test looks at must not be mended by the code that looks.
        path = self.home / database
        assert path.exists(), path
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(query).fetchall()

    def assert_sound(self) -> None:
        """No row twice, no month lost, no row lost, nothing left open."""
        for key, columns in KEYS.items():
            if self.lake.table(key).exists():
                frame = self.frame(key)
                assert frame.select(columns).is_duplicated().sum() == 0, key
        landed = self.frame("bronze/demand")
        months = set(landed["month"].unique())
        for key in ("silver/demand", "gold/demand_hourly"):
            assert set(self.frame(key)["month"].unique()) == months, key
        assert_nothing_lost(landed, self.frame("silver/demand"), self.frame("silver/demand_quarantine"))
        assert {status for _, status in self.dagster_runs()} <= {"SUCCESS", "FAILURE"}
        assert set(self.mlflow_runs()) <= {"FINISHED", "FAILED", "KILLED"}


def assert_nothing_lost(landed: pl.DataFrame, silver: pl.DataFrame, quarantine: pl.DataFrame) -> int:
    """Account for each landed row by itself: quarantined, the row that silver took, or one with the key of such a row.

    Returns:
        The number of removed duplicates.
    """
    row = ["file", "fingerprint", "row_number", "pending"]
    rejected = landed.join(quarantine, on=row, how="semi")
    assert rejected.height == quarantine.height
    rest = landed.join(quarantine, on=row, how="anti")
    rest = rest.select("file", "row_number", "series_id", ts="ts_utc")
    taken = silver.select("series_id", "ts", took_file="file", took_row="row_number")
    both = rest.join(taken, on=["series_id", "ts"], how="left")
    assert both["took_row"].null_count() == 0
    used = both.filter((pl.col("file") == pl.col("took_file")) & (pl.col("row_number") == pl.col("took_row")))
    assert used.select("series_id", "ts").n_unique() == silver.height
    duplicates = rest.height - silver.height
    assert silver.height + quarantine.height + duplicates == landed.height
    assert duplicates >= 0
    return duplicates


@pytest.fixture
def house(tmp_path: Path, lakehouse: Commands, migrated_store: Path) -> House:
    """A home with a simulated world that nothing has been done with, and a prepared store."""
    copy(migrated_store, tmp_path / "mlflow.db")
    simulate(tmp_path / "world", start=START, end=END, series=2, seed=7)
    return House(tmp_path, lakehouse)
