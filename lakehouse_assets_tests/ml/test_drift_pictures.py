"""Pictures of drift are drawn whatever there is to draw: thousands of series, gaps, no year before, no rows."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.drift_pictures import drift_pictures
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves
from lakehouse_assets_tests.ml.test_pictures import is_png

START = datetime(2023, 1, 2, tzinfo=UTC)


def history(series: int, weeks: int, last: datetime) -> pl.DataFrame:
    """Verdicts; the last series drifts from the middle on, and is then served by another version."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "series_id": f"S{s}",
            "week": last - timedelta(weeks=weeks - 1 - w),
            "model_version": 2 if s == series - 1 and w > weeks // 2 + 2 else 1,
            "champion_loss": float(np.exp(rng.normal(0.4 * (s == series - 1 and w >= weeks // 2), 0.05))),
            "fresh_loss": 0.0 if w == 1 else 1.0,
            "champion_by_hour": None if s == 0 else [1.0 + (h == 7) for h in range(24)],
            "fresh_by_hour": None if s == 0 else [1.0] * 24,
            "verdict": "drift" if s == series - 1 and w >= weeks // 2 else "insufficient_data" if w < 2 else "ok",
        }
        for s in range(series)
        for w in range(weeks)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


@pytest.mark.parametrize(("days", "series"), [(410, 3), (100, 1)])
def test_drift_is_drawn(days: int, series: int) -> None:
    rows = feature_frame(*load_curves(series, days)).lazy()
    last = START + timedelta(days=(days - 7) // 7 * 7)
    drawn = drift_pictures(history(series, 10, last), rows, "value", DriftPolicy())
    assert set(drawn) == {"regret", "alarms", "day"}
    assert all(is_png(picture) for picture in drawn.values())


def test_a_large_fleet_is_drawn_by_its_worst_series_and_one_week_is_enough() -> None:
    nobody = feature_frame(*load_curves(1, 60)).lazy().filter(pl.col("series_id") == "none")
    drawn = drift_pictures(history(3000, 6, START), nobody, "value", DriftPolicy())
    assert all(is_png(picture) for picture in drawn.values())
    one = drift_pictures(history(2, 1, START), nobody, "value", DriftPolicy())
    assert is_png(one["regret"])
