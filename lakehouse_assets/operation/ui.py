"""Serving the web UIs of Dagster (with its daemon) and MLflow, until interrupted."""

import os
import signal
import subprocess
import sys

from rich.console import Console

from lakehouse_assets.operation.home import open_instance
from lakehouse_assets.registry.tracking import Registry
from lakehouse_assets.settings import Settings


def serve(settings: Settings, out: Console) -> int:
    """Run `dagster dev` and `mlflow ui`; when one ends, or on Ctrl-C, both end.

    Returns:
        The exit code: 0 after an interrupt, else that of the server that ended.
    """
    with open_instance(settings):
        # MLflow's own first migration must not race with ours.
        _ = Registry(settings.mlflow_tracking_uri, settings.mlflow_artifact_root).client
    host = settings.host
    commands = {
        f"Dagster  http://{host}:{settings.dagster_port}": [
            *(sys.executable, "-m", "dagster", "dev", "-m", "lakehouse_assets.definitions"),
            *("--host", host, "--port", str(settings.dagster_port), "--log-level", "warning"),
        ],
        f"MLflow   http://{host}:{settings.mlflow_port}": [
            *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(settings.mlflow_port)),
            *("--backend-store-uri", settings.mlflow_tracking_uri, "--workers", "1"),
            *("--artifacts-destination", str(settings.mlflow_artifact_root)),
        ],
    }
    # MLflow's own background jobs serve language-model traces; nothing here needs them.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    servers = [subprocess.Popen(command, env=environment) for command in commands.values()]
    for address in commands:
        out.print(address)
    out.print("[dim]Ctrl-C ends both[/]")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while True:
            for server in servers:
                try:
                    return server.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    continue
    except KeyboardInterrupt:
        return 0
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(timeout=30)
