"""Which months are refined after a landing, and what the sensor asks for."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_assets.automation.landing import MAX_ATTEMPTS, months_to_refine, refine_landed_months, stale_months
from lakehouse_assets.definitions import defs
from lakehouse_assets.lake.clock import Clock

MONTHS = [f"2024-{month:02}-01" for month in range(1, 9)]
EVENTS = st.dictionaries(st.sampled_from(MONTHS), st.integers(1, 20), min_size=1)
REFINED = (
    "silver/demand",
    "silver/demand_quarantine",
    "gold/demand_hourly",
    "gold/demand_daily",
    "features/usage",
    "features/demand",
)


def span(touched: Sequence[str]) -> list[str]:
    return MONTHS[MONTHS.index(min(touched)) : MONTHS.index(max(touched)) + 1]


@given(touched=EVENTS, refined=st.lists(EVENTS, min_size=1, max_size=3))
def test_a_month_is_refined_when_a_table_is_older_than_its_rows_or_those_of_the_month_before(
    touched: dict[str, int], refined: list[dict[str, int]]
) -> None:
    months = span(list(touched))
    before = {following: month for month, following in pairwise(months)}
    wanted = {
        month
        for month in months
        for landed in (touched.get(month, 0), touched.get(before.get(month, ""), 0))
        for table in refined
        if table.get(month, 0) < landed
    }
    found = months_to_refine(touched, refined, months)
    assert found == sorted(wanted)
    # Once they are refined there is nothing more to do; and one table that was left out brings all of its months back.
    done = [{**table, **dict.fromkeys(found, 21)} for table in refined]
    assert months_to_refine(touched, done, months) == []
    assert set(months_to_refine(touched, [*done, {}], months)) >= set(touched)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def land(instance: dg.DagsterInstance, *months: str) -> None:
    metadata = {"months_touched": dg.MetadataValue.json(list(months))}
    instance.report_runless_asset_event(dg.AssetMaterialization(["bronze", "demand"], metadata=metadata))


def refine(instance: dg.DagsterInstance, tables: Sequence[str], *months: str) -> None:
    for table in tables:
        for month in months:
            instance.report_runless_asset_event(dg.AssetMaterialization(table.split("/"), partition=month))


def tick(instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """What the sensor asks for, or why it does not."""
    context = dg.build_sensor_context(
        instance=instance,
        repository_def=defs.get_repository_def(),
        resources={"clock": Clock(at="2024-05-01T00:00:00+00:00")},
    )
    outcome = refine_landed_months.evaluate_tick(context)
    if not outcome.run_requests:
        assert outcome.skip_message is not None
        return outcome.skip_message
    (request,) = outcome.run_requests
    return request


def months_of(request: dg.RunRequest | str) -> tuple[str, str]:
    assert isinstance(request, dg.RunRequest), request
    return request.tags["dagster/asset_partition_range_start"], request.tags["dagster/asset_partition_range_end"]


def test_nothing_landed_nothing_asked(instance: dg.DagsterInstance) -> None:
    assert tick(instance) == "every month is as new as its rows"
    land(instance)
    assert tick(instance) == "every month is as new as its rows"


def test_it_asks_for_the_range_of_the_touched_months(instance: dg.DagsterInstance) -> None:
    land(instance, *MONTHS[:4])
    request = tick(instance)
    assert months_of(request) == (MONTHS[0], MONTHS[3])
    assert isinstance(request, dg.RunRequest)
    assert request.tags["lakehouse/requested_at"] == datetime(2024, 5, 1, tzinfo=UTC).isoformat()
    refine(instance, REFINED, *MONTHS[:4])
    assert tick(instance) == "every month is as new as its rows"


def test_a_revision_of_an_old_month_touches_the_one_after_it_too(instance: dg.DagsterInstance) -> None:
    land(instance, *MONTHS[:5])
    refine(instance, REFINED, *MONTHS[:5])
    land(instance, MONTHS[1])
    assert months_of(tick(instance)) == (MONTHS[1], MONTHS[2])


def test_a_table_that_lags_behind_the_others_is_asked_for(instance: dg.DagsterInstance) -> None:
    land(instance, *MONTHS[:3])
    refine(instance, REFINED[:-1], *MONTHS[:3])
    refine(instance, REFINED[-1:], *MONTHS[:2])
    assert months_of(tick(instance)) == (MONTHS[2], MONTHS[2])


def test_it_asks_once_and_again_after_a_failure_a_few_times(instance: dg.DagsterInstance) -> None:
    land(instance, MONTHS[0])
    keys = set()
    for _ in range(MAX_ATTEMPTS):
        request, again = tick(instance), tick(instance)
        assert isinstance(request, dg.RunRequest)
        assert isinstance(again, dg.RunRequest)
        assert request.run_key == again.run_key  # asked twice, the daemon starts it once
        keys.add(request.run_key)
        started = {"job_name": "refine", "tags": request.tags}
        run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, **started)
        assert tick(instance) == "a refine run for these rows is under way"
        instance.report_run_failed(run)
    assert len(keys) == MAX_ATTEMPTS
    assert "mend the cause" in str(tick(instance))
    # Who asks by hand is told of the same months; and new rows are asked for anew.
    (stale,) = stale_months(instance, defs.get_repository_def().asset_graph)
    assert (stale.job, stale.months) == ("refine", {MONTHS[0]})
    land(instance, MONTHS[1])
    assert months_of(tick(instance)) == (MONTHS[0], MONTHS[1])
