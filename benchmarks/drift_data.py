"""Real champions that grow old, for benchmarks/drift.py: forecasts of a fit that stays, and of one made anew each week.

The product's own code from the landed file to the forecast: bronze, silver, gold, features, the ridge of the model's
definition. The champion is fitted once, at the start; each Monday a fresh fit of the same recipe is made on what was
known by then, and both forecast the week that follows. All weekly fits come from one pass (see ml/linear.py). What has
been made lies in ~/.cache/lakehouse_assets/drift, by a fingerprint of the data, the recipe and the code of gold,
features and estimators; after a change elsewhere, delete the folder.
"""

import hashlib
import inspect
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from threadpoolctl import threadpool_limits

from lakehouse_assets.bronze import demand as bronze
from lakehouse_assets.features import demand as features
from lakehouse_assets.gold import demand_hourly as gold
from lakehouse_assets.lifecycle.windows import Windows
from lakehouse_assets.ml import estimators, linear
from lakehouse_assets.ml.estimators import Ridge
from lakehouse_assets.ml.fitted import microseconds
from lakehouse_assets.ml.panel import DAY_US, Panel
from lakehouse_assets.models.demand_forecast import LONG
from lakehouse_assets.settings import get_settings
from lakehouse_assets.silver import demand as silver
from lakehouse_assets.sources.declaration import Declaration, load_declaration
from lakehouse_assets.sources.landing import land
from lakehouse_assets.sources.series import series_table

Array = npt.NDArray[np.float32]
Change = Callable[[pl.LazyFrame], pl.LazyFrame]
"""What is done to rows of bronze/demand (text columns; `ts_utc` is the time) before they are refined."""

CACHE = Path.home() / ".cache" / "lakehouse_assets" / "drift"
EXAMPLES = Path(__file__).parents[1] / "examples"
BROKEN_FORECASTS = ("AEC", "CHPD", "FPC", "PSEI", "SPA", "TEPC", "WALC")
"""Regions of the EIA set whose published forecast is broken or biased throughout; in no table of the project."""
REFERENCE_WEEKS = 104
"""So many before the first champions the weeks begin."""
INPUTS = ("lag_24h", "mean_24h", "mean_168h", "std_168h", "min_24h", "max_24h")
PUBLISHED_INPUTS = ("published_forecast", "error_lag_24h", "error_mean_24h", "error_mean_168h")


@dataclass(frozen=True)
class Source:
    """A real data set: its declaration in examples/, the recipe, and when the champions were trained.

    A series' champion is trained at `start`, or when it has three years of history, whatever is later: as many as the
    champions of the EIA set have. until: the last issue times (UTC).
    """

    name: str
    recipe: str
    start: datetime
    until: datetime
    left_out: tuple[str, ...] = ()


