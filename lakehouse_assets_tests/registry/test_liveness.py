import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.registry.liveness import (
    PROCESS_START_TAG,
    close_dead_runs,
    dagster_run_is_alive,
    mlflow_status,
    process_is_dead,
    process_tags,
)
from lakehouse_assets.registry.resource import RegistryResource
from lakehouse_assets.registry.sensors import close_open_runs
from lakehouse_assets.registry.tracking import Registry
from lakehouse_assets_tests.registry import killed


def test_a_process_is_known_by_more_than_its_number() -> None:
    own = process_tags()
    assert not process_is_dead(own)
    assert not process_is_dead({})
    assert not process_is_dead({**own, "lakehouse/pid": "999999999", "lakehouse/host": "elsewhere"})
    assert process_is_dead({**own, "lakehouse/pid": "999999999"})
    assert process_is_dead({**own, PROCESS_START_TAG: "1"})  # the number was given to us after another had it
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie until it is waited for
        assert process_is_dead({**own, "lakehouse/pid": str(ended.pid)})


@pytest.fixture
def instance(tmp_path: Path) -> Any:
    with killed.dagster_instance(tmp_path) as instance:
        yield instance


@dg.job
def again() -> None: ...


def test_what_a_killed_dagster_run_left_is_closed_by_the_sensor(
    registry: Registry, instance: dg.DagsterInstance, processes: Any, tmp_path: Path
) -> None:
    storage = instance.event_log_storage
    storage.set_concurrency_slots("training", 1)
    process = processes.Process(target=killed.materialize_for_ever, args=(tmp_path,))
    process.start()
    while not (tmp_path / "training").exists():
        assert process.is_alive()
        time.sleep(0.02)
    resource = RegistryResource(tracking_uri=registry.store.tracking_uri, artifact_root=registry.store.artifact_root)

    def tick() -> Any:
        with dg.build_sensor_context(instance=instance) as context:
            return close_open_runs(context, registry=resource).skip_message

    (run,) = instance.get_runs()
    assert dagster_run_is_alive(instance)(run.run_id)
    assert tick() == "Reported 0 killed Dagster runs, closed 0 MLflow runs."
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (run,) = instance.get_runs()
    assert run.status == dg.DagsterRunStatus.STARTED
    assert not dagster_run_is_alive(instance)(run.run_id)
    assert storage.get_concurrency_info("training").active_slot_count == 1
    copied = instance.create_run_for_job(
        again,
        tags=run.tags,
        parent_run_id=run.run_id,
        root_run_id=run.run_id,
        status=dg.DagsterRunStatus.STARTED,
    )

    assert tick() == "Reported 1 killed Dagster runs, closed 2 MLflow runs."
    run = instance.get_run_by_id(run.run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert storage.get_concurrency_info("training").active_slot_count == 0
    assert not registry.store.may_have_open_runs()
    # a run that inherited the tags of the killed one when it was executed again has a process of its own
    assert dagster_run_is_alive(instance)(copied.run_id)
    assert close_dead_runs(instance) == []


def test_an_mlflow_run_ends_as_its_dagster_run_did(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def done() -> None: ...

    @dg.asset
    def failed() -> None:
        raise ValueError

    good = dg.materialize([done], instance=instance)
    bad = dg.materialize([failed], instance=instance, raise_on_error=False)
    status = mlflow_status(instance)
    assert [status(good.run_id), status(bad.run_id), status("unheard of")] == ["FINISHED", "FAILED", "KILLED"]
    assert not dagster_run_is_alive(instance)(good.run_id)
    assert not dagster_run_is_alive(instance)("unheard of")
