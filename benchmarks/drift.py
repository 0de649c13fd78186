"""How often the drift verdict is wrong, how late it comes, and what retraining by it gains: on real champions.

    python benchmarks/drift.py [--json FILE] [--picture FILE] [--peers FOLDER | --no-peers] [--only PART]

Champions of the product's own ridge are fitted once and stay; each Monday a fresh fit of the same recipe is made (see
drift_data.py; looks at the inputs in drift_inputs.py; the first run takes some 20 minutes longer than later ones). What
is to be found, and what is a false alarm, stands in drift_score.py; what is injected in drift_injected.py; public
streams in drift_streams.py.

The parameters of ours, and those of the peers that have any, were chosen on one half of the series; what is printed
first is the other half. Of ours that half is not blind: its figures were in sight while the form of the verdict was
found. Which is which is decided by a hash of the series' names.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import drift_cases
import drift_inputs
import drift_streams
import numpy as np
from drift_data import EIA, PJM, REFERENCE_WEEKS, Aged, Ages, ages, ages_path, halves, real
from drift_methods import (
    COSTS,
    GAINING,
    OURS,
    PEERS,
    POLICY,
    RULE_FACTORS,
    VERDICT,
    Method,
    Peers,
    calendar,
    gaining,
    mlops_rule,
)
from drift_score import AT_LEAST, COOLDOWN, GOALS, NOTHING, Array, Fleet, Mask, Score, chosen, fleets, score
from peers import peers_python

from lakehouse_assets.ml.inputs import distances
from lakehouse_assets.ml.regret import judge
from lakehouse_assets.settings import get_settings

PARTS = ("real", "injected", "replay", "streams", "speed")
HALVES = ("the half that parameters were chosen on", "REPORTED: the other half of the series")
WEEK_HOURS = 168
NEVER, MONTHLY, WEEKLY = "never", "calendar, monthly", "calendar, weekly"
CALENDARS = {NEVER: None, MONTHLY: 4, WEEKLY: 1}
"""Weeks between trainings."""


def say(words: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


# --- the replay -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replay:
    """What a policy of retraining did, by week (W,): mean regret left, and series trained before it."""

    regret: Array
    trained: Array

    @property
    def loss(self) -> float:
        """The mean regret left."""
        return float(np.nanmean(self.regret))

    @property
    def trainings(self) -> int:
        """Series-trainings, the first of each series not among them."""
        return int(self.trained.sum())


Policy = Callable[[int, Array], Mask]
"""Which series to train anew at the end of a week, of those whose champions were trained at the start of such weeks."""


def replayed(found: Ages, rows: Mask, policy: Policy) -> Replay:
    """Two years in which series are trained anew by a policy; a training is in force from the next week on."""
    weeks = len(found.weeks)
    in_force = np.zeros((int(rows.sum()), weeks), int)
    for week in range(weeks - 1):
        again = policy(week, in_force[:, week])
        in_force[:, week + 1 :] = np.where(again, week + 1, in_force[:, week])[:, None]
    return outcome(found, rows, in_force)


def outcome(found: Ages, rows: Mask, in_force: Array) -> Replay:
    """What fits leave that are in force (S, W); the loss of a series-week counts relative to the fresh fit's."""
    loss, weeks = found.loss[rows].astype(float), np.arange(len(found.weeks))
    mine = loss[np.arange(len(loss))[:, None], in_force, weeks]
    left = np.log(mine / loss[:, weeks, weeks])
    new = np.diff(in_force, axis=1, prepend=0) > 0
    return Replay(np.nanmean(left, axis=0), new.sum(axis=0))


def by_calendar(rows: Mask, weeks: int | None) -> Policy:
    """Every so many weeks, or never."""
    return lambda week, trained: np.full(int(rows.sum()), weeks is not None and (week + 1) % weeks == 0)


def by_flags(found: Ages, aged: Aged, rows: Mask, method: Method) -> Policy:
    """By the flags of a method, which sees the champion in force since it was trained; not within the cooldown."""
    past, which = aged.take(rows), np.flatnonzero(rows)

    def policy(week: int, trained: Array) -> Mask:
        seen = past.take(np.ones(len(which), bool), slice(0, REFERENCE_WEEKS + week + 1))
        champion = np.full_like(seen.champion, np.nan)
        champion[:, REFERENCE_WEEKS:] = found.forecast[which, trained, : week + 1]
        flags = method(Fleet.of(replace(seen, champion=champion), np.ones(len(which), bool)))
        return flags[:, -1] & (week + 1 - trained >= COOLDOWN)

    return policy


