from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from lakehouse_assets.sources.declaration import load_declaration
from lakehouse_assets.sources.landing import land
from lakehouse_assets.sources.series import series_table
from lakehouse_assets.sources.simulator import CHANGES, Change, SimulatedWorld, simulate

START, CHANGE, END = date(2024, 1, 1), date(2024, 8, 1), date(2024, 11, 15)
NOW = datetime(2025, 1, 1, tzinfo=UTC)


def _landed(world: SimulatedWorld) -> pl.DataFrame:
    frame = land(load_declaration(world.declaration), Path("/nowhere"), None, None, NOW, world.folder / "aside").frame
    assert frame is not None
    return frame.with_columns(pl.col("value", "published_forecast", "temperature").cast(pl.Float64))


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> SimulatedWorld:
    return simulate(tmp_path_factory.mktemp("dirty"), start=START, end=END, series=6, seed=3)


def _truth(folder: Path, *changes: Change, seed: int = 3, end: date = END) -> pl.DataFrame:
    world = simulate(folder, start=START, end=end, series=6, seed=seed, scenarios=changes, clean=True)
    return pl.read_parquet(world.truth).with_columns(
        local=pl.col("ts").dt.convert_time_zone("Europe/Berlin"),
        error=(pl.col("published_forecast") - pl.col("value")) / pl.col("value"),
    )


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return _truth(tmp_path_factory.mktemp("calm"))


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    def content(folder: str, seed: int) -> dict[str, bytes]:
        world = simulate(tmp_path / folder, start=START, end=date(2024, 2, 10), series=2, seed=seed)
        return {path.name: path.read_bytes() for path in sorted(world.folder.iterdir())}

    first = content("a", 1)
    assert list(first) == [
        *("demand_2024-01.csv.gz", "demand_2024-02.csv.gz"),
        *("series.csv", "source.yaml", "truth.parquet"),
    ]
    assert content("b", 1) == first
    assert content("c", 2)["truth.parquet"] != first["truth.parquet"]
    # A shorter world in the same folder leaves nothing of the longer one.
    simulate(tmp_path / "a", start=START, end=date(2024, 1, 10), series=2, seed=1)
    assert [path.name for path in (tmp_path / "a").glob("*.gz")] == ["demand_2024-01.csv.gz"]


def test_the_files_tell_what_the_truth_says(dirty: SimulatedWorld) -> None:
    landed, truth = _landed(dirty), pl.read_parquet(dirty.truth)
    assert landed.height == dirty.rows
    # The newest row of each hour is what is reported in the end, at the time that the truth gives.
    final = landed.sort("known_at").drop("ts").rename({"ts_utc": "ts"}).unique(["series_id", "ts"], keep="last")
    both = truth.join(final, on=["series_id", "ts"], how="full", suffix="_landed", coalesce=True)
    gap = (both["dirt"] == "gap").fill_null(False)
    assert both.height == truth.height
    assert both.filter(gap)["file"].null_count() == gap.sum() > 0
    told = both.filter(~gap)
    assert told["reported"].eq_missing(told["value_landed"]).all()
    assert told["known_at"].eq(told["known_at_landed"]).all()
    assert told["published_forecast"].eq(told["published_forecast_landed"]).all()


def test_every_kind_of_dirt_is_there_and_is_what_it_is_called(dirty: SimulatedWorld) -> None:
    truth = pl.read_parquet(dirty.truth)
    landed = _landed(dirty).join(truth.select("series_id", "dirt", ts_utc="ts"), on=["series_id", "ts_utc"])
    of = {str(kind): part for (kind,), part in truth.partition_by("dirt", as_dict=True).items()}
    assert set(of) == {"None", "gap", "empty", "duplicate", "late", "revised", "zero", "spike", "unit", "stuck"}
    assert of["None"]["reported"].equals(of["None"]["value"].alias("reported"))
    assert (of["zero"]["reported"] == 0).all()
    assert (of["spike"]["reported"] > 2.9 * of["spike"]["value"]).all()
    assert ((of["unit"]["reported"] / of["unit"]["value"] - 1000).abs() < 0.01).all()
    assert of["empty"]["reported"].null_count() == of["empty"].height
    assert (of["late"]["known_at"] - of["late"]["ts"] >= timedelta(hours=7)).all()
    stuck = of["stuck"].sort("series_id", "ts").group_by("series_id", pl.col("reported").rle_id()).len()
    assert stuck["len"].max() >= 8  # type: ignore[operator]

    copies = landed.group_by("series_id", "ts_utc", "dirt").agg(
        pl.len(), pl.col("value").n_unique().alias("values"), pl.col("known_at").n_unique().alias("times")
    )
    assert set(copies.filter(pl.col("len") > 1)["dirt"]) == {"duplicate", "revised"}
    assert set(copies.filter(dirt="duplicate").select("len", "values", "times").iter_rows()) == {(2, 1, 1)}
    assert set(copies.filter(dirt="revised").select("len", "values", "times").iter_rows()) == {(2, 2, 2)}
    first = landed.filter(dirt="revised").sort("known_at").unique(["series_id", "ts_utc"], keep="first")
    assert (first["known_at"] == first["ts_utc"] + timedelta(hours=1)).all()


def test_the_clock_changes_in_the_files(dirty: SimulatedWorld) -> None:
    one = _landed(dirty).filter(pl.col("series_id") == "D001")
    assert one.filter(pl.col("ts") == "2024-10-27 02:00").height == 2
    assert one.filter(pl.col("ts") == "2024-03-31 02:00").height == 0


