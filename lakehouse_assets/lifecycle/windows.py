"""The windows of monitoring: whole weeks on the clock of a model's schedules, from Monday to Monday; or months.

A week is judged when it has ended. A month begins with a snapshot, and has no other: it is judged as soon as that is
there. Months are those of the calendar in UTC, as snapshots and partitions are.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import polars as pl

from lakehouse_assets.ml.definition import ModelDefinition

WEEK = timedelta(days=7)
LOOK_BACK = timedelta(days=35)
"""What came late is looked at late: so far back errors and windows are looked at again."""


@dataclass(frozen=True)
class Windows:
    """The windows of a model.

    every: a week or a month. zone: of weeks.
    """

    every: Literal["week", "month"]
    zone: str

    @classmethod
    def of_model(cls, definition: ModelDefinition) -> "Windows":
        """As the model's kind wants them, on the clock of its schedules."""
        monthly = definition.kind.window == "month"
        return cls(definition.kind.window, "UTC" if monthly else definition.schedules.time_zone)

    @property
    def granularity(self) -> str:
        """What tables say of them."""
        return f"1 {self.every}"

    def whole(self, since: datetime, edge: datetime) -> list[datetime]:
        """Starts (UTC) of the windows from `since` on that can be judged when the latest rows are of `edge`."""
        local = since.astimezone(ZoneInfo(self.zone))
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        if midnight < local:
            midnight += timedelta(days=1)
        starts = []
        # Wall-clock arithmetic: a week with a clock change is an hour shorter or longer.
        if self.every == "week":
            start = midnight + timedelta(days=-midnight.weekday() % 7)
            while start + WEEK <= edge:
                starts.append(start.astimezone(UTC))
                start += WEEK
            return starts
        start = midnight if midnight.day == 1 else _next_month(midnight)
        while start <= edge:
            starts.append(start.astimezone(UTC))
            start = _next_month(start)
        return starts

    def of(self, time: pl.Expr) -> pl.Expr:
        """The start (UTC) of the window in which a time lies."""
        every = "1w" if self.every == "week" else "1mo"
        return time.dt.convert_time_zone(self.zone).dt.truncate(every).dt.convert_time_zone("UTC")

    def end(self, start: pl.Expr) -> pl.Expr:
        """The end (UTC, exclusive) of the window that starts at a time."""
        length = "7d" if self.every == "week" else "1mo"
        return start.dt.convert_time_zone(self.zone).dt.offset_by(length).dt.convert_time_zone("UTC")

    def bounds(self, start: datetime) -> tuple[datetime, datetime]:
        """Start and end (UTC, exclusive) of the window that starts at a time."""
        found: tuple[datetime, datetime] = pl.select(a=pl.lit(start), b=self.end(pl.lit(start))).row(0)
        return found

    def containing(self, moment: datetime) -> datetime:
        """The start (UTC) of the window in which a moment lies."""
        found: datetime = pl.select(self.of(pl.lit(moment))).item()
        return found

    def report(self, start: datetime) -> str:
        """The name of the report about a window: the local date from which it can be judged."""
        local = start.astimezone(ZoneInfo(self.zone))
        return f"{local + WEEK if self.every == 'week' else local:%Y-%m-%d}"


def _next_month(moment: datetime) -> datetime:
    return (moment.replace(day=1) + timedelta(days=32)).replace(day=1)


def month_of(start: pl.Expr) -> pl.Expr:
    """The partition in which what begins at a time lies: the first day of its month (UTC)."""
    return start.dt.convert_time_zone("UTC").dt.date().dt.month_start()
