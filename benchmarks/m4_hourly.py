"""The hourly series of the M4 competition by its own measures: sMAPE, MASE and OWA (Makridakis et al. 2020).

414 series of 700 or 960 hours; the next 48 are forecast once. `lakehouse run --config examples/m4_hourly.yaml` does it,
in a home of its own; here its predictions meet the 48 hours, which that run has never seen.
"""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.settings import get_settings

CONFIG = Path(__file__).parents[1] / "examples" / "m4_hourly.yaml"
TRAIN, TEST = "m4_hourly_train.parquet", "m4_hourly_test.parquet"
HOURS, SEASON = 48, 24
SOURCE = "Mcompetitions/M4-methods, commit 6c1067e5: Evaluation and Ranks.xlsx, Point Forecasts - Frequency"
NAIVE2 = (18.383, 2.395)
PUBLISHED = {  # sMAPE (%), MASE, OWA
    "Doornik, Castle, Hendry (best hourly)": (8.913, 0.801, 0.410),
    "Smyl (winner of the competition)": (9.328, 0.893, 0.440),
    "Pawlikowski et al.": (9.611, 0.873, 0.444),
    "Jaganathan, Prakash": (9.934, 0.976, 0.474),
    "Montero-Manso et al. (FFORMA)": (11.506, 0.819, 0.484),
    "seasonal naive": (13.912, 1.193, 0.627),
    "MLP": (13.842, 2.607, 0.921),
    "SES": (18.094, 2.385, 0.990),
    "Naive2": (*NAIVE2, 1.000),
    "Theta": (18.138, 2.455, 1.006),
}


def m4_hourly(folder: Path) -> dict[str, float]:
    """Run the product in a home in the folder, unless that has been done, and print the table: smape, mase, owa."""
    data = get_settings().data
    if not (data / TRAIN).exists() or not (data / TEST).exists():
        sys.exit(f"{TRAIN} and {TEST} are not in {data}; LAKEHOUSE_DATA says where the real data lies")
    lake = Lake(str(folder / "lake"))
    if not lake.table("predictions/demand_forecast").exists():
        print(f"lakehouse run --config {CONFIG.name}, in {folder}", file=sys.stderr)
        subprocess.run(
            [sys.executable, "-m", "lakehouse_assets.cli", "run", "--config", str(CONFIG)],
            env=os.environ | {"LAKEHOUSE_HOME": str(folder)},
            stdout=sys.stderr,
            check=True,
        )
    figures = score(
        lake.table("predictions/demand_forecast").scan(), pl.scan_parquet(data / TRAIN), pl.scan_parquet(data / TEST)
    )
    show(figures)
    return figures


def score(predictions: pl.LazyFrame, train: pl.LazyFrame, test: pl.LazyFrame) -> dict[str, float]:
    """The three measures, each a mean over the series.

    sMAPE = mean of 200 |y - f| / (|y| + |f|); MASE = mean |y - f| over the mean |y[t] - y[t - 24]| of the training
    hours; OWA = the mean of both relative to those of Naive2.

    predictions: series_id, horizon, yhat, of one issue time. train, test: unique_id, t, y.
    """
    step = pl.col("y").diff(SEASON).abs().mean()
    scales = train.sort("unique_id", "t").group_by("unique_id").agg(scale=step)
    forecasts = predictions.select("issued_at", unique_id="series_id", t=pl.col("horizon").cast(pl.Int32) + 1, f="yhat")
    hours = (
        test.join(scales, on="unique_id")
        .join(forecasts, on=["unique_id", "t"], how="left")
        .with_columns(error=(pl.col("y") - pl.col("f")).abs())
        .collect()
    )
    if hours["f"].null_count() or hours["issued_at"].n_unique() != 1:
        sys.exit("the predictions are not those of one issue time for every series; delete the home and run again")
    series = hours.group_by("unique_id").agg(
        hours=pl.len(),
        smape=(200 * pl.col("error") / (pl.col("y").abs() + pl.col("f").abs())).mean(),
        mase=pl.col("error").mean() / pl.col("scale").first(),
    )
    assert set(series["hours"]) == {HOURS}
    smape, mase = series.select(pl.col("smape", "mase").mean()).row(0)
    owa = (smape / NAIVE2[0] + mase / NAIVE2[1]) / 2
    return {"smape": round(smape, 3), "mase": round(mase, 3), "owa": round(owa, 4)}


def show(figures: dict[str, float]) -> None:
    """Print ours among the entrants, the best first."""
    rows = [(name, *values, SOURCE.split(",")[0]) for name, values in PUBLISHED.items()]
    rows.append(("lakehouse_assets", *figures.values(), "this run"))
    print("\nM4 hourly: 414 series, 48 hours, means over the series")
    print(f"{'':40}{'sMAPE %':>9}{'MASE':>9}{'OWA':>9}  source")
    for name, smape, mase, owa, source in sorted(rows, key=lambda row: row[3]):
        print(f"{name:40}{smape:9.3f}{mase:9.3f}{owa:9.3f}  {source}")
    print(f"published: {SOURCE}")
