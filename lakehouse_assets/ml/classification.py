"""Classification of entities as a kind of model: the probability of an event, and whom it pays to act on.

Candidates are ranked by the ROC AUC. Their probabilities are calibrated by what came out of sample, and the threshold
of the action is the one that gained most out of sample; both are learned on other folds than they are scored on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml import entity_metrics as measures
from lakehouse_assets.ml.definition import BacktestResult, Columns
from lakehouse_assets.ml.entities import Fold, Snapshots
from lakehouse_assets.ml.entity_backtest import Fits, earlier, seen
from lakehouse_assets.ml.entity_kind import EntityKind
from lakehouse_assets.ml.entity_metrics import Action, Calibration, Counts, Scored
from lakehouse_assets.ml.recipes import Task

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Classification(EntityKind):
    """Whether something happens to an entity within ``label_days``; the target is Boolean, or 0 and 1.

    calibration: of the probabilities, ``sigmoid`` (two parameters) or ``isotonic`` (a step function; for many events).
    The business figure: acting on an entity costs ``action_cost``, averts the event in the share ``success_rate`` of
    those whom it would befall, and each that is averted is worth ``saved_value`` (all in one currency).
    """

    target: str = "churned"
    calibration: Literal["sigmoid", "isotonic"] = "sigmoid"
    saved_value: float = 500.0
    action_cost: float = 25.0
    success_rate: float = 0.25

    name: ClassVar[str] = "classification"
    task: ClassVar[Task] = "classification"
    primary: ClassVar[str] = "roc_auc"
    higher_is_better: ClassVar[bool] = True
    reference: ClassVar[str] = "base_rate"
    prediction_column: ClassVar[str] = "probability"
    loss_column: ClassVar[str] = "log_loss"

    def __post_init__(self) -> None:
        if self.calibration not in ("sigmoid", "isotonic"):
            raise ValueError(f"calibration is {self.calibration!r}: give sigmoid or isotonic")
        if not (self.saved_value > 0 and self.action_cost >= 0 and 0 < self.success_rate <= 1):
            raise ValueError(
                "the business figure needs a positive saved_value, an action_cost of 0 or more, and a success_rate "
                f"between 0 and 1: they are {self.saved_value}, {self.action_cost} and {self.success_rate}"
            )

    @property
    def action(self) -> Action:
        """What it is worth to act."""
        return Action(self.saved_value, self.action_cost, self.success_rate)

    @property
    def prediction_columns(self) -> Columns:
        """The columns of a prediction."""
        return MappingProxyType(
            {
                **self._key_columns,
                "probability": (pl.Float64(), f"Probability of the event within {self.label_days} days."),
                "act": (pl.Boolean(), "Whether it pays to act: the probability reaches the model's threshold."),
            }
        )

    @property
    def error_columns(self) -> Columns:
        """The columns of a prediction compared with what came true."""
        return MappingProxyType(
            {
                **self.prediction_columns,
                "outcome": (pl.Float64(), "1 where the event came, else 0."),
                "error": (pl.Float64(), "Probability less outcome."),
                "log_loss": (pl.Float64(), "Logarithmic loss of the probability."),
                "action_gain": (pl.Float64(), "What acting on the prediction is expected to have gained; 0 without."),
            }
        )

    # --- what the shared life of a kind asks for ----------------------------------------------------------------------

    def dataset(self, rows: pl.DataFrame | pl.LazyFrame | Snapshots) -> Snapshots:
        """See :class:`EntityKind`; raises ValueError where the target is neither 0 nor 1."""
        data = super().dataset(rows)
        known = data.y[np.isfinite(data.y)]
        if not np.isin(known, (0.0, 1.0)).all():
            raise ValueError(
                f"the target {self.target} of a classification is Boolean, or 0 and 1; it has {known[:5].tolist()}"
            )
        return data

    def enough(self, y: Array) -> bool:
        """Ten events, and ten rows without."""
        return min(y.sum(), len(y) - y.sum()) >= measures.LEAST_OF_EACH

    def constant(self, y: Array) -> float:
        """The share of events."""
        return float(y.mean())

    def losses_of(self, y: Array, predicted: Array) -> Array:
        """(N,) logarithmic losses."""
        return measures.log_losses(y, predicted)

    def primary_loss(self, scored: Scored, name: str, counts: Counts) -> Array:
        """1 - ROC AUC."""
        return measures.ranking_loss(scored, name, counts)

    def set_right(
        self, data: Snapshots, folds: Sequence[Fold], fits: Fits, name: str
    ) -> tuple[list[Array], Calibration]:
        """Calibrated probabilities of each fold, by what others may tell it; and how those of the final fit are."""
        raw, truth = fits.predicted[name], [data.y[fold.scored] for fold in folds]
        out = []
        for k in range(len(folds)):
            parts = earlier(data, folds, k)
            out.append(Calibration.learn(self.calibration, seen(parts, raw), seen(parts, truth)).apply(raw[k]))
        return out, Calibration.learn(self.calibration, np.concatenate(raw), np.concatenate(truth))

    def thresholds(self, data: Snapshots, folds: Sequence[Fold], said: Sequence[Array]) -> tuple[list[float], float]:
        """The thresholds that gain most: for a fold on what the other folds may tell it, for the final fit on all."""
        truth = [data.y[fold.scored] for fold in folds]
        each = []
        for k in range(len(folds)):
            parts = earlier(data, folds, k)
            each.append(self.action.best_threshold(seen(parts, truth), seen(parts, said)))
        return each, self.action.best_threshold(np.concatenate(truth), np.concatenate(said))

    def metrics_of(self, scored: Scored, name: str, threshold: Array, counts: Counts | None) -> dict[str, float | None]:
        """roc_auc and its 95 % interval, what else says how good probabilities are, and what acting on them gains.

        roc_auc, average_precision, lift_top_decile: of each fold, and of several the mean, by pairs or by events.
        action_value: gain a row at the threshold. The others over all rows.
        """
        y, p = scored.y, scored.predicted[name]
        one = np.ones((1, int(scored.entity.max(initial=0)) + 1), np.float32)
        auc = 1 - float(measures.ranking_loss(scored, name, one)[0])
        low = high = None
        if counts is not None:
            low, high = measures.interval(1 - measures.ranking_loss(scored, name, counts))
        folds = [scored.fold == fold for fold in np.unique(scored.fold)]
        events = np.array([y[fold].sum() for fold in folds])
        ranked = [(measures.average_precision(y[f], p[f]), measures.lift(y[f], p[f])) for f in folds if y[f].any()]
        precision_mean, lift = (events[events > 0] @ np.array(ranked) / events.sum()) if ranked else (None, None)
        acted, event = p >= threshold, y > 0
        hits = float((acted & event).sum())
        precision = hits / acted.sum() if acted.any() else None
        recall = hits / event.sum() if event.any() else None
        return {
            "roc_auc": auc,
            "roc_auc_low": low,
            "roc_auc_high": high,
            "average_precision": precision_mean,
            "log_loss": float(measures.log_losses(y, p).mean()),
            "brier": float(((p - y) ** 2).mean()),
            "lift_top_decile": lift,
            "accuracy": float((acted == event).mean()),
            "precision": precision,
            "recall": recall,
            "f1": 2 * hits / float(acted.sum() + event.sum()) if acted.any() or event.any() else None,
            "acted_share": float(acted.mean()),
            "action_value": float(np.where(acted, self.action.gains(y), 0.0).mean()),
        }

    def predictions(self, frame: pl.DataFrame, score: Array, threshold: float) -> pl.DataFrame:
        """The keys, the probability, and whether it pays to act."""
        probability = pl.Series(score, dtype=pl.Float64)
        return frame.select(
            self.time_column, pl.col(self.entity).cast(pl.String), probability=probability, act=probability >= threshold
        )

    # --- predictions and what came ------------------------------------------------------------------------------------

    def errors(self, predictions: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
        """Predictions with the outcome that came, where it is known: adds outcome, error, log_loss and action_gain."""
        compared = self._compared(predictions, features)
        y, p = compared["outcome"].to_numpy(), compared["probability"].to_numpy()
        gain = pl.when("act").then(pl.Series(self.action.gains(y), dtype=pl.Float64)).otherwise(0.0)
        return compared.with_columns(
            error=pl.col("probability") - pl.col("outcome"),
            log_loss=pl.Series(measures.log_losses(y, p), dtype=pl.Float64),
            action_gain=gain,
        )

    def scores(self, errors: pl.DataFrame) -> dict[str, float]:
        """roc_auc (within snapshots), log_loss, brier, event_rate, mean_probability, action_value."""
        if errors.is_empty():
            return {}
        number = errors[self.entity].rank("dense").cast(pl.Int64).to_numpy() - 1
        fold = errors[self.time_column].rank("dense").cast(pl.Int64).to_numpy()
        scored = Scored(fold, number, errors["outcome"].to_numpy(), {"p": errors["probability"].to_numpy()})
        found = {
            "roc_auc": 1 - float(measures.ranking_loss(scored, "p", np.ones((1, number.max() + 1), np.float32))[0]),
            "log_loss": errors["log_loss"].mean(),
            "brier": (errors["error"] ** 2).mean(),
            "event_rate": errors["outcome"].mean(),
            "mean_probability": errors["probability"].mean(),
            "action_value": errors["action_gain"].mean(),
        }
        return {name: float(value) for name, value in found.items() if np.isfinite(value)}  # type: ignore[arg-type]

    # --- pictures -----------------------------------------------------------------------------------------------------

    def pictures(self, result: BacktestResult) -> dict[str, bytes]:
        """leaderboard, roc, precision_recall, calibration, lift, value, importance, and the tree: PNG by name."""
        from lakehouse_assets.ml import entity_pictures

        return entity_pictures.classification_pictures(result, self.reference, self.action)

    def error_pictures(self, errors: pl.LazyFrame) -> dict[str, bytes]:
        """Probabilities against what came, and both by snapshot: PNG by name."""
        from lakehouse_assets.ml import entity_pictures

        return entity_pictures.outcome_pictures(errors, self.time_column, "probability", "outcome")
