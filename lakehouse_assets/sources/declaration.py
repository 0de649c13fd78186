"""What a source is: the YAML declaration, validated, with an error message that names file, line and key.

A declaration says where rows lie, which columns mean what, in which time zone and interval they are, what is known
when, and what is to be forecast. It declares demand, customers (see `customers`), or both. It reads no data; `files`,
`times`, `landing` and `series` do that by it.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, Field, PrivateAttr, ValidationError, field_validator

from lakehouse_assets.settings import Settings, get_settings
from lakehouse_assets.sources import customers as customers_section
from lakehouse_assets.sources.customers import Customers
from lakehouse_assets.sources.parts import Files, Part, SnakeCase, TimeZone, Word

PUBLISHED_FORECAST = "published_forecast"

# A covariate is a column of every table from bronze to the features, so it must not be named as one of theirs.
# fmt: off
RESERVED_NAMES = frozenset([
    "source", "file", "fingerprint", "row_number", "batch_id", "ingested_at", "pending", "series_id", "ts", "ts_utc",
    "value", "published_at", "month", "quality", "known_at", "rules", "imputed", "known_value", "date", "energy",
    "peak", "load_factor", "completeness", "issued_at", "horizon", "hour", "day_of_week", "season_sin", "season_cos",
    "is_holiday", "is_day_before_holiday", "is_day_after_holiday", "is_year_end", "published_forecast", "name",
    "group", "time_zone", "holidays", "latitude", "longitude", "yhat", "model_version",
])
# fmt: on
_RESERVED_PATTERN = re.compile(
    r"(lag|last|mean|std|min|max|forecast_lag|error_(lag|last|mean))_\d+h|"
    r"(near|north|east|south|west)_(last_day|change_3h|published_forecast|error_last_1h|error_mean_24h)"
)
_DURATION = re.compile(r"(\d+)(m|h|d)")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


class DeclarationError(ValueError):
    """A declaration is wrong; one line an error: `file:line: key: what is wrong`."""


def _duration(text: str) -> timedelta:
    """The length that a text such as `15m`, `1h` or `1d` names.

    Raises:
        ValueError: it names none.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a whole number and m, h or d, such as 15m, 1h or 1d")
    try:
        return timedelta(minutes=int(match[1]) * {"m": 1, "h": 60, "d": 1440}[match[2]])
    except OverflowError:
        raise ValueError(f"{text!r} is too long") from None


def _interval(text: str) -> str:
    length = _duration(text)
    if not timedelta(minutes=15) <= length <= timedelta(days=1) or timedelta(days=1) % length:
        raise ValueError(f"{text!r} must be from 15m to 1d and divide a day")
    return text


def _delay(text: str) -> str:
    if _duration(text) > timedelta(days=366):
        raise ValueError(f"{text!r} must be a year at most")
    return text


def _every(text: str) -> str:
    length = _duration(text)
    if (
        not timedelta(hours=1) <= length <= timedelta(days=1)
        or timedelta(days=1) % length
        or length % timedelta(hours=1)
    ):
        raise ValueError(f"{text!r} must be whole hours, from 1h to 1d, and divide a day")
    return text


def _warm_up(text: str) -> str:
    if not timedelta(days=7) <= _duration(text) <= timedelta(days=366):
        raise ValueError(f"{text!r} must be from 7d to 366d")
    return text


def _horizon(text: str) -> str:
    length = _duration(text)
    if not timedelta(hours=1) <= length <= timedelta(hours=168) or length % timedelta(hours=1):
        raise ValueError(f"{text!r} must be whole hours, from 1h to 168h")
    return text


def _clock(text: str) -> str:
    if _CLOCK.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a time of day from 00:00 to 23:59")
    return text


class Constant(Part):
    """A series_id that stands in no column, because the files hold one series."""

    constant: Word


class Steps(Part):
    """A running number that stands for the time, in collections without dates.

    The last row of each series in a file ends at `end` (UTC), so that all series end together.
    """

    step: Word
    end: datetime

    @field_validator("end")
    @classmethod
    def _whole_hour(cls, end: datetime) -> datetime:
        end = end.replace(tzinfo=UTC) if end.tzinfo is None else end.astimezone(UTC)
        if end.minute or end.second or end.microsecond:
            raise ValueError(f"{end} must be a whole hour")
        return end


class Columns(Part):
    """Which columns of the files mean what; `published_at` is when the row became known."""

    series_id: Word | Constant
    ts: Word | Steps
    value: Word
    published_at: Word | None = None


class Unit(Part):
    """Unit of the value; `power` is averaged when resampled, `energy` is summed."""

    kind: Literal["power", "energy"]
    name: Word


