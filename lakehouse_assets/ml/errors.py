"""The error channel: has a champion's error become biased or larger than it should be? For recipes whose fit is dear.

No fresh fit is needed: the errors of a week are compared with the champion's own out-of-sample errors, by series and by
block of six hours of the horizon. Two things are measured of each block and of all together, both relative to the
week's load: the signed bias, and the logarithm of the absolute error. What explains them is taken out: how much load
there was, how it varied within the week and from day to day (a week of changing weather is hard to forecast, and no
fault of the champion's), and further columns that are given, such as the share of holidays. What remains counts against
weeks of the same season, with thresholds by block resampling: see :mod:`lakehouse_assets.ml.unusual`, which states the
method and its sources. A single day never counts: of each week the extreme days are left out.

Arrays are series x weeks x issue times x hours of the horizon (S, W, D, H), and of weeks (S, W, B) with B blocks::

    judged = judge(weekly(y, champion, weeks), weekly(past_y, past_forecast, past_weeks), policy)
    judged.drifted, judged.statistic      # (S, W)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.unusual import unusual

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Hours = npt.NDArray[np.floating]

BLOCK_HOURS = 6
"""Hours of a block of the horizon; the last may be shorter."""
LEAST_DAYS, LEAST_HOURS = 4, 3
"""Days that a week, and hours that a day, must have in every block."""
EXPLAINING = ("level", "variability", "change")
"""What is known of every week: logarithms of the mean load, its spread in the week, its change from day to day."""


@dataclass(frozen=True)
class Weekly:
    """Errors week by week.

    weeks: (W,) starts, microseconds since the epoch. bias: (S, W, B) mean error (forecast less actual), and loss: mean
    absolute error, both in units of the week's mean load, without the extreme days. explaining: (S, W, P), what
    explains them, ``EXPLAINING`` first. NaN where a week has too few days.
    """

    weeks: npt.NDArray[np.int64]
    bias: Array
    loss: Array
    explaining: Array


@dataclass(frozen=True)
class Past:
    """A champion's own out-of-sample errors: the series (S) and their weeks."""

    series: tuple[str, ...]
    weeks: Weekly

    def only(self, series: Sequence[str]) -> "Past":
        """That of some series."""
        known = set(self.series)
        kept = tuple(s for s in series if s in known)
        return Past(kept, self.of(kept))

    def of(self, series: Sequence[str]) -> Weekly:
        """The weeks of some series; NaN of one that is not known here."""
        place = {s: i for i, s in enumerate(self.series)}
        rows = np.array([place.get(s, -1) for s in series], np.int64)

        def taken(values: Array) -> Array:
            return np.concatenate([values, np.full((1, *values.shape[1:]), np.nan)])[rows]

        weeks = self.weeks
        return Weekly(weeks.weeks, taken(weeks.bias), taken(weeks.loss), taken(weeks.explaining))

    @classmethod
    def joined(cls, parts: Sequence["Past"]) -> "Past | None":
        """Those of several sets of series as one; of weeks that differ, all."""
        if not parts:
            return None
        starts = np.unique(np.concatenate([part.weeks.weeks for part in parts]))
        blocks = [np.searchsorted(starts, part.weeks.weeks) for part in parts]

        def spread(name: str) -> Array:
            out = []
            for part, at in zip(parts, blocks, strict=True):
                values: Array = getattr(part.weeks, name)
                rows = np.full((len(values), len(starts), values.shape[2]), np.nan)
                rows[:, at] = values
                out.append(rows)
            return np.concatenate(out)

        series = tuple(s for part in parts for s in part.series)
        return cls(series, Weekly(starts, spread("bias"), spread("loss"), spread("explaining")))


