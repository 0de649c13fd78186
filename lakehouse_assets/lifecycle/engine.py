"""The engine: where the shards of a fleet are worked on. Nothing else in the code knows.

Within :func:`engine` shards are worked on by processes of this machine, or by a Dask or Ray cluster. A fleet of one
shard is worked on by this process: for it no worker is started.
"""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from lakehouse_assets.ml.shards import worked_on_by
from lakehouse_assets.settings import Settings

_PATIENCE = 10
"""Seconds that a cluster has to answer."""


class EngineNotThere(dg.Failure):
    """The engine of the settings cannot be used; the message says why, and what to do."""


class WorkersLost(dg.Failure):
    """Workers died, and nobody is there to do their work again."""


@contextmanager
def engine(settings: Settings) -> Iterator[None]:
    """Work on shards as the settings say, as long as the context lasts; workers of this machine end with it.

    Raises:
        EngineNotThere: the extra is not installed, nobody answers at the address, or the cluster has no workers.
        WorkersLost: a process of this machine was killed, or a cluster could not do again what it lost.
    """
    start = {"local": _local, "dask": _dask, "ray": _ray}[settings.engine]
    with start(settings):
        yield


@contextmanager
def _local(settings: Settings) -> Iterator[None]:
    from joblib.externals.loky.process_executor import BrokenProcessPool

    from lakehouse_assets.ml.workers import Processes

    processes, at_work = Processes(), True
    try:
        with worked_on_by(processes, settings.workers or -1):
            yield
        at_work = False
    except BrokenProcessPool as error:
        raise WorkersLost(
            "A worker process died, most often because memory ran out: set LAKEHOUSE_WORKERS to fewer, or make the "
            f"model's shards smaller (shard_series of its kind). {_first_line(error)}"
        ) from error
    finally:
        processes.close(kill=at_work)


@contextmanager
def _dask(settings: Settings) -> Iterator[None]:
    try:
        import distributed
    except ImportError:
        raise _no_extra("dask") from None
    from concurrent.futures import CancelledError

    from lakehouse_assets.ml.workers import Cluster, call

    address = _answering(settings)
    try:
        client = distributed.Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise EngineNotThere(f"No Dask scheduler at LAKEHOUSE_ENGINE_ADDRESS={address}: {error}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            raise EngineNotThere(
                f"The Dask scheduler at {address} has no workers; start some: dask worker {address} --nthreads 1"
            ) from None
        cluster = Cluster(
            lambda work: client.submit(call, work, pure=False),
            lambda: sum(client.nthreads().values()),
        )
        try:
            with worked_on_by(cluster):
                yield
        except (distributed.KilledWorker, CancelledError) as error:
            raise WorkersLost(
                f"The Dask cluster at {address} lost its workers or its scheduler: {_first_line(error)}"
            ) from error


@contextmanager
def _ray(settings: Settings) -> Iterator[None]:
    try:
        import ray
    except ImportError:
        raise _no_extra("ray") from None
    from lakehouse_assets.ml.workers import Cluster, call

    address = _answering(settings)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise EngineNotThere(f"No Ray cluster at LAKEHOUSE_ENGINE_ADDRESS={address}: {error}") from error
    try:
        if not ray.cluster_resources().get("CPU"):
            raise EngineNotThere(
                f"The Ray cluster at {address} has no workers; start some: ray start --address {address}"
            )
        # Tasks, where ray.util.joblib has actors: a task of a lost node is done again, an actor's is an error.
        task = ray.remote(num_cpus=1, max_retries=3)(call)
        cluster = Cluster(
            lambda work: task.remote(work).future(),
            lambda: int(ray.cluster_resources().get("CPU", 1)),
        )
        with worked_on_by(cluster):
            yield
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            raise  # the work's own error
        raise WorkersLost(f"The Ray cluster at {address} lost its workers or its head: {_first_line(error)}") from error
    finally:
        ray.shutdown()


def _answering(settings: Settings) -> str:
    """The address of the settings, where somebody answers; asked first, as clients would try again for a minute."""
    address = str(settings.engine_address)
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        raise EngineNotThere(
            f"Nobody answers at LAKEHOUSE_ENGINE_ADDRESS={address} ({error.strerror or error}): start the "
            f"{settings.engine.capitalize()} cluster, or set LAKEHOUSE_ENGINE=local."
        ) from None
    return address


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _no_extra(name: str) -> EngineNotThere:
    return EngineNotThere(f"LAKEHOUSE_ENGINE={name} needs an extra: pip install 'lakehouse-assets[{name}]'")
