"""Lasting faults of a meter by name: gaps, a stuck meter, a wrong unit, a clock that slipped.

They look like drift and are none: no training mends them, and one that learns from them does harm. Single bad hours are
judged elsewhere; here are faults of half a day and more, each with its beginning and end. Values are hourly grids on
the local clock of their series, so that a change to summer time is no slip.
"""

from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.regret import latest_mean

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

FAULTS = ("gap", "stuck_meter", "unit_error", "clock_slip")
GAP_HOURS, STUCK_HOURS, UNIT_DAYS, SLIP_DAYS = 12, 8, 1, 5
"""The least length of each; shorter ones are bad hours."""
UNIT_TOLERANCE = 0.15
"""By how much the decimal logarithm of a ratio may miss a power of ten."""
SLIP_HOURS, SLIP_GAIN = 3, 0.6
"""Slips of at most so many hours are looked for. A day's misfit must fall to that share by the shift, in the geometric
mean over ``SLIP_DAYS``. Chosen on one half of the regions of EIA-930: of slips by an hour 85 % are found, and 2 of
1,000 series-weeks as reported are called one; flat loads leave nothing to see."""
SCHEMA: dict[str, pl.DataType] = {
    "series_id": pl.String(),
    "fault": pl.String(),
    "since": pl.Datetime("us"),
    "until": pl.Datetime("us"),
}


def faults(series: list[str], start: datetime, values: Array) -> pl.DataFrame:
    """All lasting faults: series_id, fault (of ``FAULTS``), since and until (exclusive), on the local clock.

    series: (S,) ids. start: the first hour, a midnight without a zone. values: (S, T) hourly, NaN where there is none.
    Hours after the last known one of all series say nothing. The first five weeks serve as the measure of what follows.
    """
    known = np.flatnonzero(np.isfinite(values).any(axis=0))
    if not len(known):
        return pl.DataFrame(schema=SCHEMA)
    values = values[:, : -(-(int(known[-1]) + 1) // 24) * 24]
    wrong_unit = unit_days(values)
    rows = []
    for name, mask, least in (
        ("gap", gap_hours(values), GAP_HOURS),
        ("stuck_meter", stuck_hours(values), STUCK_HOURS),
        ("unit_error", np.repeat(wrong_unit, 24, axis=1), UNIT_DAYS * 24),
        ("clock_slip", np.repeat(slip_days(values) & ~wrong_unit, 24, axis=1), SLIP_DAYS * 24),
    ):
        for s, first, end in runs(mask, least):
            rows.append((series[s], name, start + timedelta(hours=first), start + timedelta(hours=end)))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").sort("series_id", "since", "fault")


def runs(mask: Mask, least: int) -> list[tuple[int, int, int]]:
    """(row, first, end) of all runs of at least so many true values."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    first, end = np.nonzero(edges == 1), np.nonzero(edges == -1)
    return [(int(s), int(a), int(b)) for s, a, b in zip(first[0], first[1], end[1], strict=True) if b - a >= least]


def gap_hours(values: Array) -> Mask:
    """Hours without a value after the first one of a series."""
    return ~np.isfinite(values) & np.maximum.accumulate(np.isfinite(values), axis=1)


def stuck_hours(values: Array) -> Mask:
    """Hours with the value of the hour before, and the first of each such run."""
    same = np.zeros(values.shape, bool)
    same[:, 1:] = values[:, 1:] == values[:, :-1]
    same[:, :-1] |= same[:, 1:]
    return same


def unit_days(values: Array) -> Mask:
    """(S, D) days whose level is a power of ten of that of the weeks before."""
    days = np.abs(values).reshape(len(values), -1, 24)
    level = np.where(np.isfinite(days).sum(axis=2) >= 12, np.nanmedian(days, axis=2), np.nan)
    wrong = np.zeros(level.shape, bool)
    right = level.copy()
    for day in range(1, level.shape[1]):
        with np.errstate(divide="ignore", invalid="ignore"):
            decades = np.log10(level[:, day] / _median(right[:, max(0, day - 28) : day]))
        near = np.abs(decades - np.round(decades)) <= UNIT_TOLERANCE
        wrong[:, day] = np.isfinite(decades) & near & (np.round(decades) != 0)
        right[wrong[:, day], day] = np.nan
        # After four weeks it is the level: somebody changed the unit for good.
        for_good = wrong[:, max(0, day - 27) : day + 1].all(axis=1) & (day >= 27)
        right[for_good, : day + 1] = level[for_good, : day + 1]
    return wrong


def slip_days(values: Array) -> Mask:
    """(S, D) days whose curve fits those of the weeks before far better when it is shifted by some hours."""
    usual = _daily(np.abs(values))
    relative = values / np.where(usual > 0, usual, np.nan).repeat(24, axis=1)
    expected = np.full(values.shape, np.nan)
    past = np.stack([_back(relative, weeks * 168) for weeks in range(1, 5)])
    enough = np.isfinite(past).sum(axis=0) >= 2
    expected[enough] = np.nanmedian(past[:, enough], axis=0)
    shifts = [k for k in range(-SLIP_HOURS, SLIP_HOURS + 1) if k]
    misfit = [_misfit(relative, _back(expected, shift)) for shift in (0, *shifts)]
    slipped = np.zeros(misfit[0].shape, bool)
    for moved in misfit[1:]:
        gain = np.log(np.maximum(misfit[0], 0.001) / np.maximum(moved, 0.001))
        together = latest_mean(gain, SLIP_DAYS) >= -np.log(SLIP_GAIN)
        for s, first, end in runs(together, 1):
            slipped[s, max(0, first - SLIP_DAYS + 1) : end] = True
    return slipped


def _misfit(values: Array, expected: Array) -> Array:
    """(S, D) share of a day's variance that no stretched and lifted expected curve explains; NaN with many gaps."""
    x, y = (a.reshape(len(a), -1, 24) for a in (expected, values))
    both = np.isfinite(x) & np.isfinite(y)
    count = both.sum(axis=2)
    x, y = (np.where(both, a, 0.0) for a in (x, y))
    x, y = (np.where(both, a - (a.sum(axis=2) / np.maximum(count, 1))[:, :, None], 0.0) for a in (x, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (x * y).sum(axis=2) / np.sqrt((x**2).sum(axis=2) * (y**2).sum(axis=2))
    return np.where((count >= 18) & np.isfinite(r), 1 - np.maximum(r, 0.0) ** 2, np.nan)


def _back(values: Array, hours: int) -> Array:
    """Values so many hours later, NaN where a grid does not reach back so far."""
    out = np.full(values.shape, np.nan)
    length, start = max(0, values.shape[1] - abs(hours)), max(0, hours)
    out[:, start : start + length] = values[:, max(0, -hours) : max(0, -hours) + length]
    return out


def _daily(values: Array) -> Array:
    """(S, D) means of the days that have enough values, else NaN."""
    days = values.reshape(len(values), -1, 24)
    count = np.isfinite(days).sum(axis=2)
    return np.where(count >= 12, np.nansum(days, axis=2) / np.maximum(count, 1), np.nan)


def _median(values: Array) -> Array:
    """Median of each row, NaN where there is nothing."""
    out = np.full(len(values), np.nan)
    there = np.isfinite(values).any(axis=1)
    out[there] = np.nanmedian(values[there], axis=1)
    return out
