"""A search for good parameters by Optuna: within a budget, the hopeless given up after the first folds, repeatable.

Knows nothing of what is searched for: a :class:`Space` is a candidate and the ranges of its parameters, and whoever
searches brings the loss of a candidate on a fold.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lakehouse_assets.ml.definition import Candidate, Search, Trial

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, on a logarithmic scale unless they are ``even``; whole numbers if both ends are."""

    low: float
    high: float
    even: bool = False


@dataclass(frozen=True)
class Space:
    """A family: the candidate that is tried first, and how its parameters may vary (a tuple: one of these values)."""

    start: Candidate
    vary: Mapping[str, Range | tuple[Any, ...]] = field(default_factory=dict)

    def suggest(self, trial: "optuna.Trial", family: str) -> Candidate:
        """A candidate of the family."""
        found: dict[str, Any] = {}
        for parameter, values in self.vary.items():
            name = f"{family}.{parameter}"
            if isinstance(values, tuple):
                found[parameter] = trial.suggest_categorical(name, values)
            elif isinstance(values.low, int) and isinstance(values.high, int):
                found[parameter] = trial.suggest_int(name, values.low, values.high, log=not values.even)
            else:
                found[parameter] = trial.suggest_float(name, values.low, values.high, log=not values.even)
        return replace(self.start, **found)  # type: ignore[type-var]

    def first(self, family: str) -> dict[str, Any]:
        """The start's own values, by the names that :meth:`suggest` gives them."""
        return {f"{family}.{parameter}": getattr(self.start, parameter) for parameter in self.vary}


def run_search(
    spaces: Mapping[str, Space],
    loss: Callable[[Candidate, int], float],
    folds: int,
    search: Search,
    seed: int,
    report: Callable[[Trial], None] | None = None,
) -> list[Trial]:
    """Try candidates until the budget is spent; every family's start comes first.

    loss: of a candidate on one fold. What is worse than the median of the trials before, at the same fold, is pruned;
    a candidate that raises has failed, and the search goes on. The same seed tries the same candidates.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(10, 2 * len(spaces))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=min(4, len(spaces))),
    )
    for family, space in spaces.items():
        study.enqueue_trial({"family": family, **space.first(family)})
    deadline = math.inf if search.minutes is None else time.monotonic() + 60 * search.minutes
    trials: list[Trial] = []
    while len(trials) < search.trials and time.monotonic() < deadline:
        asked = study.ask()
        start = time.monotonic()
        family = asked.suggest_categorical("family", list(spaces))
        candidate = spaces[family].suggest(asked, family)
        losses: list[float] = []
        state, reason, total = "complete", "", 0.0
        try:
            for fold in range(folds):
                total += loss(candidate, fold)
                if not math.isfinite(total):
                    raise ValueError(f"no finite loss on fold {fold}")
                losses.append(total / (fold + 1))
                asked.report(losses[-1], fold)
                if fold + 1 < folds and asked.should_prune():
                    state = "pruned"
                    break
        except Exception as error:  # whatever a library raises: one candidate must not end the search
            state, reason = "failed", f"{type(error).__name__}: {error}"
        ended = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[state]
        study.tell(asked, losses[-1] if state == "complete" else None, optuna.trial.TrialState[ended])
        seconds = time.monotonic() - start
        trials.append(Trial(len(trials), family, candidate, tuple(losses), state, reason, seconds))
        if report:
            report(trials[-1])
    return trials


def best_by_family(trials: Sequence[Trial]) -> dict[str, Trial]:
    """The best complete trial of each family, the best family first."""
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial.state == "complete" and (trial.family not in best or trial.losses[-1] < best[trial.family].losses[-1]):
            best[trial.family] = trial
    return dict(sorted(best.items(), key=lambda item: item[1].losses[-1]))
