"""Customers with the load shapes of four segments, month by month, and the truth about them."""

from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.segments import SHAPE

HOURS = np.arange(24)


def bump(centre: float, width: float, height: float) -> npt.NDArray[np.float64]:
    apart = np.minimum(np.abs(HOURS - centre), 24 - np.abs(HOURS - centre))
    return height * np.exp(-0.5 * (apart / width) ** 2)


EVENING = np.concatenate([1 + bump(19, 2, 2.5) + bump(7, 1.5, 1), 1 + bump(19, 3, 2) + bump(11, 3, 1)])
DAY = np.concatenate([1 + bump(13, 4, 2.5), 1 + bump(13, 5, 0.3)])
NIGHT = np.concatenate([1 + bump(2, 3, 3), 1 + bump(2, 3, 3)])
EVEN = np.ones(48)
FOUR = np.stack([EVENING, DAY, NIGHT, EVEN])


def snapshot_times(months: int) -> list[datetime]:
    return [datetime(2025 + month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in range(months)]


def snapshots(
    kinds: npt.NDArray[np.int64], own: float = 0.2, noise: float = 0.15, seed: int = 0, curves: npt.NDArray = FOUR
) -> pl.DataFrame:
    """Rows of features/load_shape for kinds (months, customers): which curve each customer follows in each month.

    own: how far (in logarithms) customers of a kind are from each other; noise: months of a customer.
    """
    rng = np.random.default_rng(seed)
    months, customers = kinds.shape
    apart = np.exp(rng.normal(0, own, (customers, 48)))
    frames = []
    for at, kind in zip(snapshot_times(months), kinds, strict=True):
        load = curves[kind] * apart * np.exp(rng.normal(0, noise, apart.shape))
        halves = load.reshape(customers, 2, 24)
        shares = (halves / halves.sum(axis=2, keepdims=True)).reshape(customers, 48)
        keys = {"customer_id": [f"C{i:04d}" for i in range(customers)], "as_of": [at] * customers}
        frames.append(pl.DataFrame({**keys, **dict(zip(SHAPE, shares.T, strict=True))}))
    rows = pl.concat(frames).with_columns(pl.col("as_of").cast(pl.Datetime("us", "UTC")))
    return rows.with_columns(month=pl.col("as_of").dt.date())


def kinds_of(months: int, customers: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """The same kinds in every month: half of the customers are of the first, the others share the rest."""
    drawn = np.random.default_rng(seed).choice(4, customers, p=[0.45, 0.2, 0.2, 0.15])
    return np.tile(drawn, (months, 1))
