"""Training a fleet of forecasts: rolling origins, shard by shard, and the fits that a training leaves behind.

What all shards share is a :class:`Plan`; what one of them finds is an :class:`Outcome`. Models across series learn
first, from a sample of every shard; then each shard fits the rest, forecasts, and scores.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml import estimators
from lakehouse_assets.ml.definition import CHAMPION, BacktestResult, Candidate, Progress
from lakehouse_assets.ml.errors import Past, weekly
from lakehouse_assets.ml.estimators import Blend, Fit
from lakehouse_assets.ml.fitted import (
    FittedForecast,
    Made,
    ShardedForecast,
    Spool,
    microseconds,
    moment,
)
from lakehouse_assets.ml.gate import OWN
from lakehouse_assets.ml.intervals import BANDS, Intervals
from lakehouse_assets.ml.ladder import Reach, counted, descend, members, rows_known, speak
from lakehouse_assets.ml.local import without_faults
from lakehouse_assets.ml.metrics import REFERENCE, metric_sums, metrics_from
from lakehouse_assets.ml.panel import KEYS, Panel
from lakehouse_assets.ml.shards import Shard, Shards, each, in_threads
from lakehouse_assets.ml.window import TrainingWindow

Array = npt.NDArray[np.float64]
INTERVAL = BANDS["80"]
"""The bounds that losses carry for each candidate, so that the gate sees what it covers."""
Champion = Any
"""A fitted forecast of any make: of one shard, of a fleet, or put together from several versions."""


@dataclass(frozen=True)
class Fold:
    """A rolling origin (index into the issue times) and the issue times that it scores, [start, stop)."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """What all shards of a training have in common.

    recipes: all that is fitted, by name. entered: the candidates among them. reference: the one among them that others
    are measured against. alias: the champion's names in them. window: what of the history is learned from, if not all.
    shared: the fits across series at each origin and at the end (microseconds since the epoch).
    """

    folds: tuple[Fold, ...]
    origins: tuple[int, ...]
    end: int
    recipes: Mapping[str, Candidate]
    entered: tuple[str, ...]
    reference: str
    ladder: tuple[str, ...]
    shared: Mapping[str, Sequence[Fit]]
    alias: Mapping[str, str]
    champion: str | None
    window: TrainingWindow | None
    seed: int

    @property
    def names(self) -> list[str]:
        """Everything that is scored."""
        return [*self.entered, *([CHAMPION] if self.champion else [])]


@dataclass(frozen=True)
class Outcome:
    """What a shard's work has found.

    fits: at the end, of what was fitted here. recipes: the plan's, with what the blends learned; moments: what the
    whole fleet's blends are learned from. sums: of :func:`lakehouse_assets.ml.metrics.metric_sums`. rows: the issue
    times with known targets of each series. costs: candidate, CPU seconds and bytes. intervals, past: of each
    candidate.
    """

    series: tuple[str, ...]
    fits: Mapping[str, Fit]
    recipes: Mapping[str, Candidate]
    moments: Mapping[str, Array]
    sums: pl.DataFrame
    losses: pl.DataFrame
    rows: Mapping[str, int]
    intervals: Mapping[str, Intervals]
    past: Mapping[str, Past]
    costs: pl.DataFrame


def is_shared(recipe: Candidate) -> bool:
    """Whether a recipe is fitted across all series."""
    return bool(getattr(recipe, "pooled", False))


def learn_shared(
    recipes: Mapping[str, Candidate],
    shards: Shards,
    at: Sequence[int],
    seed: int,
    features: Sequence[str] | None = None,
) -> tuple[dict[str, Sequence[Fit]], pl.DataFrame]:
    """The fits across series at each cutoff, from a sample of every shard; and what they cost."""
    pooled = {n: r for n, r in recipes.items() if is_shared(r)}
    if not pooled:
        return {}, costs([])
    share = {shard.number: len(shard.series) / len(shards.series) for shard in shards}
    tasks = ((pooled, shard, at, seed, share[shard.number], features) for shard in shards)
    samples: dict[str, list[Any]] = {n: [] for n in pooled}
    spent = []
    for number, (found, cost) in enumerate(each(_sample, tasks)):
        spent.append(cost.with_columns(shard=pl.lit(number, pl.Int64)))
        for name, sample in found.items():
            samples[name].append(sample)
    fits = {}
    rows = []
    for name, recipe in pooled.items():
        start = time.process_time()
        fits[name] = recipe.fit_samples(samples.pop(name), at, seed)  # type: ignore[attr-defined]
        rows.append((name, "fit", time.process_time() - start, 0))
    return fits, pl.concat([*spent, costs(rows)])


def _sample(task: tuple[Mapping[str, Any], Shard, Sequence[int], int, float, Any]) -> tuple[dict, pl.DataFrame]:
    recipes, shard, at, seed, share, features = task
    panel = shard.panel()
    panel = panel if features is None else panel.select(features)
    found, rows = {}, []
    for name, recipe in recipes.items():
        start = time.process_time()
        found[name] = recipe.sample(panel, at, seed, share)
        rows.append((name, "sample", time.process_time() - start, size_of(panel)))
    return found, costs(rows)


def costs(rows: Sequence[tuple[str, str, float, int]], shard: int | None = None) -> pl.DataFrame:
    """Rows of the cost ledger: shard (null: the fleet), candidate, stage, cpu_seconds, bytes (of the rows read)."""
    schema: dict[str, Any] = {
        "candidate": pl.String,
        "stage": pl.String,
        "cpu_seconds": pl.Float64,
        "bytes": pl.Int64,
    }
    frame = pl.DataFrame(list(rows), schema=schema, orient="row")
    return frame.select(pl.lit(shard, pl.Int64).alias("shard"), pl.all())


def size_of(panel: Panel) -> int:
    """Bytes of a panel in memory."""
    arrays = [panel.target, panel.known_at, panel.present, *panel.columns.values()]
    return sum(a.nbytes for a in arrays)


def score_shard(task: tuple[Plan, Shard, Champion]) -> Outcome:
    """Fit everything at each origin and at the end, forecast the weeks after the origins, and score."""
    plan, shard, champion = task
    panel = shard.panel()
    at = [*plan.origins, plan.end]
    windows = [panel.take(days=slice(f.start, f.stop)) for f in plan.folds]
    reaches = [Reach.of(window) for window in windows]
    known_rows = rows_known(panel, at)
    fits: dict[str, Sequence[Fit]] = dict(plan.shared)
    raw: dict[str, list[Array]] = {}
    spent: list[tuple[str, str, float, int]] = []
    bytes_read = size_of(panel)
    learned, held = panel, np.ones((len(windows), len(panel.series)), bool)
    if plan.window is not None:
        learned = replace(panel, weight=plan.window.weights(panel))
        held = np.stack([plan.window.holds(panel.series.tolist(), origin) for origin in plan.origins])
    # Folds at whose origin the break of some series was not there yet, or too new: it is fitted as if there were none.
    too_early = int(np.flatnonzero(~held.all(axis=1)).max(initial=-1)) + 1
    fitted_here = [n for n, r in plan.recipes.items() if not isinstance(r, Blend)]

    def learn(name: str) -> tuple[Sequence[Fit], list[Array], float]:
        start = time.thread_time()
        recipe: Any = plan.recipes[name]
        found = plan.shared[name] if name in plan.shared else recipe.fit(learned, at, plan.seed)
        said = [fit.predict(window) for fit, window in zip(found, windows, strict=False)]
        if too_early and name not in plan.shared:
            for k, fit in enumerate(recipe.fit(panel, at[:too_early], plan.seed, standing=False)):
                said[k] = np.where(held[k][:, None, None], said[k], fit.predict(windows[k]))
        forecasts = [
            counted(recipe, forecast, reach, rows)
            for forecast, reach, rows in zip(said, reaches, known_rows, strict=False)
        ]
        return found, forecasts, time.thread_time() - start

    for name, (found, forecasts, seconds) in in_threads(learn, fitted_here).items():
        fits[name], raw[name] = found, forecasts
        spent.append((name, "backtest", seconds, bytes_read))

    recipes = dict(plan.recipes)
    moments: dict[str, Array] = {}
    out: dict[str, list[Array]] = {n: [] for n in recipes}
    for k, window in enumerate(windows):
        known = {n: forecasts[k] for n, forecasts in raw.items()}
        rungs = [known[n] for n in plan.ladder]
        for name, recipe in plan.recipes.items():
            if isinstance(recipe, Blend):
                recipe, _ = _learn_blend(recipe, raw, windows[:k], plan.origins[k])
            out[name].append(descend(speak(recipe, name, window, known), rungs, window, reaches[k])[0])
    for name, recipe in plan.recipes.items():
        if isinstance(recipe, Blend):
            start = time.thread_time()
            recipes[name], moments[name] = _learn_blend(recipe, raw, windows, plan.end)
            spent.append((name, "backtest", time.thread_time() - start, 0))
    own = np.zeros((len(windows), len(panel.series)), bool)
    if plan.champion is not None:
        trained = np.array([microseconds(at) for at in champion.trained_at_of(panel.series.tolist())])
        own = np.asarray(plan.origins)[:, None] >= trained
        out[CHAMPION] = [
            np.where(mine[:, None, None], champion.forecast(window), stand_in) if mine.any() else stand_in
            for window, mine, stand_in in zip(windows, own, out[plan.alias[plan.champion]], strict=True)
        ]
    losses = _losses(plan, panel, windows, out | {REFERENCE: out[plan.reference]}, own)
    return Outcome(
        series=shard.series,
        fits={n: fits[n][-1] for n in fitted_here if n not in plan.shared},
        recipes=recipes,
        moments=moments,
        sums=metric_sums(losses, plan.names),
        losses=losses,
        rows=dict(zip(panel.series.tolist(), known_rows[-1].tolist(), strict=True)),
        intervals=_intervals(plan, windows, out),
        past=_past(plan, windows, out),
        costs=costs(spent, shard.number),
    )


def _learn_blend(
    blend: Blend, raw: Mapping[str, list[Array]], windows: Sequence[Panel], cutoff: int
) -> tuple[Blend, Array]:
    """The blend with weights from its members' errors in the windows before, as far as known at the cutoff."""
    errors = []
    for k, window in enumerate(windows):
        actual = np.where(window.known_at <= cutoff, window.target, np.nan) / estimators.level(window)[:, :, None]
        forecasts = np.stack([raw[m][k] for m in blend.members]) / estimators.level(window)[:, :, None]
        errors.append((forecasts - actual).reshape(len(forecasts), len(actual), -1))
    if not errors:
        return replace(blend, weights=None), np.zeros((len(blend.members),) * 2)
    return blend.learn(windows[0].series.tolist(), np.concatenate(errors, axis=2))


