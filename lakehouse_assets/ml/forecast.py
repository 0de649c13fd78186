"""Forecasting as a kind of model: data set, backtest with rolling origins, gate, errors, weekly losses.

A feature table holds one row for each (issued_at, series_id, ts); its data set is a :class:`Panel`. Every candidate
is scored on the same origins; a fit at an origin learns only from targets that were known by then.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml import drift, estimators, gate
from lakehouse_assets.ml.definition import (
    CHAMPION,
    BacktestResult,
    Candidate,
    DriftPolicy,
    GateDecision,
    GatePolicy,
    Progress,
)
from lakehouse_assets.ml.estimators import Blend, Fit, SeasonalNaive
from lakehouse_assets.ml.metrics import REFERENCE, forecast_metrics
from lakehouse_assets.ml.panel import DAY_US, KEYS, NEVER, Panel

Array = npt.NDArray[np.float64]
UTC_TIME = pl.Datetime("us", "UTC")
_T = TypeVar("_T")
WEEK = 7
"""Issue days that a fold scores."""


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
    """A fitted candidate with its ladder: where it has nothing to say, the ridge speaks, then the seasonal naive.

    recipes and fits: by name, this candidate's own and those that it leans on (a blend's members, the ladder).
    expected_loss: mean absolute error of each series in the backtest. levels: the last known level of each series.
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
    levels: Mapping[str, float]

    def parameters(self) -> dict[str, Any]:
        """The candidate's parameters."""
        return self.recipes[self.name].parameters()

    def predict(self, data: pl.DataFrame | Panel) -> pl.DataFrame:
        """One row (issued_at, series_id, ts, horizon, yhat) for each row of a feature frame or panel."""
        if isinstance(data, pl.DataFrame):
            if data.is_empty():
                return pl.DataFrame(schema=_PREDICTION_SCHEMA)
            data = Panel.from_frame(data, self.target, self.feature_names, self.horizon)
        return data.frame(yhat=self.forecast(data))

    def forecast(self, panel: Panel) -> Array:
        """(S, D, H) forecasts; finite wherever the series has any history."""
        panel = panel.select(self.feature_names)
        recipe = self.recipes[self.name]
        needed = {n: self.fits[n].predict(panel) for n in [*_members(recipe, self.name), *self.ladder]}
        out = _descend(_speak(recipe, self.name, panel, needed), [needed[n] for n in self.ladder], panel)
        last = np.array([self.levels.get(s, np.nan) for s in panel.series])[:, None, None]
        return np.where(np.isfinite(out), out, last)


def side_by_side(work: Callable[[str], _T], names: Iterable[str]) -> dict[str, _T]:
    """What `work` makes of each name, by name, in two threads: numpy and scikit-learn release the interpreter's lock.

    Which thread does what changes nothing in the results: each fit is computed as it would be alone. Linear algebra
    keeps to its thread: two that each call for every core wait for one another.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    names = list(names)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(names, pool.map(work, names), strict=True))


_PREDICTION_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "issued_at": pl.Datetime("us", "UTC"),
    "series_id": pl.String,
    "ts": pl.Datetime("us", "UTC"),
    "horizon": pl.Int16,
    "yhat": pl.Float64,
}


def _members(recipe: Candidate, name: str) -> list[str]:
    """The names of the fits that a candidate's own forecast needs."""
    return list(recipe.members) if isinstance(recipe, Blend) else [name]


def _speak(recipe: Candidate, name: str, panel: Panel, forecasts: Mapping[str, Array]) -> Array:
    """A candidate's own forecast from the forecasts of the fits that it needs."""
    if isinstance(recipe, Blend):
        return recipe.combine(panel.series.tolist(), np.stack([forecasts[m] for m in recipe.members]))
    return forecasts[name]


def _descend(forecast: Array, rungs: Sequence[Array], panel: Panel) -> Array:
    """Fill what a forecast lacks from the rungs below it, then from whatever is known of the series at issue time."""
    for rung in [*rungs, estimators.naive_from(panel)]:
        forecast = np.where(np.isfinite(forecast), forecast, rung)
    if not np.isfinite(forecast).all():
        known: list[Array] = [forecast, *(lag.astype(np.float64) for _, lag in estimators.day_lags(panel))]
        stacked = np.concatenate(known, axis=2)
        count = np.isfinite(stacked).sum(axis=2, keepdims=True)
        mean = np.where(np.isfinite(stacked), stacked, 0.0).sum(axis=2, keepdims=True) / np.maximum(count, 1)
        forecast = np.where(np.isfinite(forecast) | (count == 0), forecast, mean)
    return forecast


