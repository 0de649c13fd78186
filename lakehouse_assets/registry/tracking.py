"""The registry: training runs, model versions with their pins, the aliases that say which version is in force."""

import json
import logging
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lakehouse_assets.registry.archive import ARCHIVE, installed, read_archive, write_archive
from lakehouse_assets.registry.liveness import process_is_dead
from lakehouse_assets.registry.store import Store, quiet_loggers
from lakehouse_assets.registry.training_run import PARENT_TAG, RUN_TAG, TrainingRun, open_run

if TYPE_CHECKING:
    import polars as pl
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

logger = logging.getLogger(__name__)

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
ALIASES = (PREVIOUS, CHAMPION, CHALLENGER)
INTENT_TAG = "lakehouse.intent"
CHANGE_TAG = "lakehouse.change"
PINS_TAG, METRICS_TAG = "pins", "metrics"

# fitted models kept in memory by a process, in `_LOADED`
MODELS_KEPT = 4
_LOADED: OrderedDict[tuple[str, str, int], Any] = OrderedDict()


class RegistryError(RuntimeError):
    """The registry refuses; the message says why and what to do."""


class UnknownVersion(RegistryError):
    """There is no such version."""


class ChampionChanged(RegistryError):
    """Another champion is in force than the one that a decision was made against."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered version: what it was trained on and how well it did when it was registered."""

    name: str
    version: int
    run_id: str
    created_at: datetime
    aliases: tuple[str, ...]
    pins: Mapping[str, int]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


