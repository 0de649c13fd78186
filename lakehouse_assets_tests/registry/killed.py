"""What the tests run in processes of their own, and kill."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse_assets.registry.liveness import process_tags
from lakehouse_assets.registry.resource import RegistryResource
from lakehouse_assets.registry.tracking import ChampionChanged
from lakehouse_assets_tests.registry.conftest import registry_in

ALIASES = ("champion", "previous", "challenger")
ALIAS_WRITES = (
    "set_registered_model_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "delete_registered_model_tag",
)


def stop_before(client: Any, nth: int, stop: Any) -> None:
    """Call `stop` in the place of the client's nth write of an alias or of the intent (from 0)."""
    writes = iter(range(1000))
    for name in ALIAS_WRITES:
        setattr(client, name, _counted(getattr(client, name), writes, nth, stop))


def _counted(original: Any, writes: Iterator[int], nth: int, stop: Any) -> Any:
    def write(*args: Any) -> None:
        if next(writes) == nth:
            stop()
        original(*args)

    return write


def promote_and_die(folder: Path, version: int, expected: int | None, nth: int) -> None:
    registry = registry_in(folder)
    stop_before(registry.client, nth, lambda: os.kill(os.getpid(), signal.SIGKILL))
    registry.promote("demand", version, expected)


def promote_at_once(folder: Path, version: int, expected: int | None, barrier: Any, outcome: Any) -> None:
    registry = registry_in(folder)
    registry.get("demand", "champion")
    barrier.wait()
    try:
        registry.promote("demand", version, expected)
        outcome.put((version, "promoted"))
    except ChampionChanged:
        outcome.put((version, "changed"))


def prepare(folder: Path, barrier: Any, outcome: Any) -> None:
    barrier.wait()
    outcome.put(registry_in(folder).experiment_id("demand"))


def train_for_ever(folder: Path, dagster_run_id: str, training: Any) -> None:
    with (
        registry_in(folder).run("demand", "training", dagster_run_id=dagster_run_id) as run,
        run.child("candidate"),
    ):
        training.set()
        signal.pause()


@dg.asset(pool="training")
def trained(context: dg.AssetExecutionContext, registry: RegistryResource) -> None:
    with registry.registry().run("demand", "training", dagster_run_id=context.run_id) as run, run.child("candidate"):
        Path(os.environ["LAKEHOUSE_TEST_TRAINING"]).touch()
        signal.pause()


def dagster_instance(folder: Path) -> dg.DagsterInstance:
    (folder / "dagster").mkdir(exist_ok=True)
    return dg.DagsterInstance.local_temp(str(folder / "dagster"))


def materialize_for_ever(folder: Path) -> None:
    os.environ["LAKEHOUSE_TEST_TRAINING"] = str(folder / "training")
    registry = registry_in(folder)
    resource = RegistryResource(tracking_uri=registry.store.tracking_uri, artifact_root=registry.store.artifact_root)
    with dagster_instance(folder) as instance:
        dg.materialize([trained], instance=instance, resources={"registry": resource}, tags=process_tags())