class Covariate(Part):
    """A column beside the value. `before`: published for the whole horizon ahead; `after`: only its past is known."""

    column: Word
    known: Literal["before", "after"]
    role: Literal["published_forecast"] | None = None


class SeriesColumns(Part):
    """Which columns of the series table mean what; all but `series_id` may be left out."""

    series_id: Word = "series_id"
    name: Word | None = None
    group: Word | None = None
    time_zone: Word | None = None
    holidays: Word | None = None
    latitude: Word | None = None
    longitude: Word | None = None


class SeriesFile(Part):
    """A csv file that describes the series."""

    file: Word
    columns: SeriesColumns = SeriesColumns()


class Declaration(Part):
    """One source of demand data. See `examples/` for declarations with comments.

    `ts_marks` says whether a timestamp is the start or the end of its interval; `start` is the first day of history, in
    UTC. Values that were `screened` before are not judged by their size: for clean collections, and for series that
    swing by orders of magnitude within a day. Forecasts are made at `issue_time` and every `issue_every` after it, of
    series with `warm_up` of history.
    """

    name: SnakeCase
    description: str = ""
    files: Files
    columns: Columns
    time_zone: TimeZone
    ts_marks: Literal["start", "end"] = "start"
    interval: Annotated[str, AfterValidator(_interval)]
    unit: Unit
    allow_negative: bool = False
    screened: bool = False
    covariates: dict[str, Covariate] = Field(default_factory=dict)
    publication_delay: Annotated[str, AfterValidator(_delay)] = "0h"
    issue_time: Annotated[str, AfterValidator(_clock)] = "00:00"
    issue_time_zone: TimeZone | None = None
    issue_every: Annotated[str, AfterValidator(_every)] = "1d"
    warm_up: Annotated[str, AfterValidator(_warm_up)] = "28d"
    horizon: Annotated[str, AfterValidator(_horizon)] = "24h"
    start: date
    series: SeriesFile | None = None
    customers: Customers | None = None

    # The folder of the YAML file: globs and the series table are looked for there first.
    _folder: Path | None = PrivateAttr(default=None)

    @field_validator("covariates")
    @classmethod
    def _covariate_names(cls, covariates: dict[str, Covariate]) -> dict[str, Covariate]:
        problems = []
        for name, covariate in covariates.items():
            if covariate.role is None and (name in RESERVED_NAMES or _RESERVED_PATTERN.fullmatch(name)):
                problems.append(f"{name}: the name is taken by a column of the tables; choose another")
            elif not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                problems.append(f"{name}: must be a snake_case word, such as temperature_forecast")
            if covariate.role is not None and covariate.known != "before":
                problems.append(f"{name}.role: {covariate.role} needs known: before")
        published = [name for name, covariate in covariates.items() if covariate.role is not None]
        problems += [f"{name}.role: {published[0]} has this role already" for name in published[1:]]
        if problems:
            raise ValueError("\n".join(problems))
        return covariates

    @property
    def folder(self) -> Path | None:
        """Folder of the YAML file that the declaration was read from."""
        return self._folder

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the bronze tables that the declared files fill."""
        return ("demand", *(self.customers.tables if self.customers else ()))

    @cached_property
    def covariate_sources(self) -> dict[str, Covariate]:
        """Each covariate by the name under which the tables store it, in the declared order."""
        return {PUBLISHED_FORECAST if c.role else name: c for name, c in self.covariates.items()}

    @property
    def covariate_columns(self) -> list[str]:
        """Names under which the tables store the covariates."""
        return list(self.covariate_sources)

    @property
    def before(self) -> list[str]:
        """Stored names of the covariates that are published for the whole horizon ahead."""
        return [name for name, c in self.covariate_sources.items() if c.known == "before"]

    @property
    def after(self) -> list[str]:
        """Stored names of the covariates of which only the past is known."""
        return [name for name, c in self.covariate_sources.items() if c.known == "after"]

    @property
    def has_published_forecast(self) -> bool:
        """Whether a covariate has the role `published_forecast`."""
        return PUBLISHED_FORECAST in self.covariate_sources

    @property
    def has_coordinates(self) -> bool:
        """Whether the table of the series says where they lie."""
        columns = self.series.columns if self.series else None
        return columns is not None and columns.latitude is not None and columns.longitude is not None

    @property
    def raw_columns(self) -> list[str]:
        """Columns of a raw row as bronze stores them, all text."""
        published = ["published_at"] if self.columns.published_at else []
        return ["series_id", "ts", "value", *published, *self.covariate_columns]

    @property
    def interval_td(self) -> timedelta:
        """Length of an interval."""
        return _duration(self.interval)

    @property
    def publication_delay_td(self) -> timedelta:
        """Time from the end of an interval to when its value is known."""
        return _duration(self.publication_delay)

    @property
    def issue_every_td(self) -> timedelta:
        """Time from one issue time to the next."""
        return _duration(self.issue_every)

    @property
    def warm_up_td(self) -> timedelta:
        """History that a series needs before its first issue time."""
        return _duration(self.warm_up)

    def issue_cron(self, minutes_after: int = 0, days: str = "* * *", *, daily: bool = False) -> tuple[str, str]:
        """Cron schedule and time zone, some minutes after each issue time; daily: after the declared time alone."""
        hour, minute = (int(part) for part in self.issue_time.split(":"))
        every = 24 if daily else self.issue_every_td // timedelta(hours=1)
        at = hour * 60 + minute + minutes_after
        hours = sorted((at // 60 + k) % 24 for k in range(0, 24, every))
        return f"{at % 60} {','.join(map(str, hours))} {days}", self.issue_time_zone or self.time_zone

    @property
    def horizon_hours(self) -> int:
        """Hours from the issue time to the end of what is forecast."""
        return _duration(self.horizon) // timedelta(hours=1)

    @property
    def horizon_td(self) -> timedelta:
        """The horizon as a length of time."""
        return _duration(self.horizon)

    def issue_times(self, first: datetime, last: datetime) -> list[datetime]:
        """The issue times in UTC from `first` to `last`, both included and both with a time zone.

        The clock time of the first one of a day is that of `issue_time_zone` (`time_zone` by default); one that
        daylight saving skips is moved forward, of one that it repeats the first is taken.
        """
        zone = ZoneInfo(self.issue_time_zone or self.time_zone)
        hour, minute = map(int, self.issue_time.split(":"))
        day = first.astimezone(zone).date() - timedelta(days=1)

        def daily(day: date) -> datetime:
            return datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).astimezone(UTC)

        times = []
        while day <= last.astimezone(zone).date():
            instant, following = daily(day), daily(day + timedelta(days=1))
            while instant < following:
                if first <= instant <= last:
                    times.append(instant)
                # A day without its 24 hours has its longer or shorter pause before the next one.
                instant += self.issue_every_td if self.issue_every_td < timedelta(days=1) else following - instant
            day += timedelta(days=1)
        return times


class CustomersAlone(Part):
    """A source of customers without demand."""

    name: SnakeCase
    description: str = ""
    customers: Customers

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the bronze tables that the declared files fill."""
        return self.customers.tables


