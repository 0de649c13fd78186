"""Batched linear algebra: thousands of weighted ridge regressions at many cutoffs for the price of one pass.

With weights that decay exponentially in time, the weighted Gram matrix at a cutoff is the one at the cutoff before,
decayed, plus the rows that became known in between: G(t2) = 0.5^((t2 - t1) / half_life) G(t1) + A' W A.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


YEAR = 365.25
"""Days."""


def decayed_grams(
    rows: Array,
    day: Array,
    block: npt.NDArray[np.integer],
    cutoffs: Array,
    half_life: float,
    *,
    seasonal: bool = False,
    weight: Array | None = None,
) -> Iterator[Array]:
    """Yield, cutoff by cutoff, the Gram matrices of ``[1, x, y]`` over the rows known by then, one for each regression.

    rows: (B, p + 2, D) finite rows ``[1, x, y]`` of B regressions. day: (D,) when, in days.
    block: (B, D) index of the first cutoff at which the row is known (K or more: never, as of a row without a target).
    cutoffs: (K,) days, ascending. half_life: days in which a row's weight halves: 0.5 ** ((t - day) / half_life) at
    cutoff t, times ``weight`` (D,) if given.
    Yields K arrays (F, B, p + 2, p + 2). F is 1; or, if seasonal, 3: with the rows also weighted by the cosine and the
    sine of their day of the year, from which :func:`in_season` makes the matrix for any season.
    """
    b, q, d = rows.shape
    turn = 2 * np.pi * day / YEAR
    weight = np.ones(d) if weight is None else weight
    factors = [weight, weight * np.cos(turn), weight * np.sin(turn)] if seasonal else [weight]
    grams = np.zeros((len(factors), b, q, q))
    previous = None
    for k, cutoff in enumerate(cutoffs):
        if previous is not None:
            grams *= 0.5 ** ((cutoff - previous) / half_life)
        previous = cutoff
        mine = block == k
        touched = np.flatnonzero(mine.any(axis=0))
        if len(touched):
            span = slice(int(touched[0]), int(touched[-1]) + 1)
            decay = 0.5 ** ((cutoff - day[span]) / half_life)
            weights = [np.where(mine[:, span], decay * factor[span], 0.0) for factor in factors]
            # One regression at a time: its rows stay in the processor's cache from one factor to the next.
            for i, a in enumerate(rows[:, :, span]):
                for f, w in enumerate(weights):
                    grams[f, i] += (a * w[i]) @ a.T
        yield grams.copy()


def in_season(grams: Array, day: float, strength: float) -> Array:
    """The Gram matrices (B, p + 2, p + 2) for one season, from those that :func:`decayed_grams` yields.

    A row counts by 1 + strength * cos(angle between its season and that of ``day``), because
    cos(a - b) = cos a cos b + sin a sin b. strength: 0 (none) to 1.
    """
    if len(grams) == 1:
        return grams[0]
    turn = 2 * np.pi * day / YEAR
    return grams[0] + strength * (np.cos(turn) * grams[1] + np.sin(turn) * grams[2])


def solve_ridge(gram: Array, penalty: float | Array, prior: Array | None = None) -> Array:
    """The ridge coefficients of each regression from its Gram matrix of ``[1, x, y]``; the intercept is free.

    gram: (B, p + 2, p + 2), see :func:`in_season`. penalty: what multiplies the squared coefficients in
    sum_i w_i (y_i - c - x_i b)^2 + sum_j penalty_j (b_j - prior_j)^2, one number or (p,) or (B, p).
    Returns (B, p + 1), the intercept first; NaN for a regression without rows.
    """
    n = gram[:, 0, 0]
    safe = np.where(n > 0, n, 1.0)[:, None]
    mean_x, mean_y = gram[:, 0, 1:-1] / safe, gram[:, 0, -1] / safe[:, 0]
    p = mean_x.shape[1]
    left = gram[:, 1:-1, 1:-1] - n[:, None, None] * mean_x[:, :, None] * mean_x[:, None, :]
    right = gram[:, 1:-1, -1] - n[:, None] * mean_x * mean_y[:, None]
    ridge = np.broadcast_to(np.asarray(penalty, float), (len(gram), p))
    if prior is not None:
        right = right + ridge * prior
    left[:, np.arange(p), np.arange(p)] += ridge
    slope = np.linalg.solve(left, right[:, :, None])[:, :, 0]
    intercept = mean_y - (mean_x * slope).sum(axis=1)
    out = np.concatenate([intercept[:, None], slope], axis=1)
    out[n <= 0] = np.nan
    return out
