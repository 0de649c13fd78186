"""The registry of a fleet: one version for 5,000 series against a registered model for each of them.

    python benchmarks/registry.py [--json FILE] [--series 5000] [--models 50]

The fleet's models are ridges of the product's own shape (series x hour x features x season, 32 bit: 180 MB for 5,000
series): those of a few series are fitted, and repeated under other names. Ours: `Registry.register` with the rows of
all series; loading in a process of its own, from the registry to the first forecast (of one series, and of all), with
the product's loader and with nothing but `mlflow.pyfunc`; rolling back one series and all of them, both levels
together. The other side: a registered model for each series, from the same arrays, registered, loaded and rolled back
(its alias moved) one by one through the same MLflow; `--models` of them are measured, and scaled to all.

SQLite and local files; imports are not counted. It is to be: registered within 5 s, loaded within 1 s, rolled back
within 1 s.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import polars as pl
import polars.selectors as cs

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.lifecycle.fleet import FleetRegistry
from lakehouse_assets.ml.estimators import NaiveFit, Ridge, RidgeFit, SeasonalNaive
from lakehouse_assets.ml.fitted import FittedForecast, ShardedForecast, Spool
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets.ml.ladder import CHAMPION, RUNGS
from lakehouse_assets.registry.tracking import Registry, signature_of
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

NAME = "fleet"
KIND = Forecast()
FITTED, SHARD = 4, 200
LIMITS = {"register_s": 5.0, "load_s": 1.0, "rollback_s": 1.0}


def fitted() -> tuple[FittedForecast, pl.DataFrame]:
    """A ridge fitted to a few series, and the features of their last issue time."""
    frame = feature_frame(*load_curves(FITTED, 150))
    result = Forecast(spread=1, recent=1).backtest(
        KIND.dataset(frame), {"ridge": Ridge(), "seasonal_naive": SeasonalNaive()}, cutoff=frame["known_at"].max()
    )
    model = result.fitted["ridge"]
    assert isinstance(model, FittedForecast)
    return model, frame.filter(pl.col("issued_at") == pl.col("issued_at").max())


def names_of(count: int) -> list[str]:
    """Series ids, sorted."""
    return [f"series_{i:05d}" for i in range(count)]


def repeated(model: FittedForecast, series: list[str]) -> FittedForecast:
    """The model's fits under other names, with arrays of their own."""
    rows = np.arange(len(series)) % FITTED
    fits: dict[str, Any] = {}
    for name, fit in model.fits.items():
        if isinstance(fit, RidgeFit):
            fits[name] = replace(fit, series=series, coefficients=fit.coefficients[:, rows].copy())
        elif isinstance(fit, NaiveFit):
            fits[name] = NaiveFit(dict.fromkeys(series, True))
    assert model.intervals is not None
    return replace(
        model,
        fits=fits,
        series_ids=series,
        expected_loss=dict.fromkeys(series, 1.0),
        rows=dict.fromkeys(series, 100),
        intervals=replace(model.intervals, series=tuple(series), offsets=model.intervals.offsets[rows]),
    )


def fleet_of(model: FittedForecast, count: int) -> ShardedForecast:
    """A fleet of that many series in shards."""
    series, parts = names_of(count), Spool()
    shards = [tuple(series[start : start + SHARD]) for start in range(0, count, SHARD)]
    for shard in shards:
        parts.append(repeated(model, list(shard)))
    return ShardedForecast(
        name=model.name,
        recipes=model.recipes,
        shared={},
        ladder=model.ladder,
        trained_at=model.trained_at,
        shards=tuple(shards),
        feature_names=model.feature_names,
        target=model.target,
        horizon=model.horizon,
        seed=0,
        expected_loss=dict.fromkeys(series, 1.0),
        parts=parts,
        intervals=model.intervals,
    )


