"""The `lakehouse` command, run in a fork of a process that has the slow imports behind it, and killed where wanted.

A fork reads settings, imports the package and makes its own connections as a new process does; only the libraries are
there already. Run as a script this is the process that is forked: a request is a line of JSON, and so is the answer.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lakehouse_assets_tests.migrations import read_all

SLOW_IMPORTS = (
    "dagster",
    "dagster._core.storage.sqlite_storage",
    "dagster_deltalake",
    "dataframely",
    "deltalake",
    "holidays.countries",
    "matplotlib.pyplot",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "polars",
    "pydantic_settings",
    "rich.markdown",
    "scipy.signal",
    "scipy.special",
    "sklearn.ensemble",
    "typer",
)


@dataclass(frozen=True)
class Kill:
    """Where a command kills itself with SIGKILL, and how many seconds later.

    Either when the progress display is told a line that matches `line` (a step that begins, what a step says), or when
    `call` (`package.module:Class.method`) returns, if its object's attribute `uri` ends with `table`.
    """

    line: str = ""
    call: str = ""
    table: str = ""
    delay: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a command ended; `code` is negative for a signal."""

    code: int
    out: str
    err: str


class Commands:
    """The process that is forked."""

    def __init__(self) -> None:
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one_thread, "MLFLOW_DISABLE_TELEMETRY": "true", "COLUMNS": "200"},
        )

    def __call__(
        self,
        *arguments: object,
        home: Path,
        kill: Kill | None = None,
        env: Mapping[str, str] | None = None,
        code: Path | None = None,
    ) -> Ended:
        """Run `lakehouse` with arguments on a home; code: a folder with another copy of the package."""
        with TemporaryDirectory() as folder:
            request = {
                "arguments": [str(argument) for argument in arguments],
                "env": {"LAKEHOUSE_HOME": str(home), "LAKEHOUSE_DATA": str(home / "no_data"), **(env or {})},
                "kill": vars(kill) if kill else None,
                "folder": folder,
                "code": str(code or ""),
            }
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            code = json.loads(self._process.stdout.readline())
            return Ended(code, (Path(folder) / "out").read_text(), (Path(folder) / "err").read_text())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def _serve() -> None:
    for name in SLOW_IMPORTS:
        import_module(name)
    read_all()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(request: dict[str, Any]) -> None:
    os.environ.update(request["env"])
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{request['folder']}/{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = ["lakehouse", *request["arguments"]]
    code: Any = 0
    if request["code"]:
        sys.path.insert(0, request["code"])
    try:
        from lakehouse_assets import cli

        if request["kill"]:
            _arm(Kill(**request["kill"]))
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _arm(kill: Kill) -> None:
    if kill.line:
        _at_line(kill)
    else:
        _after_call(kill)


def _die(delay: float) -> None:
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    timer.start()
    if not delay:
        timer.join()


def _at_line(kill: Kill) -> None:
    from lakehouse_assets.operation import execution

    @contextmanager
    def killing_bar(*_: Any, **__: Any) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
        yield (lambda line: _die(kill.delay) if re.match(kill.line, line) else None), (lambda: None)

    execution.progress_bar = killing_bar  # type: ignore[assignment]


def _after_call(kill: Kill) -> None:
    module, _, path = kill.call.partition(":")
    owner, _, method = path.partition(".")
    cls = getattr(import_module(module), owner)
    original = getattr(cls, method)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if getattr(self, "uri", "").endswith(kill.table):
            _die(kill.delay)
        return result

    setattr(cls, method, call)


if __name__ == "__main__":
    _serve()