def cost_of_trainings(found: Ages, aged: Aged, rows: Mask) -> float:
    """The least cost of a training with which no more of some series are trained than is aimed at."""
    most = GOALS["replay"]["trainings_share"] * rows.sum() * (len(found.weeks) - 1)
    for cost in COSTS:
        say(f"replay: {GAINING}, cost {cost:.1%}")
        if replayed(found, rows, by_flags(found, aged, rows, gaining(cost))).trainings <= most:
            return cost
    return POLICY.cost


def gain_share(results: Mapping[str, Replay], name: str) -> float:
    """Of what weekly training gains."""
    never = results[NEVER].loss
    return (never - results[name].loss) / (never - results[WEEKLY].loss)


def replay_table(title: str, found: Ages, results: Mapping[str, Replay]) -> None:
    """Policies, what they gain, and what they train."""
    print(f"\n{title}: EIA 2018-07 to 2020-06, retraining by series")
    print(f"{'':34} {'regret left':>12} {'gain share':>12} {'trainings':>10} {'share':>8} {'CPU s':>8}")
    for name, result in results.items():
        seconds = result.trainings * found.training_seconds
        share = result.trainings / results[WEEKLY].trainings
        print(
            f"{name:34} {result.loss:12.2%} {gain_share(results, name):12.1%} {result.trainings:10d} {share:8.1%} "
            f"{seconds:8.0f}"
        )


