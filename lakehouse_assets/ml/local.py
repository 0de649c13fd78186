"""Targets of a panel as a grid of local hours, and the lasting faults of meters in them.

Meters and the curves of days go by the local clock: there a change to summer time is no slip.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.panel import DAY_US, HOUR_US, Panel
from lakehouse_assets.ml.quality import faults

Array = npt.NDArray[np.float64]
LOOK_BACK_DAYS = 63
"""So far back lasting faults are looked for: four weeks, and the five that serve as their measure."""
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class LocalHours:
    """Hourly values on the local clock of each series.

    start: the first hour, a midnight without a zone. values: (S, T) in whole days, NaN where there is none; a gap of a
    single hour, as a change to summer time leaves, is filled from both sides. place: (S, D, H) where in T a panel's
    hours lie. ahead: (S,) hours by which the local clocks are ahead of UTC at the end.
    """

    start: datetime
    values: Array
    place: npt.NDArray[np.int64]
    ahead: npt.NDArray[np.int64]

    @classmethod
    def of(cls, panel: Panel) -> "LocalHours":
        """The targets of a panel; a panel without the column ``hour`` (local hour of day) is taken to be in UTC.

        An hour that is forecast at several issue times has one target.
        """
        series, _, steps = panel.shape
        hours = panel.issued[:, None] // HOUR_US + np.arange(steps)[None, :]
        ahead = np.zeros(panel.shape, np.int64)
        if "hour" in panel.columns:
            local = panel.full("hour")
            known = np.isfinite(local)
            # Local clocks are 11 hours behind to 14 ahead of UTC.
            apart = (np.nan_to_num(local).astype(np.int64) - hours[None] + 11) % 24 - 11
            total = np.where(known, apart, 0).sum(axis=(1, 2))
            mean = np.round(total / np.maximum(known.sum(axis=(1, 2)), 1)).astype(np.int64)
            ahead = np.where(known, apart, mean[:, None, None])
        first = int(hours[0, 0] + ahead.min()) // 24 * 24
        place = hours[None] + ahead - first
        values = np.full((series, (int(place.max()) // 24 + 1) * 24), np.nan)
        known = np.isfinite(panel.target)
        values[np.nonzero(known)[0], place[known]] = panel.target[known]
        alone = ~np.isfinite(values[:, 1:-1]) & np.isfinite(values[:, :-2]) & np.isfinite(values[:, 2:])
        values[:, 1:-1] = np.where(alone, (values[:, :-2] + values[:, 2:]) / 2, values[:, 1:-1])
        return cls(_EPOCH + timedelta(hours=first), values, place, ahead[:, -1, -1])

    def faulty(self, days: int) -> tuple[npt.NDArray[np.bool_], list[tuple[int, str, int]]]:
        """(S, T) the hours of lasting faults among the latest days, and the faults: row, name, first hour in T."""
        skipped = max(0, self.values.shape[1] - days * 24)
        first = self.start + timedelta(hours=skipped)
        rows = [str(row) for row in range(len(self.values))]
        found = faults(rows, first, self.values[:, skipped:])
        mask = np.zeros(self.values.shape, bool)
        listed = []
        for row, name, since, until in found.iter_rows():
            begin, end = ((time - self.start) // timedelta(hours=1) for time in (since, until))
            mask[int(row), begin:end] = True
            listed.append((int(row), name, begin))
        return mask, listed


def without_faults(panel: Panel, start: int, stop: int) -> tuple[Array, list[tuple[str, int] | None]]:
    """(S, D, H) the targets of the issue times in [start, stop), NaN in the hours of lasting faults; and (S,) the name
    and the beginning (microseconds since the epoch) of the first fault in them.
    """
    window = panel.between(start, stop)
    told: list[tuple[str, int] | None] = [None] * len(panel.series)
    if not window.shape[1]:
        return window.target, told
    hours = LocalHours.of(panel.between(start - LOOK_BACK_DAYS * DAY_US, stop))
    mask, listed = hours.faulty(LOOK_BACK_DAYS + 7)
    if not listed:
        return window.target, told
    place = hours.place[:, -window.shape[1] :].reshape(len(mask), -1)
    inside = np.take_along_axis(mask, place, axis=1).reshape(window.shape)
    first = int((hours.start - _EPOCH) // timedelta(hours=1))
    for row, name, begin in listed:
        if inside[row].any() and told[row] is None:
            told[row] = (name, (first + begin - int(hours.ahead[row])) * HOUR_US)
    return np.where(inside, np.nan, window.target), told
