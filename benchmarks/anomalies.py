"""Anomaly detectors on the 58 labelled series of the Numenta Anomaly Benchmark: precision, recall and F1.

    python benchmarks/anomalies.py [--json FILE]

Counting. A detector alarms at every row whose score reaches its threshold, one for all series, after the probation
(NAB's: 15 % of the rows, 750 at most). A labelled window is found when a row in it alarms. Alarms outside all windows
are false; those within a day of the first of them are one. Precision is windows found by windows found and false
alarms, recall is windows found by windows.

Threshold, the same rule for all: the one with the best F1 on one half of the series is applied to the other half, and
the other way round; halves are by the hash of the series' name. A second table has the threshold that keeps a budget
of false alarms on the other half. Our detectors were designed on half 0 alone: half 1 is blind. "last value by record"
is the last-value rule in the units that forecast residuals are told in, "always" alarms at every row: what each part
of ours is worth.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from threadpoolctl import threadpool_limits

from lakehouse_assets.ml.anomalies import (
    DAY_US,
    Times,
    isolation_forest,
    last_value,
    probation,
    relative_to_record,
    residuals,
    windowed_gaussian,
)
from lakehouse_assets.settings import get_settings

Array = npt.NDArray[np.float64]
FILE, WINDOWS = "nab_58series.parquet", "nab_combined_windows.json"
DETECTORS: dict[str, Callable[[Times, Array], Array]] = {
    "forecast residuals": residuals,
    "isolation forest": isolation_forest,
    "windowed Gaussian": lambda _, values: windowed_gaussian(values),
    "last value": lambda _, values: last_value(values),
    "last value by record": lambda _, values: relative_to_record(np.abs(np.diff(values, prepend=values[:1])), values),
    "always": lambda _, values: np.ones(len(values)),
}
OURS, BASELINES = "forecast residuals", ("windowed Gaussian", "last value")
BUDGET = 0.5
"""False alarms in 10,000 rows."""


@dataclass(frozen=True)
class Stream:
    """A labelled series: half of the benchmark, times (microseconds), values, windows (first and last time)."""

    half: int
    times: Times
    values: Array
    windows: list[tuple[int, int]]


@dataclass(frozen=True)
class Scored:
    """What counts of a detector's scores: the highest in each window, and those outside with their times."""

    half: int
    rows: int
    windows: Array
    times: Times
    outside: Array


