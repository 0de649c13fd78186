"""One MLflow run, written through a client (no active run, no global state) and always closed."""

import getpass
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lakehouse_assets.registry.liveness import process_tags

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

RUN_TAG = "dagster_run_id"
PARENT_TAG = "mlflow.parentRunId"

# what one request to MLflow may hold
METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
TAGS_A_BATCH = 100


class TrainingRun:
    """An MLflow run while it is open; made by `Registry.run`."""

    def __init__(self, client: "MlflowClient", run_id: str, experiment_id: str, dagster_run_id: str | None) -> None:
        self.client = client
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.dagster_run_id = dagster_run_id

    def params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, as text; a parameter cannot be changed later."""
        from mlflow.entities import Param

        entities = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(entities), PARAMS_A_BATCH):
            self.client.log_batch(self.run_id, params=entities[start : start + PARAMS_A_BATCH])

    def metrics(self, metrics: Mapping[str, float | None], step: int = 0, *, model_id: str | None = None) -> None:
        """Log numbers (None is left out), at one step of a curve such as the fold of a backtest."""
        self.curve([(step, metrics)], model_id=model_id)

    def curve(self, points: Iterable[tuple[int, Mapping[str, float | None]]], *, model_id: str | None = None) -> None:
        """Log numbers at steps, (step, metrics) each, in as few requests as MLflow takes: each costs milliseconds."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entities = [
            Metric(key, float(value), now, step, model_id=model_id)
            for step, metrics in points
            for key, value in metrics.items()
            if value is not None
        ]
        for start in range(0, len(entities), METRICS_A_BATCH):
            self.client.log_batch(self.run_id, metrics=entities[start : start + METRICS_A_BATCH])

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, as text."""
        from mlflow.entities import RunTag

        entities = [RunTag(key, str(value)) for key, value in tags.items()]
        for start in range(0, len(entities), TAGS_A_BATCH):
            self.client.log_batch(self.run_id, tags=entities[start : start + TAGS_A_BATCH])

    def artifact_bytes(self, path: str, data: bytes) -> None:
        """Store `data` as the artifact `path` (such as `backtest/errors.parquet`)."""
        with self._artifact(path) as file:
            file.write_bytes(data)

    def artifact_file(self, path: str, local_file: Path) -> None:
        """Store a local file as the artifact `path`."""
        with self._artifact(path) as file:
            file.symlink_to(local_file.resolve())

    def figure(self, path: str, figure: "Figure") -> None:
        """Store a picture as the artifact `path`, whose suffix is the format."""
        with self._artifact(path) as file:
            figure.savefig(file)

    @contextmanager
    def child(self, name: str, tags: Mapping[str, Any] | None = None) -> Iterator["TrainingRun"]:
        """A run nested in this one, such as a candidate's."""
        tags = {**(tags or {}), PARENT_TAG: self.run_id}
        with open_run(self.client, self.experiment_id, name, tags, self.dagster_run_id) as run:
            yield run

    @contextmanager
    def _artifact(self, path: str) -> Iterator[Path]:
        folder, name = PurePosixPath(path).parent, PurePosixPath(path).name
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary, name)
            self.client.log_artifact(
                self.run_id, str(Path(temporary, name)), None if str(folder) == "." else str(folder)
            )


@contextmanager
def open_run(
    client: "MlflowClient", experiment_id: str, name: str, tags: Mapping[str, Any], dagster_run_id: str | None
) -> Iterator[TrainingRun]:
    """Create a run, and close it as FINISHED, FAILED (an error) or KILLED (an interrupt), whatever happens within."""
    own = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": "lakehouse_assets",
        **process_tags(),
        **({RUN_TAG: dagster_run_id} if dagster_run_id else {}),
    }
    tags = {key: str(value) for key, value in {**own, **tags}.items()}
    run_id = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
    status = "FINISHED"
    try:
        yield TrainingRun(client, run_id, experiment_id, dagster_run_id)
    except BaseException as error:
        # KeyboardInterrupt, SystemExit, and Dagster's DagsterExecutionInterruptedError are no Exceptions
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        try:
            client.set_terminated(run_id, status)
        except Exception:
            # the error within is the one to tell; what stays open here is closed by `Registry.close_orphans`
            logger.exception("MLflow run %s could not be closed.", run_id)
        raise
    client.set_terminated(run_id, status)
