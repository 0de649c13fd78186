"""Dagster's daemons on the toy's home, in this process or in others, which are killed or held up between two steps."""

import logging
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon import sensor as sensor_daemon
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from lakehouse_assets_tests.lifecycle.conftest import TOY, definitions_of

HOME, AT = "LAKEHOUSE_TEST_HOME", "LAKEHOUSE_TEST_AT"
SENSOR = "toy_drift_sensor"
# The places in the daemon's code at which two that act at the same moment wait for each other.
_MEET_BEFORE, _MEET_AFTER = ("mark_sensor_state_for_tick",), ("_get_evaluation_tick", "fetch_existing_runs")


@dg.definitions
def toys() -> dg.Definitions:
    """The code location: the toy's life cycle, with this sensor alone, at the time that the process believes it is."""
    whole = definitions_of(TOY, Path(os.environ[HOME]), os.environ[AT])
    return dg.Definitions(
        assets=whole.assets,
        asset_checks=whole.asset_checks,
        jobs=whole.jobs,
        sensors=[sensor for sensor in whole.sensors or () if sensor.name == SENSOR],
        resources=whole.resources,
        executor=whole.executor,
    )


class InThisProcess(RunLauncher, ConfigurableClass):
    """Runs what the queue hands out to its end, in the daemon's process: what is forked needs no code server."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "InThisProcess":
        return cls(inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        job = definitions_of(TOY, Path(os.environ[HOME]), os.environ[AT]).resolve_job_def(run.job_name)
        execute_run(InMemoryJob(job.with_executor_def(dg.in_process_executor)), run, self._instance)

    def terminate(self, run_id: str) -> bool:
        return False


def look(folder: Path, at: datetime, kill_at: str | None = None, together: Any = None, queue: bool = False) -> None:
    """What the daemons of a process do once: evaluate the sensor, submit what it asks for; and empty the queue.

    kill_at: the place at which the process kills itself, of those that Dagster names for that purpose.
    together: a barrier, for daemons that look at the same moment.
    """
    os.environ.update({"DAGSTER_HOME": str(folder / "dagster"), HOME: str(folder), AT: at.isoformat()})
    if together is not None:
        for name in (*_MEET_BEFORE, *_MEET_AFTER):
            setattr(sensor_daemon, name, _met(getattr(sensor_daemon, name), together, name in _MEET_BEFORE))
    code = LoadableTargetOrigin(executable_path=sys.executable, module_name=__name__, attribute="toys")
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(code, location_name="toys"))
    with dg.DagsterInstance.get() as instance, WorkspaceProcessContext(instance, target) as workspace:
        with freeze_time(at):
            failures = list(
                filter(
                    None,
                    sensor_daemon.execute_sensor_iteration(
                        workspace,
                        logging.getLogger("daemon"),
                        threadpool_executor=None,
                        submit_threadpool_executor=None,
                        debug_crash_flags={SENSOR: {kill_at: signal.SIGKILL}} if kill_at else None,
                    ),
                )
            )
        if queue:
            failures += list(filter(None, QueuedRunCoordinatorDaemon(interval_seconds=5).run_iteration(workspace)))
    assert not failures, failures


def _met(original: Any, barrier: Any, before: bool) -> Any:
    def call(*arguments: Any) -> Any:
        if before:
            barrier.wait(timeout=30)
        result = original(*arguments)
        if not before:
            barrier.wait(timeout=30)
        return result

    return call
