"""Batched linear algebra: thousands of weighted, penalised regressions at many cutoffs for the price of one pass.

With weights that decay exponentially in time, the weighted Gram matrix at a cutoff is the one at the cutoff before,
decayed, plus the rows that became known in between: G(t2) = 0.5^((t2 - t1) / half_life) G(t1) + A' W A.

Regressions of the same days (the hours of a day, for one series) share most of their features. What is shared is
multiplied with all that they have of their own in one product, and eliminated once for all that know the same days.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


YEAR = 365.25
"""Days."""


@dataclass(frozen=True)
class Grams:
    """Weighted sums of products over the rows of H regressions on ``[1, shared]``, a columns, and c - 1 of their own.

    alike: the regressions of each of U sets that know the same rows. shared: (U, a, a) of ``[1, shared]``. cross:
    (a, H, c) of these with ``[own, y]``. own: (H, c, c) of ``[own, y]``.
    Before :func:`in_season` each has one more axis in front, of the factors that rows are weighted with.
    """

    alike: list[slice | npt.NDArray[np.intp]]
    shared: Array
    cross: Array
    own: Array

    def whole(self) -> Array:
        """The Gram matrices (H, p + 2, p + 2) of ``[1, shared, own, y]``."""
        a, h, c = self.cross.shape
        out = np.empty((h, a + c, a + c))
        for shared, mine in zip(self.shared, self.alike, strict=True):
            out[mine, :a, :a] = shared
        out[:, :a, a:] = self.cross.transpose(1, 0, 2)
        out[:, a:, :a] = self.cross.transpose(1, 2, 0)
        out[:, a:, a:] = self.own
        return out

    def variance(self) -> Array:
        """(H,) of each regression's y; 0 without rows."""
        n = np.empty(len(self.own))
        for shared, mine in zip(self.shared, self.alike, strict=True):
            n[mine] = shared[0, 0]
        n = np.maximum(n, 1e-300)
        return np.asarray(self.own[:, -1, -1] / n - (self.cross[0, :, -1] / n) ** 2)


def decayed_grams(
    shared: Array,
    own: Array,
    day: Array,
    block: npt.NDArray[np.integer],
    cutoffs: Array,
    half_life: float,
    *,
    seasonal: bool = False,
    weight: Array | None = None,
) -> Iterator[Grams]:
    """Yield, cutoff by cutoff, the Gram matrices of H regressions over the rows known by then.

    shared: (a, D) finite rows ``[1, shared]``. own: (H, c, D) finite rows ``[own, y]``. day: (D,) when, in days.
    block: (H, D) index of the first cutoff at which the row is known (K or more: never, as of a row without a target).
    cutoffs: (K,) days, ascending. half_life: days in which a row's weight halves: 0.5 ** ((t - day) / half_life) at
    cutoff t, times ``weight`` (D,) if given.
    Yields K times the same arrays, which change at the next step. They have one factor; or, if seasonal, 3: with the
    rows also weighted by the cosine and the sine of their day of the year, from which :func:`in_season` makes the
    matrices for any season.
    """
    (a, d), (h, c, _) = shared.shape, own.shape
    turn = 2 * np.pi * day / YEAR
    weight = np.ones(d) if weight is None else weight
    factors = np.stack([weight, weight * np.cos(turn), weight * np.sin(turn)] if seasonal else [weight])
    f = len(factors)
    alike = _alike(block)
    grams = Grams(alike, np.zeros((f, len(alike), a, a)), np.zeros((f, a, h, c)), np.zeros((f, h, c, c)))
    previous = cutoffs[0]
    for k, cutoff in enumerate(cutoffs):
        if cutoff != previous:
            for part in (grams.shared, grams.cross, grams.own):
                part *= 0.5 ** ((cutoff - previous) / half_life)
        previous = cutoff
        known = block == k
        touched = np.flatnonzero(known.any(axis=0))
        if len(touched):
            span = slice(int(touched[0]), int(touched[-1]) + 1)
            weights = factors[:, span] * 0.5 ** ((cutoff - day[span]) / half_life)
            _add(grams, shared[:, span], own[:, :, span], known[:, span], weights)
        yield grams


def _alike(block: npt.NDArray[np.integer]) -> list[slice | npt.NDArray[np.intp]]:
    """Which rows of a table are the same, for each that differs from those before it; a slice, if that is all."""
    found: dict[bytes, list[int]] = {}
    for i, row in enumerate(block):
        found.setdefault(row.tobytes(), []).append(i)
    return [slice(None)] if len(found) == 1 else [np.array(mine) for mine in found.values()]


