"""A fleet at scale: thousands of series trained, gated, registered and rolled back, beside what others would do.

    python benchmarks/fleet.py [--json FILE] [--parts speed,peer,growth,registry] [--series 1000] [--many 10000]

The series are made from real ones: stretches of 8,760 hours of the EIA's regions, each scaled and disturbed by its own
noise. Each side runs in a process of its own; memory is the peak of all its processes together (proportional set size).

- speed: features, fit and eight-fold backtest of a ridge for each series and hour, against the loop that everybody
  writes first (scikit-learn's Ridge on the same rows and weights, without the cost of making features; timed on some
  series and scaled). Both make the same nine fits of a regression: one for each fold, one on everything known. To be
  20 times as fast, with the same coefficients to 1e-6. The loop runs as it is written, with the threads that the
  libraries take by themselves, and again with one, the best it can do.
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
CACHE = Path.home() / ".cache" / "lakehouse_assets"
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
    """A whole training run: features, fit, backtest, gate, registered version; seconds and peak memory by stage."""
    import dagster as dg
    import polars as pl

    from lakehouse_assets.definitions import resources
    from lakehouse_assets.features import demand as features
    from lakehouse_assets.lifecycle.evidence import load_backtest
    from lakehouse_assets.lifecycle.promotion import promotion_asset
    from lakehouse_assets.lifecycle.training import training_asset
    from lakehouse_assets.operation.home import open_instance
    from lakehouse_assets.settings import get_settings

    settings = get_settings()
    model = definition()
    promotion, checks = promotion_asset(model)
    tags = {"dagster/asset_partition_range_start": "2024-01-01", "dagster/asset_partition_range_end": "2024-12-01"}
    seconds, peaks = {}, {}
    with open_instance(settings) as instance:

        def materialize(stage: str, assets: list[Any], tags: dict[str, str] | None = None) -> Any:
            with Memory(os.getpid()) as memory:
                start = time.perf_counter()
                run = dg.materialize(assets, instance=instance, resources=resources(settings), tags=tags)
                seconds[stage] = time.perf_counter() - start
            assert run.success
            peaks[stage] = memory.peak
            return run

        materialize("features", [features.demand, features.contract_of_demand], tags)
        run = materialize("training", [training_asset(model)])
        (event,) = run.get_asset_materialization_events()
        metadata = event.materialization.metadata
        materialize("gate", [promotion, *checks])
    with load_backtest(resources(settings)["registry"].registry(), metadata["mlflow_run"].value) as backtest:
        losses = backtest.result.losses.select("series_id", "issued_at", "origin", "ts", "y", "ridge")
        first_days = losses.filter(pl.col("issued_at") == pl.col("origin")).collect()
    first_days.write_parquet(settings.home / "ours.parquet")
    return {"seconds": seconds, "peaks": peaks, "total": sum(seconds.values()), "version": metadata["version"].value}


# --- the loop ---------------------------------------------------------------------------------------------------------


SHARD = 100


def ridge(series: int) -> dict[str, Any]:
    """Features, fit and eight-fold backtest of the ridge alone; fits of some series are kept to be compared."""
    import pickle

    from lakehouse_assets.lifecycle.engine import engine
    from lakehouse_assets.ml.shards import each
    from lakehouse_assets.settings import get_settings

    settings = get_settings()
    with engine(settings):
        begun = time.perf_counter()
        list(each(imports, range(2 * (settings.workers or os.cpu_count() or 1))))
        start = time.perf_counter()
        done = list(each(ridge_of_shard, [range(i, min(i + SHARD, series)) for i in range(0, series, SHARD)]))
    seconds, start_up = time.perf_counter() - start, start - begun
    (settings.home / "first.pickle").write_bytes(pickle.dumps(done[0][2]))
    cpu = {name: sum(one[0][name] for one in done) for name in done[0][0]}
    return {
        "total": seconds,
        "start_up": start_up,
        "cpu": cpu,
        "workers": settings.workers or os.cpu_count(),
        "error": float(np.mean([one[1] for one in done])),
    }


def imports(_: int) -> None:
    """What a worker does before its first shard; the clock of the loop, too, starts when all is imported."""
    import lakehouse_assets.features.demand
    import lakehouse_assets.ml.estimators  # noqa: F401

    time.sleep(0.5)  # until every worker has taken one


def ridge_of_shard(numbers: range) -> tuple[dict[str, float], float, Any]:
    """CPU seconds, the error, and of the first shard: panel, cutoffs and fits."""
    import polars as pl
    from threadpoolctl import threadpool_limits

    from lakehouse_assets.features import demand as features
    from lakehouse_assets.lake.table import Lake
    from lakehouse_assets.ml.estimators import Ridge
    from lakehouse_assets.ml.panel import Panel
    from lakehouse_assets.ml.shards import Shards
    from lakehouse_assets.sources.declaration import active_declaration

    start = time.process_time()
    declaration = active_declaration()
    within = pl.col("series_id").is_between(pl.lit(f"s{numbers[0]:05d}"), pl.lit(f"s{numbers[-1]:05d}"))
    hours = Lake.from_settings().table("gold/demand_hourly").scan().filter(within)
    first = hours.group_by("series_id").agg(first_hour=pl.col("ts").min()).collect()
    times = declaration.issue_times(START, START + timedelta(hours=HOURS))
    panel = Panel.from_frame(pl.concat(features.transform(hours, declaration, None, first, times)))
    made = time.process_time()
    shards = Shards.of(panel, "value")
    folds = [fold for fold in definition().kind.folds(shards, shards.known_until) if fold.number >= 0]  # the scored
    at = [int(panel.issued[fold.start]) for fold in folds] + [shards.known_until]
    with threadpool_limits(1, "blas"):
        fits = Ridge().fit(panel, at, 0, standing=False)
        windows = [panel.take(days=slice(fold.start, fold.stop)) for fold in folds]
        errors = [np.abs(fit.predict(w) - w.target).mean() for fit, w in zip(fits, windows, strict=False)]
    cpu = {"features": made - start, "fits": time.process_time() - made}
    few = 20
    kept = (panel.take(slice(0, few)), at, fits[-1]) if numbers[0] == 0 else None
    return cpu, float(np.mean(errors)), kept


def loop() -> dict[str, Any]:
    """The same regressions one by one with scikit-learn, on rows that are there already; of a few series.

    Cutoff by cutoff first with the libraries' own number of threads, then with one.
    """
    import pickle
    from contextlib import nullcontext

    from sklearn.linear_model import Ridge
    from threadpoolctl import threadpool_limits

    from lakehouse_assets.ml.linear import YEAR
    from lakehouse_assets.ml.panel import DAY_US
    from lakehouse_assets.settings import get_settings

    panel, cutoffs, ours = pickle.loads((get_settings().home / "first.pickle").read_bytes())
    recipe, days = ours.recipe, panel.days
    parts = [a if a.ndim == 3 else a[:, :, None] for a in recipe.design(panel, ours.scales).values()]
    design = np.stack([np.broadcast_to(a, panel.shape) for a in parts], axis=3)
    base, size = recipe._base(panel)
    y = np.clip((panel.target - base) / size[:, :, None], *recipe.clip)
    worst = 0.0
    seconds, cpu = {"threads": 0.0, "one_thread": 0.0}, 0.0
    for cutoff in cutoffs:
        season = 1 + recipe.season * np.cos(2 * np.pi / YEAR * (days - (cutoff / DAY_US + 3.5)))
        weight = 0.5 ** ((cutoff / DAY_US - days) / recipe.half_life) * season
        for way in seconds:
            models = {}
            with threadpool_limits(1, "blas") if way == "one_thread" else nullcontext():
                start, began = time.perf_counter(), time.process_time()
                for s in range(len(panel.series)):
                    for h in range(panel.shape[2]):
                        known = np.isfinite(y[s, :, h]) & (panel.known_at[s, :, h] <= cutoff)
                        x = design[s, :, h]
                        model = Ridge(alpha=recipe.strength).fit(x[known], y[s, known, h], sample_weight=weight[known])
                        model.predict(x[-7:])
                        models[s, h] = model
                seconds[way] += time.perf_counter() - start
                cpu += time.process_time() - began if way == "one_thread" else 0.0
    for (s, h), model in models.items():  # the fits on everything known
        mine = ours.coefficients[0, s, h]
        worst = max(worst, float(np.abs(mine - np.r_[model.intercept_, model.coef_]).max()))
    count = len(cutoffs) * len(models)
    each = {way: took / count for way, took in seconds.items()}
    return {"fits": count, "each": each, "cpu": cpu / count, "difference": worst}


def speed(home: Path, series: int) -> dict[str, float]:
    """Print ours beside the loop."""
    ours = apart("ridge", home, "--series", str(series))
    theirs = apart("loop", home)
    regressions = series * 24 * (FOLDS + 1)
    loops = {way: each * regressions for way, each in theirs["each"].items()}
    ratios = {way: took / ours["total"] for way, took in loops.items()}
    table(
        f"ridge for each of {series:,} series and 24 hours: {FOLDS} folds and a last fit, {regressions:,} regressions",
        ("", "seconds", "ratio"),
        ("features and all regressions, ours", f"{ours['total']:.1f}", "1"),
        ("scikit-learn's loop as written, without features", f"{loops['threads']:.0f}", f"{ratios['threads']:.1f}"),
        ("the same, BLAS held to one thread", f"{loops['one_thread']:.0f}", f"{ratios['one_thread']:.1f}"),
    )
    spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in ours["cpu"].items())
    cpu_ratio = theirs["cpu"] * regressions / sum(ours["cpu"].values())
    print(f"  ours in CPU seconds: {spent} in {ours['workers']} processes, which took", end=" ")
    print(f"{ours['start_up']:.1f} s before to start and import;", end=" ")
    print(f"the loop with one thread takes {cpu_ratio:.1f} times as many")
    print(f"  the loop was timed on {theirs['fits']:,} of its fits, each way; largest difference of a", end=" ")
    print(f"coefficient {theirs['difference']:.1e} (at most 1e-6)")
    return {
        "ridge_speedup": min(ratios.values()),
        "ridge_speedup_cpu": cpu_ratio,
        "coefficient_difference": theirs["difference"],
    }


# --- mlforecast -------------------------------------------------------------------------------------------------------


def peer(home: Path, ours: dict[str, Any], series: int, python: Path) -> dict[str, float]:
    """Print a whole training run of ours beside mlforecast's fit and backtest."""
    hours = home / "hours.parquet"
    apart("hours", home)
    script = Path(__file__).with_name("mlforecast_fleet.py")
    theirs = apart("", home, str(hours), str(home / "theirs.parquet"), str(FOLDS), python=str(python), script=script)
    mine, other = apart("errors", home)["errors"]
    seconds = theirs["fit"] + theirs["backtest"]

    def cells(name: str, took: float, of: float, peak: float, error: float) -> tuple[str, ...]:
        return (name, f"{took:.0f}", f"{took / of:.2f}", f"{peak / 1e9:.1f}", f"{error:.2%}")

    table(
        f"a whole training run of {series:,} series x {HOURS:,} h",
        ("", "seconds", "share", "peak GB", "error"),
        cells("features to registered version, ours", ours["total"], seconds, ours["peak"], mine),
        cells("mlforecast, LightGBM: fit and backtest", seconds, seconds, theirs["peak"], other),
    )
    print("  error: sum of absolute errors over sum of values, mean over series, on the first day of each fold")
    return {"mlforecast_ratio": ours["total"] / seconds, "error": mine, "mlforecast_error": other}


