"""Landing and refining: rows are landed daily; the months that they touched are then refined, table after table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING

import dagster as dg

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.settings import get_settings
from lakehouse_assets.sources.declaration import active_declaration

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

MAX_ATTEMPTS = 3
_REFINED_GROUPS = ("silver", "gold", "features")

ingest = dg.define_asset_job(
    "ingest",
    selection=dg.AssetSelection.groups("bronze"),
    description="Land what the sources have that is new.",
)
# A run has the months of one domain: each begins its history at a time of its own.
_refined = dg.AssetSelection.groups(*_REFINED_GROUPS)
_of_customers = _refined & dg.AssetSelection.tag("domain", "customers")
refine = dg.define_asset_job(
    "refine",
    selection=_refined - _of_customers,
    description="Make silver, gold and feature tables of the months that landed rows touched.",
)
refine_customers = dg.define_asset_job(
    "refine_customers",
    selection=_of_customers,
    description="Make the customers' silver, gold and feature tables of the months that landed rows touched.",
)
REFINE_JOBS = (refine, refine_customers)


_cron, _zone = active_declaration().issue_cron()

ingest_daily = dg.ScheduleDefinition(
    name="ingest_daily",
    job=ingest,
    cron_schedule=_cron,
    execution_timezone=_zone,
    description="Lands new rows at the issue times. Runs in: local, production.",
    default_status=get_settings().schedule_status("local", "production"),
)


def months_to_refine(
    touched: Mapping[str, int], refined: Iterable[Mapping[str, int]], following: Sequence[str]
) -> list[str]:
    """The months whose tables are older than the rows that were landed in them.

    Args:
        touched: month -> the latest landing event that added rows to it.
        refined: for each table, month -> its latest materialisation event.
        following: all months from the first touched one to the last; trailing statistics carry a change of one month
            into the next, so that a month is also touched by what touched the one before it.
    """
    effective = dict(touched)
    for month, following_month in pairwise(following):
        if month in touched:
            effective[following_month] = max(effective.get(following_month, 0), touched[month])
    tables = list(refined)
    return sorted(m for m, event in effective.items() if any(table.get(m, 0) < event for table in tables))


@dataclass(frozen=True)
class Stale:
    """Months of a domain's tables that are older than their rows, and the job that refines them."""

    job: str
    months: set[str]
    # The latest landing that touched any month: what tells one request from the next.
    landing: int

    @property
    def range_tags(self) -> dict[str, str]:
        """Dagster's tags for a run over the range of these months."""
        return {
            "dagster/asset_partition_range_start": min(self.months),
            "dagster/asset_partition_range_end": max(self.months),
        }


def stale_months(instance: dg.DagsterInstance, graph: "BaseAssetGraph") -> list[Stale]:
    """Compare, month by month, the latest landing with the latest materialisation of every table made from it.

    Args:
        instance: where the events are.
        graph: the assets.

    Returns:
        What is to be refined, by job; none when every month is as new as its rows.
    """
    jobs = {job.name: job.selection.resolve(graph) for job in REFINE_JOBS}
    stale: dict[str, set[str]] = {}
    newest: dict[str, int] = {}
    for bronze in sorted(key for key in graph.materializable_asset_keys if key.path[0] == "bronze"):
        touched: dict[str, int] = {}
        for record in instance.fetch_materializations(bronze, limit=1000).records:
            months = (
                record.asset_materialization.metadata.get("months_touched") if record.asset_materialization else None
            )
            for month in months.value if months is not None else ():  # type: ignore[union-attr]
                touched[str(month)] = max(touched.get(str(month), 0), record.storage_id)
        if not touched:
            continue
        following = _months(min(touched), max(touched))
        downstream = dg.AssetSelection.assets(bronze).downstream().resolve(graph)
        for job, keys in jobs.items():
            refined = [_refined_at(instance, graph, key, following) for key in downstream & keys]
            if found := months_to_refine(touched, refined, following):
                stale.setdefault(job, set()).update(found)
                newest[job] = max(newest.get(job, 0), *touched.values())
    return [Stale(job, months, newest[job]) for job, months in stale.items()]


def _refined_at(
    instance: dg.DagsterInstance, graph: "BaseAssetGraph", key: dg.AssetKey, months: Sequence[str]
) -> Mapping[str, int]:
    """Month -> latest materialisation of a table; of one without partitions, all months are as new as it is."""
    if graph.get(key).partitions_def is not None:
        return instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    records = instance.fetch_materializations(key, limit=1).records
    return dict.fromkeys(months, records[0].storage_id) if records else {}


@dg.sensor(
    jobs=REFINE_JOBS,
    minimum_interval_seconds=60,
    default_status=get_settings().sensor_status("local", "production"),
    description="Asks for a refine run over the months that landing touched. Runs in: local, production.",
)
def refine_landed_months(context: dg.SensorEvaluationContext, clock: Clock) -> dg.SensorResult | dg.SkipReason:
    """Ask for the months that are older than their rows: once, and again after a failure, a few times."""
    assert context.repository_def is not None
    instance = context.instance
    stale = stale_months(instance, context.repository_def.asset_graph)
    if not stale:
        return dg.SkipReason("every month is as new as its rows")
    asked = [_request(instance, one, clock) for one in stale]
    requests = [one for one in asked if isinstance(one, dg.RunRequest)]
    return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason("; ".join(map(str, asked)))


def _request(instance: dg.DagsterInstance, stale: Stale, clock: Clock) -> dg.RunRequest | str:
    """The run that is to be asked for, or why none is."""
    landing = f"{stale.landing}:{min(stale.months)}:{max(stale.months)}"
    earlier = instance.get_runs(dg.RunsFilter(job_name=stale.job, tags={"lakehouse/landing": landing}))
    if any(not run.is_finished for run in earlier):
        return "a refine run for these rows is under way"
    if len(earlier) >= MAX_ATTEMPTS:
        return f"{MAX_ATTEMPTS} refine runs for these rows failed; mend the cause and run `{stale.job}` by hand"
    return dg.RunRequest(
        run_key=f"{stale.job}:{landing}:{len(earlier) + 1}",
        job_name=stale.job,
        tags={
            **stale.range_tags,
            "lakehouse/landing": landing,
            "lakehouse/requested_at": clock.now().isoformat(),
        },
    )


def _months(first: str, last: str) -> list[str]:
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    count = (end.year - start.year) * 12 + end.month - start.month + 1
    return [
        date(start.year + (start.month - 1 + i) // 12, (start.month - 1 + i) % 12 + 1, 1).isoformat()
        for i in range(count)
    ]
