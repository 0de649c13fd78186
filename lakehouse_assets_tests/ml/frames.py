"""Small feature frames with the columns of features/demand, made with numpy."""

import numpy as np
import polars as pl

START = np.datetime64("2023-01-02T00:00", "us")


def load_curves(series: int = 3, days: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hourly demand and a published forecast of it, (series, days * 24): daily and weekly seasons and a slow noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(days * 24)
    size = 100.0 * 4.0 ** np.arange(series)[:, None]
    shape = 1 + 0.2 * np.sin(2 * np.pi * (t - 8) / 24) - 0.1 * ((t // 24) % 7 >= 5)
    noise = np.zeros((series, len(t)))
    steps = rng.normal(0, 0.01, (series, len(t)))
    for i in range(1, len(t)):
        noise[:, i] = 0.97 * noise[:, i - 1] + steps[:, i]
    demand = size * (shape + noise)
    published = size * (shape + 0.7 * noise) * 1.03 + size * rng.normal(0, 0.01, (series, len(t)))
    return demand, published


def feature_frame(demand: np.ndarray, published: np.ndarray | None = None, first_day: int = 28) -> pl.DataFrame:
    """features/demand of daily forecasts for 24 hours from midnight UTC, without publication delay."""
    s, hours = demand.shape
    days = np.arange(first_day, hours // 24)
    names = [f"S{i}" for i in range(s)]

    def at_ts(values: np.ndarray, back: int = 0) -> np.ndarray:
        shifted = np.full(values.shape, np.nan)
        shifted[:, back:] = values[:, : hours - back]
        return shifted.reshape(s, -1, 24)[:, first_day:]

    def at_issue(values: np.ndarray) -> np.ndarray:
        return np.repeat(values[:, :, None], 24, axis=2)

    def trailing(values: np.ndarray, function: object, window: int) -> np.ndarray:
        return at_issue(np.stack([function(values[:, d * 24 - window : d * 24], axis=1) for d in days], 1))  # type: ignore[operator]

    columns = {f"lag_{24 * k}h": at_ts(demand, 24 * k) for k in range(1, 15)}
    columns |= {f"last_{k}h": at_issue(demand[:, days * 24 - k]) for k in (1, 2, 3, 6)}
    columns |= {f"mean_{w}h": trailing(demand, np.mean, w) for w in (24, 168, 672)}
    columns |= {"std_168h": trailing(demand, np.std, 168)}
    columns |= {"min_24h": trailing(demand, np.min, 24), "max_24h": trailing(demand, np.max, 24)}
    t = np.broadcast_to(np.arange(hours), demand.shape)
    columns |= {"hour": at_ts(t % 24), "day_of_week": at_ts((t // 24) % 7 + 1.0)}
    angle = 2 * np.pi * t / 24 / 365.25
    columns |= {"season_sin": at_ts(np.sin(angle)), "season_cos": at_ts(np.cos(angle))}
    columns |= {n: at_ts(t * 0.0) for n in ("is_holiday", "is_day_before_holiday", "is_day_after_holiday")}
    if published is not None:
        error = demand - published
        columns |= {"published_forecast": at_ts(published)}
        columns |= {f"forecast_lag_{k}h": at_ts(published, k) for k in (24, 168)}
        columns |= {f"error_lag_{k}h": at_ts(error, k) for k in (24, 48, 168)}
        columns |= {f"error_last_{k}h": at_issue(error[:, days * 24 - k]) for k in (1, 2, 3)}
        columns |= {f"error_mean_{w}h": trailing(error, np.mean, w) for w in (24, 168, 672)}
    n = len(days)
    issued = START + days.astype("timedelta64[D]").astype("timedelta64[us]")
    ts = issued[:, None] + np.arange(24).astype("timedelta64[h]").astype("timedelta64[us]")
    utc = pl.Datetime("us", "UTC")
    return pl.DataFrame(
        {
            "issued_at": pl.Series(np.tile(np.repeat(issued, 24), s)).dt.replace_time_zone("UTC").cast(utc),
            "series_id": np.repeat(names, n * 24),
            "ts": pl.Series(np.tile(ts.ravel(), s)).dt.replace_time_zone("UTC").cast(utc),
            "horizon": np.tile(np.arange(24, dtype=np.int16), s * n),
            "value": at_ts(demand).ravel(),
            **{name: values.ravel().astype(np.float32) for name, values in columns.items()},
        }
    ).with_columns(known_at=pl.col("ts") + pl.duration(hours=1))
