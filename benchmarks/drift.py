"""How often the drift verdict is wrong, how late it comes, and what retraining by it gains: on real champions.

    python benchmarks/drift.py [--json FILE] [--peers FOLDER | --no-peers] [--no-replay] [--no-injected]

Champions of the product's own ridge are fitted once and stay; each Monday a fresh fit of the same recipe is made (see
drift_data.py; the first run takes some 20 minutes, later ones one). The regret of a week is the log ratio of the
champion's loss to the fresh fit's on the week after that fit: what retraining would have mended.

An event starts in the first week of a series whose following 8 weeks have a mean regret of at least 10 %, unless such a
week lies in the 8 weeks before. It is found when the series is flagged in one of these 8 weeks; the delay counts them.
A quiet week has less than 2 % regret over the 8 weeks before and after it, itself among the first; a flag in it is a
false alarm. Every flagged week counts, not only the first of a row.

The parameters of ours, and those of the peers that have any, were chosen on one half of the series; what is printed
first is the other half. Which is which is decided by a hash of the series' names.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from drift_data import EIA, PJM, Aged, Ages, ages, halves, real
from drift_injected import DRIFTS, FAULTS, HARMLESS, rounds
from peers import peers_python

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.inputs import distances
from lakehouse_assets.ml.regret import judge, relative
from lakehouse_assets.models.demand_forecast import demand_forecast
from lakehouse_assets.settings import get_settings

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

AHEAD = 8
"""Weeks over which an event and a false alarm are defined."""
EVENT, QUIET = np.log(1.10), np.log(1.02)
LEAST_HOURS = 24
POLICY = demand_forecast.drift
RULE_WINDOWS, RULE_VIOLATIONS = 5, 2
RULE_FACTORS = (1.05, 1.1, 1.2, 1.5, 2.0)
"""The rule of mlops-stacks: a metric above its threshold in two of five windows. Its threshold is the user's: here a
multiple of the reference year's mean, chosen on one half like the other parameters."""
GOALS = {"found": 0.95, "median_delay": 3.0, "false_per_1000": 2.0}


@dataclass(frozen=True)
class Fleet:
    """Series x weeks of one half of a source: what every method sees. loss, fresh, regret, apart: (S, W)."""

    name: str
    rows: Mask
    loss: Array
    fresh: Array
    apart: Array
    rmse: Array
    reference_rmse: Array

    @property
    def regret(self) -> Array:
        """Log ratio of the losses, NaN where one is unknown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(self.loss / self.fresh)
        return np.where(np.isfinite(ratio), ratio, np.nan)


@dataclass(frozen=True)
class Score:
    """What a method's alarms are worth: delays (infinite: not found), quiet weeks, false ones, alarms, low ones."""

    delays: npt.NDArray[np.float64]
    quiet: int
    false: int
    alarms: int
    low: int
    weeks: int

    def __add__(self, other: "Score") -> "Score":
        rest = (self.quiet + other.quiet, self.false + other.false, self.alarms + other.alarms)
        return Score(np.concatenate([self.delays, other.delays]), *rest, self.low + other.low, self.weeks + other.weeks)

    @property
    def found(self) -> float:
        """Share of the events that were found within their weeks."""
        return float(np.isfinite(self.delays).mean()) if len(self.delays) else float("nan")

    def delay(self, quantile: float) -> float:
        """A quantile of the delays in weeks; an event that was not found counts as infinitely late."""
        return float(np.quantile(self.delays, quantile, method="inverted_cdf")) if len(self.delays) else float("nan")

    @property
    def false_per_1000(self) -> float:
        """Flags in quiet series-weeks, of a thousand."""
        return 1000 * self.false / max(self.quiet, 1)

    @property
    def order(self) -> tuple[bool, float, float]:
        """What is better comes first: few false alarms if that can be, then what is found, then early."""
        kept = self.false_per_1000 <= GOALS["false_per_1000"]
        late = float(np.minimum(self.delays, AHEAD + 1).mean())
        return (not kept, -self.found if kept else self.false_per_1000, late)


