"""Status where something is missing or failed; that of a working home is tested with `run`."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.operation.status import status
from lakehouse_assets.registry.tracking import Registry


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlartifacts")


def test_what_is_not_there_is_none(tmp_path: Path, instance: dg.DagsterInstance, registry: Registry) -> None:
    drift = {
        "verdict": "insufficient_data",
        "window_end": None,
        "series_drifted": 0,
        "series_tested": 0,
        "pages": None,
    }
    nothing = {
        "champion": None,
        "challenger": None,
        "previous": None,
        "series": {"by_version": {}, "pinned": 0},
        "last_week": {},
        "drift": drift,
        "retrains": [],
    }
    found = status(Lake(tmp_path / "lake"), registry, instance, ["a", "b"])
    assert found == {"tables": {}, "models": {"a": nothing, "b": nothing}}


def test_a_training_that_failed_is_told_with_what_asked_for_it(
    tmp_path: Path, instance: dg.DagsterInstance, registry: Registry
) -> None:
    asked = [("2024-05-02T00:00:00+00:00", "schedule"), ("2024-05-01T00:00:00+00:00", "drift")]
    for at, trigger in asked:
        create_run_for_test(
            instance,
            job_name="a_retrain",
            status=dg.DagsterRunStatus.FAILURE,
            tags={"lakehouse/trigger": trigger, "lakehouse/requested_at": at},
        )
    create_run_for_test(instance, job_name="a_predict", status=dg.DagsterRunStatus.FAILURE)
    retrains = status(Lake(tmp_path / "lake"), registry, instance, ["a"])["models"]["a"]["retrains"]
    assert [(one["requested_at"], one["trigger"]) for one in retrains] == sorted(asked)
    assert {one["decision"] for one in retrains} == {"failed"}
    assert len({one["run_id"] for one in retrains}) == 2


def test_drift_is_that_of_the_latest_report(tmp_path: Path, instance: dg.DagsterInstance, registry: Registry) -> None:
    for week, verdict in (("2024-05-06", "ok"), ("2024-05-13", "drift")):
        report = {"verdict": verdict, "window_end": week, "series_drifted": 2, "series_tested": 3, "else": 1.0}
        report["pages"] = dg.MetadataValue.path("reports/a/index.html")
        instance.report_runless_asset_event(dg.AssetMaterialization(["monitoring", "a_drift"], metadata=report))
    drift = status(Lake(tmp_path / "lake"), registry, instance, ["a"])["models"]["a"]["drift"]
    assert drift == {
        "verdict": "drift",
        "window_end": "2024-05-13",
        "series_drifted": 2,
        "series_tested": 3,
        "pages": "reports/a/index.html",
    }


def test_the_last_week_is_that_of_the_latest_comparison(
    tmp_path: Path, instance: dg.DagsterInstance, registry: Registry
) -> None:
    for coverage in (0.7, 0.8):
        shown = {"last_week_coverage_80": coverage, "rows_compared": 7}
        instance.report_runless_asset_event(dg.AssetMaterialization(["monitoring", "a_errors"], metadata=shown))
    found = status(Lake(tmp_path / "lake"), registry, instance, ["a"])["models"]["a"]
    assert found["last_week"] == {"coverage_80": 0.8}