def features_of(latest: pl.DataFrame, count: int) -> pl.DataFrame:
    """The features of one issue time of that many series."""
    every = latest.partition_by("series_id", maintain_order=True)
    some = pl.concat([*every] * -(-count // FITTED)).head(count * 24)
    ids = pl.Series("series_id", np.repeat(names_of(count), 24))
    return some.with_columns(ids)


def registry_in(folder: Path) -> Registry:
    """A new store, prepared."""
    registry = Registry(f"sqlite:///{folder / 'mlflow.db'}", folder / "mlartifacts")
    registry.experiment_id(NAME)
    return registry


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes, by the clock on the wall."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def registered(registry: Registry, lake: Lake, model: Any, name: str, latest: pl.DataFrame) -> None:
    """Register a challenger and promote it: the version, its alias and the rows of its series."""
    outputs = KIND.prediction_columns
    signature = signature_of(dict(latest.schema), {column: dtype for column, (dtype, _) in outputs.items()})
    with registry.run(NAME, "training") as run:
        version = registry.register(run, name, model, signature=signature, tags={"candidate": "ridge"})
    FleetRegistry(name, registry, lake).promote(KIND, version, whole=True, reason="better", now=datetime.now(UTC))


def load(folder: Path, how: str) -> float:
    """Seconds from the registry to the first forecast, in this process: `one` series, `all`, or through `pyfunc`."""
    import mlflow.pyfunc

    registry = registry_in(folder)
    features = pl.read_parquet(folder / "features.parquet")
    one = features.filter(series_id=features["series_id"][-1])
    if how == "pyfunc":
        mlflow.set_tracking_uri(registry.store.tracking_uri)
        rows = one.with_columns(cs.datetime().dt.replace_time_zone(None)).to_pandas()  # MLflow's type has no zone
        return seconds(lambda: mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(rows))
    fleet = FleetRegistry(NAME, registry, Lake(folder / "lake"))
    frame = one if how == "one" else features

    def forecast() -> None:
        predicted = fleet.load(KIND, fleet.assignment()).predict(frame)
        assert predicted.height == frame.height
        assert predicted["yhat"].is_finite().all()
        assert (predicted["rung"] == RUNGS[CHAMPION]).all()

    return seconds(forecast)


def measure(count: int = 5000, models: int = 50) -> dict[str, float]:
    """Both sides: seconds, by name."""
    model, latest = fitted()
    out: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        registry, lake = registry_in(folder), Lake(folder / "lake")
        fleet = fleet_of(model, count)
        out["megabytes"] = (
            sum(part.fits["ridge"].coefficients.nbytes for part in map(fleet.part, range(-(-count // SHARD)))) / 1e6
        )
        features_of(latest, count).write_parquet(folder / "features.parquet")
        out["register_s"] = seconds(lambda: registered(registry, lake, fleet, NAME, latest))
        registered(registry, lake, fleet, NAME, latest)  # a second, to roll back from
        for how in ("one", "all", "pyfunc"):
            command = [sys.executable, __file__, "--load", how, "--folder", str(folder)]
            out[f"load_{how}_s"] = float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        both = FleetRegistry(NAME, registry, lake)
        out["rollback_one_s"] = seconds(lambda: both.roll_back(KIND, [names_of(count)[7]], datetime.now(UTC)))
        out["rollback_all_s"] = seconds(lambda: both.roll_back(KIND, None, datetime.now(UTC)))
        assert both.rows()["version"].to_list() == [1] * count
        out |= each_a_model(registry, model, latest, count, models)
    return out | {
        "load_s": max(out["load_one_s"], out["load_pyfunc_s"]),
        "rollback_s": max(out["rollback_one_s"], out["rollback_all_s"]),
    }


def each_a_model(
    registry: Registry, model: FittedForecast, latest: pl.DataFrame, count: int, models: int
) -> dict[str, float]:
    """A registered model for each series: some of them measured, scaled to all."""
    names = names_of(models)

    def register_each() -> None:
        with registry.run(NAME, "training") as run:
            for name in names:
                version = registry.register(run, name, repeated(model, [name]), tags={"candidate": "ridge"})
                registry.promote(name, version, None)

    def load_each() -> None:
        for name in names:
            champion = registry.get(name, "champion")
            assert champion is not None
            registry.load(name, champion.version).predict(latest.head(24).with_columns(series_id=pl.lit(name)))

    def roll_back_each() -> None:
        for name in names:
            registry.client.set_registered_model_alias(name, "champion", "1")

    scale = count / models
    return {
        "each_register_s": seconds(register_each) * scale,
        "each_load_s": seconds(load_each) * scale,
        "each_rollback_s": seconds(roll_back_each) * scale,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--series", type=int, default=5000)
    parser.add_argument("--models", type=int, default=50, help="of the other side that are measured")
    parser.add_argument("--load", choices=("one", "all", "pyfunc"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(load(arguments.folder, arguments.load))
        return
    found = measure(arguments.series, arguments.models)
    print(f"{arguments.series:,} series, {found['megabytes']:.0f} MB of coefficients\n")
    scaled = f"{arguments.models} measured, scaled"
    print(f"| | one version | a model each ({scaled}) | ratio |\n| --- | --- | --- | --- |")
    for name, ours, theirs in (
        ("register and promote", "register_s", "each_register_s"),
        ("load to the first forecast of one series", "load_one_s", None),
        ("the same through mlflow.pyfunc alone", "load_pyfunc_s", None),
        ("load and forecast all series", "load_all_s", "each_load_s"),
        ("roll back one series", "rollback_one_s", None),
        ("roll back all series", "rollback_all_s", "each_rollback_s"),
    ):
        other = f"{found[theirs]:.1f} s | {found[theirs] / found[ours]:.0f}" if theirs else " | "
        print(f"| {name} | {found[ours]:.2f} s | {other} |")
    for name, limit in LIMITS.items():
        print(f"{name}: {found[name]:.2f}, at most {limit:g}: {'yes' if found[name] <= limit else 'NO'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
