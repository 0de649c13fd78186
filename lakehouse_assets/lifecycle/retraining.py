"""When a model is trained anew: its jobs, its schedules, and the sensor that asks after a drift verdict.

The sensor only reads what earlier runs left in the event log, and keeps nothing of its own: a tick that is lost, or
evaluated twice, changes nothing. It asks once for each report: an attempt that failed may be repeated a few times, an
attempt that was decided (promoted or kept) settles the report; a report that has to wait is found again.

Two daemons may ask at the same moment. A request says which runs it knew, and one that drift asked for gives way, when
it is about to train, to any that was launched since (:func:`begins`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import dagster as dg

from lakehouse_assets.lake.clock import Clock, as_utc
from lakehouse_assets.lifecycle.asking import Report, Training, refusal
from lakehouse_assets.lifecycle.contracts import has_ladder
from lakehouse_assets.lifecycle.fleet import PARTIAL, SCOPE_TAG
from lakehouse_assets.lifecycle.names import REPORT_TAG, REQUESTED_AT_TAG, TRIGGER_TAG, Names
from lakehouse_assets.ml.definition import DriftPolicy, ModelDefinition
from lakehouse_assets.settings import get_settings

if TYPE_CHECKING:
    # What `dg.define_asset_job` returns; Dagster does not export its name.
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

RUN_KEY_TAG = "dagster/run_key"
"""Dagster's: of a run that drift asked for the model, the finding, and a number that each further request raises."""
KNOWN_TAG = "lakehouse/knows_runs_to"
"""Of a run that drift asked for: the number, in the instance's storage, of the latest run that the request knew."""
TRAINING_TAG = "lakehouse/training"
"""Of a run: that it began to train, or which run it gave way to."""
COUNTS_FROM_TAG = "lakehouse/counts_from"
"""Of a run that was asked for by a clock that was ahead: when it was first seen by one that was not."""
_GAVE_WAY = "gave way to "
# So many are read, the latest: more than a policy allows within a month, and than reports between two that judge.
_RUNS, _REPORTS, _DECISIONS = 100, 100, 20


def retraining_definitions(definition: ModelDefinition) -> dg.Definitions:
    """Jobs, schedules and the drift sensor of a model."""
    names = Names(definition.name)
    rungs = [names.rungs] if has_ladder(definition.kind) else []
    errors = [names.errors] if definition.kind.error_columns else []
    retrain = dg.define_asset_job(
        names.retrain_job,
        selection=dg.AssetSelection.assets(
            names.training,
            names.promotion,
            names.series,
            names.series_history,
            names.prediction,
            *rungs,
        ),
        description="Train a challenger, let the gate decide, predict anew.",
        # A training gets a process of its own, forked from one that has the slow imports behind it.
        executor_def=dg.multiprocess_executor.configured(
            {"max_concurrent": 1, "start_method": {"forkserver": {"preload_modules": ["mlflow", "sklearn.ensemble"]}}}
        ),
    )
    predict = dg.define_asset_job(
        names.predict_job,
        selection=dg.AssetSelection.assets(names.prediction, *rungs, *errors),
        description="Predict with the champion; compare earlier predictions with what came.",
    )
    monitor = dg.define_asset_job(
        names.monitor_job,
        selection=dg.AssetSelection.assets(names.profile, names.drift),
        description="Profile what has passed since; judge whether the champion has drifted.",
    )
    return dg.Definitions(
        jobs=[retrain, predict, monitor],
        schedules=[
            _schedule(predict, definition.schedules.predict, definition),
            _schedule(monitor, definition.schedules.monitor, definition),
            _schedule(retrain, definition.schedules.retrain, definition, unless=_just_trained(definition)),
        ],
        sensors=[drift_sensor(definition, retrain)],
    )


def _schedule(
    job: "UnresolvedAssetJobDefinition",
    cron: str,
    definition: ModelDefinition,
    unless: Callable[[dg.DagsterInstance, datetime], str | None] | None = None,
) -> dg.ScheduleDefinition:
    @dg.schedule(
        job=job,
        name=f"{job.name}_{period(cron)}",
        cron_schedule=cron,
        execution_timezone=definition.schedules.time_zone,
        default_status=get_settings().schedule_status("local", "production"),
        description=f"{job.description} Runs in: local, production.",
    )
    def tick(context: dg.ScheduleEvaluationContext, clock: Clock) -> dg.RunRequest | dg.SkipReason:
        needless = unless and unless(context.instance, clock.now())
        if needless:
            return dg.SkipReason(needless)
        return dg.RunRequest(
            run_key=context.scheduled_execution_time.isoformat(),
            tags={TRIGGER_TAG: "schedule", REQUESTED_AT_TAG: clock.now().isoformat()},
        )

    return tick


