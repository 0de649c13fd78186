"""What is found of what was injected into real series (see drift_injected.py), for benchmarks/drift.py."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from drift_data import Aged
from drift_injected import DRIFTS, FAULTS, HARMLESS, ROUNDS, rounds
from drift_methods import Method
from drift_score import AHEAD, EVENT, NOTHING, QUIET, Score, fleets, raised, score

FAULTY = {kind.__name__ for kind in FAULTS}


@dataclass(frozen=True)
class Outcome:
    """What became of one case: its mean regret over the 8 weeks from it on, weeks until a flag, flags and alarms.

    delay: infinite without a flag. named: whether the quality check names the fault of the meter.
    """

    kind: str
    cost: float
    delay: float
    flags: int
    alarms: int
    named: bool


@dataclass(frozen=True)
class Outcomes:
    """Of one method on one half of the series: its cases, and the score of all weeks, quiet ones among them."""

    cases: list[Outcome]
    score: Score

    def of(self, kinds: Sequence[str]) -> list[Outcome]:
        """The cases of some kinds."""
        return [case for case in self.cases if case.kind in kinds]


def outcomes(methods: Mapping[str, Method], history: Aged) -> dict[str, list[Outcomes]]:
    """By method, for the half that parameters were chosen on and the one that is reported.

    history: the same series before anything was injected, for methods that need a reference. A case that a method has
    flagged in the week before it is left out: the series has drifted by itself.
    """
    found: dict[str, list[Outcomes]] = {name: [Outcomes([], NOTHING), Outcomes([], NOTHING)] for name in methods}
    for number, (injected, cases) in enumerate(rounds()):
        print(f"injected drifts: round {number + 1} of {ROUNDS}", file=sys.stderr)
        whole = injected.after(history)
        offset = len(whole.weeks) - len(injected.weeks)
        for half, fleet in enumerate(fleets(whole)):
            place = dict(zip(np.flatnonzero(fleet.rows).tolist(), range(len(fleet.loss)), strict=True))
            regret = fleet.regret
            for name, method in methods.items():
                flags = method(fleet)
                alarms = raised(flags)
                mine = []
                for case in cases:
                    row, week = place.get(case.row), case.week + offset
                    if row is None or flags[row, week - 1]:
                        continue
                    span = slice(week, week + AHEAD)
                    hit = np.flatnonzero(flags[row, span])
                    delay = float(hit[0] + 1) if len(hit) else np.inf
                    cost = float(np.nanmean(regret[row, span]))
                    mine.append(Outcome(case.kind, cost, delay, len(hit), int(alarms[row, span].sum()), case.named))
                before = found[name][half]
                found[name][half] = Outcomes(before.cases + mine, before.score + score(regret, flags))
    return found


def per_1000(cases: Sequence[Outcome], alarms: bool = False) -> float:
    """Flags (or alarms) in a thousand of the 8 weeks of each case."""
    return 1000 * sum(case.alarms if alarms else case.flags for case in cases) / max(AHEAD * len(cases), 1)


def dear(cases: Sequence[Outcome]) -> Score:
    """Of the cases that cost as much as an event, as events of a score."""
    return Score(np.array([case.delay for case in cases if case.cost >= EVENT]))


def quiet(cases: Sequence[Outcome]) -> list[Outcome]:
    """The cases that cost nothing that anyone would mend."""
    return [case for case in cases if case.cost < QUIET]


def figures(result: Outcomes) -> dict[str, dict[str, float]]:
    """For the benchmark's file."""
    must, harmless = dear(result.of([k.__name__ for k in DRIFTS])), result.of([k.__name__ for k in HARMLESS])
    named = [case.named for case in harmless if case.kind in FAULTY]
    return {
        "injected": {
            "found": must.found,
            "median_delay": must.delay(0.5),
            "false_per_1000": result.score.false_per_1000,
        },
        "must_not": {"per_1000": per_1000(quiet(harmless)), "quality_named": float(np.mean(named))},
    }


def channel_table(title: str, found: Mapping[str, Outcomes]) -> None:
    """One line a method."""
    print(f"\ninjected, {title}: drifts that cost 10 % or more; flags in the 8 weeks after what must not alarm")
    print(f"{'':34} {'found':>7} {'of':>4} {'median':>7} {'90 %':>7} {'all':>9} {'cost < 2 %':>11} {'quiet weeks':>12}")
    print(f"{'':34} {'':7} {'':4} {'weeks':>7} {'weeks':>7} {'of 1,000':>9} {'of 1,000':>11} {'of 1,000':>12}")
    for name, result in found.items():
        must, harmless = dear(result.of([k.__name__ for k in DRIFTS])), result.of([k.__name__ for k in HARMLESS])
        print(
            f"{name:34} {must.found:7.1%} {len(must.delays):4d} {must.delay(0.5):7.0f} {must.delay(0.9):7.0f} "
            f"{per_1000(harmless):9.1f} {per_1000(quiet(harmless)):11.1f} {result.score.false_per_1000:12.1f}"
        )


def kind_table(title: str, result: Outcomes) -> None:
    """One line a kind of what was injected."""
    print(f"\n{title}: drifts that must be found where they cost 10 % or more")
    print(f"{'':34} {'cases':>6} {'cost':>8} {'>= 10 %':>8} {'found':>8} {'median weeks':>13}")
    drifts = [kind.__name__ for kind in DRIFTS]
    for name, kinds in ({kind: [kind] for kind in drifts} | {"all": drifts}).items():
        cases = result.of(kinds)
        must = dear(cases)
        told = f"{must.found:8.1%} {must.delay(0.5):13.0f}" if len(must.delays) else ""
        print(f"{name:34} {len(cases):6d} {np.mean([c.cost for c in cases]):8.1%} {len(must.delays):8d} {told}")
    print(f"{title}: what must not alarm as drift, flags (alarms) of 1,000 weeks")
    print(f"{'':34} {'cases':>6} {'cost':>8} {'all':>15} {'cost < 2 %':>11} {'flags':>15} {'named':>8}")
    harmless = [kind.__name__ for kind in HARMLESS]
    for name, kinds in ({kind: [kind] for kind in harmless} | {"all": harmless}).items():
        cases = result.of(kinds)
        faults = [case.named for case in cases if case.kind in FAULTY]
        named = f"{np.mean(faults):8.1%}" if faults else ""
        told = [f"{per_1000(some):.1f} ({per_1000(some, True):.1f})" for some in (cases, quiet(cases))]
        cost = np.mean([case.cost for case in cases])
        print(f"{name:34} {len(cases):6d} {cost:8.1%} {told[0]:>15} {len(quiet(cases)):11d} {told[1]:>15} {named}")
