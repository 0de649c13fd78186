"""A training on a Dask and on a Ray cluster of two machines, one of which is killed in the middle.

The run completes, and everything that it leaves is equal to the last bit to what this machine alone finds.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table import Lake
from lakehouse_assets.lifecycle.build import lifecycle
from lakehouse_assets.lifecycle.engine import EngineNotThere, engine
from lakehouse_assets.lifecycle.evidence import load_backtest
from lakehouse_assets.lifecycle.names import Names
from lakehouse_assets.lifecycle.reports import ReportsResource
from lakehouse_assets.ml.definition import ModelDefinition
from lakehouse_assets.ml.estimators import Blend, Boosting, SeasonalNaive
from lakehouse_assets.ml.fitted import ShardedForecast
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets.registry.resource import RegistryResource
from lakehouse_assets.settings import Settings, get_settings
from lakehouse_assets_tests.cluster.machines import Machines, free_port
from lakehouse_assets_tests.cluster.marked import Marked, unfinished
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

pytestmark = pytest.mark.cluster

SERIES = 6
NOW = datetime(2023, 1, 2, tzinfo=UTC) + timedelta(days=110)
WORKERS = ("a", "b")


@dataclass(frozen=True)
class Found:
    """What a training leaves: of the backtest, in the registry, and in what the fitted model says."""

    losses: pl.DataFrame
    metrics: pl.DataFrame
    version: dict[str, float]
    forecasts: pl.DataFrame


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "lake"
    frame = feature_frame(*load_curves(SERIES, 110)).with_columns(month=pl.col("issued_at").dt.date().dt.month_start())
    Lake(folder).table("features/fleet").overwrite(frame, partition_by=["month"])
    return folder


@pytest.fixture(scope="module")
def here(lake: Path, migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What this machine finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKEHOUSE_WORKERS", "2")
        return train(lake, migrated_store, tmp_path_factory.mktemp("here"), patch, lambda _: None)


def train(lake: Path, store: Path, folder: Path, patch: pytest.MonkeyPatch, hears: Callable[[str], None]) -> Found:
    """Run the training asset, with the settings of the environment; `hears` is told what the asset logs."""
    marks = folder / "marks"
    marks.mkdir()
    shutil.copy(store, folder / "mlflow.db")
    definition = ModelDefinition(
        name="fleet",
        description="A small fleet.",
        features="features/fleet",
        target="value",
        kind=Forecast(spread=1, recent=2, shard_series=1),
        candidates={
            "seasonal_naive": SeasonalNaive(),
            "marked": Marked(folder=str(marks)),
            "boosting": Boosting(iterations=5, rows=2000),
            "blend": Blend(("marked", "boosting")),
        },
    )
    get_settings.cache_clear()
    patch.setattr(Listener, "hears", staticmethod(hears))
    resources = {
        "lake": LakeResource(root_uri=str(lake)),
        "registry": RegistryResource(
            tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", artifact_root=str(folder / "mlartifacts")
        ),
        "clock": Clock(),
        "reports": ReportsResource(folder=str(folder / "reports")),
    }
    definitions = dg.Definitions.merge(
        lifecycle(definition),
        dg.Definitions(resources=resources, loggers={"listener": listener}, executor=dg.in_process_executor),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("fleet_retrain").execute_in_process(
            instance=instance,
            asset_selection=[Names("fleet").training],
            run_config={"resources": {"clock": {"config": {"at": NOW.isoformat()}}}, "loggers": {"listener": {}}},
        )
    get_settings.cache_clear()
    assert result.success
    registry = resources["registry"].registry()
    version = registry.get("fleet", "challenger")
    fitted = registry.load("fleet", version.version)
    assert isinstance(fitted, ShardedForecast)
    assert len(fitted.shards) == SERIES
    day = Lake(lake).table("features/fleet").scan().filter(pl.col("issued_at") >= NOW - timedelta(days=7)).collect()
    with load_backtest(registry, version.run_id) as backtest:
        return Found(
            backtest.result.losses.collect(), backtest.result.metrics, dict(version.metrics), fitted.predict(day)
        )


class Listener(logging.Handler):
    @staticmethod
    def hears(said: str) -> None:
        """Replaced by each training."""

    def emit(self, record: logging.LogRecord) -> None:
        self.hears(record.getMessage())


@dg.logger
def listener(_: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.getLogger("lakehouse_assets_tests.cluster")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.handlers = [Listener()]
    return logger


def start_dask(machines: Machines, port: int) -> str:
    address = f"tcp://{machines.address()}:{port}"
    machines.start("head", "dask", "scheduler", "--host", machines.address(), "--port", str(port), "--no-dashboard")
    return address


def join_dask(machines: Machines, machine: str, address: str) -> None:
    where = ("--host", machines.address(machine), "--local-directory", str(machines.folder / machine))
    machines.start(machine, "dask", "worker", address, *where, "--nthreads", "1", "--no-dashboard")


RAY = ("ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--object-store-memory", "100000000")
PORTS = ("--min-worker-port", "0", "--max-worker-port", "0")


def start_ray(machines: Machines, port: int) -> str:
    where = ("--node-ip-address", machines.address(), "--port", str(port), "--temp-dir", str(machines.folder / "ray"))
    machines.start("head", *RAY, *PORTS, "--head", "--num-cpus", "0", "--include-dashboard", "false", *where)
    return f"{machines.address()}:{port}"


def join_ray(machines: Machines, machine: str, address: str) -> None:
    where = ("--node-ip-address", machines.address(machine))
    machines.start(machine, *RAY, *PORTS, "--address", address, "--num-cpus", "1", *where)


def wait_for_dask(address: str, machines: int) -> None:
    import distributed

    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(machines, timeout=90)


def wait_for_ray(address: str, machines: int) -> None:
    import ray

    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        wait_until(lambda: ray.cluster_resources().get("CPU") == machines)
    finally:
        ray.shutdown()


CLUSTERS = {"dask": (start_dask, join_dask, wait_for_dask), "ray": (start_ray, join_ray, wait_for_ray)}


def wait_until(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def answers(settings: Settings) -> bool:
    try:
        with engine(settings):
            return True
    except EngineNotThere as error:
        return "has no workers" in str(error)


@contextmanager
def folder_of_short_name() -> Iterator[Path]:
    """Ray's sockets lie in its folder, and the name of a socket has at most 107 characters."""
    from tempfile import mkdtemp

    folder = Path(mkdtemp(prefix="lh"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_machine_is_killed_and_the_training_finds_the_same(
    name: str, here: Found, lake: Path, migrated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, join, wait = CLUSTERS[name]
    with folder_of_short_name() as folder, Machines(folder) as machines:
        address = start(machines, free_port())
        settings = Settings(engine=name, engine_address=address)
        wait_until(lambda: answers(settings))
        with pytest.raises(EngineNotThere, match="has no workers; start some"), engine(settings):
            raise AssertionError("a head alone cannot work")
        for count, machine in enumerate(WORKERS, start=1):  # one by one: on one disk, Ray's take each other's names
            join(machines, machine, address)
            wait(address, count)

        lost: list[tuple[str, int]] = []

        def kill_one(said: str) -> None:
            """When the first result has come, the machine of some fit that has begun is killed."""
            if "shard 1 of" in said and not lost:
                wait_until(lambda: unfinished(tmp_path / "marks"))
                lost.append(unfinished(tmp_path / "marks")[0])
                machines.kill(str(machines.of(lost[0][1])))

        monkeypatch.setenv("LAKEHOUSE_ENGINE", name)
        monkeypatch.setenv("LAKEHOUSE_ENGINE_ADDRESS", address)
        there = train(lake, migrated_store, tmp_path, monkeypatch, kill_one)

        assert len(machines.running) == 2, "the head and one machine are left"
        assert unfinished(tmp_path / "marks") == lost, "what was begun on the killed machine was never ended there"
        (series, pid) = lost[0]
        elsewhere = {file.stem for file in (tmp_path / "marks").glob(f"{series}-*.ended")}
        assert elsewhere, "and was done again"
        assert f"{series}-{pid}" not in elsewhere
    assert there.losses.equals(here.losses)
    assert there.metrics.equals(here.metrics)
    assert there.version == here.version
    assert there.forecasts.equals(here.forecasts)