EIA = Source(
    "eia930",
    "ridge_on_published",
    datetime(2018, 7, 1, tzinfo=UTC),
    datetime(2020, 7, 1, tzinfo=UTC),
    BROKEN_FORECASTS,
)
PJM = Source("pjm", "ridge", datetime(2005, 1, 1, tzinfo=UTC), datetime(2018, 8, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Aged:
    """What became of champions: S series, W weeks, D issue times a week, H hours of the horizon.

    series: (S,). weeks: (W,) starts, microseconds since the epoch. y, champion, fresh: (S, W, D, H), NaN where unknown;
    before a series' champion was trained `champion` is NaN; the weeks begin two years before the first champion, for
    those who need a reference. inputs: features by name, (S, W, D, H).
    """

    series: npt.NDArray[np.str_]
    weeks: npt.NDArray[np.int64]
    y: Array
    champion: Array
    fresh: Array
    inputs: dict[str, Array]

    def save(self, path: Path) -> None:
        """Write all arrays to a file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.npz")
        fields = {n: getattr(self, n) for n in ("series", "weeks", "y", "champion", "fresh")}
        np.savez(part, **fields, **{f"input_{n}": a for n, a in self.inputs.items()})
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Aged":
        """What :meth:`save` wrote."""
        found = dict(np.load(path))
        inputs = {n.removeprefix("input_"): found.pop(n) for n in list(found) if n.startswith("input_")}
        return cls(**found, inputs=inputs)

    def take(self, rows: npt.NDArray[np.bool_], weeks: slice = slice(None)) -> "Aged":
        """Some series, and some of the weeks."""

        def cut(values: Array) -> Array:
            return values[rows][:, weeks]

        forecasts = (cut(values) for values in (self.y, self.champion, self.fresh))
        return Aged(self.series[rows], self.weeks[weeks], *forecasts, {n: cut(a) for n, a in self.inputs.items()})

    def after(self, earlier: "Aged") -> "Aged":
        """With the weeks of the same series before these, of which there is no champion."""
        order = [earlier.series.tolist().index(one) for one in self.series.tolist()]
        weeks = earlier.weeks < self.weeks[0]

        def joined(before: Array, values: Array) -> Array:
            return np.concatenate([before[order][:, weeks], values], axis=1)

        return Aged(
            self.series,
            np.concatenate([earlier.weeks[weeks], self.weeks]),
            joined(earlier.y, self.y),
            joined(np.full_like(earlier.champion, np.nan), self.champion),
            joined(earlier.fresh, self.fresh),
            {name: joined(earlier.inputs[name], values) for name, values in self.inputs.items()},
        )

    def losses(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Mean absolute errors (S, W) of the champion and of the fresh fit in each week, and the hours that count."""
        both = np.isfinite(self.y) & np.isfinite(self.champion) & np.isfinite(self.fresh)
        hours = both.sum(axis=(2, 3))

        def mean(forecast: Array) -> npt.NDArray[np.float64]:
            error = np.where(both, np.abs(forecast - self.y), 0.0).sum(axis=(2, 3), dtype=np.float64)
            return np.where(hours > 0, error / np.maximum(hours, 1), np.nan)

        return mean(self.champion), mean(self.fresh), hours


def landed(source: Source) -> tuple[pl.DataFrame, Declaration]:
    """The rows of bronze/demand of the series that count, and the declaration of the source."""
    data = get_settings().data
    declaration, now = load_declaration(EXAMPLES / f"{source.name}.yaml"), datetime.now(UTC)
    if not (data / declaration.files.glob).exists():
        sys.exit(f"{declaration.files.glob} is not in {data}; LAKEHOUSE_DATA says where the real data lies")
    with tempfile.TemporaryDirectory() as folder:
        landing = land(declaration, data, None, None, now, Path(folder))
    assert landing.frame is not None
    rows = bronze.transform(landing.frame.lazy(), declaration, "benchmark", now)
    return rows.filter(~pl.col("series_id").is_in(source.left_out)).collect(), declaration


def refined(rows: pl.LazyFrame, declaration: Declaration, until: datetime) -> tuple[Panel, pl.DataFrame]:
    """Rows of bronze/demand as the panel of features/demand for all issue times before `until`; and silver/demand."""
    first_months = rows.group_by("series_id").agg(first_month=pl.col("month").min()).collect()
    series = series_table(declaration, get_settings().data)
    judged, _ = silver.transform(rows, declaration, series, first_months)
    table = judged.collect()
    found = gold.extent(table.lazy(), declaration)
    assert found is not None
    first_good, edge, end = found
    start = first_good["first_good"].min().replace(hour=0, minute=0)  # type: ignore[union-attr]
    hours = gold.transform(table.lazy(), declaration, first_good, edge, start, end).collect()
    first_hours = hours.group_by("series_id").agg(first_hour=pl.col("ts").min())
    times = declaration.issue_times(start, min(until, edge) - timedelta(microseconds=1))
    blocks = list(features.transform(hours.lazy(), declaration, series, first_hours, times))
    return Panel.from_frame(pl.concat(blocks)), table


def aged(panel: Panel, recipe: Ridge, champions: Sequence[int], weeks: Sequence[int]) -> Aged:
    """What champions and weekly fits of a recipe forecast in the weeks that start at `weeks`.

    champions: (S,) when each series' champion was trained, microseconds since the epoch.
    """
    s, _, h = panel.shape
    a_week = int(np.searchsorted(panel.issued, weeks[0] + 7 * DAY_US - DAY_US // 2)) - int(
        np.searchsorted(panel.issued, weeks[0])
    )
    shape = (s, len(weeks), a_week, h)
    y, champion, fresh = (np.full(shape, np.nan, np.float32) for _ in range(3))
    names = [n for n in (*INPUTS, *PUBLISHED_INPUTS) if n in panel.columns]
    inputs = {n: np.full(shape, np.nan, np.float32) for n in names}
    fits = recipe.fit(panel, list(weeks), 0, standing=False)
    standing = {}
    for cutoff in sorted(set(champions)):
        rows = np.flatnonzero(np.asarray(champions) == cutoff)
        standing[cutoff] = (rows, recipe.fit(panel.take(rows), [cutoff], 0)[0])
    for w, (week, fit) in enumerate(zip(weeks, fits, strict=True)):
        window = panel.between(week, week + 7 * DAY_US - DAY_US // 2)
        days = slice(0, window.shape[1])
        y[:, w, days] = window.target
        fresh[:, w, days] = fit.predict(window)
        for name in names:
            inputs[name][:, w, days] = window.full(name)
        for cutoff, (rows, old) in standing.items():
            if week >= cutoff:
                champion[rows, w, days] = old.predict(window.take(rows))
    return Aged(panel.series, np.asarray(weeks, np.int64), y, champion, fresh, inputs)


def trained_at(panel: Panel, start: datetime) -> list[int]:
    """(S,) when the champions are trained: at the start, or when the series has targets of three years, on a Monday."""
    out = []
    for target in panel.target:
        first = int(panel.issued[int(np.isfinite(target).any(axis=1).argmax())])
        enough = first + 3 * 365 * DAY_US
        # Days since the epoch, a Thursday: Mondays are those with a remainder of 4.
        monday = enough + (-(enough // DAY_US - 4) % 7) * DAY_US
        out.append(max(microseconds(start), monday))
    return out


def history(source: Source) -> tuple[Panel, list[int]]:
    """The panel of a real data set, and its weeks: the Mondays from two years before the first champions to the end."""
    rows, declaration = landed(source)
    panel, _ = refined(rows.lazy(), declaration, source.until)
    since = source.start - timedelta(weeks=REFERENCE_WEEKS)
    return panel, [
        microseconds(week) for week in Windows("week", declaration.issue_cron()[1]).whole(since, source.until)
    ]


def recipe_of(source: Source) -> Ridge:
    """What its champions are fits of."""
    recipe = LONG[source.recipe]
    assert isinstance(recipe, Ridge)
    return recipe


def real(source: Source) -> Aged:
    """The aged champions of a real data set, made once."""
    path = CACHE / f"{source.name}-{fingerprint(source)}.npz"
    if not path.exists():
        print(f"champions of {source.name} and weekly fits beside them: made once, kept in {path}", file=sys.stderr)
        panel, weeks = history(source)
        with threadpool_limits(1, "blas"):
            aged(panel, recipe_of(source), trained_at(panel, source.start), weeks).save(path)
    return Aged.load(path)


@dataclass(frozen=True)
class Ages:
    """Every weekly fit in every later week, for policies of retraining: S series, W weeks, D issue times, H hours.

    series: (S,). weeks: (W,), those of :class:`Aged` from the start on. forecast: (S, W, W, D, H), at [t, w] what the
    fit made at the start of week t forecasts in week w; NaN where w is before t. loss, disagreement: (S, W, W), its
    mean absolute error, and the root mean square of the difference to the fit made at the start of w.
    shadow_seconds: CPU seconds of a fit a week that serves for the week alone, with its forecasts, all series.
    training_seconds: CPU seconds of a fit that stays, for one series, in the mean.
    """

    series: npt.NDArray[np.str_]
    weeks: npt.NDArray[np.int64]
    forecast: Array
    loss: Array
    disagreement: Array
    shadow_seconds: float
    training_seconds: float


def ages_path(source: Source) -> Path:
    """Where :func:`ages` keeps what it has made."""
    return CACHE / f"{source.name}-ages-{fingerprint(source, refined, history, ages)}.npz"


def ages(source: Source) -> Ages:
    """The weekly fits of a real data set from the start on, and how each does as it grows older; made once."""
    path = ages_path(source)
    if not path.exists():
        print(f"weekly fits of {source.name} and how each does later: made once, kept in {path}", file=sys.stderr)
        panel, weeks = history(source)
        recipe, weeks = recipe_of(source), weeks[REFERENCE_WEEKS:]
        ahead = panel.between(weeks[0], weeks[-1] + 7 * DAY_US - DAY_US // 2)
        (s, days, h), w = ahead.shape, len(weeks)
        a_week = days // w
        y = ahead.target.reshape(s, w, a_week, h)
        with threadpool_limits(1, "blas"):
            started = time.process_time()
            fits = recipe.fit(panel, weeks, 0, standing=False)
            alone = [fit.predict(ahead.take(days=slice(k * a_week, (k + 1) * a_week))) for k, fit in enumerate(fits)]
            shadow = time.process_time() - started
            fresh = np.stack(alone, axis=1)
            forecast = np.full((s, w, w, a_week, h), np.nan, np.float32)
            loss, apart = np.full((s, w, w), np.nan, np.float32), np.full((s, w, w), np.nan, np.float32)
            training = 0.0
            for t, week in enumerate(weeks):
                started = time.process_time()
                fit = recipe.fit(panel.between(0, week), [week], 0)[0]
                training += time.process_time() - started
                later = fit.predict(ahead.take(days=slice(t * a_week, None))).reshape(s, w - t, a_week, h)
                forecast[:, t, t:] = later
                both = np.isfinite(y[:, t:]) & np.isfinite(later) & np.isfinite(fresh[:, t:])
                count = both.sum(axis=(2, 3))
                enough = np.where(count >= 24, count, np.nan)
                error, gap = np.abs(later - y[:, t:]), (later - fresh[:, t:]) ** 2
                loss[:, t, t:] = np.where(both, error, 0.0).sum(axis=(2, 3)) / enough
                apart[:, t, t:] = np.sqrt(np.where(both, gap, 0.0).sum(axis=(2, 3)) / enough)
        part = path.with_suffix(f".{os.getpid()}.npz")
        seconds = {"shadow_seconds": shadow, "training_seconds": training / (s * w)}
        arrays = {"forecast": forecast, "loss": loss, "disagreement": apart}
        np.savez(part, series=panel.series, weeks=np.asarray(weeks), **arrays, **seconds)
        part.replace(path)
    held = dict(np.load(path))
    return Ages(**held | {name: float(held[name]) for name in ("shadow_seconds", "training_seconds")})


def fingerprint(source: Source, *further: Callable[..., Any] | ModuleType) -> str:
    """Of the data file, the recipe, and the code that matters most of what stands between them and what is kept.

    further: functions and modules of which what is kept is the result.
    """
    told = hashlib.sha256(repr((source, LONG[source.recipe])).encode())
    for module in (gold, features, estimators, linear):
        assert module.__file__ is not None
        told.update(Path(module.__file__).read_bytes())
    for code in further or (refined, history, aged, trained_at):
        told.update(inspect.getsource(code).encode())
    declared = load_declaration(EXAMPLES / f"{source.name}.yaml").files.glob
    told.update(repr((get_settings().data / declared).stat().st_size).encode())
    return told.hexdigest()[:12]


def halves(series: npt.NDArray[np.str_]) -> Iterator[npt.NDArray[np.bool_]]:
    """Which series parameters were chosen on, and which results are reported on: by a hash of their names."""
    odd = np.array([hashlib.sha256(str(name).encode()).digest()[0] % 2 == 1 for name in series])
    yield from (~odd, odd)


if __name__ == "__main__":
    for one in (EIA, PJM):
        real(one)
    ages(EIA)
