"""A fleet in force: fitted models of several versions as one model, each series forecast by its own version."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.errors import Past
from lakehouse_assets.ml.panel import Panel

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fleet:
    """The versions in force, routed by series.

    models: version -> fitted model, for every version that is in force for a series, and for `version`.
    assignment: series -> version. version: the fleet's champion; it serves the series that have no version of their
    own (new ones), and its recipe, parameters and shape stand for the whole.
    """

    models: Mapping[int, Any]
    assignment: Mapping[str, int]
    version: int

    def version_of(self, series: str) -> int:
        """The version in force for a series."""
        return self.assignment.get(series, self.version)

    def series_by_version(self, series: Iterable[str]) -> dict[int, list[str]]:
        """Version -> those of the series that it serves, by ascending version."""
        found: dict[int, list[str]] = {}
        for one in series:
            found.setdefault(self.version_of(one), []).append(one)
        return dict(sorted(found.items()))

    def predict(self, data: pl.DataFrame) -> pl.DataFrame:
        """The models' predictions for the rows of a feature frame, with `model_version`: which one made each."""
        members = self.series_by_version(data["series_id"].unique(maintain_order=True).to_list())
        if len(members) <= 1:
            version = next(iter(members), self.version)
            return self._by(version, data)
        return pl.concat(
            self._by(version, data.filter(pl.col("series_id").is_in(series))) for version, series in members.items()
        )

    def _by(self, version: int, data: pl.DataFrame) -> pl.DataFrame:
        return self.models[version].predict(data).with_columns(model_version=pl.lit(version, pl.Int64))

    def forecast(self, panel: Panel) -> Array:
        """(S, D, H) forecasts of a panel."""
        series = panel.series.tolist()
        members = self.series_by_version(series)
        if len(members) == 1:
            return self.models[next(iter(members))].forecast(panel)
        out = np.full(panel.shape, np.nan)
        for version, served in members.items():
            mine = np.flatnonzero(np.isin(panel.series, served))
            out[mine] = self.models[version].forecast(panel.take(series=mine))
        return out

    def only(self, series: Sequence[str]) -> "Fleet":
        """The fleet as far as it is needed for some series: the shards of the versions that serve them, in memory."""
        served = self.series_by_version(series)
        models = {version: self.models[version].only(mine) for version, mine in served.items()}
        models.setdefault(self.version, self.champion.only([]))
        return replace(self, models=models, assignment={s: v for v, mine in served.items() for s in mine})

    def recipes_of(self, series: Sequence[str]) -> Mapping[str, Any]:
        """The champion's recipes with what was learned of some series."""
        return self.champion.recipes_of(series)

    def mapped(self, work: Callable[[Any], Any]) -> "Fleet":
        """The fleet with what `work` makes of each of its models."""
        return replace(self, models={version: work(model) for version, model in self.models.items()})

    @property
    def champion(self) -> Any:
        """The fitted model of the fleet's champion."""
        return self.models[self.version]

    @property
    def trained_at(self) -> datetime:
        """The latest cutoff of all versions."""
        return max(model.trained_at for model in self.models.values())

    def trained_at_of(self, series: Sequence[str]) -> list[datetime]:
        """When the version in force for each of some series was trained."""
        return [self.models[self.version_of(one)].trained_at for one in series]

    @cached_property
    def series_ids(self) -> list[str]:
        """The series that have a version of their own or that the champion knows."""
        return sorted({*self.assignment, *self.champion.series_ids})

    @property
    def feature_names(self) -> list[str]:
        """The features that any of the models reads, the champion's first."""
        models = [self.champion, *self.models.values()]
        return list(dict.fromkeys(name for model in models for name in model.feature_names))

    @cached_property
    def expected_loss(self) -> dict[str, float]:
        """Each series' backtest loss under the version in force for it."""
        return {
            series: losses[series]
            for version, served in self.series_by_version(self.series_ids).items()
            for losses in (self.models[version].expected_loss,)
            for series in served
            if series in losses
        }

    @property
    def past(self) -> Past | None:
        """Each series' past errors under the version in force for it."""
        served = self.series_by_version(self.series_ids)
        found = {version: getattr(self.models[version], "past", None) for version in served}
        return Past.joined([past.only(served[version]) for version, past in found.items() if past is not None])

    def parameters(self) -> dict[str, Any]:
        """The champion's parameters."""
        return self.champion.parameters()

    # What a backtest enters for the fleet before its versions were trained: the champion's recipe.

    @property
    def name(self) -> str:
        """The champion's name."""
        return str(self.champion.name)

    @property
    def recipes(self) -> Mapping[str, Any]:
        """The champion's recipes."""
        return self.champion.recipes

    @property
    def fits(self) -> Mapping[str, Any]:
        """The champion's fits."""
        return self.champion.fits

    @property
    def ladder(self) -> tuple[str, ...]:
        """The champion's ladder."""
        return self.champion.ladder

    @property
    def seed(self) -> int:
        """The champion's seed."""
        return int(self.champion.seed)
