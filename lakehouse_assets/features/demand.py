"""The feature set of demand forecasts: one row per issue time, series and hour of the horizon.

Everything in a row was known at its issue time: an hour's value counts when its interval has ended and the publication
delay has passed, and late hours count with what stood in for them on time. `value` is the target, and no feature. A row
landed for month m changes rows of m, of m+1 (trailing statistics) and, through the horizon, the last ones of m-1.

A series has rows from its first day on, and for as long as a good value of the last 28 days is known: then it is
retired until it reports again. The rows of its warm-up are there to be forecast, not to be learned from.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import dataframely as dy
import numpy as np
import polars as pl

from lakehouse_assets.bronze import demand as bronze
from lakehouse_assets.gold import demand_hourly as gold
from lakehouse_assets.lake.frames import lazily, return_memory
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import (
    ContractClass,
    contract_check,
    delta_asset,
    extended,
    lineage,
    months_of_run,
    table_key,
)
from lakehouse_assets.ml.definition import Schedules
from lakehouse_assets.settings import get_settings
from lakehouse_assets.sources.declaration import PUBLISHED_FORECAST, Declaration, active_declaration
from lakehouse_assets.sources.partitions import MONTHS
from lakehouse_assets.sources.series import series_table

KEY = table_key(__name__)


def _schedules(declaration: Declaration) -> Schedules:
    """A forecast half an hour after each issue time, when its rows have been landed and refined; the rest after it."""
    predict, zone = declaration.issue_cron(30)
    return Schedules(
        predict=predict,
        monitor=declaration.issue_cron(60, "* * 1", daily=True)[0],
        retrain=declaration.issue_cron(120, "1 * *", daily=True)[0],
        time_zone=zone,
    )


# When models on this feature set run: its issue time is the declaration's.
SCHEDULES = _schedules(active_declaration())
# Series with less than four weeks of history behind their first forecast: models learn from every hour of it.
SHORT_SERIES = active_declaration().warm_up_td < timedelta(days=28)

HOUR = timedelta(hours=1)
LAGS = tuple(range(24, 337, 24))
LAST = (1, 2, 3, 6)
ERROR_LAGS, FORECAST_LAGS, ERROR_LAST = (24, 48, 168), (24, 168), (1, 2, 3)
MEANS = (24, 168, 672)
ACTIVE = max(MEANS)
"""Hours without a good value after which a series is retired: it has no rows until it reports again."""
PLACES = {"near": (0, 0), "north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0)}
PLACE_NAMES = {"near": "nearby", **{name: f"some 700 km to the {name}" for name in list(PLACES)[1:]}}
AWAY_KM, NEAR_KM, MOST_NEIGHBOURS = 700.0, 300.0, 24


class FeaturesDemand(dy.Schema):
    """An hour that is forecast at an issue time; lags, statistics and covariates come on top, see `contract`."""

    issued_at = dy.Datetime(primary_key=True, time_zone="UTC", description="When the forecast is made (UTC).")
    series_id = dy.String(primary_key=True, description="Series.")
    ts = dy.Datetime(primary_key=True, time_zone="UTC", description="Start of the hour that is forecast (UTC).")
    series_group = dy.String(
        nullable=True, description="Group of the series, from the table of the series; no feature."
    )
    horizon = dy.Int16(min=0, description="Whole hours from the issue time to `ts`.")
    value = dy.Float64(
        nullable=True, description="Target: the value where it was reported good; null if pending, missing or imputed."
    )
    known_at = dy.Datetime(
        nullable=True,
        time_zone="UTC",
        description="When the target was known (UTC); null if it is not, and in the warm-up of a series.",
    )
    hour = dy.Float32(min=0, max=23, description="Hour of day, in the series' local time.")
    day_of_week = dy.Float32(min=1, max=7, description="Day of week from Monday = 1, in the series' local time.")
    season_sin = dy.Float32(min=-1, max=1, description="Sine of the local day of the year as an angle.")
    season_cos = dy.Float32(min=-1, max=1, description="Cosine of the local day of the year as an angle.")
    is_holiday = dy.Float32(min=0, max=1, description="1 on a public holiday of the series' calendar.")
    is_day_before_holiday = dy.Float32(min=0, max=1, description="1 on the day before a public holiday.")
    is_day_after_holiday = dy.Float32(min=0, max=1, description="1 on the day after a public holiday.")
    is_year_end = dy.Float32(
        nullable=True,
        min=0,
        max=1,
        description="1 on a working day from 20 December to 6 January, where a calendar of public holidays is known.",
    )
    month = dy.Date(description="First day of the UTC month of `issued_at`: the partition.")


def _descriptions(declaration: Declaration) -> dict[str, str]:
    """The features beside key, target and calendar, each with its description."""
    known = "Null where that was not yet known at the issue time."
    found = {f"lag_{k}h": f"Known value {k} hours before `ts`. {known}" for k in LAGS}
    found |= {f"last_{k}h": f"Known value of the {_nth(k)} last hour known at the issue time." for k in LAST}
    found |= {f"mean_{k}h": f"Mean of the last {k} known hours at the issue time." for k in MEANS}
    found["std_168h"] = "Standard deviation of the last 168 known hours at the issue time."
    found["min_24h"] = "Least of the last 24 known hours at the issue time."
    found["max_24h"] = "Greatest of the last 24 known hours at the issue time."
    if declaration.has_published_forecast:
        found[PUBLISHED_FORECAST] = "Published forecast for `ts`."
        found |= {f"forecast_lag_{k}h": f"Published forecast for {k} hours before `ts`." for k in FORECAST_LAGS}
        found |= {
            f"error_lag_{k}h": f"Known value less published forecast, {k} hours before `ts`. {known}"
            for k in ERROR_LAGS
        }
        found |= {
            f"error_last_{k}h": f"Known value less published forecast, {_nth(k)} last hour known at the issue time."
            for k in ERROR_LAST
        }
        found |= {
            f"error_mean_{k}h": f"Mean of known value less published forecast, last {k} known hours at the issue time."
            for k in MEANS
        }
    for name in _others(declaration.before):
        found[name] = f"Covariate `{name}` for `ts`, published ahead."
        found[f"{name}_lag_24h"] = f"Covariate `{name}` for 24 hours before `ts`."
    for name in declaration.after:
        found |= {f"{name}_lag_{k}h": f"Covariate `{name}` {k} hours before `ts`. {known}" for k in (24, 48)}
        found[f"{name}_mean_24h"] = f"Mean of `{name}` over the last 24 known hours at the issue time."
    if declaration.has_coordinates:
        for place in PLACES:
            about = f"of the series {PLACE_NAMES[place]}, relative to their mean of 168 h"
            found[f"{place}_last_day"] = f"Same hour of the last 24 known ones {about}, less 1."
            found[f"{place}_change_3h"] = f"Last three known hours less those a day before {about}."
            if declaration.has_published_forecast:
                found[f"{place}_{PUBLISHED_FORECAST}"] = f"Published forecast for `ts` {about}, less 1."
                found[f"{place}_error_last_1h"] = f"Known value less published forecast, last known hour {about}."
                found[f"{place}_error_mean_24h"] = f"The same, mean of the last 24 known hours {about}."
    return found


def _nth(k: int) -> str:
    return {1: "very", 2: "second", 3: "third"}.get(k, f"{k}th")


def _others(covariates: list[str]) -> list[str]:
    return [name for name in covariates if name != PUBLISHED_FORECAST]


def contract(declaration: Declaration | None = None) -> ContractClass:
    """The contract for what is declared (by default the declaration in force)."""
    features = _descriptions(declaration or active_declaration())
    return extended(
        FeaturesDemand, {name: dy.Float32(nullable=True, description=text) for name, text in features.items()}
    )


# ---------------------------------------------------------------- transform


def transform(
    hours: pl.LazyFrame,
    declaration: Declaration,
    series: pl.DataFrame | None,
    first_hours: pl.DataFrame,
    issue_times: list[datetime],
) -> Iterator[pl.DataFrame]:
    """Hours as features: frames month by month, `BLOCK` series at a time, sorted by issue time, series and hour.

    Everything is looked up in panels (series x hours), so that a statistic depends on nothing but its hours.

    Args:
        hours: rows of gold/demand_hourly from 672 hours and the publication delay before the first issue time to the
            horizon after the last.
        declaration: the source.
        series: the table of the series, if there is one.
        first_hours: series_id, first_hour: first hour of each series' grid.
        issue_times: when forecasts are made (UTC), in order.
    """
    columns = contract(declaration).column_names()
    by_month: dict[date, list[datetime]] = {}
    for at in issue_times:
        by_month.setdefault(at.date().replace(day=1), []).append(at)
    months = list(by_month)
    first_hours = first_hours.sort("series_id")
    count = first_hours.height
    # As many months at a time as memory allows: each batch reads the hours before it once more. Where one month is too
    # much, some series at a time.
    width = max(1, PANEL_CELLS // (744 * max(1, count)))
    most = count if width > 1 else max(1, PANEL_CELLS // (744 + history(declaration) // HOUR) // BLOCK) * BLOCK
    parts = [slice(start, min(start + most, count)) for start in range(0, count, max(1, most))]
    neighbours = _Neighbours(first_hours["series_id"], series) if declaration.has_coordinates else None
    for batch in (months[i : i + width] for i in range(0, len(months), width)):
        issued = {month: by_month[month] for month in batch}
        panels = _LatestPanels(hours, declaration, first_hours, [at for times in issued.values() for at in times])
        shown = []
        if neighbours:
            shown = [[_shown(panels.of(part), times) for times in issued.values()] for part in parts]
        for part in parts:
            around: list[_Around | None] = [None] * len(batch)
            if neighbours:
                around = [neighbours.around(part, month, declaration) for month in zip(*shown, strict=True)]
            for frame in _frames(panels.of(part), declaration, series, issued, around):
                yield frame.select(columns)


def _frames(
    panels: "_Panels",
    declaration: Declaration,
    series: pl.DataFrame | None,
    issued: dict[date, list[datetime]],
    around: Sequence["_Around | None"],
) -> Iterator[pl.DataFrame]:
    """The features of the panels' series, a block of them at a time; `around`: what lies around them, by month."""
    calendars = _Calendars(panels, declaration, series)
    for (month, times), known in zip(issued.items(), around, strict=True):
        eligible = panels.eligible(times)
        for start in range(0, len(panels.series), BLOCK):
            some = np.zeros_like(eligible)
            some[:, start : start + BLOCK] = eligible[:, start : start + BLOCK]
            if some.any():
                frame = _month(panels, calendars, known, declaration, times, some)
                yield frame.with_columns(month=pl.lit(month))


