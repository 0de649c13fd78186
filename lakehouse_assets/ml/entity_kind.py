"""What classification and regression of entities share as kinds of model: data set, folds, champion, gate, monitoring.

One model serves all entities: the only member is ``ALL``. What is predicted of a row is known ``label_days`` later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml import entity_drift, entity_gate
from lakehouse_assets.ml.definition import (
    ALL,
    CHAMPION,
    BacktestResult,
    Candidate,
    Columns,
    DriftPolicy,
    GateDecision,
    GatePolicy,
    Progress,
    TooLittleHistory,
)
from lakehouse_assets.ml.entities import Fold, Snapshots, repeated_folds, rolling_origins
from lakehouse_assets.ml.entity_backtest import Fits, fit_all
from lakehouse_assets.ml.entity_metrics import Calibration, Counts, Scored
from lakehouse_assets.ml.fitted import microseconds, moment
from lakehouse_assets.ml.gate import OWN
from lakehouse_assets.ml.recipes import Learned, Recipe, Task, unconverged
from lakehouse_assets.ml.window import TrainingWindow

Array = npt.NDArray[np.float64]
UTC_TIME = pl.Datetime("us", "UTC")
POPULATION = "population"
"""What the only member is a value of: everybody."""
LEVELS = np.linspace(0.005, 0.995, 100)
"""Levels of the quantiles that a model keeps of what it said out of sample, for the drift of its predictions."""


@dataclass(frozen=True)
class Past:
    """What a recipe was like out of sample: times (M,) of the snapshots that it was scored on, microseconds since the
    epoch, its mean losses (M,), and quantiles (M, 100) of what it said. None of a k-fold, which has no times.
    """

    times: npt.NDArray[np.int64]
    losses: Array
    quantiles: Array


@dataclass(frozen=True)
class FittedEntities:
    """A fitted candidate, with how its predictions are set right, and what is remembered of its backtest.

    threshold: of a classification, the probability from which on it pays to act. expected_loss: mean loss in the
    backtest, the kind's own. kind: says what a prediction is.
    """

    name: str
    recipe: Recipe
    learned: Learned
    calibration: Calibration
    threshold: float
    trained_at: datetime
    seed: int
    expected_loss: float
    past: Past
    kind: "EntityKind" = field(repr=False)

    @property
    def series_ids(self) -> list[str]:
        """One model for everybody."""
        return [ALL]

    @property
    def feature_names(self) -> list[str]:
        """The inputs that it reads."""
        return [*self.learned.numbers, *self.learned.categories]

    def parameters(self) -> dict[str, Any]:
        """The recipe's parameters."""
        return self.recipe.parameters()

    def score(self, frame: pl.DataFrame) -> Array:
        """(N,) probabilities, or values, of rows of a feature table."""
        return self.calibration.apply(self.learned.predict(frame))

    def predict(self, data: pl.DataFrame | pl.LazyFrame | Snapshots) -> pl.DataFrame:
        """A prediction for each row, in the kind's columns."""
        frame = data.frame if isinstance(data, Snapshots) else data.lazy().collect()
        return self.kind.predictions(frame, self.score(frame), self.threshold)


@dataclass(frozen=True)
class Composed:
    """The champion's version in force for everybody: its predictions say which version made them."""

    model: FittedEntities
    version: int

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def predict(self, data: Any) -> pl.DataFrame:
        """The model's, with ``model_version``."""
        return self.model.predict(data).with_columns(model_version=pl.lit(self.version, pl.Int64))


