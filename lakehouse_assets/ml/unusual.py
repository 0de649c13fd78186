"""How unusual the latest weeks of a series are, against its own history in comparable seasons.

Arrays are series x weeks x columns (S, W, C): whatever is measured once a week, the history (S, W0, C) free of what is
looked for. Four steps:

1. What explains a week (how much load, how variable) is taken out by a ridge regression on the history, drawn towards
   the regression of all series together.
2. What remains is counted from the mean, and in units of the spread, of the comparable weeks: those within
   ``SEASON_WEEKS`` of the same time of the year, where the history has enough of them, else all. Of the history itself
   this is known out of sample: each block of weeks by what the others say.
3. The statistic is the largest of the means over the latest weeks, of all columns: the union of their tests.
4. How large it gets by chance is found by resampling blocks of consecutive weeks of the history, all columns of a week
   together, so that neither the dependence of weeks nor that of columns is assumed away (block bootstrap: Künsch,
   1989, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics 17; largest of many
   statistics: Westfall and Young, 1993, "Resampling-based multiple testing"). A resample draws its reference anew, too,
   so that an uncertain mean of few weeks is no surprise. The tail is that of all series together, its width drawn
   towards each series' own.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.metrics import benjamini_hochberg
from lakehouse_assets.ml.panel import DAY_US

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SEASON_WEEKS, COMPARABLE = 6, 8
"""So far apart in the year weeks are comparable, and so many of them must be known to leave the others aside."""
LEAST_HISTORY = 8
"""Weeks of a history that says anything."""
BLOCK = 4
"""Consecutive weeks that are left out, and drawn, together."""
PRIOR_WEEKS = 10.0
"""How many weeks the regression of all series counts for beside a series' own."""
PRIOR_SPREAD, PRIOR_MEAN = 6.0, 2.0
"""How many weeks the spread of the whole history counts for beside that of the comparable weeks, and its mean."""
PRIOR_WIDTH = 100.0
"""How many weeks the width of all resamples counts for beside that of a series' own: few weeks make it too narrow."""
WILD = 4.0
"""A week counts at most so many spreads: one alone is never enough."""
RESAMPLES, LEAST_RESAMPLES = 20_000, 100
"""Of all series together, and of each at least."""
SLACK = 1.0
"""Evidence begins with the first week of those whose surprises exceed so many spreads on average."""
CHUNK_NUMBERS = 5_000_000
"""Numbers of resamples that are held in memory at a time."""
_YEAR_US = 365.25 * DAY_US


@dataclass(frozen=True)
class Unusual:
    """What each week says, from it and those before; all (S, W) or (S, W, C), NaN where nothing is known.

    statistic: the largest surprise over the latest weeks. p: of it, by resampling. q: across series. column: the one
    that surprises most. since: index of the week in which its evidence begins. surprise: (S, W, C) of each column over
    the latest weeks, about 1 in size by chance. excess: (S, W, C) what the latest weeks have more than expected, in the
    columns' own units. expected: (S, W, C) for the week.
    """

    statistic: Array
    p: Array
    q: Array
    column: npt.NDArray[np.int64]
    since: npt.NDArray[np.int64]
    surprise: Array
    excess: Array
    expected: Array


