import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lakehouse_assets_tests.registry import killed
from lakehouse_assets_tests.registry.conftest import registry_in


def test_a_new_store_survives_a_kill_and_two_processes_at_once(processes: Any, tmp_path: Path) -> None:
    barrier, outcome = processes.Barrier(1), processes.Queue()
    first = processes.Process(target=killed.prepare, args=(tmp_path, barrier, outcome))
    first.start()
    while not (tmp_path / "mlflow.db.new").exists():
        time.sleep(0.01)
    first.kill()
    first.join()
    assert not (tmp_path / "mlflow.db").exists()

    barrier = processes.Barrier(2)
    both = [processes.Process(target=killed.prepare, args=(tmp_path, barrier, outcome)) for _ in range(2)]
    for process in both:
        process.start()
    assert {outcome.get(timeout=60) for _ in both} == {"1"}
    for process in both:
        process.join()
    experiments = {e.name: e.artifact_location for e in registry_in(tmp_path).client.search_experiments()}
    root = (tmp_path / "mlartifacts").as_uri()
    assert experiments == {"Default": f"{root}/0", "demand": f"{root}/demand"}
    assert not (tmp_path / "mlflow.db.new").exists()


def test_neither_looking_for_open_runs_nor_the_sensor_imports_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys; import lakehouse_assets.registry.sensors\n"
        "from lakehouse_assets.registry.tracking import Registry\n"
        f"registry = Registry('sqlite:///{tmp_path}/mlflow.db', '{tmp_path}')\n"
        "assert registry.close_orphans(lambda run_id: False) == []\n"
        "print([name for name in ('mlflow', 'dagster_mlflow', 'sklearn', 'pandas') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []
