"""Quality rules of silver/demand against the expert labels of the EIA set: precision and recall, overall and by label.

    python benchmarks/quality.py [--json FILE]

A row counts as found when its quality is anything but `ok`, and as wrong when its label is anything but `OKAY`. Rows
that are missing are found trivially, so that the scores are printed without them, too. The labels were made by people
who saw what came after (ANOMALOUS_REGION marks whole stretches for the errors in them); the rules see only what came
before. Nothing of the labels enters silver.
"""

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from lakehouse_assets.bronze import demand as bronze
from lakehouse_assets.settings import get_settings
from lakehouse_assets.silver import demand as silver
from lakehouse_assets.sources.declaration import load_declaration
from lakehouse_assets.sources.landing import land
from lakehouse_assets.sources.series import series_table

FILE = "us_eia930_54ba_hourly_2015_2020.parquet"
EXAMPLE = Path(__file__).parents[1] / "examples" / "eia930.yaml"
LEAST_PRECISION = 0.9


def judged(data: Path) -> tuple[pl.DataFrame, float]:
    """Silver's rows of the whole set, and the seconds that judging took."""
    declaration, now = load_declaration(EXAMPLE), datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        landing = land(declaration, data, None, None, now, Path(folder))
    assert landing.frame is not None
    rows = bronze.transform(landing.frame.lazy(), declaration, "benchmark", now)
    first_months = rows.group_by("series_id").agg(first_month=pl.col("month").min()).collect()
    start = time.perf_counter()
    table, _ = silver.transform(rows, declaration, series_table(declaration, data), first_months)
    return table.collect(), time.perf_counter() - start


def scores(rows: pl.DataFrame) -> dict[str, float | int]:
    """Precision and recall of `found` for `wrong`."""
    both, found, wrong = (int(rows.select(e.sum()).item()) for e in (_FOUND & _WRONG, _FOUND, _WRONG))
    return {"precision": both / found, "recall": both / wrong, "found": found, "wrong": wrong}


_FOUND, _WRONG = pl.col("quality") != "ok", pl.col("category") != "OKAY"
_TRIVIAL = ["MISSING", "NEG_OR_ZERO", "IDENTICAL_RUN"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    data = get_settings().data
    labels = pl.read_parquet(data / FILE, columns=["region", "ts_utc", "category"])
    labels = labels.select("category", series_id="region", ts=pl.col("ts_utc").dt.replace_time_zone("UTC"))
    table, seconds = judged(data)
    rows = table.select("series_id", "ts", "quality").join(labels, on=["series_id", "ts"], how="full", coalesce=True)
    assert rows.height == labels.height == table.height, "rows were lost"
    print(f"{rows.height:,} rows judged in {seconds:.1f} s\n")

    overall = {
        "all labels": scores(rows),
        "without MISSING": scores(rows.filter(pl.col("category") != "MISSING", pl.col("quality") != "missing")),
        "spikes, jumps, runs": scores(
            rows.filter(
                ~pl.col("category").is_in(_TRIVIAL), ~pl.col("quality").is_in(["missing", "non_positive", "stuck"])
            )
        ),
    }
    print(f"{'':24} {'precision':>9} {'recall':>9} {'found':>9} {'wrong':>9}")
    for name, score in overall.items():
        print("{:24} {precision:9.3f} {recall:9.3f} {found:9,} {wrong:9,}".format(name, **score))

    qualities = [name for name in silver.QUALITY if name not in ("ok", "pending")]
    by_label = (
        rows.group_by("category")
        .agg(
            pl.len().alias("rows"),
            _FOUND.mean().alias("share"),
            *((pl.col("quality") == q).sum().alias(q) for q in qualities),
        )
        .sort("rows", descending=True)
    )
    print(f"\n{'label':24} {'rows':>9} {'found':>7} " + " ".join(f"{q:>12}" for q in qualities))
    for row in by_label.iter_rows(named=True):
        counts = " ".join(f"{row[q]:>12,}" for q in qualities)
        print(f"{row['category']:24} {row['rows']:>9,} {row['share']:>7.1%} {counts}")
    by_quality = rows.group_by("quality").agg(rows=pl.len(), precision=_WRONG.mean()).sort("rows", descending=True)
    print(f"\n{'quality':24} {'rows':>9} {'precision':>9}")
    for row in by_quality.filter(_FOUND).iter_rows(named=True):
        print("{quality:24} {rows:>9,} {precision:>9.3f}".format(**row))

    if arguments.json:
        result: dict[str, Any] = {"seconds": seconds, "overall": overall}
        result |= {"by_label": by_label.to_dicts(), "by_quality": by_quality.to_dicts()}
        arguments.json.write_text(json.dumps(result, indent=1))
    worst = min(overall[name]["precision"] for name in ("all labels", "without MISSING"))
    print(f"\nprecision at least {LEAST_PRECISION}: {'ok' if worst >= LEAST_PRECISION else 'TOO LOW'}")
    sys.exit(0 if worst >= LEAST_PRECISION else 1)


if __name__ == "__main__":
    main()