def fleets(source: str, aged: Aged, left_out: Sequence[str]) -> Iterator[Fleet]:
    """The half that parameters were chosen on, then the one that is reported."""
    loss, fresh, hours = aged.losses()
    both = np.isfinite(aged.y) & np.isfinite(aged.champion) & np.isfinite(aged.fresh)

    def rms(values: Array, there: Mask) -> Array:
        count = there.sum(axis=(2, 3))
        total = np.where(there, values, 0.0).sum(axis=(2, 3), dtype=np.float64)
        return np.sqrt(np.where(count >= LEAST_HOURS, total / np.maximum(count, 1), np.nan))

    apart = rms((aged.champion - aged.fresh) ** 2, both)
    rmse = rms((aged.champion - aged.y) ** 2, both)
    before = ~np.isfinite(aged.champion).any(axis=(2, 3))
    out_of_sample = np.isfinite(aged.y) & np.isfinite(aged.fresh)
    past = np.where(before, rms((aged.fresh - aged.y) ** 2, out_of_sample), np.nan)
    enough = hours >= LEAST_HOURS
    loss, fresh = np.where(enough, loss, np.nan), np.where(enough, fresh, np.nan)
    for half in halves(aged.series):
        rows = half & ~np.isin(aged.series, left_out) & enough.any(axis=1)
        year = np.array([np.mean(known[-52:]) if len(known := p[np.isfinite(p)]) else np.nan for p in past[rows]])
        parts = (loss[rows], fresh[rows], apart[rows], rmse[rows], year)
        yield Fleet(source, rows, *parts)


# --- truth and scores -------------------------------------------------------------------------------------------------


def mean_of(values: Array, first: int, last: int, least: int) -> Array:
    """(S, W) means over the weeks from `first` to `last` relative to each; NaN where fewer than `least` are known."""
    out = np.full(values.shape, np.nan)
    for week in range(values.shape[1]):
        if week + last < values.shape[1] and week + first >= 0:
            span = values[:, week + first : week + last + 1]
            known = np.isfinite(span).sum(axis=1)
            rows = known >= least
            out[rows, week] = np.nanmean(span[rows], axis=1)
    return out


def events(regret: Array) -> list[tuple[int, int]]:
    """(series, week) in which events start."""
    bad = mean_of(regret, 0, AHEAD - 1, AHEAD - 2) >= EVENT
    return [(int(s), int(w)) for s, w in zip(*np.nonzero(bad), strict=True) if not bad[s, max(0, w - AHEAD) : w].any()]


def score(regret: Array, alarms: Mask) -> Score:
    """Alarms (S, W) against what was to be found."""
    alarms = alarms & np.isfinite(regret)
    delays = []
    for s, w in events(regret):
        hit = np.flatnonzero(alarms[s, w : w + AHEAD])
        delays.append(float(hit[0] + 1) if len(hit) else np.inf)
    quiet = mean_of(regret, 1 - AHEAD, AHEAD, 2 * AHEAD - 2) < QUIET
    ahead = mean_of(regret, 1, AHEAD, AHEAD - 2)
    judged = alarms & np.isfinite(ahead)
    counts = (int(quiet.sum()), int((alarms & quiet).sum()), int(judged.sum()), int((judged & (ahead < QUIET)).sum()))
    return Score(np.array(delays), *counts, int(np.isfinite(regret).sum()))


# --- methods ----------------------------------------------------------------------------------------------------------


def challenger(fleet: Fleet, policy: DriftPolicy = POLICY) -> Mask:
    """Ours: the champion against the weekly fresh fits."""
    return judge(fleet.regret, relative(fleet.apart, fleet.fresh), policy).drifted


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


