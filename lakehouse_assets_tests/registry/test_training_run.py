import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterExecutionInterruptedError

from lakehouse_assets.registry.tracking import Registry, RegistryError
from lakehouse_assets_tests.registry import killed


def statuses(registry: Registry) -> dict[str, str]:
    experiments = [experiment.experiment_id for experiment in registry.client.search_experiments()]
    return {run.info.run_name: run.info.status for run in registry.client.search_runs(experiments)}


def test_a_run_holds_what_was_logged(registry: Registry, tmp_path: Path) -> None:
    local = tmp_path / "local.json"
    local.write_text(json.dumps({"a": 1}))
    with registry.run("demand", "training", tags={"recipe": "ridge"}, dagster_run_id="d1") as run:
        run.params({f"p{i}": i for i in range(150)})
        run.metrics({f"m{i}": i / 7 for i in range(1200)})
        for fold in range(3):
            run.metrics({"mae": 10.0 - fold, "mape": math.nan, "mase": None}, step=fold)
        run.artifact_bytes("backtest/errors.bin", b"\x00\x01")
        run.artifact_file("local.json", local)
        with run.child("candidate") as child:
            child.tags({"kind": "ridge"})
    stored = registry.client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {f"p{i}": str(i) for i in range(150)}
    assert stored.data.metrics["m1199"] == pytest.approx(1199 / 7)
    assert "mase" not in stored.data.metrics
    assert [(m.step, m.value) for m in registry.client.get_metric_history(run.run_id, "mae")] == [
        (0, 10.0),
        (1, 9.0),
        (2, 8.0),
    ]
    assert stored.data.tags["recipe"] == "ridge"
    assert stored.data.tags["dagster_run_id"] == "d1"
    child_tags = registry.client.get_run(child.run_id).data.tags
    assert (child_tags["mlflow.parentRunId"], child_tags["dagster_run_id"]) == (run.run_id, "d1")
    folder = Path(registry.client.download_artifacts(run.run_id, "backtest"))
    assert (folder / "errors.bin").read_bytes() == b"\x00\x01"
    assert (tmp_path / "mlartifacts" / "demand" / run.run_id / "artifacts" / "backtest" / "errors.bin").exists()
    assert Path(registry.client.download_artifacts(run.run_id, "local.json")).read_text() == '{"a": 1}'


def test_a_picture_is_an_artifact(registry: Registry) -> None:
    from matplotlib.figure import Figure

    with registry.run("demand", "training") as run:
        run.figure("pictures/error.png", Figure(figsize=(1, 1)))
    assert Path(registry.client.download_artifacts(run.run_id, "pictures/error.png")).read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError, "FAILED"),
        (KeyboardInterrupt, "KILLED"),
        (SystemExit, "KILLED"),
        (DagsterExecutionInterruptedError, "KILLED"),
    ],
)
def test_an_error_closes_the_run_and_its_children(registry: Registry, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), registry.run("demand", "training") as run, run.child("candidate"):
        raise error
    assert statuses(registry) == {"training": status, "candidate": status}


def test_a_deleted_experiment_is_named(registry: Registry) -> None:
    registry.client.delete_experiment(registry.experiment_id("demand"))
    with pytest.raises(RegistryError, match="mlflow experiments restore --experiment-id 1"):
        registry.experiment_id("demand")


def test_what_a_killed_process_left_open_is_closed(registry: Registry, processes: Any, tmp_path: Path) -> None:
    training = processes.Event()
    process = processes.Process(target=killed.train_for_ever, args=(tmp_path, "d1", training))
    process.start()
    assert training.wait(30)
    assert registry.close_orphans(lambda run_id: True) == []
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert statuses(registry) == {"training": "RUNNING", "candidate": "RUNNING"}
    # the Dagster run looks alive, as after a kill it does; the process is known to be dead
    assert len(registry.close_orphans(lambda run_id: True)) == 2
    assert statuses(registry) == {"training": "KILLED", "candidate": "KILLED"}
    assert not registry.store.may_have_open_runs()


def test_orphans_are_told_by_their_dagster_run(registry: Registry) -> None:
    experiment = registry.experiment_id("demand")
    ids = {}
    for name, tags in {
        "alive": {"dagster_run_id": "alive"},
        "done": {"dagster_run_id": "done"},
        "failed": {"dagster_run_id": "failed"},
        "notebook": {},
    }.items():
        ids[name] = registry.client.create_run(experiment, run_name=name, tags=tags).info.run_id
    nested = {"mlflow.parentRunId": ids["failed"]}
    ids["nested"] = registry.client.create_run(experiment, run_name="nested", tags=nested).info.run_id
    closed = registry.close_orphans(
        lambda run_id: run_id == "alive", status={"done": "FINISHED", "failed": "FAILED"}.__getitem__
    )
    assert set(closed) == {ids["done"], ids["failed"], ids["nested"]}
    assert statuses(registry) == {
        "alive": "RUNNING",
        "done": "FINISHED",
        "failed": "FAILED",
        "nested": "KILLED",
        "notebook": "RUNNING",
    }
