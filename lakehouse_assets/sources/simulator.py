"""A simulated energy company: landing files as a real one would send them, with the truth written beside them.

The world has districts of three groups (residential, commercial, industrial) with daily, weekly and yearly seasons,
holidays, a response to weather, and an operator who publishes a day-ahead forecast with habits that can be learnt.
The files have the dirt of real life. `Change`s alter the world from a date on. Everything follows from the seed.
"""

import gzip
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lakehouse_assets.sources.declaration import SIMULATED
from lakehouse_assets.sources.simulated_customers import TariffShock, simulate_customers

Array = NDArray[np.float64]

ZONE = "Europe/Berlin"
GROUPS = ("residential", "commercial", "industrial")
# Holiday calendars and rough coordinates of where the districts lie.
_PLACES = (
    ("Alsterfeld", "DE-HH", 53.6, 10.0),
    ("Isartal", "DE-BY", 48.1, 11.6),
    ("Rheinaue", "DE-NW", 50.9, 7.0),
    ("Spreebogen", "DE-BE", 52.5, 13.4),
    ("Neckarhang", "DE-BW", 48.8, 9.2),
    ("Elbwiesen", "DE-SN", 51.0, 13.7),
)


@dataclass(frozen=True)
class Change:
    """The world changes at a date (00:00 local time); `kind` is a key of `CHANGES`, `size` 1 is a marked change."""

    kind: str
    start: date
    size: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in CHANGES:
            raise ValueError(f"{self.kind!r} is no change; there are {', '.join(CHANGES)}")


@dataclass(frozen=True)
class SimulatedWorld:
    """What `simulate` has written."""

    folder: Path
    declaration: Path
    truth: Path
    files: list[Path]
    rows: int


@dataclass
class _World:
    """Arrays over series (S) and time (T); loads in MW, temperatures in degrees Celsius."""

    rng: np.random.Generator
    step_hours: float
    hour: Array  # (T,) local time of day
    weekday: NDArray[np.int64]  # (T,) 0 is Monday
    day: NDArray[np.int64]  # (T,) local days since the first
    year_phase: Array  # (T,) 0 to 2 pi from January to January
    day_off: Array  # (S, T) 1 on Sundays and holidays, 0.7 on Saturdays, else 0
    group: NDArray[np.int64]  # (S,) index into GROUPS
    base: Array  # (S,) mean load
    sun: Array  # (S, T) sunshine, 0 to 1
    temperature: Array  # (S, T)
    temperature_forecast: Array  # (S, T)
    heating: Array  # (S,) share of the base per degree below 15
    cooling: Array  # (S,) share of the base per degree above 21
    shape: Array = field(default_factory=lambda: np.zeros(0))  # (S, T) share of the base without weather and noise

    def per_group(self, residential: float, commercial: float, industrial: float) -> Array:
        """(S, 1) a number by group."""
        return np.array([residential, commercial, industrial])[self.group][:, None]

    def noise(self, rows: int, hours: float, sigma: float) -> Array:
        """(rows, T) autocorrelated noise with a time constant in hours and a standard deviation."""
        from scipy.signal import lfilter

        keep = float(np.exp(-self.step_hours / hours))
        shocks = self.rng.normal(0.0, sigma * np.sqrt(1 - keep**2), (rows, len(self.hour)))
        shocks[:, 0] = self.rng.normal(0.0, sigma, rows)
        return np.asarray(lfilter([1.0], [1.0, -keep], shocks, axis=1))

    def bump(self, centre: float, width: float) -> Array:
        """(T,) a bell over the time of day, around midnight too."""
        distance = (self.hour - centre + 12) % 24 - 12
        return np.asarray(np.exp(-0.5 * (distance / width) ** 2))

    def plateau(self, begin: float, end: float) -> Array:
        """(T,) about 1 between two times of day, with slopes of an hour."""
        return np.asarray(1 / (1 + np.exp(-2 * (self.hour - begin))) / (1 + np.exp(2 * (self.hour - end))))


# Changes of the load: (world, weight) -> MW to add (S, T); the weight (T,) is 0 before the start and up to `size`.


