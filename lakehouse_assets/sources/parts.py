"""What every section of a declaration is made of: a part that knows its keys, files, words and time zones."""

from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def check_time_zone(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: it is no IANA time zone.
    """
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found; not a path that can be a zone; a folder such as "Europe"
        raise ValueError(f"{name!r} is not an IANA time zone, such as UTC or Europe/Berlin") from None
    return name


TimeZone = Annotated[str, AfterValidator(check_time_zone)]
Word = Annotated[str, Field(min_length=1)]
SnakeCase = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Part(BaseModel):
    """A mapping of a declaration; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Files(Part):
    """Where the rows lie and how they are written (compressed when the name ends in .gz; parquet is never)."""

    glob: Word
    format: Literal["csv", "ndjson", "parquet"]
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
