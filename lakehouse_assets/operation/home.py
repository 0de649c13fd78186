"""The home folder: made on first use, with a Dagster instance, and mended after a process that was killed."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import yaml

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.lifecycle.fleet import FleetRegistry
from lakehouse_assets.operation.errors import HomeError
from lakehouse_assets.registry.liveness import close_dead_runs, dagster_run_is_alive, mlflow_status
from lakehouse_assets.registry.tracking import Registry
from lakehouse_assets.settings import Settings
from lakehouse_assets.sources.customers import TABLES as CUSTOMER_TABLES
from lakehouse_assets.sources.declaration import Source, load_source

# The packaged file, and the one of a source tree.
_INSTANCE_FILES = (Path(__file__).parents[1] / "dagster.yaml", Path(__file__).parents[2] / "dagster.yaml")


def prepare_home(settings: Settings) -> None:
    """Make the folders of the home and its Dagster instance file, where they are missing, and set DAGSTER_HOME."""
    for folder in (settings.home, settings.landing, settings.dagster_home, settings.mlflow_artifact_root):
        folder.mkdir(parents=True, exist_ok=True)
    instance_file = settings.dagster_home / "dagster.yaml"
    if not instance_file.exists():
        shutil.copyfile(next(path for path in _INSTANCE_FILES if path.exists()), instance_file)
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)


def install_declaration(settings: Settings, path: Path) -> Source:
    """Put a source declaration in force in the home.

    The declaration is copied beside the rows that it describes, with its relative paths made absolute, so that the
    web UI, schedules and later commands use the same one.

    Raises:
        DeclarationError: the file is wrong.
        HomeError: the home already holds another source.
    """
    declaration = load_source(path)
    installed = settings.landing / "source.yaml"
    if installed.exists():
        present = load_source(installed)
        if present.name != declaration.name:
            raise HomeError(
                f"{settings.home} already holds the source {present.name!r}; "
                f"set LAKEHOUSE_HOME to another folder for {declaration.name!r}, or delete this one"
            )
    if path.resolve() != installed.resolve():
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_AsWritten)
        customers = content.get("customers") or {}
        for section in (content, customers, *(customers.get(name) or {} for name in CUSTOMER_TABLES)):
            _absolute(section.get("files"), "glob", path.parent)
        _absolute(content.get("series"), "file", path.parent)
        temporary = installed.with_suffix(".yaml.new")
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        temporary.replace(installed)
    return declaration


class _AsWritten(yaml.SafeLoader):
    """Scalars stay text, as the declaration reads them: `yes` is a word, and no truth."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in found if tag == "tag:yaml.org,2002:null"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _absolute(section: object, key: str, folder: Path) -> None:
    """Make a path absolute that is relative to the declaration; one that is relative to the data folder stays."""
    if isinstance(section, dict) and isinstance(section.get(key), str):
        beside = folder / section[key]
        if not Path(section[key]).is_absolute() and (beside.exists() or any(folder.glob(section[key]))):
            section[key] = str(beside.resolve())


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The home's Dagster instance, after making good what a killed process left undone in Dagster and the registry."""
    prepare_home(settings)
    # Written by libraries at the first use of a database; nothing that an operator could act on.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    registry = Registry(settings.mlflow_tracking_uri, settings.mlflow_artifact_root)
    with dg.DagsterInstance.get() as instance:
        close_dead_runs(instance)
        registry.close_orphans(dagster_run_is_alive(instance), mlflow_status(instance))
        lake = Lake.from_settings(settings)
        if registry.store.exists():
            for name in registry.names():
                FleetRegistry(name, registry, lake).repair()
        yield instance