def _intervals(plan: Plan, windows: Sequence[Panel], out: Mapping[str, list[Array]]) -> dict[str, Intervals]:
    """The quantiles of each candidate's errors in the folds that are scored."""
    scored = [k for k, fold in enumerate(plan.folds) if fold.number >= 0]
    known = [np.where(windows[k].known_at <= plan.end, windows[k].target, np.nan) for k in scored]
    actual = np.concatenate(known, axis=1)
    return {
        name: Intervals.learn(
            windows[0].series.tolist(), np.concatenate([out[name][k] for k in scored], axis=1), actual
        )
        for name in plan.entered
    }


def _past(plan: Plan, windows: Sequence[Panel], out: Mapping[str, list[Array]]) -> dict[str, Past]:
    """The errors of each candidate in the folds that are scored, by week and block of hours."""
    scored = [k for k, fold in enumerate(plan.folds) if fold.number >= 0]
    days = max(windows[k].shape[1] for k in scored)

    def stacked(values: Sequence[npt.NDArray[np.floating]]) -> npt.NDArray[np.floating]:
        """(S, D, ...) of the folds as (S, W, D, ...), NaN for the days that one lacks."""
        return np.stack(
            [np.pad(v, [(0, 0), (0, days - v.shape[1]), (0, 0)], constant_values=np.nan) for v in values], axis=1
        )

    actual = stacked([np.where(windows[k].known_at <= plan.end, windows[k].target, np.nan) for k in scored])
    explaining: dict[str, Any] = {"holidays": None}
    if "is_holiday" in windows[0].columns:
        explaining = {"holidays": stacked([windows[k].full("is_holiday") for k in scored])}
    starts = np.array([plan.origins[k] for k in scored], np.int64)
    series = tuple(windows[0].series.tolist())
    return {
        name: Past(series, weekly(actual, stacked([out[name][k] for k in scored]), starts, explaining))
        for name in plan.entered
    }


