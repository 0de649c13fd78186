from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from lakehouse_assets.ml.definition import BacktestResult
from lakehouse_assets.ml.intervals import COLUMNS, LEVELS, scored
from lakehouse_assets.ml.metrics import forecast_metrics
from lakehouse_assets.ml.pictures import backtest_pictures, error_pictures

START = datetime(2024, 1, 1, tzinfo=UTC)


def is_png(picture: bytes) -> bool:
    return picture.startswith(b"\x89PNG") and 1_000 < len(picture) < 200_000


def test_a_backtest_is_drawn() -> None:
    rng = np.random.default_rng(0)
    ts = [START + timedelta(hours=i) for i in range(48)]
    losses = pl.DataFrame(
        {
            "fold": pl.Series([0] * 96, dtype=pl.Int32),
            "series_id": ["a"] * 48 + ["b"] * 48,
            "ts": ts * 2,
            "horizon": pl.Series(list(range(24)) * 4, dtype=pl.Int16),
            "y": rng.normal(100, 5, 96),
            "mase_scale": [4.0] * 96,
            "reference": rng.normal(100, 5, 96),
            "ridge": rng.normal(100, 2, 96),
        }
    )
    metrics = forecast_metrics(losses, ["ridge"])
    pictures = backtest_pictures(BacktestResult("ridge", "relative_mae", metrics, pl.DataFrame(), losses.lazy(), {}))
    assert set(pictures) == {"leaderboard", "forecast", "hours", "series"}
    assert all(is_png(picture) for picture in pictures.values())


def test_intervals_are_drawn_where_there_are_any() -> None:
    rng = np.random.default_rng(0)
    ts = [START + timedelta(hours=i) for i in range(24 * 15)]
    bare = pl.DataFrame(
        {"issued_at": pl.Series(ts).dt.truncate("1d"), "ts": ts, "value": rng.normal(100, 5, len(ts)), "yhat": 100.0}
    ).with_columns(series_id=pl.lit("a"))
    quantiles = {name: 100.0 + offset for name, offset in zip(LEVELS, (-10, -6.4, 6.4, 10), strict=True)}
    drawn = error_pictures(scored(bare.with_columns(**{n: pl.lit(q) for n, q in quantiles.items()})).lazy())
    assert set(drawn) == {"coverage", "band"}
    assert all(is_png(picture) for picture in drawn.values())
    unknown = bare.with_columns(pl.lit(None, dtype).alias(name) for name, (dtype, _) in COLUMNS.items())
    assert error_pictures(scored(unknown).lazy()) == {}
