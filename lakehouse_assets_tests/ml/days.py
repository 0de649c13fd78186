"""Feature frames of days, as features/usage has them: a daily shape, noise that lasts for hours, and levels apart."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from lakehouse_assets.ml.unusual_days import EXPECTED, RESIDUALS

FIRST = datetime(2024, 1, 1, tzinfo=UTC)


def usage_frame(series: int = 10, days: int = 200, seed: int = 0, noise: float = 0.01) -> pl.DataFrame:
    """Rows of features/usage; the noise grows with the number of the series."""
    rng = np.random.default_rng(seed)
    shape = 1 + 0.4 * np.sin(2 * np.pi * (np.arange(24) - 9) / 24)
    frames = []
    for s in range(series):
        drawn = rng.normal(0, noise * (1 + s / 4), (days, 24))
        residual = drawn + 0.5 * np.roll(drawn, 1, axis=1)
        level = 100.0 * (s + 1)
        frames.append(
            pl.DataFrame(
                {
                    "series_id": [f"s{s:02}"] * days,
                    "as_of": [FIRST + timedelta(days=d + 1) for d in range(days)],
                    "day": [(FIRST + timedelta(days=d)).date() for d in range(days)],
                    "level": [level] * days,
                    "forecast_hours": [0] * days,
                    "actual_energy": (shape + residual).sum(axis=1) * level,
                    "expected_energy": [shape.sum() * level] * days,
                    **{name: residual[:, hour].astype(np.float32) for hour, name in enumerate(RESIDUALS)},
                    **{name: np.full(days, shape[hour], np.float32) for hour, name in enumerate(EXPECTED)},
                },
                schema_overrides={"as_of": pl.Datetime("us", "UTC"), "forecast_hours": pl.Int16},
            ).with_columns(month=pl.col("as_of").dt.date().dt.month_start())
        )
    return pl.concat(frames).sort("as_of", "series_id")