def peers(aged: Aged, interpreter: Path) -> tuple[dict[str, Mask], dict[str, float]]:
    """Alarms (S, W, parameters) by peer, and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        read, written = Path(folder, "weeks.npz"), Path(folder, "alarms.npz")
        aged.save(read)
        script = Path(__file__).with_name("drift_peers.py")
        subprocess.run([interpreter, script, read, written], check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL)
        found = dict(np.load(written))
    return {n: found[n] for n in PEERS}, {n: float(found[f"seconds_{n}"]) for n in PEERS}


# --- the replay -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replay:
    """What a policy of retraining did: mean regret left, trainings, of how many series-weeks."""

    loss: float
    trainings: int


def replayed(found: Ages, rows: Mask, policy: str) -> Replay:
    """Two years in which series are trained anew by a policy: never, monthly, weekly, or by our verdict.

    The verdict of a week asks for a training that is in force from the next week on; a series is left in peace for the
    model's cooldown. The loss of a series-week counts relative to the fresh fit's.
    """
    loss, apart = found.loss[rows].astype(float), found.disagreement[rows].astype(float)
    series, weeks, _ = loss.shape
    fresh = np.stack([loss[:, w, w] for w in range(weeks)], axis=1)
    trained = np.zeros(series, int)
    every = np.arange(series)
    cooldown = demand_forecast.retrain.cooldown_days // 7
    left, trainings = [], 0
    for week in range(weeks):
        left.append(np.log(loss[every, trained, week] / fresh[:, week]))
        if policy == "weekly":
            again = np.ones(series, bool)
        elif policy == "monthly":
            again = np.full(series, week % 4 == 3)
        elif policy == "ours":
            regret = np.log(loss[every, trained] / fresh)[:, : week + 1]
            regret[np.arange(week + 1) < trained[:, None]] = np.nan
            drifted = judge(regret, relative(apart[every, trained][:, : week + 1], fresh[:, : week + 1]), POLICY)
            again = drifted.drifted[:, -1] & (week + 1 - trained >= cooldown)
        else:
            again = np.zeros(series, bool)
        if week + 1 < weeks:
            trained[again] = week + 1
            trainings += int(again.sum())
    return Replay(float(np.nanmean(np.stack(left, axis=1))), trainings)


# --- the report -------------------------------------------------------------------------------------------------------


def line(name: str, result: Score, rate: float | None) -> str:
    speed = f"{rate:>12,.0f}" if rate else f"{'':>12}"
    return (
        f"{name:34} {result.found:7.1%} {len(result.delays):4d} {result.delay(0.5):7.0f} {result.delay(0.9):7.0f} "
        f"{result.false_per_1000:9.1f} {result.quiet:6d} {result.low / max(result.alarms, 1):8.1%} "
        f"{1000 * result.alarms / max(result.weeks, 1):9.0f} {speed}"
    )


def table(title: str, rows: Mapping[str, Score], rates: Mapping[str, float]) -> None:
    head = ("found", "of", "median", "90 %", "false", "quiet", "gain<2%", "flagged", "weeks/s")
    unit = ("", "", "weeks", "weeks", "of 1,000", "weeks", "", "of 1,000", "")
    print(f"\n{title}")
    for words in (head, unit):
        widths = zip(words, (7, 4, 7, 7, 9, 6, 8, 9, 12), strict=True)
        print(f"{'':34} " + " ".join(f"{word:>{width}}" for word, width in widths))
    for name, result in rows.items():
        print(line(name, result, rates.get(name)), flush=True)


def chosen(tuned: Sequence[Fleet], options: Sequence[Sequence[Mask]]) -> int:
    """The parameter with the best score on the tuning halves: options by source, each a mask for every parameter."""
    totals = [
        sum((score(f.regret, o[k]) for f, o in zip(tuned, options, strict=True)), _NOTHING)
        for k in range(len(options[0]))
    ]
    return min(range(len(totals)), key=lambda k: totals[k].order)


_NOTHING = Score(np.zeros(0), 0, 0, 0, 0, 0)


def injected_table() -> dict[str, dict[str, float]]:
    """What was injected, by kind: cost over the eight weeks after, found, delay; flags of what must not alarm."""
    outcomes: dict[tuple[int, str], list[tuple[float, float, int, bool]]] = {}
    for found, cases in rounds():
        for half, fleet in enumerate(fleets("injected", found, ())):
            flagged, regret = challenger(fleet), fleet.regret
            place = dict(zip(np.flatnonzero(fleet.rows).tolist(), range(len(regret)), strict=True))
            for case in cases:
                row = place.get(case.row)
                if row is None or flagged[row, case.week - 1]:
                    continue  # of the other half, or drifted before by itself
                span = slice(case.week, case.week + AHEAD)
                hit = np.flatnonzero(flagged[row, span])
                delay = float(hit[0] + 1) if len(hit) else np.inf
                outcome = (float(np.nanmean(regret[row, span])), delay, len(hit), case.named)
                outcomes.setdefault((half, case.kind), []).append(outcome)
    figures: dict[str, dict[str, float]] = {}
    for half, title in ((1, "REPORTED half"), (0, "the half that parameters were chosen on")):
        print(f"\ninjected, {title}: drifts that must be found where they cost 10 % or more")
        print(f"{'':34} {'cases':>6} {'cost':>8} {'>= 10 %':>8} {'found':>8} {'median weeks':>13}")
        delays: list[float] = []
        for kind in DRIFTS:
            mine = outcomes.get((half, kind.__name__), [])
            dear = [delay for cost, delay, _, _ in mine if cost >= EVENT]
            delays += dear
            print(_injected_line(kind.__name__, [cost for cost, *_ in mine], dear))
        print(_injected_line("all", [o[0] for kind in DRIFTS for o in outcomes.get((half, kind.__name__), [])], delays))
        print(f"injected, {title}: what must not alarm as drift")
        print(f"{'':34} {'cases':>6} {'cost':>8} {'flags of 1,000 weeks':>22} {'named':>8}")
        flags, named = [], []
        for kind in HARMLESS:
            mine = outcomes.get((half, kind.__name__), [])
            hits, calls = [count for _, _, count, _ in mine], [call for *_, call in mine]
            flags += hits
            told = ""
            if kind in FAULTS:
                named += calls
                told = f"{np.mean(calls):8.1%}"
            cost = np.mean([cost for cost, *_ in mine])
            rate = 1000 * sum(hits) / (AHEAD * max(len(mine), 1))
            print(f"{kind.__name__:34} {len(mine):6d} {cost:8.1%} {rate:22.1f} {told}")
        per_1000 = 1000 * sum(flags) / (AHEAD * max(len(flags), 1))
        print(f"{'all':34} {len(flags):6d} {'':8} {per_1000:22.1f} {np.mean(named):8.1%}")
        if half == 1:
            found_share = float(np.isfinite(delays).mean()) if delays else float("nan")
            median = float(np.quantile(delays, 0.5, method="inverted_cdf")) if delays else float("nan")
            figures["injected"] = {"found": found_share, "median_delay": median}
            figures["must_not"] = {"per_1000": per_1000, "quality_named": float(np.mean(named))}
    return figures


def _injected_line(name: str, costs: Sequence[float], delays: Sequence[float]) -> str:
    found = f"{np.isfinite(delays).mean():8.1%}" if len(delays) else f"{'':8}"
    median = f"{np.quantile(delays, 0.5, method='inverted_cdf'):13.0f}" if len(delays) else ""
    return f"{name:34} {len(costs):6d} {np.mean(costs):8.1%} {len(delays):8d} {found} {median}"


def verdict_line() -> None:
    """Seconds of the verdicts of a large fleet."""
    rng = np.random.default_rng(0)
    regret, apart = rng.normal(0.02, 0.07, (10_000, 52)), np.abs(rng.normal(0.4, 0.1, (10_000, 52)))
    began = time.perf_counter()
    judge(regret, apart, POLICY)
    print(f"\nverdicts of 10,000 series x 52 weeks: {time.perf_counter() - began:.2f} s")


def speed_line(interpreter: Path) -> dict[str, float]:
    """Our five distances on 1M + 1M rows of ten columns, in units of NannyML's Wasserstein in the same run."""
    rng = np.random.default_rng(0)
    columns = [(rng.normal(size=1_000_000), rng.normal(size=1_000_000)) for _ in range(10)]
    began = time.perf_counter()
    for before, after in columns:
        distances(before, after)
    ours = time.perf_counter() - began
    script = Path(__file__).with_name("drift_peers.py")
    said = subprocess.run(
        [interpreter, script, "speed"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    theirs = float(said.stdout.split()[-1])
    print(f"\n1M + 1M rows, ten columns: our five distances {ours:.2f} s, NannyML's Wasserstein {theirs:.2f} s")
    return {"vs_nannyml": ours / theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environment (default: in LAKEHOUSE_HOME)")
    parser.add_argument("--no-peers", action="store_true", help="only what is ours")
    parser.add_argument("--no-replay", action="store_true", help="without the replay of retraining policies")
    parser.add_argument("--no-injected", action="store_true", help="without what is injected into real series")
    arguments = parser.parse_args()
    sources = {source.name: (real(source), source.left_out) for source in (EIA, PJM)}
    halved = {name: list(fleets(name, *source)) for name, source in sources.items()}
    tuned, reported = ([pair[k] for pair in halved.values()] for k in (0, 1))

    rates: dict[str, float] = {}
    challenger(tuned[0])  # imports
    began = time.perf_counter()
    ours = [[challenger(fleet) for fleet in half] for half in (tuned, reported)]
    series_weeks = sum(int(np.isfinite(fleet.regret).sum()) for half in (tuned, reported) for fleet in half)
    rates["ours, challenger"] = series_weeks / (time.perf_counter() - began)
    alarms = {"ours, challenger": ours}
    rule = [[[mlops_rule(fleet, factor) for factor in RULE_FACTORS] for fleet in half] for half in (tuned, reported)]
    best = chosen(tuned, rule[0])
    alarms[f"mlops-stacks rule, {RULE_FACTORS[best]} x"] = [[options[best] for options in half] for half in rule]
    alarms["calendar, monthly"] = [[calendar(fleet) for fleet in half] for half in (tuned, reported)]
    if not arguments.no_peers:
        folder = arguments.peers or get_settings().home / "peers_drift"
        interpreter = peers_python(folder, "peers_drift.txt")
        found = [peers(aged, interpreter) for aged, _ in sources.values()]
        for peer, title in PEERS.items():
            options = [
                [[masks[peer][fleet.rows][:, :, k] for k in range(masks[peer].shape[2])] for fleet, (masks, _) in pairs]
                for pairs in (list(zip(half, found, strict=True)) for half in (tuned, reported))
            ]
            best = chosen(tuned, options[0])
            alarms[title] = [[choice[best] for choice in half] for half in options]
            rates[title] = series_weeks / sum(seconds[peer] for _, seconds in found)

    scores: dict[str, list[list[Score]]] = {
        name: [
            [score(f.regret, a) for f, a in zip(half, masks, strict=True)]
            for half, masks in zip((tuned, reported), both, strict=True)
        ]
        for name, both in alarms.items()
    }
    titles = ("the half that parameters were chosen on", "REPORTED: the half of the series that nothing was chosen on")
    for k, half in ((1, titles[1]), (0, titles[0])):
        table(f"{half}; EIA and PJM", {n: sum(s[k], _NOTHING) for n, s in scores.items()}, rates if k else {})
        for j, name in enumerate(halved):
            few = {n: s[k][j] for n, s in scores.items()}
            table(f"{half.split(':')[0]}, {name} alone ({len(halved[name][k].loss)} series)", few, {})
    result = sum(scores["ours, challenger"][1], _NOTHING)
    figures: dict[str, dict[str, float]] = {
        "real": {
            "found": result.found,
            "median_delay": result.delay(0.5),
            "false_per_1000": result.false_per_1000,
        }
    }
    verdict_line()
    if not arguments.no_injected:
        figures |= injected_table()
    if not arguments.no_replay:
        figures["replay"] = replay_table()
    if not arguments.no_peers:
        figures["speed"] = speed_line(interpreter)
    missed = [
        name
        for name, goal in GOALS.items()
        if (figures["real"][name] < goal if name == "found" else figures["real"][name] > goal)
    ]
    print(f"\ngoals {GOALS}: {'all reached' if not missed else 'MISSED: ' + ', '.join(missed)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))
    sys.exit(1 if missed else 0)


def replay_table() -> dict[str, float]:
    """Retraining policies on EIA, by half: the share of weekly retraining's gain, and of its trainings."""
    found = ages(EIA)
    print(f"\nEIA 2018-07 to 2020-06, retraining by series (all weekly fits: {found.seconds:,.0f} CPU s)")
    print(f"{'':34} {'regret left':>12} {'gain share':>12} {'trainings':>10} {'share':>8}")
    figures = {}
    for half, rows in zip(("chosen on", "reported"), halves(found.series), strict=True):
        results = {policy: replayed(found, rows, policy) for policy in ("never", "monthly", "weekly", "ours")}
        never, weekly = results["never"], results["weekly"]
        for policy, result in results.items():
            gain = (never.loss - result.loss) / (never.loss - weekly.loss)
            share = result.trainings / weekly.trainings
            print(f"{half + ', ' + policy:34} {result.loss:12.2%} {gain:12.1%} {result.trainings:10d} {share:8.1%}")
            if half == "reported" and policy == "ours":
                figures = {"gain_share": gain, "trainings_share": share}
    return figures


if __name__ == "__main__":
    main()
