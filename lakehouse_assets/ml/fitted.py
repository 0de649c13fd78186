"""Fitted forecasts: what a training leaves behind, and how it speaks where its own recipe cannot.

A :class:`FittedForecast` holds the fits of one shard of series; a :class:`ShardedForecast` holds the shards of a fleet
and reads one when a series of it is asked for.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml import ladder
from lakehouse_assets.ml.definition import Candidate
from lakehouse_assets.ml.errors import Past
from lakehouse_assets.ml.estimators import Blend, Fit
from lakehouse_assets.ml.intervals import COLUMNS, Intervals
from lakehouse_assets.ml.ladder import Reach, Spoken, counted, descend, members, speak
from lakehouse_assets.ml.panel import Panel
from lakehouse_assets.ml.window import TrainingWindow

Array = npt.NDArray[np.float64]

PREDICTION_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "issued_at": pl.Datetime("us", "UTC"),
    "series_id": pl.String,
    "ts": pl.Datetime("us", "UTC"),
    "horizon": pl.Int16,
    "yhat": pl.Float64,
    **{name: dtype for name, (dtype, _) in COLUMNS.items()},
    "rung": pl.String,
    "reason": pl.String,
}


def microseconds(time: datetime) -> int:
    """A datetime (naive: UTC) as microseconds since the epoch."""
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    delta = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def moment(us: int) -> datetime:
    """Microseconds since the epoch as a UTC datetime."""
    return datetime.fromtimestamp(us // 1_000_000, UTC).replace(microsecond=us % 1_000_000)


@dataclass(frozen=True)
class FittedForecast:
    """A fitted candidate with its ladder: what speaks, in order, where it has nothing to say.

    recipes and fits: by name, this candidate's own and those that it leans on (a blend's members, the ladder).
    expected_loss: mean absolute error of each series in the backtest.
    rows: the issue times with known targets of each series, where a fit has learned from them.
    intervals: what the backtest's errors say of the quantiles, and past: those errors by week and block of hours; None
    where there was no backtest (a fresh fit). window: what of the history the fits have learned from, if not all.
    """

    name: str
    recipes: Mapping[str, Candidate]
    fits: Mapping[str, Fit]
    ladder: tuple[str, ...]
    trained_at: datetime
    series_ids: list[str]
    feature_names: list[str]
    target: str
    horizon: int
    seed: int
    expected_loss: Mapping[str, float]
    rows: Mapping[str, int]
    intervals: Intervals | None = None
    past: Past | None = None
    window: TrainingWindow | None = None

    def parameters(self) -> dict[str, Any]:
        """The candidate's parameters."""
        return self.recipes[self.name].parameters()

    def predict(self, data: pl.DataFrame | Panel) -> pl.DataFrame:
        """A row for each row of a feature frame or panel, see ``PREDICTION_SCHEMA``."""
        return predict(self, data)

    def forecast(self, panel: Panel) -> Array:
        """(S, D, H) forecasts; finite wherever the series has any history."""
        return self.spoken(panel).forecast

    def spoken(self, panel: Panel) -> Spoken:
        """The forecasts with their quantiles, the rung of each, and why it was not the champion's own."""
        said = self._voices(panel)
        if self.intervals is None:
            return said
        return replace(said, quantiles=self.intervals.quantiles(panel.series.tolist(), said.forecast))

    def _voices(self, panel: Panel) -> Spoken:
        panel = panel.select(self.feature_names)
        reach = Reach.of(panel)
        recipe = self.recipes[self.name]
        rows = self._rows(panel)
        raw = {n: (self.recipes[n], self.fits[n].predict(panel)) for n in members(recipe, self.name)}
        own = speak(recipe, self.name, panel, {n: counted(r, f, reach, rows) for n, (r, f) in raw.items()})
        rung = np.full(panel.shape, ladder.CHAMPION, np.int8)
        reason = np.full(panel.shape[:2], None, object)
        unsaid = ~np.isfinite(own) & panel.present[:, :, None]
        if not unsaid.any():
            return Spoken(own, rung, reason)
        some = np.flatnonzero(unsaid.any(axis=(1, 2)))
        few, reach, rows = panel.take(series=some), reach.take(some), rows[some]
        stand_ins = (counted(self.recipes[n], self.fits[n].predict(few), reach, rows) for n in self.ladder)
        own[some], rung[some] = descend(own[some], stand_ins, few, reach)
        raw = {n: (r, f[some]) for n, (r, f) in raw.items()}
        why = ladder.reasons(self.name, few, raw, reach, rows, self.series_ids)
        reason[some] = why
        reason[~unsaid.any(axis=2)] = None
        return Spoken(own, rung, reason)

    def _rows(self, panel: Panel) -> npt.NDArray[np.int64]:
        return np.array([self.rows.get(s, 0) for s in panel.series], np.int64)

    def trained_at_of(self, series: Sequence[str]) -> list[datetime]:
        """When what forecasts each of some series was trained."""
        return [self.trained_at] * len(series)

    def only(self, series: Sequence[str]) -> "FittedForecast":
        """The model as far as it is needed for some series."""
        return self

    def recipes_of(self, series: Sequence[str]) -> Mapping[str, Candidate]:
        """The recipes with what was learned of some series."""
        return self.recipes