def _losses(
    plan: Plan,
    panel: Panel,
    windows: Sequence[Panel],
    out: Mapping[str, list[Array]],
    own: npt.NDArray[np.bool_],
) -> pl.DataFrame:
    """The scored hours: a finite target known at the end, and a finite forecast of everyone; sorted by series.

    own: (folds, S) whether the champion's stored fit forecasts.
    """
    first = next(f.start for f in plan.folds if f.number >= 0)
    past = panel.take(days=slice(0, first))
    known = np.isfinite(past.target) & (past.known_at <= int(panel.issued[first]))
    naive = np.where(known, np.abs(estimators.naive_from(past) - past.target), np.nan)
    hours = np.isfinite(naive).sum(axis=(1, 2))
    scale = np.where(hours > 0, np.nansum(naive, axis=(1, 2)) / np.maximum(hours, 1), np.nan)
    columns = [REFERENCE, *plan.names]
    bounds = [f"{name}_{bound}" for name in plan.names for bound in INTERVAL]
    frames = []
    for k, (fold, window) in enumerate(zip(plan.folds, windows, strict=True)):
        if fold.number < 0:
            continue
        y = np.where(window.known_at <= plan.end, window.target, np.nan)
        values = {"y": y, "mase_scale": np.broadcast_to(scale[:, None, None], window.shape)}
        values |= {n: out[n][k] for n in columns}
        if plan.champion:
            values[OWN] = np.broadcast_to(own[k][:, None, None], window.shape)
        for name in plan.names:
            values |= _bounds(name, out[name], windows, k, plan.origins[k])
        frames.append(
            window.frame(**values)
            .filter(pl.all_horizontal(pl.col("y", *columns).is_finite()))
            .with_columns(pl.col(bounds).cast(pl.Float32).fill_nan(None))
            .with_columns(fold=pl.lit(fold.number, pl.Int32), origin=pl.lit(moment(plan.origins[k])))
        )
    order = ["fold", "origin", *KEYS, "y", "mase_scale", *([OWN] if plan.champion else []), *columns, *bounds]
    return pl.concat(frames).select(order).sort("series_id", maintain_order=True)