def write_hours() -> None:
    """The hours as mlforecast reads them."""
    import polars as pl

    from lakehouse_assets.lake.table import Lake
    from lakehouse_assets.settings import get_settings

    rows = Lake.from_settings().table("gold/demand_hourly").scan()
    rows = rows.select(unique_id="series_id", ds=pl.col("ts").dt.replace_time_zone(None), y="value")
    rows.sort("unique_id", "ds").collect().write_parquet(get_settings().home / "hours.parquet")


def errors() -> tuple[float, float]:
    """Error of ours and of theirs on the hours that both have forecast."""
    import polars as pl

    from lakehouse_assets.settings import get_settings

    home = get_settings().home
    theirs = pl.read_parquet(home / "theirs.parquet").with_columns(pl.col("ds").dt.cast_time_unit("us"))
    both = pl.read_parquet(home / "ours.parquet").with_columns(ds=pl.col("ts").dt.replace_time_zone(None))
    both = both.join(theirs, left_on=["series_id", "ds"], right_on=["unique_id", "ds"], how="inner")
    assert both.height == theirs.height, "the two do not forecast the same hours"

    def error(name: str) -> pl.Expr:
        return ((pl.col(name) - pl.col("y")).abs().sum() / pl.col("y").sum()).alias(name)

    scores = both.group_by("series_id").agg(error("ridge"), error("forecast"))
    return float(scores["ridge"].mean()), float(scores["forecast"].mean())  # type: ignore[arg-type]


