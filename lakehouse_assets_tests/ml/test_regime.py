"""Changes of regime in load curves with seasons, weather and weekends: what is one, what is none."""

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.panel import DAY_US, Panel
from lakehouse_assets.ml.regime import NEEDED, SCHEMA, of_panel, regimes
from lakehouse_assets_tests.ml.frames import feature_frame

SERIES, WEEKS = 24, 130
END = 20_000 * DAY_US
POLICY = DriftPolicy()


def loads(seed: int = 0) -> np.ndarray:
    """(S, T) with a yearly, weekly and daily season, weather of some days and a trend of 3 % a year."""
    from scipy.signal import lfilter

    rng = np.random.default_rng(seed)
    t = np.arange(WEEKS * 168)
    year = 1 + 0.15 * np.cos(2 * np.pi * t / 24 / 365.25)
    week = 1 - 0.1 * (t // 24 % 7 >= 5)
    day = 1 + 0.25 * np.sin(2 * np.pi * (t - 9) / 24)
    steps = rng.normal(0, 0.02, (SERIES, WEEKS * 7))
    weather = lfilter([1], [1, -0.8], steps, axis=1).repeat(24, axis=1)
    trend = 1 + 0.03 * t / 8766
    return 100 * year * week * day * trend * (1 + weather) * (1 + rng.normal(0, 0.01, (SERIES, len(t))))


def found(values: np.ndarray) -> pl.DataFrame:
    return regimes([f"S{i:02}" for i in range(len(values))], END, values, POLICY)


@pytest.fixture(scope="module")
def changed() -> pl.DataFrame:
    values = loads()
    hour = np.arange(values.shape[1]) % 24
    values[3, -4 * 168 :] *= 0.85
    values[8, -5 * 168 :] *= np.where((hour >= 10) & (hour < 16), 0.8, 1.0)[-5 * 168 :]
    for week in range(3):
        odd = values.shape[1] - week * 168 - 72
        values[12, odd : odd + 24] *= 0.4  # an odd day
    values[13, -10 * 24 : -9 * 24] = values[13, -12 * 24 : -11 * 24]  # a holiday
    values[14, -168 - 24 * 3 : -168] = np.nan
    return found(values)


def test_a_change_of_level_and_one_of_shape_are_told_with_size_hours_and_beginning(changed: pl.DataFrame) -> None:
    level = changed.row(by_predicate=pl.col("series_id") == "S03", named=True)
    assert level["what"] == "level"
    assert -0.2 < level["change"] < -0.1
    assert abs(level["since"].timestamp() * 1e6 - (END - 4 * 7 * DAY_US)) <= 7 * DAY_US
    shape = changed.row(by_predicate=(pl.col("series_id") == "S08") & (pl.col("what") == "shape"), named=True)
    assert (shape["first_hour"], shape["last_hour"]) == (10, 15)
    assert -0.27 < shape["change"] < -0.21
    assert abs(shape["since"].timestamp() * 1e6 - (END - 5 * 7 * DAY_US)) <= 7 * DAY_US


def test_an_odd_day_a_holiday_and_missing_days_are_none(changed: pl.DataFrame) -> None:
    assert set(changed["series_id"]) <= {"S03", "S08"}
    assert changed.schema == pl.Schema(SCHEMA)


def test_ordinary_years_are_of_one_regime_and_short_histories_say_nothing() -> None:
    assert sum(found(loads(seed)).height for seed in range(1, 5)) <= 2  # of 96 series-weeks
    assert found(loads()[:, -(NEEDED - 1) * 168 :]).is_empty()
    assert found(np.full((2, WEEKS * 168), np.nan)).is_empty()


def test_targets_of_a_panel_are_read_by_the_local_clock_without_faulty_hours() -> None:
    values = loads()[:6]
    hour = np.arange(values.shape[1]) % 24
    values[1, -5 * 168 :] *= np.where((hour >= 10) & (hour < 16), 0.75, 1.0)[-5 * 168 :]
    values[2, -3 * 168 :] *= 1000.0  # kW for MW
    frame = feature_frame(values, first_day=0 + 28)
    local = frame.with_columns(hour=((pl.col("hour") - 6) % 24).cast(pl.Float32)).select(
        "issued_at", "series_id", "ts", "horizon", "value", "known_at", "hour"
    )
    panel = Panel.from_frame(local)
    end = int(panel.issued[-1]) + DAY_US
    assert of_panel(panel, end, POLICY)["series_id"].to_list() in (["S1"], [])
    utc = Panel.from_frame(local.drop("hour"))
    told = of_panel(utc, end, POLICY)
    assert "S2" not in told["series_id"].to_list(), "a wrong unit is no regime"
    assert (told.filter(series_id="S1")["first_hour"] == 10).all()
