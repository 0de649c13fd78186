"""When a model is trained anew: its jobs, its schedules, and the sensor that asks after a drift verdict.

The sensor only reads what earlier runs left in the event log. It asks once for each report: an attempt that failed may
be repeated a few times, an attempt that was decided (promoted or kept) settles the report.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lifecycle.names import REPORT_TAG, REQUESTED_AT_TAG, TRIGGER_TAG, Names
from lakehouse_assets.ml.definition import ModelDefinition
from lakehouse_assets.settings import get_settings

if TYPE_CHECKING:
    # What `dg.define_asset_job` returns; Dagster does not export its name.
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


def retraining_definitions(definition: ModelDefinition) -> dg.Definitions:
    """Jobs, schedules and the drift sensor of a model."""
    names = Names(definition.name)
    retrain = dg.define_asset_job(
        names.retrain_job,
        selection=dg.AssetSelection.assets(
            names.training,
            names.promotion,
            names.series,
            names.series_history,
            names.prediction,
            names.rungs,
        ),
        description="Train a challenger, let the gate decide, predict anew.",
        # A training gets a process of its own, forked from one that has the slow imports behind it.
        executor_def=dg.multiprocess_executor.configured(
            {"max_concurrent": 1, "start_method": {"forkserver": {"preload_modules": ["mlflow", "sklearn.ensemble"]}}}
        ),
    )
    predict = dg.define_asset_job(
        names.predict_job,
        selection=dg.AssetSelection.assets(names.prediction, names.rungs, names.errors),
        description="Predict with the champion; compare earlier predictions with what came.",
    )
    monitor = dg.define_asset_job(
        names.monitor_job,
        selection=dg.AssetSelection.assets(names.profile, names.drift),
        description="Profile the weeks that have passed; judge whether a fresh fit would do better than the champion.",
    )
    return dg.Definitions(
        jobs=[retrain, predict, monitor],
        schedules=[
            _schedule(predict, "daily", definition.schedules.predict, definition),
            _schedule(monitor, "weekly", definition.schedules.monitor, definition),
            _schedule(retrain, "monthly", definition.schedules.retrain, definition),
        ],
        sensors=[drift_sensor(definition, retrain)],
    )


def _schedule(
    job: "UnresolvedAssetJobDefinition", period: str, cron: str, definition: ModelDefinition
) -> dg.ScheduleDefinition:
    @dg.schedule(
        job=job,
        name=f"{job.name}_{period}",
        cron_schedule=cron,
        execution_timezone=definition.schedules.time_zone,
        default_status=get_settings().schedule_status("local", "production"),
        description=f"{job.description} Runs in: local, production.",
    )
    def tick(context: dg.ScheduleEvaluationContext, clock: Clock) -> dg.RunRequest:
        return dg.RunRequest(
            run_key=context.scheduled_execution_time.isoformat(),
            tags={TRIGGER_TAG: "schedule", REQUESTED_AT_TAG: clock.now().isoformat()},
        )

    return tick


def drift_sensor(definition: ModelDefinition, job: "UnresolvedAssetJobDefinition") -> dg.SensorDefinition:
    """The sensor that asks for a training when the latest report says that the champion has drifted."""
    names = Names(definition.name)
    cooldown = timedelta(days=definition.retrain.cooldown_days)

    @dg.sensor(
        job=job,
        name=f"{definition.name}_drift_sensor",
        minimum_interval_seconds=60,
        default_status=get_settings().sensor_status("local", "production"),
        description=(
            "Asks for a training when the latest drift report says so: once a report, not within "
            f"{definition.retrain.cooldown_days} days of the last training. Runs in: local, production."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext, clock: Clock) -> dg.SensorResult | dg.SkipReason:
        event = context.instance.get_latest_materialization_event(names.drift)
        report = event.asset_materialization.metadata if event and event.asset_materialization else {}
        if "report" not in report:
            return dg.SkipReason("there is no drift report yet")
        report_id = str(report["report"].value)
        if context.cursor == report_id:
            return dg.SkipReason(f"report {report_id} is settled")
        if report["verdict"].value != "drift":
            return dg.SensorResult(skip_reason=f"report {report_id}: {report['verdict'].value}", cursor=report_id)
        champion = str(report["champion_version"].value)
        in_force = _champion_in_force(context.instance, names)
        if in_force is not None and in_force != champion:
            reason = f"report {report_id} is about version {champion}; version {in_force} is in force"
            return dg.SensorResult(skip_reason=reason, cursor=report_id)

        runs = context.instance.get_runs(dg.RunsFilter(job_name=job.name), limit=100)
        if any(not run.is_finished for run in runs):
            return dg.SkipReason("a training is under way")
        of_report = [run for run in runs if run.tags.get(REPORT_TAG) == report_id]
        if any(run.is_success for run in of_report):
            return dg.SensorResult(skip_reason=f"report {report_id} has been decided", cursor=report_id)
        if len(of_report) >= definition.retrain.maximum_attempts:
            return dg.SkipReason(
                f"{len(of_report)} trainings for report {report_id} failed; mend the cause, then run job {job.name}"
            )
        last = _last_training(runs)
        if not of_report and last is not None and clock.now() - last < cooldown:
            return dg.SkipReason(
                f"the last training was asked for at {last:%Y-%m-%d}; cooling down for {cooldown.days} days"
            )
        attempt = len(of_report) + 1
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=f"{definition.name}:v{champion}:{report_id}:{attempt}",
                    tags={
                        TRIGGER_TAG: "drift",
                        REPORT_TAG: report_id,
                        REQUESTED_AT_TAG: clock.now().isoformat(),
                        "lakehouse/attempt": str(attempt),
                    },
                )
            ]
        )

    return sensor


def _champion_in_force(instance: dg.DagsterInstance, names: Names) -> str | None:
    """The champion's version as the latest decision (or rollback) left it, from the event log: without MLflow."""
    event = instance.get_latest_materialization_event(names.promotion)
    metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
    return str(metadata["champion_version"].value) if "champion_version" in metadata else None


def _last_training(runs: Sequence[dg.DagsterRun]) -> datetime | None:
    """When the latest training that did not fail was asked for, on the clock that asked."""
    times = [run.tags[REQUESTED_AT_TAG] for run in runs if run.is_success and REQUESTED_AT_TAG in run.tags]
    return max((datetime.fromisoformat(time) for time in times), default=None)
