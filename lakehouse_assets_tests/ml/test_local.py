"""Targets by the local clock, and without the hours of lasting faults."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.local import LocalHours, without_faults
from lakehouse_assets.ml.panel import DAY_US, HOUR_US, Panel
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

DAYS = 160


def panel_of(demand: np.ndarray, ahead: int = 0) -> Panel:
    """The panel of loads that go with clocks so many hours ahead of UTC, and one more from day 100 on."""
    if ahead:
        demand = np.concatenate([demand[:, : 100 * 24], np.roll(demand, -1, axis=1)[:, 100 * 24 :]], axis=1)
    frame = feature_frame(demand)
    days = (pl.col("issued_at") - pl.col("issued_at").min()).dt.total_days() + 28
    local = (pl.col("hour") + ahead + (days >= 100).cast(pl.Int32)) % 24 if ahead else pl.col("hour")
    return Panel.from_frame(frame.with_columns(hour=local.cast(pl.Float32)))


@pytest.mark.parametrize("ahead", [0, -6, 9])
def test_hours_lie_where_the_local_clock_says(ahead: int) -> None:
    demand, _ = load_curves(2, DAYS)
    panel = panel_of(demand, ahead)
    hours = LocalHours.of(panel)
    assert hours.values.shape[1] % 24 == 0
    np.testing.assert_array_equal(
        np.take_along_axis(hours.values, hours.place.reshape(2, -1), 1), panel.target.reshape(2, -1)
    )
    np.testing.assert_array_equal(hours.place % 24, panel.full("hour").astype(int))
    first = hours.place[0, 0, 0] - (ahead if ahead else 0)
    assert (hours.start - datetime(1970, 1, 1)).total_seconds() * 1e6 + first * HOUR_US == panel.issued[0]


def test_the_hours_of_a_stuck_meter_are_left_out_and_its_beginning_is_told() -> None:
    demand, _ = load_curves(3, DAYS)
    begin = (DAYS - 4) * 24 + 5
    demand[1, begin : begin + 30] = demand[1, begin]
    panel = panel_of(demand, ahead=-6)
    start, stop = int(panel.issued[-7]), int(panel.issued[-1]) + 1
    target, told = without_faults(panel, start, stop)
    assert told[0] is None
    assert told[2] is None
    name, since = told[1] or ("", 0)
    assert name == "stuck_meter"
    assert since == panel.issued[0] + (begin - 1 - 28 * 24) * HOUR_US
    left_out = ~np.isfinite(target[1]).ravel()
    assert np.flatnonzero(left_out).tolist() == list(range(3 * 24 + 4, 3 * 24 + 34))
    assert np.isfinite(target[[0, 2]]).all()


def test_a_change_to_summer_time_and_a_good_week_are_no_faults() -> None:
    demand, _ = load_curves(3, DAYS)
    panel = panel_of(demand, ahead=2)
    for day in (75, 90, 120):
        start = int(panel.issued[day])
        target, told = without_faults(panel, start, start + 7 * DAY_US)
        assert told == [None] * 3
        np.testing.assert_array_equal(target, panel.between(start, start + 7 * DAY_US).target)
