"""A fleet in shards: the series of a feature table, some hundreds at a time, and work on them side by side.

Memory is bounded by the shard, not by the fleet: whoever works on a shard reads its rows itself, where the work is
done. joblib is the seam between what is done and where: by default in this process, one shard after the other; within
:func:`worked_on_by` in processes of this machine, or on a cluster.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.panel import KEYS, NEVER, Panel, known_times

if TYPE_CHECKING:
    from joblib.parallel import ParallelBackendBase

SHARD_SERIES = 100
"""Series of a shard: with a year of hours and fifty features its panel takes 0.2 GB."""

Data = pl.DataFrame | pl.LazyFrame | Panel
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Shard:
    """Some series of a fleet; small, until :meth:`panel` reads their rows."""

    number: int
    series: tuple[str, ...]
    source: pl.LazyFrame | Panel
    target: str
    features: tuple[str, ...]
    issued: npt.NDArray[np.int64]
    horizon: int

    def panel(self) -> Panel:
        """The rows of the shard, on the issue times of the whole fleet."""
        if isinstance(self.source, Panel):
            return self.source
        # A range and not a list: a shard is contiguous, and ranges let the reader skip what lies outside.
        within = pl.col("series_id").is_between(pl.lit(self.series[0]), pl.lit(self.series[-1]))
        wanted = {*KEYS, self.target, "known_at", *self.features}
        columns = [name for name in self.source.collect_schema() if name in wanted]
        rows = self.source.filter(within).select(columns).collect()
        return Panel.from_frame(rows, self.target, self.features, self.horizon, self.issued)


@dataclass(frozen=True)
class Shards:
    """The data set of a forecast: the rows of a feature table, shard by shard.

    rows: the feature table, lazily, or a panel that is in memory. series: all ids, sorted. issued: (D,) all issue
    times, microseconds since the epoch. known_from: (D,) when the first target of an issue time became known,
    ``NEVER`` where none is; known_until: when the last of all did. features: the numeric columns that are neither key
    nor target. size: series of a shard.
    """

    rows: pl.LazyFrame | Panel
    target: str
    series: tuple[str, ...]
    issued: npt.NDArray[np.int64]
    known_from: npt.NDArray[np.int64]
    known_until: int
    features: tuple[str, ...]
    horizon: int
    size: int

    @classmethod
    def of(
        cls, data: "pl.DataFrame | pl.LazyFrame | Panel | Shards", target: str, size: int = SHARD_SERIES
    ) -> "Shards":
        """Shards of a feature table or of a panel; of a table only keys and target are read here.

        Raises:
            ValueError: there are no rows.
        """
        if isinstance(data, Shards):
            return data
        if isinstance(data, Panel):
            return cls._of_panel(data, target, size)
        rows = data.lazy()
        ids = rows.select(pl.col("series_id").cast(pl.String).unique().sort()).collect(engine="streaming")["series_id"]
        if ids.is_empty():
            raise ValueError("a data set needs at least one row of the feature table")
        schema = rows.collect_schema()
        features = Panel.features(schema, target)
        if len(ids) <= size:  # one shard: read once, whatever is asked of it
            return cls._of_panel(Panel.from_frame(rows.collect(), target, features), target, size)
        known = known_times(schema, target)
        queries = [
            rows.group_by("issued_at").agg(known.min().alias("first"), known.max().alias("last")).sort("issued_at"),
            rows.select(pl.col("horizon").max()),
        ]
        times, steps = pl.collect_all(queries, engine="streaming")
        latest = times["last"].max()
        return cls(
            rows,
            target,
            tuple(ids),
            times["issued_at"].dt.epoch("us").to_numpy(),
            times["first"].fill_null(NEVER).to_numpy(),
            int(latest) if isinstance(latest, int) else 0,
            tuple(features),
            int(steps.item()) + 1,
            size,
        )

    @classmethod
    def _of_panel(cls, panel: Panel, target: str, size: int) -> "Shards":
        known = np.where(np.isfinite(panel.target), panel.known_at, NEVER)
        first = known.min(axis=(0, 2), initial=NEVER)
        last = int(known.max(initial=0, where=known < NEVER))
        series, features = tuple(panel.series.tolist()), tuple(panel.columns)
        return cls(panel, target, series, panel.issued, first, last, features, panel.shape[2], size)

    def __len__(self) -> int:
        return -(-len(self.series) // self.size)

    def __iter__(self) -> Iterator[Shard]:
        # Equal shares: a last shard of a few series would learn what is shared from too little.
        bounds = np.linspace(0, len(self.series), len(self) + 1).round().astype(int)
        for number, (start, stop) in enumerate(pairwise(bounds)):
            source = self.rows.take(slice(int(start), int(stop))) if isinstance(self.rows, Panel) else self.rows
            yield self._shard(number, self.series[start:stop], source)

    def _shard(self, number: int, series: tuple[str, ...], source: pl.LazyFrame | Panel) -> Shard:
        return Shard(number, series, source, self.target, self.features, self.issued, self.horizon)

    def has(self, name: str) -> bool:
        """Whether the feature exists and holds a value anywhere."""
        if isinstance(self.rows, Panel) or name not in self.features:
            return isinstance(self.rows, Panel) and self.rows.has(name)
        return bool(self.rows.select(pl.col(name).is_finite().any()).collect(engine="streaming").item())

    def last_known(self, cutoff: int) -> npt.NDArray[np.int64]:
        """(S,) when the latest target of each series that was known by a cutoff became known; 0 for none."""
        if isinstance(self.rows, Panel):
            known = np.where(np.isfinite(self.rows.target), self.rows.known_at, NEVER)
            return np.asarray(np.where(known <= cutoff, known, 0).max(axis=(1, 2), initial=0))
        known_at = known_times(self.rows.collect_schema(), self.target)
        latest = known_at.filter(known_at <= cutoff).max().fill_null(0).alias("latest")
        by_series = self.rows.group_by(pl.col("series_id").cast(pl.String)).agg(latest).collect(engine="streaming")
        found = dict(by_series.iter_rows())
        return np.array([found.get(s, 0) for s in self.series], np.int64)

    def panel(self) -> Panel:
        """All rows at once: for fleets of one shard, and for looking at them."""
        if isinstance(self.rows, Panel):
            return self.rows
        return self._shard(0, self.series, self.rows).panel()

    def between(self, start: int, end: int) -> "Shards":
        """The issue times in [start, end), microseconds since the epoch."""
        a, b = np.searchsorted(self.issued, [start, end])
        days = slice(int(a), int(b))
        rows = self.rows
        if isinstance(rows, Panel):
            rows = rows.take(days=days)
        else:
            low, high = (pl.lit(t, pl.Int64).cast(pl.Datetime("us", "UTC")) for t in (start, end))
            rows = rows.filter((pl.col("issued_at") >= low) & (pl.col("issued_at") < high))
        return replace(self, rows=rows, issued=self.issued[days], known_from=self.known_from[days])

    def of_series(self, series: Iterable[str]) -> "Shards":
        """The data set of some of its series."""
        wanted = set(series)
        kept = tuple(s for s in self.series if s in wanted)
        if isinstance(self.rows, Panel):
            rows: pl.LazyFrame | Panel = self.rows.take(series=np.flatnonzero(np.isin(self.rows.series, list(kept))))
        else:
            rows = self.rows.filter(pl.col("series_id").is_in(kept))
        return replace(self, rows=rows, series=kept)


_WORKERS: ContextVar[Mapping[str, Any]] = ContextVar("workers", default=MappingProxyType({}))
"""joblib's arguments that say who works."""


