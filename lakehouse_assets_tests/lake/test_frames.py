import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

from lakehouse_assets.lake.frames import lazily
from lakehouse_assets.lake.table import Table

SCHEMA = pl.Schema({"part": pl.String, "n": pl.Int64})


def frames() -> Iterator[pl.DataFrame]:
    for part in range(4):
        yield pl.DataFrame({"part": [f"p{part}"] * 3, "n": range(3 * part, 3 * part + 3)}, schema=SCHEMA)


def test_frames_are_one_table() -> None:
    lazy = lazily(frames, SCHEMA)
    whole = pl.concat(frames())
    assert_frame_equal(lazy.collect(), whole)
    assert_frame_equal(lazy.filter(pl.col("n") > 4).select("part").collect(), whole.filter(pl.col("n") > 4)[["part"]])
    assert_frame_equal(lazy.head(5).collect(), whole.head(5))


def test_a_frame_is_made_when_the_one_before_has_been_taken(tmp_path: Path) -> None:
    made: list[int] = []

    def many() -> Iterator[pl.DataFrame]:
        for part in range(60):
            made.append(part)
            yield pl.DataFrame({"part": ["p"] * 50_000, "n": range(50_000)}, schema=SCHEMA)

    assert Table(tmp_path / "t").append(lazily(many, SCHEMA)).rows == 3_000_000
    assert made == list(range(60))
    made.clear()
    first = next(iter(lazily(many, SCHEMA).collect_batches(engine="streaming", lazy=True)))
    assert first.height
    assert len(made) < 60


WRITES = """
import resource, sys
import numpy as np, polars as pl
from lakehouse_assets.lake.frames import lazily
from lakehouse_assets.lake.table import Table

values = pl.DataFrame(np.random.default_rng(0).random((50_000, 20)), schema=[f"c{i}" for i in range(20)])

def frames():
    for number in range(60):
        yield (values + number).with_columns(part=pl.lit(f"p{number // 30}"))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

schema = next(frames()).schema
Table(sys.argv[1] + "/small").append(lazily(lambda: (f.head(10) for f in frames()), schema), partition_by=["part"])
before = peak()
Table(sys.argv[1] + "/large").append(lazily(frames, schema), partition_by=["part"])
print(peak() - before)
"""


def test_partitions_that_come_one_after_the_other_are_not_held_in_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITES, str(tmp_path)]
    grown = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert grown < 300, f"{grown} MB more for a table of 480 MB"
