"""Machines for a cluster: each a network namespace with an address of its own, on one bridge.

Needs root and `ip` (iproute2); where they are not at hand, machines are plain processes on one address.
"""

import os
import signal
import socket
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil  # comes with the extras

REPOSITORY = Path(__file__).parents[2]


class Machines:
    """A head, which is this machine, and workers beside it; all that was started and made is gone at the end.

    folder: what the machines write and log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"lh{os.getpid()}"
        self.net = f"10.213.{os.getpid() % 250}"
        self.apart = True
        self.running: dict[str, subprocess.Popen] = {}
        self._made: list[str] = []

    def __enter__(self) -> "Machines":
        try:
            _ip(f"link add {self.name} type bridge")
            _ip(f"addr add {self.net}.1/24 dev {self.name}")
            _ip(f"link set {self.name} up")
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            warnings.warn(f"no network namespaces here ({said}): machines are processes on one address", stacklevel=2)
            self.apart = False
        return self

    def address(self, machine: str = "head") -> str:
        """The address of a machine; one that is new is made."""
        if not self.apart:
            return "127.0.0.1"
        if machine == "head":
            return f"{self.net}.1"
        if machine not in self._made:
            self._made.append(machine)
            number, space = len(self._made), f"{self.name}-{machine}"
            _ip(f"netns add {space}")
            _ip(f"link add {self.name}-{number} type veth peer name eth0 netns {space}")
            _ip(f"link set {self.name}-{number} master {self.name} up")
            _ip(f"-n {space} addr add {self.net}.{number + 1}/24 dev eth0")
            _ip(f"-n {space} link set eth0 up")
            _ip(f"-n {space} link set lo up")
        return f"{self.net}.{self._made.index(machine) + 2}"

    def start(self, machine: str, *module: str) -> None:
        """Start a Python module with its arguments on a machine."""
        inside = ["ip", "netns", "exec", f"{self.name}-{machine}"] if self.apart and machine != "head" else []
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "1",
            "RAY_raylet_start_wait_time_s": "120",
        }
        with (self.folder / f"{machine}.log").open("wb") as log:
            self.running[machine] = subprocess.Popen(
                [*inside, sys.executable, "-m", *module],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def of(self, pid: int) -> str | None:
        """The machine on which a process runs."""
        for machine, process in self.running.items():
            if any(p.pid == pid for p in _family(process.pid)):
                return machine
        return None

    def kill(self, machine: str) -> None:
        """A machine is gone: SIGKILL to all of its processes."""
        import psutil

        process = self.running.pop(machine)
        family = _family(process.pid)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=10)
        process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for machine in list(self.running):
            self.kill(machine)
        if self.apart:
            for machine in self._made:
                _ip(f"netns del {self.name}-{machine}")
            _ip(f"link del {self.name}")
        if kind is not None:
            for log in sorted(self.folder.glob("*.log")):
                print(f"--- {log.name}", log.read_text(errors="replace")[-3000:], sep="\n")


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        return int(taken.getsockname()[1])


def _family(pid: int) -> "list[psutil.Process]":
    """A process and all that it started."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)
