"""A fleet at scale: thousands of series trained, gated, registered and rolled back, beside what others would do.

    python benchmarks/fleet.py [--json FILE] [--parts speed,peer,growth,registry] [--series 1000] [--many 10000]

The series are made from real ones: stretches of 8,760 hours of the EIA's regions, each scaled and disturbed by its own
noise. Each side runs in a process of its own; memory is the peak of all its processes together (proportional set size).

- speed: features, fit and eight-fold backtest of a ridge for each series and hour, against the loop that everybody
  writes first (scikit-learn's Ridge on the same rows and weights, without the cost of making features; timed on some
  series and scaled). To be 20 times as fast, with the same coefficients to 1e-6.
- peer: a whole training run (features to registered version) against mlforecast with LightGBM: its fit and its own
  eight-fold backtest on the same weeks. To take a quarter of the time at most, at an error no worse.
- growth: ten times the series. To take 11 times the time and 1.5 times the memory at most, within 8 GB.
- registry: 5,000 models registered, loaded and rolled back as one fleet, against one registered model each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

HOURS = 8760
START = datetime(2024, 1, 1, tzinfo=UTC)
FOLDS = 8
FILE = "us_eia930_54ba_hourly_2015_2020.parquet"
DECLARATION = """\
name: fleet
description: Thousands of hourly load curves, made from real ones.
files: {glob: none.parquet, format: parquet}
columns: {series_id: series_id, ts: ts, value: value}
time_zone: UTC
interval: 1h
unit: {kind: power, name: MW}
publication_delay: 0h
issue_time: "00:00"
horizon: 24h
start: 2024-01-01
"""


# --- the series -------------------------------------------------------------------------------------------------------


def curves(series: int, seed: int = 1) -> Any:
    """Hourly loads, an iterator of (names, array of some series x 8,760 hours)."""
    import polars as pl

    from lakehouse_assets.settings import get_settings

    file = get_settings().data / FILE
    rows = pl.read_parquet(file, columns=["region", "ts_utc", "imputed_mw"]).sort("region", "ts_utc")
    real = []
    for _, region in rows.group_by("region", maintain_order=True):
        values = region["imputed_mw"].cast(pl.Float64).fill_nan(None).interpolate().fill_null(strategy="backward")
        if values.null_count() == 0 and values.min() > 0:  # type: ignore[operator]
            real.append(values.to_numpy())
    for start in range(0, series, 200):
        some = range(start, min(start + 200, series))
        out = np.empty((len(some), HOURS))
        for row, number in enumerate(some):
            rng = np.random.default_rng([seed, number])
            values = real[number % len(real)]
            # Whole weeks, so that weekdays stay what they are to one another.
            first = 168 * int(rng.integers(0, (len(values) - HOURS) // 168))
            noise = rng.normal(0, 0.01, HOURS).cumsum()
            noise -= np.convolve(noise, np.full(168, 1 / 168), "same")
            level = float(np.exp(rng.normal(0, 1.5))) / values.mean() * 1000
            out[row] = np.maximum(values[first : first + HOURS] * level * (1 + 0.2 * noise), 0.01)
        yield [f"s{number:05d}" for number in some], out


def make_gold(series: int) -> None:
    """Write gold/demand_hourly of so many series into the home."""
    import polars as pl

    from lakehouse_assets.lake.frames import lazily
    from lakehouse_assets.lake.table import Lake
    from lakehouse_assets.settings import get_settings

    settings = get_settings()
    settings.landing.mkdir(parents=True, exist_ok=True)
    (settings.landing / "source.yaml").write_text(DECLARATION)
    ts = pl.datetime_range(START, START + timedelta(hours=HOURS - 1), "1h", time_unit="us", time_zone="UTC", eager=True)
    from lakehouse_assets.gold.demand_hourly import contract
    from lakehouse_assets.sources.declaration import active_declaration

    schema = contract(active_declaration()).create_empty().schema

    def frames() -> Any:
        for names, values in curves(series):
            yield (
                pl.DataFrame(
                    {
                        "series_id": np.repeat(names, HOURS),
                        "ts": pl.concat([ts] * len(names)),
                        "value": values.ravel(),
                        "imputed": pl.Series([None] * values.size, dtype=pl.String),
                        "known_value": values.ravel(),
                    }
                )
                .with_columns(
                    known_at=pl.col("ts") + timedelta(hours=1),
                    pending=False,
                    month=pl.col("ts").dt.date().dt.month_start(),
                )
                .select(schema.names())
            )

    Lake.from_settings().table("gold/demand_hourly").overwrite(lazily(frames, schema), partition_by=["month"])


# --- ours -------------------------------------------------------------------------------------------------------------


def definition() -> Any:
    """The fleet's model: a ridge for each series and hour, and what always competes."""
    from lakehouse_assets.ml.definition import ModelDefinition
    from lakehouse_assets.ml.estimators import Ridge, SeasonalNaive
    from lakehouse_assets.ml.forecast import Forecast

    return ModelDefinition(
        name="fleet",
        description="A ridge for each series and hour.",
        features="features/demand",
        target="value",
        kind=Forecast(spread=0, recent=FOLDS),
        candidates={"seasonal_naive": SeasonalNaive(), "ridge": Ridge()},
    )


