"""The clock: what time a run believes it is, so that history can be operated as if it were live."""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field, field_validator


class Clock(dg.ConfigurableResource):
    """The time of a run: the real one, or the fixed one of a replay."""

    at: str | None = Field(
        default=None, description="ISO time that it is; by default the real time. UTC unless it says."
    )

    @field_validator("at")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None:
            datetime.fromisoformat(value)
        return value

    def now(self) -> datetime:
        """The time (UTC)."""
        return datetime.now(UTC) if self.at is None else as_utc(self.at)


def as_utc(text: str) -> datetime:
    """An ISO time as an aware UTC datetime; without an offset it is taken to be UTC.

    Raises:
        ValueError: the text is no ISO time.
    """
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