@dataclass(frozen=True)
class EntityKind:
    """A kind whose rows are entities as of a moment.

    target: the column that is predicted. entity: the column of the entities. label_days: so long after a row its target
    is known; where there is a single snapshot it is known at once. outcomes: further columns that are only known
    afterwards, so that they are no inputs. origins: rolling origins that are scored. splits, repeats: of the k-fold,
    where a single snapshot, or too short a history, leaves no origin. resamples: of the intervals.
    """

    target: str
    entity: str = "customer_id"
    label_days: int = 90
    outcomes: tuple[str, ...] = ()
    origins: int = 6
    splits: int = 5
    repeats: int = 5
    resamples: int = 300

    name: ClassVar[str]
    task: ClassVar[Task]
    primary: ClassVar[str]
    higher_is_better: ClassVar[bool]
    reference: ClassVar[str]
    """The constant that always competes."""
    prediction_column: ClassVar[str]
    error_column: ClassVar[str] = "error"
    loss_column: ClassVar[str]
    time_column: ClassVar[str] = "as_of"
    member: ClassVar[str] = POPULATION
    window: ClassVar[Literal["week", "month"]] = "month"
    describes: ClassVar[bool] = False
    look_back: ClassVar[timedelta] = timedelta(0)

    # --- what a kind brings -------------------------------------------------------------------------------------------

    def enough(self, y: Array) -> bool:
        """Whether the targets of some rows suffice to learn from, or to be scored on."""
        raise NotImplementedError

    def constant(self, y: Array) -> float:
        """The best prediction without any input."""
        raise NotImplementedError

    def losses_of(self, y: Array, predicted: Array) -> Array:
        """(N,) the loss of each prediction, of which errors are watched."""
        raise NotImplementedError

    def primary_loss(self, scored: Scored, name: str, counts: Counts) -> Array:
        """See :data:`lakehouse_assets.ml.entity_gate.Loss`."""
        raise NotImplementedError

    def set_right(
        self, data: Snapshots, folds: Sequence[Fold], fits: Fits, name: str
    ) -> tuple[list[Array], Calibration]:
        """A recipe's predictions of each fold, set right by others, and how the final fit's are."""
        raise NotImplementedError

    def thresholds(self, data: Snapshots, folds: Sequence[Fold], said: Sequence[Array]) -> tuple[list[float], float]:
        """For each fold the threshold of an action, found on others, and that of the final fit."""
        raise NotImplementedError

    def metrics_of(self, scored: Scored, name: str, threshold: Array, counts: Counts | None) -> dict[str, float | None]:
        """The metrics of a candidate on some rows; threshold: (N,) of each row. counts: for the interval."""
        raise NotImplementedError

    def predictions(self, frame: pl.DataFrame, score: Array, threshold: float) -> pl.DataFrame:
        """The kind's prediction columns from rows of a feature table."""
        raise NotImplementedError

    @property
    def prediction_columns(self) -> Columns:
        """The columns of a prediction."""
        raise NotImplementedError

    # --- data ---------------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> tuple[str, str]:
        """When it is made, of whom."""
        return self.time_column, self.entity

    @property
    def truth_after(self) -> timedelta:
        """How long it takes until it is known what came true."""
        return timedelta(days=self.label_days)

    @property
    def _key_columns(self) -> dict[str, tuple[pl.DataType, str]]:
        return {
            self.time_column: (UTC_TIME, "As of when the prediction is made; only what was known by then was used."),
            self.entity: (pl.String(), "Whom it is about."),
        }

    @property
    def drift_columns(self) -> Columns:
        """The columns of the verdict about a window."""
        return MappingProxyType(entity_drift.COLUMNS)

    def dataset(self, rows: pl.DataFrame | pl.LazyFrame | Snapshots) -> Snapshots:
        """Rows of the feature table; numbers, flags and text are inputs, but for the keys and the outcomes."""
        if isinstance(rows, Snapshots):
            return rows
        return Snapshots.of(rows, self.keys, self.target, self.label_days, self.outcomes)

    def main_inputs(self, columns: Sequence[str]) -> list[str]:
        """All of them, but what is only known afterwards."""
        return [name for name in columns if name not in self.outcomes]

    def folds(self, dataset: Snapshots, cutoff: int, seed: int) -> list[Fold]:
        """Rolling origins where the history has one that can be scored, else a repeated k-fold.

        Raises:
            TooLittleHistory: for either.
        """
        found = rolling_origins(dataset, cutoff, self.origins, self.enough)
        if found:
            return found
        known = dataset.known_at <= cutoff
        if not self.enough(dataset.y[known]):
            raise TooLittleHistory(
                f"{int(known.sum())} rows with a known {self.target} are too few to train on: a row's is known "
                f"{self.label_days} days after its {self.time_column}"
            )
        stratified = self.task == "classification"
        # A history that is too short for an origin yet has many rows, and is soon longer: once is enough.
        repeats = self.repeats if len(dataset.times) == 1 else 1
        return repeated_folds(dataset, cutoff, self.splits, repeats, seed, stratified=stratified)

    # --- training -----------------------------------------------------------------------------------------------------

    def backtest(
        self,
        dataset: Snapshots | pl.DataFrame,
        candidates: Mapping[str, Candidate],
        *,
        cutoff: datetime | None = None,
        champion: "FittedEntities | Composed | None" = None,
        window: TrainingWindow | None = None,
        seed: int = 0,
        workspace: Path | None = None,
        progress: Progress | None = None,
    ) -> BacktestResult:
        """Score the candidates and the champion on identical folds; fit each on what is known at the cutoff.

        At origins at which the champion was trained already its own stored fit predicts; else its recipe is fitted
        anew. ``losses``: fold, origin, the keys, y, ``champion_own`` (whether the stored fit made the champion's), and
        a column of predictions for the constant, each candidate and the champion. ``metrics`` has the slices overall,
        fold, and ``permuted``: the best candidate's on the last fold, with one input shuffled. ``folds``: fold, repeat,
        origin, rows learned from and scored, and the threshold of each.
        """
        say = progress or (lambda _: None)
        data = self.dataset(dataset)
        end = microseconds(cutoff) if cutoff else data.known_until
        folds = self.folds(data, end, seed)
        recipes, left_out = _usable(candidates)
        if left_out:
            say(f"left out, as their extras are not installed: {', '.join(left_out)}")
        entered = list(recipes)
        alias = None
        if champion is not None:
            same = (name for name, recipe in recipes.items() if recipe.parameters() == champion.parameters())
            alias = next(same, None) or f"{CHAMPION}/{champion.name}"
            recipes.setdefault(alias, champion.recipe)
        say(f"backtest of {', '.join(recipes)}: {len(folds)} folds, {len(data):,} rows")
        fits = fit_all(self.task, data, folds, end, recipes, seed, window, self.enough, say)
        said, calibrations = {}, {}
        for name in recipes:
            said[name], calibrations[name] = self.set_right(data, folds, fits, name)
        own = [champion is not None and _out_of_sample(champion, data, fold) for fold in folds]
        if champion is not None and alias is not None:
            said[CHAMPION] = [
                champion.score(data.frame[fold.scored]) if mine else values
                for fold, mine, values in zip(folds, own, said[alias], strict=True)
            ]
        known = [data.y[fold.learned] for fold in folds]
        said[self.reference] = [
            np.full(len(fold.scored), self.constant(y)) for fold, y in zip(folds, known, strict=True)
        ]
        thresholds, final = {}, {}
        for name, values in said.items():
            thresholds[name], final[name] = self.thresholds(data, folds, values)
        say("metrics")
        shown = [self.reference, *entered, *([CHAMPION] if champion is not None else [])]
        losses = _losses(data, folds, {name: said[name] for name in shown}, own if champion is not None else None)
        metrics = self._metrics(losses, folds, thresholds, shown, seed)
        best = _best(metrics, entered, self.primary, higher=self.higher_is_better)
        metrics = pl.concat([metrics, self._permuted(data, folds, fits, best, calibrations[best], thresholds, seed)])
        expected = {name: float(self.losses_of(*_pair(losses, name)).mean()) for name in entered}
        fitted = {
            name: FittedEntities(
                name=name,
                recipe=recipes[name],
                learned=fits.final[name],
                calibration=calibrations[name],
                threshold=final[name],
                trained_at=moment(end),
                seed=seed,
                expected_loss=expected[name],
                past=self._past(data, folds, said[name]),
                kind=self,
            )
            for name in entered
        }
        return BacktestResult(
            best=best,
            primary=self.primary,
            metrics=metrics,
            folds=_fold_table(folds, thresholds, entered),
            losses=losses.lazy(),
            fitted=fitted,
            costs=fits.costs,
            unscored=pl.DataFrame(schema={self.member: pl.String, "reason": pl.String}),
            higher_is_better=self.higher_is_better,
        )

    def _metrics(
        self,
        losses: pl.DataFrame,
        folds: Sequence[Fold],
        thresholds: Mapping[str, Sequence[float]],
        names: Sequence[str],
        seed: int,
    ) -> pl.DataFrame:
        from lakehouse_assets.ml.entity_metrics import resamples

        scored = entity_gate.scored_of(losses, self.entity, list(names))
        counts = resamples(int(scored.entity.max()) + 1, self.resamples, seed)
        rows = []
        of = {fold.number: k for k, fold in enumerate(folds)}
        place = np.array([of[number] for number in scored.fold.tolist()])
        for name in names:
            threshold = np.array(thresholds[name])[place]
            rows.append(self._row(name, "overall", "", self.metrics_of(scored, name, threshold, counts)))
            for number in np.unique(scored.fold).tolist():
                mine = scored.fold == number
                found = self.metrics_of(scored.take(mine), name, threshold[mine], None)
                rows.append(self._row(name, "fold", str(number), found))
        return pl.DataFrame(rows, infer_schema_length=None)

    def _row(self, name: str, slice_name: str, key: str, found: Mapping[str, float | None]) -> dict[str, Any]:
        known = {n: None if v is None or not np.isfinite(v) else float(v) for n, v in found.items()}
        return {"candidate": name, "slice": slice_name, "key": key, **known}

    def _permuted(
        self,
        data: Snapshots,
        folds: Sequence[Fold],
        fits: Fits,
        best: str,
        calibration: Calibration,
        thresholds: Mapping[str, Sequence[float]],
        seed: int,
    ) -> pl.DataFrame:
        """The metrics of the best candidate's last fit when an input is shuffled (Breiman 2001), a row an input."""
        rng, learned = np.random.default_rng(seed), fits.latest[best]
        rows = folds[-1].scored
        if len(rows) > _PERMUTED_ROWS:
            rows = np.sort(rng.choice(rows, _PERMUTED_ROWS, replace=False))
        frame, y = data.frame[rows], data.y[rows]
        zeros, threshold = np.zeros(len(rows), np.int64), np.full(len(rows), thresholds[best][-1])
        out = []
        for name in ["", *learned.numbers, *learned.categories]:
            drawn = [frame[name].gather(rng.permutation(len(rows))) for _ in range(_PERMUTED)] if name else [None]
            each = [
                self.metrics_of(
                    Scored(zeros, np.arange(len(rows)), y, {best: calibration.apply(learned.predict(shuffled))}),
                    best,
                    threshold,
                    None,
                )
                for shuffled in (frame if column is None else frame.with_columns(column) for column in drawn)
            ]
            mean = {n: float(np.mean([np.nan if one[n] is None else one[n] for one in each])) for n in each[0]}
            out.append(self._row(best, "permuted", name, mean))
        return pl.DataFrame(out, schema=self._metric_schema())

    def _metric_schema(self) -> dict[str, Any]:
        y = np.array([0.0, 1.0])
        scored = Scored(np.zeros(2, np.int64), np.arange(2), y, {"": y})
        names = self.metrics_of(scored, "", y, None)
        return {"candidate": pl.String, "slice": pl.String, "key": pl.String} | dict.fromkeys(names, pl.Float64)

    def _past(self, data: Snapshots, folds: Sequence[Fold], said: Sequence[Array]) -> Past:
        rolling = [(fold, p) for fold, p in zip(folds, said, strict=True) if fold.origin is not None]
        return Past(
            times=np.array([fold.origin for fold, _ in rolling], np.int64),
            losses=np.array([self.losses_of(data.y[fold.scored], p).mean() for fold, p in rolling]),
            quantiles=np.array([np.quantile(p, LEVELS) for _, p in rolling]).reshape(len(rolling), len(LEVELS)),
        )

    def refit(
        self, fitted: "FittedEntities | Composed", dataset: Snapshots | pl.DataFrame, cutoff: datetime, *, seed: int = 0
    ) -> FittedEntities:
        """A fresh fit of a fitted model's own recipe on what is known at the cutoff; it is set right as that is."""
        from threadpoolctl import threadpool_limits

        data, model = self.dataset(dataset), fitted.model if isinstance(fitted, Composed) else fitted
        with threadpool_limits(1, "blas"), unconverged():
            rows = np.flatnonzero(data.known_at <= microseconds(cutoff))
            learned = model.recipe.learn(self.task, data, rows, seed)
        return replace(model, learned=learned, trained_at=cutoff, seed=seed)

    def compose(self, models: Mapping[int, FittedEntities], assignment: Mapping[str, int], champion: int) -> Composed:
        """The champion's model: there is no other member than everybody."""
        return Composed(models[champion], champion)

    # --- gate and prediction ------------------------------------------------------------------------------------------

    def gate(
        self,
        result: BacktestResult,
        challenger: str,
        policy: GatePolicy,
        *,
        groups: Mapping[str, str | None] | None = None,
        has_champion: bool,
    ) -> GateDecision:
        """Promote by evidence: see :func:`lakehouse_assets.ml.entity_gate.decide`."""
        return entity_gate.decide(
            result,
            challenger,
            policy,
            groups or {},
            has_champion,
            entity=self.entity,
            reference=self.reference,
            loss=self.primary_loss,
            enough=self.enough,
        )

    def calibrate(self, predicted: pl.DataFrame, earlier: pl.LazyFrame, features: pl.LazyFrame) -> pl.DataFrame:
        """As predicted: probabilities are calibrated by the backtest."""
        return predicted

    def backtest_errors(self, result: BacktestResult) -> pl.LazyFrame:
        """The entity, what was predicted out of sample by the best candidate, and by how much it missed."""
        said = pl.col(result.best)
        return result.losses.select(
            self.entity, **{self.prediction_column: said, self.error_column: said - pl.col("y")}
        )

    def _compared(self, predictions: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
        """Predictions with ``outcome``, where it is known."""
        outcome = pl.col(self.target).cast(pl.Float64)
        actual = features.select(*self.keys, outcome=outcome).filter(pl.col("outcome").is_finite())
        return predictions.join(actual, on=list(self.keys), how="inner")

    # --- monitoring ---------------------------------------------------------------------------------------------------

    def window_losses(
        self,
        champion: "FittedEntities | Composed",
        dataset: Snapshots | pl.DataFrame,
        start: datetime,
        end: datetime,
        *,
        fresh: Any = None,
        seed: int | None = None,
        shadow: bool = True,
    ) -> pl.DataFrame:
        """See :func:`lakehouse_assets.ml.entity_drift.window_row`: one row, of everybody."""
        model = champion.model if isinstance(champion, Composed) else champion
        return entity_drift.window_row(self, model, self.dataset(dataset), start, end)

    def evidence(
        self,
        champion: Any,
        dataset: Any,
        start: datetime,
        policy: DriftPolicy,
        moved: pl.DataFrame | None = None,
    ) -> None:
        """All that the verdict leans on is in the rows of the windows."""
        return None

    def verdict(self, history: pl.DataFrame, policy: DriftPolicy, evidence: Any = None) -> entity_drift.Verdict:
        """See :func:`lakehouse_assets.ml.entity_drift.verdict`."""
        return entity_drift.verdict(history, policy, self.label_days)

    def explain(
        self, dataset: Snapshots | pl.DataFrame, members: Sequence[str], start: datetime, span: timedelta
    ) -> pl.DataFrame:
        """The widest moves of the inputs of a window against all that was there before it, the widest first."""
        return entity_drift.widest_moves(self.dataset(dataset), start)

    # --- pictures -----------------------------------------------------------------------------------------------------

    def drift_pictures(self, history: pl.DataFrame, features: pl.LazyFrame, policy: DriftPolicy) -> dict[str, bytes]:
        """How unusual each input and the predictions were, window by window: PNG by name."""
        from lakehouse_assets.ml import entity_pictures

        return entity_pictures.drift_pictures(history, policy)

    def finding_pictures(
        self, history: pl.DataFrame, features: pl.LazyFrame, finding: Mapping[str, Any]
    ) -> dict[str, bytes]:
        """The input of a finding, snapshot by snapshot: PNG by name."""
        from lakehouse_assets.ml import entity_pictures

        return entity_pictures.finding_pictures(features, finding, self.time_column)


_PERMUTED, _PERMUTED_ROWS = 3, 2_000
"""An input is shuffled so often, in so many rows at most."""


def _usable(candidates: Mapping[str, Candidate]) -> tuple[dict[str, Recipe], list[str]]:
    recipes: dict[str, Recipe] = {}
    for name, candidate in candidates.items():
        if not isinstance(candidate, Recipe):
            raise TypeError(f"candidate {name} is a {type(candidate).__name__}; those of entities are in ml/recipes.py")
        recipes[name] = candidate
    usable = {name: recipe for name, recipe in recipes.items() if recipe.usable()}
    if not usable:
        raise ValueError("no candidate can be used: none is given, or their extras are not installed")
    return usable, [name for name in recipes if name not in usable]


def _out_of_sample(champion: "FittedEntities | Composed", data: Snapshots, fold: Fold) -> bool:
    """Whether the champion's stored fit knew nothing of what a fold scores."""
    trained = microseconds(champion.trained_at)
    return trained <= fold.origin if fold.origin is not None else trained < int(data.times[0])


def _pair(losses: pl.DataFrame, name: str) -> tuple[Array, Array]:
    return losses["y"].to_numpy(), losses[name].to_numpy()


def _losses(
    data: Snapshots, folds: Sequence[Fold], said: Mapping[str, Sequence[Array]], own: Sequence[bool] | None
) -> pl.DataFrame:
    frames = []
    for k, fold in enumerate(folds):
        if fold.number < 0:
            continue
        origin = None if fold.origin is None else moment(fold.origin)
        frame = data.frame[fold.scored].select(
            pl.lit(fold.number, pl.Int32).alias("fold"),
            pl.lit(origin, UTC_TIME).alias("origin"),
            data.time,
            pl.col(data.entity).cast(pl.String),
        )
        owned = {} if own is None else {OWN: pl.lit(own[k])}
        columns = {name: pl.Series(name, values[k], pl.Float64) for name, values in said.items()}
        frames.append(frame.with_columns(y=pl.Series("y", data.y[fold.scored], pl.Float64), **owned, **columns))
    return pl.concat(frames).sort(data.entity, "fold")


def _best(metrics: pl.DataFrame, entered: Sequence[str], primary: str, *, higher: bool) -> str:
    overall = metrics.filter(slice="overall")
    score = dict(zip(overall["candidate"], overall[primary], strict=True))
    sign = -1 if higher else 1
    return min(entered, key=lambda name: np.inf if score[name] is None else sign * score[name])


def _fold_table(
    folds: Sequence[Fold], thresholds: Mapping[str, Sequence[float]], entered: Sequence[str]
) -> pl.DataFrame:
    rows = [
        {
            "fold": fold.number,
            "repeat": fold.repeat,
            "origin": None if fold.origin is None else moment(fold.origin),
            "rows_learned": len(fold.learned),
            "rows_scored": len(fold.scored),
            **{f"threshold_{name}": thresholds[name][k] for name in entered},
        }
        for k, fold in enumerate(folds)
        if fold.number >= 0
    ]
    return pl.DataFrame(rows, schema_overrides={"fold": pl.Int32, "origin": UTC_TIME}, infer_schema_length=None)
