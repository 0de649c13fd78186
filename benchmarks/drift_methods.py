"""What flags a series in benchmarks/drift.py: ours by channel, simple rules, and other libraries.

Each method looks at the same weeks and says which series it flags in which of them, by what was known at their end.
Other libraries run in an environment of their own (drift_peers.py).
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from drift_data import Aged
from drift_score import Array, Fleet, Mask

from lakehouse_assets.ml import errors
from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.regret import judge, relative
from lakehouse_assets.models.demand_forecast import demand_forecast

Method = Callable[[Fleet], Mask]
POLICY = demand_forecast.drift
RULE_WINDOWS, RULE_VIOLATIONS = 5, 2
RULE_FACTORS = (1.05, 1.1, 1.2, 1.5, 2.0)
"""The rule of mlops-stacks: a metric above its threshold in two of five windows. Its threshold is the user's: here a
multiple of the reference year's mean, chosen on one half like the other parameters."""


def challenger(fleet: Fleet, policy: DriftPolicy = POLICY) -> Mask:
    """Ours: the champion against the weekly fresh fits."""
    return judge(fleet.regret, relative(fleet.apart, fleet.fresh), policy).drifted


def error(fleet: Fleet, policy: DriftPolicy = POLICY) -> Mask:
    """Ours where a fit is dear: the champion's errors against those of the weekly fits before it."""
    aged = fleet.aged
    before = np.cumsum(np.isfinite(aged.champion).any(axis=(2, 3)), axis=1) == 0
    past = errors.weekly(aged.y, np.where(before[:, :, None, None], aged.fresh, np.nan), aged.weeks)
    return errors.judge(errors.weekly(aged.y, aged.champion, aged.weeks), past, policy).drifted


def either(fleet: Fleet) -> Mask:
    """Ours, both of these channels."""
    return challenger(fleet) | error(fleet)


def gaining(cost: float) -> Method:
    """Ours: no drifts, but the series that the policy trains anew where trainings are as cheap as that."""
    policy = replace(POLICY, retrain_on="gain", cost=cost)
    return lambda fleet: judge(fleet.regret, relative(fleet.apart, fleet.fresh), policy).due


OURS: dict[str, Method] = {"ours, challenger": challenger, "ours, error": error, "ours, both": either}
VERDICT = "ours, challenger"
"""What the product's monitoring goes by where a fit is cheap."""
GAINING = "ours, where it gains"
COSTS = (0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.015)
"""Of a training, as shares of a series' loss: what is worth its while where trainings are cheap."""


def mlops_rule(fleet: Fleet, factor: float) -> Mask:
    """A root mean square error above its threshold in two of the latest five weeks."""
    violated = (fleet.rmse > factor * fleet.reference_rmse[:, None]).astype(int)
    total = np.cumsum(np.pad(violated, ((0, 0), (RULE_WINDOWS, 0))), axis=1)
    return total[:, RULE_WINDOWS:] - total[:, :-RULE_WINDOWS] >= RULE_VIOLATIONS


def calendar(fleet: Fleet, weeks: int = 4) -> Mask:
    """Every so many weeks, whatever happens."""
    started = np.cumsum(np.isfinite(fleet.regret), axis=1)
    return (started > 0) & (started % weeks == 0)


PEERS = {
    "evidently": "Evidently, default distance",
    "nannyml_jensen_shannon": "NannyML, Jensen-Shannon",
    "nannyml_performance": "NannyML, performance",
    "river_adwin": "river ADWIN on errors",
    "river_page_hinkley": "river Page-Hinkley on errors",
}


class Peers:
    """The other libraries, each in turn, through files."""

    def __init__(self, interpreter: Path) -> None:
        self.interpreter = interpreter
        self.script = Path(__file__).with_name("drift_peers.py")

    def flags(self, aged: Aged) -> tuple[dict[str, Mask], dict[str, float]]:
        """Flags (S, W, parameters) by method, and seconds."""
        with tempfile.TemporaryDirectory() as folder:
            weeks = Path(folder, "weeks.npz")
            aged.save(weeks)
            found = self._run("weekly", weeks)
        return {n: found[n] for n in PEERS}, {n: float(found[f"seconds_{n}"]) for n in PEERS}

    def in_force(self, aged: Aged, forecasts: Path, rows: Mask, parameters: Mapping[str, int]) -> dict[str, Array]:
        """The fit in force (S, W) by method when its flags ask for trainings of some series (see drift_peers.py).

        forecasts: where those of all weekly fits are kept. parameters: which of its own each method uses.
        """
        told = (f"{name}={k}" for name, k in parameters.items())
        with tempfile.TemporaryDirectory() as folder:
            weeks, series = Path(folder, "weeks.npz"), Path(folder, "rows.npy")
            aged.take(rows).save(weeks)
            np.save(series, np.flatnonzero(rows))
            return self._run("replay", weeks, forecasts, series, *told)

    def detected(self, errors: Path) -> dict[str, Array]:
        """The fit in force in each block of streams by method and parameter (see drift_peers.py)."""
        return self._run("streams", errors)

    def seconds_of_distances(self) -> float:
        """Seconds of NannyML's Wasserstein on 1M + 1M rows of ten columns."""
        return float(self._run("speed")["seconds"])

    def generated(self) -> dict[str, Array]:
        """Rows of river's generators (see drift_peers.py)."""
        return self._run("generate")

    def _run(self, task: str, *arguments: str | Path) -> dict[str, Array]:
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder, "found.npz")
            command = (self.interpreter, self.script, task, written, *arguments)
            done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(f"{done.stderr}\nthe task {task} of {self.script.name} failed in {self.interpreter}")
            return dict(np.load(written))