def unusual(
    history: Array,
    current: Array,
    history_weeks: npt.NDArray[np.int64],
    weeks: npt.NDArray[np.int64],
    *,
    latest: int,
    upwards: Mask,
    explaining: tuple[Array, Array] | None = None,
    wild: float = WILD,
    seed: int = 0,
) -> Unusual:
    """Judge every week of every series.

    history: (S, W0, C) and current: (S, W, C), NaN where unknown. history_weeks: (W0,) and weeks: (W,) their starts in
    microseconds since the epoch, ascending. latest: weeks that are averaged. upwards: (C,) columns of which only more
    is a surprise. explaining: what explains the columns, (S, W0, P) and (S, W, P). wild: how many spreads a
    week counts at most. A series with fewer than
    ``LEAST_HISTORY`` weeks of history is not judged; columns that it does not have are left out.
    """
    known: Mask = np.isfinite(history)
    enough = known.sum(axis=1) >= LEAST_HISTORY
    known &= enough[:, None]
    mean, width = _moments(history, known)
    before, now = ((values - mean[:, None]) / width[:, None] for values in (history, current))
    before, now = np.where(known, before, np.nan), np.where(enough[:, None], now, np.nan)
    fold = np.arange(len(history_weeks)) // BLOCK
    other = fold[:, None] != fold[None, :]
    said = np.zeros(now.shape)
    if explaining is not None:
        held_out, said = _regressions(before, now, *explaining, fold)
        before, now = before - held_out, now - said
    near = season_distance(weeks, history_weeks) <= SEASON_WEEKS
    near_history = (season_distance(history_weeks, history_weeks) <= SEASON_WEEKS) & other
    spread = _spread(before)
    local, scale, count = _comparable(before, spread, near, np.ones_like(near))
    far = (now - local) / scale
    z = np.clip(far, -wild, wild)
    past_local, past_scale, _ = _comparable(before, spread, near_history, other)
    past = np.clip((before - past_local) / past_scale, -wild, wild)
    reference = max(BLOCK, round(float(np.median(count[count > 0])))) if (count > 0).any() else BLOCK
    null = _resampled(past, latest, reference, upwards, seed)
    surprise = _latest(z, latest) / np.sqrt(1 / latest + 1 / reference)
    directed = np.where(upwards, surprise, np.abs(surprise))
    there = np.isfinite(directed)
    statistic = np.where(there.any(axis=2), np.where(there, directed, -np.inf).max(axis=2, initial=-np.inf), np.nan)
    # Of columns that are as wild as counts, the one that is farthest is named.
    column = np.where(there, directed + np.abs(_latest(far, latest)) / 1000, -np.inf).argmax(axis=2)
    sign = np.where(np.take_along_axis(surprise, column[:, :, None], axis=2)[:, :, 0] < 0, -1, 1)
    p = _p_values(statistic, null, np.isfinite(past).any(axis=2).sum(axis=1))
    q = np.stack([benjamini_hochberg(week) for week in p.T], axis=1) if p.size else p
    excess = _latest(now - local, latest, scaled=False) * width[:, None]
    expected = mean[:, None] + (said + local) * width[:, None]
    return Unusual(statistic, p, q, column, _since(z, column, sign), surprise, excess, expected)


def _moments(values: Array, known: Mask) -> tuple[Array, Array]:
    """(S, C) mean and standard deviation over the weeks; 0 and 1 where nothing is known or varies."""
    count = np.maximum(known.sum(axis=1), 1)
    mean = np.where(known, values, 0.0).sum(axis=1) / count
    width = np.sqrt((np.where(known, values - mean[:, None], 0.0) ** 2).sum(axis=1) / count)
    return mean, np.where(width > 1e-12 * np.maximum(np.abs(mean), 1e-300), width, 1.0)