Source: TypeAlias = Declaration | CustomersAlone
SOURCE_TABLES = frozenset(["demand", *customers_section.TABLES])
"""Names of all bronze tables that a source may fill."""


class _Yaml:
    """A YAML document as plain values, with the line of each key."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines: dict[tuple[str, ...], int] = {}
        self.problems: list[tuple[int, str]] = []
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        self.value = self._plain(node, ()) if node is not None else None

    def _plain(self, node: yaml.Node, key: tuple[str, ...]) -> Any:
        # Scalars stay text and pydantic converts them: YAML's own rules would read 12:30 as the number 750.
        self.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            values: dict[str, Any] = {}
            for name_node, value_node in node.value:
                name = str(name_node.value)
                if name in values:
                    first = self.lines[(*key, name)]
                    self.add((*key, name), f"is declared twice, first in line {first}", name_node.start_mark.line + 1)
                    continue
                self.lines[(*key, name)] = name_node.start_mark.line + 1
                values[name] = self._plain(value_node, (*key, name))
            return values
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(child, (*key, str(i))) for i, child in enumerate(node.value)]
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return None if plain and node.value in ("", "~", "null") else node.value

    def add(self, key: tuple[str, ...], message: str, line: int | None = None) -> None:
        """Note what is wrong with a key; a key that is not there has the line of its parent."""
        known = key
        while known and known not in self.lines:
            known = known[:-1]
        line = line or self.lines.get(known, 1)
        self.problems.append((line, ": ".join([f"{self.path}:{line}", *([".".join(key)] if key else []), message])))


def _keys_there(document: Any, loc: Iterable[Any]) -> tuple[str, ...]:
    # Pydantic puts the branch of a union (such as "Constant") into the location; such a step is in no document.
    keys: list[str] = []
    steps = [str(step) for step in loc]
    for i, step in enumerate(steps):
        inside = isinstance(document, Mapping) and step in document
        if inside:
            document = document[step]
        elif i < len(steps) - 1 or step in ("str", "constrained-str", "Constant", "Steps"):
            continue
        keys.append(step)
    return tuple(keys)


def _allowed(model: type[BaseModel], keys: tuple[str, ...]) -> list[str]:
    """Keys that the mapping may have in which the last of `keys` stands."""
    found = model
    for key in keys[:-1]:
        if key in found.model_fields:
            found = _part_of(found.model_fields[key].annotation) or found
    return list(found.model_fields)


def _part_of(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation: itself, a branch of a union, or what a mapping maps to."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((part for branch in get_args(annotation) if (part := _part_of(branch)) is not None), None)


# Errors of these are about what lies below them: `key: what is wrong`, one a line.
_SPOKEN_FOR = {("covariates",), ("customers",), ("customers", "attributes"), ("customers", "personal")}


def _note(document: _Yaml, error: Any, model: type[BaseModel]) -> None:
    keys = _keys_there(document.value, error["loc"])
    kind, message = error["type"], error["msg"]
    if kind == "value_error":
        message = str(error["ctx"]["error"])
        if keys in _SPOKEN_FOR:
            for line in message.split("\n"):
                name, text = line.split(": ", 1)
                document.add((*keys, *name.split(".")), text)
            return
    elif kind == "missing":
        message = "is missing"
    elif kind == "extra_forbidden":
        message = f"is not known here; known are {', '.join(_allowed(model, keys))}"
    elif kind == "literal_error":
        message = f"must be {error['ctx']['expected']}"
    elif error["input"] is None:
        message = "is empty"
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "must be a mapping of keys to values"
    elif kind == "string_type":
        message = "must be text"
    elif kind == "string_pattern_mismatch":
        message = f"{error['input']!r} must be a snake_case word"
    elif kind == "bool_parsing":
        message = "must be true or false"
    elif kind.startswith("date"):
        message = f"{error['input']!r} is not a date such as 2019-12-31"
    document.add(keys, message)


def load_source(path: Path | str) -> Source:
    """Read and validate a declaration of demand, of customers, or of both.

    Raises:
        DeclarationError: the file cannot be read or is wrong; all errors, one line each, with file, line and key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        document = _Yaml(path, text)
    except FileNotFoundError:
        raise DeclarationError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{path}: cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DeclarationError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise DeclarationError(f"{path}:1: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document.value, dict):
        raise DeclarationError(f"{path}:1: must be a mapping of keys to values")
    alone = "customers" in document.value and set(document.value) <= set(CustomersAlone.model_fields)
    model: type[Source] = CustomersAlone if alone else Declaration
    source: Source | None = None
    try:
        source = model.model_validate(document.value)
    except ValidationError as error:
        # A union reports each of its branches; one line a key is enough.
        noted = set()
        for problem in error.errors():
            keys = _keys_there(document.value, problem["loc"])
            wrong_branch = problem["type"] == "string_type" and isinstance(problem["input"], dict)
            if keys not in noted and not wrong_branch:
                noted.add(keys)
                _note(document, problem, model)
    if document.problems or source is None:
        raise DeclarationError("\n".join(text for _, text in sorted(document.problems)))
    folder = path.resolve().parent
    if isinstance(source, Declaration):
        source._folder = folder
    if source.customers is not None:
        source.customers._folder = folder
    return source


def load_declaration(path: Path | str) -> Declaration:
    """Read and validate a declaration of demand.

    Raises:
        DeclarationError: as `load_source`; or the file declares customers alone.
    """
    source = load_source(path)
    if not isinstance(source, Declaration):
        raise DeclarationError(f"{path}: declares customers, but no demand")
    return source


@lru_cache(maxsize=8)
def _load_cached(path: Path, modified_ns: int) -> Source:
    return load_source(path)


def active_source(settings: Settings | None = None) -> Source:
    """The source in force: the file `settings.declaration_path`, else the simulator's.

    Raises:
        DeclarationError: the file is wrong, or `LAKEHOUSE_CONFIG` names one that is not there.
    """
    settings = settings or get_settings()
    path = settings.declaration_path
    if not path.exists():
        if settings.config is not None:
            raise DeclarationError(f"{path}: there is no such file")
        path = SIMULATED
    return _load_cached(path, path.stat().st_mtime_ns)


def active_declaration(settings: Settings | None = None) -> Declaration:
    """The demand of the source in force; the simulator's where none is declared, whose tables are then left out."""
    source = active_source(settings)
    if not isinstance(source, Declaration):
        source = _load_cached(SIMULATED, SIMULATED.stat().st_mtime_ns)
    assert isinstance(source, Declaration)
    return source


def active_customers(settings: Settings | None = None) -> Customers:
    """The customers of the source in force; the simulator's where none are declared, as `active_declaration`."""
    customers = active_source(settings).customers or _load_cached(SIMULATED, SIMULATED.stat().st_mtime_ns).customers
    assert customers is not None
    return customers


SIMULATED = Path(__file__).with_name("simulated.yaml")
