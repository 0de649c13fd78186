"""What the tests of the demand tables share: small sources, Dagster runs over them, and the tables in memory."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import yaml

from lakehouse_assets.bronze import demand as bronze
from lakehouse_assets.features import demand as features
from lakehouse_assets.gold import demand_daily, demand_hourly
from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.io_manager import DeltaIOManager
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table import Lake, Table
from lakehouse_assets.settings import get_settings
from lakehouse_assets.silver import demand as silver
from lakehouse_assets.sources.declaration import Declaration, load_declaration
from lakehouse_assets.sources.partitions import MONTHS
from lakehouse_assets.sources.times import resolve_times

HOUR = timedelta(hours=1)
MODULES = {
    "bronze": bronze,
    "silver": silver,
    "demand_hourly": demand_hourly,
    "demand_daily": demand_daily,
    "features": features,
}
# The partitions are made at import, from the declaration then in force: sources of tests start where they do.
START = datetime.fromisoformat(str(MONTHS.get_first_partition_key())).replace(tzinfo=UTC)


def months(first: int, last: int) -> tuple[str, str]:
    """Partition keys of the first and the last month, counted from the first partition."""
    keys = MONTHS.get_partition_keys()
    return keys[first], keys[last]


DECLARATION: dict[str, Any] = {
    "name": "plant",
    "files": {"glob": "*.csv", "format": "csv"},
    "columns": {"series_id": "area", "ts": "time", "value": "mw"},
    "time_zone": "UTC",
    "interval": "1h",
    "unit": {"kind": "power", "name": "MW"},
    "start": START.date().isoformat(),
}
PUBLISHED = {"day_ahead": {"column": "plan", "known": "before", "role": "published_forecast"}}


def declare(folder: Path, **changes: Any) -> Declaration:
    """Write a declaration into a folder and load it; None takes a key away."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "source.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**DECLARATION, **changes}.items() if v is not None}))
    return load_declaration(path)


def load_curve(hours: int, seed: int = 0, level: float = 1000.0, per_day: int = 24) -> np.ndarray:
    """A smooth daily and weekly curve with a little noise, rounded to 0.1."""
    rng = np.random.default_rng(seed)
    t = np.arange(hours) / per_day
    shape = 1 + 0.2 * np.sin(2 * np.pi * t) + 0.05 * np.sin(2 * np.pi * t / 7)
    return (level * shape * (1 + 0.01 * rng.standard_normal(hours))).round(1)


class Source:
    """A declared source in a home of its own, with Dagster runs over it."""

    def __init__(self, folder: Path, declaration: Declaration) -> None:
        self.folder, self.declaration = folder, declaration
        self.instance = dg.DagsterInstance.ephemeral()

    def write(self, name: str, rows: pl.DataFrame) -> None:
        rows.write_csv(self.folder / "landing" / name)

    def run(
        self, *names: str, months: tuple[str, str] | None = None, at: datetime | None = None
    ) -> dg.ExecuteInProcessResult:
        """Materialise tables (all after bronze in one run, by default), with their checks."""
        root = str(self.folder / "lake")
        resources = {
            "io_manager": DeltaIOManager(root_uri=root),
            "lake": LakeResource(root_uri=root),
            "clock": Clock(at=None if at is None else at.isoformat()),
        }
        tags = {}
        if months is not None:
            tags = dict(
                zip(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), months, strict=True)
            )
        assets = [v for name in names for v in vars(MODULES[name]).values() if isinstance(v, dg.AssetsDefinition)]
        return dg.materialize(assets, resources=resources, tags=tags, instance=self.instance, raise_on_error=False)

    def check(self, name: str, check: str) -> dg.AssetCheckEvaluation:
        """Evaluate one check of a table alone."""
        checks = [v for v in vars(MODULES[name]).values() if isinstance(v, dg.AssetChecksDefinition)]
        selection = dg.AssetSelection.checks(*[key for c in checks for key in c.check_keys if key.name == check])
        root = str(self.folder / "lake")
        lake = {"io_manager": DeltaIOManager(root_uri=root), "lake": LakeResource(root_uri=root)}
        made = dg.materialize(checks, selection=selection, resources=lake, instance=self.instance, raise_on_error=False)
        return made.get_asset_check_evaluations()[0]

    def table(self, key: str) -> Table:
        return Lake(self.folder / "lake").table(key)

    def rows(self, key: str) -> pl.DataFrame:
        return self.table(key).scan().collect()


