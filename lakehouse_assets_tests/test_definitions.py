"""What Dagster loads: quickly, complete, and made from the files that are there."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest

from lakehouse_assets.definitions import TABLE_ROOMS, build_definitions, declared_tables, defs, models
from lakehouse_assets.sources.customers import TABLES as CUSTOMER_TABLES
from lakehouse_assets.sources.declaration import SIMULATED, CustomersAlone, load_declaration

HEAVY = ("mlflow", "sklearn", "scipy", "pandas", "matplotlib", "holidays", "dagster_mlflow", "pyarrow")


def test_loading_imports_nothing_heavy() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import sys, lakehouse_assets.definitions; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(said.stdout.split())
    assert "dagster" in loaded
    assert loaded.isdisjoint(HEAVY), loaded & set(HEAVY)


def test_definitions_are_loadable() -> None:
    dg.Definitions.validate_loadable(defs)


def test_the_graph_is_that_of_the_house() -> None:
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().materializable_asset_keys}
    assert keys == {
        *(f"bronze/{name}" for name in CUSTOMER_TABLES),
        *(f"silver/{name}" for name in CUSTOMER_TABLES),
        *(f"silver/{name}_quarantine" for name in CUSTOMER_TABLES),
        "gold/customer_month",
        "features/customer",
        "features/load_shape",
        "bronze/demand",
        "silver/demand",
        "silver/demand_quarantine",
        "gold/demand_hourly",
        "gold/demand_daily",
        "features/demand",
        "features/usage",
        "models/demand_forecast",
        "registry/demand_forecast",
        "registry/demand_forecast_series",
        "registry/demand_forecast_series_history",
        "predictions/demand_forecast",
        "monitoring/costs",
        "monitoring/demand_forecast_rungs",
        "monitoring/demand_forecast_errors",
        "monitoring/demand_forecast_profile",
        "monitoring/demand_forecast_drift",
        *(
            f"{room}/{model}{part}"
            for model in ("usage_anomalies", "load_segments")
            for room, parts in {
                "models": ("",),
                "registry": ("", "_series", "_series_history"),
                "predictions": ("",),
                "monitoring": ("_profile", "_drift"),
            }.items()
            for part in parts
        ),
        *(
            f"{room}/{model}{part}"
            for model in ("customer_churn", "customer_value")
            for room, parts in {
                "models": ("",),
                "registry": ("", "_series", "_series_history"),
                "predictions": ("",),
                "monitoring": ("_errors", "_profile", "_drift"),
            }.items()
            for part in parts
        ),
    }


def all_specs() -> list[dg.AssetSpec]:
    # In a fixed order, for pytest-xdist.
    return sorted(defs.resolve_all_asset_specs(), key=lambda spec: spec.key)


@pytest.mark.parametrize("spec", all_specs(), ids=lambda spec: spec.key.to_user_string())
def test_every_asset_says_what_a_person_wants_to_know(spec: dg.AssetSpec) -> None:
    assert spec.description
    assert spec.group_name == spec.key.path[0]
    assert spec.kinds
    assert spec.owners
    if spec.key.path[0] in TABLE_ROOMS:
        assert spec.code_version
        # The records of customers are one history, and have no months.
        whole = spec.key.path[-1] in ("customers", "customers_quarantine") and spec.key.path[0] == "silver"
        assert spec.metadata.get("partition_expr") == (None if whole else "month")
    schema = spec.metadata.get("dagster/column_schema")
    if spec.key.path[0] in (*TABLE_ROOMS, "registry", "predictions"):
        assert schema is not None
        assert len(schema.columns) > 4
        for column in schema.columns:
            assert column.description, column.name
            assert column.type != "string" or column.name == "string"  # Dagster's default: nobody said which
        assert len({column.name for column in schema.columns}) == len(schema.columns)


def test_every_table_has_a_blocking_check_of_its_contract() -> None:
    graph = defs.resolve_asset_graph()
    checks = {key for key in graph.asset_check_keys if graph.get(key).blocking}
    tables = [key for key in graph.materializable_asset_keys if key.path[0] in TABLE_ROOMS]
    assert {dg.AssetCheckKey(key, "contract") for key in tables} <= checks


TABLE = '''"""Energy by area."""

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.table_asset import contract_check, delta_asset


class Area(dy.Schema):
    """A row an area."""

    area = dy.String(primary_key=True, description="The area.")
    energy = dy.Float64(description="Energy (MWh).")


@delta_asset(Area, partition_expr=None)
def area() -> pl.LazyFrame:
    """One area."""
    return pl.LazyFrame({"area": ["A"], "energy": [1.0]})


contract = contract_check(area, Area)
'''
MODEL = '''"""Energy of an area."""

from lakehouse_assets.ml.definition import ModelDefinition
from lakehouse_assets.ml.estimators import SeasonalNaive
from lakehouse_assets.ml.forecast import Forecast

area_energy = ModelDefinition(
    name="area_energy",
    description=__doc__,
    features="features/area",
    target="value",
    kind=Forecast(),
    candidates={"seasonal_naive": SeasonalNaive()},
)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package with the rooms and nothing in them."""
    for room in (*TABLE_ROOMS, "models", "automation"):
        (tmp_path / "another_house" / room).mkdir(parents=True)
        (tmp_path / "another_house" / room / "__init__.py").touch()
    (tmp_path / "another_house" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("another_house")
    for name in [name for name in sys.modules if name.partition(".")[0] == "another_house"]:
        del sys.modules[name]


def names(definitions: dg.Definitions) -> dict[str, set[str]]:
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    return {
        "assets": {key.to_user_string() for key in graph.materializable_asset_keys},
        "checks": {f"{key.asset_key.to_user_string()}:{key.name}" for key in graph.asset_check_keys},
        "jobs": {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")},
        "schedules": {schedule.name for schedule in repository.schedule_defs},
        "sensors": {sensor.name for sensor in repository.sensor_defs},
    }


def test_a_table_and_a_model_are_a_file_each(package: ModuleType) -> None:
    folder = Path(package.__path__[0])
    empty = names(build_definitions(package=package))
    assert empty["assets"] == set()

    (folder / "gold" / "area.py").write_text(TABLE)
    importlib.invalidate_caches()
    with_table = names(build_definitions(package=package))
    assert with_table["assets"] == {"gold/area"}
    assert with_table["checks"] == {"gold/area:contract"}

    (folder / "models" / "area_energy.py").write_text(MODEL)
    importlib.invalidate_caches()
    definitions = build_definitions(package=package)
    dg.Definitions.validate_loadable(definitions)
    with_model = names(definitions)
    assert [model.name for model in models(package)] == ["area_energy"]
    assert with_model["assets"] == {
        "gold/area",
        "models/area_energy",
        "registry/area_energy",
        "registry/area_energy_series",
        "registry/area_energy_series_history",
        "predictions/area_energy",
        "monitoring/area_energy_rungs",
        "monitoring/area_energy_errors",
        "monitoring/area_energy_profile",
        "monitoring/area_energy_drift",
    }
    assert with_model["checks"] == {
        "gold/area:contract",
        "registry/area_energy:contract",
        "registry/area_energy_series:contract",
        "registry/area_energy_series_history:contract",
        "predictions/area_energy:contract",
        "monitoring/area_energy_rungs:contract",
        "monitoring/area_energy_errors:contract",
        "monitoring/area_energy_profile:contract",
        "monitoring/area_energy_drift:contract",
        "monitoring/area_energy_drift:no_drift",
    }
    jobs = {"area_energy_retrain", "area_energy_predict", "area_energy_monitor", "area_energy_alert"}
    assert with_model["jobs"] == empty["jobs"] | jobs
    assert with_model["schedules"] == {
        "area_energy_predict_daily",
        "area_energy_monitor_weekly",
        "area_energy_retrain_monthly",
    }
    assert with_model["sensors"] == empty["sensors"] | {"area_energy_drift_sensor", "area_energy_alert_sensor"}

    (folder / "gold" / "area.py").unlink()
    (folder / "models" / "area_energy.py").unlink()
    importlib.invalidate_caches()
    assert names(build_definitions(package=package)) == empty


def test_tables_of_what_is_not_declared_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("lakehouse_assets.definitions")
    demand = load_declaration(SIMULATED).model_copy(update={"customers": None})
    monkeypatch.setattr(module, "active_source", lambda: demand)
    keys = {key.to_user_string() for table in declared_tables() for key in table.keys}
    assert keys == {
        *("bronze/demand", "silver/demand", "silver/demand_quarantine"),
        *("gold/demand_hourly", "gold/demand_daily", "features/demand", "features/usage"),
    }
    assert "demand_forecast" in {model.name for model in models()}
    customers = CustomersAlone(name="alone", customers=load_declaration(SIMULATED).customers)
    monkeypatch.setattr(module, "active_source", lambda: customers)
    assert not {key.to_user_string() for table in declared_tables() for key in table.keys} & keys
    assert "demand_forecast" not in {model.name for model in models()}
    dg.Definitions.validate_loadable(build_definitions())