def _regressions(before: Array, now: Array, x0: Array, x: Array, fold: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """What the explaining columns say of the history, each block by the others, and of the current weeks."""
    mean, width = _moments(x0, np.isfinite(x0))
    x0, x = ((values - mean[:, None]) / width[:, None] for values in (x0, x))
    # Nothing is said beyond what the history has seen: it would explain away what is new.
    low, high = (edge(np.nan_to_num(x0), axis=1)[:, None] for edge in (np.min, np.max))
    x0, x = np.nan_to_num(x0), np.clip(np.nan_to_num(x), low, high)
    x0, x = (np.concatenate([np.ones((*values.shape[:2], 1)), values], axis=2) for values in (x0, x))
    there: Mask = np.all(np.isfinite(before), axis=2)
    left = np.where(there[:, :, None], x0, 0.0)
    right = np.where(there[:, :, None], before, 0.0)
    squares, products = left.transpose(0, 2, 1) @ left, left.transpose(0, 2, 1) @ right
    held_out = np.zeros(before.shape)
    for block in range(int(fold.max(initial=-1)) + 1):
        own = np.flatnonzero(fold == block)
        part = left[:, own].transpose(0, 2, 1)
        slopes = _slopes(squares - part @ left[:, own], products - part @ right[:, own])
        held_out[:, own] = x0[:, own] @ slopes
    return held_out, x @ _slopes(squares, products)


def _slopes(squares: Array, products: Array) -> Array:
    """(S, P, C) ridge regressions, each drawn towards the one of all series; the intercept is free."""
    penalty = np.diag([1e-6] + [PRIOR_WEEKS] * (squares.shape[1] - 1))
    fleet = np.linalg.solve(squares.sum(axis=0) + penalty, products.sum(axis=0))
    fleet[0] = 0.0
    return np.asarray(np.linalg.solve(squares + penalty, products + penalty @ fleet))


def season_distance(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> Array:
    """(A, B) weeks between the times of the year of two sets of times, microseconds since the epoch."""
    apart = np.abs(a[:, None] - b[None, :]) % _YEAR_US
    return np.minimum(apart, _YEAR_US - apart) / (7 * DAY_US)


def _spread(values: Array) -> Array:
    """(S, C) mean squares of the history, drawn towards the fleet's median."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    own = np.where(known, values, 0.0) ** 2
    own = own.sum(axis=1) / np.maximum(count, 1)
    fleet = np.array([np.median(c[k]) if k.any() else 1.0 for c, k in zip(own.T, (count > 0).T, strict=True)])
    return np.maximum((count * own + PRIOR_SPREAD * fleet) / (count + PRIOR_SPREAD), 1e-12)


def _comparable(history: Array, spread: Array, near: Mask, every: Mask) -> tuple[Array, Array, Array]:
    """(S, W, C) mean and spread of the weeks that each week is compared with, and how many they are.

    near, every: (W, W0) the weeks of the history at the same time of the year, and all that may be used.
    """
    known = np.isfinite(history)
    values = np.where(known, history, 0.0)

    def total(which: Mask, numbers: Array) -> Array:
        return np.asarray(which.astype(float) @ numbers)

    close = total(near, known.astype(float)) >= COMPARABLE
    count, first, second = (
        np.where(close, total(near, numbers), total(every, numbers))
        for numbers in (known.astype(float), values, values**2)
    )
    mean = first / (count + PRIOR_MEAN)
    squares = np.maximum(second - 2 * mean * first + count * mean**2, 0.0)
    scale = np.sqrt((squares + PRIOR_SPREAD * spread[:, None]) / (count + PRIOR_SPREAD))
    return mean, scale, count


def _latest(z: Array, weeks: int, *, scaled: bool = True) -> Array:
    """(S, W, C) means over the latest weeks; NaN where more than one of them, or the last, is unknown.

    scaled: fewer weeks count for less, so that the noise is the same.
    """
    known = np.isfinite(z)
    total, count = np.cumsum(np.where(known, z, 0.0), axis=1), np.cumsum(known, axis=1)
    total[:, weeks:] -= total[:, :-weeks].copy()
    count[:, weeks:] -= count[:, :-weeks].copy()
    mean = total / np.maximum(count, 1) * (np.sqrt(count / weeks) if scaled else 1.0)
    return np.where((count >= max(1, weeks - 1)) & known, mean, np.nan)


def _resampled(past: Array, latest: int, reference: int, upwards: Mask, seed: int) -> Array:
    """(S, R) what the statistic is by chance: resamples of each series, NaN of one with too little history.

    reference: the number of weeks that a week is compared with.
    """
    series, _, columns = past.shape
    draws = max(LEAST_RESAMPLES, -(-RESAMPLES // max(series, 1)))
    blocks = -(-reference // BLOCK)
    n = blocks * BLOCK
    null = np.full((series, draws), np.nan)
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK_NUMBERS // (draws * columns))
    for start in range(0, series, size):
        z = past[start : start + size]
        count = np.isfinite(z).any(axis=2).sum(axis=1)
        # The weeks that are known, in order, as a ring.
        order = np.argsort(~np.isfinite(z).any(axis=2), axis=1, kind="stable")
        ring = np.nan_to_num(np.take_along_axis(z, order[:, :, None], axis=1))
        window = _ring_sums(ring, count, latest) / latest
        first, second = _ring_sums(ring, count, BLOCK), _ring_sums(ring**2, count, BLOCK)
        at = (rng.random((blocks + 1, len(z), draws)) * count[:, None]).astype(np.int64)
        each = np.arange(len(z))[:, None]
        total, squares = np.zeros((2, len(z), draws, columns))
        for place in at[1:]:
            total += first[each, place]
            squares += second[each, place]
        mean = total / (n + PRIOR_MEAN)
        squares += n * mean**2 - 2 * mean * total + PRIOR_SPREAD
        surprise = (window[each, at[0]] - mean) / np.sqrt(squares / (n + PRIOR_SPREAD))
        surprise /= np.sqrt(1 / latest + 1 / reference)
        given: Mask = np.any(np.isfinite(z), axis=1)
        directed = np.where(given[:, None], np.where(upwards, surprise, np.abs(surprise)), -np.inf)
        enough = count[:, None] >= LEAST_HISTORY
        null[start : start + size] = np.where(enough, directed.max(axis=2, initial=-np.inf), np.nan)
    return null


def _ring_sums(ring: Array, count: npt.NDArray[np.int64], length: int) -> Array:
    """(S, W0, C) sums over so many weeks from each on, the first following the last."""
    places = np.arange(ring.shape[1])[None, :] % np.maximum(count, 1)[:, None]
    each = np.arange(len(ring))[:, None]
    return sum((ring[each, (places + k) % np.maximum(count, 1)[:, None]] for k in range(length)), np.zeros(ring.shape))


def _p_values(statistic: Array, null: Array, weeks: npt.NDArray[np.int64]) -> Array:
    """(S, W) the share of all series' resamples that reach a statistic, each in units of its series' width.

    null: (S, R). weeks: (S,) of the history, by which a series' own width counts beside that of all.
    """
    known = np.isfinite(null).all(axis=1)
    if not known.any():
        return np.full(statistic.shape, np.nan)
    own = np.log(np.quantile(null[known], 0.9, axis=1))
    width = np.full(len(null), np.nan)
    width[known] = np.exp((weeks[known] * own + PRIOR_WIDTH * own.mean()) / (weeks[known] + PRIOR_WIDTH))
    pool = np.sort((null[known] / width[known, None]).ravel())
    relative = statistic / width[:, None]
    p = (1 + len(pool) - np.searchsorted(pool, relative)) / (1 + len(pool))
    return np.where(np.isfinite(relative), p, np.nan)


def _since(z: Array, column: npt.NDArray[np.int64], sign: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(S, W) the first week of the evidence of the column that surprises most: the start of a CUSUM (Page, 1954)."""
    since = np.zeros(column.shape, np.int64)
    level = np.zeros((2, len(z), z.shape[2]))
    first = np.zeros((2, len(z), z.shape[2]), np.int64)
    each = np.arange(len(z))
    for week in range(z.shape[1]):
        step = np.nan_to_num(z[:, week])
        first = np.where(level <= 0, week, first)
        level = np.maximum(level + np.stack([step, -step]) - SLACK, 0.0)
        # Without evidence it begins now.
        found = np.where(level > 0, first, week)
        since[:, week] = found[(sign[:, week] < 0).astype(int), each, column[:, week]]
    return since
