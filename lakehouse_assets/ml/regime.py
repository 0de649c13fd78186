"""Changes of regime: the level or the daily shape of a load leaves what its own past years let expect at this season.

Whether the champion suffers is another question: lags absorb most of it. Each week is compared with the same weeks of
the years before, and the difference with what it has been lately: a slow trend is no change of regime. How large such
differences are by chance is known from the series' own history, by resampling: see :mod:`lakehouse_assets.ml.unusual`.
The extreme days of a week are left out, so that neither an odd day nor a holiday is one.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.local import LOOK_BACK_DAYS, LocalHours
from lakehouse_assets.ml.panel import DAY_US, Panel
from lakehouse_assets.ml.regret import latest_mean
from lakehouse_assets.ml.unusual import LEAST_HISTORY, Unusual, unusual

Array = npt.NDArray[np.float64]

YEAR, AROUND = 52, 1
"""Weeks of a year, and how many on either side of the same week count with it."""
TREND, LEAST_TREND = 26, 6
"""Weeks of the slow trend, and how many of them must be known."""
RECENT = 8
"""Latest weeks that may be of another regime; what is older is the history, and the trend."""
NEEDED = YEAR + AROUND + RECENT + LEAST_TREND + LEAST_HISTORY + RECENT
"""Weeks without which nothing can be said."""
LOOK_BACK = 130
"""Weeks that are looked at, at most."""
LEAST_DAYS, LEAST_HOURS = 4, 18
"""Days that a week, and hours that a day, must have."""
LEAST_LEVEL, LEAST_SHAPE = 0.05, 0.04
"""Changes of the level, and of an hour in units of the level, that are worth a word."""
SCHEMA: dict[str, pl.DataType] = {
    "series_id": pl.String(),
    "what": pl.String(),
    "since": pl.Datetime("us", "UTC"),
    "change": pl.Float64(),
    "first_hour": pl.Int64(),
    "last_hour": pl.Int64(),
    "p_value": pl.Float64(),
}


def regimes(series: list[str], end: int, values: Array, policy: DriftPolicy) -> pl.DataFrame:
    """The series whose latest weeks are of another regime: series_id, what (``level`` or ``shape``), since.

    change: of the level, as a share; of a shape, of the hours from first_hour to last_hour (local) on average, as a
    share of the day's mean. p_value: of chance, by resampling.

    series: (S,) ids. values: (S, T) hourly on the local clock, from a midnight on, NaN where unknown; hours known as
    faulty must be. end: the midnight after the last hour, microseconds since the epoch (UTC). The latest
    ``policy.weeks`` weeks are judged, and those of ``RECENT`` before the last one say since when. Without ``NEEDED``
    weeks nothing is found.
    """
    weeks = values.shape[1] // 168
    if weeks < NEEDED:
        return pl.DataFrame(schema=SCHEMA)
    daily = values[:, values.shape[1] - weeks * 168 :].reshape(len(values), weeks, 7, 24)
    level, shape = weekly_curves(daily)
    left_level = departures(np.log(np.where(level > 0, level, np.nan))[:, :, None])
    left_shape = departures(shape)
    # A day's mean moves with the hours that change: most hours do not, and are the measure.
    left_shape -= np.median(left_shape, axis=2, keepdims=True)
    starts = end - np.arange(weeks, 0, -1, dtype=np.int64) * 7 * DAY_US
    frames = []
    for what, left in (("level", left_level), ("shape", left_shape)):
        found = unusual(
            left[:, :-RECENT],
            left[:, -RECENT:],
            starts[:-RECENT],
            starts[-RECENT:],
            latest=policy.weeks,
            upwards=np.zeros(left.shape[2], bool),
        )
        frames.append(_told(what, series, found, starts[-RECENT:], policy))
    return pl.concat(frames)


def of_panel(panel: Panel, end: int, policy: DriftPolicy) -> pl.DataFrame:
    """:func:`regimes` in the targets of a panel, in the weeks that end at ``end``, microseconds since the epoch."""
    week = 7 * DAY_US
    if not len(panel.issued) or (end - int(panel.issued[0])) // week < NEEDED:
        return pl.DataFrame(schema=SCHEMA)
    hours = LocalHours.of(panel.between(end - LOOK_BACK * week, end))
    faulty, _ = hours.faulty(LOOK_BACK_DAYS)
    # Days that have ended in most places.
    days = int(np.median(hours.place[:, -1, -1]) + 1) // 24
    values = np.where(faulty, np.nan, hours.values)[:, : days * 24]
    return regimes(panel.series.tolist(), end, values, policy)


def weekly_curves(daily: Array) -> tuple[Array, Array]:
    """(S, W) the level and (S, W, 24) the mean daily shape, less 1, of weeks of hourly loads (S, W, 7, 24).

    Without the highest and the lowest day, and of each hour without the highest and the lowest; NaN with too few days.
    """
    known = np.isfinite(daily)
    hours = known.sum(axis=3)
    total = np.where(known, daily, 0.0).sum(axis=3)
    of_day = np.where(hours >= LEAST_HOURS, total / np.maximum(hours, 1), np.nan)
    shape = daily / np.where(of_day > 0, of_day, np.nan)[..., None] - 1
    return _inner_mean(of_day), _inner_mean(shape)


def departures(columns: Array) -> Array:
    """(S, W, C) how far each week is from the same weeks of the years before, less how far it has been lately.

    Lately: the mean of the ``TREND`` weeks that end ``RECENT`` weeks before. NaN where one of the two is not known.
    """
    weeks = columns.shape[1]
    apart = np.full(columns.shape, np.nan)
    padded = np.concatenate([columns, np.full((len(columns), AROUND, columns.shape[2]), np.nan)], axis=1)
    for week in range(YEAR + AROUND, weeks):
        years = [week - YEAR * back for back in (1, 2) if week - YEAR * back - AROUND >= 0]
        same = np.concatenate([padded[:, w - AROUND : w + AROUND + 1] for w in years], axis=1)
        count = np.isfinite(same).sum(axis=1)
        mean = np.where(count > 0, np.nansum(same, axis=1) / np.maximum(count, 1), np.nan)
        apart[:, week] = columns[:, week] - mean
    trend = latest_mean(np.moveaxis(apart, 2, 0).reshape(-1, weeks), TREND, LEAST_TREND)
    trend = np.moveaxis(trend.reshape(columns.shape[2], len(columns), weeks), 0, 2)
    out = np.full(columns.shape, np.nan)
    out[:, RECENT:] = apart[:, RECENT:] - trend[:, :-RECENT]
    return out


def _told(
    what: str, series: list[str], found: Unusual, starts: npt.NDArray[np.int64], policy: DriftPolicy
) -> pl.DataFrame:
    """The latest week's findings as rows."""
    rare = (found.p[:, -1] <= policy.false_alarm_rate) & (found.q[:, -1] <= policy.false_discovery_rate)
    rows: list[tuple[object, ...]] = []
    for s in np.flatnonzero(rare):
        since = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(starts[found.since[s, -1]]))
        told = (series[s], what, since)
        p = float(found.p[s, -1])
        if what == "level":
            change = float(np.expm1(found.excess[s, -1, 0]))
            if abs(change) >= LEAST_LEVEL:
                rows.append((*told, change, None, None, p))
            continue
        first, last = _hours(found.excess[s, -1], int(found.column[s, -1]))
        change = float(found.excess[s, -1, np.arange(first, last + 1) % 24].mean())
        if abs(change) >= LEAST_SHAPE:
            rows.append((*told, change, first, last % 24, p))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _hours(excess: Array, worst: int) -> tuple[int, int]:
    """The run of hours around the worst one, around midnight too, that moved half as far in the same direction."""
    moved = excess * np.sign(excess[worst]) >= np.abs(excess[worst]) / 2
    if moved.all():
        return 0, 23
    first = last = worst
    while moved[(first - 1) % 24]:
        first -= 1
    while moved[(last + 1) % 24]:
        last += 1
    return first % 24, first % 24 + last - first


def _inner_mean(daily: Array) -> Array:
    """Means over the days (axis 2) without the highest and the lowest; NaN with too few."""
    known = np.isfinite(daily)
    count = known.sum(axis=2)
    enough = count >= LEAST_DAYS
    total = np.where(known, daily, 0.0).sum(axis=2)
    for edge, fill in ((np.max, -np.inf), (np.min, np.inf)):
        total -= np.where(enough, edge(np.where(known, daily, fill), axis=2), 0.0)
    return np.where(enough, total / np.where(enough, count - 2, 1), np.nan)
