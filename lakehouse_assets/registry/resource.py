"""MLflow as Dagster resources: the registry, and dagster-mlflow's resource with a run for each materialisation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from lakehouse_assets.registry.store import disable_telemetry
from lakehouse_assets.registry.tracking import Registry

if TYPE_CHECKING:
    from dagster_mlflow.resources import MlFlow

# one registry a process for each store: a client costs a tenth of a second to make
_registry = lru_cache(maxsize=8)(Registry)


class RegistryResource(dg.ConfigurableResource):
    """The registry of models in one MLflow store."""

    tracking_uri: str = Field(description="MLflow tracking and registry URI, such as sqlite:////folder/mlflow.db.")
    artifact_root: str = Field(description="Folder or URI of the artifacts of new experiments.")

    def registry(self) -> Registry:
        """The registry; its store is prepared at first use."""
        return _registry(self.tracking_uri, self.artifact_root)


class MlflowResource(dg.ConfigurableResource):
    """dagster-mlflow's `MlFlow` object for your own assets, without its traps.

    ```python
    @dg.asset
    def my_model(context: dg.AssetExecutionContext, mlflow: MlflowResource) -> None:
        with mlflow.run(context) as mlf:  # what `context.resources.mlflow` is with dagster_mlflow.mlflow_tracking
            mlf.log_params({"depth": 3})
            mlf.sklearn.log_model(...)
    ```

    With `dagster_mlflow.mlflow_tracking` all assets of a Dagster run share one MLflow run, which ends by a hook of
    explicit jobs only; materialised in any other way it stays RUNNING. Here each `with` block has a run of its own,
    tagged with the Dagster run id, and closed when the block ends: FINISHED, FAILED or KILLED.
    """

    registry: dg.ResourceDependency[RegistryResource]
    experiment_name: str = Field(description="MLflow experiment; made where it is missing.")
    extra_tags: dict[str, str] = Field(default={}, description="Tags of every run.")

    @contextmanager
    def run(
        self, context: dg.AssetExecutionContext | dg.OpExecutionContext, tags: Mapping[str, Any] | None = None
    ) -> Iterator["MlFlow"]:
        """An MLflow run for this materialisation, active for `mlflow.log_...` too while the block lasts.

        Raises:
            RuntimeError: another MLflow run is active in this process; what is logged would go there.
        """
        disable_telemetry()
        import mlflow
        from dagster_mlflow.resources import MlFlow

        if active := mlflow.active_run():
            raise RuntimeError(
                f"MLflow run {active.info.run_id} is still active in this process; end it (mlflow.end_run()) first."
            )
        registry = self.registry.registry()
        name = "/".join(context.asset_key.path) if context.has_assets_def else context.op.name
        tags = {**self.extra_tags, **(tags or {})}
        with (
            registry.run(self.experiment_name, name, tags=tags, dagster_run_id=context.run_id) as run,
            _global_mlflow(),
        ):
            # given a run id, dagster-mlflow neither searches for a run nor starts one; it names it after the job
            init_context = SimpleNamespace(
                log=context.log,
                dagster_run=SimpleNamespace(job_name=name),
                run_id=context.run_id,
                resource_config={
                    "experiment_name": self.experiment_name,
                    "mlflow_tracking_uri": registry.store.tracking_uri,
                    "mlflow_run_id": run.run_id,
                },
            )
            yield MlFlow(init_context)


@contextmanager
def _global_mlflow() -> Iterator[None]:
    """Put back what MlFlow changes for the whole process: the tracking URI and the active run."""
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    try:
        yield
    finally:
        # this only takes the run off the stack of active runs: `registry.run` around it sets the final status
        if mlflow.active_run():
            mlflow.end_run()
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]