def period(cron: str) -> str:
    """How often a cron schedule comes, in a word: daily (or more often), weekly, monthly, quarterly or yearly."""
    _, _, day, month, weekday = cron.split()
    if month != "*":
        return "yearly" if month.isdigit() else "quarterly"
    return "monthly" if day != "*" else "weekly" if weekday != "*" else "daily"


def _just_trained(definition: ModelDefinition) -> Callable[[dg.DagsterInstance, datetime], str | None]:
    """Why the calendar needs no training now, if drift or a person had the whole fleet trained within the cooldown."""
    names, cooldown = Names(definition.name), timedelta(days=definition.retrain.cooldown_days)

    def reason(instance: dg.DagsterInstance, now: datetime) -> str | None:
        for record in instance.fetch_materializations(names.training, limit=_DECISIONS).records:
            found = record.asset_materialization
            run = instance.get_run_by_id(record.run_id)
            if found is None or run is None or REQUESTED_AT_TAG not in run.tags:
                continue
            scope = found.metadata.get(SCOPE_TAG)
            asked_at = as_utc(run.tags[REQUESTED_AT_TAG])
            if (scope is None or scope.value != PARTIAL) and timedelta(0) <= now - asked_at < cooldown:
                return f"all were trained on {asked_at:%Y-%m-%d}, less than {cooldown.days} days ago"
        return None

    return reason


