"""How far any rule gets with what the drift verdict looks at: classifiers that are told the truth about the weeks.

    python benchmarks/drift_bound.py

The verdict of benchmarks/drift.py goes by the weekly regret of a champion and by the disagreement of its forecasts with
a fresh fit's. Here classifiers learn from means, spreads, slopes and wins of both over the past weeks, with the labels
that the score is made of: weeks of events, and quiet weeks. They are scored on the half of the series that is reported.
What they reach is no verdict that anyone could have made, but says which goals the weeks allow:

- a logistic regression that was fitted on these very weeks;
- gradient boosting, fitted on all other series of both halves, five parts in turn.

Each is asked for the lowest threshold at which no more than so many of 1,000 quiet weeks are flagged.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from drift_data import EIA, PJM, real
from drift_methods import VERDICT, challenger
from drift_score import AHEAD, NOTHING, QUIET, Array, Fleet, Mask, Score, events, fleets, mean_of, score
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lakehouse_assets.ml.regret import relative

SPANS = (1, 2, 3, 4, 6, 8, 12, 26)
"""Weeks."""
FALSE = (2.0, 5.0, 10.0, 15.0)
"""Flags in 1,000 quiet weeks."""
PARTS = 5


def main() -> None:
    """Learn, score, print."""
    halved = list(zip(*(list(fleets(real(source))) for source in (EIA, PJM)), strict=True))
    both, reported = [fleet for half in halved for fleet in half], list(halved[1])
    print(f"{'':34} {'false flags':>12} {'found':>8} {'median':>8} {'90 %':>6}")
    print(f"{'':34} {'of 1,000':>12} {'':8} {'weeks':>8} {'weeks':>6}")
    line(VERDICT, total(reported, [challenger(fleet) for fleet in reported]))
    in_sample = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    x, y, _ = labelled(reported)
    in_sample.fit(x, y)
    sweep("logistic, fitted on these weeks", reported, [said(in_sample, fleet) for fleet in reported])
    sweep("boosting, fitted on other series", reported, unseen(both)[-len(reported) :])


def seen(fleet: Fleet) -> Array:
    """(S, W, p) what a rule may look at by the end of each week; zero where nothing is known."""
    regret, stake = fleet.regret, relative(fleet.apart, fleet.fresh)
    columns = []
    for span in SPANS:
        columns += [trailing(values, span) for values in (regret, stake, regret > 0, regret / np.maximum(stake, 0.01))]
        spread = trailing(regret**2, span) - trailing(regret, span) ** 2
        columns.append(np.sqrt(np.maximum(spread, 0.0)))
    columns += [trailing(v, 2) - trailing(v, 8) for v in (regret, stake)]
    return np.nan_to_num(np.stack(columns, axis=2))


def trailing(values: Array | Mask, span: int) -> Array:
    """(S, W) means of the latest weeks, this one among them, as far as they are known."""
    known = np.isfinite(values)
    sums = [np.cumsum(np.pad(v, ((0, 0), (span, 0))), axis=1) for v in (np.where(known, values, 0.0), known * 1.0)]
    total, count = (s[:, span:] - s[:, :-span] for s in sums)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def labels(fleet: Fleet) -> Array:
    """(S, W) 1 in the weeks of an event, 0 in quiet ones, NaN in all others."""
    regret = fleet.regret
    out = np.where(mean_of(regret, 1 - AHEAD, AHEAD, 2 * AHEAD - 2) < QUIET, 0.0, np.nan)
    for s, w in events(regret):
        out[s, w : w + AHEAD] = 1.0
    return np.where(np.isfinite(regret), out, np.nan)


def labelled(some: Sequence[Fleet]) -> tuple[Array, Array, Array]:
    """Rows (N, p), labels (N,) and the series (N,) of the weeks that have a label."""
    x, y, group = [], [], []
    for number, fleet in enumerate(some):
        label = labels(fleet)
        there = np.isfinite(label)
        x.append(seen(fleet)[there])
        y.append(label[there])
        group.append(1000 * number + np.nonzero(there)[0])
    return np.concatenate(x), np.concatenate(y), np.concatenate(group)


def said(model: Any, fleet: Fleet) -> Array:
    """(S, W) probabilities."""
    x = seen(fleet)
    return model.predict_proba(x.reshape(-1, x.shape[2]))[:, 1].reshape(x.shape[:2])


def unseen(some: Sequence[Fleet]) -> list[Array]:
    """(S, W) probabilities by fits that know nothing of the series."""
    x, y, group = labelled(some)
    names = np.concatenate([1000 * n + np.arange(len(fleet.loss)) for n, fleet in enumerate(some)])
    out = [np.full(fleet.loss.shape, np.nan) for fleet in some]
    for _, held in GroupKFold(PARTS, shuffle=True, random_state=0).split(names, groups=names):
        apart = np.isin(group, names[held])
        model = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.05, max_leaf_nodes=8, random_state=0)
        model.fit(x[~apart], y[~apart])
        for number, fleet in enumerate(some):
            mine = np.isin(1000 * number + np.arange(len(fleet.loss)), names[held])
            if mine.any():
                out[number][mine] = said(model, fleet)[mine]
    return out


def total(some: Sequence[Fleet], flags: Sequence[Mask]) -> Score:
    """Of both sources together."""
    return sum((score(fleet.regret, flag) for fleet, flag in zip(some, flags, strict=True)), NOTHING)


def sweep(name: str, some: Sequence[Fleet], found: Sequence[Array]) -> None:
    """A line for each number of false flags."""
    thresholds = np.quantile(np.concatenate([f.ravel() for f in found]), np.linspace(0.5, 1.0, 1200))
    scores = [total(some, [f > threshold for f in found]) for threshold in thresholds]
    for most in FALSE:
        line(name, next((one for one in scores if one.false_per_1000 <= most), scores[-1]))


def line(name: str, result: Score) -> None:
    """Print it."""
    told = f"{result.found:8.1%} {result.delay(0.5):8.0f} {result.delay(0.9):6.0f}"
    print(f"{name:34} {result.false_per_1000:12.1f} {told}")


if __name__ == "__main__":
    main()
