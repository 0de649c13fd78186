"""Segments of customers that last: the model beside the simulator's truth, trained anew three months in a row.

    python benchmarks/segments.py [--json FILE] [--customers N]

Simulated load profiles go through the project's tables to features/load_shape. The model's kind trains, its gate
decides, and the champion labels the month's snapshot after the labels before it, as in the life cycle: first when 16
snapshots are known, then in each of three months, always with another seed. Beside it: k-means on the shares of each
snapshot, which is told the true number of segments; its labels as they come, and matched to the month before (Hungarian
algorithm). The simulator's segments are clear; they are blurred, too: each share times log-normal noise of that sigma.

ari: adjusted Rand index with the truth, by month. Changed: the share of unchanged customers (a row in all four months,
one true segment all their time) with more than one label in them ("none" is one). Movers changed their true segment in
these months; followed: so did their label. Exit code 1: an index below 0.9 as simulated, or more than 2 % changed.
"""

import argparse
import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import linear_sum_assignment

from lakehouse_assets.bronze.usage import BronzeUsage
from lakehouse_assets.features import load_shape
from lakehouse_assets.lake.landed import record_batch
from lakehouse_assets.ml.definition import ALL
from lakehouse_assets.ml.segments import SHAPE
from lakehouse_assets.models.load_segments import load_segments
from lakehouse_assets.silver import usage
from lakehouse_assets.sources.declaration import SIMULATED, load_source
from lakehouse_assets.sources.landing import land_records
from lakehouse_assets.sources.simulated_customers import SEGMENTS, simulate_customers

START, END, TRAININGS = date(2022, 10, 1), date(2024, 5, 1), 4
MOVERS, BLURS = 0.1, (0.0, 0.4, 0.8)  # movers: more than usual, so that there are some to be followed
KEYS = ["as_of", "customer_id"]


def main() -> None:
    """Simulate, train month by month, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--customers", type=int, default=1000, help="customers at a time")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="segments_") as temporary:
        clear, truth = simulated(Path(temporary), arguments.customers)
    latest = pl.col("as_of").is_in(clear["as_of"].unique().sort().tail(TRAININGS).implode())
    trainings, rows = {}, []
    for blur in BLURS:
        shapes = blurred(clear, blur)
        trainings[str(blur)], labels = lived(shapes, blur)
        raw, matched = k_means(shapes.filter(latest))
        methods = {"load_segments": labels, "k-means, as they come": raw, "k-means, matched": matched}
        rows += [{"blur": blur, "labels": name, **compared(table, truth)} for name, table in methods.items()]
    print("blur  labels                 ari by month             unchanged  changed  movers  followed")
    line = "{blur:<6}{labels:<21}{:7.3f}{:6.3f}{:6.3f}{:6.3f}{unchanged:11,}{changed:9.1%}{movers:8}{followed:10}"
    for one in rows:
        print(line.format(*one["ari"], **one))
    if arguments.json:
        arguments.json.write_text(json.dumps({"trainings": trainings, "methods": rows}, indent=2) + "\n")
    if min(rows[0]["ari"]) < 0.9 or any(one["changed"] > 0.02 for one in rows if one["labels"] == "load_segments"):
        sys.exit("an adjusted Rand index below 0.9, or more than 2 % of the unchanged with a changed label")


def simulated(folder: Path, customers: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of features/load_shape, and the truth about them: as_of, customer_id, true, still (one segment always)."""
    made = simulate_customers(folder, start=START, end=END, customers=customers, seed=1, movers=MOVERS)
    layout, now = load_source(SIMULATED).customers.layout("usage"), datetime.now(UTC)
    landed = land_records(layout, folder, None, now, now, folder / "set_aside").frame
    bronze = record_batch(landed.lazy(), BronzeUsage, "simulated", layout.start, "benchmark", now)
    silver, rejected = pl.collect_all(usage.transform(bronze))
    times = pl.datetime_range(START, END, "1mo", time_zone="UTC", eager=True)[1:]
    shapes = load_shape.transform(times.to_list(), silver.lazy()).collect()
    print(f"{landed.height:,} profiles landed, {rejected.height:,} in quarantine; {shapes.height:,} shapes")
    # A snapshot is of the month before it.
    truth = pl.read_parquet(made.truth).select(
        "customer_id",
        as_of=pl.col("month").dt.offset_by("1mo").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        true="segment",
        still=pl.col("segment").n_unique().over("customer_id") == 1,
    )
    return shapes, truth


