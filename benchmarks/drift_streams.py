"""Public streams of classes, for benchmarks/drift.py: Elec2, and river's SEA and Agrawal whose drifts are known.

    python benchmarks/drift_streams.py [--peers FOLDER]

A champion, a gradient boosting on the latest ten blocks of rows, is fitted at the start; at each block a fresh fit of
the same recipe is made. A block is 500 rows, or a week of Elec2. Ours judges the log ratio of their Brier scores block
by block, a stream by itself; ADWIN and Page-Hinkley see the single errors of the champion in force. Whoever flags a
block has a new champion from the next one on, which is not trained anew within the product's cooldown.

A change is found by an alarm within 8 blocks of its beginning (of its end, where it is gradual). Quiet are the blocks
before it begins, and those 10 and more after these 8: until then a training still has rows of the former concept. An
alarm in a quiet block is a false one. The parameters of the detectors were chosen on the streams of even seeds, by
accuracy; what is printed is the others. Ours has those of the product.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from drift_methods import POLICY, Peers
from drift_peers import BLOCK, BLOCKS, CHANGE, STREAM_DELTAS, STREAM_THRESHOLDS, WIDTHS, in_force
from drift_score import AHEAD, Array, Mask
from peers import peers_python
from threadpoolctl import threadpool_limits

from lakehouse_assets.ml.regret import judge
from lakehouse_assets.settings import get_settings

TRAINED = 10
"""Blocks that a fit learns from."""
ELEC2 = "elec2_normalised_1996_1998.parquet"
ELEC2_BLOCK = 7 * 48
ELEC2_FEATURES = ("day", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
DETECTORS = {
    "river_adwin": ("river ADWIN", STREAM_DELTAS),
    "river_page_hinkley": ("river Page-Hinkley", STREAM_THRESHOLDS),
}


@dataclass(frozen=True)
class Stream:
    """Fits of T blocks on these and later blocks of N rows.

    wrong: (T, T, N), at [t, b] whether the fit made before block t is wrong in the rows of block b; False where b is
    before t. brier: (T, T) mean squared errors of its probabilities, apart: (T, T) mean squared differences of these to
    those of the fit made before b; NaN where b is before t.
    """

    wrong: Mask
    brier: Array
    apart: Array


def fitted(rows: npt.NDArray[np.float32], block: int) -> Stream:
    """rows: (blocks * block, features + 1), the class (0, 1) last."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, y = rows[:, :-1], rows[:, -1].astype(int)
    blocks = len(rows) // block - TRAINED
    wrong = np.zeros((blocks, blocks, block), bool)
    said = np.full((blocks, blocks, block), np.nan, np.float32)
    truth = y[TRAINED * block :].reshape(blocks, block)
    with threadpool_limits(1):
        for t in range(blocks):
            known, later = slice(t * block, (t + TRAINED) * block), slice((t + TRAINED) * block, None)
            fit = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=15, random_state=0).fit(x[known], y[known])
            said[t, t:] = fit.predict_proba(x[later])[:, 1].reshape(-1, block)
            wrong[t, t:] = (said[t, t:] > 0.5) != truth[t:]
    fresh = said[np.arange(blocks), np.arange(blocks)]
    return Stream(wrong, ((said - truth) ** 2).mean(axis=2), ((said - fresh) ** 2).mean(axis=2))


def ours(stream: Stream) -> npt.NDArray[np.int64]:
    """The fit in force in each block when our verdict asks for trainings."""
    fresh = np.diag(stream.brier)

    def flags(t: int, end: int) -> Mask:
        regret = np.log(stream.brier[t, t:end] / fresh[t:end])
        # If the fresh fit is right, the champion's Brier score is larger by the mean squared difference of the two: the
        # disagreement that the verdict takes for such a stake.
        stake = stream.apart[t, t:end] / fresh[t:end]
        disagreement = np.sqrt(2) * (stake + np.sqrt(stake**2 + 4 * stake)) / 2
        return judge(regret[None], disagreement[None], POLICY).drifted[0]

    return in_force(flags, len(fresh))


def accuracy(stream: Stream, fits: npt.NDArray[np.int64]) -> float:
    """Share of the rows that the fits in force have right."""
    return 1 - float(stream.wrong[fits, np.arange(len(fits))].mean())


@dataclass(frozen=True)
class Found:
    """Of one stream: blocks until the change was found (infinite: it was not), quiet blocks, false alarms in them."""

    delay: float
    quiet: int
    false: int
    trainings: int
    accuracy: float