class Registry:
    """Runs, versions and aliases in one MLflow store.

    Which version is champion changes by one write: a tag on the registered model with the aliases as they are to be.
    From then on `get` answers by it, whatever becomes of the process; the aliases that MLflow shows follow, and where
    they could not, the next change or `repair` brings them up.

    This is the upper of two levels. What is in force for each series lies in Delta; the life cycle changes both, and
    `change` says which of its changes the aliases have followed.
    """

    def __init__(self, tracking_uri: str, artifact_root: Path | str) -> None:
        """Use the store at `tracking_uri`, preparing it at first use if it is a new SQLite file.

        Args:
            tracking_uri: as MLflow reads it: `sqlite:///...`, `postgresql://...`, `http://...`.
            artifact_root: folder or URI of new experiments' artifacts; a tracking server decides that for itself.
        """
        self.store = Store(tracking_uri, artifact_root)

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client of this store."""
        return self.store.client

    # Runs

    @contextmanager
    def run(
        self,
        experiment: str,
        run_name: str,
        *,
        tags: Mapping[str, Any] | None = None,
        dagster_run_id: str | None = None,
    ) -> Iterator[TrainingRun]:
        """An MLflow run in `experiment`, closed at the end: FINISHED, FAILED after an error, KILLED by an interrupt."""
        with open_run(self.client, self.experiment_id(experiment), run_name, tags or {}, dagster_run_id) as run:
            yield run

    def experiment_id(self, name: str) -> str:
        """The id of the experiment, which is made where it is missing.

        Raises:
            RegistryError: the experiment was deleted in MLflow and holds its name until it is restored or purged.
        """
        from mlflow.exceptions import MlflowException

        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            served = self.store.tracking_uri.startswith(("http://", "https://"))
            location = None if served else f"{self.store.artifact_root.rstrip('/')}/{quote(name)}"
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self.client.get_experiment_by_name(name)  # another process was quicker
        if experiment is None or experiment.lifecycle_stage != "active":
            raise RegistryError(
                f"The MLflow experiment {name!r} was deleted. Restore it: mlflow experiments restore --experiment-id "
                f"{experiment.experiment_id if experiment else '?'}"
            )
        return str(experiment.experiment_id)

    def close_orphans(
        self, is_alive: Callable[[str], bool], status: Callable[[str], str] = lambda dagster_run_id: "KILLED"
    ) -> list[str]:
        """Close the runs that nobody will close any more, and return their ids.

        These are the RUNNING runs whose own process is known to be dead or whose Dagster run is not alive, and those
        nested in them. Runs without a Dagster run, such as from a notebook, are left alone.

        Args:
            is_alive: tells by its id whether a Dagster run may still be at work.
            status: tells by its id how the runs of a Dagster run are to be closed: FINISHED, FAILED or KILLED.
        """
        if not self.store.may_have_open_runs():
            return []
        open_runs = {run.info.run_id: run for run in self._open_runs()}
        alive: dict[str, bool] = {}

        def is_orphan(run: "Run") -> bool:
            if process_is_dead(run.data.tags):
                return True
            dagster_run_id = run.data.tags.get(RUN_TAG)
            if dagster_run_id:
                if dagster_run_id not in alive:
                    alive[dagster_run_id] = is_alive(dagster_run_id)
                return not alive[dagster_run_id]
            parent = open_runs.get(run.data.tags.get(PARENT_TAG, ""))
            return parent is not None and is_orphan(parent)

        orphans = [run for run in open_runs.values() if is_orphan(run)]
        for run in orphans:
            dagster_run_id = run.data.tags.get(RUN_TAG)
            self.client.set_terminated(run.info.run_id, status(dagster_run_id) if dagster_run_id else "KILLED")
        return [run.info.run_id for run in orphans]

    def _open_runs(self) -> Iterator["Run"]:
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        token = None
        while experiments:
            page = self.client.search_runs(experiments, "attributes.status = 'RUNNING'", page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    # Versions

    def register(
        self,
        run: TrainingRun,
        name: str,
        model: Any,
        *,
        signature: "ModelSignature | None" = None,
        pip_requirements: Sequence[str] | None = None,
        pins: Mapping[str, int] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> int:
        """Store `model` as the next version of `name`, alias `challenger`, and return the version.

        The model is one archive file; with it goes the code that reads it, so that `mlflow.pyfunc.load_model` needs
        nothing else of ours. Nothing is inferred and nothing predicted meanwhile.

        Args:
            run: the run that made it.
            name: the registered model, which is made where it is missing.
            model: any object that pickles and has `predict(polars frame)`; its classes come from `lakehouse_assets.ml`
                or from installed packages.
            signature: see `signature_of`.
            pip_requirements: what the model needs; by default the versions of numpy, polars, scikit-learn ... in use.
            pins: table -> Delta version that it was trained on.
            metrics: its figures (None is left out), kept with the version and with the run.
            tags: more to keep with the version, as text: code version, recipe, seed ...
        """
        from mlflow.exceptions import MlflowException

        numbers = {key: float(value) for key, value in (metrics or {}).items() if value is not None}
        tags = {
            **{key: str(value) for key, value in (tags or {}).items()},
            **({RUN_TAG: run.dagster_run_id} if run.dagster_run_id else {}),
            PINS_TAG: json.dumps(pins or {}, sort_keys=True),
            METRICS_TAG: json.dumps(numbers, sort_keys=True),
        }
        logged = self.client.create_logged_model(
            run.experiment_id, name=name, source_run_id=run.run_id, model_type="lakehouse_assets"
        )
        try:
            with tempfile.TemporaryDirectory() as temporary:
                folder = _save_pyfunc(
                    Path(temporary),
                    model,
                    {"name": name, **tags},
                    logged.model_id,
                    run.run_id,
                    signature,
                    pip_requirements,
                )
                self.client.log_model_artifacts(logged.model_id, str(folder))
        except BaseException:
            self.client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        self.client.finalize_logged_model(logged.model_id, "READY")
        run.metrics(numbers, model_id=logged.model_id)
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # the source is a plain location: with a `models:/` source MLflow would ask its global store, not this one
        created = self.client.create_model_version(
            name, logged.artifact_location, run.run_id, tags=tags, model_id=logged.model_id
        )
        version = int(created.version)
        with self.store.lock:
            self._repair(name)
            self.client.set_registered_model_alias(name, CHALLENGER, str(version))
        return version

    def load(self, name: str, version: int) -> Any:
        """The fitted model itself, straight from its archive; the last few are kept in memory, so do not change it.

        Raises:
            UnknownVersion: there is no such version.
            ModelNotReadable: it was pickled with packages that the ones installed here cannot read.
        """
        key = (self.store.tracking_uri, name, version)
        if key not in _LOADED:
            from mlflow.artifacts import download_artifacts

            self.version(name, version)
            uri = f"{self.client.get_model_version_download_uri(name, str(version))}/data/{ARCHIVE}"
            _LOADED[key] = read_archive(Path(download_artifacts(uri, tracking_uri=self.store.tracking_uri)))
            while len(_LOADED) > MODELS_KEPT:
                _LOADED.popitem(last=False)
        _LOADED.move_to_end(key)
        return _LOADED[key]

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions, oldest first; none where nothing of that name was registered."""
        aliases = self._aliases(name)
        found = []
        token = None
        while True:
            page = self.client.search_model_versions(f"name = '{name}'", page_token=token)
            found += [_model_version(version, aliases) for version in page]
            token = page.token
            if not token:
                return sorted(found, key=lambda version: version.version)

    def get(self, name: str, alias: str) -> ModelVersion | None:
        """The version with that alias (`champion`, `challenger`, `previous`), or None."""
        aliases = self._aliases(name)
        if alias not in aliases:
            return None
        return _model_version(self.client.get_model_version(name, str(aliases[alias])), aliases)

    # Aliases

    def promote(self, name: str, version: int, expected_champion: int | None, change: int | None = None) -> None:
        """Make `version` champion and the champion until now `previous`; the two change at once.

        A rollback is the promotion of the previous champion.

        Args:
            name: the registered model.
            version: the new champion; that in force, if only the change is to be noted.
            expected_champion: the champion against which this was decided; None: there was none.
            change: number of the change of the series' champions that goes with it, see `change`.

        Raises:
            UnknownVersion: there is no such version.
            ChampionChanged: another champion is in force by now; nothing was changed.
        """
        with self.store.lock:
            self._repair(name)
            self.version(name, version)
            aliases = self._aliases(name)
            champion = aliases.get(CHAMPION)
            if champion != expected_champion:
                raise ChampionChanged(
                    f"{name}: version {version} was compared with {_say(expected_champion)}, but the champion in force "
                    f"is {_say(champion)}. Decide again."
                )
            if version == champion:
                if change is not None:
                    self.client.set_registered_model_tag(name, CHANGE_TAG, str(change))
                return
            challenger = aliases.get(CHALLENGER)
            self._commit(name, champion, version, None if challenger == version else challenger, change)

    def change(self, name: str) -> int | None:
        """The last change that the aliases have followed; None: none that had a number."""
        registered = self._registered(name)
        if registered is None:
            return None
        number = json.loads(registered.tags.get(INTENT_TAG, "{}")).get("change", registered.tags.get(CHANGE_TAG))
        return None if number is None else int(number)

    def names(self) -> list[str]:
        """The registered models."""
        return sorted(model.name for model in self.client.search_registered_models())

    def repair(self, name: str) -> bool:
        """Complete a change of aliases during which a process was killed; True if there was one."""
        with self.store.lock:
            return self._repair(name)

    def _commit(
        self, name: str, previous: int | None, champion: int | None, challenger: int | None, change: int | None
    ) -> None:
        target = {PREVIOUS: previous, CHAMPION: champion, CHALLENGER: challenger}
        intent = target if change is None else {**target, "change": change}
        self.client.set_registered_model_tag(name, INTENT_TAG, json.dumps(intent))
        self._repair(name)

    def _repair(self, name: str) -> bool:
        """Bring MLflow's aliases to what the intent says, then remove it. Any step may be the last one."""
        registered = self._registered(name)
        if registered is None or INTENT_TAG not in registered.tags:
            return False
        target = json.loads(registered.tags[INTENT_TAG])
        for alias in ALIASES:
            if target[alias] is None:
                self.client.delete_registered_model_alias(name, alias)
            else:
                self.client.set_registered_model_alias(name, alias, str(target[alias]))
        if "change" in target:
            self.client.set_registered_model_tag(name, CHANGE_TAG, str(target["change"]))
        self.client.delete_registered_model_tag(name, INTENT_TAG)
        return True

    def _aliases(self, name: str) -> dict[str, int]:
        """Alias -> version, as they are to be."""
        registered = self._registered(name)
        if registered is None:
            return {}
        intent = json.loads(registered.tags.get(INTENT_TAG, "{}"))
        aliases = {**registered.aliases, **{alias: intent[alias] for alias in ALIASES if alias in intent}}
        return {alias: int(version) for alias, version in aliases.items() if version is not None}

    def _registered(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def version(self, name: str, version: int) -> ModelVersion:
        """A version by its number.

        Raises:
            UnknownVersion: there is no such version.
        """
        from mlflow.exceptions import MlflowException

        try:
            return _model_version(self.client.get_model_version(name, str(version)), self._aliases(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = ", ".join(str(known.version) for known in self.versions(name)) or "none"
            raise UnknownVersion(f"{name} has no version {version}; it has: {known}.") from None


def signature_of(inputs: Mapping[str, "pl.DataType"], outputs: Mapping[str, "pl.DataType"]) -> "ModelSignature":
    """A signature from polars schemas: numbers are doubles, since a missing one is NaN in pandas; times are UTC."""
    import polars as pl
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    def column(name: str, dtype: "pl.DataType") -> ColSpec:
        kind = "string"
        if dtype.is_numeric():
            kind = "double"
        elif isinstance(dtype, pl.Datetime | pl.Date):
            kind = "datetime"
        elif dtype == pl.Boolean:
            kind = "boolean"
        return ColSpec(kind, name)

    return ModelSignature(
        inputs=Schema([column(name, dtype) for name, dtype in inputs.items()]),
        outputs=Schema([column(name, dtype) for name, dtype in outputs.items()]),
    )


def _save_pyfunc(
    folder: Path,
    model: Any,
    about: Mapping[str, Any],
    model_id: str,
    run_id: str,
    signature: "ModelSignature | None",
    pip_requirements: Sequence[str] | None,
) -> Path:
    """Write the model in MLflow's layout below `folder`, with the code that reads it."""
    import mlflow.pyfunc
    from mlflow.models import Model

    package = Path(__file__).parent.parent
    code = folder / "code" / package.name
    copytree(package / "ml", code / "ml", ignore=ignore_patterns("__pycache__"))
    (code / "registry").mkdir()
    for file in ("__init__.py", "registry/__init__.py", "registry/archive.py"):
        copy2(package / file, code / file)
    write_archive(folder / ARCHIVE, model, about)
    if pip_requirements is None:
        pip_requirements = [f"{name}=={version}" for name, version in installed().items()]
    with warnings.catch_warnings(), quiet_loggers("mlflow.utils.environment"):
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        mlflow.pyfunc.save_model(
            folder / "model",
            loader_module="lakehouse_assets.registry.archive",
            data_path=str(folder / ARCHIVE),
            code_paths=[str(code)],
            mlflow_model=Model(model_id=model_id, run_id=run_id),
            signature=signature,
            pip_requirements=list(pip_requirements),
        )
    return folder / "model"


def _model_version(version: Any, aliases: Mapping[str, int]) -> ModelVersion:
    number = int(version.version)
    return ModelVersion(
        name=version.name,
        version=number,
        run_id=version.run_id,
        created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        aliases=tuple(alias for alias, aliased in aliases.items() if aliased == number),
        pins=json.loads(version.tags.get(PINS_TAG, "{}")),
        metrics=json.loads(version.tags.get(METRICS_TAG, "{}")),
        tags={key: value for key, value in version.tags.items() if key not in (PINS_TAG, METRICS_TAG)},
    )


def _say(version: int | None) -> str:
    return "no champion" if version is None else f"version {version}"
