"""Which Dagster runs still have a process: tags that name it, and closing what a killed process left behind."""

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import dagster as dg

PID_TAG = "lakehouse/pid"
HOST_TAG = "lakehouse/host"
PROCESS_START_TAG = "lakehouse/process_start"


def process_tags() -> dict[str, str]:
    """Tags that name this process for good: its number alone is used again by others."""
    pid = os.getpid()
    return {PID_TAG: str(pid), HOST_TAG: _host(), PROCESS_START_TAG: _process_start(pid) or ""}


def process_is_dead(tags: Mapping[str, str]) -> bool:
    """Whether the process named by `tags` is known to have ended.

    False where it cannot be known: no such tags, another host or another container.
    """
    pid = tags.get(PID_TAG, "")
    if not pid.isdigit() or tags.get(HOST_TAG) != _host() or os.name == "nt":
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    start = _process_start(int(pid))
    if start is None:
        return False
    return start == "zombie" or start != tags.get(PROCESS_START_TAG, start)


def dagster_run_is_alive(instance: dg.DagsterInstance) -> Callable[[str], bool]:
    """A function that tells by id whether a Dagster run may still be at work.

    It is not when the instance does not know it, when it has finished, or when its process is known to be dead.
    """

    def is_alive(run_id: str) -> bool:
        run = instance.get_run_by_id(run_id)
        return run is not None and not run.is_finished and not _was_killed(instance, run)

    return is_alive


def mlflow_status(instance: dg.DagsterInstance) -> Callable[[str], str]:
    """A function that tells how an MLflow run left open by the Dagster run of this id is to be closed."""

    def status(run_id: str) -> str:
        run = instance.get_run_by_id(run_id)
        ends = {dg.DagsterRunStatus.SUCCESS: "FINISHED", dg.DagsterRunStatus.FAILURE: "FAILED"}
        return ends.get(run.status, "KILLED") if run else "KILLED"

    return status


def close_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report Dagster runs whose process was killed as failed, free the pool slots they held, and return their ids."""
    unfinished = [
        status
        for status in dg.DagsterRunStatus
        if status not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    ]
    closed = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=unfinished)):
        if _was_killed(instance, run):
            instance.report_run_failed(run, f"The process {run.tags[PID_TAG]} of this run was killed.")
            # a step that was killed could not give back its slot; without this its pool stays full
            if instance.event_log_storage.supports_global_concurrency_limits:
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            closed.append(run.run_id)
    return closed


def _was_killed(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process that the run's tags name is dead, and is the run's own.

    A run that is re-executed from the web UI inherits the tags of its parent, but not the process.
    """
    if not process_is_dead(run.tags):
        return False
    parent = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    names = (PID_TAG, HOST_TAG, PROCESS_START_TAG)
    return parent is None or any(run.tags.get(name) != parent.tags.get(name) for name in names)


def _host() -> str:
    # process numbers mean something only within one PID namespace, and containers may share a host name
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _process_start(pid: int) -> str | None:
    """When the process started, in clock ticks since boot (`zombie` when it has ended); None where /proc is missing."""
    try:
        # the name, in parentheses, may hold anything; then come state (field 3) ... start time (field 22)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "zombie" if fields[0] == "Z" else fields[19]
