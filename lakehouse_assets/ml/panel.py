"""The panel: a feature table of forecasts as dense arrays, series x issue times x steps of the horizon.

Estimators work on panels only. A panel knows nothing of Delta or Dagster: it is made from a polars frame with the
columns ``issued_at, series_id, ts, horizon, <target>, known_at`` and any number of numeric features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

KEYS = ("issued_at", "series_id", "ts", "horizon")
NEVER = np.iinfo(np.int64).max
"""``known_at`` of a target that is not known yet (microseconds since the epoch)."""
DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """Dense arrays of S series, D issue times and H hours of the horizon.

    series: (S,) series ids, sorted. issued: (D,) issue times, microseconds since the epoch (int64), ascending.
    target: (S, D, H) float64, NaN where there is no value to learn from or to score against.
    known_at: (S, D, H) int64, when the target became known, ``NEVER`` where it is not.
    present: (S, D) whether the feature table holds that issue time of that series.
    columns: features by name, float32, (S, D, H), or (S, D) where a feature is the same for the whole horizon.
    weight: (S, D) how much an issue time counts for a fit that heeds it; None: all alike.
    """

    series: npt.NDArray[np.str_]
    issued: npt.NDArray[np.int64]
    target: Array
    known_at: npt.NDArray[np.int64]
    present: npt.NDArray[np.bool_]
    columns: dict[str, npt.NDArray[np.float32]]
    weight: Array | None = None

    @classmethod
    def from_frame(
        cls,
        frame: pl.DataFrame,
        target: str = "value",
        features: Sequence[str] | None = None,
        horizon: int | None = None,
        issued: npt.NDArray[np.int64] | None = None,
    ) -> "Panel":
        """Scatter a feature frame into a panel; rows may come in any order.

        features: the columns to take (default: every numeric column that is neither key nor target); one that the
        frame lacks is unknown throughout.
        horizon: H (default: the largest step in the frame + 1). issued: the issue times, microseconds since the epoch
        (default: those of the frame). A missing target or ``known_at`` column means that nothing is known yet. Raises
        ValueError when the frame has no rows.
        """
        if frame.is_empty():
            raise ValueError("a panel needs at least one row of the feature table")
        features = cls.features(frame.schema, target) if features is None else features
        series = frame["series_id"].cast(pl.String).unique().sort()
        issued_column = _microseconds(frame["issued_at"])
        issued = np.unique(issued_column) if issued is None else issued
        steps = frame["horizon"].to_numpy().astype(np.int64)
        h = int(horizon or steps.max() + 1)
        shape = (len(series), len(issued), h)
        codes = frame["series_id"].cast(pl.Enum(series)).to_physical().to_numpy().astype(np.int64)
        at = (codes * shape[1] + np.searchsorted(issued, issued_column)) * h + steps
        keep: npt.NDArray[np.bool_] | slice = slice(None) if steps.max() < h else steps < h
        at = at[keep]
        # Rows that come horizon by horizon, as features do, are moved a horizon at a time.
        places = at[::h] // h
        whole = len(at) % h == 0 and np.array_equal(at.reshape(-1, h), places[:, None] * h + np.arange(h))

        def horizons(values: np.ndarray, empty: float | int) -> np.ndarray:
            """The values in rows of H, as they come, or else all that a panel has room for."""
            if whole:
                return values[keep].reshape(-1, h)
            out = np.full(shape[0] * shape[1] * h, empty, dtype=values.dtype)
            out[at] = values[keep]
            return out.reshape(-1, h)

        def placed(rows: np.ndarray, empty: float | int) -> Any:
            """Such rows, or one value for each, as a panel."""
            out = np.full((shape[0] * shape[1], *rows.shape[1:]), empty, dtype=rows.dtype)
            out[places if whole else slice(None)] = rows
            return out.reshape(*shape[:2], *rows.shape[1:])

        present = placed(horizons(np.ones(frame.height, bool), 0), 0).any(axis=2)
        columns = {}
        for name in features:
            if name not in frame.columns:
                columns[name] = np.full(shape[:2], np.nan, np.float32)
                continue
            rows = horizons(_finite(frame[name].cast(pl.Float32)), np.nan)
            first = rows[:, :1]
            same = h > 1 and bool(((rows == first) | (np.isnan(rows) & np.isnan(first))).all())
            columns[name] = placed(rows[:, 0] if same else rows, np.nan)
        known_at = np.full(shape, NEVER, np.int64)
        values = np.full(shape, np.nan)
        if target in frame.columns:
            values = placed(horizons(_finite(frame[target].cast(pl.Float64)), np.nan), np.nan)
            if "known_at" in frame.columns:
                known_at = placed(horizons(_microseconds(frame["known_at"]), NEVER), NEVER)
        return cls(series.to_numpy().astype(str), issued, values, known_at, present, columns)

    @staticmethod
    def features(schema: pl.Schema, target: str = "value") -> list[str]:
        """The numeric columns of a feature table that are neither key nor target."""
        other = {*KEYS, target, "known_at", "month"}
        return [n for n, t in schema.items() if n not in other and (t.is_numeric() or t == pl.Boolean)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(S, D, H)."""
        return self.target.shape

    @property
    def days(self) -> Array:
        """(D,) issue times in days since the epoch."""
        return self.issued / DAY_US

    def has(self, name: str) -> bool:
        """Whether the feature exists and holds a value anywhere."""
        return name in self.columns and not bool(np.isnan(self.columns[name]).all())

    def full(self, name: str) -> npt.NDArray[np.float32]:
        """The feature as (S, D, H), broadcast (read-only) where it is stored once for the whole horizon."""
        column = self.columns[name]
        return column if column.ndim == 3 else np.broadcast_to(column[:, :, None], self.shape)

    def once(self, name: str) -> npt.NDArray[np.float32]:
        """The feature as (S, D): its value at the first step of the horizon."""
        column = self.columns[name]
        return column if column.ndim == 2 else column[:, :, 0]

    def select(self, names: Sequence[str]) -> "Panel":
        """The panel with just these features, in this order; what it lacks is unknown throughout."""
        if list(self.columns) == list(names):
            return self
        empty = np.full(self.shape[:2], np.nan, np.float32)
        return replace(self, columns={name: self.columns.get(name, empty) for name in names})

    def take(self, series: slice | np.ndarray = slice(None), days: slice | np.ndarray = slice(None)) -> "Panel":
        """The panel of some series and some issue times (views where the selections are slices)."""

        def cut(a: np.ndarray) -> np.ndarray:
            return a[series][:, days]

        return replace(
            self,
            series=self.series[series],
            issued=self.issued[days],
            target=cut(self.target),
            known_at=cut(self.known_at),
            present=cut(self.present),
            columns={name: cut(column) for name, column in self.columns.items()},
            weight=None if self.weight is None else cut(self.weight),
        )

    def between(self, start: int, end: int) -> "Panel":
        """The issue times in [start, end), microseconds since the epoch."""
        a, b = np.searchsorted(self.issued, [start, end])
        return self.take(days=slice(int(a), int(b)))

    def frame(self, **values: Array) -> pl.DataFrame:
        """Rows (issued_at, series_id, ts, horizon, ...) with (S, D, H) arrays as columns, for what is present."""
        s, d, h = self.shape
        mask = np.broadcast_to(self.present[:, :, None], self.shape).ravel()
        steps = np.tile(np.arange(h, dtype=np.int16), s * d)[mask]
        issued = np.tile(np.repeat(self.issued, h), s)[mask]
        utc = pl.Datetime("us", "UTC")
        return pl.DataFrame(
            {
                "issued_at": pl.Series(issued).cast(utc),
                "series_id": pl.Series(self.series)
                .gather(np.repeat(np.arange(s, dtype=np.uint32), d * h)[mask])
                .cast(pl.String),
                "ts": pl.Series(issued + steps.astype(np.int64) * HOUR_US).cast(utc),
                "horizon": steps,
                **{name: a.ravel()[mask] for name, a in values.items()},
            }
        )


def known_times(schema: pl.Schema, target: str) -> pl.Expr:
    """When a row's target became known, microseconds since the epoch; null where it is not, or holds no number."""
    if target not in schema or "known_at" not in schema:
        return pl.lit(None, pl.Int64)
    return pl.when(pl.col(target).cast(pl.Float64).is_finite()).then(pl.col("known_at").dt.epoch("us"))


def _finite(column: pl.Series) -> np.ndarray:
    """A column of floats, NaN where it is null or infinite: an infinite value is none."""
    values = column.fill_null(np.nan).to_numpy()
    infinite = np.isinf(values)
    return np.where(infinite, values.dtype.type(np.nan), values) if infinite.any() else values


def _microseconds(column: pl.Series) -> npt.NDArray[np.int64]:
    """A datetime column as int64 microseconds since the epoch, ``NEVER`` where null."""
    if isinstance(column.dtype, pl.Datetime):
        column = column.dt.epoch("us")
    return column.cast(pl.Int64).fill_null(NEVER).to_numpy()
