"""Batched linear algebra: thousands of weighted, penalised regressions at many cutoffs for the price of one pass.

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
    Yields K times the array (B, F, p + 2, p + 2), the same one, which changes at the next step. F is 1; or, if
    seasonal, 3: with the rows also weighted by the cosine and the sine of their day of the year, from which
    :func:`in_season` makes the matrix for any season.
    """
    b, q, d = rows.shape
    turn = 2 * np.pi * day / YEAR
    weight = np.ones(d) if weight is None else weight
    factors = np.stack([weight, weight * np.cos(turn), weight * np.sin(turn)] if seasonal else [weight])
    grams = np.zeros((b, len(factors) * q, q))
    previous = None
    for k, cutoff in enumerate(cutoffs):
        fading = 1.0 if previous is None else 0.5 ** ((cutoff - previous) / half_life)
        previous = cutoff
        mine = block == k
        touched = np.flatnonzero(mine.any(axis=0))
        if not len(touched):
            grams *= fading
        else:
            span = slice(int(touched[0]), int(touched[-1]) + 1)
            weights = factors[:, span] * 0.5 ** ((cutoff - day[span]) / half_life)
            weighted = np.empty((len(factors), q, span.stop - span.start))
            # One regression at a time: its rows stay in the processor's cache from one factor to the next.
            for i, a in enumerate(rows[:, :, span]):
                np.multiply(a, (weights * mine[i, span])[:, None, :], out=weighted)
                gram = grams[i]
                gram *= fading
                gram += weighted.reshape(-1, span.stop - span.start) @ a.T
        yield grams.reshape(b, len(factors), q, q)


def in_season(grams: Array, day: float, strength: float) -> Array:
    """The Gram matrices (B, p + 2, p + 2) for one season, from those that :func:`decayed_grams` yields.

    A row counts by 1 + strength * cos(angle between its season and that of ``day``), because
    cos(a - b) = cos a cos b + sin a sin b. strength: 0 (none) to 1.
    """
    b, factors, q, _ = grams.shape
    if factors == 1:
        return grams[:, 0]
    turn = 2 * np.pi * day / YEAR
    shares = np.array([[1.0, strength * np.cos(turn), strength * np.sin(turn)]])
    return np.matmul(shares, grams.reshape(b, factors, -1)).reshape(b, q, q)


def centred(gram: Array) -> tuple[Array, Array, Array, Array, Array]:
    """The moments of each regression about its means, from its Gram matrix of ``[1, x, y]`` (B, p + 2, p + 2).

    Returns n (B,), the sum of the weights; the means of x (B, p) and of y (B,); the sums of squares and products of x,
    (B, p, p), and of x with y, (B, p).
    """
    n = gram[:, 0, 0]
    safe = np.where(n > 0, n, 1.0)[:, None]
    mean_x, mean_y = gram[:, 0, 1:-1] / safe, gram[:, 0, -1] / safe[:, 0]
    left = (-n[:, None] * mean_x)[:, :, None] * mean_x[:, None, :]
    left += gram[:, 1:-1, 1:-1]
    right = gram[:, 1:-1, -1] - n[:, None] * mean_x * mean_y[:, None]
    return n, mean_x, mean_y, left, right


def _with_intercept(n: Array, mean_x: Array, mean_y: Array, slope: Array) -> Array:
    """(B, p + 1) coefficients, the intercept first; NaN for a regression without rows."""
    out = np.concatenate([(mean_y - (mean_x * slope).sum(axis=1))[:, None], slope], axis=1)
    out[n <= 0] = np.nan
    return out


def solve_ridge(gram: Array, penalty: float | Array, prior: Array | None = None) -> Array:
    """The ridge coefficients of each regression from its Gram matrix of ``[1, x, y]``; the intercept is free.

    gram: (B, p + 2, p + 2), see :func:`in_season`. penalty: what multiplies the squared coefficients in
    sum_i w_i (y_i - c - x_i b)^2 + sum_j penalty_j (b_j - prior_j)^2, one number or (p,) or (B, p).
    Returns (B, p + 1), the intercept first; NaN for a regression without rows.
    """
    n, mean_x, mean_y, left, right = centred(gram)
    p = mean_x.shape[1]
    ridge = np.broadcast_to(np.asarray(penalty, float), (len(gram), p))
    if prior is not None:
        right = right + ridge * prior
    left[:, np.arange(p), np.arange(p)] += ridge
    slope = np.linalg.solve(left, right[:, :, None])[:, :, 0].astype(np.float64, copy=False)
    return _with_intercept(n, mean_x, mean_y, slope)