def _rooftop_solar(world: _World, weight: Array) -> Array:
    # The midday belly: grows with sunshine, mostly on the roofs of homes.
    return -weight * world.per_group(0.45, 0.25, 0.1) * world.base[:, None] * world.sun


def _electric_vehicles(world: _World, weight: Array) -> Array:
    # Cars are plugged in when their owners come home, and at work a little.
    evening, night = world.bump(20.5, 2.0), world.bump(1.5, 2.0)
    at_work = world.bump(9.5, 1.5) * (world.weekday < 5)
    home = world.per_group(0.22, 0.03, 0.02) * (evening + 0.6 * night)
    return weight * world.base[:, None] * (home + world.per_group(0.0, 0.06, 0.03) * at_work)


def _lockdown(world: _World, weight: Array) -> Array:
    # Offices and plants go down on working days, homes rise through the day: every day resembles a Sunday.
    working = (1 - world.day_off) * world.plateau(7, 18)
    return weight * world.base[:, None] * working * world.per_group(0.12, -0.4, -0.15)


def _tariff(world: _World, weight: Array) -> Array:
    # On working days load moves from the evening peak to the cheap hours of the night.
    moved = world.bump(2.5, 1.5) - world.bump(18.5, 1.5)
    return weight * world.base[:, None] * (1 - world.day_off) * world.per_group(0.15, 0.08, 0.12) * moved


def _heat_pumps(world: _World, weight: Array) -> Array:
    # The response to cold grows: boilers give way to electricity.
    cold = np.maximum(0.0, 15 - world.temperature)
    return weight * world.base[:, None] * world.per_group(0.012, 0.008, 0.002) * cold


def _operator_model(world: _World, weight: Array) -> Array:
    # The load stays; the operator's habits change, see `_published_forecast`.
    return np.zeros_like(world.temperature)


# Each with the days over which it grows to its size.
CHANGES: dict[str, tuple[Callable[[_World, Array], Array], int]] = {
    "rooftop_solar": (_rooftop_solar, 28),
    "electric_vehicles": (_electric_vehicles, 28),
    "lockdown": (_lockdown, 0),
    "tariff": (_tariff, 0),
    "heat_pumps": (_heat_pumps, 28),
    "operator_model": (_operator_model, 0),
}


def simulate(
    folder: Path,
    *,
    start: date,
    end: date,
    series: int,
    seed: int,
    scenarios: Sequence[Change] = (),
    interval_minutes: int = 60,
    clean: bool = False,
    customers: int = 0,
    shock: TariffShock | None = None,
) -> SimulatedWorld:
    """Write a simulated world: landing files, `source.yaml`, `series.csv` and `truth.parquet`.

    Args:
        folder: where to write; files of an earlier simulation there are replaced.
        start: first day, from midnight UTC.
        end: the day after the last.
        series: number of districts.
        seed: same arguments and seed, same bytes.
        scenarios: changes of the world.
        interval_minutes: from 15 to 60, dividing an hour.
        clean: without dirt.
        customers: customers at a time, whose history begins 15 months before; see `simulated_customers`. 0: none.
        shock: a rise of prices for customers.

    Returns:
        What was written. The landing files are one gzipped csv a month of arrival. `truth.parquet` has for each series
        and interval: series_id, ts (UTC), value (the true load, MW), reported (what the files say in the end; null:
        nothing), published_forecast, dirt (gap: no row; empty: a row without value; duplicate, late, revised, zero,
        spike, unit, stuck; null: none), known_at (UTC, when `reported` was known), changes (kinds in force, joined by
        commas; null: none).

    Raises:
        ValueError: an argument is out of its range.
    """
    if end <= start:
        raise ValueError(f"end {end} must be after start {start}")
    if series < 1:
        raise ValueError("there must be one series at least")
    if not 15 <= interval_minutes <= 60 or 60 % interval_minutes:
        raise ValueError("interval_minutes must be 15, 20, 30 or 60")
    rng = np.random.default_rng(seed)
    grid, districts = _grid(start, end, interval_minutes), _districts(series)
    world = _build_world(rng, grid, districts, interval_minutes)
    weights = [(change, _weight(world, (change.start - start).days, change)) for change in scenarios]
    load = _load(world)
    for change, weight in weights:
        load += CHANGES[change.kind][0](world, weight)
    load = np.maximum(load, 0.02 * world.base[:, None])
    forecast = _published_forecast(world, load, weights)
    truth = _truth(grid, districts, world, load, forecast, weights)
    truth, landed = _dirty(rng, truth, interval_minutes, clean)
    since = (start.replace(day=1) - timedelta(days=15 * 30)).replace(day=1)
    world_written = _write(folder, truth, landed, districts, start, interval_minutes, since if customers else None)
    if not customers:
        return world_written
    made = simulate_customers(folder, start=since, end=end, customers=customers, seed=seed, shock=shock, clean=clean)
    rows = world_written.rows + made.rows
    return replace(world_written, files=[*world_written.files, *made.files], rows=rows)


