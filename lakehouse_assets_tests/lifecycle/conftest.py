"""A small model of its own, on a feature table that a test writes: the life cycle knows nothing of demand."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table import Lake, Table
from lakehouse_assets.lifecycle.build import lifecycle
from lakehouse_assets.lifecycle.reports import ReportsResource
from lakehouse_assets.ml.definition import DriftPolicy, ModelDefinition, RetrainPolicy
from lakehouse_assets.ml.estimators import Ridge, SeasonalNaive
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets.registry.resource import RegistryResource
from lakehouse_assets.registry.tracking import Registry
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

TOY = ModelDefinition(
    name="toy",
    description="A toy.",
    features="features/toy",
    target="value",
    kind=Forecast(spread=2, recent=3),
    candidates={
        "seasonal_naive": SeasonalNaive(),
        "ridge_on_published": Ridge(on_published=True, half_life=30.0),
    },
    drift=DriftPolicy(weeks=2),
    retrain=RetrainPolicy(cooldown_days=10, maximum_a_month=3, maximum_attempts=2),
    group="series_group",
)
CHANGE_DAY = 140


def curves(days: int = 190, changed: slice = slice(None)) -> pl.DataFrame:
    """Features of a world in which the published forecast of some series changes its habits on a day."""
    demand, published = load_curves(series=4, days=days)
    hour = np.arange(days * 24)
    published[changed] *= 1 + 0.25 * ((hour % 6) - 2.5) / 2.5 * (hour >= CHANGE_DAY * 24)
    frame = feature_frame(demand, published)
    return frame.with_columns(
        series_group=pl.when(pl.col("series_id") < "S2").then(pl.lit("a")).otherwise(pl.lit("b")),
        month=pl.col("issued_at").dt.date().dt.month_start(),
    )


@dataclass
class House:
    """A home with the toy model."""

    folder: Path
    instance: dg.DagsterInstance
    definitions: dg.Definitions
    frame: pl.DataFrame

    @property
    def lake(self) -> Lake:
        return Lake(self.folder / "lake")

    @property
    def registry(self) -> Registry:
        return self.definitions.resources["registry"].registry()

    def table(self, key: str) -> Table:
        return self.lake.table(key)

    def verdicts(self) -> pl.DataFrame:
        """The rows of the drift table that judge the champion."""
        return self.table("monitoring/toy_drift").scan().filter(pl.col("comparison") == "challenger").collect()

    def know(self, day: int) -> datetime:
        """Write the feature table as it is at the issue time of a day: later targets are not known yet."""
        at = datetime(2023, 1, 2, tzinfo=UTC) + timedelta(days=day)
        known = self.frame.filter(pl.col("issued_at") <= at).with_columns(
            value=pl.when(pl.col("known_at") <= at).then("value"),
            known_at=pl.when(pl.col("known_at") <= at).then("known_at"),
        )
        self.table("features/toy").overwrite(known, partition_by=["month"])
        return at

    def run(
        self,
        job: str,
        at: datetime,
        only: list[dg.AssetKey] | None = None,
        config: Mapping[str, Any] | None = None,
        **tags: str,
    ) -> dg.ExecuteInProcessResult:
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            asset_selection=only,
            run_config={**(config or {}), "resources": {"clock": {"config": {"at": at.isoformat()}}}},
            tags=tags,
            raise_on_error=False,
        )


@pytest.fixture(scope="session")
def toy_frame() -> pl.DataFrame:
    return curves()


def definitions_of(definition: ModelDefinition, folder: Path, at: str | None = None) -> dg.Definitions:
    """A model's life cycle on the tables and the store in a folder, at a time of the clock."""
    return dg.Definitions.merge(
        lifecycle(definition),
        dg.Definitions(
            resources={
                "lake": LakeResource(root_uri=str(folder / "lake")),
                "registry": RegistryResource(
                    tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", artifact_root=str(folder / "mlartifacts")
                ),
                "clock": Clock(at=at),
                "reports": ReportsResource(folder=str(folder / "reports")),
            },
            executor=dg.in_process_executor,
        ),
    )


@pytest.fixture
def house(tmp_path: Path, toy_frame: pl.DataFrame, migrated_store: Path) -> Iterator[House]:
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(tmp_path, instance, definitions_of(TOY, tmp_path), toy_frame)