def train() -> dict[str, Any]:
    """A whole training run: features, fit, backtest, gate, registered version; seconds by stage."""
    import dagster as dg

    from lakehouse_assets.definitions import resources
    from lakehouse_assets.features import demand as features
    from lakehouse_assets.lifecycle.promotion import promotion_asset
    from lakehouse_assets.lifecycle.training import training_asset
    from lakehouse_assets.operation.home import open_instance
    from lakehouse_assets.settings import get_settings

    settings = get_settings()
    model = definition()
    promotion, *checks = promotion_asset(model)
    tags = {"dagster/asset_partition_range_start": "2024-01-01", "dagster/asset_partition_range_end": "2024-12-01"}
    seconds = {}
    with open_instance(settings) as instance:

        def materialize(assets: list[Any], tags: dict[str, str] | None = None) -> Any:
            start = time.perf_counter()
            run = dg.materialize(assets, instance=instance, resources=resources(settings), tags=tags)
            assert run.success
            return time.perf_counter() - start, run

        seconds["features"], _ = materialize([features.demand, features.contract_of_demand], tags)
        seconds["training"], run = materialize([training_asset(model)])
        (event,) = run.get_asset_materialization_events()
        metadata = event.materialization.metadata
        seconds["gate"], _ = materialize([promotion, *checks])
    figures = {name: float(metadata[name].value) for name in ("mae", "mase", "relative_mae")}
    return {"seconds": seconds, "total": sum(seconds.values()), **figures}


# --- measuring --------------------------------------------------------------------------------------------------------


class Memory(threading.Thread):
    """The peak of a process and all its descendants, in bytes, sampled four times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0
        self.running = True

    def run(self) -> None:
        """Sample until told to stop."""
        while self.running:
            self.peak = max(self.peak, sum(map(_memory, _tree(self.pid))))
            time.sleep(0.25)


def _tree(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found, pending = [], [pid]
    while pending:
        found.append(pending.pop())
        pending += children.get(found[-1], [])
    return found


def _memory(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def apart(part: str, home: Path, *arguments: str, python: str = sys.executable) -> dict[str, Any]:
    """Run a part of this file in a process of its own; its figures, with `wall` and `peak`."""
    environment = os.environ | {"LAKEHOUSE_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
    environment.pop("LAKEHOUSE_CONFIG", None)
    start = time.perf_counter()
    process = subprocess.Popen(
        [python, __file__, "--run", part, *arguments], stdout=subprocess.PIPE, env=environment, text=True
    )
    memory = Memory(process.pid)
    memory.start()
    out, _ = process.communicate()
    memory.running = False
    if process.returncode:
        raise SystemExit(f"{part} failed with exit code {process.returncode}")
    return {**json.loads(out.splitlines()[-1]), "wall": time.perf_counter() - start, "peak": memory.peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.run == "gold":
        make_gold(options.series)
        print(json.dumps({"series": options.series}))
        return
    if options.run == "train":
        print(json.dumps(train()))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        print(apart("gold", home, "--series", str(options.series)))
        print(apart("train", home))


if __name__ == "__main__":
    main()
