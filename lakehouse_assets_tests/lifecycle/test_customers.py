"""A model of customers lives through the life cycle: trained, promoted, predicting, watched, trained again."""

import json
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from lakehouse_assets.ml.classification import Classification
from lakehouse_assets.ml.definition import DriftPolicy, ModelDefinition, RetrainPolicy
from lakehouse_assets.ml.recipes import DecisionTree, Logistic
from lakehouse_assets_tests.lifecycle.conftest import House, definitions_of
from lakehouse_assets_tests.ml.customers import months, snapshots

CHURN = ModelDefinition(
    name="churn",
    description="Whether a customer leaves.",
    features="features/customer",
    target="churned",
    kind=Classification(outcomes=("margin_12m",), origins=3, resamples=40),
    candidates={"logistic": Logistic(), "tree": DecisionTree()},
    drift=DriftPolicy(channels=("input", "error")),
    retrain=RetrainPolicy(cooldown_days=10),
    group="region",
)
DRIFT = dg.AssetKey(["monitoring", "churn_drift"])
SHOCK = 15


@pytest.fixture
def house(tmp_path: Path, migrated_store: Path) -> Iterator[House]:
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(tmp_path, instance, definitions_of(CHURN, tmp_path), pl.DataFrame())


def test_a_model_of_customers_is_trained_watched_and_trained_again(house: House) -> None:
    world = snapshots(22, 200, base=-1.0, shock=SHOCK, known=0)

    def operate(month: int, *jobs: str, **tags: str) -> None:
        """Jobs at a snapshot, whose customers' labels are known three months later."""
        at = months(22)[month]
        rows = world.filter(pl.col("as_of") <= at)
        unknown = pl.col("as_of") + timedelta(days=90) > at
        rows = rows.with_columns(pl.when(~unknown).then(pl.col("churned", "margin_12m")).name.keep())
        house.table("features/customer").overwrite(rows, partition_by=["month"])
        for job in jobs:
            assert house.run(f"churn_{job}", at + timedelta(hours=3), **tags).success, job

    operate(13, "retrain")
    champion = house.registry.get("churn", "champion")
    assert champion is not None
    assert champion.tags["candidate"] == "logistic"
    assert champion.metrics["roc_auc_low"] < champion.metrics["roc_auc"] < champion.metrics["roc_auc_high"]
    decision = house.table("registry/churn").scan().collect().row(0, named=True)
    assert decision["reason"].startswith("first model: +")

    operate(SHOCK, "predict", "monitor")
    event = house.instance.get_latest_materialization_event(DRIFT)
    assert event is not None
    metadata = event.asset_materialization.metadata  # type: ignore[union-attr]
    assert metadata["verdict"].value == "drift"
    finding = metadata["findings"].value[0]
    assert "price_change_3m moved by" in finding["says"]
    assert metadata["members_due"].value == 0, "no label has come from since the shock"
    rows = house.table("monitoring/churn_drift").scan().filter(comparison="challenger").collect()
    assert rows.sort("window_start")["verdict"].to_list() == ["ok", "ok", "drift"]

    operate(SHOCK + 6, "predict", "monitor")
    errors = house.table("monitoring/churn_errors").scan().collect()
    assert errors["as_of"].max() == months(22)[SHOCK + 3]
    profile = house.table("monitoring/churn_profile").scan().collect()
    assert {"price_change_3m", "probability", "error", "churned"} <= set(profile["column"])
    assert "margin_12m" not in set(profile["column"])
    rows = house.table("monitoring/churn_drift").scan().filter(comparison="challenger").collect()
    assert rows.sort("window_start")["due"][-1]

    report = f"{months(22)[SHOCK + 6]:%Y-%m-%d}"
    operate(SHOCK + 6, "retrain", **{"lakehouse/report": report, "lakehouse/trigger": "drift"})
    decision = house.table("registry/churn").scan().filter(version=2).collect().row(0, named=True)
    evidence = json.loads(decision["evidence"])
    assert decision["trigger"] == "drift"
    assert {"gain", "p_value", "groups"} <= set(evidence)
    assert decision["decision"] == "promoted", decision["reason"]
    predictions = house.table("predictions/churn").scan().collect()
    assert predictions.select("as_of", "customer_id").is_duplicated().sum() == 0
    last = predictions.filter(pl.col("as_of") == months(22)[SHOCK + 6])
    assert set(last["model_version"]) == {2}


def test_without_enough_history_nothing_is_trained_and_nothing_fails(house: House) -> None:
    house.table("features/customer").overwrite(snapshots(2, 30, known=2), partition_by=["month"])
    at: datetime = months(2)[1] + timedelta(hours=3)
    for job in ("retrain", "predict", "monitor"):
        assert house.run(f"churn_{job}", at).success, job
    assert house.registry.get("churn", "champion") is None
    assert not house.table("predictions/churn").exists()


def test_a_single_snapshot_lives_too(house: House) -> None:
    rows = snapshots(1, 250, known=0, base=-1.0)
    house.table("features/customer").overwrite(rows, partition_by=["month"])
    at: datetime = months(1)[0] + timedelta(hours=3)
    for job in ("retrain", "predict", "monitor"):
        assert house.run(f"churn_{job}", at).success, job
    champion = house.registry.get("churn", "champion")
    assert champion is not None
    assert 0.5 < champion.metrics["roc_auc"] < 1
    event = house.instance.get_latest_materialization_event(DRIFT)
    assert event is not None
    assert event.asset_materialization.metadata["verdict"].value == "insufficient_data"  # type: ignore[union-attr]