# --- growth -----------------------------------------------------------------------------------------------------------


def growth(small: dict[str, Any], large: dict[str, Any], series: int, many: int) -> dict[str, float]:
    """Print a training run of ten times the series beside the small one."""
    stages = ("features", "training", "gate")
    rows = []
    for count, run in ((series, small), (many, large)):
        cells = [f"{run['seconds'][stage]:.0f} / {run['peaks'][stage] / 1e9:.2f}" for stage in stages]
        rows.append((f"{count:,} series", *cells, f"{run['total']:.0f} / {run['peak'] / 1e9:.2f}"))
    time_ratio, memory_ratio = large["total"] / small["total"], large["peak"] / small["peak"]
    ratios = ("ratio", "", "", "", f"{time_ratio:.1f} / {memory_ratio:.2f}")
    table("growth: seconds / peak GB", ("", *stages, "total"), *rows, ratios)
    return {"growth_time": time_ratio, "growth_memory": memory_ratio, "peak_gb": large["peak"] / 1e9}


# --- measuring --------------------------------------------------------------------------------------------------------


class Memory(threading.Thread):
    """The peak of a process and all its descendants, in bytes, sampled four times a second while the context lasts."""

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

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False


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


def apart(
    part: str, home: Path, *arguments: str, python: str = sys.executable, script: Path | None = None
) -> dict[str, Any]:
    """Run a part of this file, or a script, in a process of its own; its figures, with `wall` and `peak`."""
    environment = os.environ | {"LAKEHOUSE_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
    environment.pop("LAKEHOUSE_CONFIG", None)
    if script is None:
        print(f"  {part} ...", file=sys.stderr)
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [str(script)] if script else [__file__, "--run", part]
    start = time.perf_counter()
    process = subprocess.Popen(
        [python, "-W", "ignore", *command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if part == "train" else None,  # Dagster's log
        env=environment,
        text=True,
    )
    with Memory(process.pid) as memory:
        out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{part} failed with exit code {process.returncode}")
    return {**json.loads(out.splitlines()[-1]), "wall": time.perf_counter() - start, "peak": memory.peak}


def table(title: str, head: tuple[str, ...], *rows: tuple[str, ...]) -> None:
    """Print a table; the first column to the left, the others to the right."""
    lines = [head, *rows]
    widths = [max(len(line[i]) if i < len(line) else 0 for line in lines) for i in range(len(head))]
    print(f"\n{title}")
    for line in lines:
        cells = [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=False))]
        print("  " + "  ".join(cells))


