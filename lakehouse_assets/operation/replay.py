"""Operating a stretch of history as if it were live: the project's schedules and sensors, ticked by a clock of ours.

What Dagster's daemon does in real time is done here in simulated time: the definitions of the schedules and sensors are
evaluated, and what they request is run, with the run keys, tags and cursors that the daemon would use. Runs of a replay
bear a tag of their own, and what they have to tell leaves the house for nobody: it is about the past.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lifecycle.delivery import channels
from lakehouse_assets.lifecycle.names import REPLAYED_TAG
from lakehouse_assets.operation.errors import RunFailed
from lakehouse_assets.operation.execution import Operator
from lakehouse_assets.settings import Settings

_POSITION = "lakehouse/replay/position"
# What tells a run key of one sensor or schedule from that of another.
_ORIGIN = ("dagster/run_key", "dagster/sensor_name", "dagster/schedule_name")


@dataclass(frozen=True)
class Ticked:
    """A run that a schedule or a sensor asked for, and how it ended."""

    asked_by: str
    job: str
    run_id: str | None
    success: bool
    reason: str | None = None


@dataclass(frozen=True)
class Step:
    """One step of a replay: the time at its end, and the runs that were asked for."""

    at: datetime
    runs: list[Ticked]


def replay(
    operator: Operator,
    start: datetime,
    end: datetime,
    step: timedelta,
    after_step: Callable[[Step], None] | None = None,
) -> list[Step]:
    """Operate the stretch from `start` to `end`, a step at a time.

    In each step the clock moves to the step's end. Every schedule that was due in between is ticked once, for its last
    due time, as the daemon does after a pause, in the order of their times of day; after every tick the sensors are
    ticked until they ask for nothing more. A run that fails is reported in its step and the replay goes on, as a live
    system would. A replay that was interrupted goes on after the last step that it finished.

    Args:
        operator: runs jobs on the home's instance.
        start: beginning of the stretch (UTC).
        end: end of the stretch (UTC).
        step: how far the clock moves at a time.
        after_step: called with each finished step.

    Returns:
        The steps that were operated.
    """
    storage = operator.instance.daemon_cursor_storage
    position = replayed_until(operator.instance)
    now = max(start, position) if position else start
    steps = []
    while now < end:
        before, now = now, min(now + step, end)
        steps.append(Step(now, list(_tick_everything(operator, before, now))))
        storage.set_cursor_values({_POSITION: now.isoformat()})
        if after_step is not None:
            after_step(steps[-1])
    return steps


def replayed_until(instance: dg.DagsterInstance) -> datetime | None:
    """The end of the last step that any replay on this instance finished; None: there was none."""
    position = instance.daemon_cursor_storage.get_cursor_values({_POSITION}).get(_POSITION)
    return datetime.fromisoformat(position) if position else None


def unsent(settings: Settings) -> str | None:
    """What a person who replays is to know of the channels that are set for alerts; None: there are none."""
    there = channels(settings)
    if not there:
        return None
    return f"Alerts by {' and '.join(there)} are not sent in a replay; their runs have the tag {REPLAYED_TAG}."


def _tick_everything(operator: Operator, before: datetime, now: datetime) -> Iterator[Ticked]:
    repository = operator.definitions.get_repository_def()
    due = []
    for schedule in repository.schedule_defs:
        if schedule.default_status is dg.DefaultScheduleStatus.RUNNING:
            tick = _last_due(schedule, now)
            if tick is not None and tick > before:
                # In its own time zone: landing at midnight comes before what follows in the small hours.
                due.append((tick.time(), schedule.name, tick))
    for _, name, tick in sorted(due):
        yield from _tick_schedule(operator, name, tick, now)
        yield from tick_sensors(operator, now)


def _last_due(schedule: dg.ScheduleDefinition, now: datetime) -> datetime | None:
    windows = dg.TimeWindowPartitionsDefinition(
        cron_schedule=str(schedule.cron_schedule),
        start=(now - timedelta(days=800)).replace(tzinfo=None),
        fmt="%Y-%m-%dT%H:%M",
        timezone=schedule.execution_timezone or "UTC",
    )
    window = windows.get_prev_partition_window(now)
    return window.end if window else None


def _tick_schedule(operator: Operator, name: str, tick: datetime, now: datetime) -> Iterator[Ticked]:
    schedule = operator.definitions.resolve_schedule_def(name)
    context = dg.build_schedule_context(
        instance=operator.instance,
        scheduled_execution_time=tick,
        resources={"clock": Clock(at=now.isoformat())},
        repository_def=operator.definitions.get_repository_def(),
    )
    for request in schedule.evaluate_tick(context).run_requests or ():
        yield from _run(operator, name, request, schedule.job_name, now)


def tick_sensors(operator: Operator, now: datetime) -> Iterator[Ticked]:
    """Tick every sensor that is on until none of them asks for a run."""
    repository = operator.definitions.get_repository_def()
    names = sorted(
        sensor.name
        for sensor in repository.sensor_defs
        if sensor.default_status is dg.DefaultSensorStatus.RUNNING
        and not isinstance(sensor, dg.RunStatusSensorDefinition | dg.AutomationConditionSensorDefinition)
    )
    asked = True
    while asked:
        asked = False
        for name in names:
            for run in tick_sensor(operator, name, now):
                asked = True
                yield run


def tick_sensor(operator: Operator, name: str, now: datetime) -> Iterator[Ticked]:
    """Tick one sensor and run what it asks for."""
    storage = operator.instance.daemon_cursor_storage
    cursor_key = f"lakehouse/replay/sensor/{name}"
    sensor = operator.definitions.resolve_sensor_def(name)
    # No more than it asks for: Dagster makes them all anew at each tick, which took most of its time.
    there = {**(operator.definitions.resources or {}), "clock": Clock(at=now.isoformat())}
    resources = {key: there[key] for key in sensor.required_resource_keys if key in there}
    with dg.build_sensor_context(
        instance=operator.instance,
        cursor=storage.get_cursor_values({cursor_key}).get(cursor_key),
        repository_def=operator.definitions.get_repository_def(),
        sensor_name=name,
        resources=resources,
    ) as context:
        outcome = sensor.evaluate_tick(context)
    for request in outcome.run_requests or ():
        yield from _run(operator, name, request, request.job_name or sensor.job_name, now)
    if outcome.cursor:
        storage.set_cursor_values({cursor_key: outcome.cursor})


def _run(operator: Operator, asked_by: str, request: dg.RunRequest, job: str | None, now: datetime) -> Iterator[Ticked]:
    """Run what was asked for, unless a run with its key exists: run keys are asked once, as by the daemon."""
    tags = {**request.tags, REPLAYED_TAG: "true"}
    if request.run_key:
        tags["dagster/run_key"] = request.run_key
    assert job is not None, f"{asked_by} asks for a run of no job"
    known: dict[str, str | list[str]] = {key: tags[key] for key in _ORIGIN if key in tags}
    if request.run_key and operator.instance.get_runs(dg.RunsFilter(tags={**known}), limit=1):
        return
    try:
        result = operator.run(job, at=now, tags=tags, run_config=request.run_config)
        yield Ticked(asked_by, job, result.run_id, success=True)
    except RunFailed as error:
        yield Ticked(asked_by, job, error.run_id, success=False, reason=str(error))