def drift_sensor(definition: ModelDefinition, job: "UnresolvedAssetJobDefinition") -> dg.SensorDefinition:
    """The sensor that asks for a training when a report says that the champion in force has drifted."""
    policy = definition.retrain

    @dg.sensor(
        job=job,
        name=f"{definition.name}_drift_sensor",
        minimum_interval_seconds=60,
        default_status=get_settings().sensor_status("local", "production"),
        description=(
            "Asks for a training when the latest drift report about the champion says that one pays: once a report, "
            f"not within {policy.cooldown_days} days of the last training, at most {policy.maximum_a_month} times in "
            "30 days. Runs in: local, production."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext, clock: Clock) -> dg.RunRequest | dg.SkipReason:
        now = clock.now()
        found = consider(context.instance, definition, now)
        report, records = found.report, found.records
        if report is None or found.refusal is not None:
            return dg.SkipReason(found.refusal)
        key = f"{definition.name}:{report.finding}"
        keys = [record.dagster_run.tags.get(RUN_KEY_TAG, "").rpartition(":") for record in records]
        attempt = 1 + max((int(number) for start, _, number in keys if start == key), default=0)
        return dg.RunRequest(
            run_key=f"{key}:{attempt}",
            tags={
                TRIGGER_TAG: "drift",
                REPORT_TAG: report.name,
                REQUESTED_AT_TAG: now.isoformat(),
                KNOWN_TAG: str(max((r.storage_id for r in records if r.dagster_run.is_finished), default=0)),
            },
        )

    return sensor


@dataclass(frozen=True)
class Considered:
    """What there is to ask for: the report that would, the trainings' runs, and why none is asked for, if so."""

    report: Report | None
    records: Sequence[dg.RunRecord]
    refusal: str | None


def consider(instance: dg.DagsterInstance, definition: ModelDefinition, now: datetime) -> Considered:
    """Whether drift asks for a training now, from the event log."""
    names = Names(definition.name)
    records = instance.get_run_records(dg.RunsFilter(job_name=names.retrain_job), limit=_RUNS)
    decisions = instance.fetch_materializations(names.promotion, limit=_DECISIONS).records
    trainings = _trainings(instance, records, {decision.run_id for decision in decisions}, now)
    report = _report(instance, names, _champion(decisions), definition.drift)
    if isinstance(report, str):
        return Considered(None, records, report)
    return Considered(report, records, refusal(report, trainings, definition.retrain, now))


def begins(instance: dg.DagsterInstance, names: Names, run: dg.DagsterRun) -> bool:
    """Whether a run may train now that it is about to; told by a tag of the run.

    It gives way if drift asked for it, and another training was launched that the request did not know: one that was
    created before it, or one that has begun or ended. Of two, one has its turn: the one that was created first does not
    give way to one that still waits. To be called while the run holds the model's pool, so that two do not ask at once.
    """
    rival = None
    if KNOWN_TAG in run.tags and run.parent_run_id is None:  # one that a person repeats trains
        records = instance.get_run_records(dg.RunsFilter(job_name=names.retrain_job), limit=_RUNS)
        number = next(record.storage_id for record in records if record.dagster_run.run_id == run.run_id)
        unknown = [r for r in records if r.storage_id > int(run.tags[KNOWN_TAG]) and r.storage_id != number]
        earlier = [r.dagster_run for r in unknown if r.storage_id < number or _had_its_turn(r.dagster_run)]
        rival = next((other for other in earlier if _launched(other) and not _gave_way(other)), None)
    instance.add_run_tags(run.run_id, {TRAINING_TAG: f"{_GAVE_WAY}{rival.run_id}" if rival else "began"})
    return rival is None


def _trainings(
    instance: dg.DagsterInstance, records: Sequence[dg.RunRecord], decided: set[str], now: datetime
) -> list[Training]:
    """Trainings that were launched and did not give way. One dated after `now` is dated `now`, once.

    A date in the future was set by a clock that was ahead, or the clock has been set back. Nobody knows how long ago
    that was: what is counted from it begins now. When the clock reaches the date, it counts again: the clock may have
    been set right.
    """
    trainings = []
    for record in records:
        run = record.dagster_run
        if not _launched(run) or _gave_way(run):
            continue
        dated = [as_utc(run.tags[tag]) for tag in (REQUESTED_AT_TAG, COUNTS_FROM_TAG) if tag in run.tags]
        asked_at = max((date for date in dated or [record.create_timestamp] if date <= now), default=None)
        if asked_at is None:
            asked_at = now
            instance.add_run_tags(run.run_id, {COUNTS_FROM_TAG: now.isoformat()})
        decision = run.is_success or run.run_id in decided
        trainings.append(Training(run.run_id, _finding(run), run.is_finished, decision, asked_at))
    return trainings


def _launched(run: dg.DagsterRun) -> bool:
    """Whether a run was handed to the queue: one that was only created may have lost the daemon that created it."""
    return run.status != dg.DagsterRunStatus.NOT_STARTED


def _had_its_turn(run: dg.DagsterRun) -> bool:
    """Whether a run has begun to train, or has ended without."""
    return run.is_finished or TRAINING_TAG in run.tags


def _gave_way(run: dg.DagsterRun) -> bool:
    # One that a person repeats has the tags of its parent.
    return run.parent_run_id is None and run.tags.get(TRAINING_TAG, "").startswith(_GAVE_WAY)


def _finding(run: dg.DagsterRun) -> str | None:
    """What drift asked for a run for, as the report says it; None: drift did not ask for it."""
    if run.tags.get(TRIGGER_TAG) != "drift":
        return None
    return run.tags.get(RUN_KEY_TAG, "").partition(":")[2].rpartition(":")[0]


def _champion(decisions: Sequence[dg.EventLogRecord]) -> str | None:
    """The champion's version as the latest decision (or rollback) left it, from the event log: without MLflow."""
    said = (_metadata(decision).get("champion_version") for decision in decisions)
    return next((str(version) for version in said if version is not None), None)


def _report(instance: dg.DagsterInstance, names: Names, champion: str | None, policy: DriftPolicy) -> Report | str:
    """The latest report that could judge the champion in force, or why there is none.

    One that could not (labels that do not come) says nothing against what was found before it.
    """
    why = "there is no drift report yet"
    for number, found in enumerate(islice(_latest_reports(instance, names), _REPORTS)):
        name, verdict = found.get("report"), str(found.get("verdict"))
        about = str(found.get("champion_version"))
        if name is None or (verdict == "insufficient_data" and not found.get("members_due")):
            said = f"{'no report' if name is None else f'report {name}'}: {verdict}"
            said = f"{said}, {found['reason']}" if "reason" in found else said
        elif champion in (None, about):
            together = verdict == "drift" and found.get("share_drifted", 1.0) < policy.fleet_share
            return Report(str(name), about, verdict, found.get("members_due"), together)
        else:
            said = f"report {name} is about version {about}; version {champion} is in force"
        why = why if number else said
    return why


def _latest_reports(instance: dg.DagsterInstance, names: Names) -> Iterator[Mapping[str, Any]]:
    """The metadata of drift reports, the latest first, read when they are asked for: they hold pictures."""
    cursor = None
    while True:
        page = instance.fetch_materializations(names.drift, limit=1 if cursor is None else 10, cursor=cursor)
        yield from (_metadata(record) for record in page.records)
        if not page.has_more:
            return
        cursor = page.cursor


def _metadata(record: dg.EventLogRecord) -> dict[str, Any]:
    materialization = record.asset_materialization
    return {name: value.value for name, value in materialization.metadata.items()} if materialization else {}
