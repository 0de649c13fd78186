"""What is to be found in the weeks of real champions, and what alarms are worth: the truth of benchmarks/drift.py.

The regret of a week is the log ratio of the champion's loss to a fresh fit's on the week after that fit: what
retraining would have mended.

An event starts in the first week of a series whose following 8 weeks have a mean regret of at least 10 %, unless such a
week lies in the 8 weeks before. It is found when the series is flagged in one of these 8 weeks; the delay counts them.
A quiet week has less than 2 % regret over the 8 weeks before and after it, itself among the first; a flag in it is a
false one. A flag raises an alarm unless one was raised less than the model's cooldown before it: alarms are what would
ask for a training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from drift_data import Aged, halves

from lakehouse_assets.models.demand_forecast import demand_forecast

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

AHEAD = 8
"""Weeks over which an event and a false alarm are defined."""
EVENT, QUIET = np.log(1.10), np.log(1.02)
LEAST_HOURS = 24
REFERENCE_YEAR = 52
COOLDOWN = demand_forecast.retrain.cooldown_days // 7
GOALS = {
    "real": {"found": 0.95, "median_delay": 3.0, "false_per_1000": 2.0},
    "injected": {"found": 0.95, "median_delay": 2.0},
    "must_not": {"per_1000": 5.0, "quality_named": 0.95},
    "replay": {"gain_share": 0.95, "trainings_share": 0.25},
    "speed": {"vs_nannyml": 1.0},
}
AT_LEAST = {"found", "quality_named", "gain_share"}
"""Goals that are least values; the others are highest ones."""


@dataclass(frozen=True)
class Fleet:
    """Series x weeks (S, W) as every method sees them.

    rows: which series of its source. aged: their values and forecasts, hour by hour. loss, fresh: mean absolute errors
    of the champion and the fresh fit; apart: root mean square of their difference; rmse: of the champion's errors.
    reference_rmse: (S,) mean of the weekly fits' in the year before the champion.
    """

    rows: Mask
    aged: Aged
    loss: Array
    fresh: Array
    apart: Array
    rmse: Array
    reference_rmse: Array

    @classmethod
    def of(cls, aged: Aged, rows: Mask) -> "Fleet":
        """Some rows of a source."""
        aged = aged.take(rows)
        loss, fresh, hours = aged.losses()
        out_of_sample = np.isfinite(aged.y) & np.isfinite(aged.fresh)
        both = out_of_sample & np.isfinite(aged.champion)
        apart = _rms(aged.champion - aged.fresh, both)
        rmse = _rms(aged.champion - aged.y, both)
        before = np.cumsum(np.isfinite(aged.champion).any(axis=(2, 3)), axis=1) == 0
        past = np.where(before, _rms(aged.fresh - aged.y, out_of_sample), np.nan)
        year = [np.mean(known[-REFERENCE_YEAR:]) if len(known := p[np.isfinite(p)]) else np.nan for p in past]
        enough = hours >= LEAST_HOURS
        losses = (np.where(enough, loss, np.nan), np.where(enough, fresh, np.nan))
        return cls(rows, aged, *losses, apart, rmse, np.array(year))

    @property
    def regret(self) -> Array:
        """Log ratio of the losses, NaN where one is unknown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(self.loss / self.fresh)
        return np.where(np.isfinite(ratio), ratio, np.nan)


def _rms(difference: npt.NDArray[np.float32], there: Mask) -> Array:
    """(S, W) root mean squares of (S, W, D, H), NaN where fewer than ``LEAST_HOURS`` are there."""
    count = there.sum(axis=(2, 3))
    total = np.where(there, difference**2, 0.0).sum(axis=(2, 3), dtype=np.float64)
    return np.sqrt(np.where(count >= LEAST_HOURS, total / np.maximum(count, 1), np.nan))


def fleets(aged: Aged) -> Iterator[Fleet]:
    """The half that parameters were chosen on, then the one that is reported."""
    judged = (np.isfinite(aged.y) & np.isfinite(aged.champion)).any(axis=(1, 2, 3))
    yield from (Fleet.of(aged, half & judged) for half in halves(aged.series))


