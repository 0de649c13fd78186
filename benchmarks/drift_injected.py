"""Drifts and other things injected into real series, for benchmarks/drift.py: what is found, and what must not alarm.

Each region of the EIA set gets something at a random Monday of the winter 2018 to 2019; its champion was trained eight
weeks before. What is injected goes into the landed rows, so that quality rules, substitutes and features see it as they
would in life. Each round gives every region another kind.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl
from drift_data import CACHE, EIA, Aged, aged, fingerprint, landed, recipe_of, refined
from threadpoolctl import threadpool_limits

from lakehouse_assets.ml.fitted import microseconds
from lakehouse_assets.settings import get_settings
from lakehouse_assets.silver import demand as silver
from lakehouse_assets.sources.declaration import Declaration
from lakehouse_assets.sources.series import series_table

Values = npt.NDArray[np.float64]
WEEK, DAY = 168, 24
FIRST, LAST = datetime(2018, 9, 3, tzinfo=UTC), datetime(2019, 3, 4, tzinfo=UTC)
BEFORE, AFTER = 8, 8
"""Weeks between the champion's training and the injection, and those that are judged after it."""
ROUNDS = 8


@dataclass(frozen=True)
class Series:
    """Hours of a region: value and published forecast (T,), which may be changed, and local hour and weekday (0..6)."""

    value: Values
    forecast: Values
    hour: Values
    weekday: Values


def _daily_mean(values: Values) -> Values:
    kernel = np.ones(DAY) / DAY
    filled = np.where(np.isfinite(values), values, np.nanmean(values))
    return np.convolve(filled, kernel, "same")


def _weather(values: Values) -> Values:
    """How far the day is from its four weeks: what the weather and the calendar make of it."""
    day = _daily_mean(values)
    return day - np.convolve(day, np.ones(4 * WEEK) / (4 * WEEK), "same")


def _sunday(s: Series, t: int) -> int:
    """The same hour of the Sunday before."""
    return t - DAY * (int(s.weekday[t]) + 1)


def forecast_biased(s: Series, at: int) -> None:
    """The published forecast becomes biased by 5 %."""
    s.forecast[at:] *= 1.05


def solar_belly(s: Series, at: int) -> None:
    """Midday load falls by up to 15 % of the mean."""
    sun = np.clip(np.sin(np.pi * (s.hour - 8) / 9), 0, None)
    s.value[at:] -= 0.15 * np.nanmean(s.value) * sun[at:]


def shifted_peak(s: Series, at: int) -> None:
    """The afternoon and evening come two hours later."""
    late = np.isin(s.hour, range(14, 24))
    moved = np.roll(s.value, 2)
    s.value[at:] = np.where(late, moved, s.value)[at:]


def weather_lost(s: Series, at: int) -> None:
    """The weather has no effect any more."""
    s.value[at:] -= _weather(s.value)[at:]


def weather_doubled(s: Series, at: int) -> None:
    """The weather has twice its effect."""
    s.value[at:] += _weather(s.value)[at:]


def lockdown(s: Series, at: int) -> None:
    """Working days look like the Sunday before, at 95 %."""
    was = s.value.copy()
    for t in range(at, len(was)):
        if s.weekday[t] < 5:
            s.value[t] = 0.95 * was[_sunday(s, t)]


def gradual(s: Series, at: int) -> None:
    """The published forecast becomes biased by 10 %, over eight weeks."""
    s.forecast[at:] *= 1 + 0.1 * np.minimum(np.arange(len(s.value) - at) / (8 * WEEK), 1)


def level_shift(s: Series, at: int) -> None:
    """A level 10 % higher, which the publisher of the forecast knows of: the champion absorbs it within days."""
    s.value[at:] *= 1.1
    s.forecast[at:] *= 1.1


def outlier_day(s: Series, at: int) -> None:
    """One day 50 % higher."""
    s.value[at : at + DAY] *= 1.5


def holiday(s: Series, at: int) -> None:
    """A Tuesday that looks like the Sunday before, and stands in no calendar."""
    for t in range(at + DAY, at + 2 * DAY):
        s.value[t] = s.value[_sunday(s, t)]


def nothing(s: Series, at: int) -> None:
    """Nothing: what real life has in these weeks, with holidays and a change of the clock."""


def stuck_meter(s: Series, at: int) -> None:
    """The same value for five days."""
    s.value[at : at + 5 * DAY] = s.value[at]


def missing_days(s: Series, at: int) -> None:
    """No value for five days."""
    s.value[at : at + 5 * DAY] = np.nan


def unit_error(s: Series, at: int) -> None:
    """Kilowatts for a week."""
    s.value[at : at + WEEK] *= 1000


def clock_slip(s: Series, at: int) -> None:
    """A clock that is an hour late for two weeks."""
    s.value[at : at + 2 * WEEK] = s.value[at - 1 : at + 2 * WEEK - 1].copy()


