"""The EIA set with one row in a hundred corrupted at random: the runs complete, and each such row is found.

    python benchmarks/corruption.py [--json FILE] [--share 0.01] [--seed 1]

Wrong types, impossible dates, negative and huge values, and columns that have changed places (each of them: a value and
its forecast that are swapped with each other look like what they are) are written into a csv file of the whole set,
which is landed and refined up to the features by real Dagster runs with their blocking checks. Every corrupted row has
to be in the quarantine or flagged in silver; how many others are flagged that were not before is printed, too.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

FILE = "us_eia930_54ba_hourly_2015_2020.parquet"
EXAMPLE = Path(__file__).parents[1] / "examples" / "eia930.yaml"
COLUMNS = ["region", "ts_utc", "raw_mw", "ba_forecast_mw"]
NO_NUMBERS = ["abc", "12,5", "#REF!", "1.2.3", "inf", "0x1F", "true", "2019-01-01", "--5", "1 000"]
NO_TIMES = [
    "2019-02-30T00:00:00",
    "2018-13-01T00:00:00",
    "2017-06-01T25:00:00",
    "9999-01-01T00:00:00",
    "1899-12-31",
    "x",
]
KINDS = ("wrong type of value", "wrong type of forecast", "impossible date", "negative", "huge", "columns shuffled")


def corrupted(share: float, seed: int, data: Path) -> pl.DataFrame:
    """The rows as text, with `kind`: null, or how the row was corrupted."""
    rng = np.random.default_rng(seed)
    rows = pl.read_parquet(data / FILE, columns=COLUMNS)
    numbers = rows["raw_mw"].to_numpy().astype(float)
    text = rows.with_columns(pl.col("ts_utc").dt.strftime("%Y-%m-%dT%H:%M:%S"), pl.col(COLUMNS[2:]).cast(pl.String))
    fields = {name: text[name].to_numpy().copy() for name in COLUMNS}
    kind = np.full(rows.height, -1)
    chosen = rng.choice(rows.height, int(share * rows.height), replace=False)
    kind[chosen] = rng.integers(0, len(KINDS), chosen.size)
    for row in chosen:
        match KINDS[kind[row]]:
            case "wrong type of value":
                fields["raw_mw"][row] = rng.choice(NO_NUMBERS)
            case "wrong type of forecast":
                fields["ba_forecast_mw"][row] = rng.choice(NO_NUMBERS)
            case "impossible date":
                fields["ts_utc"][row] = rng.choice(NO_TIMES)
            case "negative" if not np.isnan(numbers[row]):
                fields["raw_mw"][row] = str(-abs(numbers[row]))
            case "huge" if not np.isnan(numbers[row]):
                fields["raw_mw"][row] = str((abs(numbers[row]) + 1) * 10 ** rng.uniform(1, 6))
            case "columns shuffled":
                by = rng.integers(1, 4)
                for name, value in zip(COLUMNS, np.roll([fields[name][row] for name in COLUMNS], by), strict=True):
                    fields[name][row] = value
    names = pl.Series(KINDS).gather(pl.Series(kind).replace(-1, None))
    return pl.DataFrame({name: pl.Series(values, dtype=pl.String) for name, values in fields.items()} | {"kind": names})


def refined(home: Path, rows: pl.DataFrame) -> dict[str, Any]:
    """Land and refine the rows in a home of their own; what became of each."""
    landing = home / "landing"
    landing.mkdir(parents=True)
    declaration = yaml.safe_load(EXAMPLE.read_text())
    declaration["files"] = {"glob": "corrupted.csv", "format": "csv"}
    declaration["series"]["file"] = str(EXAMPLE.with_name("eia930_series.csv"))
    (landing / "source.yaml").write_text(yaml.safe_dump(declaration))
    rows.drop("kind").write_csv(landing / "corrupted.csv")
    os.environ["LAKEHOUSE_HOME"] = str(home)
    os.environ.pop("LAKEHOUSE_CONFIG", None)

    import dagster as dg

    from lakehouse_assets.bronze import demand as bronze
    from lakehouse_assets.features import demand as features
    from lakehouse_assets.gold import demand_daily, demand_hourly
    from lakehouse_assets.lake.clock import Clock
    from lakehouse_assets.lake.io_manager import DeltaIOManager
    from lakehouse_assets.lake.resource import LakeResource
    from lakehouse_assets.lake.table import Lake
    from lakehouse_assets.silver import demand as silver
    from lakehouse_assets.sources.partitions import MONTHS

    root = str(home / "lake")
    resources = {"io_manager": DeltaIOManager(root_uri=root), "lake": LakeResource(root_uri=root), "clock": Clock()}
    first = str(MONTHS.get_first_partition_key())
    # Rows without a readable time lie in the month in which they are landed.
    tags = {"dagster/asset_partition_range_start": first}
    tags["dagster/asset_partition_range_end"] = datetime.now(UTC).date().replace(day=1).isoformat()
    start = time.perf_counter()
    for modules, run_tags in (((bronze,), {}), ((silver, demand_hourly, demand_daily, features), tags)):
        assets = [v for m in modules for v in vars(m).values() if isinstance(v, dg.AssetsDefinition)]
        run = dg.materialize(assets, resources=resources, tags=run_tags)
        assert run.success
    seconds = time.perf_counter() - start
    lake = Lake(root)
    counts = {key: lake.table(key).row_count() for key in lake.tables()}
    quarantined = lake.table("silver/demand_quarantine").scan().select("row_number", "rules")
    kept = lake.table("silver/demand").scan().select("row_number", "quality")
    found = (
        rows.lazy()
        .select("kind", row_number=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
        .join(quarantined, on="row_number", how="left")
        .join(kept, on="row_number", how="left")
        .collect()
    )
    return {"seconds": seconds, "counts": counts, "rows": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result there")
    parser.add_argument("--share", type=float, default=0.01, help="share of rows that are corrupted")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    from lakehouse_assets.settings import read_settings

    rows = corrupted(arguments.share, arguments.seed, read_settings().data)
    with tempfile.TemporaryDirectory() as folder:
        result = refined(Path(folder) / "home", rows)
    where = (
        pl.when(pl.col("rules").is_not_null())
        .then(pl.lit("quarantined"))
        .when(pl.col("quality") != "ok")
        .then(pl.lit("flagged"))
        .when(pl.col("quality") == "ok")
        .then(pl.lit("taken for good"))
        .otherwise(pl.lit("lost"))
    )
    outcomes = ["quarantined", "flagged", "taken for good", "lost"]
    table = (
        result["rows"]
        .group_by("kind")
        .agg(rows=pl.len(), **{name: (where == name).sum() for name in outcomes})
        .sort("kind", nulls_last=True)
    )
    print(f"{'corrupted':26} {'rows':>10} " + " ".join(f"{name:>14}" for name in outcomes))
    for row in table.iter_rows(named=True):
        numbers = " ".join(f"{row[name]:>14,}" for name in outcomes)
        print(f"{row['kind'] or '(not)':26} {row['rows']:>10,} {numbers}")
    bad = table.filter(pl.col("kind").is_not_null())
    total, missed = int(bad["rows"].sum()), int((bad["taken for good"] + bad["lost"]).sum())
    print(f"\nlanded and refined in {result['seconds']:.1f} s: {result['counts']}")
    print(
        f"{total - missed:,} of {total:,} corrupted rows are in quarantine or flagged: {'NOT ALL' if missed else 'ok'}"
    )
    if arguments.json:
        report = {"corrupted": total, "missed": missed, "by_kind": table.to_dicts(), "counts": result["counts"]}
        arguments.json.write_text(json.dumps(report, indent=1))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
