"""Bronze to features on the EIA set: our tables, as Dagster makes them, against a polars script written for this file.

    python benchmarks/medallion.py [--json FILE] [--repeat 2]

Both start from the parquet file and end with the same Delta tables (same columns, same rows) in an empty folder. Ours:
a run that lands, and a run over all months that refines, each with a Dagster instance on disk, its events and its
blocking checks. The script: what a good engineer would write for this file alone, who knows that it is hourly, in UTC,
complete and known on time, and keeps everything in memory from one table to the next. Each in a process of its own,
in turns; imports are not counted. The ratio is to be 2.0 at most.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

FILE = "us_eia930_54ba_hourly_2015_2020.parquet"
EXAMPLE = Path(__file__).parents[1] / "examples" / "eia930.yaml"
TABLES = (
    "bronze/demand",
    "silver/demand",
    "silver/demand_quarantine",
    "gold/demand_hourly",
    "gold/demand_daily",
    "features/demand",
)
MOST = 2.0


def ours(home: Path) -> dict[str, float]:
    os.environ |= {"LAKEHOUSE_HOME": str(home), "LAKEHOUSE_CONFIG": str(EXAMPLE)}
    import dagster as dg

    from lakehouse_assets.bronze import demand as bronze
    from lakehouse_assets.features import demand as features
    from lakehouse_assets.gold import demand_daily, demand_hourly
    from lakehouse_assets.lake.clock import Clock
    from lakehouse_assets.lake.io_manager import DeltaIOManager
    from lakehouse_assets.lake.resource import LakeResource
    from lakehouse_assets.operation.home import open_instance
    from lakehouse_assets.settings import get_settings
    from lakehouse_assets.silver import demand as silver
    from lakehouse_assets.sources.partitions import MONTHS

    root = str(home / "lake")
    resources = {"io_manager": DeltaIOManager(root_uri=root), "lake": LakeResource(root_uri=root), "clock": Clock()}

    def definitions(*modules: Any) -> list[Any]:
        return [v for m in modules for v in vars(m).values() if isinstance(v, dg.AssetsDefinition)]

    tags = {
        "dagster/asset_partition_range_start": MONTHS.get_first_partition_key(),
        "dagster/asset_partition_range_end": "2020-07-01",
    }
    seconds = {}
    with open_instance(get_settings()) as instance:
        for name, modules, run_tags in (
            ("land", (bronze,), {}),
            ("refine", (silver, demand_hourly, demand_daily, features), tags),
        ):
            start = time.perf_counter()
            assert dg.materialize(definitions(*modules), resources=resources, tags=run_tags, instance=instance).success
            seconds[name] = time.perf_counter() - start
    return seconds


def script(home: Path) -> dict[str, float]:
    import numpy as np
    import polars as pl
    from deltalake import write_deltalake

    from lakehouse_assets.settings import get_settings

    data, series_file = get_settings().data / FILE, EXAMPLE.with_name("eia930_series.csv")
    seconds, clock = {}, time.perf_counter()

    def write(name: str, frame: pl.DataFrame) -> None:
        nonlocal clock
        write_deltalake(str(home / "lake" / name), frame, partition_by=["month"])
        seconds[name] = time.perf_counter() - clock
        clock = time.perf_counter()

    utc, now = pl.Datetime("us", "UTC"), datetime.now(UTC)
    raw = pl.read_parquet(data, columns=["region", "ts_utc", "raw_mw", "ba_forecast_mw"])
    ts = pl.col("ts_utc").dt.replace_time_zone("UTC")
    landed = {"source": pl.lit("eia930"), "file": pl.lit(FILE)}
    bronze = raw.select(
        **landed,
        fingerprint=pl.lit("by hand"),
        row_number=pl.int_range(1, pl.len() + 1),
        pending=pl.lit(False),
        batch_id=pl.lit("by hand"),
        ingested_at=pl.lit(now).cast(utc),
        series_id="region",
        ts=pl.col("ts_utc").dt.strftime("%Y-%m-%dT%H:%M:%S%.f"),
        value=pl.col("raw_mw").cast(pl.String),
        ts_utc=ts,
        known_at=ts + timedelta(hours=1),
        month=ts.dt.date().dt.month_start(),
        published_forecast=pl.col("ba_forecast_mw").cast(pl.String),
    )
    write("bronze/demand", bronze)

    # --- silver: the quality rules
    f64 = pl.Float64
    d = bronze.with_columns(v=raw["raw_mw"].cast(f64), pf=raw["ba_forecast_mw"].cast(f64)).sort("series_id", "ts_utc")
    v, pos = pl.col("v"), pl.col("pos")
    d = d.with_columns(pos=pl.int_range(pl.len()) % 43848, day=pl.int_range(pl.len()) // 24)
    d = d.with_columns(x=pl.when(v > 0).then(v), f=pl.when(pl.col("pf") > 0).then("pf"))

    def before(e: pl.Expr, n: int) -> pl.Expr:
        return pl.when(pos >= n).then(e.shift(n))

    def daily(d: pl.DataFrame, aggregates: dict[str, pl.Expr], windows: dict[str, pl.Expr]) -> pl.DataFrame:
        days = d.group_by("day", maintain_order=True).agg(pl.col("series_id").first(), **aggregates)
        days = days.select(w.shift(1).over("series_id").alias(n) for n, w in windows.items())
        return d.with_columns(days[n].gather(d["day"]) for n in windows)

    def median(name: str, days: int) -> pl.Expr:
        return pl.col(name).rolling_median(days, min_samples=1)

    row = pl.int_range(pl.len())
    changed = (pl.col("x") != before(pl.col("x"), 1)).fill_null(True)
    d = d.with_columns(run=row - pl.when(changed).then(row).forward_fill() + 1)
    d = daily(
        d,
        {
            "size": pl.col("x").median(),
            "count": pl.col("x").count().cast(pl.Int64),
            "again": ((pl.col("run") > 1) & pl.col("x").is_not_null()).sum().cast(pl.Int64),
        },
        {
            "trail": median("size", 14),
            "long": median("size", 56),
            "seen": pl.col("count").rolling_sum(56, min_samples=1),
            "again28": pl.col("again").rolling_sum(28, min_samples=1),
            "count28": pl.col("count").rolling_sum(28, min_samples=1),
        },
    )
    first = d.filter(pl.col("x").is_not_null()).group_by("series_id").agg(first=pos.min())
    own = (
        d.join(first, on="series_id")
        .filter(pos >= pl.col("first"), pos < pl.col("first") + 336)
        .group_by("series_id")
        .agg(pl.col("first").first(), own=pl.col("x").median(), own_seen=pl.col("x").count().cast(pl.Int64))
    )
    d = d.join(own, on="series_id", how="left", maintain_order="left")
    today = pl.col("x").is_not_null().cast(pl.Int64).cum_sum().over("day")
    new = pos < pl.col("first") + 336
    d = d.with_columns(
        level=pl.when(new).then("own").otherwise(pl.coalesce("trail", "long")),
        seen=pl.when(new).then("own_seen").otherwise(pl.col("seen").fill_null(0) + today),
    )
    plausible = pl.col("trail").is_null() | pl.col("x").is_between(0.25 * pl.col("trail"), 2.5 * pl.col("trail"))
    d = d.with_columns(c=pl.when(plausible & (pl.col("run") < 3)).then("x"))
    d = d.with_columns(before(pl.col("c"), 24 * k).alias(f"c{k}") for k in range(1, 8))
    week = [pl.col(f"c{k}") for k in range(1, 8)]
    n = pl.sum_horizontal(c.is_not_null().cast(pl.Int8) for c in week)
    total = pl.sum_horizontal(week) - pl.min_horizontal(week) - pl.max_horizontal(week)
    d = d.with_columns(p=pl.when(n >= 3).then(total / (n - 2))).drop([f"c{k}" for k in range(1, 8)])
    d = daily(d, {"error": (pl.col("f") - pl.col("c")).median()}, {"bias": median("error", 14)})
    d = d.with_columns(f=pl.col("f") - pl.col("bias"))

    def off(of: str, expected: str) -> pl.Expr:
        return (pl.col(of) - pl.col(expected)) / pl.col("trail")

    d = daily(
        d,
        {"p_size": off("c", "p").abs().median(), "f_size": off("c", "f").abs().median()},
        {"sp": median("p_size", 28), "sf": median("f_size", 28)},
    )

    def with_last_good(d: pl.DataFrame, good: pl.Expr) -> pl.DataFrame:
        d = d.with_columns(last=pl.when(good).then(row).forward_fill().shift(1), gp=off("x", "p"), gf=off("x", "f"))
        age = row - pl.col("last")
        there = (age <= 6) & (age <= pos)
        return d.with_columns(
            gp=pl.when(there).then(pl.col("gp").gather("last")),
            gf=pl.when(there).then(pl.col("gf").gather("last")),
            after_good=(age == 1) & (pos > 0),
        )

    def far() -> pl.Expr:
        p, f = off("x", "p"), off("x", "f")
        jp, jf = (p - pl.col("gp")).abs(), (f - pl.col("gf")).abs()

        def beyond(e: pl.Expr, j: pl.Expr, s: str, js: str, t: float) -> pl.Expr:
            wide = (e.abs() > t * 0.05) & (e.abs() > t * 2 * pl.col(s))
            return wide & (j > t * 0.1) & (j > t * 15 * pl.col(js))

        both = beyond(p, jp, "sp", "jp", 1) & beyond(f, jf, "sf", "jf", 1)
        return (both | (jf.is_null() & beyond(p, jp, "sp", "jp", 3))).fill_null(False)

    good = pl.col("c").is_not_null()
    d = with_last_good(d, good)
    d = daily(
        d,
        {
            "jp_size": pl.when(good).then((off("x", "p") - pl.col("gp")).abs()).median(),
            "jf_size": pl.when(good).then((off("x", "f") - pl.col("gf")).abs()).median(),
        },
        {"jp": median("jp_size", 28), "jf": median("jf_size", 28)},
    )
    for _ in range(2):
        d = with_last_good(d.with_columns(good=good & ~far()), pl.col("good"))
    ratio, run = v / pl.col("level"), before(pl.col("run"), 1)
    spike = ((ratio > 2.5) | (ratio < 0.25)) & (off("v", "p").abs() > 0.2).fill_null(True)
    chance = (pl.col("again28") / pl.col("count28")).fill_null(0.5).clip(1e-9).pow(run)
    stuck = (v == before(pl.col("x"), 1)) & (run >= 2) & (chance < 0.01)
    quality = (
        pl.when(v.is_null())
        .then(pl.lit("missing"))
        .when(v <= 0)
        .then(pl.lit("non_positive"))
        .when(spike.fill_null(False))
        .then(pl.lit("spike"))
        .when(stuck.fill_null(False))
        .then(pl.lit("stuck"))
        .when(far() & pl.col("after_good").fill_null(False))
        .then(pl.lit("jump"))
        .when(far() | (pl.col("seen") < 24))
        .then(pl.lit("implausible"))
        .otherwise(pl.lit("ok"))
    )
    silver = d.with_columns(quality=quality).select(
        "series_id",
        ts="ts_utc",
        value="v",
        quality="quality",
        known_value=pl.when(pl.col("quality") == "ok").then("v"),
        known_at="known_at",
        source="source",
        file="file",
        row_number="row_number",
        ingested_at="ingested_at",
        month="month",
        published_forecast="pf",
    )
    del d
    write("silver/demand", silver)
    write("silver/demand_quarantine", bronze.head(0).with_columns(rules=pl.lit([], dtype=pl.List(pl.String))))
    del bronze, raw

    # --- gold
    hours = 43848
    known = silver["known_value"].to_numpy().reshape(-1, hours)
    first_good = np.argmax(~np.isnan(known), axis=1)
    wanted = np.arange(hours) >= first_good[:, None]
    s, t = np.nonzero(wanted & np.isnan(known))
    value, how = known.copy(), np.full(known.shape, -1, dtype=np.int8)
    names = ("week_before", "two_weeks_before", "three_weeks_before", "four_weeks_before", "last_same_hour", "unknown")
    how[s, t] = 5
    for lag, code in [(168 * (k + 1), k) for k in range(4)] + [(24 * k, 4) for k in range(1, 57)]:
        found = np.where(t >= lag, known[s, np.maximum(t - lag, 0)], np.nan)
        hit = np.isnan(value[s, t]) & ~np.isnan(found)
        value[s[hit], t[hit]], how[s[hit], t[hit]] = found[hit], code
    hourly = silver.select(
        "series_id",
        "ts",
        value=pl.Series(value.ravel(), nan_to_null=True),
        imputed=pl.Series(names).gather(pl.Series(how.ravel()).cast(pl.Int64).replace(-1, None)),
        known_value=pl.Series(value.ravel(), nan_to_null=True),
        known_at="known_at",
        pending=pl.lit(False),
        month="month",
        published_forecast="published_forecast",
    )
    gold = hourly.filter(wanted.ravel())
    write("gold/demand_hourly", gold)

    # What the calendar says, once for each time zone, and laid beside the hours of each series.
    f32, free = pl.Float32, _holidays()
    grid, zones = hourly.head(hours).select("ts"), {}
    series = pl.read_csv(series_file).sort("region")
    for zone in series["time_zone"].unique():
        local = pl.col("ts").dt.convert_time_zone(zone)
        midnight, angle = local.dt.truncate("1d"), 2 * np.pi * (local.dt.ordinal_day() - 1) / 365.25
        zones[zone] = grid.select(
            date=local.dt.date(),
            length=(midnight.dt.offset_by("1d") - midnight).dt.total_hours(),
            hour=local.dt.hour().cast(f32),
            day_of_week=local.dt.weekday().cast(f32),
            season_sin=angle.sin().cast(f32),
            season_cos=angle.cos().cast(f32),
            is_holiday=local.dt.date().is_in(free).cast(f32),
            is_day_before_holiday=(local.dt.date() + timedelta(days=1)).is_in(free).cast(f32),
            is_day_after_holiday=(local.dt.date() - timedelta(days=1)).is_in(free).cast(f32),
        )
    calendar = pl.concat([zones[zone] for zone in series["time_zone"]])
    local = hourly.hstack(calendar.select("date", "length")).filter(wanted.ravel())
    whole = pl.col("value").count() == pl.col("length").first()
    days = (
        local.group_by("series_id", "date")
        .agg(
            energy=pl.when(whole).then(pl.col("value").sum()),
            peak=pl.when(whole).then(pl.col("value").max()),
            load_factor=pl.when(whole).then(pl.col("value").mean() / pl.col("value").max()),
            completeness=pl.col("imputed").is_null().sum() / pl.col("length").first(),
        )
        .with_columns(month=pl.col("date").dt.month_start())
    )
    write("gold/demand_daily", days)

    # --- features: at midnight the whole day before is known, so that each is a shift or a statistic of days
    h = hourly.with_columns(pos=pl.int_range(pl.len()) % hours, k=pl.int_range(pl.len()) % 24)
    known, forecast = pl.col("known_value"), pl.col("published_forecast")
    h = h.with_columns(e=known - forecast)

    def at_issue(e: pl.Expr) -> pl.Expr:
        return e.gather(row - pl.col("k"))

    made = {f"lag_{k}h": before(known, k) for k in range(24, 337, 24)}
    made |= {f"last_{k}h": at_issue(before(known, k)) for k in (1, 2, 3, 6)}
    made |= {f"forecast_lag_{k}h": before(forecast, k) for k in (24, 168)}
    made |= {f"error_lag_{k}h": before(pl.col("e"), k) for k in (24, 48, 168)}
    made |= {f"error_last_{k}h": at_issue(before(pl.col("e"), k)) for k in (1, 2, 3)}
    made["published_forecast"] = forecast
    day = {
        "n": known.count().cast(pl.Int64),
        "sum": known.sum(),
        "square": (known**2).sum(),
        "min": known.min(),
        "max": known.max(),
        "en": pl.col("e").count().cast(pl.Int64),
        "esum": pl.col("e").sum(),
    }
    windows = {"min_24h": pl.col("min"), "max_24h": pl.col("max")}
    for k in (1, 7, 28):
        for name, count, total in (("mean", "n", "sum"), ("error_mean", "en", "esum")):
            n, total = pl.col(count).rolling_sum(k), pl.col(total).rolling_sum(k)
            windows[f"{name}_{24 * k}h"] = pl.when(n >= 12 * k).then(total / n)
    n, total = pl.col("n").rolling_sum(7), pl.col("sum").rolling_sum(7)
    windows["std_168h"] = ((pl.col("square").rolling_sum(7) - total**2 / n) / (n - 1)).sqrt()
    h = daily(h.with_columns(day=row // 24), day, windows)
    started = np.repeat(first_good + 672, hours)
    features = (
        h.with_columns(started=started, series_group=pl.lit(series["interconnection"]).gather(row // hours))
        .hstack(calendar.drop("date", "length"))
        .lazy()
        .with_columns(issued_at=pl.col("ts").dt.truncate("1d"), **{n: e.cast(f32) for n, e in made.items()})
        .filter(pos - pl.col("k") >= pl.col("started"))
        .select(
            "issued_at",
            "series_id",
            "ts",
            "series_group",
            *calendar.columns[2:],
            horizon=pl.col("k").cast(pl.Int16),
            value=pl.when(pl.col("imputed").is_null()).then("value"),
            known_at=pl.when(pl.col("imputed").is_null()).then("known_at"),
            month=pl.col("issued_at").dt.date().dt.month_start(),
            **{n: pl.col(n) for n in made},
            **{n: pl.col(n).cast(f32) for n in windows},
        )
        .collect()
    )
    # The last midnight has no hours left in the file, but an issue time it is.
    last = features.filter(pl.col("ts").dt.date() == date(2020, 7, 1)).with_columns(
        pl.col("issued_at", "ts") + timedelta(days=1), value=pl.lit(None, dtype=f64), known_at=pl.lit(None, dtype=utc)
    )
    write("features/demand", pl.concat([features, last]))
    return seconds


def _holidays() -> list[date]:
    import holidays

    return list(holidays.country_holidays("US", years=range(2015, 2021)))


def worker(which: str, home: Path) -> None:
    started = time.perf_counter()
    seconds = {"ours": ours, "script": script}[which](home)
    total = sum(seconds.values())
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "seconds": total,
        "parts": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
    }
    print(json.dumps({**result, "imports": time.perf_counter() - started - total}))


def compare(first: Path, second: Path) -> dict[str, dict[str, int | bool]]:
    """Rows of each table, and whether its columns are the same."""
    import polars as pl

    found = {}
    for name in TABLES:
        a, b = (pl.scan_delta(str(home / "lake" / name)) for home in (first, second))
        rows, other_rows = (int(f.select(pl.len()).collect().item()) for f in (a, b))
        same = sorted(a.collect_schema().items()) == sorted(b.collect_schema().items())
        found[name] = {"rows": rows, "script_rows": other_rows, "same_columns": same}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result there")
    parser.add_argument("--repeat", type=int, default=2, help="turns; the faster one counts")
    parser.add_argument("--worker", nargs=2, metavar=("WHICH", "HOME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker[0], Path(arguments.worker[1]))
        return
    best: dict[str, dict[str, Any]] = {}
    tables: dict[str, dict[str, int | bool]] = {}
    for _ in range(arguments.repeat):
        with tempfile.TemporaryDirectory() as folder:
            homes = {which: Path(folder) / which for which in ("ours", "script")}
            for which, home in homes.items():
                home.mkdir()
                command = [sys.executable, __file__, "--worker", which, str(home)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                result = json.loads(done.stdout.splitlines()[-1])
                if which not in best or result["seconds"] < best[which]["seconds"]:
                    best[which] = result
            tables = compare(homes["ours"], homes["script"])
    ratio = best["ours"]["seconds"] / best["script"]["seconds"]
    print(f"{'table':26} {'rows':>10} {'script':>10}  columns")
    for name, row in tables.items():
        columns = "same" if row["same_columns"] else "DIFFERENT"
        print(f"{name:26} {row['rows']:>10,} {row['script_rows']:>10,}  {columns}")
    print(f"\n{'':26} {'seconds':>10} {'CPU s':>10} {'peak MB':>10} {'imports s':>10}")
    for which, result in best.items():
        print(
            f"{which:26} {result['seconds']:>10.2f} {result['cpu']:>10.2f} {result['peak_mb']:>10,.0f}"
            f" {result['imports']:>10.2f}"
        )
        for part, seconds in result["parts"].items():
            print(f"  {part:24} {seconds:>10.2f}")
    print(f"\nratio {ratio:.2f} (at most {MOST}): {'ok' if ratio <= MOST else 'TOO SLOW'}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"ratio": ratio, "most": MOST, "tables": tables, **best}, indent=1))
    sys.exit(0 if ratio <= MOST else 1)


if __name__ == "__main__":
    main()
