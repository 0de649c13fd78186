"""The entry point of Dagster: every table and model that lies in the package, with resources and schedules.

Tables and models are found by walking the rooms: adding one is adding its file.
"""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import dagster as dg

import lakehouse_assets
from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.io_manager import DeltaIOManager
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lifecycle.build import lifecycle
from lakehouse_assets.lifecycle.reports import ReportsResource
from lakehouse_assets.ml.definition import ModelDefinition
from lakehouse_assets.operation.execution import progress_logger
from lakehouse_assets.registry.resource import MlflowResource, RegistryResource
from lakehouse_assets.registry.sensors import close_open_runs
from lakehouse_assets.settings import Settings, get_settings
from lakehouse_assets.sources.declaration import SOURCE_TABLES, active_source

TABLE_ROOMS = ("bronze", "silver", "gold", "features")


def build_definitions(settings: Settings | None = None, package: ModuleType = lakehouse_assets) -> dg.Definitions:
    """All definitions of a package laid out like this one.

    Args:
        settings: where tables, models and runs are kept; by default from the environment.
        package: a package with the rooms `bronze`, `silver`, `gold`, `features`, `models` and `automation`.
    """
    settings = settings or get_settings()
    modules = [module for room in TABLE_ROOMS for module in _modules(package, room)]
    tables = declared_tables(package)
    keys = {key for table in tables for key in table.keys}
    checks = [
        check
        for check in dg.load_asset_checks_from_modules(modules)
        if all(key.asset_key in keys for key in check.check_keys)
    ]
    automation = list(_modules(package, "automation"))
    return dg.Definitions.merge(
        dg.Definitions(
            assets=tables,
            asset_checks=checks,
            resources=resources(settings),
            sensors=[close_open_runs],
            executor=dg.in_process_executor,
            loggers={"console": dg.colored_console_logger, "progress": progress_logger},
        ),
        *(dg.load_definitions_from_module(module) for module in automation),
        *(lifecycle(model) for model in models(package)),
    )


def resources(settings: Settings) -> dict[str, object]:
    """The resources: storage, registry, clock and pages."""
    registry = RegistryResource(
        tracking_uri=settings.mlflow_tracking_uri, artifact_root=str(settings.mlflow_artifact_root)
    )
    return {
        "io_manager": DeltaIOManager(root_uri=settings.lake_uri),
        "lake": LakeResource(root_uri=settings.lake_uri),
        "registry": registry,
        # For assets of your own that log to MLflow as with dagster-mlflow.
        "mlflow": MlflowResource(registry=registry, experiment_name="lakehouse_assets"),
        "clock": Clock(),
        "reports": ReportsResource(folder=str(settings.reports)),
    }


def declared_tables(package: ModuleType = lakehouse_assets) -> list[dg.AssetsDefinition]:
    """The tables of a package, without bronze tables that the source in force has no files for, and all made of them.

    Bronze tables that are none of `SOURCE_TABLES` fill themselves, and are always there.
    """
    tables = _tables(package)
    missing = {dg.AssetKey(["bronze", name]) for name in SOURCE_TABLES.difference(active_source().tables)}
    while gone := {k for one in tables if missing & {*one.keys, *one.dependency_keys} for k in one.keys} - missing:
        missing |= gone
    return [one for one in tables if not missing & one.keys]


def models(package: ModuleType = lakehouse_assets) -> list[ModelDefinition]:
    """Every ModelDefinition in the room `models`, in the order of the files' names.

    Without those whose feature table is left out (see `declared_tables`), or whose target it does not have for want of
    files: one that the table's metadata `targets` names, and its contract does not.
    """
    found = [
        value
        for module in _modules(package, "models")
        for value in vars(module).values()
        if isinstance(value, ModelDefinition)
    ]
    declared = {key for table in declared_tables(package) for key in table.keys}
    left_out: set[tuple[str, str | None]] = set()
    for spec in (spec for table in _tables(package) for spec in table.specs):
        if targets := spec.metadata.get("targets"):
            there = {column.name for column in spec.metadata["dagster/column_schema"].columns}
            left_out |= {(spec.key.to_user_string(), name) for name in targets if name not in there}
    gone = {key.to_user_string() for table in _tables(package) for key in table.keys - declared}
    return [
        model
        for model in {model.name: model for model in found}.values()
        if model.features not in gone and (model.features, model.target) not in left_out
    ]


def _tables(package: ModuleType) -> list[dg.AssetsDefinition]:
    modules = [module for room in TABLE_ROOMS for module in _modules(package, room)]
    return [one for one in dg.load_assets_from_modules(modules) if isinstance(one, dg.AssetsDefinition)]


def _modules(package: ModuleType, room: str) -> Iterator[ModuleType]:
    name = f"{package.__name__}.{room}"
    for module in pkgutil.iter_modules(import_module(name).__path__):
        yield import_module(f"{name}.{module.name}")


defs = build_definitions()