@dataclass(frozen=True)
class Fold:
    """A rolling origin (index into the issue times) and the issue times that it scores, [start, stop)."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Forecast:
    """Forecasting, issued once a day for a whole horizon.

    spread, recent: how many origins lie spread over the last year, and how many in the latest contiguous weeks.
    minimum_training_days: the history before the first origin. ladder: the candidates that stand in, in order, where
    another cannot speak (the seasonal naive always stands below them).
    """

    target: str = "value"
    spread: int = 6
    recent: int = 6
    minimum_training_days: int = 56
    ladder: tuple[str, ...] = ("ridge",)

    name = "forecast"
    keys = ("issued_at", "series_id", "ts")
    prediction_columns = MappingProxyType(
        {
            "issued_at": (UTC_TIME, "When the forecast was made; only what was known by then was used."),
            "series_id": (pl.String(), "The series."),
            "ts": (UTC_TIME, "Start of the forecast hour (UTC)."),
            "horizon": (pl.Int16(), "Whole hours from the issue time to the forecast hour."),
            "yhat": (pl.Float64(), "The forecast, in the unit of the series."),
        }
    )
    error_columns = MappingProxyType(
        {
            **prediction_columns,
            "value": (pl.Float64(), "The value that came true, where it was reported good."),
            "error": (pl.Float64(), "Forecast less value."),
            "absolute_error": (pl.Float64(), "Absolute error."),
        }
    )
    drift_columns = MappingProxyType(drift.COLUMNS)
    time_column = "issued_at"

    # --- data ---------------------------------------------------------------------------------------------------------

    def dataset(self, frame: pl.DataFrame) -> Panel:
        """A feature frame as a panel; every numeric column that is no key is a feature."""
        return Panel.from_frame(frame, self.target)

    def folds(self, panel: Panel, cutoff: int) -> list[Fold]:
        """The rolling origins: numbered from 0 in order of time, warm-up origins (not scored) before them from -1 down.

        The latest contiguous weeks, and before them origins spread evenly over a year; where the history is short,
        spread over what there is after the minimum training span. Raises ValueError when not one week can be scored.
        """
        scorable = (np.isfinite(panel.target) & (panel.known_at <= cutoff)).any(axis=(0, 2))
        if not scorable.any():
            raise ValueError("no target is known yet: nothing to train on")
        first, stop = int(np.flatnonzero(scorable)[0]), int(np.flatnonzero(scorable)[-1]) + 1
        earliest = first + self.minimum_training_days
        room = (stop - earliest) // WEEK
        if room < 1:
            raise ValueError(
                f"{stop - first} issue days are known; a backtest needs {self.minimum_training_days} to learn from "
                f"and {WEEK} to be scored on"
            )
        total = min(self.spread + self.recent, room)
        recent = min(self.recent, (total + 1) // 2)
        starts = [stop - WEEK * (k + 1) for k in range(recent)]
        spread = total - recent
        if spread:
            oldest = max(earliest, starts[-1] - 364 + WEEK * recent)
            starts += [oldest + (starts[-1] - oldest) * k // spread for k in range(spread)]
        starts = sorted(starts)
        step = max(WEEK, starts[1] - starts[0]) if len(starts) > 1 else WEEK
        warm_up = [w for w in (starts[0] - 2 * step, starts[0] - step) if w >= earliest]
        return [Fold(i - len(warm_up), s, min(s + WEEK, stop)) for i, s in enumerate([*warm_up, *starts])]

    # --- training -----------------------------------------------------------------------------------------------------

    def backtest(
        self,
        dataset: Panel,
        candidates: Mapping[str, Candidate],
        *,
        cutoff: datetime | None = None,
        champion: FittedForecast | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> BacktestResult:
        """Score the candidates and the champion on identical rolling origins; fit each at the cutoff.

        cutoff: what is known by then counts (default: everything that the data set holds). At origins from
        ``champion.trained_at`` on the champion's own stored fit forecasts; before that its recipe is fitted anew.
        ``losses``: fold, origin, issued_at, series_id, ts, horizon, y, mase_scale, reference, and a column of
        forecasts for each candidate (and ``champion``). ``folds``: fold, origin, first_issue, last_issue,
        champion_own.
        """
        say = progress or (lambda _: None)
        end = microseconds(cutoff) if cutoff else int(dataset.known_at.max(initial=0, where=dataset.known_at < NEVER))
        folds = self.folds(dataset, end)
        origins = [int(dataset.issued[f.start]) for f in folds]
        panel = dataset

        recipes = _usable(candidates, panel)
        recipes.setdefault(REFERENCE, SeasonalNaive())
        alias: dict[str, str] = {}
        if champion:
            recipes, alias = _enter(champion, recipes)

        # Fits of every recipe at every origin and at the cutoff, and their forecasts.
        at = [*origins, end]
        raw: dict[str, list[Array]] = {}
        fits: dict[str, Sequence[Fit]] = {}
        windows = [panel.take(days=slice(f.start, f.stop)) for f in folds]
        own_fits = {name: recipe for name, recipe in recipes.items() if not isinstance(recipe, Blend)}

        say(f"backtest of {', '.join(own_fits)}: {len(folds)} origins")

        def learn(name: str) -> tuple[Sequence[Fit], list[Array]]:
            fitted = own_fits[name].fit(panel, at, seed)  # type: ignore[attr-defined]
            return fitted, [fit.predict(window) for fit, window in zip(fitted, windows, strict=False)]

        for name, (fitted_at, forecasts) in side_by_side(learn, own_fits).items():
            fits[name], raw[name] = fitted_at, forecasts
        ladder = tuple(n for n in self.ladder if n in recipes)
        out: dict[str, list[Array]] = {n: [] for n in recipes}
        blends = {n: r for n, r in recipes.items() if isinstance(r, Blend)}
        for k, window in enumerate(windows):
            known = {n: forecasts[k] for n, forecasts in raw.items()}
            for name, recipe in recipes.items():
                if isinstance(recipe, Blend):
                    recipe = self._learn(recipe, raw, windows[:k], origins[k])
                spoken = _speak(recipe, name, window, known)
                out[name].append(_descend(spoken, [known[n] for n in ladder], window))
        for name, recipe in blends.items():
            recipes[name] = self._learn(recipe, raw, windows, end)

        own = [False] * len(folds)
        if champion:
            since = microseconds(champion.trained_at)
            own = [origin >= since for origin in origins]
            stand_in = out[alias[champion.name]]
            out[CHAMPION] = [champion.forecast(w) if o else s for w, o, s in zip(windows, own, stand_in, strict=True)]
        entered = [n for n in candidates if n in recipes]
        say("metrics")
        losses = self._losses(panel, folds, origins, windows, out, [*entered, *([CHAMPION] if champion else [])], end)
        metrics = forecast_metrics(losses, [*entered, *([CHAMPION] if champion else [])])
        overall = metrics.filter(slice="overall")
        score = dict(zip(overall["candidate"], overall["relative_mae"].fill_null(np.inf), strict=True))
        best = min(entered, key=lambda n: score.get(n, np.inf))
        levels = _last_levels(panel.between(int(panel.issued[0]), end + 1))
        fitted = {}
        for name in entered:
            needed = list(dict.fromkeys([name, *_members(recipes[name], name), *ladder]))
            mine = metrics.filter(candidate=name, slice="series")
            fitted[name] = FittedForecast(
                name=name,
                recipes={n: recipes[n] for n in needed},
                fits={n: fits[n][-1] for n in needed if n in fits},
                ladder=tuple(n for n in ladder if n != name),
                trained_at=moment(end),
                series_ids=panel.series.tolist(),
                feature_names=list(panel.columns),
                target=self.target,
                horizon=panel.shape[2],
                seed=seed,
                expected_loss=dict(zip(mine["key"], mine["mae"], strict=True)),
                levels=levels,
            )
        table = pl.DataFrame(
            {
                "fold": pl.Series([f.number for f in folds], dtype=pl.Int32),
                "origin": [moment(o) for o in origins],
                "first_issue": [moment(int(panel.issued[f.start])) for f in folds],
                "last_issue": [moment(int(panel.issued[f.stop - 1])) for f in folds],
                "champion_own": own,
            }
        ).filter(pl.col("fold") >= 0)
        return BacktestResult(best, "relative_mae", metrics, table, losses, fitted)

    def _learn(self, blend: Blend, raw: Mapping[str, list[Array]], windows: Sequence[Panel], cutoff: int) -> Blend:
        """The blend with weights from its members' errors in the windows before, as far as known at the cutoff."""
        errors = []
        for k, window in enumerate(windows):
            actual = np.where(window.known_at <= cutoff, window.target, np.nan) / estimators.level(window)[:, :, None]
            forecasts = np.stack([raw[m][k] for m in blend.members]) / estimators.level(window)[:, :, None]
            errors.append((forecasts - actual).reshape(len(forecasts), len(actual), -1))
        if not errors:
            return replace(blend, weights=None)
        return blend.learn(windows[0].series.tolist(), np.concatenate(errors, axis=2))

    def _losses(
        self,
        panel: Panel,
        folds: Sequence[Fold],
        origins: Sequence[int],
        windows: Sequence[Panel],
        out: Mapping[str, list[Array]],
        names: Sequence[str],
        end: int,
    ) -> pl.DataFrame:
        """The scored hours: a finite target known at the cutoff, and a finite forecast of everyone."""
        first = next(f.start for f in folds if f.number >= 0)
        past = panel.take(days=slice(0, first))
        known = np.isfinite(past.target) & (past.known_at <= int(panel.issued[first]))
        naive = np.where(known, np.abs(estimators.naive_from(past) - past.target), np.nan)
        hours = np.isfinite(naive).sum(axis=(1, 2))
        scale = np.where(hours > 0, np.nansum(naive, axis=(1, 2)) / np.maximum(hours, 1), np.nan)
        frames = []
        for k, (fold, window) in enumerate(zip(folds, windows, strict=True)):
            if fold.number < 0:
                continue
            y = np.where(window.known_at <= end, window.target, np.nan)
            values = {"y": y, "mase_scale": np.broadcast_to(scale[:, None, None], window.shape)}
            values |= {n: out[n][k] for n in [REFERENCE, *names]}
            frames.append(
                window.frame(**values)
                .filter(pl.all_horizontal(pl.col("y", REFERENCE, *names).is_finite()))
                .with_columns(pl.lit(fold.number, pl.Int32).alias("fold"), pl.lit(moment(origins[k])).alias("origin"))
            )
        return pl.concat(frames).select("fold", "origin", *KEYS, "y", "mase_scale", REFERENCE, *names)

    def refit(
        self,
        fitted: FittedForecast,
        dataset: Panel,
        cutoff: datetime,
        *,
        seed: int | None = None,
        standing: bool = True,
    ) -> FittedForecast:
        """A fresh fit of a fitted model's own recipe (a blend keeps its weights) on what is known at the cutoff.

        standing: False for a fit that serves the week after the cutoff alone, which costs less.
        """
        panel = dataset.select(fitted.feature_names)
        end = microseconds(cutoff)
        seed = fitted.seed if seed is None else seed
        fits = side_by_side(
            lambda name: fitted.recipes[name].fit(panel, [end], seed, standing)[0],  # type: ignore[attr-defined]
            fitted.fits,
        )
        levels = _last_levels(panel.between(int(panel.issued[0]), end + 1))
        return replace(fitted, fits=fits, trained_at=cutoff, series_ids=panel.series.tolist(), seed=seed, levels=levels)

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

    # --- monitoring ---------------------------------------------------------------------------------------------------

    def errors(self, predictions: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
        """Predictions with the value that came true: adds value, error (forecast - value), absolute_error."""
        actual = features.select(*self.keys, pl.col(self.target).alias("value")).filter(pl.col("value").is_finite())
        error = pl.col("yhat") - pl.col("value")
        return predictions.join(actual, on=list(self.keys), how="inner").with_columns(
            error=error, absolute_error=error.abs()
        )

    def weekly_losses(
        self,
        champion: FittedForecast,
        dataset: Panel,
        week: datetime,
        *,
        fresh: FittedForecast | None = None,
        seed: int | None = None,
    ) -> pl.DataFrame:
        """See :func:`lakehouse_assets.ml.drift.weekly_losses`; ``fresh`` is fitted at the start of the week."""
        fresh = fresh or self.refit(champion, dataset, week, seed=seed, standing=False)
        start = microseconds(week)
        # Half a day short: a week in which the clock changes has its issue times an hour earlier or later.
        window = dataset.between(start, start + WEEK * DAY_US - DAY_US // 2)
        return drift.weekly_losses(
            window.series,
            week,
            window.target,
            champion.forecast(window),
            fresh.forecast(window),
            champion.expected_loss,
        )

    def verdict(self, history: pl.DataFrame, policy: DriftPolicy) -> drift.Verdict:
        """See :func:`lakehouse_assets.ml.drift.verdict`."""
        return drift.verdict(history, policy)

    def explain(self, dataset: Panel, members: Sequence[str], week: datetime, span: timedelta) -> pl.DataFrame:
        """The widest moves of the drifted series' inputs, the latest four weeks against the half year before.

        Columns: series_id, column, psi, wasserstein (in standard deviations), reference_mean, current_mean; at most
        three columns a series, the widest first.
        """
        few = dataset.take(series=np.flatnonzero(np.isin(dataset.series, list(members))))
        end = microseconds(week + span)
        begin, start = end - 28 * DAY_US, end - 210 * DAY_US
        reference, current = few.between(start, begin), few.between(begin, end)
        if not reference.shape[1] or not current.shape[1]:
            return pl.DataFrame()
        return drift.input_drift(reference, current).group_by("series_id", maintain_order=True).head(3)

    # --- pictures -----------------------------------------------------------------------------------------------------

    def pictures(self, result: BacktestResult) -> dict[str, bytes]:
        """leaderboard, forecast against actual, error by hour of the horizon, worst series: PNG by name."""
        from lakehouse_assets.ml import pictures

        return pictures.backtest_pictures(result)

    def drift_pictures(self, history: pl.DataFrame) -> dict[str, bytes]:
        """A heat map of the weekly regrets, series x week: PNG by name."""
        from lakehouse_assets.ml import pictures

        return pictures.drift_pictures(history)


def _usable(candidates: Mapping[str, Candidate], panel: Panel) -> dict[str, Candidate]:
    """The candidates that can do something with the panel; a blend of those of its members, if they are two or more."""
    simple = {n for n, c in candidates.items() if not isinstance(c, Blend) and c.usable(panel)}  # type: ignore[attr-defined]
    out: dict[str, Candidate] = {}
    for name, candidate in candidates.items():
        if isinstance(candidate, Blend):
            members = tuple(m for m in candidate.members if m in simple)
            if len(members) > 1:
                out[name] = replace(candidate, members=members)
        elif name in simple:
            out[name] = candidate
    return out


def _enter(champion: FittedForecast, recipes: Mapping[str, Candidate]) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Add the champion's recipes that are not among the candidates; returns all, and the champion's names in them."""
    out = dict(recipes)
    alias: dict[str, str] = {}
    for name in [*champion.fits, *(n for n in champion.recipes if n not in champion.fits)]:
        recipe = champion.recipes[name]
        if isinstance(recipe, Blend):
            recipe = replace(recipe, members=tuple(alias[m] for m in recipe.members), weights=None)
        same = next((n for n, r in out.items() if r.parameters() == recipe.parameters()), None)
        alias[name] = same or f"{CHAMPION}/{name}"
        out.setdefault(alias[name], recipe)
    return out, alias


def _last_levels(panel: Panel) -> dict[str, float]:
    """The latest known level of each series."""
    size = np.full(panel.shape[:2], np.nan)
    for name in ("mean_168h", "mean_24h", "mean_672h"):
        if name in panel.columns:
            size = np.where(np.isnan(size), panel.once(name), size)
    out = {}
    for series, row in zip(panel.series.tolist(), size, strict=True):
        known = np.flatnonzero(np.isfinite(row))
        if len(known):
            out[series] = float(row[known[-1]])
    return out