INTERVAL_FOLDS = 4
"""Folds before a fold from whose errors its intervals are learned."""


def _bounds(
    name: str, forecasts: Sequence[Array], windows: Sequence[Panel], k: int, cutoff: int
) -> dict[str, npt.NDArray[np.floating]]:
    """The interval of a fold's forecasts, from the errors of the folds before as known at its origin; NaN for none."""
    before = range(max(0, k - INTERVAL_FOLDS), k)
    if not before:
        return {f"{name}_{bound}": np.full(windows[k].shape, np.nan) for bound in INTERVAL}
    actual = np.concatenate(
        [np.where(windows[i].known_at <= cutoff, windows[i].target, np.nan) for i in before], axis=1
    )
    said = np.concatenate([forecasts[i] for i in before], axis=1)
    series = windows[k].series.tolist()
    quantiles = Intervals.learn(series, said, actual).quantiles(series, forecasts[k])
    return {f"{name}_{bound}": quantiles[bound] for bound in INTERVAL}


def run(
    plan: Plan,
    shards: Shards,
    champion: Champion,
    spent: pl.DataFrame,
    *,
    target: str,
    workspace: Path | None = None,
    progress: Progress,
) -> BacktestResult:
    """Score all shards, and put together what they found.

    workspace: a folder for what would not fit in memory, the losses and the fits; they are read from there, so it must
    last as long as the result.
    """
    several = len(shards) > 1
    spool = Spool(_folder(workspace, "fits") if several else None)
    evidence = _folder(workspace, "losses") if several else None
    tasks = ((plan, shard, champion and champion.only(shard.series)) for shard in shards)
    sums, ledger, losses, moments = [], [spent], [], []
    intervals: list[Mapping[str, Intervals]] = []
    for number, outcome in enumerate(each(score_shard, tasks), start=1):
        sums.append(outcome.sums)
        ledger.append(outcome.costs)
        moments.append(outcome.moments)
        intervals.append({n: replace(i, series=(), offsets=i.offsets[:0]) for n, i in outcome.intervals.items()})
        if evidence is None:
            losses.append(outcome.losses)
        else:
            outcome.losses.write_parquet(evidence / f"{number:05d}.parquet")
        spool.append(replace(outcome, losses=outcome.losses.clear(), sums=outcome.sums.filter(slice="series")))
        if several:
            progress(f"shard {number} of {len(shards)}: {len(outcome.series)} series")
    progress("metrics")
    metrics = metrics_from(sums)
    overall = metrics.filter(slice="overall")
    score = dict(zip(overall["candidate"], overall["relative_mae"].fill_null(np.inf), strict=True))
    recipes = {n: _of_fleet(n, r, moments) for n, r in plan.recipes.items()}
    fitted: dict[str, FittedForecast | ShardedForecast] = {}
    for name in plan.entered:
        make = partial(_part, plan, name, list(shards.features), target, shards.horizon)
        if not several:
            only = make(spool[0])
            fitted[name] = replace(only, fits={**only.fits, **_shared(plan, only.recipes)})
            continue
        needed = {n: recipes[n] for n in _needed(plan, name)}
        mine = metrics.filter(candidate=name, slice="series")
        fitted[name] = ShardedForecast(
            name=name,
            recipes=needed,
            shared=_shared(plan, needed),
            ladder=tuple(n for n in plan.ladder if n != name),
            trained_at=moment(plan.end),
            shards=tuple(shard.series for shard in shards),
            feature_names=list(shards.features),
            target=target,
            horizon=shards.horizon,
            seed=plan.seed,
            expected_loss=dict(zip(mine["key"], mine["mae"], strict=True)),
            parts=Made(make, spool),
            intervals=Intervals.across(found[name] for found in intervals),
            window=plan.window,
        )
    return BacktestResult(
        best=min(plan.entered, key=lambda n: score.get(n, np.inf)),
        primary="relative_mae",
        metrics=metrics,
        folds=_fold_table(plan, shards.issued),
        losses=pl.concat(losses).lazy() if evidence is None else pl.scan_parquet(evidence / "*.parquet"),
        fitted=fitted,
        costs=pl.concat(ledger),
        curves={n: curve for n in plan.entered if (curve := _curve(plan, n))},
    )