def replay_picture(path: Path, found: Ages, results: Mapping[str, Replay]) -> None:
    """Cumulated gain over never training, and cumulated trainings, by week."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from lakehouse_assets.ml.pictures import ACCENT, INK, PALE

    drawn = {NEVER: PALE, MONTHLY: "#e0a458", WEEKLY: INK, GAINING: ACCENT, VERDICT: "#3d7a5a"}
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    gain, trained = figure.subplots(2, 1, sharex=True)
    weeks = found.weeks.astype("datetime64[us]")
    for name, colour in drawn.items():
        saved = np.cumsum(results[NEVER].regret - results[name].regret)
        told = f"{name}: {gain_share(results, name):.0%} of the gain, {results[name].trainings:,} trainings"
        gain.plot(weeks, 100 * saved, color=colour, label=told)
        trained.plot(weeks, np.cumsum(results[name].trained), color=colour)
    gain.set_ylabel("cumulated gain over never training,\n% of a week's error")
    trained.set_ylabel("series-trainings, cumulated")
    gain.legend(fontsize=8, frameon=False, title="retraining", title_fontsize=8)
    for ax in (gain, trained):
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.margins(x=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=80)


# --- the tables -------------------------------------------------------------------------------------------------------


def table(title: str, rows: Mapping[str, Score], rates: Mapping[str, float], replays: Mapping[str, Replay]) -> None:
    """One line a method; rates: rows of the landed data a second; replays: what trainings by its alarms did to EIA."""
    head = ("found", "of", "median", "90 %", "flags", "alarms", "quiet", "gain<2%", "gain", "trainings", "rows/s")
    unit = ("", "", "weeks", "weeks", "of 1,000", "of 1,000", "weeks", "", "share", "", "")
    widths = (7, 4, 7, 7, 9, 9, 6, 8, 8, 10, 12)
    print(f"\n{title}")
    for words in (head, unit):
        print(f"{'':34} " + " ".join(f"{word:>{width}}" for word, width in zip(words, widths, strict=True)))
    for name, result in rows.items():
        told = [
            f"{result.found:.1%}",
            f"{len(result.delays)}",
            f"{result.delay(0.5):.0f}",
            f"{result.delay(0.9):.0f}",
            f"{result.false_per_1000:.1f}",
            f"{1000 * result.false_alarms / max(result.quiet, 1):.1f}",
            f"{result.quiet}",
            f"{result.low / result.alarms:.1%}" if result.alarms else "",
            f"{gain_share(replays, name):.1%}" if name in replays else "",
            f"{replays[name].trainings}" if name in replays else "",
            f"{rates[name]:,.0f}" if name in rates else "",
        ]
        print(f"{name:34} " + " ".join(f"{word:>{width}}" for word, width in zip(told, widths, strict=True)))
    sys.stdout.flush()


Flags = dict[str, list[list[Mask]]]
"""By method, half and source."""


@dataclass(frozen=True)
class Flagged:
    """What every method flags. rates: rows a second. parameters: which of its own each peer uses. methods: those here,
    with their parameters."""

    flags: Flags
    rates: dict[str, float]
    parameters: dict[str, int]
    methods: dict[str, Method]


def flagged(
    sources: Mapping[str, Aged], halved: Sequence[Sequence[Fleet]], seen: drift_inputs.Looks, peers: Peers | None
) -> Flagged:
    """All methods on all halves (tuned, reported), by source; parameters chosen on the first.

    seen: what the input channel says of the sources.
    """
    tuned = halved[0]
    began = time.perf_counter()
    for aged in sources.values():
        list(fleets(aged))
    summing = time.perf_counter() - began
    rows = WEEK_HOURS * sum(int(np.isfinite(fleet.regret).sum()) for half in halved for fleet in half)
    rule = [[mlops_rule(fleet, factor) for factor in RULE_FACTORS] for fleet in tuned]
    factor = RULE_FACTORS[chosen(tuned, rule)]
    methods: dict[str, Method] = OURS | {
        drift_inputs.NAME: seen.flags,
        f"mlops-stacks rule, {factor} x": lambda fleet: mlops_rule(fleet, factor),
        MONTHLY: calendar,
    }
    found = Flagged({}, {}, {}, methods)
    for name, method in methods.items():
        say(name)
        method(tuned[0])  # imports
        began = time.perf_counter()
        found.flags[name] = [[method(fleet) for fleet in half] for half in halved]
        found.rates[name] = rows / (summing + time.perf_counter() - began)
    # It has looked before, and at the hours, not at weekly sums.
    found.rates[drift_inputs.NAME] = rows / seen.seconds
    if peers:
        told = []
        for source, aged in sources.items():
            say(f"other libraries on {source}")
            told.append(peers.flags(aged))
        for peer, title in PEERS.items():
            options = [
                [[masks[peer][fleet.rows][:, :, k] for k in range(masks[peer].shape[2])] for fleet, (masks, _) in pairs]
                for pairs in (list(zip(half, told, strict=True)) for half in halved)
            ]
            best = found.parameters[peer] = chosen(tuned, options[0])
            found.flags[title] = [[choice[best] for choice in half] for half in options]
            found.rates[title] = rows / sum(seconds[peer] for _, seconds in told)
    return found


def replays(aged: Aged, found: Ages, rows: Mask, told: Flagged, peers: Peers | None, cost: float) -> dict[str, Replay]:
    """What each policy and each method's alarms do to some series of EIA; cost: of a training, where that is asked."""
    results = {name: replayed(found, rows, by_calendar(rows, weeks)) for name, weeks in CALENDARS.items()}
    for name, method in (told.methods | {GAINING: gaining(cost)}).items():
        if name not in results:
            say(f"replay: {name}")
            results[name] = replayed(found, rows, by_flags(found, aged, rows, method))
    if peers:
        say("replay: other libraries")
        for peer, in_force in peers.in_force(aged, ages_path(EIA), rows, told.parameters).items():
            results[PEERS[peer]] = outcome(found, rows, in_force)
    return results


def verdict_line() -> None:
    """Seconds of the verdicts of a large fleet."""
    rng = np.random.default_rng(0)
    regret, apart = rng.normal(0.02, 0.07, (10_000, 52)), np.abs(rng.normal(0.4, 0.1, (10_000, 52)))
    began = time.perf_counter()
    judge(regret, apart, POLICY)
    print(f"\nverdicts of 10,000 series x 52 weeks: {time.perf_counter() - began:.2f} s")


