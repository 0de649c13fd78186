"""Workers for the shards of a fleet, as backends of joblib: processes of this machine, or those of a cluster.

What runs in a worker is loaded from here, so nothing heavy is imported. Results do not depend on who works: each shard
is computed by one thread of linear algebra (see :func:`lakehouse_assets.ml.shards.each`), and what is put together
from shards is put together in their order.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from joblib._parallel_backends import LokyBackend
from joblib.executor import MemmappingExecutor
from joblib.parallel import ParallelBackendBase


class Processes(LokyBackend):
    """Processes of this machine that end when they are closed, and when this process ends however it ends."""

    # Each of them is 1. Processes that each take every core for one query would stand in one another's way. And with
    # one heap for all threads the memory of a shard serves the next; with one each, it grows shard by shard (glibc).
    MAX_NUM_THREADS_VARS = (*LokyBackend.MAX_NUM_THREADS_VARS, "POLARS_MAX_THREADS", "MALLOC_ARENA_MAX")

    _pool: MemmappingExecutor | None = None

    def __init__(self, **arguments: Any) -> None:
        super().__init__(
            **{"inner_max_num_threads": 1, "initializer": _end_with, "initargs": (os.getpid(),), **arguments}
        )

    def configure(self, *arguments: Any, **named: Any) -> int:
        """Start processes, where none are there from an earlier call."""
        count: int = super().configure(*arguments, **named)
        self._pool = self._workers
        return count

    def close(self, kill: bool) -> None:
        """End the processes: when they have done what they do, or at once."""
        if self._pool is not None:
            self._pool.terminate(kill_workers=kill)
            self._pool = None


class Cluster(ParallelBackendBase):
    """The workers of a cluster that does again elsewhere what a lost worker did.

    submit: starts a call on the cluster and returns its future (with ``result`` and ``add_done_callback``; the callback
    in a thread that may wait). cores: how many calls run at once.
    """

    supports_retrieve_callback = True
    uses_threads = False
    supports_sharedmem = False

    def __init__(
        self, submit: Callable[[Callable[[], Any]], Any] | None = None, cores: Callable[[], int] | None = None, **_: Any
    ) -> None:
        super().__init__()
        self._submit, self._cores = submit, cores

    def effective_n_jobs(self, n_jobs: int) -> int:
        """How many calls run at once."""
        return max(self._cores(), 1) if self._cores is not None else 1

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Any:
        """Start a call; the callback is called with its future."""
        assert self._submit is not None
        future = self._submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """The result of a future, or its error raised."""
        return out.result()


def call(work: Callable[[], Any]) -> Any:
    """Do it: what a cluster is asked for, since it wants a function with a name."""
    return work()


def _end_with(parent: int) -> None:
    """Begin to watch, in a worker, whether the process that started it lives: a killed one cannot say goodbye."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="watch", daemon=True).start()