PARTS = {"gold": make_gold, "train": train, "ridge": ridge, "loop": loop, "hours": write_hours, "errors": errors}


def run_part(name: str, series: int) -> None:
    """One part, in this process; its figures as a line of JSON."""
    found = PARTS[name](series) if name in ("gold", "ridge") else PARTS[name]()  # type: ignore[operator]
    print(json.dumps({"errors": found} if isinstance(found, tuple) else found or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--series", type=int, default=1000, help="series of the small fleet")
    parser.add_argument("--many", type=int, default=10_000, help="series of the large fleet")
    parser.add_argument("--parts", default="speed,peer,growth,registry", help="what to measure")
    parser.add_argument("--peers", type=Path, default=CACHE / "peers", help="folder of the peers' environment")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.run is not None:
        run_part(options.run, options.series)
        return
    parts = set(options.parts.split(","))
    figures: dict[str, float] = {}
    python = Path()
    if "peer" in parts:
        from peers import peers_python

        python = peers_python(options.peers)
    with tempfile.TemporaryDirectory(prefix="fleet_") as folder:
        home = Path(folder)
        if parts & {"speed", "peer", "growth"}:
            apart("gold", home, "--series", str(options.series))
        if "speed" in parts:
            figures |= speed(home, options.series)
        if parts & {"peer", "growth"}:
            small = apart("train", home)
        if "peer" in parts:
            figures |= peer(home, small, options.series, python)
    if "growth" in parts:
        with tempfile.TemporaryDirectory(prefix="fleet_") as folder:
            apart("gold", Path(folder), "--series", str(options.many))
            figures |= growth(small, apart("train", Path(folder)), options.series, options.many)
    if "registry" in parts:
        from registry import measure

        measured = measure()
        table("registry", ("", "seconds"), *((name, f"{value:.2f}") for name, value in measured.items()))
        figures |= {name: measured[name] for name in ("register_s", "load_s", "rollback_s")}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
