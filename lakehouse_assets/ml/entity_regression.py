"""Regression on entities as a kind of model: a value that an entity will have, such as its margin of twelve months.

Not to be confused with :mod:`lakehouse_assets.ml.regressions`, which forecasts of series are made with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml import entity_metrics as measures
from lakehouse_assets.ml.definition import BacktestResult, Columns
from lakehouse_assets.ml.entities import Fold, Snapshots
from lakehouse_assets.ml.entity_backtest import Fits
from lakehouse_assets.ml.entity_kind import EntityKind
from lakehouse_assets.ml.entity_metrics import Calibration, Counts, Scored
from lakehouse_assets.ml.recipes import Task

Array = npt.NDArray[np.float64]
LEAST = 30
"""Rows that are needed to learn from, or to be scored on."""


@dataclass(frozen=True)
class Regression(EntityKind):
    """The value of an entity that is known ``label_days`` later; candidates are ranked by their mean absolute error."""

    target: str = "margin_12m"
    label_days: int = 365

    name: ClassVar[str] = "regression"
    task: ClassVar[Task] = "regression"
    primary: ClassVar[str] = "mae"
    higher_is_better: ClassVar[bool] = False
    reference: ClassVar[str] = "median"
    prediction_column: ClassVar[str] = "predicted"
    loss_column: ClassVar[str] = "absolute_error"

    @property
    def prediction_columns(self) -> Columns:
        """The columns of a prediction."""
        return MappingProxyType(
            {**self._key_columns, "predicted": (pl.Float64(), f"The {self.target} that is predicted, in its unit.")}
        )

    @property
    def error_columns(self) -> Columns:
        """The columns of a prediction compared with what came true."""
        return MappingProxyType(
            {
                **self.prediction_columns,
                "outcome": (pl.Float64(), "The value that came true."),
                "error": (pl.Float64(), "Prediction less value."),
                "absolute_error": (pl.Float64(), "Absolute error."),
            }
        )

    # --- what the shared life of a kind asks for ----------------------------------------------------------------------

    def enough(self, y: Array) -> bool:
        """``LEAST`` rows."""
        return len(y) >= LEAST

    def constant(self, y: Array) -> float:
        """The median."""
        return float(np.median(y))

    def losses_of(self, y: Array, predicted: Array) -> Array:
        """(N,) absolute errors."""
        return np.abs(predicted - y)

    def primary_loss(self, scored: Scored, name: str, counts: Counts) -> Array:
        """The mean absolute error."""
        return measures.absolute_loss(scored, name, counts)

    def set_right(
        self, data: Snapshots, folds: Sequence[Fold], fits: Fits, name: str
    ) -> tuple[list[Array], Calibration]:
        """As they are."""
        return list(fits.predicted[name]), Calibration()

    def thresholds(self, data: Snapshots, folds: Sequence[Fold], said: Sequence[Array]) -> tuple[list[float], float]:
        """Nobody acts on a value: none."""
        return [float("nan")] * len(folds), float("nan")

    def metrics_of(self, scored: Scored, name: str, threshold: Array, counts: Counts | None) -> dict[str, float | None]:
        """mae and its 95 % interval, rmse, r2 (against the mean of the rows), bias (prediction less value)."""
        error = scored.predicted[name] - scored.y
        low = high = None
        if counts is not None:
            low, high = measures.interval(measures.absolute_loss(scored, name, counts))
        spread = float(((scored.y - scored.y.mean()) ** 2).sum())
        return {
            "mae": float(np.abs(error).mean()),
            "mae_low": low,
            "mae_high": high,
            "rmse": float(np.sqrt((error**2).mean())),
            "r2": 1 - float((error**2).sum()) / spread if spread else None,
            "bias": float(error.mean()),
        }

    def predictions(self, frame: pl.DataFrame, score: Array, threshold: float) -> pl.DataFrame:
        """The keys and the value."""
        return frame.select(
            self.time_column, pl.col(self.entity).cast(pl.String), predicted=pl.Series(score, dtype=pl.Float64)
        )

    # --- predictions and what came ------------------------------------------------------------------------------------

    def errors(self, predictions: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
        """Predictions with the value that came, where it is known: adds outcome, error, absolute_error."""
        error = pl.col("predicted") - pl.col("outcome")
        return self._compared(predictions, features).with_columns(error=error, absolute_error=error.abs())

    def scores(self, errors: pl.DataFrame) -> dict[str, float]:
        """mae, rmse and bias."""
        if errors.is_empty():
            return {}
        error = errors["error"].to_numpy()
        found = {"mae": np.abs(error).mean(), "rmse": np.sqrt((error**2).mean()), "bias": error.mean()}
        return {name: float(value) for name, value in found.items()}

    # --- pictures -----------------------------------------------------------------------------------------------------

    def pictures(self, result: BacktestResult) -> dict[str, bytes]:
        """leaderboard, predicted against actual, residuals, importance, and the tree, if there is one: PNG by name."""
        from lakehouse_assets.ml import entity_pictures

        return entity_pictures.regression_pictures(result, self.reference)

    def error_pictures(self, errors: pl.LazyFrame) -> dict[str, bytes]:
        """Predictions against what came, and both by snapshot: PNG by name."""
        from lakehouse_assets.ml import entity_pictures

        return entity_pictures.outcome_pictures(errors, self.time_column, "predicted", "outcome")
