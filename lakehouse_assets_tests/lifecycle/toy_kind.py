"""A kind of a few lines: all that the life cycle asks of one. It predicts a number of items, month by month."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from lakehouse_assets.ml.definition import (
    ALL,
    CHAMPION,
    BacktestResult,
    DriftPolicy,
    GateDecision,
    GatePolicy,
    ModelDefinition,
    RetrainPolicy,
)

UTC_TIME = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class Power:
    """y is proportional to a power of x."""

    power: float

    def parameters(self) -> dict[str, Any]:
        return {"power": self.power}


@dataclass(frozen=True)
class FittedPower:
    name: str
    recipe: Power
    factor: float
    usual: tuple[float, float]
    trained_at: datetime
    series_ids: tuple[str, ...] = (ALL,)
    feature_names: tuple[str, ...] = ("x",)
    version: int | None = None

    def parameters(self) -> dict[str, Any]:
        return self.recipe.parameters()

    def predict(self, data: pl.DataFrame) -> pl.DataFrame:
        made = data.select("as_of", "item", predicted=self.factor * pl.col("x") ** self.recipe.power)
        return made if self.version is None else made.with_columns(model_version=pl.lit(self.version, pl.Int64))


@dataclass(frozen=True)
class Moved:
    verdict: str
    window_start: datetime | None
    window_end: datetime | None
    series: pl.DataFrame
    summary: dict[str, Any]
    findings: Sequence[Mapping[str, Any]] = field(default=())


@dataclass(frozen=True)
class Items:
    """One model for all items; the truth comes a month later; drift is a mean of x far from that of the training."""

    name = "items"
    keys = ("as_of", "item")
    member = "population"
    window: Literal["week", "month"] = "month"
    truth_after = timedelta(days=31)
    describes = False
    time_column = "as_of"
    prediction_column = "predicted"
    error_column = "error"
    loss_column = "predicted"
    look_back = timedelta(0)
    prediction_columns: ClassVar = {
        "as_of": (UTC_TIME, "As of when."),
        "item": (pl.String(), "The item."),
        "predicted": (pl.Float64(), "What is predicted."),
    }
    error_columns: ClassVar = {
        **prediction_columns,
        "y": (pl.Float64(), "What came."),
        "error": (pl.Float64(), "The difference."),
    }
    drift_columns: ClassVar = {
        "population": (pl.String(), "All."),
        "distance": (pl.Float64(), "Of the mean of x from that of the training, in standard deviations."),
        "verdict": (pl.String(), "ok or drift."),
        "due": (pl.Boolean(), "Whether a training pays."),
        "since": (UTC_TIME, "Since when."),
        "expected_gain": (pl.Float64(), "Not known."),
    }

    def dataset(self, rows: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
        return rows.lazy().collect().sort("as_of", "item")

    def fit(self, name: str, recipe: Power, rows: pl.DataFrame, at: datetime) -> FittedPower:
        base, y = rows["x"].to_numpy() ** recipe.power, rows["y"].to_numpy()
        usual = (float(rows["x"].mean()), float(rows["x"].std()))
        return FittedPower(name, recipe, float(base @ y / (base @ base)), usual, at)

    def backtest(
        self, dataset, candidates, *, cutoff=None, champion=None, window=None, seed=0, workspace=None, progress=None
    ):
        known = dataset.drop_nulls("y")
        last = known["as_of"].max()
        early, late = known.filter(pl.col("as_of") < last), known.filter(as_of=last)
        fits = {name: self.fit(name, recipe, early, last) for name, recipe in candidates.items()}
        scored = {**fits, **({CHAMPION: champion} if champion else {})}
        losses = late.select("as_of", "item", "y").with_columns(
            **{name: fit.predict(late)["predicted"] for name, fit in scored.items()}
        )
        metrics = pl.DataFrame(
            {
                "candidate": list(scored),
                "slice": "overall",
                "key": "",
                "mae": [float((losses[name] - losses["y"]).abs().mean()) for name in scored],
            }
        )
        return BacktestResult(
            best=min(fits, key=dict(zip(metrics["candidate"], metrics["mae"], strict=True)).__getitem__),
            primary="mae",
            metrics=metrics,
            folds=pl.DataFrame({"fold": [0]}),
            losses=losses.lazy(),
            fitted={name: self.fit(name, recipe, known, last) for name, recipe in candidates.items()},
        )

    def compose(self, models: Mapping[int, FittedPower], assignment: Mapping[str, int], champion: int) -> FittedPower:
        return replace(models[champion], version=champion)

    def gate(self, result, challenger, policy: GatePolicy, *, groups=None, has_champion: bool) -> GateDecision:
        losses = result.losses.collect()
        mine = float((losses[challenger] - losses["y"]).abs().mean())
        other = float((losses[CHAMPION] - losses["y"]).abs().mean()) if has_champion else float(losses["y"].std())
        gain = 1 - mine / other
        promote = gain > policy.minimum_gain
        return GateDecision(promote, f"{'promoted' if promote else 'kept'}: gain {gain:.1%}", {"gain": gain})

    def calibrate(self, predicted, earlier, features):
        return predicted

    def scores(self, errors: pl.DataFrame) -> dict[str, float]:
        return {"mae": float(errors["error"].abs().mean())}

    def errors(self, predictions: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
        both = predictions.join(features.drop_nulls("y"), on=list(self.keys))
        return both.with_columns(error=pl.col("predicted") - pl.col("y"))

    def main_inputs(self, columns: Sequence[str]) -> list[str]:
        return list(columns)

    def backtest_errors(self, result: BacktestResult) -> pl.LazyFrame:
        predicted = pl.col(result.best)
        return result.losses.select("item", predicted=predicted, error=predicted - pl.col("y"))

    def window_losses(self, champion, dataset, start, end, **_) -> pl.DataFrame:
        x = dataset.filter(pl.col("as_of") >= start, pl.col("as_of") < end)["x"].to_numpy()
        mean, deviation = champion.usual
        return pl.DataFrame({"population": [ALL], "distance": [float(abs(np.mean(x) - mean) / deviation)]})

    def evidence(self, champion, dataset, start, policy: DriftPolicy, moved=None) -> None:
        return None

    def verdict(self, history: pl.DataFrame, policy: DriftPolicy, evidence: Any = None) -> Moved:
        last = history.sort("window_start").row(-1, named=True)
        drifted = last["distance"] > 1
        start = last["window_start"]
        series = pl.DataFrame(
            {
                "population": [ALL],
                "verdict": ["drift" if drifted else "ok"],
                "due": [drifted],
                "since": [start if drifted else None],
                "expected_gain": [None],
            },
            schema={
                name: self.drift_columns[name][0] for name in ("population", "verdict", "due", "since", "expected_gain")
            },
        )
        found = [{"kind": "input", "scope": "fleet", "members": [ALL], "since": start.isoformat(), "input": "x"}]
        summary = {"series_tested": 1, "series_drifted": int(drifted)}
        return Moved(series["verdict"][0], start, start + timedelta(days=28), series, summary, found if drifted else ())

    def explain(self, dataset, members, start, span) -> pl.DataFrame:
        return pl.DataFrame()

    def pictures(self, result: BacktestResult) -> dict[str, bytes]:
        return {}

    def error_pictures(self, errors: pl.LazyFrame) -> dict[str, bytes]:
        return {}

    def drift_pictures(self, history, features, policy) -> dict[str, bytes]:
        return {}

    def finding_pictures(self, history, features, finding) -> dict[str, bytes]:
        return {}


@dataclass(frozen=True)
class Untold(Items):
    """As `Items`, but what comes true is never known."""

    error_column = ""
    error_columns: ClassVar = {}


@dataclass(frozen=True)
class Describing(Items):
    """Says of the past nothing that was not known then."""

    describes = True


ITEMS = ModelDefinition(
    name="items",
    description="A toy of a kind of its own.",
    features="features/items",
    target="y",
    kind=Items(),
    candidates={"line": Power(1.0), "square": Power(2.0)},
    drift=DriftPolicy(channels=("input",)),
    retrain=RetrainPolicy(cooldown_days=10),
)