@dataclass(frozen=True)
class JudgedErrors:
    """What each week says of each series, from that week and those before it; all (S, W), NaN where nothing is known.

    statistic: the largest surprise of the latest weeks. p, q: of it, by resampling, and across series. kind: 1 where a
    bias surprises most, 0 where the size of the errors does. block: of hours in which, -1 for all alike. bias: the
    unexpected bias there over the latest weeks, in units of the load. change: log ratio of the absolute error to the
    expected one, all hours. gain: the share of the loss that is expected to go when the unexpected bias does. since:
    index of the week in which the evidence begins. tested, drifted: whether the series is judged, and has drifted.
    """

    statistic: Array
    p: Array
    q: Array
    kind: npt.NDArray[np.int64]
    block: npt.NDArray[np.int64]
    bias: Array
    change: Array
    gain: Array
    since: npt.NDArray[np.int64]
    tested: Mask
    drifted: Mask


def weekly(
    y: Hours, forecast: Hours, weeks: npt.NDArray[np.int64], explaining: Mapping[str, Hours | None] | None = None
) -> Weekly:
    """The errors of some weeks.

    y, forecast: (S, W, D, H), NaN where unknown; hours known as faulty must be. weeks: (W,) starts of the weeks,
    microseconds since the epoch. explaining: further columns that may explain errors, each (S, W, D, H) or (S, W, D);
    they count by their mean over the week; None is unknown, and explains nothing.
    """
    error = forecast - y
    known = np.isfinite(error)
    daily, large = _by_block(error, known), _by_block(np.abs(error), known)
    load = np.where(known, y, 0.0)
    hours = np.maximum(known.sum(axis=(2, 3)), 1)
    level = np.abs(load).sum(axis=(2, 3), dtype=np.float64) / hours
    mean = load.sum(axis=(2, 3), dtype=np.float64) / hours
    square = (np.where(known, y - mean[:, :, None, None], 0.0) ** 2).sum(axis=(2, 3), dtype=np.float64) / hours
    steps = np.abs(np.diff(y, axis=2))
    there = np.isfinite(steps)
    change = np.where(there, steps, 0.0).sum(axis=(2, 3), dtype=np.float64) / np.maximum(there.sum(axis=(2, 3)), 1)
    columns = [level, np.sqrt(square) / np.where(level > 0, level, np.nan), change / np.where(level > 0, level, np.nan)]
    columns = [np.log(np.where(column > 0, column, np.nan)) for column in columns]
    for column in (explaining or {}).values():
        if column is None:
            columns.append(np.full(level.shape, np.nan))
            continue
        values = column if column.ndim == 4 else column[..., None]
        given = np.isfinite(values)
        total = np.where(given, values, 0.0).sum(axis=(2, 3), dtype=np.float64)
        columns.append(np.where(given.any(axis=(2, 3)), total / np.maximum(given.sum(axis=(2, 3)), 1), np.nan))
    unit = np.where(level > 0, level, np.nan)[:, :, None]
    bias, loss = _trimmed(daily, lowest=True) / unit, _trimmed(large, lowest=False) / unit
    whole = np.isfinite(bias).all(axis=2, keepdims=True) & np.isfinite(loss).all(axis=2, keepdims=True)
    return Weekly(
        np.asarray(weeks, np.int64),
        np.where(whole, bias, np.nan),
        np.where(whole, loss, np.nan),
        np.where(whole, np.stack(columns, axis=2), np.nan),
    )


