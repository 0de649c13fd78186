"""Accuracy on published data and protocols, ours beside what others reached.

The EIA set, region by region, against the operators' own day-ahead forecasts, has two parts, on the hours that
an expert labelled OKAY, scored against the values as reported:

- what a replayed year wrote to predictions/demand_forecast (`lakehouse run` and `lakehouse replay` first, see README);
- `--unaided`: the same recipe without the published forecast, refitted every four weeks from features/demand.

Seven regions have broken or biased published forecasts and are left out of the summary, as in the published probe.
`--mlforecast` puts a peer beside them, on the same hours, in an environment of its own (see peers.py).

`--m4` runs the hourly series of the M4 competition in a home of their own (see m4_hourly.py). The M3 competition has
yearly, quarterly, monthly and other series without dates and none that is hourly; the product forecasts on an hourly
grid, so that there is no honest row for it.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from m4_hourly import m4_hourly
from peers import peers_python
from vic_elec import vic_elec

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.ml.estimators import Blend
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets.ml.intervals import BANDS
from lakehouse_assets.models.demand_forecast import demand_forecast
from lakehouse_assets.settings import get_settings

FILE = "us_eia930_54ba_hourly_2015_2020.parquet"
LEFT_OUT = ("AEC", "CHPD", "SPA", "PSEI", "FPC", "TEPC", "WALC")
START, END = datetime(2019, 7, 2, tzinfo=UTC), datetime(2020, 7, 1, tzinfo=UTC)


def truth() -> pl.LazyFrame:
    """Hours labelled OKAY: series_id, ts, raw_mw, operator (its published forecast)."""
    path = get_settings().data / FILE
    if not path.exists():
        sys.exit(f"{path} is not there; LAKEHOUSE_DATA says where the real data lies")
    return (
        pl.scan_parquet(path)
        .filter((pl.col("category") == "OKAY") & ~pl.col("region").is_in(LEFT_OUT) & (pl.col("raw_mw") > 0))
        .select(
            series_id="region",
            ts=pl.col("ts_utc").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            raw_mw=pl.col("raw_mw").cast(pl.Float64),
            operator=pl.col("ba_forecast_mw").cast(pl.Float64),
        )
    )


def score(forecasts: pl.LazyFrame) -> pl.DataFrame:
    """Forecasts (issued_at, series_id, ts, yhat) of the year -> series_id, hours, mape, operator_mape."""

    def mape(column: str) -> pl.Expr:
        return ((pl.col(column) - pl.col("raw_mw")).abs() / pl.col("raw_mw")).mean()

    year = forecasts.filter((pl.col("issued_at") >= START) & (pl.col("issued_at") < END))
    return (
        year.join(truth(), on=["series_id", "ts"])
        .group_by("series_id")
        .agg(hours=pl.len(), mape=mape("yhat"), operator_mape=mape("operator"))
        .sort("series_id")
        .collect()
    )


def coverage(forecasts: pl.LazyFrame) -> dict[str, float]:
    """Shares of the year's values inside their intervals, in percent: overall, and in the month farthest off."""
    year = forecasts.filter((pl.col("issued_at") >= START) & (pl.col("issued_at") < END), pl.col("q10").is_not_null())
    shares = [pl.col("raw_mw").is_between(lower, upper).mean().alias(band) for band, (lower, upper) in BANDS.items()]
    months = pl.col("ts").dt.truncate("1mo").alias("month")
    rows = year.join(truth(), on=["series_id", "ts"])
    overall, monthly = pl.collect_all([rows.select(shares), rows.group_by(months).agg(shares)])
    if monthly.is_empty():
        return {}
    worst = {band: max(monthly[band], key=lambda share, band=band: abs(share - float(band) / 100)) for band in BANDS}
    return {
        **{f"coverage_{band}": round(100 * overall[band].item(), 2) for band in BANDS},
        **{f"worst_month_{band}": round(100 * worst[band], 2) for band in BANDS},
    }


def summary(scores: pl.DataFrame) -> dict[str, float]:
    """Median MAPE over the regions, and how many are better than their operator."""
    return {
        "median_mape": round(100 * float(scores["mape"].median()), 3),  # type: ignore[arg-type]
        "operator_median_mape": round(100 * float(scores["operator_mape"].median()), 3),  # type: ignore[arg-type]
        "regions": scores.height,
        "regions_better": int((scores["mape"] < scores["operator_mape"]).sum()),
    }


def unaided(lake: Lake) -> pl.LazyFrame:
    """Forecasts of the model's own candidates without anything of the published forecast."""
    features = lake.table("features/demand").scan()
    published = re.compile(r"forecast_|error_|.*published_forecast|.*_error_")
    names = [name for name in features.collect_schema().names() if not published.match(name)]
    kind = demand_forecast.kind
    assert isinstance(kind, Forecast)
    candidates = {
        name: candidate
        for name, candidate in demand_forecast.candidates.items()
        if not getattr(candidate, "on_published", False) and not isinstance(candidate, Blend)
    }
    blend = demand_forecast.candidates["blend"]
    assert isinstance(blend, Blend)
    candidates["blend"] = Blend(tuple(name for name in blend.members if name in candidates))
    panel = kind.dataset(features.select(names)).panel()
    model = None
    parts = []
    at = START
    while at < END:
        if model is None:
            result = kind.backtest(panel, candidates, cutoff=at, seed=get_settings().seed)
            model = result.fitted[result.best]
            print(f"without the published forecast: {result.best}", file=sys.stderr)
        else:
            model = kind.refit(model, panel, at)
        until = min(at + timedelta(days=28), END)
        day = timedelta(microseconds=1)
        window = panel.between(int(at.timestamp() * 1e6), int((until - day).timestamp() * 1e6))
        parts.append(model.predict(window))
        at = until
    return pl.concat(parts).lazy()