def judged(name: str, stream: Stream, fits: npt.NDArray[np.int64]) -> Found:
    """What the trainings of a method are worth on a generated stream."""
    width = WIDTHS[name.split(", ")[1]]
    begins = CHANGE - TRAINED - width // 2
    ends = begins + width + AHEAD
    blocks = np.arange(BLOCKS - TRAINED)
    alarms = np.flatnonzero(np.diff(fits) > 0)
    hit = alarms[(alarms >= begins) & (alarms < ends)]
    delay = float(hit[0] - begins + 1) if len(hit) else np.inf
    quiet = (blocks < begins) | (blocks >= ends + TRAINED)
    return Found(delay, int(quiet.sum()), int(quiet[alarms].sum()), len(alarms), accuracy(stream, fits))


def elec2() -> Stream | None:
    """Weeks of Elec2; None where the file is not among the data."""
    path = get_settings().data / ELEC2
    if not path.exists():
        print(f"{ELEC2} is not in {get_settings().data}: left out", file=sys.stderr)
        return None
    table = pl.read_parquet(path)
    up = (table["class"] == "UP").cast(pl.Float32).alias("up")
    rows = table.select(pl.col(ELEC2_FEATURES).cast(pl.Float32), up).to_numpy()
    return fitted(rows[: len(rows) // ELEC2_BLOCK * ELEC2_BLOCK], ELEC2_BLOCK)


def last_class() -> float:
    """Accuracy on the same rows of Elec2 of who says what the half-hour before was."""
    classes = pl.read_parquet(get_settings().data / ELEC2)["class"].to_numpy()
    end = len(classes) // ELEC2_BLOCK * ELEC2_BLOCK
    start = TRAINED * ELEC2_BLOCK
    return float((classes[start:end] == classes[start - 1 : end - 1]).mean())


def part(peers: Peers) -> None:
    """The tables."""
    generated, streams = peers.generated(), {}
    for number, (name, rows) in enumerate(generated.items()):
        if number % 12 == 0:
            print(f"streams: {number} of {len(generated)}", file=sys.stderr)
        streams[name] = fitted(rows, BLOCK)
    electric = elec2()
    everything = streams | ({"elec2": electric} if electric else {})
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder, "errors.npz")
        np.savez(errors, **{name: stream.wrong for name, stream in everything.items()})
        detected = peers.detected(errors)
    halves = [{n: s for n, s in streams.items() if int(n.split(", ")[-1]) % 2 == k} for k in (0, 1)]
    fits = {
        "none": {name: np.zeros(len(stream.brier), int) for name, stream in everything.items()},
        "every block": {name: np.arange(len(stream.brier)) for name, stream in everything.items()},
        "ours": {name: ours(stream) for name, stream in everything.items()},
    }
    for detector, (title, parameters) in DETECTORS.items():
        options = [{n: detected[f"{detector}/{n}"][k] for n in everything} for k in range(len(parameters))]
        gains = [np.mean([accuracy(stream, fit[name]) for name, stream in halves[0].items()]) for fit in options]
        best = int(np.argmax(gains))
        fits[f"{title}, {parameters[best]:g}"] = options[best]
    for family in ("SEA", "Agrawal"):
        for kind in WIDTHS:
            some = {n: s for n, s in halves[1].items() if n.startswith(f"{family}, {kind}")}
            print(f"\n{family}, {kind} changes, {len(some)} streams of {BLOCKS - TRAINED} blocks of {BLOCK} rows")
            print(f"{'':34} {'found':>7} {'median':>7} {'90 %':>7} {'false':>9} {'trainings':>10} {'accuracy':>9}")
            print(f"{'':34} {'':7} {'blocks':>7} {'blocks':>7} {'of 1,000':>9} {'a stream':>10} {'':9}")
            for name, mine in fits.items():
                results = [judged(one, stream, mine[one]) for one, stream in some.items()]
                delays = np.array([result.delay for result in results])
                early, late = (np.quantile(delays, q, method="inverted_cdf") for q in (0.5, 0.9))
                false = 1000 * sum(r.false for r in results) / sum(r.quiet for r in results)
                trainings, right = (np.mean([vars(r)[n] for r in results]) for n in ("trainings", "accuracy"))
                print(
                    f"{name:34} {np.isfinite(delays).mean():7.1%} {early:7.0f} {late:7.0f} {false:9.1f} "
                    f"{trainings:10.1f} {right:9.2%}"
                )
    if electric:
        print(f"\nElec2, {len(electric.brier)} weeks of {ELEC2_BLOCK} rows")
        print(f"{'':34} {'trainings':>10} {'accuracy':>9}")
        for name, mine in fits.items():
            trainings = int((np.diff(mine["elec2"]) > 0).sum())
            print(f"{name:34} {trainings:10d} {accuracy(electric, mine['elec2']):9.2%}")
        print(f"{'last class':34} {'':10} {last_class():9.2%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder of the peers' environment (default: in LAKEHOUSE_HOME)")
    given = parser.parse_args().peers or get_settings().home / "peers_drift"
    part(Peers(peers_python(given, "peers_drift.txt")))
