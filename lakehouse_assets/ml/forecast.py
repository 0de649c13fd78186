"""Forecasting as a kind of model: data set, backtest with rolling origins, gate, errors, weekly losses.

A feature table holds one row for each (issued_at, series_id, ts); its data set is a :class:`Panel`. Every candidate
is scored on the same origins; a fit at an origin learns only from targets that were known by then.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from lakehouse_assets.ml import auto, backtest, drift, gate, inputs, intervals, regime
from lakehouse_assets.ml.backtest import Champion, Fold, Plan, Refit, Week, is_shared
from lakehouse_assets.ml.channels import Evidence
from lakehouse_assets.ml.definition import (
    CHAMPION,
    BacktestResult,
    Candidate,
    DriftPolicy,
    GateDecision,
    GatePolicy,
    Progress,
    Search,
    SearchResult,
    Trial,
)
from lakehouse_assets.ml.estimators import Blend, Fit, SeasonalNaive
from lakehouse_assets.ml.fitted import FittedForecast, ShardedForecast, Spool, microseconds, moment
from lakehouse_assets.ml.fleet import Fleet
from lakehouse_assets.ml.ladder import RUNGS, members
from lakehouse_assets.ml.panel import DAY_US, NEVER, Panel
from lakehouse_assets.ml.search import run_search
from lakehouse_assets.ml.shards import SHARD_SERIES, Shard, Shards, each
from lakehouse_assets.ml.smoothing import ExponentialSmoothing
from lakehouse_assets.ml.window import TrainingWindow

UTC_TIME = pl.Datetime("us", "UTC")
WEEK = 7
"""Days that a fold scores by default, and a week of monitoring always."""


@dataclass(frozen=True)
class Forecast:
    """Forecasting, issued once a day or more often for a whole horizon.

    spread, recent: how many origins lie spread over the last year, and how many in the latest contiguous folds.
    minimum_training_days: the history before the first origin. fold_days: what an origin scores; less than a week
    where the history is a matter of weeks. ladder: the candidates that stand in, in order, where another cannot speak;
    below them stand the first model across series, which knows every newcomer, and the seasonal naive. shard_series:
    how many series are worked on at a time by a worker, at most. retire_after_days: without a value for so long a
    series takes no part in a training; its forecasts end with its rows in the feature table.
    """

    target: str = "value"
    spread: int = 6
    recent: int = 6
    minimum_training_days: int = 56
    fold_days: int = WEEK
    ladder: tuple[str, ...] = ("ridge",)
    shard_series: int = SHARD_SERIES
    retire_after_days: int = 28

    name = "forecast"
    keys = ("issued_at", "series_id", "ts")
    member = "series_id"
    window: ClassVar[Literal["week", "month"]] = "week"
    truth_after = timedelta(0)
    describes = False
    prediction_columns = MappingProxyType(
        {
            "issued_at": (UTC_TIME, "When the forecast was made; only what was known by then was used."),
            "series_id": (pl.String(), "The series."),
            "ts": (UTC_TIME, "Start of the forecast hour (UTC)."),
            "horizon": (pl.Int16(), "Whole hours from the issue time to the forecast hour."),
            "yhat": (pl.Float64(), "The forecast, in the unit of the series; null where there is nothing to say."),
            **intervals.COLUMNS,
            "rung": (pl.String(), f"Who made it, from the top of the ladder: {', '.join(RUNGS)}."),
            "reason": (pl.String(), "Why it is not the champion's own; null where it is."),
        }
    )
    error_columns = MappingProxyType(
        {
            **{name: column for name, column in prediction_columns.items() if name != "reason"},
            "value": (pl.Float64(), "The value that came true, where it was reported good."),
            "error": (pl.Float64(), "Forecast less value."),
            "absolute_error": (pl.Float64(), "Absolute error."),
            **intervals.SCORES,
        }
    )
    drift_columns = MappingProxyType(drift.COLUMNS)
    time_column = "issued_at"
    prediction_column = "yhat"
    error_column = "error"
    loss_column = "absolute_error"
    look_back = intervals.RECENT

    # --- data ---------------------------------------------------------------------------------------------------------

    def dataset(self, rows: pl.DataFrame | pl.LazyFrame | Panel | Shards) -> Shards:
        """Rows of the feature table in shards; every numeric column that is no key is a feature."""
        return Shards.of(rows, self.target, self.shard_series)

    def _span(self, dataset: Shards | Panel, cutoff: int) -> tuple[int, int, int]:
        """The issue times, as indices, between which folds may lie, and how many there are a day; see :meth:`folds`."""
        shards = self.dataset(dataset)
        scorable = shards.known_from <= min(cutoff, NEVER - 1)
        if not scorable.any():
            raise ValueError("no target is known yet: nothing to train on")
        day = _issue_times_a_day(shards.issued)
        first, stop = int(np.flatnonzero(scorable)[0]), int(np.flatnonzero(scorable)[-1]) + 1
        earliest = first + self.minimum_training_days * day
        if stop - earliest < self.fold_days * day:
            raise ValueError(
                f"{(stop - first) // day} issue days are known; a backtest needs {self.minimum_training_days} to learn "
                f"from and {self.fold_days} to be scored on"
            )
        return earliest, stop, day

    def folds(self, dataset: Shards | Panel, cutoff: int) -> list[Fold]:
        """The rolling origins: numbered from 0 in order of time, warm-up origins (not scored) before them from -1 down.

        The latest contiguous folds, and before them origins spread evenly over a year; where the history is short,
        spread over what there is after the minimum training span. Raises ValueError when not one fold can be scored.
        """
        earliest, stop, day = self._span(dataset, cutoff)
        length = self.fold_days * day
        room = (stop - earliest) // length
        total = min(self.spread + self.recent, room)
        recent = min(self.recent, (total + 1) // 2) if self.spread else total
        starts = [stop - length * (k + 1) for k in range(recent)]
        spread = total - recent
        if spread:
            oldest = max(earliest, starts[-1] - 364 * day + length * recent)
            starts += [oldest + (starts[-1] - oldest) * k // spread for k in range(spread)]
        starts = sorted(starts)
        step = max(length, starts[1] - starts[0]) if len(starts) > 1 else length
        warm_up = [w for w in (starts[0] - 2 * step, starts[0] - step) if w >= earliest]
        return [Fold(i - len(warm_up), s, min(s + length, stop)) for i, s in enumerate([*warm_up, *starts])]

    # --- training -----------------------------------------------------------------------------------------------------

    def search(
        self,
        dataset: Shards | Panel,
        search: Search,
        *,
        cutoff: datetime | None = None,
        seed: int = 0,
        report: Callable[[Trial], None] | None = None,
    ) -> SearchResult:
        """Candidates by trial, on a seeded sample of the series and on folds of their own: see :meth:`trial_folds`.

        The loss of a trial is its MAE relative to the seasonal naive. The best of each of the best families goes on to
        the backtest, with the blend of them.
        """
        from threadpoolctl import threadpool_limits

        from lakehouse_assets.ml import pictures

        shards = self.dataset(dataset)
        end = microseconds(cutoff) if cutoff else shards.known_until
        folds = self.trial_folds(shards, end)
        few = min(search.members, len(shards.series))
        drawn = np.random.default_rng(seed).choice(len(shards.series), few, replace=False)
        panel = shards.of_series([shards.series[i] for i in drawn]).panel()

        def loss(candidate: Candidate, k: int) -> float:
            return auto.relative_loss(panel, folds[k].start, folds[k].stop, end, seed, candidate)

        with threadpool_limits(1, "blas"):
            trials = run_search(auto.spaces_of(search.families, panel), loss, len(folds), search, seed, report)
        found = auto.candidates_from(trials, search.keep, self.ladder)
        return SearchResult(found, trials, {"search": pictures.search_picture(trials)})

    def candidates_of_some(
        self, candidates: Mapping[str, Candidate] | Search | Literal["auto"], champion: Champion
    ) -> Mapping[str, Candidate]:
        """The candidates that learn from each series alone; where they would have to be searched for, the champion's.

        One across series is left out: learned from a few of them it would be another model, and to learn it from all
        costs what training all does. A blend goes on without it. Where it is needed, the gate keeps the champion.
        """
        recipes = candidates if isinstance(candidates, Mapping) else champion.recipes
        return {name: recipe for name, recipe in recipes.items() if not is_shared(recipe)}

    def trial_folds(self, data: Shards | Panel, cutoff: int, count: int = 4) -> list[Fold]:
        """Folds on which a search is judged, in order of time: none that the backtest scores, where there are others.

        What was chosen on some folds looks better on these than it is; the backtest must judge it on others.
        """
        earliest, stop, day = self._span(data, cutoff)
        length = self.fold_days * day
        scored = [(f.start, f.stop) for f in self.folds(data, cutoff) if f.number >= 0]
        starts = range(stop - length, max(earliest, stop - 364 * day) - 1, -length)
        free = [s for s in reversed(starts) if all(s + length <= start or s >= end for start, end in scored)]
        free = free or [start for start, _ in scored]
        chosen = np.unique(np.linspace(0, len(free) - 1, min(count, len(free))).round().astype(int))
        return [Fold(k, free[i], free[i] + length) for k, i in enumerate(chosen)]

    def backtest(
        self,
        dataset: Shards | Panel,
        candidates: Mapping[str, Candidate],
        *,
        cutoff: datetime | None = None,
        champion: Champion = None,
        window: TrainingWindow | None = None,
        seed: int = 0,
        workspace: Path | None = None,
        progress: Progress | None = None,
    ) -> BacktestResult:
        """Score the candidates and the champion on identical rolling origins; fit each at the cutoff.

        The baselines (seasonal naive, exponential smoothing) compete whether they are named or not.
        cutoff: what is known by then counts (default: everything that the data set holds). At origins at which a
        series' champion was trained already its own stored fit forecasts; before that its recipe is fitted anew.
        window, workspace: see :class:`lakehouse_assets.ml.definition.Kind`.
        ``losses``: fold, origin, issued_at, series_id, ts, horizon, y, mase_scale, reference, a column of forecasts for
        each candidate (and ``champion``, with ``champion_own``: whether its stored fit made it), and the bounds of
        their 80 % interval (``_q10``, ``_q90``). ``folds``: fold, origin, first_issue, last_issue. ``unscored``: who
        took no part, or is in no fold, and why.
        """
        say = progress or (lambda _: None)
        shards = self.dataset(dataset)
        end = microseconds(cutoff) if cutoff else shards.known_until
        folds = self.folds(shards, end)
        origins = tuple(int(shards.issued[f.start]) for f in folds)
        shards, left_out = self._active(shards, end)
        recipes = _usable(_with_baselines(candidates), shards)
        entered = tuple(recipes)
        alias: dict[str, str] = {}
        if champion:
            recipes, alias = _enter(champion, recipes)
        fitted = [name for name, recipe in recipes.items() if not isinstance(recipe, Blend)]
        say(f"backtest of {', '.join(fitted)}: {len(folds)} origins, {len(shards.series)} series")
        shared, spent = backtest.learn_shared(recipes, shards, [*origins, end], seed)
        plan = Plan(
            folds=tuple(folds),
            origins=origins,
            end=end,
            recipes=recipes,
            entered=entered,
            reference=next(n for n in entered if isinstance(recipes[n], SeasonalNaive)),
            ladder=_ladder(self.ladder, {name: recipes[name] for name in entered}),
            shared=shared,
            alias=alias,
            champion=champion.name if champion else None,
            window=window,
            seed=seed,
        )
        result = backtest.run(plan, shards, champion, spent, target=self.target, workspace=workspace, progress=say)
        scored = set(result.metrics.filter(slice="series")["key"])
        short = "no fold scores an hour of it: too little history"
        rows = sorted([*left_out.items(), *((s, short) for s in shards.series if s not in scored)])
        unscored = pl.DataFrame(rows, schema={"series_id": pl.String, "reason": pl.String}, orient="row")
        return replace(result, unscored=unscored)

    def _active(self, shards: Shards, cutoff: int) -> tuple[Shards, dict[str, str]]:
        """The data set without the series that take no part in a training, and the reason for each of those."""
        heard = shards.last_known(cutoff)
        since = cutoff - self.retire_after_days * DAY_US
        left_out = {
            series: f"retired: no value in the last {self.retire_after_days} days"
            if at
            else "no value to learn from yet"
            for series, at in zip(shards.series, heard.tolist(), strict=True)
            if at <= since or not at
        }
        if not left_out or len(left_out) == len(shards.series):
            return shards, {}
        return shards.of_series(s for s in shards.series if s not in left_out), left_out

    def refit(
        self,
        fitted: Champion,
        dataset: Shards | Panel,
        cutoff: datetime,
        *,
        seed: int | None = None,
        standing: bool = True,
    ) -> FittedForecast | ShardedForecast | Fleet:
        """A fresh fit of a fitted model's own recipe (a blend keeps its weights) on what is known at the cutoff.

        standing: False for a fit that serves the week after the cutoff alone, which costs less.
        """
        if isinstance(fitted, Fleet):
            return fitted.mapped(lambda model: self.refit(model, dataset, cutoff, seed=seed, standing=standing))
        shards = self.dataset(dataset)
        seed = fitted.seed if seed is None else seed
        refit = Refit.plan(fitted, shards, microseconds(cutoff), seed, standing)
        parts = Spool()
        for part in each(backtest.refit_shard, refit.tasks(shards)):
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        return ShardedForecast(
            name=fitted.name,
            recipes=fitted.recipes,
            shared=refit.shared,
            ladder=fitted.ladder,
            trained_at=moment(refit.cutoff),
            shards=tuple(shard.series for shard in shards),
            feature_names=fitted.feature_names,
            target=fitted.target,
            horizon=fitted.horizon,
            seed=seed,
            expected_loss=fitted.expected_loss,
            parts=parts,
            window=fitted.window,
        )

    def compose(self, models: Mapping[int, Champion], assignment: Mapping[str, int], champion: int) -> Fleet:
        """See :class:`lakehouse_assets.ml.fleet.Fleet`."""
        return Fleet(models, assignment, champion)

    # --- gate ---------------------------------------------------------------------------------------------------------

    def gate(
        self,
        result: BacktestResult,
        challenger: str,
        policy: GatePolicy,
        *,
        groups: Mapping[str, str | None] | None = None,
        has_champion: bool,
    ) -> GateDecision:
        """Promote by evidence, the fleet and series by series: see :func:`lakehouse_assets.ml.gate.decide`."""
        return gate.decide(result, challenger, policy, groups or {}, has_champion)

    # --- prediction ---------------------------------------------------------------------------------------------------

    def calibrate(self, predicted: pl.DataFrame, earlier: pl.LazyFrame, features: pl.LazyFrame) -> pl.DataFrame:
        """Forecasts with quantiles that know of the latest errors: see :func:`intervals.calibrate`."""
        actual = features.select(*self.keys, "horizon", "known_at", value=self.target)
        return intervals.calibrate(predicted, earlier, actual)

    # --- monitoring ---------------------------------------------------------------------------------------------------

    def errors(self, predictions: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
        """Predictions with the value that came true: adds value, error (forecast - value), absolute_error, and scores
        of the quantiles.
        """
        predictions = predictions.filter(pl.col("yhat").is_finite()).drop("reason", strict=False)
        actual = features.select(*self.keys, pl.col(self.target).alias("value")).filter(pl.col("value").is_finite())
        error = pl.col("yhat") - pl.col("value")
        compared = predictions.join(actual, on=list(self.keys), how="inner")
        return intervals.scored(compared.with_columns(error=error, absolute_error=error.abs()))

    def scores(self, errors: pl.DataFrame) -> dict[str, float]:
        """mean_absolute_error, bias, coverage_80, coverage_95, pinball; without those that have nothing to stand on."""
        means = errors.select(mean_absolute_error=pl.col("absolute_error").mean(), bias=pl.col("error").mean())
        found = {**means.row(0, named=True), **intervals.coverage(errors).drop("hours").row(0, named=True)}
        return {name: value for name, value in found.items() if value is not None}

    def main_inputs(self, columns: Sequence[str]) -> list[str]:
        """See :func:`lakehouse_assets.ml.inputs.main_inputs`."""
        return inputs.main_inputs(columns)

    def backtest_errors(self, result: BacktestResult) -> pl.LazyFrame:
        """series_id, yhat, error: of the out-of-sample forecasts of the best candidate."""
        yhat = pl.col(result.best)
        return result.losses.select("series_id", yhat=yhat, error=yhat - pl.col("y"))

    def window_losses(
        self,
        champion: Champion,
        dataset: Shards | Panel,
        start: datetime,
        end: datetime,
        *,
        fresh: Champion = None,
        seed: int | None = None,
        shadow: bool = True,
    ) -> pl.DataFrame:
        """See :func:`lakehouse_assets.ml.drift.weekly_losses`; ``fresh`` is fitted at the start of the week.

        start, end: of the week, on a local clock: one in which that changes is an hour shorter or longer.

        shadow: False where no fresh fit is to be made.
        """
        shards = self.dataset(dataset)
        if not isinstance(champion, Fleet):
            return self._losses_of(champion, shards, shards.series, (start, end), fresh, seed, shadow)
        # Each version against a fresh fit of its own recipe, and that only for those whom it serves.
        versions = champion.series_by_version(shards.series)
        made: dict[Any, Fit] = {}
        return pl.concat(
            self._losses_of(
                champion.models[version],
                shards,
                served,
                (start, end),
                fresh.models[version] if isinstance(fresh, Fleet) else fresh,
                seed,
                shadow,
                made,
            )
            for version, served in versions.items()
        )

    def _losses_of(
        self,
        champion: Champion,
        shards: Shards,
        served: Sequence[str],
        week: tuple[datetime, datetime],
        fresh: Champion,
        seed: int | None,
        shadow: bool,
        made: dict[Any, Fit] | None = None,
    ) -> pl.DataFrame:
        """The losses of a version for the series that it serves; what learns across series learns from all of them."""
        start, end = map(microseconds, week)
        days = Week(start, end, shadow)
        seed = champion.seed if seed is None else seed
        mine = shards if len(served) == len(shards.series) else shards.of_series(served)
        if fresh is None and shadow:
            refit = Refit.plan(champion, shards, start, seed, standing=False, alone=mine is shards, made=made)
        else:
            refit = Refit(champion, {}, start, seed, standing=False)
        tasks = ((r, fresh and fresh.only(shard.series), shard, days) for r, shard in refit.tasks(mine))
        rows = [
            drift.weekly_losses(
                seen.window.series,
                week[0],
                seen.window.target,
                seen.champion,
                seen.fresh,
                champion.expected_loss,
                hour=seen.window.full("hour") if seen.window.has("hour") else None,
                holidays=seen.window.full("is_holiday") if seen.window.has("is_holiday") else None,
                faults=[fault and (fault[0], moment(fault[1])) for fault in seen.faults],
            )
            for seen in each(backtest.week_of_shard, tasks)
        ]
        return pl.concat(rows)

    def evidence(
        self,
        champion: Champion,
        dataset: Shards | Panel,
        start: datetime,
        policy: DriftPolicy,
        moved: pl.DataFrame | None = None,
    ) -> Evidence:
        """What the channels lean on besides the losses; with ``moved`` (:meth:`explain`), what findings tell, too."""
        end = microseconds(start) + WEEK * DAY_US
        with_regimes, with_inputs = moved is not None, "input" in policy.channels
        found = []
        if with_regimes or with_inputs:
            span = self.dataset(dataset).between(end - max(regime.LOOK_BACK, inputs.HISTORY_WEEKS) * WEEK * DAY_US, end)
            tasks = ((shard, end, policy, with_regimes, with_inputs) for shard in span)
            found = list(each(_beside, tasks))
        return Evidence(
            week=start,
            past=champion.past if "error" in policy.channels else None,
            inputs=inputs.decided(pl.concat(moves for _, moves in found), policy) if with_inputs else None,
            regimes=pl.concat(regimes for regimes, _ in found) if with_regimes else pl.DataFrame(),
            widest=pl.DataFrame() if moved is None else moved,
        )

    def verdict(self, history: pl.DataFrame, policy: DriftPolicy, evidence: Evidence | None = None) -> drift.Verdict:
        """See :func:`lakehouse_assets.ml.drift.verdict`."""
        return drift.verdict(history, policy, evidence)

    def explain(
        self, dataset: Shards | Panel, members: Sequence[str], start: datetime, span: timedelta
    ) -> pl.DataFrame:
        """The widest moves of the drifted series' inputs, the latest four weeks against the half year before.

        Columns as of :func:`lakehouse_assets.ml.inputs.input_drift`; at most three a series, the widest first.
        """
        end = microseconds(start + span)
        recent, oldest = end - 28 * DAY_US, end - 210 * DAY_US
        few = self.dataset(dataset).of_series(members).between(oldest, end).panel()
        reference, current = few.between(oldest, recent), few.between(recent, end)
        if not reference.shape[1] or not current.shape[1]:
            return pl.DataFrame()
        return inputs.input_drift(reference, current).group_by("series_id", maintain_order=True).head(3)

    # --- pictures -----------------------------------------------------------------------------------------------------

    def error_pictures(self, errors: pl.LazyFrame) -> dict[str, bytes]:
        """Coverage by week, and the latest forecasts with their intervals: PNG by name."""
        from lakehouse_assets.ml import pictures

        return pictures.error_pictures(errors)

    def pictures(self, result: BacktestResult) -> dict[str, bytes]:
        """leaderboard, forecast against actual, error by hour of the horizon, worst series: PNG by name."""
        from lakehouse_assets.ml import pictures

        return pictures.backtest_pictures(result)

    def drift_pictures(self, history: pl.DataFrame, features: pl.LazyFrame, policy: DriftPolicy) -> dict[str, bytes]:
        """Regret by series and week, flags against their budget, the day of the worst series: PNG by name."""
        from lakehouse_assets.ml.drift_pictures import drift_pictures

        return drift_pictures(history, features, self.target, policy)

    def finding_pictures(
        self, history: pl.DataFrame, features: pl.LazyFrame, finding: Mapping[str, Any]
    ) -> dict[str, bytes]:
        """A finding's weeks against the fleet's, its errors before and after, its day before and now: PNG by name."""
        from lakehouse_assets.ml.finding_pictures import finding_pictures

        since = finding.get("since")
        at = datetime.fromisoformat(since) if since else None
        if at is not None and at.tzinfo is None:  # on a local clock: hours do not matter in a picture of weeks
            at = at.replace(tzinfo=UTC)
        return finding_pictures(history, finding["members"], at, features, self.target)


def _beside(task: tuple[Shard, int, DriftPolicy, bool, bool]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Changes of regime in the series of a shard by the end of a week, and the surprises of their inputs."""
    shard, end, policy, with_regimes, with_inputs = task
    if not with_inputs:
        shard = replace(shard, features=tuple(n for n in shard.features if n == "hour"))
    panel = shard.panel()
    return (
        regime.of_panel(panel, end, policy) if with_regimes else pl.DataFrame(),
        inputs.surprises(panel, end) if with_inputs else pl.DataFrame(),
    )