@contextmanager
def source(folder: Path, **changes: Any) -> Iterator[Source]:
    """A source in force, as `lakehouse run` would have it."""
    declaration = declare(folder / "landing", **changes)
    before = {name: os.environ.get(name) for name in ("LAKEHOUSE_HOME", "LAKEHOUSE_CONFIG")}
    os.environ["LAKEHOUSE_HOME"] = str(folder)
    os.environ.pop("LAKEHOUSE_CONFIG", None)
    get_settings.cache_clear()
    try:
        yield Source(folder, declaration)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        get_settings.cache_clear()


def landed(
    declaration: Declaration, rows: pl.DataFrame, now: datetime | None = None, batch: str = "one"
) -> pl.DataFrame:
    """Rows (raw columns of the declaration as text, by default one file) as bronze/demand has them."""
    defaults = {"file": pl.lit("rows.csv"), "fingerprint": pl.lit("f" * 32), "pending": pl.lit(False)}
    rows = rows.with_columns(**{name: value for name, value in defaults.items() if name not in rows.columns})
    if "row_number" not in rows.columns:
        rows = rows.with_row_index("row_number", offset=1).with_columns(pl.col("row_number").cast(pl.Int64))
    timed = resolve_times(rows.lazy(), declaration)
    now = now or datetime(2100, 1, 1, tzinfo=UTC)
    return bronze.transform(timed, declaration, batch, now).collect()


def texts(
    series: str, start: datetime, values: Sequence[Any], step: timedelta = HOUR, **columns: Sequence[Any]
) -> pl.DataFrame:
    """Raw rows of one series: ts as UTC text with an offset, values and further columns as text."""
    frame = pl.DataFrame(
        {
            "series_id": [series] * len(values),
            "ts": [(start + i * step).isoformat() for i in range(len(values))],
            "value": pl.Series([None if v is None else str(v) for v in values], dtype=pl.String),
        }
    )
    return frame.with_columns(
        pl.Series(name, [None if v is None else str(v) for v in column], dtype=pl.String)
        for name, column in columns.items()
    )


def refine(
    declaration: Declaration,
    rows: pl.DataFrame,
    issue_times: Sequence[datetime] | None = None,
    series: pl.DataFrame | None = None,
) -> dict[str, pl.DataFrame]:
    """The tables made from bronze rows, in memory, all months at once."""
    first_months = rows.group_by("series_id").agg(first_month=pl.col("month").min())
    judged, rejected = silver.transform(rows.lazy(), declaration, None, first_months)
    made = {"silver": judged.collect(), "quarantine": rejected.collect()}
    gold_arguments = demand_hourly.extent(made["silver"].lazy(), declaration)
    assert gold_arguments is not None
    first_good, edge, end = gold_arguments
    start = first_good["first_good"].min().replace(minute=0)
    made["gold"] = demand_hourly.transform(made["silver"].lazy(), declaration, first_good, edge, start, end).collect()
    first_hours = made["gold"].group_by("series_id").agg(first_hour=pl.col("ts").min())
    times = declaration.issue_times(start, edge) if issue_times is None else list(issue_times)
    frames = list(features.transform(made["gold"].lazy(), declaration, series, first_hours, times))
    made["features"] = pl.concat(frames) if frames else features.contract(declaration).create_empty()
    return made
