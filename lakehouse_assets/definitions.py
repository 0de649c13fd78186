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

TABLE_ROOMS = ("bronze", "silver", "gold", "features")


def build_definitions(settings: Settings | None = None, package: ModuleType = lakehouse_assets) -> dg.Definitions:
    """All definitions of a package laid out like this one.

    Args:
        settings: where tables, models and runs are kept; by default from the environment.
        package: a package with the rooms `bronze`, `silver`, `gold`, `features`, `models` and `automation`.
    """
    settings = settings or get_settings()
    tables = [module for room in TABLE_ROOMS for module in _modules(package, room)]
    automation = list(_modules(package, "automation"))
    return dg.Definitions.merge(
        dg.Definitions(
            assets=dg.load_assets_from_modules(tables),
            asset_checks=dg.load_asset_checks_from_modules(tables),
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


def models(package: ModuleType = lakehouse_assets) -> list[ModelDefinition]:
    """Every ModelDefinition in the room `models`, in the order of the files' names."""
    found = [
        value
        for module in _modules(package, "models")
        for value in vars(module).values()
        if isinstance(value, ModelDefinition)
    ]
    return list({model.name: model for model in found}.values())


def _modules(package: ModuleType, room: str) -> Iterator[ModuleType]:
    name = f"{package.__name__}.{room}"
    for module in pkgutil.iter_modules(import_module(name).__path__):
        yield import_module(f"{name}.{module.name}")


defs = build_definitions()