def judge(current: Weekly, history: Weekly, policy: DriftPolicy, seed: int = 0) -> JudgedErrors:
    """Judge every series in every week, by what was known at the end of the week.

    history: out-of-sample errors of the champion, or of its recipe, before it was in force, of the same S series. A
    series has drifted when its surprise is rarer than ``false_alarm_rate`` by resampling, is more than chance across
    series (``false_discovery_rate``), and matters: the absolute error is above the expected one, or would be below
    without the unexpected bias, by ``minimum_effect``.
    """
    blocks = current.bias.shape[2]
    upwards = np.arange(2 * (blocks + 1)) > blocks
    found = unusual(
        _columns(history),
        _columns(current),
        history.weeks,
        current.weeks,
        latest=policy.weeks,
        upwards=upwards,
        explaining=(history.explaining, current.explaining),
        seed=seed,
    )
    usual = np.exp(found.expected[:, :, blocks + 1 : 2 * blocks + 1])
    excess, surprise = found.excess[:, :, :blocks], found.surprise[:, :, :blocks]
    # What noise alone would make of a bias is taken off.
    real = np.abs(excess) * np.sqrt(np.maximum(1 - 1 / np.maximum(surprise**2, 1e-12), 0.0))
    gain = _bias_cost(real, usual)
    change = found.excess[:, :, -1]
    effect = np.fmax(change, -np.log1p(-gain))
    tested = np.isfinite(found.p) & (np.cumsum(np.isfinite(current.loss[:, :, 0]), axis=1) >= policy.weeks)
    drifted = tested & (found.p <= policy.false_alarm_rate) & (found.q <= policy.false_discovery_rate)
    drifted &= effect >= np.log1p(policy.minimum_effect)
    place = found.column % (blocks + 1)
    kind = (found.column <= blocks).astype(np.int64)
    bias = np.take_along_axis(found.excess[:, :, : blocks + 1], place[:, :, None], axis=2)[:, :, 0]
    block = np.where(place < blocks, place, -1)
    told = {"statistic": found.statistic, "p": found.p, "q": found.q, "bias": bias, "change": change, "gain": gain}
    return JudgedErrors(
        **{name: np.where(tested, values, np.nan) for name, values in told.items()},
        kind=kind,
        block=block,
        since=found.since,
        tested=tested,
        drifted=drifted,
    )


def _columns(weeks: Weekly) -> Array:
    """(S, W, 2 (B + 1)) bias by block and of all, logarithm of the loss by block and of all; NaN where one is zero."""
    loss = np.concatenate([weeks.loss, weeks.loss.mean(axis=2, keepdims=True)], axis=2)
    size = np.log(np.where(loss > 0, loss, np.nan))
    bias = np.concatenate([weeks.bias, weeks.bias.mean(axis=2, keepdims=True)], axis=2)
    return np.concatenate([bias, size], axis=2)


def _bias_cost(bias: Array, loss: Array) -> Array:
    """(S, W) the share of the absolute error that biases (S, W, B) are, of errors whose usual size is ``loss``.

    Laplace errors of mean size 1 that are shifted by d have a mean size of d + exp(-d).
    """
    shifted = bias / loss
    with_bias = (loss * (shifted + np.exp(-shifted))).sum(axis=2)
    return 1 - loss.sum(axis=2) / with_bias


def _by_block(values: Hours, known: Mask) -> Array:
    """(S, W, D, B) means of the blocks of hours of a day; NaN with too few of its hours."""
    starts = np.arange(0, values.shape[3], BLOCK_HOURS)
    count = np.add.reduceat(known, starts, axis=3, dtype=np.int64)
    total = np.add.reduceat(np.where(known, values, 0.0), starts, axis=3, dtype=np.float64)
    length = np.diff(np.append(starts, values.shape[3]))
    return np.where(count >= np.minimum(LEAST_HOURS, length), total / np.maximum(count, 1), np.nan)


def _trimmed(daily: Array, *, lowest: bool) -> Array:
    """(S, W, B) means over days without the highest and, of values of either sign, the lowest of them."""
    known = np.isfinite(daily)
    count = known.sum(axis=2)
    enough = count >= LEAST_DAYS
    total = np.where(known, daily, 0.0).sum(axis=2)
    total -= np.where(enough, np.where(known, daily, -np.inf).max(axis=2, initial=-np.inf), 0.0)
    if lowest:
        total -= np.where(enough, np.where(known, daily, np.inf).min(axis=2, initial=np.inf), 0.0)
    return np.where(enough, total / np.where(enough, count - 1 - lowest, 1), np.nan)
