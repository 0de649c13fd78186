"""Anomaly detection as a kind of model: days that are not as expected, and why, within a budget of false alarms.

A feature table holds one row an entity and day: 24 residuals and expectations (see ml/unusual_days.py). There is no
truth to learn from, so recipes are compared by what they find of anomalies that are planted in days that they have not
seen, each at the threshold that has the same share of alarms on these days as they were.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.definition import (
    ALL,
    CHAMPION,
    COSTS,
    BacktestResult,
    Candidate,
    Columns,
    DriftPolicy,
    GateDecision,
    GatePolicy,
    Progress,
    TooLittleHistory,
)
from lakehouse_assets.ml.unusual_days import (
    EXPECTED,
    INJECTED,
    RESIDUALS,
    Array,
    Days,
    Recipe,
    Usual,
    described,
    inject,
)
from lakehouse_assets.ml.window import TrainingWindow

UTC_TIME = pl.Datetime("us", "UTC")
DAY_US = 86_400_000_000
FEATURES = ("level", "forecast_hours", "actual_energy", "expected_energy", *RESIDUALS, *EXPECTED)
BLOCKS = 3
"""Stretches of the reference, each of which is scored by a fit on the others: what a threshold stands on."""
CLEAR = 3.0
"""Standard deviations from which an hour is named in a reason."""
RESAMPLES = 2000
FEW = 8
"""With fewer entities than this the gate resamples entities by fold."""
LEAST_WEEKS = 8
"""Weeks of the reference by which a week of monitoring is judged."""


@dataclass(frozen=True)
class FittedDetector:
    """A recipe that has learned from days, with its threshold.

    reference: (W, 2) of each week of the reference, as monitoring measures a week: see :func:`_week`.
    """

    name: str
    recipe: Recipe
    fitted: Recipe = field(repr=False)
    usual: Usual = field(repr=False)
    threshold: float
    trained_at: datetime
    seed: int
    entity: str
    reference: Array = field(repr=False)
    version: int | None = None

    @property
    def series_ids(self) -> list[str]:
        """One model for everybody."""
        return [ALL]

    @property
    def feature_names(self) -> list[str]:
        """What it reads."""
        return list(FEATURES)

    def parameters(self) -> dict[str, Any]:
        """Recipe and threshold."""
        return {**described(self.recipe), "threshold": self.threshold}

    def scores(self, days: Days) -> Array:
        """(N,) of each day."""
        return self.fitted.score(*self.usual.statistics(days))

    def predict(self, data: pl.DataFrame) -> pl.DataFrame:
        """Scores of days, and of alarms the hours and the reason; one row a day, see ``AnomalyDetection``."""
        rows = data.sort("as_of", self.entity)
        days = Days.of(rows, self.entity)
        z, statistics = self.usual.statistics(days)
        score = self.fitted.score(z, statistics)
        alarm = score >= self.threshold
        told = [_told(days, z[n], n) if alarm[n] else (None, None) for n in range(len(days))]
        made = rows.select("as_of", self.entity).with_columns(
            score=pl.Series(score, dtype=pl.Float64),
            threshold=pl.lit(self.threshold),
            alarm=pl.Series(alarm, dtype=pl.Boolean),
            hours=pl.Series([hours for hours, _ in told], dtype=pl.String),
            reason=pl.Series([reason for _, reason in told], dtype=pl.String),
            expected=rows["expected_energy"].cast(pl.Float64),
            actual=rows["actual_energy"].cast(pl.Float64),
        )
        return made if self.version is None else made.with_columns(model_version=pl.lit(self.version, pl.Int64))


def _told(days: Days, z: Array, n: int) -> tuple[str, str]:
    """The hours of an alarm ("14-17, 20-21"), and what was otherwise in them, the farthest first."""
    clear = np.abs(z) >= min(CLEAR, float(np.abs(z).max()))
    runs: list[tuple[int, int]] = []
    for hour in np.flatnonzero(clear).tolist():
        if runs and runs[-1][1] == hour and z[hour] * z[hour - 1] > 0:
            runs[-1] = (runs[-1][0], hour + 1)
        else:
            runs.append((hour, hour + 1))
    runs.sort(key=lambda run: -float(np.abs(z[run[0] : run[1]]).max()))
    basis = "the forecast" if days.forecast[n] else "the like weekdays before"
    said = []
    for first, last in runs[:3]:
        farthest = first + int(np.abs(z[first:last]).argmax())
        megawatts = days.residual[n, first:last].mean() * days.level[n]
        way = "above" if megawatts > 0 else "below"
        part = f"{first:02}:00-{last:02}:00 {abs(megawatts):,.1f} MW {way}"
        said.append(f"{part} ({z[farthest]:+.1f} standard deviations at {farthest:02}:00)")
    hours = ", ".join(f"{first:02}-{last:02}" for first, last in sorted(runs[:3]))
    return hours, f"{'; '.join(said)}, against {basis}"


@dataclass(frozen=True)
class Verdict:
    """What the weeks so far say; see :meth:`AnomalyDetection.verdict`."""

    verdict: str
    window_start: datetime | None
    window_end: datetime | None
    series: pl.DataFrame
    summary: dict[str, Any]
    findings: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class AnomalyDetection:
    """Days that are not as expected, one model for everybody.

    alarm_budget: false alarms in 1,000 days of an entity, on the reference. folds: held-out stretches of ``fold_days``.
    minimum_training_days: the history before the first of them.
    """

    entity: str = "series_id"
    alarm_budget: float = 5.0
    folds: int = 4
    fold_days: int = 28
    minimum_training_days: int = 56

    name = "anomaly_detection"
    member = "population"
    window: Literal["week", "month"] = "week"
    truth_after = timedelta(0)
    describes = False
    time_column = "as_of"
    prediction_column = "score"
    error_column = ""
    error_columns: ClassVar[Columns] = MappingProxyType({})
    loss_column = "score"
    look_back = timedelta(0)
    drift_columns = MappingProxyType(
        {
            "population": (pl.String(), "All: one model serves everybody."),
            "days": (pl.Int64(), "Days of entities in the week."),
            "alarm_rate": (pl.Float64(), "Alarms in 1,000 days."),
            "score_level": (pl.Float64(), "Mean logarithm of one and the score."),
            "score_shift": (pl.Float64(), "score_level against the reference's weeks, in their standard deviations."),
            "residual_level": (pl.Float64(), "Mean size of the residuals, in standard deviations."),
            "input_shift": (pl.Float64(), "residual_level against the reference's weeks, in their deviations."),
            "p_value": (pl.Float64(), "That both are as far by chance, of the mean over the latest weeks."),
            "verdict": (pl.String(), "ok, drift or insufficient_data."),
            "due": (pl.Boolean(), "Whether a training is asked for."),
            "since": (UTC_TIME, "Start of the first of the weeks that drifted."),
            "expected_gain": (pl.Float64(), "Not known: without truth a training is tried."),
        }
    )

    @property
    def keys(self) -> tuple[str, str]:
        """As of when, and of whom."""
        return ("as_of", self.entity)

    @property
    def prediction_columns(self) -> Mapping[str, tuple[pl.DataType, str]]:
        """Score, alarm and its reason."""
        return {
            "as_of": (UTC_TIME, "End of the day: only what was known by then was used."),
            self.entity: (pl.String(), "Whose day."),
            "score": (pl.Float64(), "How unusual: one is about the hundredth part of days."),
            "threshold": (pl.Float64(), "From which score on a day alarms."),
            "alarm": (pl.Boolean(), "Whether it does."),
            "hours": (pl.String(), "Hours of the day that are farthest off, as 14-17; null without alarm."),
            "reason": (pl.String(), "How far they are from what was expected; null without alarm."),
            "expected": (pl.Float64(), "Expected energy of the day (MWh)."),
            "actual": (pl.Float64(), "Energy of the day (MWh)."),
        }

    def dataset(self, rows: pl.DataFrame | pl.LazyFrame) -> Days:
        """Rows of the feature table as days."""
        columns = ("as_of", self.entity, "level", "forecast_hours", *RESIDUALS, *EXPECTED)
        return Days.of(rows.lazy().select(columns).collect(), self.entity)

    # --- training -----------------------------------------------------------------------------------------------------

    def fit(self, name: str, recipe: Recipe, days: Days, at: datetime, seed: int) -> FittedDetector:
        """Learn from days; the threshold from their scores by fits on the other parts of them.

        Raises:
            TooLittleHistory: there are no days.
        """
        if not len(days):
            raise TooLittleHistory("there are no days to learn from in the window of training")
        usual = Usual.learn(days)
        held_out, sizes = np.zeros(len(days)), np.zeros(len(days))
        block = np.minimum(np.arange(len(days)) * BLOCKS // len(days), BLOCKS - 1)
        for k in range(BLOCKS):
            mine, others = days.where(block == k), days.where(block != k)
            if not len(mine) or not len(others):
                continue
            theirs = Usual.learn(others)
            z, statistics = theirs.statistics(mine)
            held_out[block == k] = recipe.fit(others, theirs, seed).score(z, statistics)
            sizes[block == k] = np.abs(z).mean(axis=1)
        return FittedDetector(
            name=name,
            recipe=recipe,
            fitted=recipe.fit(days, usual, seed),
            usual=usual,
            threshold=float(np.quantile(held_out, 1 - self.alarm_budget / 1000)),
            trained_at=at,
            seed=seed,
            entity=self.entity,
            reference=_weeks(days.as_of, held_out, sizes),
        )

    def backtest(
        self,
        dataset: Days,
        candidates: Mapping[str, Candidate],
        *,
        cutoff: datetime | None = None,
        champion: Any = None,
        window: TrainingWindow | None = None,
        seed: int = 0,
        workspace: Path | None = None,
        progress: Progress | None = None,
    ) -> BacktestResult:
        """Score the recipes and the champion on days that they have not seen, as they were and with planted anomalies.

        ``losses``: fold, as_of, the entity, injected, and for each candidate whether it missed the anomaly (1 or 0) at
        the threshold that alarms of ``alarm_budget`` in 1,000 of all held-out days as they were. The champion's own fit
        is scored where it was made before the fold, else its recipe. ``window`` has no use: one model learns from all.
        """
        end = _micros(cutoff) + 1 if cutoff else int(dataset.as_of.max(initial=0)) + 1
        known = dataset.between(0, end)
        recipes: dict[str, Any] = dict(candidates)
        if champion is not None:
            recipes[CHAMPION] = champion.recipe
        clean: dict[str, list[Array]] = {name: [] for name in recipes}
        planted: dict[str, list[Array]] = {name: [] for name in recipes}
        rows, folds, spent = [], [], []
        for number, (start, stop) in enumerate(self._folds(known, end)):
            before, held_out = known.between(0, start), known.between(start, stop)
            changed, which = inject(held_out, seed + number)
            usual = Usual.learn(before)
            for name, recipe in recipes.items():
                began = time.thread_time()
                if name == CHAMPION and _micros(champion.trained_at) < start:
                    learned, fitted = champion.usual, champion.fitted
                else:
                    learned, fitted = usual, recipe.fit(before, usual, seed)
                clean[name].append(fitted.score(*learned.statistics(held_out)))
                planted[name].append(fitted.score(*learned.statistics(changed)))
                spent.append({"candidate": name, "stage": "fold", "cpu_seconds": time.thread_time() - began})
            times = pl.Series(held_out.as_of).cast(UTC_TIME)
            rows.append(
                pl.DataFrame({"as_of": times, self.entity: held_out.entities.tolist()}).with_columns(
                    fold=pl.lit(number, pl.Int32), injected=pl.Series([INJECTED[k] for k in which], dtype=pl.String)
                )
            )
            folds.append({"fold": number, "start": _moment(start), "end": _moment(stop), "days": len(held_out)})
        # One threshold for all folds: a fold alone has too few days for a share of some in 1,000.
        threshold = {n: float(np.quantile(np.concatenate(s), 1 - self.alarm_budget / 1000)) for n, s in clean.items()}
        missed = {n: (np.concatenate(planted[n]) < threshold[n]).astype(float) for n in recipes}
        losses = pl.concat(rows).with_columns(**missed, **{f"{n}_score": np.concatenate(clean[n]) for n in recipes})
        metrics = _metrics(losses, list(recipes), threshold)
        overall = dict(metrics.filter(slice="overall").select("candidate", "missed").iter_rows())
        at = cutoff or _moment(end - 1)
        return BacktestResult(
            best=min(candidates, key=lambda name: overall[name]),
            primary="missed",
            metrics=metrics,
            folds=pl.DataFrame(folds, schema_overrides={"fold": pl.Int32}),
            losses=losses.sort(self.entity, "as_of").lazy(),
            fitted={name: self.fit(name, recipes[name], known, at, seed) for name in candidates},
            costs=pl.DataFrame(spent, schema=COSTS),
            unscored=pl.DataFrame(schema={self.member: pl.String, "reason": pl.String}),
        )

    def _folds(self, days: Days, end: int) -> list[tuple[int, int]]:
        """Held-out stretches up to the end, in order of time."""
        first = int(days.as_of.min(initial=end)) + self.minimum_training_days * DAY_US
        length = self.fold_days * DAY_US
        starts = [end - length * k for k in range(self.folds, 0, -1) if end - length * k >= first]
        if not starts:
            raise TooLittleHistory(
                f"{(end - first) // DAY_US + self.minimum_training_days} days are known; a backtest needs "
                f"{self.minimum_training_days} to learn from and {self.fold_days} to be scored on"
            )
        return [(start, start + length) for start in starts]

    def refit(self, fitted: FittedDetector, dataset: Days, cutoff: datetime, *, seed: int = 0) -> FittedDetector:
        """The same recipe on what is known at the cutoff."""
        return self.fit(fitted.name, fitted.recipe, dataset.between(0, _micros(cutoff) + 1), cutoff, seed)

    def compose(self, models: Mapping[int, Any], assignment: Mapping[str, int], champion: int) -> FittedDetector:
        """The champion's model, that says its version."""
        return replace(models[champion], version=champion)

    def gate(
        self,
        result: BacktestResult,
        challenger: str,
        policy: GatePolicy,
        *,
        groups: Mapping[str, str | None] | None = None,
        has_champion: bool,
    ) -> GateDecision:
        """Whether the challenger misses fewer planted anomalies than the champion, by a bootstrap over entities.

        Promoted when the relative gain exceeds ``minimum_gain`` in all but ``significance`` of the resamples. Without a
        champion: when it finds more than alarms at random would, at the same budget.
        """
        losses = result.losses.collect()
        mine = losses[challenger].to_numpy()
        evidence: dict[str, Any] = {"challenger": challenger, "found": float(1 - mine.mean()), "planted": len(mine)}
        if not has_champion:
            promote = evidence["found"] > 10 * self.alarm_budget / 1000
            word = "first model" if promote else "no model yet"
            return GateDecision(promote, f"{word}: finds {evidence['found']:.1%} of planted anomalies", evidence)
        unit = [self.entity] if losses[self.entity].n_unique() >= FEW else [self.entity, "fold"]
        sums = losses.group_by(unit).agg(pl.col(challenger).sum(), theirs=pl.col(CHAMPION).sum()).sort(unit)
        ours, theirs = sums[challenger].to_numpy(), sums["theirs"].to_numpy()
        drawn = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES, len(ours)))
        gain = _gain(ours.sum(), theirs.sum())
        gains = _gain(ours[drawn].sum(axis=1), theirs[drawn].sum(axis=1))
        p_value = float((1 + (gains <= policy.minimum_gain).sum()) / (1 + RESAMPLES))
        evidence |= {"gain": float(gain), "p_value": p_value, "minimum_gain": policy.minimum_gain}
        evidence |= {"champion_found": float(1 - losses[CHAMPION].mean()), "resampled": len(ours)}  # type: ignore[operator]
        promote = bool(gain > policy.minimum_gain and p_value < policy.significance)
        said = (
            f"{'promoted' if promote else 'kept'}: misses {-gain:+.1%} of what the champion misses (p = {p_value:.3f})"
        )
        return GateDecision(promote, said, evidence)

    # --- prediction and monitoring ------------------------------------------------------------------------------------

    def calibrate(self, predicted: pl.DataFrame, earlier: pl.LazyFrame, features: pl.LazyFrame) -> pl.DataFrame:
        """As they are."""
        return predicted

    def scores(self, errors: pl.DataFrame) -> dict[str, float]:
        """There is no truth to score by."""
        return {}

    def errors(self, predictions: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
        """There is no truth to compare with."""
        return predictions.clear()

    def main_inputs(self, columns: Sequence[str]) -> list[str]:
        """Level and energies."""
        return [name for name in ("level", "actual_energy", "expected_energy", "forecast_hours") if name in columns]

    def backtest_errors(self, result: BacktestResult) -> pl.LazyFrame:
        """The entity and its score, of held-out days as they were."""
        return result.losses.select(self.entity, score=pl.col(f"{result.best}_score"))

    def window_losses(
        self,
        champion: FittedDetector,
        dataset: Days,
        start: datetime,
        end: datetime,
        *,
        fresh: Any = None,
        seed: int | None = None,
        shadow: bool = True,
    ) -> pl.DataFrame:
        """How the champion scores the days of a window, against the weeks of its reference. No fresh fit is made."""
        days = dataset.between(_micros(start), _micros(end))
        columns = ("population", "days", "alarm_rate", "score_level", "score_shift", "residual_level", "input_shift")
        schema = {name: self.drift_columns[name][0] for name in columns}
        if not len(days):
            return pl.DataFrame(schema=schema)
        z, _ = champion.usual.statistics(days)
        score = champion.scores(days)
        here = _week(score, np.abs(z).mean(axis=1))
        shift = np.full(2, np.nan)
        if len(champion.reference) >= LEAST_WEEKS:
            shift = (here - champion.reference.mean(axis=0)) / np.maximum(champion.reference.std(axis=0, ddof=1), 1e-6)
        alarms = float(1000 * (score >= champion.threshold).mean())
        row = (ALL, len(days), alarms, float(here[0]), float(shift[0]), float(here[1]), float(shift[1]))
        return pl.DataFrame([row], schema=schema, orient="row").fill_nan(None)

    def evidence(
        self, champion: Any, dataset: Days, start: datetime, policy: DriftPolicy, moved: pl.DataFrame | None = None
    ) -> None:
        """Nothing besides."""
        return None

    def verdict(self, history: pl.DataFrame, policy: DriftPolicy, evidence: Any = None) -> Verdict:
        """Drift: scores or residuals of the latest ``policy.weeks`` weeks are other than those of the reference.

        Their shifts are averaged; two-sided by Student's t with the reference's least number of weeks, and halved for
        two columns (Bonferroni); at ``policy.false_alarm_rate``.
        """
        from scipy.stats import t as student

        rows = history.sort("window_start")
        latest = rows.tail(policy.weeks)
        start = latest["window_start"].min() if latest.height else None
        end = latest["window_start"].max() if latest.height else None
        known = latest.select("score_shift", "input_shift").drop_nulls()
        tested = latest.height >= policy.weeks and known.height == latest.height
        p, drifted, widest = None, False, "score_shift"
        if tested:
            means = known.mean().row(0)
            # Weeks of a reference resemble their neighbours: averages of three are taken to vary as one week does.
            ps = 2 * student.sf(np.abs(means), LEAST_WEEKS - 1)
            p = float(min(1.0, 2 * ps.min()))
            widest = known.columns[int(ps.argmin())]
            drifted = p <= policy.false_alarm_rate
        verdict = ("drift" if drifted else "ok") if tested else "insufficient_data"
        columns = ("population", "p_value", "verdict", "due", "since", "expected_gain")
        series = pl.DataFrame(
            [(ALL, p, verdict, drifted, start if drifted else None, None)],
            schema={name: self.drift_columns[name][0] for name in columns},
            orient="row",
        )
        found = []
        if drifted and isinstance(start, datetime):
            said = {"channel": "input", "measure": widest, "p_value": p, "hours": None, "expected_gain": None}
            found.append({"kind": "input", "scope": "fleet", "members": [ALL], "since": start.isoformat(), **said})
        summary = {"series_tested": int(tested), "series_drifted": int(drifted), "members_due": int(drifted)}
        summary |= {"p_value": p, "alarm_rate": latest["alarm_rate"].mean() if latest.height else None}  # type: ignore[dict-item]
        window_end = end + timedelta(days=7) if isinstance(end, datetime) else None
        return Verdict(verdict, start if isinstance(start, datetime) else None, window_end, series, summary, found)

    def explain(self, dataset: Days, members: Sequence[str], start: datetime, span: timedelta) -> pl.DataFrame:
        """The entities whose residuals have grown most in the window against the 26 weeks before."""
        end = _micros(start + span)
        begin = end - 28 * DAY_US
        rows = []
        parts = {"residual": (begin, end), "residual_before": (begin - 182 * DAY_US, begin)}
        for name, span_of_part in parts.items():
            days = dataset.between(*span_of_part)
            size = np.abs(np.nan_to_num(days.residual)).mean(axis=1)
            frame = pl.DataFrame({self.entity: pl.Series(days.entities.tolist(), dtype=pl.String), name: size})
            rows.append(frame.group_by(self.entity).agg(pl.col(name).mean()))
        both = rows[0].join(rows[1], on=self.entity).with_columns(ratio=pl.col("residual") / pl.col("residual_before"))
        return both.sort("ratio", self.entity, descending=[True, False]).head(5)

    # --- pictures -----------------------------------------------------------------------------------------------------

    def pictures(self, result: BacktestResult) -> dict[str, bytes]:
        """found: share of each planted anomaly found, by candidate. PNG by name."""
        from lakehouse_assets.ml.anomaly_pictures import backtest_pictures

        return backtest_pictures(result)

    def error_pictures(self, errors: pl.LazyFrame) -> dict[str, bytes]:
        """There are no errors."""
        return {}

    def drift_pictures(self, history: pl.DataFrame, features: pl.LazyFrame, policy: DriftPolicy) -> dict[str, bytes]:
        """calendar: what each day had against what was expected; worst_days: the farthest. PNG by name."""
        from lakehouse_assets.ml.anomaly_pictures import day_pictures

        return day_pictures(features, self.entity)

    def finding_pictures(
        self, history: pl.DataFrame, features: pl.LazyFrame, finding: Mapping[str, Any]
    ) -> dict[str, bytes]:
        """As of the drift."""
        from lakehouse_assets.ml.anomaly_pictures import day_pictures

        return day_pictures(features, self.entity)


def _gain(ours: Any, theirs: Any) -> Any:
    """Share of the champion's misses that the challenger spares; equal where neither misses any."""
    return np.where(theirs > 0, 1 - ours / np.maximum(theirs, 1e-9), np.where(ours > 0, -1.0, 0.0))


def _metrics(losses: pl.DataFrame, names: Sequence[str], threshold: Mapping[str, float]) -> pl.DataFrame:
    """missed, found and threshold by candidate: overall, by planted anomaly and by fold."""
    frames = []
    for part, column in (("overall", None), ("injected", "injected"), ("fold", "fold")):
        key = pl.lit("") if column is None else pl.col(column).cast(pl.String)
        for name in names:
            found = losses.group_by(key=key).agg(missed=pl.col(name).mean()).sort("key")
            frames.append(
                found.select(
                    "key",
                    "missed",
                    candidate=pl.lit(name),
                    slice=pl.lit(part),
                    found=1 - pl.col("missed"),
                    threshold=pl.lit(threshold[name]),
                )
            )
    return pl.concat(frames).select("candidate", "slice", "key", "missed", "found", "threshold")


def _week(score: Array, size: Array) -> Array:
    """(2,) mean logarithm of one and the scores, and mean size of the residuals."""
    return np.array([np.log1p(np.maximum(score, 0.0)).mean(), size.mean()])


def _weeks(as_of: npt.NDArray[np.int64], score: Array, size: Array) -> Array:
    """(W, 2) of each whole week, counted back from the last day."""
    week = (as_of.max(initial=0) - as_of) // (7 * DAY_US)
    oldest = int(week.max(initial=0))
    found = [_week(score[week == k], size[week == k]) for k in range(oldest) if (week == k).any()]
    return np.array(found).reshape(-1, 2)


def _micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _moment(at: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
