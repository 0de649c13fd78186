"""The drift sensor: asks when a report says that a training pays, once, and says why when it does not ask."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from lakehouse_assets.lifecycle.fleet import PARTIAL
from lakehouse_assets.lifecycle.names import REPORT_TAG, REQUESTED_AT_TAG, TRIGGER_TAG
from lakehouse_assets.lifecycle.retraining import KNOWN_TAG
from lakehouse_assets_tests.lifecycle.conftest import TOY
from lakehouse_assets_tests.lifecycle.sensor import Status, World

NOW = datetime(2023, 6, 5, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def world() -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(instance)


def keys(world: World, *days: float) -> list[str | None]:
    """What is asked for on some days, nothing of which is launched."""
    requests = [world.tick(NOW + day * DAY) for day in days]
    return [request.run_key if request else None for request in requests]


def test_without_a_report_or_with_a_calm_one_nothing_is_asked(world: World) -> None:
    assert world.tick(NOW) is None
    assert world.said == "there is no drift report yet"
    world.report("2023-06-05", "ok", members_due=0)
    assert world.tick(NOW) is None
    assert world.said == "report 2023-06-05: ok"


def test_a_drift_is_asked_about_once_with_its_key_and_tags(world: World) -> None:
    world.report("2023-06-05")
    request = world.tick(NOW)
    assert request is not None
    assert request.run_key == "toy:v1:2023-06-05:1"
    assert dict(request.tags) | {
        TRIGGER_TAG: "drift",
        REPORT_TAG: "2023-06-05",
        REQUESTED_AT_TAG: NOW.isoformat(),
        KNOWN_TAG: "0",
    } == dict(request.tags)
    run = world.launch(request, Status.STARTED)
    assert world.tick(NOW) is None
    assert world.said == f"report 2023-06-05 waits: a training is under way, run {run.run_id}"


@pytest.mark.parametrize(
    ("said", "asks"),
    [
        ({"verdict": "drift", "members_due": 2}, True),
        ({"verdict": "drift", "members_due": 2, "share_drifted": 0.5}, True),
        ({"verdict": "ok", "members_due": 1}, True),  # too few for the fleet's verdict, and yet it pays for them
        ({"verdict": "drift"}, True),  # of a version that did not say
        ({"verdict": "drift", "members_due": 0, "share_drifted": 0.0}, True),  # all together, none by itself
        ({"verdict": "drift", "members_due": 0, "share_drifted": 0.5}, False),
        ({"verdict": "ok", "members_due": 0}, False),
    ],
)
def test_it_asks_where_a_training_pays(world: World, said: dict, asks: bool) -> None:
    world.report("2023-06-05", **said)
    assert (world.tick(NOW) is not None) == asks
    if said["verdict"] == "drift" and not asks:
        assert world.said == "report 2023-06-05: drift, but a training would gain less than it costs"


def test_a_decided_report_is_settled_also_when_the_challenger_was_not_promoted(world: World) -> None:
    world.report("2023-06-05")
    world.launch(world.tick(NOW), Status.STARTED, Status.SUCCESS)
    assert keys(world, 0, 90) == [None, None]
    assert world.said == "report 2023-06-05 has been decided"
    world.report("2023-06-05")
    assert keys(world, 90) == [None], "materialised again it is the same report"


def test_a_run_that_fails_after_the_gate_has_spoken_is_a_training_all_the_same(world: World) -> None:
    world.report("2023-06-05")
    run = world.launch(world.tick(NOW), Status.STARTED)
    world.decide(1, run)
    world.move(run, Status.FAILURE)
    assert world.tick(NOW) is None
    assert world.said == "report 2023-06-05 has been decided"
    world.report("2023-06-12")
    assert keys(world, 9, 10) == [None, "toy:v1:2023-06-12:1"]


def test_a_failed_training_is_asked_for_again_with_another_key_but_not_for_ever(world: World) -> None:
    world.report("2023-06-05")
    asked = []
    for status in (Status.FAILURE, Status.CANCELED):
        request = world.tick(NOW)
        assert request is not None
        asked.append(request.run_key)
        world.launch(request, status)
    assert asked == ["toy:v1:2023-06-05:1", "toy:v1:2023-06-05:2"]
    assert world.tick(NOW) is None
    assert str(world.said).startswith("report 2023-06-05: 2 trainings for it failed; mend the cause")


def test_within_the_cooldown_a_new_report_waits_and_is_not_forgotten(world: World) -> None:
    world.report("2023-06-05")
    world.launch(world.tick(NOW), Status.SUCCESS)
    world.report("2023-06-12")
    assert world.tick(NOW + 9 * DAY) is None
    assert world.said == (
        "report 2023-06-12 waits: the last training was asked for at 2023-06-05 00:00; cooling down for 10 days"
    )
    world.report(None, "insufficient_data", reason="no champion yet")
    world.report("2023-06-15", "insufficient_data")
    assert keys(world, 9, 10) == [None, "toy:v1:2023-06-12:1"], "who cannot judge does not contradict"
    world.report("2023-06-19", "ok")
    assert keys(world, 10) == [None], "superseded"


def test_the_calendar_trains_nobody_anew_who_has_just_been_trained(tmp_path: Path) -> None:
    world = World(dg.DagsterInstance.local_temp(str(tmp_path)))  # a schedule knows no ephemeral one
    world.report("2023-06-05")
    run = world.launch(world.tick(NOW), Status.SUCCESS)
    assert world.calendar(NOW + 2 * DAY) is not None, "nothing came of it"
    world.trained(run, PARTIAL)
    assert world.calendar(NOW + 2 * DAY) is not None, "some members only"
    world.trained(run, "whole")
    assert world.calendar(NOW + 2 * DAY) is None
    assert world.said == "all were trained on 2023-06-05, less than 10 days ago"
    assert world.calendar(NOW - DAY) is not None, "the clock has been set back"
    assert world.calendar(NOW + 10 * DAY) is not None


def test_drift_asks_for_so_many_trainings_a_month(world: World) -> None:
    for day in range(TOY.retrain.maximum_a_month):
        world.report(f"report {day}")
        world.launch(world.tick(NOW + day * DAY), Status.FAILURE)
    world.report("one more")
    assert keys(world, 3, 29.9) == [None, None]
    assert world.said == "report one more waits: drift has asked for 3 trainings within 30 days, the most is 3"
    assert keys(world, 30) == ["toy:v1:one more:1"]


def test_a_report_about_a_former_champion_waits_for_its_return(world: World) -> None:
    world.report("2023-06-05", champion=1)
    world.decide(champion=2)
    assert world.tick(NOW) is None
    assert world.said == "report 2023-06-05 is about version 1; version 2 is in force"
    world.report("2023-06-12", "ok", champion=2)
    assert keys(world, 0) == [None]
    world.decide(champion=1)  # rolled back
    assert keys(world, 0) == ["toy:v1:2023-06-05:1"]


def test_the_same_report_with_another_verdict_is_what_it_says_now(world: World) -> None:
    world.report("2023-06-05", "ok")
    assert keys(world, 0) == [None]
    world.report("2023-06-05")
    assert keys(world, 0) == ["toy:v1:2023-06-05:1"]
    world.report("2023-06-05", "ok")
    assert keys(world, 0) == [None]


def test_labels_that_do_not_come_are_told(world: World) -> None:
    world.report("2023-06-05", "insufficient_data")
    assert world.tick(NOW) is None
    assert world.said == "report 2023-06-05: insufficient_data"
    world.report(None, "insufficient_data", reason="no full week since the champion was trained")
    assert world.tick(NOW) is None
    assert world.said == "no report: insufficient_data, no full week since the champion was trained"


def test_a_clock_that_goes_back_neither_ends_the_cooldown_nor_prolongs_it(world: World) -> None:
    world.report("2023-06-05")
    world.launch(world.tick(NOW), Status.SUCCESS)
    world.report("2023-06-12")
    assert keys(world, -365, -356, 9) == [None, None, None], "noticed, counted from then, and back again"
    assert keys(world, -355) == ["toy:v1:2023-06-12:1"]
    assert keys(world, -400, -391, -390) == [None, None, "toy:v1:2023-06-12:1"], "gone back once more"


def test_of_two_requests_at_once_one_trains(world: World) -> None:
    """Two daemons, neither of which sees the other's run; for the same report, and for two."""
    world.report("2023-06-05")
    first = world.tick(NOW)
    world.report("2023-06-06")
    second = world.tick(NOW)
    assert first is not None
    assert second is not None
    assert first.run_key != second.run_key
    one, two = world.launch(first, Status.STARTED), world.launch(second, Status.STARTED)
    assert not world.begins(two), "one was launched before it"
    assert world.begins(one)
    world.move(two, Status.SUCCESS)
    world.move(one, Status.FAILURE)
    assert keys(world, 0) == ["toy:v1:2023-06-06:2"], "what gave way is no attempt, and its key is not used again"
    third = world.launch(world.tick(NOW), Status.STARTED)
    assert world.begins(third)


def test_a_run_that_lost_its_daemon_before_it_was_launched_holds_nothing_up(world: World) -> None:
    world.report("2023-06-05")
    lost = world.create(world.tick(NOW))
    request = world.tick(NOW)
    assert request is not None
    assert request.run_key == "toy:v1:2023-06-05:2"
    assert world.begins(world.launch(request, Status.STARTED))
    late = world.move(lost, Status.QUEUED, Status.STARTED)
    assert not world.begins(late), "launched after all, when another has begun"


def test_a_run_that_is_launched_late_is_no_attempt_too_many(world: World) -> None:
    world.report("2023-06-05")
    world.launch(world.tick(NOW), Status.FAILURE)
    held_up = world.create(world.tick(NOW))
    world.launch(world.tick(NOW), Status.CANCELED)
    assert world.tick(NOW) is None
    assert "2 trainings for it failed" in str(world.said)
    assert not world.begins(world.move(held_up, Status.QUEUED, Status.STARTED))
