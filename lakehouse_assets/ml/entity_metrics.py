"""Measures of models of entities, and how sure they are: by resampling entities, not rows.

The same customer in several snapshots is one piece of evidence, not several; so a resample draws entities, with all
their rows. Each entity counts as often as a Poisson variable of mean one says, independently of the others, which for
more than a few dozen entities is the bootstrap (Hanley and MacGibbon 2006: Creating non-parametric bootstrap samples
using Poisson frequencies). What ranks is compared within folds only: scores of two fits are not on one scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.float32]
CHUNK_NUMBERS = 4_000_000
"""Numbers that are held in memory at a time."""
LEAST_OF_EACH = 10
"""Events, and as many others, without which a group says nothing about a ranking."""


def resamples(entities: int, number: int, seed: int) -> Counts:
    """(number, entities) how often each entity counts in each resample."""
    return np.random.default_rng(seed).poisson(1.0, (number, entities)).astype(np.float32)


@dataclass(frozen=True)
class Scored:
    """Out-of-sample rows: fold (N,), entity (N,) as a number from 0, y (N,), and predictions (N,) by name."""

    fold: npt.NDArray[np.int64]
    entity: npt.NDArray[np.int64]
    y: Array
    predicted: Mapping[str, Array]

    def take(self, rows: npt.NDArray[np.bool_]) -> "Scored":
        """Some of the rows; entities keep their numbers."""
        chosen = {name: values[rows] for name, values in self.predicted.items()}
        return Scored(self.fold[rows], self.entity[rows], self.y[rows], chosen)


def concordance(scored: Scored, name: str, counts: Counts) -> tuple[Array, Array]:
    """(B,) concordant pairs of an event and another, ties by half, and (B,) all such pairs; of one fold each.

    counts: (B, entities), see :func:`resamples`; of ones for the sample itself. Their ratio is the ROC AUC.
    """
    right, pairs = np.zeros((2, len(counts)))
    for fold in np.unique(scored.fold):
        rows = np.flatnonzero(scored.fold == fold)
        rows = rows[np.argsort(scored.predicted[name][rows], kind="stable")]
        score, event = scored.predicted[name][rows], scored.y[rows] > 0
        first = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))
        step = max(1, CHUNK_NUMBERS // len(rows))
        for start in range(0, len(counts), step):
            part = slice(start, start + step)
            weight = counts[part][:, scored.entity[rows]]
            events = np.add.reduceat(np.where(event, weight, 0.0), first, axis=1)
            others = np.add.reduceat(np.where(event, 0.0, weight), first, axis=1)
            below = np.cumsum(others, axis=1) - others / 2
            right[part] += (events * below).sum(axis=1)
            pairs[part] += events.sum(axis=1) * others.sum(axis=1)
    return right, pairs


def ranking_loss(scored: Scored, name: str, counts: Counts) -> Array:
    """(B,) 1 - ROC AUC: the share of the pairs of an event and another that are ranked wrong; NaN without pairs."""
    right, pairs = concordance(scored, name, counts)
    return np.asarray(1 - right / np.where(pairs > 0, pairs, np.nan))


def absolute_loss(scored: Scored, name: str, counts: Counts) -> Array:
    """(B,) mean absolute error."""
    size = counts.shape[1]
    total = np.bincount(scored.entity, np.abs(scored.predicted[name] - scored.y), size)
    number = np.bincount(scored.entity, minlength=size).astype(float)
    rows = counts @ number
    return np.asarray(counts @ total / np.where(rows > 0, rows, np.nan), float)


def interval(resampled: Array, level: float = 0.95) -> tuple[float, float]:
    """The middle part of what resamples say."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# --- of probabilities -------------------------------------------------------------------------------------------------

_EDGE = 1e-6


def log_losses(y: Array, p: Array) -> Array:
    """(N,) logarithmic losses; a probability is taken to be a millionth from certainty at least."""
    p = np.clip(p, _EDGE, 1 - _EDGE)
    return np.asarray(-np.where(y > 0, np.log(p), np.log1p(-p)))