DRIFTS = (forecast_biased, solar_belly, shifted_peak, weather_lost, weather_doubled, lockdown, gradual)
FAULTS = {stuck_meter: "stuck_meter", missing_days: "gap", unit_error: "unit_error", clock_slip: "clock_slip"}
HARMLESS = (level_shift, outlier_day, holiday, nothing, *FAULTS)
KINDS: tuple[Callable[[Series, int], None], ...] = (*DRIFTS, *HARMLESS)


@dataclass(frozen=True)
class Case:
    """What was injected into which region (its row in the round), in which week of the round; `named`: by the check."""

    kind: str
    row: int
    week: int
    named: bool


def rounds() -> Iterator[tuple[Aged, list[Case]]]:
    """Each round's champions and fresh fits, and its cases; made once, see drift_data.py."""
    told = fingerprint(EIA, refined, aged, change, *KINDS)
    paths = [CACHE / f"injected-{told}-{k:02d}" for k in range(ROUNDS)]
    missing = [k for k, path in enumerate(paths) if not path.with_suffix(".parquet").exists()]
    if missing:
        print(f"{len(missing)} rounds of injected drifts: made once, kept in {CACHE}", file=sys.stderr)
        rows, declaration = landed(EIA)
        rows = rows.filter(pl.col("ts_utc") < LAST + timedelta(weeks=10))
        for k in missing:
            found, cases = _round(rows, declaration, k)
            found.save(paths[k].with_suffix(".npz"))
            part = paths[k].with_suffix(f".{os.getpid()}")
            pl.DataFrame([vars(case) for case in cases]).write_parquet(part)
            part.replace(paths[k].with_suffix(".parquet"))
    for path in paths:
        table = pl.read_parquet(path.with_suffix(".parquet"))
        yield Aged.load(path.with_suffix(".npz")), [Case(**row) for row in table.iter_rows(named=True)]


def _round(rows: pl.DataFrame, declaration: Declaration, number: int) -> tuple[Aged, list[Case]]:
    rng = np.random.default_rng(number)
    series = rows["series_id"].unique().sort().to_list()
    order = np.random.default_rng(0).permutation(len(series))
    mondays = (LAST - FIRST) // timedelta(weeks=1) + 1
    kinds = {one: KINDS[(int(order[i]) + number) % len(KINDS)] for i, one in enumerate(series)}
    at = {one: FIRST + timedelta(weeks=int(rng.integers(mondays))) for one in series}
    known = series_table(declaration, get_settings().data)
    assert known is not None
    zones = dict(known.select("series_id", "time_zone").iter_rows())
    changed = pl.concat(change(part, kinds[s], at[s], zones[s]) for (s,), part in rows.group_by("series_id"))
    panel, table = refined(changed.lazy(), declaration, LAST + timedelta(weeks=AFTER + 2))
    weeks = [FIRST + timedelta(weeks=k - BEFORE) for k in range(mondays + BEFORE + AFTER)]
    champions = [microseconds(at[s] - timedelta(weeks=BEFORE)) for s in panel.series.tolist()]
    with threadpool_limits(1, "blas"):
        found = aged(panel, recipe_of(EIA), champions, [microseconds(week) for week in weeks])
    cases = []
    for row, one in enumerate(panel.series.tolist()):
        name, fault = kinds[one], FAULTS.get(kinds[one])
        begins, ends = at[one] - timedelta(weeks=9), at[one] + timedelta(weeks=3)
        mine = table.lazy().filter(pl.col("series_id") == one, pl.col("ts").is_between(begins, ends))
        hit = silver.lasting_faults(mine, declaration, known).filter(
            pl.col("until") > (at[one] - timedelta(days=1)).replace(tzinfo=None)
        )
        cases.append(Case(name.__name__, row, weeks.index(at[one]), fault in hit["fault"].to_list()))
    return found, cases


def change(rows: pl.DataFrame, kind: Callable[[Series, int], None], at: datetime, zone: str) -> pl.DataFrame:
    """Rows of bronze/demand of one region with something injected from a time on."""
    rows = rows.sort("ts_utc")
    local = rows["ts_utc"].dt.convert_time_zone(zone)
    number = [
        rows[name].cast(pl.Float64, strict=False).to_numpy().astype(float) for name in ("value", "published_forecast")
    ]
    value, forecast = (np.array(values) for values in number)
    hour, weekday = local.dt.hour().to_numpy().astype(float), (local.dt.weekday() - 1).to_numpy().astype(float)
    kind(Series(value, forecast, hour, weekday), int(rows["ts_utc"].search_sorted(at)))
    text = {
        name: pl.Series(values, nan_to_null=True).cast(pl.String)
        for name, values in (("value", value), ("published_forecast", forecast))
    }
    return rows.with_columns(**text)


if __name__ == "__main__":
    for _ in rounds():
        pass