def _curve(plan: Plan, name: str) -> Sequence[Mapping[str, float]]:
    """The measures after each epoch of the fit at the end, of what learns across series and in epochs."""
    return getattr(plan.shared[name][-1], "curve", ()) if name in plan.shared else ()


def _folder(workspace: Path | None, name: str) -> Path | None:
    if workspace is None:
        return None
    folder = workspace / name
    folder.mkdir()
    return folder


def _needed(plan: Plan, name: str) -> list[str]:
    return list(dict.fromkeys([name, *members(plan.recipes[name], name), *plan.ladder]))


def _shared(plan: Plan, recipes: Mapping[str, Candidate]) -> dict[str, Fit]:
    return {n: fits[-1] for n, fits in plan.shared.items() if n in recipes}


def _part(plan: Plan, name: str, features: list[str], target: str, horizon: int, outcome: Outcome) -> FittedForecast:
    """A shard's fitted candidate, without the fits that all shards share."""
    needed = _needed(plan, name)
    mine = metrics_from([outcome.sums]).filter(candidate=name, slice="series")
    return FittedForecast(
        name=name,
        recipes={n: outcome.recipes[n] for n in needed},
        fits={n: outcome.fits[n] for n in needed if n in outcome.fits},
        ladder=tuple(n for n in plan.ladder if n != name),
        trained_at=moment(plan.end),
        series_ids=list(outcome.series),
        feature_names=features,
        target=target,
        horizon=horizon,
        seed=plan.seed,
        expected_loss=dict(zip(mine["key"], mine["mae"], strict=True)),
        rows=outcome.rows,
        intervals=outcome.intervals[name],
        past=outcome.past[name],
        window=plan.window,
    )


def _of_fleet(name: str, recipe: Candidate, moments: Sequence[Mapping[str, Array]]) -> Candidate:
    """A recipe with what the whole fleet has taught it: what a series that no shard knows is forecast by."""
    if not isinstance(recipe, Blend):
        return recipe
    # One after the other: the same bits whatever the number of workers.
    return recipe.across(sum((m[name] for m in moments), np.zeros((len(recipe.members),) * 2)))


def _fold_table(plan: Plan, issued: npt.NDArray[np.int64]) -> pl.DataFrame:
    scored = [(k, f) for k, f in enumerate(plan.folds) if f.number >= 0]
    return pl.DataFrame(
        {
            "fold": pl.Series([f.number for _, f in scored], dtype=pl.Int32),
            "origin": [moment(plan.origins[k]) for k, _ in scored],
            "first_issue": [moment(int(issued[f.start])) for _, f in scored],
            "last_issue": [moment(int(issued[f.stop - 1])) for _, f in scored],
        }
    )


