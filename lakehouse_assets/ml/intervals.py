"""Prediction intervals: quantiles beside a forecast, learned from a backtest and set right by what came since.

Two steps, both conformal: no distribution is assumed, the quantiles are those of errors made out of sample.

1. :meth:`Intervals.learn` (at training): quantiles of the backtest's errors by series and hour of the horizon, relative
   to the size of the forecast. They are part of the fitted model.
2. :func:`calibrate` (at prediction): those quantiles, adapted to the errors of the forecasts that were issued lately.
   No state is kept: everything is computed anew from the tables, from what was known at the issue time alone, and
   weeks predicted at once come out as if each day had been predicted by itself.

And what is watched: :func:`scored` adds coverage and pinball loss to a frame of errors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.panel import DAY_US, NEVER

Array = npt.NDArray[np.float64]

LEVELS = MappingProxyType({"q025": 0.025, "q10": 0.1, "q90": 0.9, "q975": 0.975})
"""The quantile columns and their levels, ascending."""
BANDS = MappingProxyType({"80": ("q10", "q90"), "95": ("q025", "q975")})
"""The central intervals, by their nominal coverage in percent: lower and upper column."""
COLUMNS = MappingProxyType(
    {
        name: (pl.Float32(), f"Quantile of the forecast: the value lies below with {p:.1%}.")
        for name, p in LEVELS.items()
    }
)
SCORES = MappingProxyType(
    {
        **{f"covered_{band}": (pl.Boolean(), f"Whether the value lies in the {band} % interval.") for band in BANDS},
        "pinball": (pl.Float32(), "Pinball loss, the mean over the quantiles, in the unit of the series."),
    }
)
"""The columns that :func:`scored` adds."""
RECENT = timedelta(days=56)
"""How far back :func:`calibrate` looks at earlier forecasts."""

_P = np.array(list(LEVELS.values()))
# Tuned on forecasts of EIA demand before July 2019. What the mean of the day counts for the spread of an hour, in days;
# what common quantiles (in units of the mean absolute error) count for those of a series, in hours.
_PRIOR_DAYS, _PRIOR_HOURS = 7.0, 168.0
_PRIOR_QUANTILES = np.array([-2.7, -1.6, 1.6, 2.7])
# Days after which an error, and a miss, counts half. Of hours: what the backtest's quantiles count among the errors of
# late. Of half the model's own interval: the step for a day on which a quantile missed all hours.
_HALF_LIFE, _MISSES_HALF_LIFE, _BACKTEST_HOURS, _STEP = 7.0, 28.0, 36.0, 0.15
_CHUNK = 500
"""Series that are calibrated at once: memory is bounded by them."""


@dataclass(frozen=True)
class Intervals:
    """Quantiles of the errors (actual less forecast) of one fitted model, relative to :func:`size`.

    series: ids of the S series. offsets: (S, H, 4) float32, ascending along the last axis. common: (H, 4) float32, the
    median of the series: what stands in for one that was in no backtest.
    """

    series: tuple[str, ...]
    offsets: npt.NDArray[np.float32]
    common: npt.NDArray[np.float32]

    @classmethod
    def learn(cls, series: Sequence[str], forecast: Array, actual: Array) -> "Intervals":
        """Quantiles from out-of-sample forecasts and what came true, each (S, D, H), NaN where there is none.

        The spread of an hour is its mean absolute error, its neighbours counting half, drawn towards the mean of the
        day; the quantiles of the errors in units of that spread are drawn towards those of a distribution between
        normal and Laplace. Every series learns from itself alone: its intervals do not depend on the shard that it is
        in. The offsets of one without any error are NaN.
        """
        error = _relative_errors(actual - forecast, size(forecast))
        count = np.isfinite(error).sum(axis=1).astype(float)
        total = np.nansum(np.abs(error), axis=1)
        mean = _ratio(total.sum(axis=1), count.sum(axis=1))[:, None]
        spread = (_with_neighbours(total) + _PRIOR_DAYS * mean) / (_with_neighbours(count) + _PRIOR_DAYS)
        standard = _relative(error, spread[:, None, :]).reshape(len(error), -1)
        hours = np.isfinite(standard).sum(axis=1)[:, None]
        own = _zero_for_nan(weighted_quantiles(standard, np.ones(standard.shape[1])))
        quantiles = (hours * own + _PRIOR_HOURS * _PRIOR_QUANTILES) / (hours + _PRIOR_HOURS)
        offsets = (spread[:, :, None] * quantiles[:, None, :]).astype(np.float32)
        known = np.isfinite(offsets).all(axis=(1, 2))
        common = np.median(offsets[known], axis=0) if known.any() else np.full(offsets.shape[1:], np.nan, np.float32)
        return cls(tuple(series), offsets, np.asarray(common, np.float32))

    @classmethod
    def across(cls, parts: Iterable["Intervals"]) -> "Intervals":
        """What several shards have in common, their mean: for series that none of them knows."""
        found = [part.common for part in parts]
        known = [common for common in found if np.isfinite(common).all()] or found[:1]
        common = np.asarray(np.mean(known, axis=0), np.float32)
        return cls((), np.empty((0, *common.shape), np.float32), common)

    def quantiles(self, series: Sequence[str], forecast: Array) -> dict[str, npt.NDArray[np.float32]]:
        """Quantiles by column, each (S, D, H), of forecasts (S, D, H); finite where the forecast is.

        H may be less than what was learned.
        """
        place = {s: i for i, s in enumerate(self.series)}
        own = np.array([place.get(s, len(place)) for s in series], np.int64)
        offsets = np.concatenate([self.offsets, self.common[None]])[own, : forecast.shape[2]]
        offsets = np.where(np.isfinite(offsets), offsets, self.common[: forecast.shape[2]])
        values = forecast[..., None] + size(forecast)[:, :, None, None] * offsets[:, None]
        return dict(zip(LEVELS, np.moveaxis(values.astype(np.float32), 3, 0), strict=True))


def size(forecast: Array) -> Array:
    """(S, D) what errors are relative to: the root mean square of a forecast (S, D, H) over its horizon; 0 for none."""
    finite = np.isfinite(forecast)
    # Scaled by the largest first, lest the squares overflow or vanish.
    largest = np.where(finite, np.abs(forecast), 0.0).max(axis=2, initial=0.0)
    share = np.where(finite, forecast, 0.0) / np.where(largest > 0, largest, 1.0)[:, :, None]
    return largest * np.sqrt(_zero_for_nan(_ratio((share**2).sum(axis=2), finite.sum(axis=2).astype(float))))


def weighted_quantiles(values: Array, weights: Array) -> Array:
    """(S, 4) the quantiles of each row of (S, N) values at :data:`LEVELS`, with weights (N,) or (S, N).

    The smallest value at which the weights add up to the level's share; NaN carries no weight, and a row of NaN has
    NaN quantiles.
    """
    if not values.shape[1]:
        return np.full((len(values), len(_P)), np.nan)
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    weights = np.where(np.isfinite(values), weights, 0.0)
    reached = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    reached /= np.where(reached[:, -1:] > 0, reached[:, -1:], np.nan)
    # Rounding must not carry the last quantile past the last value.
    at = np.stack([(reached < p * (1 - 1e-12)).sum(axis=1) for p in _P], axis=1)
    return np.take_along_axis(ordered, np.minimum(at, values.shape[1] - 1), axis=1)


# --- adaptation -------------------------------------------------------------------------------------------------------


def calibrate(predicted: pl.DataFrame, earlier: pl.LazyFrame, actual: pl.LazyFrame) -> pl.DataFrame:
    """Predictions whose quantiles are adapted to the errors of earlier ones, series by series.

    predicted: issued_at, series_id, horizon, yhat and the quantiles of a fitted model, and whatever else.
    earlier: predictions as they were issued (issued_at, series_id, horizon, yhat, quantiles), those of ``predicted``
    possibly among them. actual: issued_at, series_id, horizon, value, known_at.

    The model's quantiles are blended with those of the latest errors, as with weights that decay (Barber, Candes,
    Ramdas and Tibshirani, 2023, "Conformal prediction beyond exchangeability"); then each quantile moves by how much
    more often than it should the values lay on one side of what was issued, so that the coverage comes right whatever
    the errors do (quantile tracking of Gibbs and Candes, 2021, with the first term as the forecaster of Angelopoulos,
    Candes and Tibshirani, 2023, "Conformal PID control"). A forecast uses what was known when it was issued.
    """
    if predicted.is_empty():
        return predicted
    first, last = predicted["issued_at"].min(), predicted["issued_at"].max()
    assert first is not None
    since = pl.lit(first) - pl.duration(seconds=RECENT.total_seconds())
    within = (pl.col("issued_at") >= since) & (pl.col("issued_at") < last)
    series = predicted["series_id"].unique().sort()
    parts = []
    for start in range(0, len(series), _CHUNK):
        some = series.slice(start, _CHUNK)
        # A range: readers can skip what lies outside.
        mine = pl.col("series_id").is_between(pl.lit(some[0]), pl.lit(some[-1]))
        parts.append(
            _calibrate(
                predicted.filter(mine),
                earlier.filter(within & mine).select(*_KEYS, "yhat", *LEVELS).collect(),
                actual.filter(within & mine).select(*_KEYS, "value", "known_at").collect(),
            )
        )
    return pl.concat(parts)


_KEYS = ("issued_at", "series_id", "horizon")


def _calibrate(predicted: pl.DataFrame, earlier: pl.DataFrame, actual: pl.DataFrame) -> pl.DataFrame:
    """One chunk of :func:`calibrate`; all rows of its history in memory."""
    new = predicted.select(*_KEYS, "yhat", *LEVELS)
    ids = new["series_id"].unique().sort()
    past = earlier.filter(pl.col("series_id").is_in(ids.implode())).join(new, on=_KEYS, how="anti")
    rows = pl.concat([past, new]).join(actual, on=_KEYS, how="left", maintain_order="left")
    moments = rows["issued_at"].dt.epoch("us").to_numpy()
    issued = np.unique(moments)
    steps = rows["horizon"].to_numpy().astype(np.int64)
    shape = (len(ids), len(issued), int(steps.max()) + 1)
    at = (
        rows["series_id"].cast(pl.Enum(ids)).to_physical().to_numpy().astype(np.int64),
        np.searchsorted(issued, moments),
    )

    def dense(column: str) -> Array:
        out = np.full(shape, np.nan)
        out[(*at, steps)] = rows[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
        return out

    forecast, value = dense("yhat"), dense("value")
    known_at = np.full(shape, NEVER, np.int64)
    known_at[(*at, steps)] = rows["known_at"].dt.epoch("us").fill_null(NEVER).to_numpy()
    quantiles = np.stack([dense(name) for name in LEVELS], axis=3)
    scale = size(forecast)[:, :, None]
    error = _relative_errors(value - forecast, size(forecast))
    for time in np.unique(new["issued_at"].dt.epoch("us").to_numpy()):
        t = int(np.searchsorted(issued, time))
        begin = int(np.searchsorted(issued, time - RECENT // timedelta(microseconds=1)))
        recent = slice(begin, t)
        known = known_at[:, recent] <= time
        age = (time - issued[recent]) / DAY_US
        offsets = _relative(quantiles[:, t] - forecast[:, t, :, None], scale[:, t, :, None])
        adapted = _adapt(
            offsets,
            np.where(known, error[:, recent], np.nan),
            np.where(known, value[:, recent], np.nan),
            quantiles[:, recent],
            age,
        )
        moved = forecast[:, t, :, None] + scale[:, t, :, None] * adapted
        # As the table will hold them: the next issue time sees the same, whether it comes in this run or in another.
        quantiles[:, t] = np.where(np.isfinite(moved), moved, quantiles[:, t]).astype(np.float32)
    final = quantiles[(*at, steps)][past.height :].astype(np.float32)
    return predicted.with_columns(pl.Series(name, final[:, i]).fill_nan(None) for i, name in enumerate(LEVELS))


def _adapt(offsets: Array, error: Array, value: Array, issued: Array, age: Array) -> Array:
    """(S, H, 4) the offsets of one issue time, adapted; NaN where the model said nothing.

    offsets: (S, H, 4) the model's. error: (S, D, H) relative errors known by now. value: (S, D, H) what came
    true and is known. issued: (S, D, H, 4) the quantiles as issued. age: (D,) days since.
    """
    if not len(age):
        return offsets
    # In units of the 80 % interval of the hour, so that all hours of a series are alike.
    unit = np.maximum(offsets[..., 2] - offsets[..., 1], 1e-6)
    standard = _relative(error, unit[:, None, :])
    weight = np.where(np.isfinite(standard), 0.5 ** (age / _HALF_LIFE)[None, :, None], 0.0)
    hours = weight.sum(axis=(1, 2))[:, None, None]
    flat = standard.reshape(len(standard), -1)
    lately = _zero_for_nan(weighted_quantiles(flat, weight.reshape(flat.shape)))[:, None, :]
    model = offsets / unit[:, :, None]
    hours_known = hours + _BACKTEST_HOURS
    blended = (hours * lately + _BACKTEST_HOURS * model) / hours_known
    # What was learned from n days is itself uncertain: wider by the factor that a mean of n days asks for.
    blended *= np.sqrt(1 + np.where(hours > 0, 24 / hours_known, 0.0))
    scored = np.isfinite(value)[..., None] & np.isfinite(issued)
    below = (scored & (value[..., None] <= issued)).sum(axis=2)
    missed = _zero_for_nan(_P - _ratio(below.astype(float), scored.sum(axis=2).astype(float)))
    misses = (missed * 0.5 ** (age / _MISSES_HALF_LIFE)[None, :, None]).sum(axis=1)
    width = (model[..., ::-1] - model) / 2
    moved = blended + _STEP * np.abs(width) * misses[:, None, :]
    return np.sort(moved, axis=2) * unit[:, :, None]


# --- scores -----------------------------------------------------------------------------------------------------------


def scored(errors: pl.DataFrame) -> pl.DataFrame:
    """Adds :data:`SCORES` to rows with ``value`` and the quantiles; null where there are no quantiles."""
    above = {name: pl.col("value") - pl.col(name).cast(pl.Float64) for name in LEVELS}
    pinball = [pl.max_horizontal(p * above[name], (p - 1) * above[name]) for name, p in LEVELS.items()]
    complete = pl.all_horizontal(pl.col(*LEVELS).is_not_null())
    return errors.with_columns(
        *(
            ((above[lower] >= 0) & (above[upper] <= 0)).alias(f"covered_{band}")
            for band, (lower, upper) in BANDS.items()
        ),
        pinball=pl.when(complete).then(pl.sum_horizontal(pinball) / len(LEVELS)).cast(pl.Float32),
    )


def coverage(errors: pl.DataFrame, by: Sequence[str | pl.Expr] = ()) -> pl.DataFrame:
    """Shares of the values inside their intervals and the mean pinball loss, by group (sorted; none: one row).

    errors: with :data:`SCORES`; rows without quantiles do not count. Returns the groups, coverage_80, coverage_95,
    pinball, hours.
    """
    rows = errors.filter(pl.col("pinball").is_not_null())
    shares = [
        *(pl.col(f"covered_{band}").mean().alias(f"coverage_{band}") for band in BANDS),
        pl.col("pinball").cast(pl.Float64).mean(),
        pl.len().alias("hours"),
    ]
    if not by:
        return rows.select(shares)
    grouped = rows.group_by(*by).agg(shares)
    return grouped.sort(grouped.columns[: len(by)])


# --- arithmetic that knows what is missing ----------------------------------------------------------------------------


def _ratio(above: Array, below: Array) -> Array:
    """Quotients, NaN where the denominator is 0."""
    return np.asarray(above / np.where(below != 0, below, np.nan))


def _relative(values: Array, unit: Array) -> Array:
    """Values in a unit; NaN where the unit is 0 or the quotient beyond all numbers."""
    with np.errstate(over="ignore", invalid="ignore"):
        out = _ratio(values, unit)
    return np.where(np.isfinite(out), out, np.nan)


def _relative_errors(error: Array, unit: Array) -> Array:
    """(S, D, H) errors in units of their forecast's size (S, D), no more than a hundredfold.

    One that is larger says that the forecast was next to nothing, and not how wrong the next one may be.
    """
    return np.clip(_relative(error, unit[:, :, None]), -100.0, 100.0)


def _zero_for_nan(values: Array) -> Array:
    return np.where(np.isfinite(values), values, 0.0)


def _with_neighbours(values: Array) -> Array:
    """(S, H) each hour with half of the one before and half of the one after."""
    padded = np.pad(values, ((0, 0), (1, 1)))
    return values + (padded[:, :-2] + padded[:, 2:]) / 2
