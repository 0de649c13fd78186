"""The feature set of unusual days: a day of a series, hour by hour against what was expected, in shares of its level.

A row is a local day, as of its end and the publication delay: hours that were not known good by then are null. Expected
is the latest forecast of `demand_forecast` that was made before the hour, where there is one; else the median of the
same hour on the last four like weekdays. `forecast_hours` says for how many hours it was a forecast. A month changes
rows of the next one (level and like weekdays reach four weeks back), and its own when forecasts have come since.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import dataframely as dy
import numpy as np
import polars as pl

from lakehouse_assets.gold import demand_hourly as gold
from lakehouse_assets.gold.demand_daily import megawatts
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
from lakehouse_assets.settings import get_settings
from lakehouse_assets.sources.declaration import Declaration, active_declaration
from lakehouse_assets.sources.partitions import MONTHS
from lakehouse_assets.sources.series import series_table

KEY = table_key(__name__)
FORECASTS = dg.AssetKey(["predictions", "demand_forecast"])

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BACK = 28
"""Days before a day that say what its level is, and its like weekdays."""
LEAST_HOURS = 12
"""Hours of a day that must be known, and expected, for it to have a row; of its level, as many on each of a week's
days."""


class _Forecasts(dy.Schema):
    """Of the predictions what is read here."""

    yhat = dy.Float64(description="What the hour is expected to be.")


class _Day(dy.Schema):
    """A local day of a series; residuals and expectations by hour come on top."""

    series_id = dy.String(primary_key=True, description="Series.")
    as_of = dy.Datetime(
        primary_key=True, time_zone="UTC", description="End of the day and publication delay (UTC): what is known then."
    )
    day = dy.Date(description="The day, in the series' time zone.")
    level = dy.Float64(description="Mean power of the 28 days before (MW).")
    forecast_hours = dy.Int16(min=0, max=24, description="Hours whose expectation is a forecast; else like weekdays.")
    actual_energy = dy.Float64(description="Energy of the hours that are known and expected (MWh).")
    expected_energy = dy.Float64(description="What was expected of the same hours (MWh).")
    month = dy.Date(description="First day of the UTC month of `as_of`: the partition.")


RESIDUALS = [f"r{hour:02}" for hour in range(24)]
EXPECTED = [f"e{hour:02}" for hour in range(24)]
_HOURLY = {
    name: dy.Float32(nullable=True, description=f"{what} of the hour from {name[1:]}:00, in shares of the level.")
    for names, what in ((RESIDUALS, "Actual less expected value"), (EXPECTED, "Expected value"))
    for name in names
}
FeaturesUsage: ContractClass = extended(_Day, _HOURLY)


def transform(
    hours: pl.LazyFrame,
    forecasts: pl.LazyFrame | None,
    declaration: Declaration,
    series: pl.DataFrame | None,
    start: datetime,
    end: datetime,
) -> pl.DataFrame:
    """Hours as days with start <= as_of < end, sorted by as_of and series.

    Args:
        hours: rows of gold/demand_hourly from 30 days before the start on.
        forecasts: issued_at, series_id, ts, yhat; None: there are none.
        declaration: the source; its time zone is that of series without one of their own.
        series: the table of the series, if there is one.
        start: first time (UTC).
        end: time after the last one (UTC).
    """
    zones = {} if series is None else dict(series.select("series_id", "time_zone").drop_nulls().iter_rows())
    delay = declaration.publication_delay_td
    known = pl.col("imputed").is_null() | pl.col("imputed").is_in(["partial", "spread"])
    cells = (
        hours.filter(~pl.col("pending"), pl.col("ts") >= start - (BACK + 3) * DAY, pl.col("ts") < end)
        .select("series_id", "ts", "known_at", value=pl.when(known).then("known_value"))
        .sort("series_id", "ts")
        .collect()
    )
    expected = None if forecasts is None else _latest(forecasts, start, end)
    frames = []
    zone_of = pl.col("series_id").replace_strict(zones, default=declaration.time_zone, return_dtype=pl.String)
    for (zone,), rows in cells.with_columns(zone=zone_of).partition_by("zone", as_dict=True).items():
        frames.append(_of_zone(rows, expected, str(zone), delay, megawatts(declaration)))
    found = pl.concat(frames) if frames else FeaturesUsage.create_empty()
    found = found.filter(pl.col("as_of").is_between(start, end, closed="left"))
    return found.select(FeaturesUsage.column_names()).sort("as_of", "series_id")


def _latest(forecasts: pl.LazyFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """Of each hour the latest forecast that was made before it."""
    due = pl.col("ts").is_between(start - 3 * DAY, end) & (pl.col("issued_at") <= pl.col("ts"))
    rows = forecasts.filter(due, pl.col("yhat").is_finite()).select("issued_at", "series_id", "ts", "yhat").collect()
    return rows.sort("issued_at").unique(["series_id", "ts"], keep="last")


def _of_zone(
    rows: pl.DataFrame, expected: pl.DataFrame | None, zone: str, delay: timedelta, factor: float
) -> pl.DataFrame:
    """The days of series of one time zone."""
    local = pl.col("ts").dt.convert_time_zone(zone)
    grid = rows.select(pl.col("ts").unique().sort()).with_columns(date=local.dt.date(), hour=local.dt.hour())
    # A day is over when its last hour is; its end is told by it, whatever the clock does.
    ends = grid.group_by("date").agg(as_of=pl.col("ts").max() + HOUR + delay, last=pl.col("hour").max()).sort("date")
    ends = ends.filter(pl.col("last") == 23)
    if ends.is_empty():
        return FeaturesUsage.create_empty()
    first: date = rows.select(local.dt.date().min()).item()
    days: int = (ends["date"][-1] - first).days + 1
    names = rows["series_id"].unique().sort()

    def panel(cells: pl.DataFrame, column: str) -> np.ndarray:
        """(S, D, 24); of an hour that the clock repeats, the second."""
        cells = cells.filter(pl.col("series_id").is_in(names.implode())).select(
            s=pl.col("series_id").cast(pl.Enum(names)).to_physical().cast(pl.Int64),
            d=(local.dt.date() - first).dt.total_days(),
            h=local.dt.hour().cast(pl.Int64),
            x=pl.col(column).cast(pl.Float64),
        )
        cells = cells.filter(pl.col("d").is_between(0, days - 1))
        values = np.full((len(names), days, 24), np.nan)
        values[cells["s"].to_numpy(), cells["d"].to_numpy(), cells["h"].to_numpy()] = cells["x"].fill_null(np.nan)
        return values

    as_of = ends.select("as_of", date="date")
    on_time = (
        rows.with_columns(date=local.dt.date()).join(as_of, on="date").filter(pl.col("known_at") <= pl.col("as_of"))
    )
    actual = panel(on_time, "value") * factor
    by_weekday = _median([_back(actual, 7 * week) for week in range(1, 5)])
    forecast = np.full(actual.shape, np.nan) if expected is None else panel(expected.sort("ts"), "yhat") * factor
    said = np.where(np.isfinite(forecast), forecast, by_weekday)
    level = _level(actual)
    residual = (actual - said) / level[:, :, None]
    both = np.isfinite(residual)
    wanted = (both.sum(axis=2) >= LEAST_HOURS) & (level > 0)
    place = dict(ends.select("date", "as_of").iter_rows())
    dates = [first + timedelta(days=k) for k in range(days)]
    wanted &= np.array([day in place for day in dates])
    s, d = np.nonzero(wanted)
    columns: dict[str, Any] = {
        "series_id": names.gather(s),
        "as_of": pl.Series([place.get(day) for day in dates], dtype=pl.Datetime("us", "UTC")).gather(d),
        "day": pl.Series(dates, dtype=pl.Date).gather(d),
        "level": level[s, d],
        "forecast_hours": (np.isfinite(forecast) & both).sum(axis=2)[s, d].astype(np.int16),
        "actual_energy": np.where(both, actual, 0.0).sum(axis=2)[s, d],
        "expected_energy": np.where(both, said, 0.0).sum(axis=2)[s, d],
    }
    for named, values in ((RESIDUALS, residual), (EXPECTED, said / level[:, :, None])):
        chosen = values[s, d].astype(np.float32)
        columns |= {name: pl.Series(chosen[:, hour], nan_to_null=True) for hour, name in enumerate(named)}
    return pl.DataFrame(columns).with_columns(month=pl.col("as_of").dt.date().dt.month_start())


def _back(values: np.ndarray, days: int) -> np.ndarray:
    """The values so many days before, NaN at the beginning."""
    out = np.full(values.shape, np.nan)
    out[:, days:] = values[:, :-days] if days < values.shape[1] else np.nan
    return out


def _median(some: list[np.ndarray]) -> np.ndarray:
    """Median of what is known of up to four, of two at least."""
    ordered = np.sort(np.stack(some), axis=0)  # what is not known is last
    count = np.isfinite(ordered).sum(axis=0)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(some) - 1)
    middle = (np.take_along_axis(ordered, low[None], 0)[0] + np.take_along_axis(ordered, high[None], 0)[0]) / 2
    return np.where(count >= 2, middle, np.nan)


def _level(actual: np.ndarray) -> np.ndarray:
    """(S, D) mean of the ``BACK`` days before; NaN where less is known than half of a week's hours."""
    known = np.isfinite(actual)
    total, count = np.where(known, actual, 0.0).sum(axis=2).cumsum(axis=1), known.sum(axis=2).cumsum(axis=1)
    total, count = (np.pad(x, ((0, 0), (1, 0))) for x in (total, count))
    days = np.arange(actual.shape[1])
    start = np.maximum(days - BACK, 0)
    number = count[:, days] - count[:, start]
    mean = (total[:, days] - total[:, start]) / np.maximum(number, 1)
    return np.where(number >= 7 * LEAST_HOURS, mean, np.nan)