@contextmanager
def worked_on_by(backend: "ParallelBackendBase | str", workers: int = -1) -> Iterator[None]:
    """Within it a backend of joblib does the tasks of :func:`each`, and nothing else.

    Not ``joblib.parallel_config``: scikit-learn heeds that too, and would send steps of milliseconds to processes.
    """
    token = _WORKERS.set({"backend": backend, "n_jobs": workers})
    try:
        yield
    finally:
        _WORKERS.reset(token)


def each(work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
    """What `work` makes of each task, in order, as it comes; where it is done :func:`worked_on_by` says.

    Both must pickle. A task is taken when a worker is free for it, so that the fleet is never in memory at once. A
    task that is alone is done here: it is held in memory already, and nothing is gained elsewhere.
    """
    tasks = iter(tasks)
    first = list(islice(tasks, 2))
    if len(first) < 2:
        return (_one(work, task) for task in first)
    from joblib import Parallel, delayed

    results: Iterator[_Result] = Parallel(**_WORKERS.get(), return_as="generator", pre_dispatch="n_jobs")(
        delayed(_one)(work, task) for task in chain(first, tasks)
    )
    return results


def _one(work: Callable[[_Task], _Result], task: _Task) -> _Result:
    """A task, with linear algebra in one thread: the same bits on any machine with the same processor."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        return work(task)


def in_threads(work: Callable[[str], _Result], names: Sequence[str]) -> dict[str, _Result]:
    """What `work` makes of each name, by name, in two threads: numpy and scikit-learn release the interpreter's lock.

    Which thread does what changes nothing in the results: each fit is computed as it would be alone. Linear algebra
    keeps to its thread: two that each call for every core wait for one another.
    """
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(names, pool.map(work, names), strict=True))
