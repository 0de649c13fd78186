"""Frames that come one after the other, as one LazyFrame: what is too large for memory is written as it is made."""

import ctypes
from collections.abc import Callable, Iterator

import polars as pl
from polars.io.plugins import register_io_source

ROWS_AT_A_TIME = 16_384
"""Rows of what is handed on: polars runs some dozens of these ahead of who takes them."""


def lazily(frames: Callable[[], Iterator[pl.DataFrame]], schema: pl.Schema) -> pl.LazyFrame:
    """The rows of all frames.

    Args:
        frames: makes the frames, anew each time that the LazyFrame is run.
        schema: of every one of them.
    """

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for frame in frames():
            rows = frame if predicate is None else frame.filter(predicate)
            rows = rows if with_columns is None else rows.select(with_columns)
            rows = rows if left is None else rows.head(left)
            yield from rows.iter_slices(ROWS_AT_A_TIME)
            if left is not None:
                left -= rows.height
                if left <= 0:
                    return

    return register_io_source(source, schema=schema)


def exact_sum(values: pl.Expr) -> pl.Expr:
    """The sum in whole millionths, whose bits do not depend on the order of the rows; of no rows 0."""
    return (values * 1e6).round().cast(pl.Int64, strict=False).sum() / 1e6


def exact_mean(values: pl.Expr) -> pl.Expr:
    """The mean by `exact_sum`; of no rows null."""
    return pl.when(values.count() > 0).then(exact_sum(values) / values.count())


def return_memory() -> None:
    """Give freed memory back to the system.

    What threads of polars and deltalake have freed the C library keeps in pools of theirs, in pieces too small for the
    next large array, so that a long write grows by the month although nothing is held. Where the library is another
    than glibc nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
