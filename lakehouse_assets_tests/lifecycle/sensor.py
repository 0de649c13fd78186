"""A model's drift sensor on an instance, with what Dagster's daemons do about a request, one step at a time."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import dagster as dg
from dagster._core.events import StepMaterializationData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lifecycle.fleet import SCOPE_TAG
from lakehouse_assets.lifecycle.names import REQUESTED_AT_TAG, TRIGGER_TAG, Names
from lakehouse_assets.lifecycle.retraining import RUN_KEY_TAG, begins, retraining_definitions
from lakehouse_assets_tests.lifecycle.conftest import TOY

NAMES = Names("toy")
Status = dg.DagsterRunStatus
_EVENTS = {
    Status.QUEUED: dg.DagsterEventType.PIPELINE_ENQUEUED,
    Status.STARTED: dg.DagsterEventType.PIPELINE_START,
    Status.SUCCESS: dg.DagsterEventType.PIPELINE_SUCCESS,
    Status.FAILURE: dg.DagsterEventType.PIPELINE_FAILURE,
    Status.CANCELED: dg.DagsterEventType.PIPELINE_CANCELED,
}
# Where the job of a run in the queue is found; here nobody looks.
_ORIGIN = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("toys"), "toys").get_job_origin(NAMES.retrain_job)


@cache
def _toys() -> dg.Definitions:
    """The toy's jobs with assets that do nothing."""
    keys = (NAMES.training, NAMES.promotion, NAMES.series, NAMES.series_history)
    assets = [dg.AssetSpec(key) for key in (*keys, NAMES.prediction, NAMES.errors, NAMES.drift)]
    executable = [dg.multi_asset(specs=[spec], name="_".join(spec.key.path))(lambda: None) for spec in assets]
    return dg.Definitions.merge(dg.Definitions(assets=executable), retraining_definitions(TOY))


def toy_sensor() -> tuple[dg.SensorDefinition, dg.RepositoryDefinition]:
    """The toy's sensor, and a repository with its jobs."""
    return _toys().resolve_sensor_def("toy_drift_sensor"), _toys().get_repository_def()


def toy_schedule() -> tuple[dg.ScheduleDefinition, dg.RepositoryDefinition]:
    """The toy's monthly training, and a repository with its jobs."""
    return _toys().resolve_schedule_def(f"{NAMES.retrain_job}_monthly"), _toys().get_repository_def()


@dataclass
class World:
    """An instance with the toy's sensor."""

    instance: dg.DagsterInstance
    said: str | None = None
    """Why the latest tick asked for nothing."""

    def report(self, report: str | None, verdict: str = "drift", champion: int = 1, **metadata: Any) -> None:
        found = {"verdict": verdict, **metadata}
        if report is not None:
            found |= {"report": report, "champion_version": champion}
        self.instance.report_runless_asset_event(dg.AssetMaterialization(NAMES.drift, metadata=found))

    def decide(self, champion: int, run: dg.DagsterRun | None = None) -> None:
        """A run of the gate, or a person, says which version is champion."""
        self._materialize(dg.AssetMaterialization(NAMES.promotion, metadata={"champion_version": champion}), run)

    def trained(self, run: dg.DagsterRun, scope: str) -> None:
        """A run has trained all, or some members."""
        self._materialize(dg.AssetMaterialization(NAMES.training, metadata={SCOPE_TAG: scope}), run)

    def _materialize(self, said: dg.AssetMaterialization, run: dg.DagsterRun | None) -> None:
        if run is None:
            self.instance.report_runless_asset_event(said)
            return
        event = dg.DagsterEvent(
            event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name=run.job_name,
            event_specific_data=StepMaterializationData(said),
        )
        self.instance.report_dagster_event(event, run.run_id)

    def tick(self, now: datetime) -> dg.RunRequest | None:
        """Evaluate the sensor, without a cursor: it keeps none."""
        sensor, repository = toy_sensor()
        with dg.build_sensor_context(
            self.instance, repository_def=repository, resources={"clock": Clock(at=now.isoformat())}
        ) as context:
            outcome = sensor.evaluate_tick(context)
        assert outcome.cursor is None
        self.said = outcome.skip_message
        requests = list(outcome.run_requests or ())
        assert len(requests) + bool(self.said) == 1, "one request, or one reason"
        return requests[0] if requests else None

    def calendar(self, now: datetime) -> dg.RunRequest | None:
        """Evaluate the monthly schedule."""
        schedule, repository = toy_schedule()
        with dg.build_schedule_context(
            self.instance,
            repository_def=repository,
            resources={"clock": Clock(at=now.isoformat())},
            scheduled_execution_time=now,
        ) as context:
            outcome = schedule.evaluate_tick(context)
        self.said = outcome.skip_message
        requests = list(outcome.run_requests or ())
        assert len(requests) + bool(self.said) == 1, "one request, or one reason"
        return requests[0] if requests else None

    def is_new(self, request: dg.RunRequest) -> bool:
        """What the daemon asks first about a request: it does nothing about one whose key a run has."""
        return not self.instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: str(request.run_key)}))

    def create(self, request: dg.RunRequest) -> dg.DagsterRun:
        """What it does next: a run that nobody knows of yet but the instance."""
        return self._add({**request.tags, RUN_KEY_TAG: str(request.run_key)})

    def by_calendar(self, now: datetime) -> dg.DagsterRun:
        """A training that the schedule asked for, in the queue."""
        run = self._add({TRIGGER_TAG: "schedule", REQUESTED_AT_TAG: now.isoformat()})
        return self.move(run, Status.QUEUED)

    def _add(self, tags: dict[str, str]) -> dg.DagsterRun:
        run_id = str(uuid.uuid4())
        return self.instance.add_run(
            dg.DagsterRun(NAMES.retrain_job, run_id, status=Status.NOT_STARTED, tags=tags, remote_job_origin=_ORIGIN)
        )

    def move(self, run: dg.DagsterRun, *statuses: dg.DagsterRunStatus) -> dg.DagsterRun:
        """What the daemon, the process of the run and people do about a run later."""
        for status in statuses:
            event = dg.DagsterEvent(event_type_value=_EVENTS[status].value, job_name=run.job_name)
            self.instance.report_dagster_event(event, run.run_id)
        found = self.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found

    def launch(self, request: dg.RunRequest | None, *statuses: dg.DagsterRunStatus) -> dg.DagsterRun:
        """All that it does about a request, and what becomes of the run."""
        assert request is not None, self.said
        assert self.is_new(request)
        return self.move(self.create(request), Status.QUEUED, *statuses)

    def begins(self, run: dg.DagsterRun) -> bool:
        """Whether a run trains that has started, and holds the pool."""
        return begins(self.instance, NAMES, run)
