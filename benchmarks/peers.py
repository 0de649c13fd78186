"""The environment of the peers: other libraries that the benchmarks compare with, whose pins may clash with ours."""

import shutil
import subprocess
import sys
from pathlib import Path


def peers_python(folder: Path, requirements: str = "peers.txt") -> Path:
    """The interpreter of the environment in a folder, built there where it is missing or not what the pins say.

    Args:
        folder: where the environment is.
        requirements: name of the file beside this one that holds the pins.
    """
    pins = Path(__file__).with_name(requirements)
    stamp, interpreter = folder / requirements, folder / "bin" / "python"
    wanted = pins.read_text()
    if not (interpreter.exists() and stamp.exists() and stamp.read_text() == wanted):
        print(f"building the environment of the peers in {folder}", file=sys.stderr)
        uv = shutil.which("uv")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        if uv:
            _run(uv, "venv", "--quiet", "--clear", "--python", version, str(folder))
            _run(uv, "pip", "install", "--quiet", "--python", str(interpreter), "-r", str(pins))
        else:
            _run(sys.executable, "-m", "venv", "--clear", str(folder))
            _run(str(interpreter), "-m", "pip", "install", "--quiet", "-r", str(pins))
        stamp.write_text(wanted)
    return interpreter


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)
