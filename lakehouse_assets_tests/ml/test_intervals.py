from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lakehouse_assets.ml.intervals import (
    LEVELS,
    RECENT,
    Intervals,
    calibrate,
    coverage,
    scored,
    size,
    weighted_quantiles,
)

H = 24
START = datetime(2024, 1, 1, tzinfo=UTC)
HOURLY = np.linspace(0.5, 1.5, H)
"""How wide errors are by hour: the night is easy."""


def world(days: int, series: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts and what came true, (S, D, H): errors of 3 % of the forecast times ``HOURLY``, of heavy tails."""
    rng = np.random.default_rng(seed)
    forecast = 100.0 * 4.0 ** np.arange(series)[:, None, None] * rng.uniform(0.8, 1.2, (series, days, H))
    error = 0.03 * rng.standard_t(4, forecast.shape) * HOURLY
    return forecast, forecast * (1 + error)


def frame(series: list[str], first_day: int = 0, delay: int = 1, **values: np.ndarray) -> pl.DataFrame:
    """Rows of (S, D, H) arrays, known `delay` hours after the start of the forecast hour."""
    s, d, h = next(iter(values.values())).shape
    issued = [START + timedelta(days=first_day + k) for k in range(d)]
    return pl.DataFrame(
        {
            "issued_at": pl.Series(
                [t for _ in range(s) for t in issued for _ in range(h)], dtype=pl.Datetime("us", "UTC")
            ),
            "series_id": [name for name in series for _ in range(d * h)],
            "horizon": np.tile(np.arange(h, dtype=np.int16), s * d),
            **{name: a.ravel() for name, a in values.items()},
        }
    ).with_columns(known_at=pl.col("issued_at") + pl.duration(hours=pl.col("horizon").cast(pl.Int64) + delay))


def predictions(intervals: Intervals, forecast: np.ndarray, first_day: int = 0) -> pl.DataFrame:
    names = list(intervals.series)
    rows = frame(names, first_day, yhat=forecast, **intervals.quantiles(names, forecast))
    return rows.drop("known_at").with_columns(pl.col(*LEVELS).cast(pl.Float32))


NAMES = [f"S{i}" for i in range(6)]


@pytest.fixture(scope="module")
def learned() -> Intervals:
    return Intervals.learn(NAMES, *world(84, seed=1))


def operate(intervals: Intervals, forecast: np.ndarray, actual: np.ndarray, step: int) -> pl.DataFrame:
    """The days predicted, `step` at a time, each with what was issued before."""
    truth = frame(NAMES, value=actual)
    issued = predictions(intervals, forecast[:, :1]).clear()
    for day in range(0, forecast.shape[1], step):
        new = predictions(intervals, forecast[:, day : day + step], day)
        issued = pl.concat([issued, calibrate(new, issued.lazy(), truth.lazy())])
    return scored(issued.join(truth, on=["issued_at", "series_id", "horizon"]))


def test_quantiles_learned_from_exchangeable_errors_cover_new_ones_by_series_and_hour(learned: Intervals) -> None:
    forecast, actual = world(200, seed=2)
    truth = frame(NAMES, value=actual)
    rows = scored(predictions(learned, forecast).join(truth, on=["issued_at", "series_id", "horizon"]))
    for by in ([], ["series_id"], ["horizon"]):
        found = coverage(rows, by)
        assert found["coverage_80"].is_between(0.74, 0.86).all(), found
        assert found["coverage_95"].is_between(0.915, 0.98).all(), found
    assert abs(coverage(rows)["coverage_80"].item() - 0.8) < 0.015
    wide = learned.offsets[:, :, 2] - learned.offsets[:, :, 1]
    assert wide[:, -1].min() > 2 * wide[:, 0].max(), "the evening is harder than the night"
    assert learned.offsets.nbytes == 6 * 24 * 4 * 4


def test_an_error_that_has_a_direction_moves_the_interval_off_the_forecast() -> None:
    forecast, actual = world(84)
    offsets = Intervals.learn(NAMES, forecast, actual * 1.2).offsets
    assert (offsets[..., 1:] > 0).all()


def test_a_series_without_errors_of_its_own_is_given_those_of_the_others() -> None:
    forecast, actual = world(84)
    actual[2] = np.nan
    learned = Intervals.learn(NAMES, forecast, actual)
    others = np.delete(learned.offsets, 2, axis=0)
    for name in (NAMES[2], "unheard of"):
        above = (learned.quantiles([name], forecast[2:3])["q975"] - forecast[2:3]) / size(forecast[2:3])[..., None]
        assert above.mean(axis=(0, 1)) == pytest.approx(np.median(others[..., 3], axis=0), rel=1e-4)


def test_a_series_that_no_shard_knows_is_given_what_shards_have_in_common(learned: Intervals) -> None:
    forecast, actual = world(84, seed=1)
    halves = [Intervals.learn(NAMES[k : k + 3], forecast[k : k + 3], actual[k : k + 3]) for k in (0, 3)]
    across = Intervals.across(halves)
    assert across.common == pytest.approx(learned.common, rel=0.2)
    assert across.quantiles(["S4"], forecast[4:5])["q90"][0, 0, 0] > forecast[4, 0, 0]


numbers = st.one_of(st.floats(-1e9, 1e9, width=32), st.just(float("nan")), st.just(0.0))


@given(
    hnp.arrays(np.float64, (2, 5, 3), elements=numbers),
    hnp.arrays(np.float64, (2, 5, 3), elements=numbers),
    hnp.arrays(np.float64, (2, 3, 3), elements=numbers),
    hnp.arrays(np.float64, (2, 3, 3), elements=numbers),
)
@settings(max_examples=150, deadline=None)
def test_quantiles_are_ordered_and_finite_where_the_forecast_is(
    past: np.ndarray, came: np.ndarray, forecast: np.ndarray, actual: np.ndarray
) -> None:
    learned = Intervals.learn(["a", "b"], past, came)
    speaks = bool(np.isfinite(learned.common).all())
    assert speaks == bool(np.isfinite(past + came).any() and _has_unit(past, came))
    new = predictions(learned, forecast)
    for rows in (new, calibrate(new, new.clear().lazy(), frame(["a", "b"], value=actual).lazy())):
        said = rows.filter(pl.col("yhat").is_finite())
        assert said.select(pl.col(*LEVELS).is_finite().fill_null(False)).to_numpy().all() or not speaks
        quantiles = rows.select(list(LEVELS)).fill_nan(None).drop_nulls().to_numpy()
        assert (np.diff(quantiles, axis=1) >= 0).all()
        silent = rows.filter(~pl.col("yhat").is_finite()).select(pl.col(*LEVELS).fill_nan(None).is_null())
        assert silent.to_numpy().all()


def _has_unit(past: np.ndarray, came: np.ndarray) -> bool:
    """Whether an error can be told in units of its forecast: not where all of the day's forecasts are 0."""
    return bool((np.isfinite(past + came) & (size(past) > 0)[:, :, None]).any())


def test_weeks_at_once_come_out_as_days_one_by_one(learned: Intervals) -> None:
    forecast, actual = world(21, seed=3)
    daily, weekly = operate(learned, forecast, actual, 1), operate(learned, forecast, actual, 7)
    keys = ["issued_at", "series_id", "horizon"]
    assert daily.sort(keys).equals(weekly.sort(keys))


def test_intervals_follow_when_errors_double_and_when_they_shrink_again(learned: Intervals) -> None:
    forecast, actual = world(150, seed=4)
    factor = np.ones(150)
    factor[50:100] = 2
    rows = operate(learned, forecast, forecast + (actual - forecast) * factor[None, :, None], 1)
    fixed = scored(
        predictions(learned, forecast).join(
            rows.select("issued_at", "series_id", "horizon", "value"), on=["issued_at", "series_id", "horizon"]
        )
    )
    day = (pl.col("issued_at") - START).dt.total_days()
    doubled = day.is_between(65, 99)
    assert coverage(fixed.filter(doubled))["coverage_80"].item() < 0.6
    for when in (day < 50, doubled, day > 115):
        found = coverage(rows.filter(when))
        assert found["coverage_80"].item() == pytest.approx(0.8, abs=0.04)
        assert found["coverage_95"].item() == pytest.approx(0.95, abs=0.03)
    assert coverage(rows.filter(doubled))["pinball"].item() < coverage(fixed.filter(doubled))["pinball"].item()


@given(day=st.integers(1, 9), hour=st.integers(0, 23), wild=st.floats(-1e12, 1e12))
@settings(max_examples=25, deadline=None)
def test_what_was_not_known_when_a_forecast_was_issued_changes_nothing(
    learned: Intervals, day: int, hour: int, wild: float
) -> None:
    forecast, actual = world(10, seed=5)
    known = np.arange(10)[:, None] * 24 + np.arange(H) + 31 <= day * 24 + hour
    other = np.where(known, actual, wild)
    moment = START + timedelta(days=day, hours=hour)
    new = predictions(learned, forecast)
    issued = new.clear().lazy()
    before, after = (
        calibrate(new, issued, frame(NAMES, delay=31, value=values).lazy()).filter(pl.col("issued_at") <= moment)
        for values in (actual, other)
    )
    assert before.equals(after)


def test_what_was_known_does_change_something(learned: Intervals) -> None:
    forecast, actual = world(10, seed=5)
    new = predictions(learned, forecast)
    other = actual.copy()
    other[0, 4] *= 2
    before, after = (
        calibrate(new, new.clear().lazy(), frame(NAMES, value=values).lazy()) for values in (actual, other)
    )
    changed = before.filter((before["q975"] != after["q975"]) | (before["q025"] != after["q025"]))
    assert changed["series_id"].unique().to_list() == ["S0"]
    assert changed["issued_at"].min() == START + timedelta(days=5)


def test_earlier_forecasts_without_quantiles_and_of_long_ago(learned: Intervals) -> None:
    forecast, actual = world(80, seed=6)
    everything = predictions(learned, forecast)
    truth = frame(NAMES, value=forecast + 3 * (actual - forecast)).lazy()
    last = pl.col("issued_at") == pl.col("issued_at").max()
    new, earlier = everything.filter(last), everything.filter(~last)
    unscored = earlier.with_columns(pl.lit(None, pl.Float32).alias(name) for name in LEVELS)
    width = pl.col("q90") - pl.col("q10")
    plain = new.select(width).to_series()
    adapted = calibrate(new, unscored.lazy(), truth).select(width).to_series()
    assert (adapted > 1.5 * plain).all(), "errors count, though there was no interval then"
    recent = earlier.filter(pl.col("issued_at") >= new["issued_at"].max() - RECENT)
    assert calibrate(new, earlier.lazy(), truth).equals(calibrate(new, recent.lazy(), truth))
    silent = new.with_columns(pl.lit(None, pl.Float32).alias(name) for name in LEVELS)
    assert calibrate(silent, earlier.lazy(), truth).equals(silent), "a model without intervals stays without"


def test_weighted_quantiles_are_those_of_repeated_values() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(3, 50)), rng.integers(0, 4, 50)
    expected = np.quantile(np.repeat(values, weights, axis=1), list(LEVELS.values()), axis=1, method="inverted_cdf").T
    assert weighted_quantiles(values, weights.astype(float)) == pytest.approx(expected)


def test_scores() -> None:
    rows = pl.DataFrame(
        {"value": [10.0, 14.0, 20.0, 10.0], "q025": [8.0] * 3 + [None], "q10": [9.0] * 3 + [None]}
        | {"q90": [11.0] * 3 + [None], "q975": [15.0] * 3 + [None]}
    )
    found = scored(rows)
    assert found["covered_80"].to_list() == [True, False, False, None]
    assert found["covered_95"].to_list() == [True, True, False, None]
    first = (0.025 * 2 + 0.1 * 1 + 0.1 * 1 + 0.025 * 5) / 4
    assert found["pinball"][0] == pytest.approx(first)
    summary = coverage(found).row(0, named=True)
    assert (summary["coverage_80"], summary["coverage_95"], summary["hours"]) == (1 / 3, 2 / 3, 3)
