"""A sensor that closes what killed processes left open: MLflow runs, and the Dagster runs that made them."""

import dagster as dg

from lakehouse_assets.registry.liveness import close_dead_runs, dagster_run_is_alive, mlflow_status
from lakehouse_assets.registry.resource import RegistryResource


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Closes MLflow runs whose Dagster run has ended or was killed, and reports killed ones failed.",
)
def close_open_runs(context: dg.SensorEvaluationContext, registry: RegistryResource) -> dg.SkipReason:
    """Every minute; without MLflow in memory while no run is open."""
    dead = close_dead_runs(context.instance)
    closed = registry.registry().close_orphans(
        dagster_run_is_alive(context.instance), status=mlflow_status(context.instance)
    )
    for run_id in closed:
        context.log.info(f"Closed MLflow run {run_id}.")
    return dg.SkipReason(f"Reported {len(dead)} killed Dagster runs, closed {len(closed)} MLflow runs.")