def mlforecast(peers: Path) -> pl.LazyFrame:
    """Forecasts of the year by mlforecast: one global LightGBM, one fit, recursive; on values that experts screened."""
    hours = (
        pl.scan_parquet(get_settings().data / FILE)
        .filter(pl.col("ts_utc") < END.replace(tzinfo=None))
        .sort("region", "ts_utc")
        .select(unique_id="region", ds="ts_utc", y=pl.coalesce("imputed_mw", "raw_mw").cast(pl.Float64))
        .with_columns(pl.col("y").forward_fill().over("unique_id"))
    )
    with tempfile.TemporaryDirectory() as folder:
        read, written = Path(folder, "hours.parquet"), Path(folder, "forecasts.parquet")
        hours.sink_parquet(read)
        script = Path(__file__).with_name("mlforecast_eia930.py")
        arguments = [str(script), str(read), str(written), str((END - START).days)]
        said = subprocess.run([peers_python(peers), *arguments], stdout=subprocess.PIPE, text=True, check=True)
        print(f"mlforecast: {said.stdout.strip()} s", file=sys.stderr)
        frame = pl.read_parquet(written)
    # Its cutoff is the last hour that is known: the issue time is an hour later.
    issued = (pl.col("cutoff") + pl.duration(hours=1)).dt.replace_time_zone("UTC")
    ts = pl.col("ds").dt.replace_time_zone("UTC")
    return frame.lazy().select(
        issued_at=issued.dt.cast_time_unit("us"),
        series_id=pl.col("unique_id").cast(pl.String),
        ts=ts.dt.cast_time_unit("us"),
        yhat=pl.col("forecast").cast(pl.Float64),
    )


def show(title: str, scores: pl.DataFrame, regions: bool) -> dict[str, float]:
    """Print a part and return its summary."""
    figures = summary(scores)
    print(f"\n{title}")
    if regions:
        with pl.Config(tbl_rows=-1, float_precision=4, tbl_hide_dataframe_shape=True):
            print(scores)
    print(
        f"median MAPE over {figures['regions']} regions {figures['median_mape']:.2f} % "
        f"(operators: {figures['operator_median_mape']:.2f} %); "
        f"{figures['regions_better']} regions better than their operator"
    )
    return figures


def show_coverage(forecasts: pl.LazyFrame) -> dict[str, float]:
    """Print the coverage of the intervals and return it."""
    figures = coverage(forecasts)
    for band in BANDS if figures else ():
        print(
            f"{band} % intervals: {figures[f'coverage_{band}']:.1f} % of the hours inside; "
            f"{figures[f'worst_month_{band}']:.1f} % in the month farthest off"
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unaided", action="store_true", help="also without the published forecast")
    parser.add_argument("--regions", action="store_true", help="print every region")
    parser.add_argument("--mlforecast", action="store_true", help="also mlforecast with LightGBM on the same year")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environment (default: in LAKEHOUSE_HOME)")
    parser.add_argument("--m4", action="store_true", help="also M4 hourly, in a home below LAKEHOUSE_HOME")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--vic-elec", action="store_true", help="also Victoria in December 2014 (see vic_elec.py)")
    arguments = parser.parse_args()
    lake = Lake.from_settings()
    predictions = lake.table("predictions/demand_forecast")
    figures: dict[str, dict[str, float]] = {}
    of_the_year = score(predictions.scan()) if predictions.exists() else pl.DataFrame()
    if not of_the_year.is_empty():
        title = "replayed year, predictions/demand_forecast joined to raw_mw"
        figures["eia930"] = show(title, of_the_year, arguments.regions)
        if "q10" in predictions.schema():
            figures["eia930"] |= show_coverage(predictions.scan())
    elif arguments.mlforecast or arguments.m4 or arguments.vic_elec:
        print("eia930: left out, it is not in predictions/demand_forecast (run and replay the EIA set, see README.md)")
    else:
        sys.exit("predictions/demand_forecast holds nothing of the EIA year; run and replay it first, see README.md")
    if arguments.unaided:
        scores = score(unaided(lake))
        figures["eia930_unaided"] = show("without the published forecast", scores, arguments.regions)
    if arguments.vic_elec:
        figures["vic_elec"] = vic_elec()
    if arguments.mlforecast:
        scores = score(mlforecast(arguments.peers or get_settings().home / "peers"))
        show("mlforecast 1.1, LightGBM, one fit, recursive, without the published forecast", scores, arguments.regions)
    if arguments.m4:
        figures["m4_hourly"] = m4_hourly(get_settings().home / "m4_hourly")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
