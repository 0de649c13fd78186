"""The life cycle of usage_anomalies: a training, an alarm with its reason, and weeks of monitoring."""

import shutil
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl

from lakehouse_assets.models.usage_anomalies import usage_anomalies
from lakehouse_assets_tests.lifecycle.conftest import House, definitions_of
from lakehouse_assets_tests.ml.days import FIRST, usage_frame


def test_a_detector_is_trained_alarms_and_is_watched(tmp_path: Path, migrated_store: Path) -> None:
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    frame = usage_frame(series=8, days=230)
    day = FIRST + timedelta(days=215)
    spike = (pl.col("as_of") == day) & (pl.col("series_id") == "s02")
    frame = frame.with_columns(r18=pl.when(spike).then(pl.lit(0.5, pl.Float32)).otherwise("r18"))
    name = usage_anomalies.name
    with dg.DagsterInstance.ephemeral() as instance:
        house = House(tmp_path, instance, definitions_of(usage_anomalies, tmp_path), pl.DataFrame())

        def operate(days: int, *jobs: str) -> None:
            at = FIRST + timedelta(days=days)
            known = frame.filter(pl.col("as_of") <= at)
            house.table("features/usage").overwrite(known, partition_by=["month"])
            for job in jobs:
                assert house.run(f"{name}_{job}", at + timedelta(hours=3)).success, job

        operate(200, "retrain", "predict")
        champion = house.registry.get(name, "champion")
        assert champion is not None
        operate(230, "predict", "monitor")
        predictions = house.table(f"predictions/{name}").scan().collect()
        alarm = predictions.filter(as_of=day, series_id="s02").row(0, named=True)
        assert alarm["alarm"]
        assert alarm["hours"] == "18-19"
        assert "MW above" in alarm["reason"]
        verdicts = house.table(f"monitoring/{name}_drift").scan().filter(comparison="challenger").collect()
        assert verdicts.sort("window_start")["verdict"].to_list()[-1] == "ok"
        assert verdicts["alarm_rate"].max() < 100
        event = instance.get_latest_materialization_event(dg.AssetKey(["monitoring", f"{name}_drift"]))
        assert event is not None
        shown = " ".join(event.asset_materialization.metadata)  # type: ignore[union-attr]
        assert "calendar" in shown, shown
