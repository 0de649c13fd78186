"""Forecasts for people who do not want to choose: the families that a search tries, and how it judges them."""

from collections.abc import Mapping, Sequence

import numpy as np

from lakehouse_assets.ml.definition import Candidate, Trial
from lakehouse_assets.ml.estimators import Blend, Boosting, Ridge, SeasonalNaive
from lakehouse_assets.ml.ladder import Reach, counted, descend, rows_known
from lakehouse_assets.ml.panel import Panel
from lakehouse_assets.ml.regressions import ElasticNet, Linear
from lakehouse_assets.ml.search import Range, Space, best_by_family
from lakehouse_assets.ml.tabular import (
    DecisionTree,
    LightGBM,
    NearestNeighbours,
    Perceptron,
    RandomForest,
    SupportVectors,
    XGBoost,
)

_MEMORY = {"strength": Range(0.005, 1.0), "half_life": Range(100.0, 3000.0), "season": Range(0.0, 0.95, even=True)}
_SCOPE = ("global", "cluster")

SPACES: Mapping[str, Space] = {
    "ridge": Space(Ridge(), _MEMORY),
    "ridge_on_published": Space(Ridge(on_published=True, clip=(-0.25, 0.25)), _MEMORY),
    "elastic_net": Space(
        ElasticNet(),
        {**_MEMORY, "strength": Range(3e-6, 3e-4), "l1_ratio": Range(0.1, 1.0, even=True)},
    ),
    "linear": Space(Linear(), {"half_life": _MEMORY["half_life"], "season": _MEMORY["season"]}),
    "boosting": Space(
        Boosting(),
        {"iterations": Range(50, 200), "leaves": Range(8, 63), "learning_rate": Range(0.03, 0.3)},
    ),
    "support_vectors": Space(
        SupportVectors(),
        {"scope": _SCOPE, "gamma": Range(0.03, 3.0), "cost": Range(0.1, 10.0), "tube": Range(0.001, 0.03)},
    ),
    "perceptron": Space(
        Perceptron(),
        {"scope": _SCOPE, "penalty": Range(1e-5, 1.0), "learning_rate": Range(5e-4, 1e-2), "epochs": Range(10, 40)},
    ),
    "random_forest": Space(
        RandomForest(),
        {"scope": _SCOPE, "leaf": Range(2, 30), "share": Range(0.1, 0.6)},
    ),
    "nearest_neighbours": Space(
        NearestNeighbours(),
        {"scope": _SCOPE, "neighbours": Range(5, 60)},
    ),
    "decision_tree": Space(
        DecisionTree(),
        {"scope": _SCOPE, "depth": Range(4, 16), "leaf": Range(5, 100)},
    ),
}
"""The families of a search that names none."""

EXTRAS: Mapping[str, Space] = {
    "xgboost": Space(
        XGBoost(),
        {
            "scope": _SCOPE,
            "iterations": Range(50, 300),
            "depth": Range(3, 10),
            "learning_rate": Range(0.03, 0.3),
        },
    ),
    "lightgbm": Space(
        LightGBM(),
        {
            "scope": _SCOPE,
            "iterations": Range(50, 300),
            "leaves": Range(8, 63),
            "learning_rate": Range(0.03, 0.3),
        },
    ),
}
"""Families that need an extra; a search tries them where they are named."""


def spaces_of(families: Sequence[str], panel: Panel) -> dict[str, Space]:
    """The spaces of some families (none: all of :data:`SPACES`) that can do something with the panel.

    Raises ValueError for a name that is none.
    """
    known = {**SPACES, **EXTRAS}
    unknown = sorted(set(families) - set(known))
    if unknown:
        raise ValueError(f"no such family: {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = {name: known[name] for name in families or SPACES}
    return {name: space for name, space in chosen.items() if space.start.usable(panel)}  # type: ignore[attr-defined]


def relative_loss(panel: Panel, start: int, stop: int, end: int, seed: int, candidate: Candidate) -> float:
    """A candidate's MAE relative to the seasonal naive, geometric mean over series, in the issue days [start, stop).

    Fitted on what was known at the first of them, scored on what was known at ``end`` (microseconds since the epoch).
    """
    origin = int(panel.issued[start])
    window = panel.take(days=slice(start, stop))
    y = np.where(window.known_at <= end, window.target, np.nan)
    reach, rows = Reach.of(window), rows_known(panel, [origin])[0]
    means = []
    for recipe in (candidate, SeasonalNaive()):
        fit = recipe.fit(panel, [origin], seed, False)[0]  # type: ignore[attr-defined]
        said = counted(recipe, fit.predict(window), reach, rows)
        error = np.abs(descend(said, [], window, reach)[0] - y)
        hours = np.isfinite(error).sum(axis=(1, 2))
        means.append(np.nansum(error, axis=(1, 2)) / np.where(hours > 0, hours, np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(means[0]) - np.log(means[1])
    return float(np.exp(ratio[np.isfinite(ratio)].mean())) if np.isfinite(ratio).any() else np.nan


def candidates_from(trials: Sequence[Trial], keep: int, ladder: Sequence[str]) -> dict[str, Candidate]:
    """The best of each of the best families, what the ladder stands on, and the blend of them all.

    Raises ValueError, with the reasons, when not one trial was completed.
    """
    best = best_by_family(trials)
    if not best:
        reasons = sorted({f"{t.family}: {t.reason}" for t in trials if t.reason})
        raise ValueError("the search found no candidate: " + ("; ".join(reasons) or "its budget was spent before"))
    kept = list(best)[:keep]
    found = {name: best[name].candidate for name in kept}
    for rung in ladder:
        if rung not in found and rung in SPACES:
            found[rung] = best[rung].candidate if rung in best else SPACES[rung].start
    if len(found) > 1:
        found["blend"] = Blend(tuple(found))
    return found