@dataclass(frozen=True)
class Count:
    """Windows found, of so many, false alarms, and rows."""

    found: int
    windows: int
    false: int
    rows: int

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.found + other.found, self.windows + other.windows, self.false + other.false, self.rows + other.rows
        )

    @property
    def precision(self) -> float:
        """Windows found by windows found and false alarms."""
        return self.found / max(self.found + self.false, 1)

    @property
    def recall(self) -> float:
        """Windows found by windows."""
        return self.found / max(self.windows, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.found / max(self.found + self.false + self.windows, 1)


def streams(data: Path) -> list[Stream]:
    """The series of the benchmark."""
    labelled = json.loads((data / WINDOWS).read_text())
    found = []
    for (name,), rows in pl.read_parquet(data / FILE).partition_by("series", as_dict=True, maintain_order=True).items():
        half = int(hashlib.sha256(str(name).encode()).hexdigest(), 16) % 2
        windows = [(_micros(first), _micros(last)) for first, last in labelled[name]]
        found.append(Stream(half, rows["ts"].dt.epoch("us").to_numpy(), rows["value"].to_numpy(), windows))
    return found


def _micros(text: str) -> int:
    return round((datetime.fromisoformat(text) - datetime(1970, 1, 1)).total_seconds() * 1_000_000)


def scored(stream: Stream, detector: Callable[[Times, Array], Array]) -> Scored:
    """A detector's scores of a stream; those of the probation count for nothing."""
    scores = detector(stream.times, stream.values)
    scores[: probation(len(scores))] = -np.inf
    inside = np.zeros(len(scores), bool)
    highest = []
    for first, last in stream.windows:
        here = (stream.times >= first) & (stream.times <= last)
        highest.append(float(scores[here].max()))
        inside |= here
    return Scored(stream.half, len(scores), np.array(highest), stream.times[~inside], scores[~inside])


def count(some: Sequence[Scored], threshold: float) -> Count:
    """Windows found and false alarms at a threshold."""
    total = Count(0, 0, 0, 0)
    for one in some:
        at, false, place = one.times[one.outside >= threshold], 0, 0
        while place < len(at):
            false += 1
            place = int(np.searchsorted(at, at[place] + DAY_US, side="right"))
        total += Count(int((one.windows >= threshold).sum()), len(one.windows), false, one.rows)
    return total


def _thresholds(some: Sequence[Scored]) -> list[float]:
    """Where the number of windows found changes; the highest first."""
    highest = np.concatenate([one.windows for one in some])
    return [float(x) for x in np.unique(highest[np.isfinite(highest)])[::-1]]


def best_f1(some: Sequence[Scored]) -> float:
    """The threshold of the best F1; of equal ones the highest."""
    return max(_thresholds(some), key=lambda threshold: count(some, threshold).f1)


def within_budget(some: Sequence[Scored]) -> float:
    """The threshold that finds most windows within the budget of false alarms."""
    kept = [np.inf]
    for threshold in _thresholds(some):
        now = count(some, threshold)
        if now.false > BUDGET * now.rows / 10_000:
            break
        kept.append(threshold)
    return kept[-1]


def crossed(every: Sequence[Scored], rule: Callable[[Sequence[Scored]], float]) -> list[tuple[float, Count]]:
    """Threshold and count of each half, the threshold by the other half."""
    halves = [[one for one in every if one.half == half] for half in (0, 1)]
    thresholds = [rule(halves[1]), rule(halves[0])]
    return [(threshold, count(half, threshold)) for threshold, half in zip(thresholds, halves, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    data = get_settings().data
    if not (data / FILE).exists():
        sys.exit(f"{data / FILE} is not there: set LAKEHOUSE_DATA to the folder that holds it")
    series = streams(data)
    scores, seconds = {}, {}
    with threadpool_limits(1):
        for name, detector in DETECTORS.items():
            began = time.process_time()
            scores[name] = [scored(stream, detector) for stream in series]
            seconds[name] = time.process_time() - began
    report: dict[str, object] = {"cpu_seconds": seconds}
    rules = {"best F1 on the other half": best_f1, f"{BUDGET} false alarms in 10,000 rows": within_budget}
    f1: dict[str, list[float]] = {}
    for title, rule in rules.items():
        print(f"\nthreshold: {title}\n{'':21} {'part':8} {'threshold':>9} {'found':>10} {'false':>6}", end="")
        print(f" {'precision':>9} {'recall':>7} {'F1':>6}")
        rows = []
        for name in DETECTORS:
            halves: list[tuple[float | None, Count]] = [*crossed(scores[name], rule)]
            parts = [*((f"half {half}", *found) for half, found in enumerate(halves))]
            parts.append(("all", None, halves[0][1] + halves[1][1]))
            for part, threshold, c in parts:
                shown = "" if threshold is None else f"{threshold:.3g}"
                print(f"{name:21} {part:8} {shown:>9} {f'{c.found} of {c.windows}':>10} {c.false:>6}", end="")
                print(f" {c.precision:>9.3f} {c.recall:>7.3f} {c.f1:>6.3f}")
                row = {"detector": name, "part": part, "threshold": threshold, "found": c.found, "windows": c.windows}
                rows.append(row | {"false": c.false, "precision": c.precision, "recall": c.recall, "f1": c.f1})
            if rule is best_f1:
                f1[name] = [c.f1 for _, _, c in parts]
        report[title] = rows
    print("\nCPU seconds: " + ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items()))
    met = all(ours > other for name in BASELINES for ours, other in zip(f1[OURS], f1[name], strict=True))
    print(f"F1 of {OURS} above both baselines, in both halves and in all: {'yes' if met else 'NO'}")
    report["above_both_baselines"] = met
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1, default=float))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