def average_precision(y: Array, p: Array) -> float:
    """Mean of the precision at each event, the surest first; of equal probabilities the precision of all of them."""
    order = np.argsort(-p, kind="stable")
    y, p = y[order], p[order]
    last = np.flatnonzero(np.concatenate([p[1:] != p[:-1], [True]]))
    found = np.cumsum(y)[last]
    return float((np.diff(found, prepend=0.0) * found / (last + 1)).sum() / y.sum()) if y.sum() else float("nan")


def lift(y: Array, p: Array, share: float = 0.1) -> float:
    """How many times the rate of events among the share of the rows with the highest probability is that of all."""
    number = max(1, round(share * len(y)))
    # Of rows that are tied at the edge, their mean rate counts.
    edge = np.sort(p)[-number]
    above, tied = p > edge, p == edge
    inside = y[above].sum() + y[tied].mean() * (number - above.sum())
    return float(inside / number / y.mean()) if y.sum() else float("nan")


@dataclass(frozen=True)
class Action:
    """What it is worth to act on an entity: saved_value, of an event that is averted; cost, of acting on anyone;
    success: the share of the events that acting averts.
    """

    saved_value: float
    cost: float
    success: float

    @property
    def break_even(self) -> float:
        """The probability from which on acting pays."""
        return min(1.0, self.cost / (self.saved_value * self.success))

    def gains(self, y: Array) -> Array:
        """(N,) what acting on each brings."""
        return y * self.saved_value * self.success - self.cost

    def best_threshold(self, y: Array, p: Array) -> float:
        """The threshold, of hundredths, that gains most on some rows; without rows, the break-even."""
        if not len(y):
            return self.break_even
        values = self.curve(y, p)
        best = np.flatnonzero(values >= values.max() - 1e-9)
        # Of those that gain as much, the nearest to where acting should pay.
        return float(THRESHOLDS[best[np.argmin(np.abs(THRESHOLDS[best] - self.break_even))]])

    def curve(self, y: Array, p: Array) -> Array:
        """(T,) mean gain a row of acting on all with a probability of a threshold and more, for ``THRESHOLDS``."""
        place = np.searchsorted(THRESHOLDS, p, side="right") - 1  # the last threshold at which it is acted on
        gain = np.bincount(np.maximum(place, 0), np.where(place >= 0, self.gains(y), 0.0), len(THRESHOLDS))
        return np.asarray(np.cumsum(gain[::-1])[::-1] / max(1, len(y)))


THRESHOLDS: Array = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Calibration:
    """Probabilities set right by what came out of sample.

    ``sigmoid``: a logistic regression on the log odds (Platt 1999), slope and offset. ``isotonic``: a rising step
    function (Zadrozny and Elkan 2002), which takes more rows: x, y are its corners.
    """

    slope: float = 1.0
    offset: float = 0.0
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    @classmethod
    def learn(cls, method: str, p: Array, y: Array) -> "Calibration":
        """From out-of-sample probabilities and what came; with hardly any events they are left as they are."""
        if min(y.sum(), len(y) - y.sum()) < LEAST_OF_EACH or np.ptp(p) == 0:
            return cls()
        if method == "isotonic":
            from sklearn.isotonic import IsotonicRegression

            fit = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(p, y)
            return cls(x=tuple(fit.X_thresholds_.tolist()), y=tuple(fit.y_thresholds_.tolist()))
        from sklearn.linear_model import LogisticRegression

        fit = LogisticRegression(C=1e6).fit(_odds(p)[:, None], y > 0)
        return cls(float(fit.coef_[0, 0]), float(fit.intercept_[0])) if fit.coef_[0, 0] > 0 else cls()

    def apply(self, p: Array) -> Array:
        """(N,) probabilities."""
        if self.x:
            return np.asarray(np.interp(p, self.x, self.y))
        if (self.slope, self.offset) == (1.0, 0.0):
            return p
        return np.asarray(1 / (1 + np.exp(-(self.slope * _odds(p) + self.offset))))


def _odds(p: Array) -> Array:
    # A leaf of a tree without an event has not shown that there is none: within a thousandth of certainty.
    p = np.clip(p, 1e-3, 1 - 1e-3)
    return np.asarray(np.log(p / (1 - p)))