def solve_ridge_together(gram: Array, p: int, penalty: float | Array) -> Array:
    """The ridge coefficients of many targets on the same p features, from Gram matrices of ``[1, x, y...]``.

    gram: (B, 1 + p + m, 1 + p + m). penalty: one number or (B, p). Returns (B, p + 1, m), the intercept first; NaN for
    a regression without rows.
    """
    n = gram[:, 0, 0]
    safe = np.where(n > 0, n, 1.0)[:, None]
    mean_x, mean_y = gram[:, 0, 1 : p + 1] / safe, gram[:, 0, p + 1 :] / safe
    left = gram[:, 1 : p + 1, 1 : p + 1] - n[:, None, None] * mean_x[:, :, None] * mean_x[:, None, :]
    right = gram[:, 1 : p + 1, p + 1 :] - n[:, None, None] * mean_x[:, :, None] * mean_y[:, None, :]
    left[:, np.arange(p), np.arange(p)] += penalty
    slope = np.linalg.solve(left, right)
    intercept = mean_y - (mean_x[:, :, None] * slope).sum(axis=1)
    out = np.concatenate([intercept[:, None], slope], axis=1)
    out[n <= 0] = np.nan
    return out


def solve_least_squares(gram: Array, penalty: float) -> Array:
    """Ordinary least squares for each regression with at least three rows a coefficient, ridge for the others.

    gram: (B, p + 2, p + 2); its first entry counts the rows by their weight. penalty: of the ridge.
    Columns that follow from others (seven weekdays and an intercept) share their coefficient: what stays of the
    penalty, a billionth of the mean square of a column, decides between solutions that fit equally well.
    """
    p = gram.shape[1] - 2
    n, _, _, left, _ = centred(gram)
    least = 1e-9 * np.trace(left, axis1=1, axis2=2) / p + 1e-12
    return solve_ridge(gram, np.where(n >= 3 * p, least, penalty)[:, None])


def solve_elastic_net(
    gram: Array, penalty: float, l1_ratio: float, *, tolerance: float = 1e-3, sweeps: int = 100
) -> Array:
    """The elastic net of each regression from its Gram matrix of ``[1, x, y]``, by coordinate descent on all at once.

    Minimises 1/(2n) sum_i w_i (y_i - c - x_i b)^2 + penalty * (l1_ratio |b|_1 + (1 - l1_ratio) / 2 |b|_2^2) with
    n = sum_i w_i, as scikit-learn's ElasticNet does (Friedman, Hastie, Tibshirani 2010: covariance updates).
    gram: (B, p + 2, p + 2), see :func:`in_season`. A regression is done when no step of a sweep moved its fit by more
    than ``tolerance`` standard deviations of y, and left as it is after ``sweeps``.
    Returns (B, p + 1), the intercept first; NaN for a regression without rows.
    """
    n, mean_x, mean_y, left, right = centred(gram)
    spread = np.sqrt(np.maximum(gram[:, -1, -1] - n * mean_y**2, 0.0) / np.where(n > 0, n, 1.0))
    slope = np.zeros_like(mean_x)
    for start in range(0, len(gram), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        scale = 1.0 / np.where(n[part] > 0, n[part], 1.0)
        # Regressions last: a step is the same short vector operation for all of them, and the block stays in cache.
        products = np.ascontiguousarray((left[part] * scale[:, None, None]).transpose(1, 2, 0))
        gradient = np.ascontiguousarray((right[part] * scale[:, None]).T)
        coefficients = np.zeros_like(gradient)
        enough = tolerance * spread[part]
        running = np.arange(products.shape[2])
        going = np.ones(len(running), bool)
        for sweep in range(sweeps):
            moved = np.zeros(len(running))
            for j in range(len(products)):
                own = products[j, j]
                target = gradient[j] + own * coefficients[j]
                shrunk = np.sign(target) * np.maximum(np.abs(target) - penalty * l1_ratio, 0.0)
                bottom = own + penalty * (1.0 - l1_ratio)
                step = np.where(bottom > 1e-15, shrunk / np.where(bottom > 1e-15, bottom, 1.0), 0.0) - coefficients[j]
                step *= going  # who is done stays as it is, whoever else is in the block
                if step.any():
                    gradient -= products[j] * step
                    coefficients[j] += step
                    np.maximum(moved, np.abs(step) * np.sqrt(np.maximum(own, 0.0)), out=moved)
            going &= moved > enough
            if not going.any():
                break
            if sweep % 8 == 7 and going.mean() < 0.7:
                slope[start + running] = coefficients.T
                running, enough = running[going], enough[going]
                products = np.ascontiguousarray(products[:, :, going])
                gradient, coefficients = gradient[:, going].copy(), coefficients[:, going].copy()
                going = np.ones(len(running), bool)
        slope[start + running] = coefficients.T
    return _with_intercept(n, mean_x, mean_y, slope)


_TOGETHER = 256
"""Regressions that :func:`solve_elastic_net` takes at once: their matrices fit the processor's cache."""
