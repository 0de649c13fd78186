"""Detectors of one stream: they see no future, find what is planted, and stay silent where nothing is."""

from collections.abc import Callable

import numpy as np
import pytest

from lakehouse_assets.ml.anomalies import (
    DAY_US,
    WINDOW,
    Array,
    Times,
    forecasts,
    isolation_forest,
    last_value,
    probation,
    relative_to_record,
    residuals,
    windowed_gaussian,
)

HOUR = DAY_US // 24
DETECTORS: dict[str, Callable[[Times, Array], Array]] = {
    "residuals": residuals,
    "isolation_forest": isolation_forest,
    "windowed_gaussian": lambda _, values: windowed_gaussian(values),
    "last_value": lambda _, values: last_value(values),
}


def stream(rows: int = 24 * 60, seed: int = 0) -> tuple[Times, Array]:
    """Hours with a day in them, and noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(rows)
    return t * HOUR, 100 + 20 * np.sin(2 * np.pi * t / 24) + rng.normal(0, 1, rows)


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
def test_no_score_changes_when_the_future_does(detector: Callable[[Times, Array], Array]) -> None:
    times, values = stream(24 * 10)
    for now in (90, 200):
        corrupted = values.copy()
        corrupted[now:] = np.random.default_rng(1).normal(-1e4, 1e4, len(values) - now)
        assert detector(times, corrupted)[:now].tolist() == detector(times, values)[:now].tolist()


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
def test_a_spike_scores_highest(detector: Callable[[Times, Array], Array]) -> None:
    (times, values), at = stream(24 * 10), 200
    values[at] += 150
    scores = detector(times, values)[probation(len(values)) :]
    # The way back is a step as large, and a window holds the spike for a while.
    assert 0 <= scores.argmax() + probation(len(values)) - at < WINDOW


def test_a_peak_at_the_wrong_time_of_day_is_seen_by_that_forecast() -> None:
    times, values = stream()
    values[1000:1006] = values[1012:1018]
    missed = {name: np.abs(values - expected) for name, expected in forecasts(times, values).items()}
    records = {name: relative_to_record(misses, values)[1000:1006].max() for name, misses in missed.items()}
    assert records["time_of_day"] > 1.2
    assert records["level"] < 1


def test_spikes_that_come_every_day_alarm_of_no_day() -> None:
    times, values = stream()
    values[12::24] += 80
    daily = residuals(times, values)[300:]
    assert daily.max() < 1.5
    assert windowed_gaussian(values)[300:].max() > 3


@pytest.mark.parametrize("name", sorted(DETECTORS.keys() - {"isolation_forest"}))  # a forest cannot part equal rows
def test_a_constant_stream_is_silent_and_its_first_move_is_news(name: str) -> None:
    detector = DETECTORS[name]
    times, values = np.arange(400) * HOUR, np.full(400, 5.0)
    assert np.abs(detector(times, values)).max() == 0
    values[300] = 6.0
    scores = detector(times, values)
    assert scores.argmax() == 300
    assert np.isfinite(scores).all()