def _grid(start: date, end: date, interval_minutes: int) -> pl.DataFrame:
    # From and to midnight UTC: the declared start is then the month of the first partition too.
    first, last = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (start, end))
    ts = pl.datetime_range(first, last, timedelta(minutes=interval_minutes), closed="left", time_zone="UTC", eager=True)
    return ts.alias("ts").to_frame().with_columns(local=pl.col("ts").dt.convert_time_zone(ZONE))


def _districts(series: int) -> pl.DataFrame:
    rows = []
    for i in range(series):
        place, holidays, latitude, longitude = _PLACES[i % len(_PLACES)]
        group = GROUPS[(i + i // len(_PLACES)) % len(GROUPS)]
        name = f"{place} {1 + i // len(_PLACES)}"
        rows.append((f"D{i + 1:03d}", name, group, ZONE, holidays, latitude, longitude))
    schema = ["district", "name", "group", "time_zone", "holidays", "latitude", "longitude"]
    return pl.DataFrame(rows, schema=schema, orient="row")


def _build_world(
    rng: np.random.Generator, grid: pl.DataFrame, districts: pl.DataFrame, interval_minutes: int
) -> _World:
    from scipy.signal import lfilter

    local = grid["local"]
    hour = (local.dt.hour().cast(pl.Float64) + local.dt.minute() / 60).to_numpy()
    weekday = local.dt.weekday().cast(pl.Int64).to_numpy() - 1
    dates = local.dt.date()
    year_phase = 2 * np.pi * dates.dt.ordinal_day().to_numpy() / 365.25
    count, length = districts.height, grid.height
    group = np.array([GROUPS.index(name) for name in districts["group"]])
    world = _World(
        rng=rng,
        step_hours=interval_minutes / 60,
        hour=hour,
        weekday=weekday,
        day=(dates - dates[0]).dt.total_days().to_numpy(),
        year_phase=year_phase,
        day_off=np.zeros((count, length)),
        group=group,
        base=np.exp(rng.normal(np.array([5.5, 5.2, 5.8])[group], 0.5)),
        sun=np.zeros((count, length)),
        temperature=np.zeros((count, length)),
        temperature_forecast=np.zeros((count, length)),
        heating=np.array([0.016, 0.011, 0.004])[group] * rng.uniform(0.8, 1.2, count),
        cooling=np.array([0.018, 0.028, 0.006])[group] * rng.uniform(0.8, 1.2, count),
    )
    off = {code: dates.is_in(_holidays(code, dates)).to_numpy() for code in sorted(set(districts["holidays"]))}
    holiday = np.stack([off[code] for code in districts["holidays"]])
    weekend = np.where(weekday == 6, 1.0, np.where(weekday == 5, 0.7, 0.0))
    world.day_off = np.maximum(holiday.astype(float), weekend)

    # Height of the sun: https://en.wikipedia.org/wiki/Solar_zenith_angle, with the declination of a circular orbit.
    utc_hour = (grid["ts"].dt.hour().cast(pl.Float64) + grid["ts"].dt.minute() / 60).to_numpy()
    declination = -np.deg2rad(23.44) * np.cos(year_phase + 2 * np.pi * 10 / 365.25)
    latitude = np.deg2rad(districts["latitude"].to_numpy())[:, None]
    angle = 2 * np.pi * (utc_hour + districts["longitude"].to_numpy()[:, None] / 15 - 12) / 24
    height = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(angle)
    clear = 1 / (1 + np.exp(-1.5 * (world.noise(1, 30, 1.2) + world.noise(count, 6, 0.5))))
    world.sun = np.maximum(0.0, height) * (0.15 + 0.85 * clear)

    year = 10 - 9 * np.cos(year_phase - 2 * np.pi * 20 / 365.25)
    weather = world.noise(1, 120, 3.0) + world.noise(count, 60, 1.2)
    warmed = lfilter([0.25 * world.step_hours], [1.0, -(1 - 0.25 * world.step_hours)], world.sun, axis=1)
    world.temperature = year + weather + 14 * (warmed - 0.2)
    world.temperature_forecast = world.temperature + world.noise(count, 24, 0.9)
    return world


def _holidays(code: str, dates: pl.Series) -> list[date]:
    import holidays

    country, _, subdivision = code.partition("-")
    years = range(dates[0].year, dates[-1].year + 1)
    return sorted(holidays.country_holidays(country, subdiv=subdivision or None, years=years))


def _load(world: _World) -> Array:
    """(S, T) the load of the world as it was before any change, MW."""
    work = np.stack(
        [
            0.80 + 0.18 * world.bump(7.5, 1.3) + 0.40 * world.bump(19.5, 2.6) - 0.20 * world.bump(3.5, 2.5),
            0.62 + 0.62 * world.plateau(8, 18.5),
            0.88 + 0.22 * world.plateau(6, 21),
        ]
    )
    rest = np.stack(
        [
            0.84 + 0.22 * world.bump(11.0, 2.5) + 0.34 * world.bump(19.5, 2.6) - 0.18 * world.bump(4.5, 2.5),
            0.60 + 0.16 * world.plateau(10, 17),
            0.78 + 0.06 * world.plateau(7, 20),
        ]
    )
    own = 1 + sum(
        world.rng.normal(0, 0.03, (len(world.base), 1)) * wave(2 * np.pi * k * world.hour / 24)
        for k in (1, 2)
        for wave in (np.sin, np.cos)
    )
    shape = work[world.group] * (1 - world.day_off) + rest[world.group] * world.day_off
    world.shape = shape * own * (1 + world.per_group(0.07, 0.03, 0.01) * np.cos(world.year_phase))
    noise = world.noise(len(world.base), 18, 0.012) + world.noise(len(world.base), 1, 0.006)
    return world.base[:, None] * (world.shape + _weather_response(world, world.temperature)) * np.exp(noise)


def _weather_response(world: _World, temperature: Array) -> Array:
    """(S, T) share of the base; buildings follow the temperature with half a day's delay."""
    from scipy.signal import lfilter

    keep = float(np.exp(-world.step_hours / 12))
    felt, _ = lfilter([1 - keep], [1.0, -keep], temperature, axis=1, zi=keep * temperature[:, :1])
    cooling = world.cooling[:, None] * np.maximum(0.0, felt - 21) * (0.4 + 0.9 * world.plateau(9, 21))
    return np.asarray(world.heating[:, None] * np.maximum(0.0, 15 - felt) + cooling)


def _weight(world: _World, first_day: int, change: Change) -> Array:
    """(T,) how much of a change is in force."""
    grows = CHANGES[change.kind][1]
    days = world.day - first_day + 1.0
    return change.size * np.clip(days / max(grows, 1), 0.0, 1.0)


def _published_forecast(world: _World, load: Array, weights: list[tuple[Change, Array]]) -> Array:
    """(S, T) the operator's day-ahead forecast, MW.

    It knows calendar and weather forecast, and follows the level of the day before; it does not know of the changes of
    the world, and it has habits, which can be learnt: errors by time of day, by weekday and by temperature. Where
    `operator_model` is in force, other habits take their place.
    """
    count = len(world.base)
    expected = world.shape + _weather_response(world, world.temperature_forecast)
    error = _habits(world, 1.0)
    for change, weight in weights:
        if change.kind == "operator_model":
            error = np.where(weight > 0, _habits(world, 1.5 * change.size), error)
    error = error + world.noise(count, 48, 0.020) + world.noise(count, 4, 0.008)
    first = world.base[:, None] * expected * np.exp(error)

    # The level of the day before, half of it; sums over local days, for their lengths differ.
    days = int(world.day[-1]) + 1
    starts = np.searchsorted(world.day, np.arange(days))
    ratio = np.add.reduceat(load, starts, axis=1) / np.add.reduceat(first, starts, axis=1)
    level = np.ones((count, days))
    level[:, 1:] = np.sqrt(ratio[:, :-1])
    return np.asarray(first * level[:, world.day])


def _habits(world: _World, size: float) -> Array:
    """(S, T) systematic relative errors of a forecaster."""
    rng, count = world.rng, len(world.base)
    by_hour = sum(
        rng.normal(0, 0.018 / k**0.5, (count, 1)) * wave(2 * np.pi * k * world.hour / 24)
        for k in (1, 2, 3)
        for wave in (np.sin, np.cos)
    )
    by_weekday = rng.normal(0, 0.016, (count, 7))[:, world.weekday]
    sign = rng.choice([-1.0, 1.0], (count, 1))
    by_temperature = sign * rng.uniform(0.025, 0.045, (count, 1)) * (world.temperature_forecast - 10) / 10
    return np.asarray(size * (by_hour + by_weekday + by_temperature))


def _truth(
    grid: pl.DataFrame,
    districts: pl.DataFrame,
    world: _World,
    load: Array,
    forecast: Array,
    weights: list[tuple[Change, Array]],
) -> pl.DataFrame:
    count, length = load.shape
    names = [pl.when(pl.Series(weight > 0)).then(pl.lit(change.kind)) for change, weight in weights]
    in_force = pl.concat_str(*names, separator=",", ignore_nulls=True) if names else pl.lit("")
    local = pl.col("local")
    clock = local.dt.replace_time_zone(None)
    times = grid.select(
        "ts",
        clock.alias("local"),
        # An hour that the clock shows twice, in either pass.
        (
            clock.dt.replace_time_zone(ZONE, ambiguous="earliest")
            != clock.dt.replace_time_zone(ZONE, ambiguous="latest")
        ).alias("repeated"),
        pl.when(in_force != "").then(in_force).cast(pl.String).alias("changes"),
    )
    columns: dict[str, Any] = {
        "value": load,
        "published_forecast": forecast,
        "temperature_forecast": world.temperature_forecast,
        "temperature": world.temperature,
    }
    frame = pl.concat([times] * count)
    return frame.with_columns(
        pl.Series("series_id", np.repeat(districts["district"].to_list(), length)),
        *(pl.Series(name, array.ravel()).round(2) for name, array in columns.items()),
    )


def _dirty(
    rng: np.random.Generator, truth: pl.DataFrame, interval_minutes: int, clean: bool
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The truth with `dirt`, `reported` and `known_at`, and the rows of the files."""
    count = truth.height
    order = np.arange(count)
    dirt = np.full(count, "", dtype="<U9")
    value = truth["value"].to_numpy()
    reported = value.copy()
    # Which pass of a repeated hour a row is told by is its place beside the other pass: both must arrive, once each
    # and together. A run must not pass from one series into the next.
    fixed = truth["repeated"].to_numpy()
    series = truth["series_id"].rle_id().to_numpy()
    hours = 60 // interval_minutes

    def runs(name: str, rate: float, shortest: int, longest: int) -> NDArray[np.int64]:
        """Positions of new runs of a dirt, one array; `rate` is a run's chance at each row."""
        starts = order[rng.random(count) < rate / hours]
        lengths = rng.integers(shortest, longest + 1, len(starts)) * (hours if longest > 1 else 1)
        taken = []
        for begin, length in zip(starts, lengths, strict=True):
            run = order[begin : begin + length]
            run = run[(series[run] == series[begin]) & (dirt[run] == "") & ~fixed[run]]
            dirt[run] = name
            taken.append(run)
        return np.concatenate(taken) if taken else order[:0]

    late = revised = duplicate = order[:0]
    if not clean:
        gap = runs("gap", 0.0001, 1, 12)
        reported[gap] = np.nan
        reported[runs("empty", 0.0003, 1, 12)] = np.nan
        unit = runs("unit", 0.00005, 3, 24)
        reported[unit] *= 1000  # kW where MW were meant
        stuck = runs("stuck", 0.0001, 8, 36)
        if len(stuck):
            # A run holds its first value.
            begins = np.concatenate([[True], np.diff(stuck) != 1])
            reported[stuck] = value[stuck[begins]][np.cumsum(begins) - 1]
        reported[runs("zero", 0.0005, 1, 3)] = 0.0
        spike = runs("spike", 0.0005, 1, 1)
        reported[spike] *= rng.uniform(3, 8, len(spike))
        late = runs("late", 0.004, 1, 1)
        revised = runs("revised", 0.003, 1, 1)
        duplicate = runs("duplicate", 0.003, 1, 1)

    delay = np.zeros(count, dtype=np.int64)  # hours
    delay[late] = rng.integers(6, 73, len(late))
    delay[revised] = rng.integers(12, 73, len(revised))
    arrived = pl.col("ts") + timedelta(minutes=interval_minutes)
    truth = truth.with_columns(
        pl.Series("dirt", dirt).replace("", None),
        pl.Series("reported", reported).fill_nan(None).round(2),
        known_at=pl.when(~pl.Series(dirt == "gap")).then(arrived + pl.lit(pl.Series(delay)) * timedelta(hours=1)),
    )
    # Each row as it stands in the end; a revised one was sent before with a wrong value, a duplicate is sent again.
    wrong = truth["reported"].gather(revised) * pl.Series(rng.choice([-1, 1], len(revised)) * 0.2 + 1.0)
    first = truth[revised].with_columns(wrong.round(2).alias("reported"), known_at=arrived)
    landed = pl.concat([truth.filter(pl.col("known_at").is_not_null()), first, truth[duplicate]])
    return truth, landed.sort("ts", "series_id", "known_at", maintain_order=True)


def _write(
    folder: Path,
    truth: pl.DataFrame,
    landed: pl.DataFrame,
    districts: pl.DataFrame,
    start: date,
    interval_minutes: int,
    customers_since: date | None,
) -> SimulatedWorld:
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("demand_*.csv.gz"):
        earlier.unlink()
    rows = landed.select(
        month=pl.col("known_at").dt.convert_time_zone(ZONE).dt.strftime("%Y-%m"),
        district="series_id",
        local_time=pl.col("local").dt.strftime("%Y-%m-%d %H:%M"),
        demand_mw="reported",
        published_at=pl.col("known_at").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        forecast_mw="published_forecast",
        temperature_forecast_c="temperature_forecast",
        temperature_c="temperature",
    )
    files = []
    for (month,), part in sorted(rows.partition_by("month", as_dict=True, include_key=False).items()):
        path = folder / f"demand_{month}.csv.gz"
        text = io.BytesIO()
        part.write_csv(text)
        path.write_bytes(gzip.compress(text.getvalue(), compresslevel=1, mtime=0))
        files.append(path)
    districts.write_csv(folder / "series.csv")
    interval = "1h" if interval_minutes == 60 else f"{interval_minutes}m"
    declaration = SIMULATED.read_text(encoding="utf-8")
    declaration = declaration.replace("\ninterval: 1h\n", f"\ninterval: {interval}\n")
    declaration = declaration.replace("\nstart: 2024-01-01\n", f"\nstart: {start.isoformat()}\n")
    if customers_since is None:
        declaration = declaration.partition("\ncustomers:\n")[0] + "\n"
    else:
        declaration = declaration.replace("\n  start: 2022-10-01\n", f"\n  start: {customers_since.isoformat()}\n")
    (folder / "source.yaml").write_text(declaration, encoding="utf-8")
    truth.select(
        "series_id", "ts", "value", "reported", "published_forecast", "dirt", "known_at", "changes"
    ).write_parquet(folder / "truth.parquet")
    return SimulatedWorld(folder, folder / "source.yaml", folder / "truth.parquet", files, rows.height)
