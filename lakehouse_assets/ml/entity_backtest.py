"""The backtest of models of entities: every recipe fitted at every fold, and what it says out of sample."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.definition import ALL, COSTS, Progress
from lakehouse_assets.ml.entities import Enough, Fold, Rows, Snapshots
from lakehouse_assets.ml.recipes import Learned, Recipe, Task, unconverged
from lakehouse_assets.ml.shards import in_threads
from lakehouse_assets.ml.window import TrainingWindow

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fits:
    """What recipes have learned and said.

    predicted: by recipe, of each fold (N_fold,) raw predictions. latest: by recipe, its fit at the last fold. final: by
    recipe, its fit on everything known at the cutoff. costs: the ledger.
    """

    predicted: Mapping[str, Sequence[Array]]
    latest: Mapping[str, Learned]
    final: Mapping[str, Learned]
    costs: pl.DataFrame = field(repr=False)


def fit_all(
    task: Task,
    data: Snapshots,
    folds: Sequence[Fold],
    cutoff: int,
    recipes: Mapping[str, Recipe],
    seed: int,
    window: TrainingWindow | None,
    enough: Enough,
    say: Progress,
) -> Fits:
    """Fit every recipe at every fold and at the cutoff; in two threads, as scikit-learn releases the lock."""
    known = np.flatnonzero(data.known_at <= cutoff)
    learned = [learned_from(data, fold.learned, fold.origin, window, enough, seed) for fold in folds]
    learned.append(learned_from(data, known, cutoff, window, enough, seed))
    last = len(folds) - 1
    spent: list[tuple[str, float]] = []

    def one(key: str) -> tuple[Array | None, Learned | None]:
        name, _, number = key.rpartition("/")
        k, start = int(number), time.thread_time()
        fit = recipes[name].learn(task, data, learned[k], seed)
        said = fit.predict(data.frame[folds[k].scored]) if k <= last else None
        spent.append((name, time.thread_time() - start))
        return said, fit if k >= last else None

    predicted, latest, final = {}, {}, {}
    for name in recipes:
        say(f"{name}: {len(folds)} folds")
        with unconverged():
            found = in_threads(one, [f"{name}/{k}" for k in range(len(folds) + 1)])
        predicted[name] = [said for said, _ in found.values() if said is not None]
        latest[name], final[name] = (fit for _, fit in list(found.values())[last:] if fit is not None)
    rows = [
        {"candidate": name, "stage": "fit", "cpu_seconds": sum(s for n, s in spent if n == name), "bytes": 0}
        for name in recipes
    ]
    return Fits(predicted, latest, final, pl.DataFrame(rows, schema=COSTS))


def learned_from(
    data: Snapshots, rows: Rows, cutoff: int | None, window: TrainingWindow | None, enough: Enough, seed: int
) -> Rows:
    """Of the rows that are known those that a fit learns from: of rows before a break only the window's share.

    All of them, until there is enough that came after it.
    """
    if window is None or cutoff is None or ALL not in window.breaks or not window.holds([ALL], cutoff)[0]:
        return rows
    since = int(window.breaks[ALL].timestamp() * 1e6)
    drawn = np.random.default_rng(seed).random(len(data)) < window.before
    kept = rows[(data.as_of[rows] >= since) | drawn[rows]]
    return kept if enough(data.y[kept]) else rows


def earlier(data: Snapshots, folds: Sequence[Fold], k: int) -> list[tuple[int, npt.NDArray[np.bool_]]]:
    """The folds that one may be set right by without being seen itself, and which of their rows.

    In a k-fold the others of its repeat; else the origins before, as far as their targets were known at this one.
    """
    fold = folds[k]
    if fold.origin is None:
        same = [i for i, other in enumerate(folds) if other.repeat == fold.repeat and i != k]
        return [(i, np.ones(len(folds[i].scored), bool)) for i in same]
    return [(i, data.known_at[folds[i].scored] <= fold.origin) for i in range(k)]


def seen(parts: Sequence[tuple[int, npt.NDArray[np.bool_]]], values: Sequence[Array]) -> Array:
    """The values of some rows of some folds (see :func:`earlier`), one after the other."""
    return np.concatenate([values[i][rows] for i, rows in parts]) if parts else np.zeros(0)
