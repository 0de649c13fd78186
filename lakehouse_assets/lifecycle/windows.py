"""The windows of monitoring: whole weeks on the clock of a model's schedules, from Monday to Monday."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

WEEK = timedelta(days=7)
GRANULARITY = "1 week"
LOOK_BACK = timedelta(days=35)
"""What came late is looked at late: so far back errors and windows are looked at again."""


def whole_weeks(since: datetime, edge: datetime, zone: str) -> list[datetime]:
    """Starts (UTC) of the whole weeks, from Monday 00:00 in a time zone, from `since` on that had ended by `edge`."""
    local = since.astimezone(ZoneInfo(zone))
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    if midnight < local:
        midnight += timedelta(days=1)
    # Wall-clock arithmetic: a week with a clock change is an hour shorter or longer.
    start = midnight + timedelta(days=-midnight.weekday() % 7)
    weeks = []
    while start + WEEK <= edge:
        weeks.append(start.astimezone(UTC))
        start += WEEK
    return weeks


def week_of(time: pl.Expr, zone: str) -> pl.Expr:
    """The start (UTC) of the week in which a time lies."""
    return time.dt.convert_time_zone(zone).dt.truncate("1w").dt.convert_time_zone("UTC")


def week_end(start: pl.Expr, zone: str) -> pl.Expr:
    """The end (UTC, exclusive) of the week that starts at a time."""
    return start.dt.convert_time_zone(zone).dt.offset_by("7d").dt.convert_time_zone("UTC")


def month_of(start: pl.Expr) -> pl.Expr:
    """The partition in which what begins at a time lies: the first day of its month (UTC)."""
    return start.dt.convert_time_zone("UTC").dt.date().dt.month_start()
