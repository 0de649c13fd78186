"""A registered fleet in an empty environment: MLflow, what the version names as its requirements, and nothing else."""

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from mlflow import __version__ as mlflow_version

from lakehouse_assets.lifecycle.training import _signature
from lakehouse_assets.ml.estimators import Blend, Boosting, Ridge, SeasonalNaive
from lakehouse_assets.ml.fitted import ShardedForecast
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves
from lakehouse_assets_tests.registry.conftest import registry_in

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
CUTOFF = datetime(2023, 4, 24, tzinfo=UTC)
SCRIPT = """
import sys
import mlflow.pyfunc
import pandas as pd

model = mlflow.pyfunc.load_model(sys.argv[1])
forecasts = model.predict(pd.read_parquet(sys.argv[2]))
assert "dagster" not in sys.modules and "deltalake" not in sys.modules
print(forecasts.to_json(orient="records", date_format="iso"))
"""


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv makes the environment")
def test_a_version_forecasts_where_there_is_nothing_but_mlflow(tmp_path: Path, migrated_store: Path) -> None:
    frame = feature_frame(*load_curves(3, 130))
    kind = Forecast(spread=2, recent=2, shard_series=2)
    candidates = {
        "seasonal_naive": SeasonalNaive(),
        "ridge": Ridge(),
        "boosting": Boosting(iterations=4, rows=2000),
        "blend": Blend(("ridge", "boosting")),
    }
    fleet = kind.backtest(kind.dataset(frame.filter(pl.col("issued_at") <= CUTOFF)), candidates, cutoff=CUTOFF)
    model = fleet.fitted["blend"]
    assert isinstance(model, ShardedForecast)
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    registry = registry_in(tmp_path)
    with registry.run("demand", "training") as run:
        registry.register(run, "demand", model, signature=_signature(model, frame.head(1)))
    (folder,) = {file.parent for file in tmp_path.rglob("MLmodel")}

    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run(["uv", "venv", "--quiet", "--python", "3.11", tmp_path / "empty"], check=True)
    subprocess.run(
        [
            *("uv", "pip", "install", "--quiet", "--python", python, "-c", CONSTRAINTS),
            *(f"mlflow-skinny=={mlflow_version}", "-r", folder / "requirements.txt"),
        ],
        check=True,
    )
    # several series and issue times, in no order, one of them unknown to the fleet, and columns that it does not need
    latest = frame.filter(pl.col("issued_at") >= pl.col("issued_at").max().dt.offset_by("-1d"))
    mixed = pl.concat([latest, latest.filter(series_id="S1").with_columns(series_id=pl.lit("stranger"))])
    mixed = mixed.sample(fraction=1, shuffle=True, seed=1).with_columns(remark=pl.lit("x"))
    rows = mixed.with_columns(cs.datetime().dt.replace_time_zone(None).dt.cast_time_unit("ns"))
    rows.write_parquet(tmp_path / "rows.parquet")
    command = [python, "-c", SCRIPT, folder, tmp_path / "rows.parquet"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert shown.returncode == 0, shown.stderr
    forecasts = pl.DataFrame(json.loads(shown.stdout)).with_columns(
        cs.by_name("issued_at", "ts").str.to_datetime(time_zone="UTC")
    )
    keys = ["series_id", "issued_at", "ts"]
    expected = model.predict(mixed).sort(keys)
    assert forecasts.sort(keys)["series_id"].to_list() == expected["series_id"].to_list()
    np.testing.assert_allclose(forecasts.sort(keys)["yhat"], expected["yhat"], rtol=1e-8)