class Parts(Protocol):
    """The fitted shards of a fleet, by number; each is read when it is asked for."""

    def __getitem__(self, number: int, /) -> FittedForecast: ...


@dataclass(frozen=True)
class ShardedForecast:
    """The fitted candidate of a fleet, shard by shard.

    shards: the series of each. parts: the fitted shards. shared: the fits that all shards have in common, by name
    (models across series); the parts are kept without them. recipes: as of a :class:`FittedForecast`, with what was
    learned across the fleet; what a series alone has taught lies in its shard. intervals: of a series that no
    shard knows. window: as of a :class:`FittedForecast`.
    """

    name: str
    recipes: Mapping[str, Candidate]
    shared: Mapping[str, Fit]
    ladder: tuple[str, ...]
    trained_at: datetime
    shards: tuple[tuple[str, ...], ...]
    feature_names: list[str]
    target: str
    horizon: int
    seed: int
    expected_loss: Mapping[str, float]
    parts: Parts | None = field(compare=False, repr=False)
    intervals: Intervals | None = None
    window: TrainingWindow | None = None

    def parameters(self) -> dict[str, Any]:
        """The candidate's parameters."""
        return self.recipes[self.name].parameters()

    @property
    def series_ids(self) -> list[str]:
        """All series, sorted."""
        return [s for shard in self.shards for s in shard]

    @property
    def past(self) -> Past | None:
        """The backtest's errors of all series; reads every shard."""
        parts = (self.parts[i] for i in range(len(self.shards)) if self.parts is not None)
        return Past.joined([part.past for part in parts if part.past is not None])

    @property
    def fits(self) -> list[str]:
        """The names of the recipes that are fitted."""
        return [name for name, recipe in self.recipes.items() if not isinstance(recipe, Blend)]

    def part(self, number: int) -> FittedForecast:
        """A fitted shard, complete."""
        if self.parts is None:
            raise ValueError("this fleet was taken apart for its archive; read the archive to forecast with it")
        part = self.parts[number]
        return replace(part, fits={**part.fits, **self.shared})

    def predict(self, data: pl.DataFrame | Panel) -> pl.DataFrame:
        """A row for each row of a feature frame or panel, see ``PREDICTION_SCHEMA``."""
        return predict(self, data)

    def forecast(self, panel: Panel) -> Array:
        """(S, D, H) forecasts, each series by its shard; one that is new by what the fleet has in common."""
        return self.spoken(panel).forecast

    def spoken(self, panel: Panel) -> Spoken:
        """See :meth:`FittedForecast.spoken`."""
        out = Spoken.empty(panel.shape)
        for model, rows in self._models(panel):
            out.put(rows, model.spoken(panel.take(series=rows)))
        return out

    def _models(self, panel: Panel) -> Iterator[tuple[FittedForecast, npt.NDArray[np.int64]]]:
        """The models that speak for a panel's series, and the places of those series."""
        for number, rows in self._routes(panel.series.tolist()):
            yield self._stranger if number < 0 else self.part(number), rows

    def trained_at_of(self, series: Sequence[str]) -> list[datetime]:
        """When what forecasts each of some series was trained."""
        return [self.trained_at] * len(series)

    def only(self, series: Sequence[str]) -> "FittedForecast | ShardedForecast":
        """The model as far as it is needed for some series: their shards, in memory."""
        wanted = set(series)
        numbers = [i for i, shard in enumerate(self.shards) if not wanted.isdisjoint(shard)]
        if len(numbers) == 1 and wanted <= set(self.shards[numbers[0]]):
            return self.part(numbers[0])
        parts = [self.parts[i] for i in numbers] if self.parts is not None else []
        return replace(self, shards=tuple(self.shards[i] for i in numbers), parts=parts)

    def recipes_of(self, series: Sequence[str]) -> Mapping[str, Candidate]:
        """The recipes with what was learned of some series."""
        parts = [self.part(number) for number, _ in self._routes(series) if number >= 0]
        return {name: _joined(recipe, [part.recipes[name] for part in parts]) for name, recipe in self.recipes.items()}

    def _routes(self, series: Sequence[str]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """For each shard that is needed (-1: none knows the series), the places of its series."""
        place = np.array([self._place.get(s, -1) for s in series])
        for number in np.unique(place):
            yield int(number), np.flatnonzero(place == number)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {s: i for i, shard in enumerate(self.shards) for s in shard}

    @property
    def _stranger(self) -> FittedForecast:
        """What speaks for a series that no shard knows: its own fits are silent, the shared ones are not."""
        return FittedForecast(
            name=self.name,
            recipes=self.recipes,
            fits={name: self.shared.get(name, _SILENT) for name in self.fits},
            ladder=self.ladder,
            trained_at=self.trained_at,
            series_ids=[],
            feature_names=self.feature_names,
            target=self.target,
            horizon=self.horizon,
            seed=self.seed,
            expected_loss={},
            rows={},
            intervals=self.intervals,
        )

    # What an archive needs: the parts as files of their own, so that loading one series reads one shard.

    def dismantled(self) -> "tuple[ShardedForecast, Iterator[FittedForecast]]":
        """The model without its parts, and the parts."""
        return replace(self, parts=None), (self.parts[i] for i in range(len(self.shards)) if self.parts is not None)

    def assembled(self, parts: Parts) -> "ShardedForecast":
        """The model with parts to read from."""
        return replace(self, parts=parts)


def _joined(recipe: Candidate, parts: Sequence[Candidate]) -> Candidate:
    """A recipe with what several shards have taught it."""
    if not isinstance(recipe, Blend):
        return recipe
    weights = dict(recipe.weights or {})
    for part in parts:
        if isinstance(part, Blend) and part.weights:
            weights |= {s: w for s, w in part.weights.items() if s}
    return replace(recipe, weights=weights or None)


@dataclass(frozen=True)
class _Silent:
    def predict(self, panel: Panel) -> Array:
        return np.full(panel.shape, np.nan)


_SILENT = _Silent()


class Spool:
    """What shards leave behind, one file each in a folder, or in memory where no folder is given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._kept: list[Any] = []
        self._count = 0

    def append(self, item: Any) -> None:
        """Keep an item as the next."""
        if self.folder is None:
            self._kept.append(item)
        else:
            with (self.folder / f"{self._count:05d}.pickle").open("wb") as file:
                pickle.dump(item, file, protocol=5)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Any:
        if not 0 <= number < self._count:
            raise IndexError(number)
        if self.folder is None:
            return self._kept[number]
        with (self.folder / f"{number:05d}.pickle").open("rb") as file:
            return pickle.load(file)


@dataclass(frozen=True)
class Made:
    """Parts that are made from what was spooled."""

    make: Callable[[Any], FittedForecast]
    spool: Spool

    def __getitem__(self, number: int, /) -> FittedForecast:
        """The part of that number."""
        return self.make(self.spool[number])


def predict(model: Any, data: pl.DataFrame | Panel) -> pl.DataFrame:
    """The forecasts of a fitted model as rows."""
    if isinstance(data, pl.DataFrame):
        if data.is_empty():
            return pl.DataFrame(schema=PREDICTION_SCHEMA)
        data = Panel.from_frame(data, model.target, model.feature_names, model.horizon)
    return data.frame().with_columns(**model.spoken(data).columns(data.present))
