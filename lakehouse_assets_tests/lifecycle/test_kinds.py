"""A kind that the life cycle has never heard of lives in it: one model for everybody, months, truth that comes late."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.definition import ModelDefinition
from lakehouse_assets_tests.lifecycle.conftest import House, definitions_of
from lakehouse_assets_tests.lifecycle.toy_kind import ITEMS, Describing, Untold

DRIFT = dg.AssetKey(["monitoring", "items_drift"])


def snapshots(until: datetime, changed: datetime) -> pl.DataFrame:
    """y is 3 x, later 2 x squared with a larger x; the y of the last snapshot is not known yet."""
    rng = np.random.default_rng(1)
    months = pl.datetime_range(datetime(2024, 1, 1, tzinfo=UTC), until, "1mo", eager=True)
    frames = []
    for as_of in months:
        x = rng.uniform(1, 2, 40) + (3 if as_of >= changed else 0)
        y = 2 * x**2 if as_of >= changed else 3 * x
        frame = pl.DataFrame({"item": [f"I{i}" for i in range(40)], "x": x, "y": y + rng.normal(0, 0.05, 40)})
        frames.append(frame.with_columns(as_of=pl.lit(as_of).dt.cast_time_unit("us"), month=pl.lit(as_of.date())))
    rows = pl.concat(frames)
    return rows.with_columns(y=pl.when(pl.col("as_of") < until).then("y"))


@pytest.fixture
def house(tmp_path: Path, migrated_store: Path) -> Iterator[House]:
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(tmp_path, instance, definitions_of(ITEMS, tmp_path), pl.DataFrame())


def test_another_kind_is_trained_decided_watched_and_trained_again(house: House) -> None:
    change = datetime(2024, 9, 1, tzinfo=UTC)

    def operate(month: int, *jobs: str, **tags: str) -> None:
        at = datetime(2024, month, 1, 3, tzinfo=UTC)
        rows = snapshots(at.replace(hour=0), change)
        house.table("features/items").overwrite(rows, partition_by=["month"])
        for job in jobs:
            assert house.run(f"items_{job}", at, **tags).success, job

    operate(7, "retrain")
    champion = house.registry.get("items", "champion")
    assert champion is not None
    assert champion.tags["candidate"] == "line"
    in_force = house.table("registry/items_series").scan().collect()
    assert in_force.select("population", "version").rows() == [("all", 1)]

    operate(8, "predict", "monitor")
    errors = house.table("monitoring/items_errors").scan().collect()
    assert set(errors["as_of"].dt.month()) == {7}, "the truth of August is not known yet"
    profile = house.table("monitoring/items_profile").scan().collect()
    assert set(profile["granularity"]) == {"1 month", "baseline"}
    assert set(profile["slice_key"].drop_nulls()) == {"model_version"}
    event = house.instance.get_latest_materialization_event(DRIFT)
    assert event.asset_materialization.metadata["verdict"].value == "ok"
    assert event.asset_materialization.metadata["report"].value == "2024-08-01"

    operate(9, "predict", "monitor")
    rows = house.table("monitoring/items_drift").scan().filter(comparison="challenger").collect()
    assert rows.sort("window_start")["verdict"].to_list() == ["ok", "ok", "drift"]
    assert rows["slice_value"].unique().to_list() == ["all"]

    operate(10, "retrain", **{"lakehouse/report": "2024-09-01", "lakehouse/trigger": "drift"})
    champion = house.registry.get("items", "champion")
    assert (champion.version, champion.tags["candidate"]) == (2, "square")
    decision = house.table("registry/items").scan().filter(version=2).collect().row(0, named=True)
    assert (decision["decision"], decision["trigger"]) == ("promoted", "drift")
    predictions = house.table("predictions/items").scan().filter(pl.col("as_of").dt.month() == 10).collect()
    assert set(predictions["model_version"]) == {2}


def test_a_kind_that_describes_tells_all_of_the_past_at_once(tmp_path: Path, migrated_store: Path) -> None:
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    with dg.DagsterInstance.ephemeral() as instance:
        describing = replace(ITEMS, kind=Describing())
        house = House(tmp_path, instance, definitions_of(describing, tmp_path), pl.DataFrame())
        for month, job, times in ((6, "retrain", 6), (7, "predict", 7), (7, "predict", 7)):
            at = datetime(2024, month, 1, 3, tzinfo=UTC)
            rows = snapshots(at.replace(hour=0), datetime(2025, 1, 1, tzinfo=UTC))
            house.table("features/items").overwrite(rows, partition_by=["month"])
            assert house.run(f"items_{job}", at).success
            predicted = house.table("predictions/items").scan().collect()
            assert (predicted["as_of"].n_unique(), predicted.height) == (times, 40 * times)


def test_members_of_a_model_for_everybody_cannot_be_named(house: House) -> None:
    house.table("features/items").overwrite(
        snapshots(datetime(2024, 7, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    )
    at = datetime(2024, 7, 1, 3, tzinfo=UTC)
    assert house.run("items_retrain", at).success
    config = {"ops": {"models__items": {"config": {"members": ["I1"]}}}}
    failed = house.run("items_retrain", at, config=config)
    assert "one model for everybody" in str(failed.failure_data_for_node("models__items"))


def test_stages_without_a_use_are_not_made(tmp_path: Path) -> None:
    def watched(definition: ModelDefinition) -> set[str]:
        definitions = definitions_of(definition, tmp_path)
        dg.Definitions.validate_loadable(definitions)
        keys = definitions.resolve_asset_graph().materializable_asset_keys
        return {key.path[-1] for key in keys if key.path[0] == "monitoring"}

    assert watched(ITEMS) == {"items_errors", "items_profile", "items_drift"}
    assert watched(replace(ITEMS, kind=Untold(), target=None)) == {"items_profile", "items_drift"}
