"""What is written from a template works at once: it is found, it loads, and deleting the file takes all of it away."""

import importlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from functools import partial
from pathlib import Path
from shutil import copy, copy2, copytree
from types import ModuleType

import dagster as dg
import pytest

from lakehouse_assets.definitions import TABLE_ROOMS, build_definitions, models
from lakehouse_assets.operation.errors import WrongRequest
from lakehouse_assets.operation.new import PACKAGE, ROOMS, kinds, new_model, new_table
from lakehouse_assets.sources.simulated_customers import simulate_customers
from lakehouse_assets_tests.operation.commands import Commands
from lakehouse_assets_tests.operation.test_customers import declare


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package with the rooms and nothing in them."""
    for room in (*TABLE_ROOMS, "models", "automation"):
        (tmp_path / "new_house" / room).mkdir(parents=True)
        (tmp_path / "new_house" / room / "__init__.py").touch()
    (tmp_path / "new_house" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("new_house")
    for name in [name for name in sys.modules if name.partition(".")[0] == "new_house"]:
        del sys.modules[name]


def named(definitions: dg.Definitions, name: str) -> set[str]:
    """What of the definitions is called after a model or a table."""
    repository = definitions.get_repository_def()
    jobs = {job.name for job in repository.get_all_jobs()}
    ticked = {one.name for one in (*repository.schedule_defs, *repository.sensor_defs)}
    keys = {key.to_user_string() for key in repository.asset_graph.materializable_asset_keys}
    checks = {f"{key.asset_key.to_user_string()}:{key.name}" for key in repository.asset_graph.asset_check_keys}
    return {one for one in jobs | ticked | keys | checks if name in one}


def test_a_written_model_is_in_the_commands_and_in_mlflow_and_goes_with_its_file(
    tmp_path: Path, lakehouse: Commands, migrated_store: Path
) -> None:
    """A copy of the package with another model of customers than its own, and customers of a year."""
    code, home, world = tmp_path / "code", tmp_path / "home", tmp_path / "world"
    home.mkdir()
    copy(migrated_store, home / "mlflow.db")
    copied = copytree(PACKAGE, code / PACKAGE.name)
    copy2(PACKAGE.parent / "dagster.yaml", copied)
    (copied / "models" / "customer_churn.py").unlink()
    simulate_customers(world, start=date(2023, 1, 1), end=date(2024, 3, 1), customers=40, seed=1, clean=True)
    here = partial(lakehouse, home=home, code=code)
    assert here("new", "model", "who_leaves", "--kind", "classification").code == 0
    file = copied / "models" / "who_leaves.py"
    assert file.exists()
    ended = here("run", "--config", declare(world, ("usage", "bills")), "--until", "2024-03-02")
    assert ended.code == 0, ended.err
    ended = here("retrain", "who_leaves")
    assert ended.code == 0, ended.err
    assert "who_leaves: version 2: " in " ".join(ended.out.split())
    listed = json.loads(here("models", "--json").out)
    assert (listed.keys(), listed["who_leaves"]["champion"]) == ({"who_leaves"}, 1)
    with closing(sqlite3.connect(home / "mlflow.db")) as mlflow:
        versions = mlflow.execute("select version from model_versions where name = 'who_leaves'").fetchall()
    assert sorted(versions) == [(1,), (2,)]

    file.unlink()
    assert json.loads(here("models", "--json").out) == {}
    ended = here("retrain", "who_leaves")
    assert ended.code == 2
    assert "who_leaves" in ended.err


@pytest.mark.parametrize("kind", kinds())
def test_a_model_of_each_kind_is_one_file(kind: str, package: ModuleType) -> None:
    folder = Path(package.__path__[0])
    file = new_model("peak_load", kind, folder)
    importlib.invalidate_caches()
    definitions = build_definitions(package=package)
    dg.Definitions.validate_loadable(definitions)
    assert [model.name for model in models(package)] == ["peak_load"]
    assert {
        "models/peak_load",
        "registry/peak_load:contract",
        "predictions/peak_load",
        "monitoring/peak_load_drift:no_drift",
        "peak_load_retrain",
        "peak_load_retrain_monthly",
        "peak_load_drift_sensor",
    } <= named(definitions, "peak_load")

    file.unlink()
    sys.modules.pop("new_house.models.peak_load")
    importlib.invalidate_caches()
    assert named(build_definitions(package=package), "peak_load") == set()


def test_a_table_is_one_file(package: ModuleType) -> None:
    new_table("gold/peak_month", Path(package.__path__[0]))
    importlib.invalidate_caches()
    definitions = build_definitions(package=package)
    found = {one for one in named(definitions, "peak_month") if not one.startswith("__")}
    assert found == {"gold/peak_month", "gold/peak_month:contract"}
    spec = next(spec for spec in definitions.resolve_all_asset_specs() if spec.key.path[-1] == "peak_month")
    assert spec.description
    assert spec.metadata["partition_expr"] == "month"


@pytest.mark.parametrize("name", ["Peak", "1st", "peak-load", "class", "", "a/b", "../x"])
def test_what_is_no_name_is_refused(name: str, package: ModuleType) -> None:
    folder = Path(package.__path__[0])
    before = sorted(folder.rglob("*"))
    with pytest.raises(WrongRequest, match="no name"):
        new_model(name, "forecast", folder)
    with pytest.raises(WrongRequest, match=r"no name|no key"):
        new_table(f"gold/{name}", folder)
    assert sorted(folder.rglob("*")) == before


def test_nothing_is_written_over_and_wrong_words_are_told(package: ModuleType) -> None:
    folder = Path(package.__path__[0])
    file = new_model("peak_load", "forecast", folder)
    file.write_text("mine")
    with pytest.raises(WrongRequest, match="is there already"):
        new_model("peak_load", "forecast", folder)
    assert file.read_text() == "mine"
    with pytest.raises(WrongRequest, match=r"there are .*forecast"):
        new_model("another", "oracle", folder)
    with pytest.raises(WrongRequest, match=", ".join(ROOMS)):
        new_table("attic/peak", folder)