# --- a fresh fit of one recipe ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refit:
    """A fresh fit of a model's own recipe at a cutoff (microseconds since the epoch).

    Its blends keep their weights, and it learns from the same window of the history.
    """

    model: Champion
    shared: Mapping[str, Fit]
    cutoff: int
    seed: int
    standing: bool

    @classmethod
    def plan(
        cls,
        model: Champion,
        shards: Shards,
        cutoff: int,
        seed: int,
        standing: bool,
        alone: bool = True,
        made: dict[Any, Fit] | None = None,
    ) -> "Refit":
        """What is fitted across several shards is fitted here; what only stands in for the recipe stays as it is.

        alone: False where the fits are not for all the series that are learned from. made: fits across the series at
        this cutoff by what they are of, to be used again, and added to: the versions of a fleet mostly share recipes.
        """
        own = members(model.recipes[model.name], model.name)
        fits = model.shared if isinstance(model, ShardedForecast) else model.fits
        kept = {n: fits[n] for n, r in model.recipes.items() if is_shared(r) and n not in own}
        anew = {n: r for n, r in model.recipes.items() if n not in kept}
        # With a single shard it is fitted there, beside the recipes of the series instead of before them.
        if len(shards) == 1 and alone:
            return cls(model, kept, cutoff, seed, standing)
        made = {} if made is None else made
        about = (seed, tuple(model.feature_names))
        asked = {n: (repr(sorted(r.parameters().items())), *about) for n, r in anew.items() if is_shared(r)}
        new = {n: anew[n] for n, fit in asked.items() if fit not in made}
        for name, found in learn_shared(new, shards, [cutoff], seed, model.feature_names)[0].items():
            made[asked[name]] = found[-1]
        return cls(model, kept | {name: made[fit] for name, fit in asked.items()}, cutoff, seed, standing)

    def tasks(self, shards: Shards) -> Iterator[tuple["Refit", Shard]]:
        """One for each shard."""
        for shard in shards:
            yield replace(self, model=self.model.only(shard.series)), shard


def refit_shard(task: tuple[Refit, Shard]) -> FittedForecast:
    """The fresh fit for the series of a shard."""
    refit, shard = task
    return _refit(refit, shard, shard.panel())


def _refit(refit: Refit, shard: Shard, panel: Panel) -> FittedForecast:
    model = refit.model
    recipes = model.recipes_of(shard.series)
    panel = panel.select(model.feature_names)
    learned = panel if model.window is None else model.window.heeded(panel, refit.cutoff)
    own = [n for n, r in recipes.items() if not isinstance(r, Blend) and n not in refit.shared]
    own.sort(key=lambda name: not is_shared(recipes[name]))  # what takes longest first

    def learn(name: str) -> Fit:
        recipe: Any = recipes[name]
        rows = panel if is_shared(recipe) else learned
        return recipe.fit(rows, [refit.cutoff], refit.seed, refit.standing)[0]

    return FittedForecast(
        name=model.name,
        recipes=recipes,
        fits={**in_threads(learn, own), **refit.shared},
        ladder=model.ladder,
        trained_at=moment(refit.cutoff),
        series_ids=list(shard.series),
        feature_names=model.feature_names,
        target=model.target,
        horizon=model.horizon,
        seed=refit.seed,
        expected_loss={s: model.expected_loss[s] for s in shard.series if s in model.expected_loss},
        rows=dict(zip(panel.series.tolist(), rows_known(panel, [refit.cutoff])[0].tolist(), strict=True)),
        window=model.window,
    )


@dataclass(frozen=True)
class Week:
    """The issue times [start, stop) of a week, microseconds since the epoch, in which a model is watched.

    shadow: whether a fresh fit is made beside it.
    """

    start: int
    stop: int
    shadow: bool = True


@dataclass(frozen=True)
class Watched:
    """What was seen of some series in a week.

    window: the targets, without the hours of lasting faults, and of its columns the local hour and the holidays.
    champion, fresh: (S, D, H) forecasts; no fresh ones where no fresh fit was made. faults: (S,) name and beginning
    (microseconds since the epoch) of a lasting fault in the week.
    """

    window: Panel
    champion: Array
    fresh: Array | None
    faults: list[tuple[str, int] | None]


KEPT = ("hour", "is_holiday")
"""Columns of a week that its losses are told by."""


def week_of_shard(task: tuple[Refit, FittedForecast | None, Shard, Week]) -> Watched:
    """A week of a shard, its targets and the champion's forecasts, and those of a fresh fit: given, or made here."""
    refit, fresh, shard, week = task
    panel = shard.panel()
    if week.shadow and fresh is None:
        fresh = _refit(refit, shard, panel)
    window = panel.between(week.start, week.stop)
    target, faults = without_faults(panel, week.start, week.stop)
    return Watched(
        replace(window, columns={n: window.columns[n] for n in KEPT if n in window.columns}, target=target),
        refit.model.forecast(window),
        fresh.forecast(window) if fresh is not None else None,
        faults,
    )
