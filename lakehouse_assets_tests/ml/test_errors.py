"""The error channel: the rate of its alarms on errors without a change, and what it says of those with one."""

from dataclasses import replace

import numpy as np
import pytest

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.errors import JudgedErrors, judge, weekly
from lakehouse_assets.ml.panel import DAY_US

Array = np.ndarray
POLICY = DriftPolicy()
PAST, WEEKS = 52, 30
STARTS = np.arange(PAST + WEEKS, dtype=np.int64) * 7 * DAY_US + 18_000 * DAY_US


def made(series: int, lasting: float = 0.0, seed: int = 0, weeks: int = PAST + WEEKS) -> tuple[Array, Array]:
    """Loads and forecasts (S, W, 7, 24) whose errors are autocorrelated by hour, and by week in size and bias."""
    from scipy.signal import lfilter

    rng = np.random.default_rng(seed)

    def slow(size: float) -> Array:
        steps = rng.normal(0, size * np.sqrt(1 - lasting**2), (series, weeks + 20))
        return np.asarray(lfilter([1], [1, -lasting], steps, axis=1))[:, 20:, None]

    error = lfilter([1], [1, -0.9], rng.standard_t(5, (series, weeks * 168)), axis=1).reshape(series, weeks, 168)
    season = 1 + 0.3 * np.sin(2 * np.pi * np.arange(weeks) / 52.18)[None, :, None]
    error = error * np.exp(slow(0.15)) * season + slow(0.4)
    t = np.arange(168)
    y = 100 * (1 + 0.2 * np.sin(2 * np.pi * (t - 8) / 24)) + np.zeros((series, weeks, 1))
    y = y + rng.normal(0, 1, y.shape)
    return y.reshape(series, weeks, 7, 24), (y + error).reshape(series, weeks, 7, 24)


def judged(y: Array, forecast: Array, policy: DriftPolicy = POLICY) -> JudgedErrors:
    past = weekly(y[:, :PAST], forecast[:, :PAST], STARTS[:PAST])
    return judge(weekly(y[:, PAST:], forecast[:, PAST:], STARTS[PAST : y.shape[1]]), past, policy)


@pytest.mark.parametrize("lasting", [0.0, 0.4])
def test_alarms_without_a_change_are_as_rare_as_stated(lasting: float) -> None:
    found = judged(*made(250, lasting))
    alone = found.p <= POLICY.false_alarm_rate
    assert found.tested[:, 2:].all()
    assert alone[found.tested].mean() <= 1.5 * POLICY.false_alarm_rate
    assert found.drifted.mean() <= POLICY.false_alarm_rate


def test_a_bias_of_some_hours_is_found_and_named_by_them() -> None:
    y, forecast = made(40)
    spread = np.abs(forecast - y).mean()
    forecast[7, PAST + 15 :, :, 12:18] += 2.5 * spread
    forecast[9, PAST + 15 :, :, 12:18] -= 2.5 * spread
    found = judged(y, forecast)
    for series, sign in ((7, 1), (9, -1)):
        week = 15 + int(found.drifted[series, 15:].argmax())
        assert found.drifted[series, week]
        assert week <= 17
        assert (found.kind[series, week], found.block[series, week]) == (1, 2)
        assert np.sign(found.bias[series, week]) == sign
        assert abs(found.since[series, week] - 15) <= 1
        assert 0.1 < found.gain[series, week] < 0.5
    others = np.delete(found.drifted, [7, 9], axis=0)
    assert others.mean() <= POLICY.false_alarm_rate


def test_errors_that_grow_are_found_and_what_explains_them_is_taken_out() -> None:
    y, forecast = made(40)
    error = forecast - y
    late = np.arange(PAST + WEEKS) >= PAST + 10
    grown = y + error * np.where((np.arange(40) < 5)[:, None] & late, 2.5, 1.0)[..., None, None]
    found = judged(y, grown)
    assert found.drifted[:5, 10:13].any(axis=1).all()
    assert (found.change[:5, 14] > 0.4).all()
    # The same growth, wherever the load changes from day to day.
    rng = np.random.default_rng(5)
    unsteady = rng.random((40, PAST + WEEKS)) < 0.1
    unsteady[0, PAST + 20 : PAST + 24] = True
    moves = np.where(unsteady, 8.0, 1.0)[..., None] * rng.choice([-1.0, 1.0], (40, PAST + WEEKS, 7))
    wild = y + moves[..., None]
    grown = wild + error * np.where(unsteady, 3.0, 1.0)[..., None, None]
    explained = judged(wild, grown)
    assert not explained.drifted[0, 20:24].any()
    past, current = (
        weekly(wild[:, :PAST], grown[:, :PAST], STARTS[:PAST]),
        weekly(wild[:, PAST:], grown[:, PAST:], STARTS[PAST:]),
    )
    bare = [replace(weeks, explaining=np.zeros_like(weeks.explaining)) for weeks in (current, past)]
    assert judge(*bare, POLICY).change[0, 23] - explained.change[0, 23] > 0.8  # of log(3)


def test_one_wild_day_a_week_without_values_and_a_short_history_are_no_drift() -> None:
    y, forecast = made(30)
    for week in range(PAST + 10, PAST + 14):
        forecast[3, week, week % 7] *= 1.5
    y[4, PAST + 12 : PAST + 14] = np.nan
    found = judged(y, forecast)
    assert not found.drifted[3:5].any()
    assert not found.tested[4, 12:14].any()
    assert found.tested[4, 14:].any()
    short = judge(
        weekly(y[:, PAST:], forecast[:, PAST:], STARTS[PAST:]), weekly(y[:, :5], forecast[:, :5], STARTS[:5]), POLICY
    )
    assert not short.tested.any()


def test_the_same_twice_and_few_weeks_of_history_are_enough() -> None:
    y, forecast = made(40, weeks=PAST + 12)
    forecast[0, PAST + 4 :] += 2.5 * np.abs(forecast - y).mean()
    past = weekly(y[:, :12], forecast[:, :12], STARTS[:12])
    current = weekly(y[:, PAST:], forecast[:, PAST:], STARTS[PAST : PAST + 12])
    once, again = judge(current, past, POLICY), judge(current, past, POLICY)
    np.testing.assert_array_equal(once.p, again.p)
    assert once.drifted[0, 4:7].any()
    assert once.drifted[1:].mean() <= POLICY.false_alarm_rate