@dataclass(frozen=True)
class Score:
    """What a method's flags are worth: a sum over series.

    delays: weeks, infinite for an event that was not found. quiet: quiet series-weeks. false_flags, false_alarms: in
    these. alarms: raised, whose next 8 weeks are known. low: those of them that would have gained less than 2 % in
    these.
    """

    delays: Array
    quiet: int = 0
    false_flags: int = 0
    false_alarms: int = 0
    alarms: int = 0
    low: int = 0

    def __add__(self, other: "Score") -> "Score":
        counts = {name: value + getattr(other, name) for name, value in vars(self).items() if name != "delays"}
        return replace(self, delays=np.concatenate([self.delays, other.delays]), **counts)

    @property
    def found(self) -> float:
        """Share of the events that were found within their weeks."""
        return float(np.isfinite(self.delays).mean()) if len(self.delays) else float("nan")

    def delay(self, quantile: float) -> float:
        """A quantile of the delays in weeks; an event that was not found counts as infinitely late."""
        return float(np.quantile(self.delays, quantile, method="inverted_cdf")) if len(self.delays) else float("nan")

    @property
    def false_per_1000(self) -> float:
        """Flags in quiet series-weeks, of a thousand."""
        return 1000 * self.false_flags / max(self.quiet, 1)

    @property
    def order(self) -> tuple[bool, float, float]:
        """What is better comes first: few false flags if that can be, then what is found, then early."""
        kept = self.false_per_1000 <= GOALS["real"]["false_per_1000"]
        late = float(np.minimum(self.delays, AHEAD + 1).mean()) if len(self.delays) else 0.0
        return (not kept, -self.found if kept else self.false_per_1000, late)


NOTHING = Score(np.zeros(0))


def mean_of(values: Array, first: int, last: int, least: int) -> Array:
    """(S, W) means over the weeks from `first` to `last` relative to each; NaN where fewer than `least` are known."""
    out = np.full(values.shape, np.nan)
    for week in range(values.shape[1]):
        if week + last < values.shape[1] and week + first >= 0:
            span = values[:, week + first : week + last + 1]
            known = np.isfinite(span).sum(axis=1)
            rows = known >= least
            out[rows, week] = np.nanmean(span[rows], axis=1)
    return out


def events(regret: Array) -> list[tuple[int, int]]:
    """(series, week) in which events start."""
    bad = mean_of(regret, 0, AHEAD - 1, AHEAD - 2) >= EVENT
    return [(int(s), int(w)) for s, w in zip(*np.nonzero(bad), strict=True) if not bad[s, max(0, w - AHEAD) : w].any()]


def raised(flags: Mask) -> Mask:
    """The flags that raise an alarm: a flag less than the cooldown after the last one raised is of the same alarm."""
    out = np.zeros(flags.shape, bool)
    last = np.full(len(flags), -COOLDOWN)
    for week in range(flags.shape[1]):
        out[:, week] = flags[:, week] & (week - last >= COOLDOWN)
        last[out[:, week]] = week
    return out


def score(regret: Array, flags: Mask) -> Score:
    """Flags (S, W) against what was to be found."""
    flags = flags & np.isfinite(regret)
    alarms = raised(flags)
    delays = []
    for s, w in events(regret):
        hit = np.flatnonzero(flags[s, w : w + AHEAD])
        delays.append(float(hit[0] + 1) if len(hit) else np.inf)
    quiet = mean_of(regret, 1 - AHEAD, AHEAD, 2 * AHEAD - 2) < QUIET
    ahead = mean_of(regret, 1, AHEAD, AHEAD - 2)
    counted = (
        quiet,
        flags & quiet,
        alarms & quiet,
        alarms & np.isfinite(ahead),
        alarms & (ahead < QUIET),
    )
    return Score(np.array(delays), *(int(mask.sum()) for mask in counted))


def chosen(tuned: Sequence[Fleet], options: Sequence[Sequence[Mask]]) -> int:
    """The parameter with the best score on the tuning halves: options by source, each a mask for every parameter."""
    totals = [
        sum((score(f.regret, o[k]) for f, o in zip(tuned, options, strict=True)), NOTHING)
        for k in range(len(options[0]))
    ]
    return min(range(len(totals)), key=lambda k: totals[k].order)