_OF_HOURS = ["gold/demand_hourly:known_value", "gold/demand_hourly:known_at", "gold/demand_hourly:imputed"]
_OF_BOTH = [*_OF_HOURS, f"{FORECASTS.to_user_string()}:yhat"]
_LINEAGE = {name: _OF_BOTH for name in FeaturesUsage.column_names() if name != "series_id"} | {
    "as_of": ["gold/demand_hourly:ts"],
    "day": ["gold/demand_hourly:ts"],
    "level": _OF_HOURS,
    "month": [],
}


@delta_asset(
    FeaturesUsage,
    lineage=lineage(
        FeaturesUsage, {"gold/demand_hourly": gold.contract(), FORECASTS.to_user_string(): _Forecasts}, _LINEAGE
    ),
    partitions_def=MONTHS,
    deps=[
        dg.AssetDep(
            gold.KEY,
            partition_mapping=dg.TimeWindowPartitionMapping(
                start_offset=-2, end_offset=0, allow_nonexistent_upstream_partitions=True
            ),
        ),
        FORECASTS,
    ],
)
def usage(context: dg.AssetExecutionContext, lake: LakeResource) -> pl.LazyFrame:
    """The days of the months in hand, from the hours of these and of four weeks before."""
    declaration = active_declaration()
    first, last = months_of_run(context)
    start = datetime(first.year, first.month, 1, tzinfo=UTC)
    end = datetime(last.year + last.month // 12, last.month % 12 + 1, 1, tzinfo=UTC)
    near = pl.col("month").is_between(first - timedelta(days=62), last)
    hours = lake.lake().table(gold.KEY.path).scan().filter(near)
    table = lake.lake().table(FORECASTS.path)
    forecasts = table.scan().filter(near) if table.exists() else None
    days = transform(hours, forecasts, declaration, series_table(declaration, get_settings().data), start, end)
    return days.lazy()


contract_of_usage = contract_check(usage, FeaturesUsage)