def _add(grams: Grams, shared: Array, own: Array, known: npt.NDArray[np.bool_], weights: Array) -> None:
    """Add the rows (a, n) and (H, c, n) that are known, (H, n), weighted by each factor, (F, n)."""
    (f, n), a, (h, c, _) = weights.shape, len(shared), own.shape
    if not known.all():
        own = own * known[:, None]
    weighted = weights[:, None] * shared
    grams.cross[:] += (weighted.reshape(-1, n) @ own.reshape(-1, n).T).reshape(f, a, h, c)
    for u, mine in enumerate(grams.alike):
        grams.shared[:, u] += ((weighted * known[mine][0]).reshape(-1, n) @ shared.T).reshape(f, a, a)
    # So many regressions at a time that their rows stay in the processor's cache.
    some = max(1, _CACHED // (f * c * n))
    for start in range(0, h, some):
        part = own[start : start + some]
        products = (weights[:, None] * part[:, None]).reshape(len(part), -1, n) @ part.transpose(0, 2, 1)
        grams.own[:, start : start + some] += products.reshape(len(part), f, c, c).swapaxes(0, 1)


_CACHED = 40_000
"""Numbers that stay in a processor's cache while they are worked on."""


def in_season(grams: Grams, day: float, strength: float) -> Grams:
    """The Gram matrices for one season, from those that :func:`decayed_grams` yields.

    A row counts by 1 + strength * cos(angle between its season and that of ``day``), because
    cos(a - b) = cos a cos b + sin a sin b. strength: 0 (none) to 1.
    """
    parts = grams.shared, grams.cross, grams.own
    if len(grams.own) == 1:
        return Grams(grams.alike, *(part[0] for part in parts))
    turn = 2 * np.pi * day / YEAR
    shares = np.array([1.0, strength * np.cos(turn), strength * np.sin(turn)])
    return Grams(grams.alike, *((shares @ part.reshape(3, -1)).reshape(part.shape[1:]) for part in parts))


def solve_ridge(grams: Grams, penalty: float | Array) -> Array:
    """The ridge coefficients of each regression, (H, p + 1): the intercept, which is free, and the shared ones first.

    grams: see :func:`in_season`. penalty: what multiplies the squared coefficients in
    sum_i w_i (y_i - c - x_i b)^2 + sum_j penalty_j b_j^2, one number or (p,), or (H, p) if each regression has its own.
    NaN for a regression without rows.
    """
    h, c, _ = grams.own.shape
    p = len(grams.cross) + c - 2
    penalties = np.broadcast_to(penalty, (h, p))
    out = np.full((h, p + 1), np.nan)
    alone: list[int] = []
    for shared, mine in zip(grams.shared, grams.alike, strict=True):
        hours = np.arange(h)[mine]
        if not shared[0, 0] > 0:
            continue
        if len(hours) < _TOGETHER_PAYS or np.ndim(penalty) == 2:
            alone += hours.tolist()
        else:
            out[mine] = _eliminate(shared, grams.cross[:, mine], grams.own[mine], penalties[hours[0]])
    if alone:
        gram = grams.whole()[alone]
        gram[:, np.arange(1, p + 1), np.arange(1, p + 1)] += penalties[alone]
        out[alone] = np.linalg.solve(gram[:, :-1, :-1], gram[:, :-1, -1:])[:, :, 0]
    return out


_TOGETHER_PAYS = 4
"""Regressions with the same rows and penalty from which on to eliminate what they share is faster than to solve each.

Gaps make differences: with one hour in fifty missing at random every hour of the day has rows of its own.
"""


def _eliminate(shared: Array, cross: Array, own: Array, penalty: Array) -> Array:
    """The ridge coefficients of M regressions on the same rows: (a, a), (a, M, c), (M, c, c), (p,) to (M, p + 1).

    With L L' = A and W = L^-1 C the Schur complement own - W' W holds the c - 1 equations that each is left with.
    """
    a, _, c = cross.shape
    penalised = shared + np.diag([0.0, *penalty[: a - 1]])
    if c == 1:  # nothing but y
        return np.asarray(np.linalg.solve(penalised, cross[:, :, 0]).T, np.float64)
    # For so many right sides a product with the inverse takes a third of the time of a substitution; with that of the
    # factor it keeps two digits that it loses with that of the matrix.
    root = np.linalg.inv(np.linalg.cholesky(penalised))
    reduced = (root @ cross.reshape(a, -1)).reshape(cross.shape).transpose(1, 0, 2)
    left = own - reduced.transpose(0, 2, 1) @ reduced
    left[:, np.arange(c - 1), np.arange(c - 1)] += penalty[a - 1 :]
    slope = np.linalg.solve(left[:, :-1, :-1], left[:, :-1, -1:])
    rest = reduced[:, :, -1:] - reduced[:, :, :-1] @ slope
    return np.concatenate([root.T @ rest, slope], axis=1)[:, :, 0]


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


def solve_least_squares(grams: Grams, penalty: float) -> Array:
    """Ordinary least squares for each regression with at least three rows a coefficient, ridge for the others.

    grams: as for :func:`solve_ridge`; the first entry counts the rows by their weight. penalty: of the ridge.
    Columns that follow from others (seven weekdays and an intercept) share their coefficient: what stays of the
    penalty, a billionth of the mean square of a column, decides between solutions that fit equally well.
    """
    n, _, _, left, _ = centred(grams.whole())
    p = left.shape[1]
    least = 1e-9 * np.trace(left, axis1=1, axis2=2) / p + 1e-12
    return solve_ridge(grams, np.where(n >= 3 * p, least, penalty)[:, None])


def solve_elastic_net(
    gram: Array, penalty: float, l1_ratio: float, *, tolerance: float = 1e-3, sweeps: int = 100
) -> Array:
    """The elastic net of each regression from its Gram matrix of ``[1, x, y]``, by coordinate descent on all at once.

    Minimises 1/(2n) sum_i w_i (y_i - c - x_i b)^2 + penalty * (l1_ratio |b|_1 + (1 - l1_ratio) / 2 |b|_2^2) with
    n = sum_i w_i, as scikit-learn's ElasticNet does (Friedman, Hastie, Tibshirani 2010: covariance updates).
    gram: (B, p + 2, p + 2), see :meth:`Grams.whole`. A regression is done when no step of a sweep moved its fit by more
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
    out = np.concatenate([(mean_y - (mean_x * slope).sum(axis=1))[:, None], slope], axis=1)
    out[n <= 0] = np.nan
    return out


_TOGETHER = 256
"""Regressions that :func:`solve_elastic_net` takes at once: their matrices fit the processor's cache."""
