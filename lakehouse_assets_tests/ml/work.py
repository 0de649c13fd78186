"""Small work for workers; a module of its own, so that a worker loads nothing that tests need."""

import os
import signal
import sys
import time
from pathlib import Path

import polars as pl
from threadpoolctl import threadpool_info


def worker(task: int) -> tuple[int, int, int, int, set[str]]:
    """The task, the process, threads of polars and of linear algebra, and what is loaded that should not be."""
    threads = max((library["num_threads"] for library in threadpool_info()), default=1)
    heavy = {"dagster", "mlflow", "sklearn", "matplotlib"} & set(sys.modules)
    return task, os.getpid(), pl.thread_pool_size(), threads, heavy


def die(task: int) -> int:
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def fail(task: int) -> None:
    raise ValueError(f"task {task} is wrong")


def linger(file: str) -> None:
    Path(file).write_text(str(os.getpid()))
    time.sleep(60)
