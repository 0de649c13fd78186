"""Entities as a data set: snapshots of a feature table, what was known when, and the folds that models are scored on.

A row is an entity as of a moment: (as_of, customer_id). What is to be predicted about it is known ``label_days`` later.
With several snapshots, folds are rolling origins: a fit at an origin learns only from rows whose target was known by
then. With a single snapshot there is no time to go by: what is known is known, and folds are those of a repeated
k-fold, stratified, in which an entity is never on both sides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from lakehouse_assets.ml.panel import DAY_US, NEVER

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Enough = Callable[[Array], bool]
"""Whether the targets of some rows suffice to learn from, or to be scored on."""


@dataclass(frozen=True)
class Snapshots:
    """Rows of a feature table, sorted by time and entity.

    time, entity, target: names of its columns. label_days: so long after a row its target is known; where there is but
    one snapshot it is known at once. numbers, categories: the names of the inputs: numeric and Boolean columns, and
    text; not the keys, the target, the partition column ``month``, nor what is only known afterwards (``outcomes``).
    """

    frame: pl.DataFrame
    time: str
    entity: str
    target: str
    label_days: int
    numbers: tuple[str, ...]
    categories: tuple[str, ...]

    @classmethod
    def of(
        cls,
        rows: pl.DataFrame | pl.LazyFrame,
        keys: Sequence[str],
        target: str,
        label_days: int,
        outcomes: Sequence[str],
    ) -> "Snapshots":
        """From rows of a feature table; every column that is no key and no outcome is an input."""
        time, entity = keys
        frame = rows.lazy().sort(time, entity).collect()
        missing = [name for name in (time, entity, target) if name not in frame.columns]
        if missing:
            raise ValueError(
                f"the feature table lacks {', '.join(missing)}: it has {', '.join(frame.columns)}; name its columns in "
                "the model's kind (entity, target)"
            )
        other = {time, entity, target, "month", *outcomes}
        inputs = frame.select(cs.exclude(*other))
        return cls(
            frame=frame,
            time=time,
            entity=entity,
            target=target,
            label_days=label_days,
            numbers=tuple(inputs.select(cs.numeric() | cs.boolean()).columns),
            categories=tuple(inputs.select(cs.string() | cs.categorical() | cs.enum()).columns),
        )

    def __len__(self) -> int:
        return self.frame.height

    def take(self, rows: Rows | npt.NDArray[np.bool_]) -> "Snapshots":
        """Some of the rows."""
        chosen = np.flatnonzero(rows) if rows.dtype == bool else rows
        return replace(self, frame=self.frame[chosen])

    @cached_property
    def as_of(self) -> npt.NDArray[np.int64]:
        """(N,) microseconds since the epoch."""
        return self.frame[self.time].dt.epoch("us").to_numpy()

    @cached_property
    def times(self) -> npt.NDArray[np.int64]:
        """(M,) the snapshots, ascending."""
        return np.unique(self.as_of)

    @cached_property
    def y(self) -> Array:
        """(N,) the targets, NaN where they are not known."""
        values = self.frame[self.target].cast(pl.Float64)
        return np.where(values.is_finite().fill_null(value=False).to_numpy(), values.to_numpy(), np.nan)

    @cached_property
    def known_at(self) -> npt.NDArray[np.int64]:
        """(N,) when the target was known; ``NEVER`` where it is not yet."""
        lag = self.label_days * DAY_US if len(self.times) > 1 else 0
        return np.where(np.isfinite(self.y), self.as_of + lag, NEVER)

    @property
    def known_until(self) -> int:
        """When all was known that is known here."""
        known = self.known_at[self.known_at < NEVER]
        return int(max(self.times.max(initial=0), known.max(initial=0)))

    @cached_property
    def entities(self) -> npt.NDArray[np.int64]:
        """(N,) the number of the entity of each row."""
        return self.frame[self.entity].cast(pl.String).rank("dense").cast(pl.Int64).to_numpy() - 1


def inputs_of(frame: pl.DataFrame, numbers: Sequence[str], categories: Sequence[str]) -> pl.DataFrame:
    """The inputs of rows as models take them: finite numbers or null, and text or null.

    Raises:
        ValueError: a column is missing, with its name.
    """
    missing = [name for name in (*numbers, *categories) if name not in frame.columns]
    if missing:
        raise ValueError(f"the model needs the inputs {', '.join(missing)}, which the rows lack")
    known = (pl.col(name).cast(pl.Float64) for name in numbers)
    return frame.select(
        *(pl.when(number.is_finite()).then(number) for number in known),
        *(pl.col(name).cast(pl.String) for name in categories),
    )


# --- folds ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """What is learned from and what is scored, as row numbers.

    number: from 0; negative for warm-up folds, which are predicted but not scored. repeat: of a repeated k-fold; 0
    else. origin: of a rolling origin, microseconds since the epoch; None in a k-fold.
    """

    number: int
    repeat: int
    origin: int | None
    learned: Rows
    scored: Rows


WARM_UP = 2
"""Rolling origins before those that are scored: calibration and threshold of the first of them are learned there."""
MOST_APART = 3
"""Snapshots from one rolling origin to the next, at most."""


def rolling_origins(data: Snapshots, cutoff: int, count: int, enough: Enough) -> list[Fold]:
    """The latest origins at which there is enough to learn from and to be scored on; none where there is no such one.

    An origin is the time of a snapshot; it scores that snapshot, and learns from the rows whose targets were known by
    then. Where the history is long they lie ``MOST_APART`` snapshots apart, so that they see more of the year.
    """
    known = data.known_at <= cutoff
    places = []
    for time in data.times:
        learned, scored = np.flatnonzero(data.known_at <= time), np.flatnonzero(known & (data.as_of == time))
        if len(data.times) > 1 and time <= cutoff and enough(data.y[learned]) and enough(data.y[scored]):
            places.append((int(time), learned, scored))
    total = count + WARM_UP
    apart = min(MOST_APART, max(1, len(places) // total))
    chosen = places[::-1][::apart][:total][::-1]
    warm_up = min(WARM_UP, max(0, len(chosen) - 1) // 2)
    return [Fold(i - warm_up, 0, origin, learned, scored) for i, (origin, learned, scored) in enumerate(chosen)]


def repeated_folds(
    data: Snapshots, cutoff: int, splits: int, repeats: int, seed: int, *, stratified: bool
) -> list[Fold]:
    """A repeated k-fold over the entities whose targets are known at the cutoff; stratified by the target or not."""
    from sklearn.model_selection import KFold, StratifiedKFold

    known = np.flatnonzero(data.known_at <= cutoff)
    of = data.entities[known]
    entities, first = np.unique(of, return_index=True)
    label = np.zeros(len(entities))
    if stratified:
        np.maximum.at(label, np.searchsorted(entities, of), data.y[known])
    folds: list[Fold] = []
    for repeat in range(repeats):
        split = (StratifiedKFold if stratified else KFold)(splits, shuffle=True, random_state=seed + repeat)
        for _, test in split.split(first, label):
            scored = np.isin(of, entities[test])
            folds.append(Fold(len(folds), repeat, None, known[~scored], known[scored]))
    return folds