def speed_line(peers: Peers) -> dict[str, float]:
    """Our five distances on 1M + 1M rows of ten columns, in units of NannyML's Wasserstein in the same run."""
    rng = np.random.default_rng(0)
    columns = [(rng.normal(size=1_000_000), rng.normal(size=1_000_000)) for _ in range(10)]
    began = time.perf_counter()
    for before, after in columns:
        distances(before, after)
    ours = time.perf_counter() - began
    theirs = peers.seconds_of_distances()
    print(f"\n1M + 1M rows, ten columns: our five distances {ours:.2f} s, NannyML's Wasserstein {theirs:.2f} s")
    return {"vs_nannyml": ours / theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--picture", type=Path, help="also draw the replay there, a PNG")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environment (default: in LAKEHOUSE_HOME)")
    parser.add_argument("--no-peers", action="store_true", help="only what is ours; leaves out streams")
    parser.add_argument("--only", choices=("real", "injected", "streams"), help="one part instead of all")
    arguments = parser.parse_args()
    began = time.perf_counter()
    peers = None
    if not arguments.no_peers:
        folder = arguments.peers or get_settings().home / "peers_drift"
        peers = Peers(peers_python(folder, "peers_drift.txt"))
    figures: dict[str, dict[str, float]] = {}
    if arguments.only in (None, "real"):
        figures |= real_part(peers, arguments.picture)
    if arguments.only in (None, "injected"):
        figures |= injected_part()
    if arguments.only in (None, "streams") and peers:
        drift_streams.part(peers)
    if arguments.only is None:
        verdict_line()
        if peers:
            figures["speed"] = speed_line(peers)
    print(f"\nthe whole took {(time.perf_counter() - began) / 60:.1f} minutes")
    if arguments.json:
        arguments.json.write_text(json.dumps({part: figures[part] for part in GOALS if part in figures}, indent=2))
    missed = [
        f"{part} {name} {figures[part][name]:.3g} ({goal:g})"
        for part, goals in GOALS.items()
        for name, goal in goals.items()
        if part in figures and (figures[part][name] < goal if name in AT_LEAST else figures[part][name] > goal)
    ]
    print(f"goals missed: {', '.join(missed)}" if missed else "all goals reached")
    sys.exit(1 if missed else 0)


def real_part(peers: Peers | None, picture: Path | None) -> dict[str, dict[str, float]]:
    """Real champions, and the replay."""
    sources = {source.name: real(source) for source in (EIA, PJM)}
    halved = list(zip(*(list(fleets(aged)) for aged in sources.values()), strict=True))
    told = flagged(sources, halved, drift_inputs.decided(), peers)
    found = ages(EIA)
    tuned, reported = halves(found.series)
    cost = cost_of_trainings(found, sources[EIA.name], tuned)
    # Others take minutes: on the half alone that is reported.
    by_half = [
        replays(sources[EIA.name], found, rows, told, others, cost)
        for rows, others in ((tuned, None), (reported, peers))
    ]
    scores = {
        name: [
            [score(f.regret, m) for f, m in zip(h, masks, strict=True)] for h, masks in zip(halved, both, strict=True)
        ]
        for name, both in told.flags.items()
    }
    for k in (1, 0):
        all_of = {name: sum(both[k], NOTHING) for name, both in scores.items()}
        table(f"{HALVES[k]}; EIA and PJM, gain and trainings of EIA", all_of, told.rates if k else {}, by_half[k])
        for j, source in enumerate(sources):
            few = {name: both[k][j] for name, both in scores.items()}
            table(f"{HALVES[k].split(':')[0]}, {source} alone ({len(halved[k][j].loss)} series)", few, {}, {})
        replay_table(HALVES[k], found, by_half[k])
    print(f"(a weekly fit in shadow, all {len(found.series)} series, two years: {found.shadow_seconds:,.0f} CPU s)")
    print(f"({GAINING}: by the expected gain, where a training costs {cost:.1%} of a series' loss)")
    if picture:
        replay_picture(picture, found, by_half[1])
    result, ours = sum(scores[VERDICT][1], NOTHING), by_half[1]
    share = ours[GAINING].trainings / ours[WEEKLY].trainings
    return {
        "real": {
            "found": result.found,
            "median_delay": result.delay(0.5),
            "false_per_1000": result.false_per_1000,
        },
        "replay": {"gain_share": gain_share(ours, GAINING), "trainings_share": share},
    }


def injected_part() -> dict[str, dict[str, float]]:
    """What was injected into real series."""
    found = drift_cases.outcomes(OURS, real(EIA))
    for k in (1, 0):
        drift_cases.channel_table(HALVES[k], {name: both[k] for name, both in found.items()})
        drift_cases.kind_table(f"{VERDICT}, {HALVES[k]}", found[VERDICT][k])
    return drift_cases.figures(found[VERDICT][1])


if __name__ == "__main__":
    main()
