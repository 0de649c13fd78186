"""Lasting faults by name, in load curves with weather, weekends and outliers."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.ml.quality import FAULTS, SCHEMA, faults

START = datetime(2024, 1, 1)
DAYS = 90


def loads(seed: int = 0, series: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(DAYS * 24)
    shape = 1 + 0.25 * np.sin(2 * np.pi * (t - 9) / 24) + 0.1 * np.sin(4 * np.pi * t / 24) - 0.1 * (t // 24 % 7 >= 5)
    weather = np.cumsum(rng.normal(0, 0.01, (series, DAYS)), axis=1).repeat(24, axis=1)
    return 1000 * 3.0 ** np.arange(series)[:, None] * (shape + weather) * (1 + rng.normal(0, 0.01, (series, len(t))))


def found(values: np.ndarray) -> pl.DataFrame:
    return faults([f"S{i}" for i in range(len(values))], START, values)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_good_series_have_no_faults(seed: int) -> None:
    values = loads(seed)
    values[2, 50 * 24] *= 4  # a bad hour
    values[3, 60 * 24 : 61 * 24] *= 1.3  # an odd day
    values[4, 40 * 24 : 40 * 24 + 6] = np.nan
    values[5, : 20 * 24] = np.nan  # a newcomer
    values[:, 88 * 24 :] = np.nan  # not known yet
    assert found(values).is_empty()
    assert found(values).schema == pl.Schema(SCHEMA)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(FAULTS), st.integers(0, 5), st.integers(40, 75), st.integers(0, 20))
def test_each_fault_is_named_with_its_time(fault: str, series: int, day: int, seed: int) -> None:
    values = loads(seed)
    hours = {"gap": 48, "stuck_meter": 30, "unit_error": 72, "clock_slip": 216}[fault]
    span = slice(day * 24, day * 24 + hours)
    clean = values[series].copy()
    values[series, span] = {
        "gap": np.nan,
        "stuck_meter": clean[day * 24],
        "unit_error": clean[span] * 1000,
        "clock_slip": clean[day * 24 - 1 : day * 24 + hours - 1],
    }[fault]
    named = found(values)
    assert named["fault"].unique().to_list() == [fault]
    assert named["series_id"].unique().to_list() == [f"S{series}"]
    since, until = START + timedelta(days=day), START + timedelta(days=day, hours=hours)
    slack = timedelta(days=3) if fault == "clock_slip" else timedelta(hours=1)
    assert abs(named["since"].min() - since) <= slack
    assert abs(named["until"].max() - until) <= 2 * slack


@pytest.mark.parametrize("factor", [0.5, 2.0, 1.3])
def test_a_new_level_is_no_unit(factor: float) -> None:
    values = loads()
    values[1, 50 * 24 :] *= factor
    assert found(values).filter(fault="unit_error").is_empty()


def test_nothing_at_all() -> None:
    assert found(np.full((2, 48), np.nan)).is_empty()
    assert faults([], START, np.zeros((0, 0))).is_empty()


@pytest.mark.parametrize("days", [1, 2, 6, 7, 10, 29])
def test_a_short_history_is_looked_at_as_far_as_it_goes(days: int) -> None:
    values = loads()[:, : days * 24]
    values[3] = np.nan
    assert found(values).is_empty()