def blurred(shapes: pl.DataFrame, sigma: float) -> pl.DataFrame:
    """The shapes with noise of the hours' logarithms."""
    noisy = shapes.select(SHAPE).to_numpy() * np.random.default_rng(2).lognormal(0, sigma, (len(shapes), len(SHAPE)))
    days = noisy.reshape(-1, 2, 24)
    days /= days.sum(axis=2, keepdims=True)
    return shapes.with_columns(pl.DataFrame(days.reshape(noisy.shape), schema=list(SHAPE)))


def lived(shapes: pl.DataFrame, blur: float) -> tuple[list[dict[str, object]], pl.DataFrame]:
    """The model's life: what each training came to, printed, and as_of, customer_id, segment."""
    kind, champion, table, told = load_segments.kind, None, pl.DataFrame(), []
    for number, at in enumerate(shapes["as_of"].unique().sort().tail(TRAININGS), start=1):
        known = shapes.filter(pl.col("as_of") <= at)
        result = kind.backtest(kind.dataset(known), load_segments.candidates, champion=champion, seed=number)
        decision = kind.gate(result, result.best, load_segments.gate, has_champion=champion is not None)
        fitted = result.fitted[result.best]
        champion = kind.compose({number: fitted}, {ALL: number}, number) if decision.promote else champion
        if champion is None:
            sys.exit(f"the first model was not promoted, there are no labels to compare: {decision.reason}")
        print(f"blur {blur:g}, {at:%Y-%m-%d}, {result.best}, {len(fitted.numbers)} segments: {decision.reason}")
        clear = dict(zip(fitted.curve.numbers, fitted.curve.silhouettes, strict=True))
        told.append({"as_of": str(at), "segments": fitted.called, "silhouettes": clear, "decision": decision.reason})
        predicted = champion.predict(known.filter(pl.col("as_of") == at))
        earlier = predicted.clear() if table.is_empty() else table
        table = pl.concat([earlier, kind.calibrate(predicted, earlier.lazy(), known.lazy())])
    print("  silhouettes by number of segments: " + ", ".join(f"{n}: {clear[n]:.3f}" for n in clear))
    return told, table.select(*KEYS, "segment")


def k_means(shapes: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Labels of k-means that is fitted on each snapshot anew: as they come, and matched to the month before."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import confusion_matrix

    raw, matched = [], []
    for number, snapshot in enumerate(shapes.sort("as_of").partition_by("as_of")):
        found = KMeans(len(SEGMENTS), n_init=10, random_state=number).fit_predict(snapshot.select(SHAPE).to_numpy())
        raw.append(snapshot.select(*KEYS, segment=pl.Series(found, dtype=pl.Int64)))
        both = raw[-1].join(matched[-1] if matched else raw[-1], on="customer_id", suffix="_before")
        common = confusion_matrix(both["segment"], both["segment_before"], labels=range(len(SEGMENTS)))
        goes_on = linear_sum_assignment(common, maximize=True)[1]
        matched.append(raw[-1].with_columns(segment=pl.Series(goes_on[found], dtype=pl.Int64)))
    return pl.concat(raw), pl.concat(matched)


def compared(labels: pl.DataFrame, truth: pl.DataFrame) -> dict[str, Any]:
    """Agreement with the truth by month, and how many of the unchanged and the movers changed their label."""
    from sklearn.metrics import adjusted_rand_score

    both = labels.with_columns(pl.col("segment").fill_null(-1)).join(truth, on=KEYS).sort("as_of")
    there = both.group_by("customer_id").agg(pl.len(), pl.col("still").all(), pl.col("true", "segment").n_unique())
    there = there.filter(pl.col("len") == TRAININGS).with_columns(changed=pl.col("segment") > 1)
    still, moved = (there.filter(who)["changed"].to_numpy() for who in (pl.col("still"), pl.col("true") > 1))
    ari = [float(adjusted_rand_score(*month.select("true", "segment"))) for month in both.partition_by("as_of")]
    changed, followed = float(still.mean()), int(moved.sum())
    return {"ari": ari, "unchanged": len(still), "changed": changed, "movers": len(moved), "followed": followed}


if __name__ == "__main__":
    main()