def _issue_times_a_day(issued: np.ndarray) -> int:
    """How often forecasts are issued, from the usual pause between two issue times."""
    pause = float(np.median(np.diff(issued))) if len(issued) > 1 else DAY_US
    return max(1, round(DAY_US / pause))


def _with_baselines(candidates: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """The candidates, and the baselines that always compete."""
    out = dict(candidates)
    for name, baseline in (("seasonal_naive", SeasonalNaive()), ("exponential_smoothing", ExponentialSmoothing())):
        if not any(type(candidate) is type(baseline) for candidate in candidates.values()):
            out[name] = baseline
    return out


def _usable(candidates: Mapping[str, Candidate], data: Shards) -> dict[str, Candidate]:
    """The candidates that can do something with the data; a blend of those of its members, if they are two or more."""
    simple = {n for n, c in candidates.items() if not isinstance(c, Blend) and c.usable(data)}  # type: ignore[attr-defined]
    out: dict[str, Candidate] = {}
    for name, candidate in candidates.items():
        if isinstance(candidate, Blend):
            members = tuple(m for m in candidate.members if m in simple)
            if len(members) > 1:
                out[name] = replace(candidate, members=members)
        elif name in simple:
            out[name] = candidate
    return out


def _ladder(first: Sequence[str], recipes: Mapping[str, Candidate]) -> tuple[str, ...]:
    """The recipes that stand in for others: those named, then one across series, if there is one."""
    shared = [name for name, recipe in recipes.items() if backtest.is_shared(recipe)]
    return tuple(dict.fromkeys([name for name in first if name in recipes] + shared[:1]))


def _enter(champion: Champion, recipes: Mapping[str, Candidate]) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Add the champion's recipes that are not among the candidates; returns all, and the champion's names in them."""
    out = dict(recipes)
    alias: dict[str, str] = {}
    ordered = [*champion.fits, *(n for n in champion.recipes if n not in champion.fits)]
    own = [n for n in members(champion.recipes[champion.name], champion.name) if not is_shared(champion.recipes[n])]
    if own and not any(map(is_shared, recipes.values())):
        # Where nothing learns across series, neither does the champion's recipe, unless it can do nothing else.
        ordered = [n for n in ordered if not is_shared(champion.recipes[n])]
    for name in ordered:
        recipe = champion.recipes[name]
        if isinstance(recipe, Blend):
            blended = tuple(alias[m] for m in recipe.members if m in alias)
            recipe = replace(recipe, members=blended, weights=None)
        same = next((n for n, r in out.items() if r.parameters() == recipe.parameters()), None)
        alias[name] = same or f"{CHAMPION}/{name}"
        out.setdefault(alias[name], recipe)
    return out, alias
