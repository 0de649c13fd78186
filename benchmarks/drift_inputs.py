"""What the input channel says of the real data of benchmarks/drift.py: a look every four weeks.

A look compares the inputs of the latest four weeks with those of their season (ml/inputs.py) and takes seconds, so
that the looks at both sources take some minutes; they are kept beside the champions (see drift_data.py). No champion
is asked: the flags are the same whoever is in force.
"""

import os
import sys
import time
from dataclasses import dataclass

import numpy as np
import polars as pl
from drift_data import CACHE, EIA, PJM, REFERENCE_WEEKS, Source, fingerprint, history, refined
from drift_methods import POLICY
from drift_score import Fleet, Mask

from lakehouse_assets.ml import inputs, unusual
from lakehouse_assets.ml.panel import DAY_US

WEEK_US = 7 * DAY_US
NAME = f"ours, input, every {inputs.WINDOW} weeks"


@dataclass(frozen=True)
class Looks:
    """What was seen, and what it cost.

    flagged: (series id, start of the week that a look ends with, microseconds since the epoch). seconds: CPU seconds of
    all looks.
    """

    flagged: frozenset[tuple[str, int]]
    seconds: float

    def flags(self, fleet: Fleet) -> Mask:
        """The series and weeks that are flagged, as a method of drift_methods.py."""
        weeks = fleet.aged.weeks.tolist()
        return np.array([[(name, week) in self.flagged for week in weeks] for name in fleet.aged.series.tolist()])


def looks(source: Source) -> tuple[pl.DataFrame, float]:
    """Every fourth week of a source: the rows of ``inputs.surprises`` with the week, and CPU seconds; made once."""
    path = CACHE / f"{source.name}-looks-{fingerprint(source, refined, history, looks, inputs, unusual)}.parquet"
    if not path.exists():
        print(f"looks at the inputs of {source.name}: made once, kept in {path}", file=sys.stderr)
        panel, weeks = history(source)
        frames = []
        due = weeks[REFERENCE_WEEKS + inputs.WINDOW - 1 :: inputs.WINDOW]
        for number, week in enumerate(due):
            began = time.process_time()
            found = inputs.surprises(panel, week + WEEK_US)
            seconds = time.process_time() - began
            frames.append(found.with_columns(week=pl.lit(week, pl.Int64), seconds=pl.lit(seconds)))
            if number % 10 == 0:
                print(f"{source.name}: look {number + 1} of {len(due)}", file=sys.stderr, flush=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        pl.concat(frames).write_parquet(part)
        part.replace(path)
    frame = pl.read_parquet(path)
    return frame.drop("seconds"), float(frame.unique("week")["seconds"].sum())


def decided() -> Looks:
    """The flags of both sources, each look decided by the model's policy over all its series."""
    flagged: set[tuple[str, int]] = set()
    cost = 0.0
    for source in (EIA, PJM):
        rows, seconds = looks(source)
        cost += seconds
        for (week,), look in rows.partition_by("week", as_dict=True).items():
            moved = inputs.decided(look.drop("week"), POLICY).filter("moved")
            flagged |= {(name, int(week)) for name in moved["series_id"]}
    return Looks(frozenset(flagged), cost)


if __name__ == "__main__":
    decided()
