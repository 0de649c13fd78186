"""The life of segments on real Delta tables, a real MLflow store and real Dagster runs."""

import json
import shutil
from pathlib import Path

import dagster as dg
import polars as pl

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.lifecycle.names import Names
from lakehouse_assets.models.load_segments import load_segments
from lakehouse_assets_tests.lifecycle.conftest import House, definitions_of
from lakehouse_assets_tests.ml.shapes import kinds_of, snapshot_times, snapshots

NAMES = Names("load_segments")


def test_segments_live_through_training_gate_prediction_and_monitoring(tmp_path: Path, migrated_store: Path) -> None:
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    kinds = kinds_of(8, 60)
    kinds[7, kinds[0] == 0] = 2
    rows = snapshots(kinds)
    lake = Lake(tmp_path / "lake")

    with dg.DagsterInstance.ephemeral() as instance:
        house = House(tmp_path, instance, definitions_of(load_segments, tmp_path), rows)

        def run(job: str, months: int) -> None:
            at = snapshot_times(months)[-1]
            lake.table("features/load_shape").overwrite(rows.filter(pl.col("as_of") <= at), partition_by=["month"])
            assert house.run(f"load_segments_{job}", at).success

        run("retrain", 5)
        run("predict", 6)
        run("retrain", 7)
        decisions = house.table("registry/load_segments").scan().collect().sort("version")
        assert decisions["decision"].to_list() == ["promoted", "promoted"]
        assert "0.0% of 60 customers" in decisions["reason"][1]
        assert json.loads(decisions["evidence"][1])["agreement"] == 1.0
        predicted = house.table("predictions/load_segments").scan().collect()
        assert predicted["as_of"].unique().sort().to_list() == snapshot_times(7), "the past is described, too"
        assert predicted.group_by("customer_id").agg(pl.col("segment").n_unique())["segment"].to_list() == [1] * 60
        assert predicted.filter(as_of=snapshot_times(7)[-1])["model_version"].unique().to_list() == [2]
        assert not house.table("monitoring/load_segments_errors").exists()

        run("monitor", 7)
        run("monitor", 8)
        judged = house.table("monitoring/load_segments_drift").scan().filter(comparison="challenger").collect()
        assert judged.sort("window_start")["verdict"].to_list() == ["ok", "drift"]
        event = instance.get_latest_materialization_event(NAMES.drift)
        told = event.asset_materialization.metadata
        assert told["verdict"].value == "drift"
        assert "segment" in told["findings"].value[0]["says"]
        training = instance.get_latest_materialization_event(NAMES.training).asset_materialization.metadata
        assert {"segments_picture", "number_picture", "map_picture", "moves_picture"} <= set(training)