def test_a_clean_world(tmp_path: Path) -> None:
    world = simulate(tmp_path, start=START, end=date(2024, 1, 11), series=3, seed=1, interval_minutes=15, clean=True)
    truth, landed = pl.read_parquet(world.truth), _landed(world)
    assert truth["dirt"].null_count() == landed.height == truth.height == 3 * 10 * 96
    declaration = load_declaration(world.declaration)
    assert (declaration.interval, declaration.start) == ("15m", START)
    assert (landed["known_at"] == landed["ts_utc"] + timedelta(minutes=15)).all()
    series = series_table(declaration, tmp_path)
    assert series is not None
    assert set(series["group"]) == {"residential", "commercial", "industrial"}
    assert (truth["value"] > 0).all()


def test_the_operator_is_wrong_in_a_way_that_can_be_learnt(calm: pl.DataFrame) -> None:
    assert 0.025 < calm["error"].abs().mean() < 0.05  # type: ignore[operator]
    # Half a year's mean error by series and hour of day says something about the time after.
    by = ["series_id", pl.col("local").dt.hour().alias("hour")]
    before = calm.filter(pl.col("local").dt.date() < CHANGE).group_by(by).agg(pl.col("error").mean())
    after = calm.filter(pl.col("local").dt.date() >= CHANGE).group_by(by).agg(pl.col("error").mean())
    joined = before.join(after, on=["series_id", "hour"], suffix="_after")
    assert joined.select(pl.corr("error", "error_after")).item() > 0.7


def test_weather_and_calendar_matter(dirty: SimulatedWorld, calm: pl.DataFrame) -> None:
    daily = (
        _landed(dirty)
        .filter(pl.col("ts_utc").dt.month().is_in([1, 2, 3, 4]), pl.col("series_id") == "D001")
        .group_by(pl.col("ts_utc").dt.date())
        .agg(pl.col("temperature").mean(), pl.col("published_forecast").mean())
    )
    assert daily.select(pl.corr("temperature", "published_forecast")).item() < -0.7
    commercial = calm.filter(pl.col("series_id") == "D002", pl.col("local").dt.hour() == 11)
    on = {day: commercial.filter(pl.col("local").dt.date() == day)["value"].item() for day in _days()}
    holiday, sunday, working = on[date(2024, 5, 1)], on[date(2024, 5, 5)], on[date(2024, 5, 8)]
    assert holiday < 0.8 * working
    assert 0.8 < holiday / sunday < 1.25


def _days() -> list[date]:
    return [date(2024, 5, 1), date(2024, 5, 5), date(2024, 5, 8)]


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_begins_at_its_date(tmp_path: Path, calm: pl.DataFrame, kind: str) -> None:
    changed = _truth(tmp_path, Change(kind, CHANGE))
    before = pl.col("local").dt.date() < CHANGE
    assert changed.filter(before)["value"].equals(calm.filter(before)["value"])
    assert (
        changed["changes"]
        .eq_missing(changed.select(pl.when(~before).then(pl.lit(kind))).to_series().alias("changes"))
        .all()
    )
    relative = changed.with_columns(change=changed["value"] / calm["value"] - 1).filter(pl.col("local").dt.month() >= 9)
    by_hour = dict(relative.group_by(pl.col("local").dt.hour()).agg(pl.col("change").mean()).iter_rows())
    working = relative.filter(pl.col("local").dt.weekday() <= 5, pl.col("local").dt.hour() == 11)
    match kind:
        case "rooftop_solar":
            assert by_hour[12] < -0.05
            assert abs(by_hour[0]) < 0.001
        case "electric_vehicles":
            assert by_hour[21] > 0.05
            assert by_hour[13] < 0.03
        case "lockdown":
            assert working.filter(pl.col("series_id") == "D002")["change"].mean() < -0.15  # type: ignore[operator]
        case "tariff":
            assert by_hour[2] > 0.04
            assert by_hour[18] < -0.04
        case "heat_pumps":
            assert relative.filter(pl.col("local").dt.month() == 11)["change"].mean() > 0.03  # type: ignore[operator]
        case "operator_model":
            assert relative["change"].abs().max() == 0


def test_new_habits_of_the_operator_mislead_who_learnt_the_old(tmp_path: Path, calm: pl.DataFrame) -> None:
    changed = _truth(tmp_path, Change("operator_model", CHANGE))
    by = ["series_id", pl.col("local").dt.hour().alias("hour"), pl.col("local").dt.weekday().alias("weekday")]
    learnt = calm.filter(pl.col("local").dt.date() < CHANGE).group_by(by).agg(pl.col("error").mean().alias("learnt"))

    def left(truth: pl.DataFrame) -> float:
        later = truth.filter(pl.col("local").dt.date() >= CHANGE).with_columns(by[1:])  # type: ignore[arg-type]
        error = later.join(learnt, on=["series_id", "hour", "weekday"])
        return float((error["error"] - error["learnt"]).abs().mean())  # type: ignore[arg-type]

    assert left(changed) > 1.4 * left(calm)


@pytest.mark.parametrize(
    "wrong",
    [{"end": START}, {"series": 0}, {"interval_minutes": 25}, {"interval_minutes": 5}, {"interval_minutes": 120}],
)
def test_wrong_arguments(tmp_path: Path, wrong: dict[str, object]) -> None:
    arguments = {"start": START, "end": END, "series": 2, "seed": 1, **wrong}
    with pytest.raises(ValueError, match="must"):
        simulate(tmp_path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'meteor' is no change; there are rooftop_solar"):
        Change("meteor", START)
