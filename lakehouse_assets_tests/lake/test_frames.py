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
