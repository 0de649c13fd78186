"""The engine on this machine: processes that do the work, end with it, and are missed when they die."""

import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from lakehouse_assets.lifecycle.engine import EngineNotThere, WorkersLost, engine
from lakehouse_assets.lifecycle.names import Names
from lakehouse_assets.ml.shards import each
from lakehouse_assets.operation.execution import _describe_failure
from lakehouse_assets.settings import Settings
from lakehouse_assets_tests.lifecycle.conftest import House
from lakehouse_assets_tests.ml.work import die, fail, worker

TWO = Settings(workers=2)


def running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_tasks_are_done_in_order_by_processes_of_one_thread_that_end_with_the_context() -> None:
    with engine(TWO):
        found = list(each(worker, range(5)))
        again = list(each(worker, range(3)))
    assert [task for task, *_ in found] == [0, 1, 2, 3, 4]
    pids = {pid for _, pid, *_ in [*found, *again]}
    assert os.getpid() not in pids
    assert len(pids) <= 2, "the processes of the first call serve the second"
    assert {(polars, algebra) for _, _, polars, algebra, _ in found} == {(1, 1)}
    assert not set.union(*(heavy for *_, heavy in found))
    assert not any(running(pid) for pid in pids)


def test_one_task_or_one_worker_needs_no_processes() -> None:
    with engine(TWO):
        (alone,) = each(worker, [7])
    with engine(Settings(workers=1)):
        several = list(each(worker, range(3)))
    assert {pid for _, pid, *_ in [alone, *several]} == {os.getpid()}


def test_a_killed_worker_is_one_clear_error_and_the_next_call_works() -> None:
    with pytest.raises(WorkersLost, match=r"A worker process died.*LAKEHOUSE_WORKERS"), engine(TWO):
        list(each(die, range(6)))
    with engine(TWO):
        assert [task for task, *_ in each(worker, range(3))] == [0, 1, 2]


def test_an_error_in_a_task_is_that_error() -> None:
    with pytest.raises(ValueError, match=r"task \d is wrong"), engine(TWO):
        list(each(fail, range(3)))


def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "ab"]
    code = (
        "from lakehouse_assets.lifecycle.engine import Settings, engine\n"
        "from lakehouse_assets.ml.shards import each\n"
        "from lakehouse_assets_tests.ml.work import linger\n"
        f"with engine(Settings(workers=2)): list(each(linger, {[str(file) for file in files]}))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        wait_until(lambda: all(file.exists() and file.read_text() for file in files))
        pids = [int(file.read_text()) for file in files]
        process.kill()
    wait_until(lambda: not any(running(pid) for pid in pids))


def wait_until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@dg.op
def in_workers(context: dg.OpExecutionContext) -> None:
    with engine(TWO):
        pids = {pid for _, pid, *_ in each(worker, range(4))}
    context.add_output_metadata({"elsewhere": os.getpid() not in pids, "ended": not any(map(running, pids))})


@dg.job(
    executor_def=dg.multiprocess_executor.configured({"start_method": {"forkserver": {"preload_modules": ["polars"]}}})
)
def forked() -> None:
    in_workers()


def test_a_step_that_was_forked_has_workers_of_its_own() -> None:
    with (
        dg.DagsterInstance.local_temp() as instance,
        dg.execute_job(dg.reconstructable(forked), instance=instance) as result,
    ):
        assert result.success
        (event,) = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
        metadata = event.step_output_data.metadata
        assert (metadata["elsewhere"].value, metadata["ended"].value) == (True, True)


@pytest.mark.parametrize(("name", "address"), [("dask", "tcp://127.0.0.1:1"), ("ray", "127.0.0.1:1")])
def test_a_cluster_that_does_not_answer_is_told_at_once(name: str, address: str) -> None:
    pytest.importorskip("distributed" if name == "dask" else name)
    settings = Settings(engine=name, engine_address=address)
    with (
        pytest.raises(EngineNotThere, match=rf"Nobody answers at LAKEHOUSE_ENGINE_ADDRESS={address}"),
        engine(settings),
    ):
        raise AssertionError("there is no such engine")


@pytest.mark.parametrize(("name", "address"), [("dask", "tcp://127.0.0.1:1"), ("ray", "127.0.0.1:1")])
def test_an_extra_that_is_not_installed_is_named(name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed" if name == "dask" else name, None)
    settings = Settings(engine=name, engine_address=address)
    with pytest.raises(EngineNotThere, match=rf"lakehouse-assets\[{name}\]"), engine(settings):
        raise AssertionError("there is no such engine")


def test_a_training_without_its_engine_fails_with_the_reason(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    settings = Settings(engine="dask", engine_address="tcp://127.0.0.1:1")
    monkeypatch.setattr("lakehouse_assets.lifecycle.training.get_settings", lambda: settings)
    result = house.run("toy_retrain", house.know(120), only=[Names("toy").training])
    assert not result.success
    assert "EngineNotThere: Nobody answers at LAKEHOUSE_ENGINE_ADDRESS=tcp://127.0.0.1:1" in _describe_failure(
        "toy_retrain", result
    )
    assert house.registry.get("toy", "challenger") is None
