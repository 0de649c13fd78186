"""Day-ahead forecasts of Victoria's demand in December 2014 without the weather, by the published protocol.

Hourly means, learned from 2012-01-01 to 2014-11-30; from 2014-12-01 on 24 hours from each midnight in Melbourne, 30
days, without another fit and without the weather. Published under it (notebook after the tutorial "Forecasting
electricity demand" of cienciadedatos.net and skforecast; reproduced): ridge on 24 lags 289.5 MW, on nine chosen ones
251.9 MW. Here the product is run: `lakehouse run` until the test begins, in a home of its own, then rows land and are
refined day after day while the champion stays what it is.
"""

import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "examples" / "vic_elec.yaml"
FILE = "au_vic_elec_2012_2014.parquet"
START, DAYS = datetime(2014, 11, 30, 13, tzinfo=UTC), 30  # midnight in Melbourne
PUBLISHED = {"ridge, 24 lags": 289.5, "ridge, nine lags": 251.9}


def measure() -> dict[str, float]:
    """Operate the home that LAKEHOUSE_HOME names, which must be new, and score the test: mae (MW), hours."""
    import polars as pl

    from lakehouse_assets.lake.table import Lake
    from lakehouse_assets.operation.execution import Operator
    from lakehouse_assets.operation.home import open_instance
    from lakehouse_assets.operation.run import run_everything
    from lakehouse_assets.settings import get_settings

    settings = get_settings()
    end = START + timedelta(days=DAYS)
    until = f"{START:%Y-%m-%dT%H:%M}"
    command = [sys.executable, "-m", "lakehouse_assets.cli", "run", "--config", str(CONFIG), "--until", until]
    subprocess.run(command, check=True, stdout=sys.stderr)
    with open_instance(settings) as instance:
        from lakehouse_assets.definitions import defs

        operator = Operator(defs, instance)
        for _ in run_everything(operator, [], end):  # lands and refines: no model
            pass
        operator.run("demand_forecast_predict", at=end)
    truth = (
        pl.scan_parquet(settings.data / FILE)
        .group_by(ts=pl.col("Time").dt.truncate("1h").dt.replace_time_zone("UTC"))
        .agg(mw=pl.col("Demand").mean())
    )
    hours = (
        Lake.from_settings()
        .table("predictions/demand_forecast")
        .scan()
        .filter(pl.col("issued_at").is_between(START, end, closed="left"))
        .join(truth, on="ts")
        .select(error=(pl.col("yhat") - pl.col("mw")).abs(), version="model_version")
        .collect()
    )
    if hours.height != 24 * DAYS or hours["version"].n_unique() != 1:
        sys.exit(f"{hours.height} hours by {hours['version'].n_unique()} models; expected {24 * DAYS} by one")
    return {"mae": round(float(hours["error"].mean()), 2), "hours": hours.height}  # type: ignore[arg-type]


def vic_elec() -> dict[str, float]:
    """Run this script in a process and a home of its own, since a process knows one declaration; returns its figures.

    Raises:
        subprocess.CalledProcessError: the run failed; its messages stand on the error stream.
    """
    with tempfile.TemporaryDirectory(prefix="vic_elec_") as home:
        environment = os.environ | {"LAKEHOUSE_HOME": home}
        environment.pop("LAKEHOUSE_CONFIG", None)
        output = subprocess.run(
            [sys.executable, __file__], env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    print("\nVictoria in December 2014, mean absolute error in MW over 720 hours, without the weather")
    for name, mae in {"here": figures["mae"], **PUBLISHED}.items():
        print(f"  {name:20s} {mae:6.1f}")
    return figures


if __name__ == "__main__":
    print(json.dumps(measure()))