BLOCK = 100
"""Series of a frame: rows of series that are trained together lie together."""
PANEL_CELLS = 4_000_000
"""Hours x series that are held in memory at a time, at least those of a block for a month."""


class _Panels:
    """The hours as arrays of series x hours from `origin` on."""

    def __init__(
        self, hours: pl.LazyFrame, declaration: Declaration, first_hours: pl.DataFrame, issue_times: list[datetime]
    ) -> None:
        self.declaration = declaration
        self.origin = _floor(issue_times[0]) - history(declaration)
        self.length = (_floor(issue_times[-1]) + HOUR + declaration.horizon_td - self.origin) // HOUR
        self.first_hours = first_hours.with_row_index("s")
        self.series = self.first_hours["series_id"]
        end = self.origin + self.length * HOUR
        joined = self.first_hours.lazy().select("s", "series_id")
        due = bronze.due_at(pl.col("ts"), declaration, max(declaration.interval_td, HOUR))
        target = ~pl.col("pending") & (pl.col("imputed").is_null() | (pl.col("imputed") == "spread"))
        months = pl.col("month").is_between(self.origin.date().replace(day=1), end.date())  # only these are read
        # A range besides the join: it lets the reader skip the rows of others.
        mine = pl.col("series_id").is_between(pl.lit(self.series[0]), pl.lit(self.series[-1]))
        cells = (
            hours.filter(months, mine, pl.col("ts").is_between(self.origin, end, closed="left"))
            .join(joined, on="series_id")
            .select(
                "s",
                "known_value",
                "known_at",
                *declaration.covariate_columns,
                t=(pl.col("ts").dt.epoch("us") - _micros(self.origin)) // 3_600_000_000,
                target=pl.when(target).then("value"),
            )
            .with_columns(known_at=pl.when(pl.col("target").is_not_null()).then("known_at"))
            .collect(engine="streaming")
        )
        at = (cells["s"].to_numpy(), cells["t"].to_numpy())

        def panel(name: str) -> np.ndarray:
            values = np.full((len(self.series), self.length), np.nan)
            values[at] = cells[name].fill_null(np.nan).to_numpy()
            return values

        self.known = panel("known_value")
        self.target = panel("target")
        self.known_at = np.full((len(self.series), self.length), _NEVER)
        self.known_at[at] = cells["known_at"].cast(pl.Int64).fill_null(_NEVER).to_numpy()
        self.covariates = {name: panel(name) for name in declaration.covariate_columns}
        grid = pl.datetime_range(self.origin, end - HOUR, "1h", time_unit="us", time_zone="UTC", eager=True)
        self.hours = grid.alias("ts")
        self._due = self.hours.to_frame().select(due).to_series().dt.epoch("us").to_numpy()
        self._heard = self._latest_known()

    def _latest_known(self) -> np.ndarray:
        """Series x hours: of the good values that were known by the start of an hour, the index of the latest."""
        latest = np.full(self.known_at.shape, -1, np.int32)
        by = -((_micros(self.origin) - self.known_at) // 3_600_000_000)  # rounded up
        s, t = np.divmod(np.flatnonzero((self.known_at != _NEVER) & (by < self.length)), self.length)
        latest[s, np.maximum(by[s, t], 0)] = t  # in order: of several the last one stays
        return np.maximum.accumulate(latest, axis=1)

    def first_of(self, times: list[datetime]) -> np.ndarray:
        """Index of the first hour that each issue time forecasts."""
        return np.array([-((self.origin - at) // HOUR) for at in times])

    def last_known(self, times: list[datetime]) -> np.ndarray:
        """Index of the last hour known at each issue time."""
        return np.searchsorted(self._due, np.array([_micros(at) for at in times]), side="right") - 1

    def eligible(self, times: list[datetime]) -> np.ndarray:
        """Of which series (second axis) a good value of the last 28 days is known at which issue time (first axis)."""
        now = np.array([(at - self.origin) // HOUR for at in times])
        heard = self._heard[:, now].T
        return (heard >= 0) & (heard > self.last_known(times)[:, None] - ACTIVE)

    def learned_from(self, times: list[datetime]) -> np.ndarray:
        """Which series (second axis) have their warm-up behind them at which issue time (first axis)."""
        warm_up = self.declaration.warm_up_td // timedelta(microseconds=1)
        first = (self.first_hours["first_hour"].dt.epoch("us") + warm_up).to_numpy()
        return np.array([_micros(at) for at in times])[:, None] >= first


_NEVER = np.iinfo(np.int64).min


class _LatestPanels:
    """The panels of some of the series, one part in memory at a time."""

    def __init__(
        self, hours: pl.LazyFrame, declaration: Declaration, first_hours: pl.DataFrame, issue_times: list[datetime]
    ) -> None:
        self._all = (hours, declaration, first_hours, issue_times)
        self._latest: tuple[slice, _Panels] | None = None

    def of(self, part: slice) -> _Panels:
        """The panels of these series."""
        if self._latest is None or self._latest[0] != part:
            self._latest = None  # let go before the next are made
            return_memory()
            hours, declaration, first_hours, issue_times = self._all
            self._latest = part, _Panels(hours, declaration, first_hours[part], issue_times)
        return self._latest[1]


def history(declaration: Declaration) -> timedelta:
    """How far before an issue time hours are looked at: 672 known ones, and the lags."""
    length = max(declaration.interval_td, HOUR)
    return max(MEANS) * HOUR + length + declaration.publication_delay_td + 2 * HOUR


def _floor(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _month(
    panels: _Panels,
    calendars: "_Calendars",
    around: "_Around | None",
    declaration: Declaration,
    times: list[datetime],
    eligible: np.ndarray,
) -> pl.DataFrame:
    horizon = declaration.horizon_hours
    first, last = panels.first_of(times), panels.last_known(times)
    n, s = np.nonzero(eligible)  # one entry per issue time and series
    steps = np.arange(horizon)
    hours = first[n][:, None] + steps

    def at(panel: np.ndarray, lag: int, *, known: bool) -> np.ndarray:
        """The value so many hours before each hour; where it must be known, null if it is not."""
        start = first[n] - lag
        values = np.lib.stride_tricks.sliding_window_view(panel, horizon, axis=1)[s, start]
        if known and (start + horizon - 1 > last[n]).any():
            values = np.where(start[:, None] + steps <= last[n][:, None], values, np.nan)
        return values

    mine = slice(int(s.min()), int(s.max()) + 1)

    def recent(
        statistics: Callable[..., dict[str, np.ndarray]], *of: np.ndarray, length: int = max(MEANS)
    ) -> dict[str, np.ndarray]:
        """Statistics by series of the last hours known at each issue time, oldest first: one for all the horizon."""
        each = [statistics(*(panel[mine, end - length : end] for panel in of)) for end in last + 1]
        return {
            name: np.repeat(np.array([one[name] for one in each], np.float32)[n, s - mine.start], horizon)
            for name in each[0]
        }

    found: dict[str, np.ndarray] = {}
    for k in LAGS:
        found[f"lag_{k}h"] = at(panels.known, k, known=True)
    found |= recent(_of_values, panels.known)
    if declaration.has_published_forecast:
        forecast = panels.covariates[PUBLISHED_FORECAST]
        found[PUBLISHED_FORECAST] = at(forecast, 0, known=False)
        for k in FORECAST_LAGS:
            found[f"forecast_lag_{k}h"] = at(forecast, k, known=False)
        for k in ERROR_LAGS:
            found[f"error_lag_{k}h"] = found[f"lag_{k}h"] - at(forecast, k, known=False)
        found |= recent(_of_errors, panels.known, forecast)
    for name in _others(declaration.before):
        found[name] = at(panels.covariates[name], 0, known=False)
        found[f"{name}_lag_24h"] = at(panels.covariates[name], 24, known=False)
    for name in declaration.after:
        for k in (24, 48):
            found[f"{name}_lag_{k}h"] = at(panels.covariates[name], k, known=True)
        found[f"{name}_mean_24h"] = recent(_of_day, panels.covariates[name], length=24)["mean_24h"]
    if around is not None:
        found |= around.of(n, s)

    learned_from = panels.learned_from(times)[n, s][:, None]
    known_at = pl.Series(np.where(learned_from, at(panels.known_at, 0, known=False), _NEVER).ravel())
    issued_at = pl.Series(times, dtype=pl.Datetime("us", "UTC")).gather(np.repeat(n, horizon))
    return pl.DataFrame(
        {
            "issued_at": issued_at,
            "series_id": panels.series.gather(np.repeat(s, horizon)),
            "series_group": calendars.groups.gather(np.repeat(s, horizon)),
            "ts": panels.hours.gather(hours.ravel()),
            "horizon": np.tile(steps.astype(np.int16), n.size),
            "value": pl.Series(at(panels.target, 0, known=False).ravel(), nan_to_null=True),
            "known_at": known_at.set(known_at == _NEVER, None).cast(pl.Datetime("us", "UTC")),
            **calendars.of(s, hours),
            **{name: _single(values) for name, values in found.items()},
        }
    )


def _single(values: np.ndarray) -> pl.Series:
    """Flattened, in single precision, null where it is NaN."""
    return pl.Series(values.astype(np.float32, copy=False).ravel(), nan_to_null=True)


def _of_values(values: np.ndarray) -> dict[str, np.ndarray]:
    """The features of the last known hours (series, hours)."""
    day = values[:, -24:]
    return {
        **{f"last_{k}h": values[:, -k] for k in LAST},
        **{f"mean_{k}h": mean for k, mean in _means(values, MEANS).items()},
        "std_168h": _std(values[:, -168:]),
        "min_24h": np.fmin.reduce(day, axis=1),
        "max_24h": np.fmax.reduce(day, axis=1),
    }


def _of_day(values: np.ndarray) -> dict[str, np.ndarray]:
    """What is told of the last known hours of a covariate (series, hours)."""
    return {"mean_24h": _means(values, (24,))[24]}


def _of_errors(values: np.ndarray, forecast: np.ndarray) -> dict[str, np.ndarray]:
    """The features of what the last known hours' values are more than the forecast published for them."""
    errors = values - forecast
    return {
        **{f"error_last_{k}h": errors[:, -k] for k in ERROR_LAST},
        **{f"error_mean_{k}h": mean for k, mean in _means(errors, MEANS).items()},
    }


def _means(values: np.ndarray, lengths: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Mean by row of what is there among so many last values; NaN where less than half is, of a new series' hours."""
    means = {k: values[:, -k:].sum(axis=1) / k for k in lengths}
    gaps = np.flatnonzero(np.isnan(values.sum(axis=1)))
    if not len(gaps):
        return means
    values = values[gaps]
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    age = np.where(there.any(axis=1), values.shape[1] - there.argmax(axis=1), 0)
    for k in lengths:
        count = np.count_nonzero(there[:, -k:], axis=1)
        enough = (count > 0) & (2 * count >= np.minimum(k, age))
        means[k][gaps] = np.where(enough, filled[:, -k:].sum(axis=1) / np.maximum(count, 1), np.nan)
    return means


def _std(values: np.ndarray) -> np.ndarray:
    """Standard deviation (of a sample) by row of what is there; NaN where the mean is."""
    count = np.count_nonzero(~np.isnan(values), axis=1)
    mean = _means(values, (values.shape[1],))[values.shape[1]]
    squares = (values - mean[:, None]) ** 2
    total = np.where(np.isnan(squares), 0.0, squares).sum(axis=1)
    return np.where(np.isnan(mean), np.nan, np.sqrt(total / np.maximum(count - 1, 1)))


class _Neighbours:
    """What was known around each series: weather comes over the neighbours, and reaches them first.

    A place is the weighted mean over the series that lie there: `near` by exp(-distance / 300 km), the others by a bell
    around the point 700 km to the north, east, south or west. At most 24 series count, the heaviest.
    """

    def __init__(self, ids: pl.Series, series: pl.DataFrame | None) -> None:
        empty = {"series_id": pl.String, "latitude": pl.Float64, "longitude": pl.Float64}
        table = pl.DataFrame(schema=empty) if series is None else series.select(list(empty))
        placed = ids.alias("series_id").to_frame().join(table, on="series_id", how="left", maintain_order="left")
        latitude, longitude = (placed[name].to_numpy().astype(float) for name in ("latitude", "longitude"))
        count = max(0, min(MOST_NEIGHBOURS, len(placed) - 1))
        self._others = {place: np.empty((len(placed), count), np.int64) for place in PLACES}
        self._weights = {place: np.empty((len(placed), count)) for place in PLACES}
        for start in range(0, len(placed) if count else 0, 500):
            mine = np.arange(start, min(start + 500, len(placed)))
            # Kilometres on the plane that touches the globe at each series.
            degrees = (longitude - longitude[mine, None] + 180) % 360 - 180
            east = degrees * np.cos(np.radians(latitude[mine, None])) * 111.2
            north = (latitude - latitude[mine, None]) * 111.2
            for place, (x, y) in PLACES.items():
                if place == "near":
                    weights = np.exp(-np.hypot(east, north) / NEAR_KM)
                else:
                    square = (east - AWAY_KM * x) ** 2 + (north - AWAY_KM * y) ** 2
                    weights = np.exp(-2 * square / AWAY_KM**2)
                weights = np.nan_to_num(weights)
                weights[np.arange(len(mine)), mine] = 0.0
                heaviest = np.sort(np.argpartition(-weights, count - 1, axis=1)[:, :count], axis=1)
                self._others[place][mine] = heaviest
                self._weights[place][mine] = np.take_along_axis(weights, heaviest, axis=1)

    def around(self, part: slice, shown: Sequence[np.ndarray], declaration: Declaration) -> "_Around":
        """What lies around some of the series in a month; `shown`: see :func:`_shown`, of all parts of the series."""
        widths = {"last_day": declaration.horizon_hours, "change_3h": 1}
        if declaration.has_published_forecast:
            widths |= {PUBLISHED_FORECAST: declaration.horizon_hours, "error_last_1h": 1, "error_mean_24h": 1}
        others, weights = ({place: of[place][part] for place in PLACES} for of in (self._others, self._weights))
        return _Around(others, weights, np.concatenate(shown, axis=1), widths, declaration.horizon_hours)


def _shown(panels: _Panels, times: list[datetime]) -> np.ndarray:
    """What each series shows at each issue time, for the others to look at: issue times x series x columns."""
    steps = np.arange(panels.declaration.horizon_hours)
    forecast = panels.covariates.get(PUBLISHED_FORECAST)
    shown = []
    for first, last, there in zip(
        panels.first_of(times), panels.last_known(times), panels.eligible(times), strict=True
    ):
        week = panels.known[:, last - 167 : last + 1]
        size = np.abs(_means(week, (168,))[168])[:, None]
        size = np.where(there[:, None] & (size > 0), size, np.nan)
        parts = [
            week[:, 167 - (last - first - steps) % 24] / size - 1,
            (_means(week, (3,))[3] - _means(week[:, :-24], (3,))[3])[:, None] / size,
        ]
        if forecast is not None:
            ahead = forecast[:, first : first + len(steps)]
            errors = week[:, -24:] - forecast[:, last - 23 : last + 1]
            mean = _means(errors, (24,))[24]
            parts += [np.where(ahead > 0, ahead, np.nan) / size - 1, errors[:, -1:] / size, mean[:, None] / size]
        shown.append(np.concatenate(parts, axis=1))
    values = np.array(shown)
    values[~(np.abs(values) <= 1)] = np.nan  # a slip of one must not reach all around it
    return values


@dataclass(frozen=True)
class _Around:
    """A month of what the series show: values (issue times, all series, columns of all features); widths by feature.

    others, weights: by place, of each series that looks around: which look back at it, and how much each counts.
    """

    others: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    values: np.ndarray
    widths: dict[str, int]
    horizon: int

    def of(self, n: np.ndarray, s: np.ndarray) -> dict[str, np.ndarray]:
        """The features of entries (issue time, series), flattened over the horizon."""
        found = {}
        for place, others in self.others.items():
            total, weight = np.zeros((2, len(n), self.values.shape[2]))
            # One neighbour after the other, not a matrix product: an entry must not depend on what else is computed.
            for k in range(others.shape[1]):
                values = self.values[n, others[s, k]]
                weights = np.where(np.isnan(values), 0.0, self.weights[place][s, k, None])
                total += weights * np.nan_to_num(values)
                weight += weights
            mean = np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)
            start = 0
            for name, width in self.widths.items():
                part = mean[:, start : start + width]
                found[f"{place}_{name}"] = np.broadcast_to(part, (len(n), self.horizon)).ravel()
                start += width
        return found


class _Calendars:
    """What the table of the series says: groups, and the calendar features of each time zone and holiday calendar."""

    def __init__(self, panels: _Panels, declaration: Declaration, series: pl.DataFrame | None) -> None:
        known = {} if series is None else {row["series_id"]: row for row in series.iter_rows(named=True)}
        kinds: dict[tuple[str, str | None], int] = {}
        self._kind = np.empty(len(panels.series), dtype=np.int64)
        for s, name in enumerate(panels.series):
            row = known.get(name, {})
            kind = (row.get("time_zone") or declaration.time_zone, row.get("holidays"))
            self._kind[s] = kinds.setdefault(kind, len(kinds))
        groups = [known.get(name, {}).get("group") for name in panels.series]
        self.groups = pl.Series(groups, dtype=pl.String)
        tables = [_calendar(panels.hours, zone, holidays) for zone, holidays in kinds]
        self._columns = {name: np.stack([table[name] for table in tables]) for name in tables[0]}

    def of(self, s: np.ndarray, hours: np.ndarray) -> dict[str, np.ndarray]:
        """The features of series `s` at the hours (entry x horizon), flattened."""
        return {name: values[self._kind[s][:, None], hours].ravel() for name, values in self._columns.items()}


def _calendar(hours: pl.Series, zone: str, holidays: str | None) -> dict[str, np.ndarray]:
    local = hours.dt.convert_time_zone(zone)
    dates = local.dt.date()
    # One entry a day of the year, so that equal days have equal bits.
    angle = 2 * np.pi * (np.arange(1, 367) - 1) / 365.25
    day = local.dt.ordinal_day().to_numpy() - 1
    free = _holidays(holidays, dates[0] - timedelta(days=1), dates[-1] + timedelta(days=1))
    one = pl.duration(days=1)
    around = dates.to_frame("date").select(
        is_holiday=pl.col("date").is_in(free.implode()),
        is_day_before_holiday=(pl.col("date") + one).is_in(free.implode()),
        is_day_after_holiday=(pl.col("date") - one).is_in(free.implode()),
        # Around Christmas and New Year business rests on working days too: at a level of its own, in so few days that
        # they must be learned as one.
        is_year_end=pl.lit(len(free) > 0)
        & (pl.col("date").dt.weekday() < 6)
        & ~pl.col("date").is_in(free.implode())
        & ((pl.col("date").dt.strftime("%m-%d") >= "12-20") | (pl.col("date").dt.strftime("%m-%d") <= "01-06")),
    )
    return {
        "hour": local.dt.hour().to_numpy().astype(np.float32),
        "day_of_week": local.dt.weekday().to_numpy().astype(np.float32),
        "season_sin": np.sin(angle).astype(np.float32)[day],
        "season_cos": np.cos(angle).astype(np.float32)[day],
        **{name: around[name].to_numpy().astype(np.float32) for name in around.columns},
    }


def _holidays(calendar: str | None, first: date, last: date) -> pl.Series:
    """Dates of a calendar of the `holidays` package, `US` or `AU-VIC`; none without a calendar."""
    days: list[date] = []
    if calendar is not None:
        import holidays

        country, _, subdivision = calendar.partition("-")
        years = range(first.year, last.year + 1)
        days = list(holidays.country_holidays(country, subdiv=subdivision or None, years=years))
    return pl.Series(days, dtype=pl.Date)


# ---------------------------------------------------------------- asset

_FROM_VALUES = ["gold/demand_hourly:known_value", "gold/demand_hourly:known_at"]
_FROM_ERRORS = ["gold/demand_hourly:known_value", f"gold/demand_hourly:{PUBLISHED_FORECAST}"]


def _lineage(declaration: Declaration) -> dg.TableColumnLineage:
    explicit = {
        "issued_at": [],
        "series_group": [],
        "value": ["gold/demand_hourly:value", "gold/demand_hourly:imputed", "gold/demand_hourly:pending"],
        **{
            name: ["gold/demand_hourly:ts"]
            for name in FeaturesDemand.column_names()
            if name.startswith(("is_", "season_"))
        },
        **{name: ["gold/demand_hourly:ts"] for name in ("hour", "day_of_week", "horizon")},
        "month": [],
    }
    around = [name for name in _descriptions(declaration) if name.partition("_")[0] in PLACES]
    for name in _descriptions(declaration):
        source = next((c for c in declaration.covariate_columns if name == c or name.startswith(f"{c}_")), None)
        if name in around:
            explicit[name] = [*_FROM_ERRORS] if PUBLISHED_FORECAST in name or "_error_" in name else _FROM_VALUES
        elif name.startswith("error_"):
            explicit[name] = _FROM_ERRORS
        elif name.startswith("forecast_lag_"):
            explicit[name] = [f"gold/demand_hourly:{PUBLISHED_FORECAST}"]
        else:
            explicit[name] = [f"gold/demand_hourly:{source}"] if source else _FROM_VALUES
    return lineage(contract(declaration), {"gold/demand_hourly": gold.contract(declaration)}, explicit)


@delta_asset(
    contract,
    lineage=_lineage(active_declaration()),
    partitions_def=MONTHS,
    freshness=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=3), warn_window=timedelta(hours=26)),
    metadata={"schema_mode": "merge"},
    deps=[
        dg.AssetDep(
            gold.KEY,
            partition_mapping=dg.TimeWindowPartitionMapping(
                start_offset=-2, end_offset=1, allow_nonexistent_upstream_partitions=True
            ),
        )
    ],
)
def demand(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.Output[pl.LazyFrame]:
    """The issue times of the months in hand, with the hours that they look back and forward to, as they come."""
    declaration = active_declaration()
    first, last = months_of_run(context)
    hours = lake.lake().table(gold.KEY.path).scan()
    start = datetime(first.year, first.month, 1, tzinfo=UTC)
    end = datetime(last.year + last.month // 12, last.month % 12 + 1, 1, tzinfo=UTC)
    due = bronze.due_at(pl.col("ts"), declaration, max(declaration.interval_td, HOUR))
    reported = pl.when(~pl.col("pending")).then(due).max()
    edge = hours.select(reported).collect(engine="streaming").item()
    first_hours = hours.group_by("series_id").agg(first_hour=pl.col("ts").min()).collect(engine="streaming")
    issue_times = [] if edge is None else declaration.issue_times(start, min(end - timedelta(microseconds=1), edge))
    series = series_table(declaration, get_settings().data)
    schema = contract(declaration).create_empty().schema
    frame = lazily(lambda: transform(hours, declaration, series, first_hours, issue_times), schema)
    return dg.Output(frame, metadata={"issue_times": len(issue_times)})


contract_of_demand = contract_check(demand, contract)
