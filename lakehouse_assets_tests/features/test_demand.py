from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.features import demand as features
from lakehouse_assets.sources.declaration import PUBLISHED_FORECAST
from lakehouse_assets_tests.demand import (
    HOUR,
    PUBLISHED,
    START,
    declare,
    landed,
    load_curve,
    months,
    refine,
    source,
    texts,
)

BERLIN = {
    "columns": {"series_id": "area", "ts": "time", "value": "mw", "published_at": "published"},
    "covariates": {
        **PUBLISHED,
        "wind_forecast": {"column": "wind", "known": "before"},
        "temperature": {"column": "temp", "known": "after"},
    },
    "time_zone": "Europe/Berlin",
    "publication_delay": "3h",
    "horizon": "48h",
    "start": "2021-02-01",
    "series": {"file": "series.csv", "columns": {"latitude": "latitude", "longitude": "longitude"}},
}
SERIES = pl.DataFrame(
    {
        "series_id": ["a", "b"],
        "group": ["one", "one"],
        "time_zone": ["Europe/Berlin"] * 2,
        "holidays": [None, None],
        "latitude": [52.5, 48.1],
        "longitude": [13.4, 11.6],
    },
    schema_overrides={"holidays": pl.String},
)
DAYS = 75  # from February into April: a change of the clock lies in between
FIRST = datetime(2021, 2, 1, tzinfo=UTC)


def value_of(hours: dict, name: str, at: datetime, column: str) -> float | None:
    return hours.get((name, at), {}).get(column)


def _rows(seed: int = 0) -> pl.DataFrame:
    """Two series with published forecasts and weather, some rows late, some revised, some bad."""
    rng = np.random.default_rng(seed)
    frames = []
    for name, level in (("a", 1000.0), ("b", 50.0)):
        values = load_curve(DAYS * 24, seed, level)
        start = FIRST if name == "a" else FIRST + timedelta(days=3, hours=5)
        values = values[(start - FIRST) // HOUR :]
        n = len(values)
        spoiled: list[float | None] = list(values)
        for i in rng.choice(np.arange(400, n), 40, replace=False):
            spoiled[i] = rng.choice([0.0, values[i] * 10, -5.0])
        spoiled[900:930] = [None] * 30
        due = [start + (i + 4) * HOUR for i in range(n)]
        late = (rng.random(n) < 0.03).astype(int).tolist()
        published = [(due[i] + timedelta(hours=30 * late[i])).isoformat() for i in range(n)]
        known = {"published_forecast": (values * 1.03).round(1), "wind_forecast": rng.normal(10, 3, n).round(2)}
        known["temperature"] = rng.normal(10, 5, n).round(2)
        rows = texts(name, start, spoiled, published_at=published, **known)
        again = np.flatnonzero(rng.random(n) < 0.02)
        revised = rows[again].with_columns(
            value=pl.Series([str(values[i] * 1.2) for i in again]),
            published_at=pl.Series([(due[i] + timedelta(hours=50)).isoformat() for i in again]),
        )
        frames += [rows, revised]
    return pl.concat(frames)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict:
    declaration = declare(tmp_path_factory.mktemp("berlin"), **BERLIN)
    rows = landed(declaration, _rows())
    return {"declaration": declaration, "rows": rows, **refine(declaration, rows, series=SERIES)}


def test_one_row_for_each_issue_time_series_and_hour(made: dict) -> None:
    table = made["features"]
    assert features.contract(made["declaration"]).is_valid(table)
    by_issue = table.group_by("issued_at", "series_id").agg(pl.col("horizon").sort(), pl.col("ts").min())
    assert all(list(row) == list(range(48)) for row in by_issue["horizon"])
    # midnight in Berlin: at 23:00 UTC in winter, at 22:00 in summer; and hours are forecast under two issue times
    assert set(table["issued_at"].dt.hour()) == {23, 22}
    assert (by_issue["ts"] == by_issue["issued_at"]).all()
    inner = table.filter(pl.col("series_id") == "a").group_by("ts").len().sort("ts")["len"][48:-48]
    assert sorted(inner.value_counts()["len"]) == [2, 3]
    assert (inner == 3).sum() == 2  # the day of 23 hours is the first or the second of a horizon
    # the first issue time is the first midnight after the first good hour, the last one not after what is known;
    # rows are learned from after 28 days
    for name, start in (("a", FIRST), ("b", FIRST + timedelta(days=3, hours=5))):
        mine = table.filter(pl.col("series_id") == name)
        assert timedelta(0) < mine["issued_at"].min() - start < timedelta(days=1, hours=4)
        assert timedelta(days=28) <= mine.drop_nulls("known_at")["issued_at"].min() - start < timedelta(days=29)
        assert mine["mean_168h"].null_count() == 0
    edge = FIRST + timedelta(days=DAYS, hours=3)
    assert timedelta(0) <= edge - table["issued_at"].max() < timedelta(days=1)


def test_every_feature_is_what_a_loop_over_known_hours_finds(made: dict) -> None:
    """An oracle that knows nothing of panels: dictionaries of hours, the delay, and the local clock."""
    gold = made["gold"]
    table = made["features"].filter(pl.col("issued_at") > FIRST + timedelta(days=32)).sample(60, seed=1)
    hours = {(r["series_id"], r["ts"]): r for r in gold.iter_rows(named=True)}
    for row in table.iter_rows(named=True):
        name, issued, ts = row["series_id"], row["issued_at"], row["ts"]
        last = issued - 4 * HOUR  # an hour is known an hour and three hours' delay after its start

        def value(at: datetime, column: str = "known_value") -> float | None:
            found = hours.get((name, at))  # noqa: B023
            return None if found is None else found[column]

        def known(at: datetime) -> float | None:
            return value(at) if at <= last else None  # noqa: B023

        def error(at: datetime) -> float | None:
            v, f = known(at), value(at, "published_forecast")
            return None if v is None or f is None else v - f

        def temperature(at: datetime) -> float | None:
            return value(at, "temperature") if at <= last else None  # noqa: B023

        window = [v for k in range(672) if (v := known(last - k * HOUR)) is not None]
        day, week = window[:24], window[:168]
        expected = {f"lag_{k}h": known(ts - k * HOUR) for k in range(24, 337, 24)}
        expected |= {f"last_{k}h": known(last - (k - 1) * HOUR) for k in (1, 2, 3, 6)}
        expected |= {"mean_24h": np.mean(day), "mean_168h": np.mean(week), "mean_672h": np.mean(window)}
        expected |= {"std_168h": np.std(week, ddof=1), "min_24h": min(day), "max_24h": max(day)}
        expected |= {f"forecast_lag_{k}h": value(ts - k * HOUR, "published_forecast") for k in (24, 168)}
        expected |= {f"error_lag_{k}h": error(ts - k * HOUR) for k in (24, 48, 168)}
        expected |= {f"error_last_{k}h": error(last - (k - 1) * HOUR) for k in (1, 2, 3)}
        expected["error_mean_24h"] = np.mean([error(last - k * HOUR) for k in range(24)])
        expected |= {c: value(ts, c) for c in ("published_forecast", "wind_forecast")}
        expected["wind_forecast_lag_24h"] = value(ts - 24 * HOUR, "wind_forecast")
        expected |= {f"temperature_lag_{k}h": temperature(ts - k * HOUR) for k in (24, 48)}
        measured = [t for k in range(24) if (t := temperature(last - k * HOUR)) is not None]
        expected["temperature_mean_24h"] = np.mean(measured)
        local = pl.Series([ts]).dt.convert_time_zone("Europe/Berlin")
        expected |= {"hour": local.dt.hour()[0], "day_of_week": local.dt.weekday()[0]}
        angle = 2 * np.pi * (local.dt.ordinal_day()[0] - 1) / 365.25
        expected |= {"season_sin": np.sin(angle), "season_cos": np.cos(angle)}
        # The other series is all that lies around, wherever the place is; relative to its own last week.
        other = "b" if name == "a" else "a"
        passed = [last - k * HOUR for k in range(168)]
        recent = [hours.get((other, at), {}).get("known_value") for at in passed]
        size = np.mean([v for v in recent if v is not None]) if any(recent) else np.nan
        forecast = value_of(hours, other, ts, "published_forecast")
        expected_around = {
            "last_day": next(
                v for at, v in zip(passed, recent, strict=True) if (ts - at) % timedelta(days=1) == timedelta(0)
            ),
            PUBLISHED_FORECAST: forecast,
        }
        for column, v in expected_around.items():
            ratio = np.nan if v is None else v / size - 1
            there = abs(ratio) <= 1
            expected |= {f"{place}_{column}": ratio if there else None for place in features.PLACES}
        target = hours.get((name, ts))
        reported = target is not None and not target["pending"] and target["imputed"] is None
        expected["value"] = target["value"] if reported else None
        for column, wanted in expected.items():
            if wanted is None:
                assert row[column] is None, column
            else:
                assert row[column] == pytest.approx(wanted, rel=1e-5, abs=2e-3), column


@settings(max_examples=25, deadline=None)
@given(hour=st.integers(29 * 24, DAYS * 24), how=st.sampled_from(["times a thousand", "gone", "text"]))
def test_what_was_not_known_changes_nothing(made: dict, hour: int, how: str) -> None:
    """Corrupt all that was not known at a moment: features of issue times up to it stay the same, bit for bit."""
    moment = FIRST + hour * HOUR
    declaration = made["declaration"]
    rows = made["rows"]
    unknown = pl.col("known_at") > moment
    # what is published ahead is known for the horizon
    beyond = pl.col("ts_utc") >= moment + timedelta(hours=48)
    revision = unknown & (pl.col("known_at") - pl.col("ts_utc") > timedelta(hours=45))
    replace = {
        "times a thousand": (pl.col("value").cast(pl.Float64) * 1000).cast(pl.String),
        "gone": pl.lit(None, dtype=pl.String),
        "text": pl.lit("#REF!"),
    }[how]
    corrupted = rows.with_columns(
        pl.when(unknown).then(replace).otherwise("value").alias("value"),
        pl.when(unknown).then(pl.lit("-99")).otherwise("temperature").alias("temperature"),
        *(
            pl.when(beyond | revision).then(pl.lit("12345")).otherwise(name).alias(name)
            for name in ("published_forecast", "wind_forecast")
        ),
    )
    assert hour == DAYS * 24 or not corrupted.equals(rows)
    # What was published ahead lies there already, as pending rows, and stays when the whole row turns out to be broken.
    ahead = rows.filter(unknown, ~beyond, ~revision).with_columns(
        pending=pl.lit(True), value=pl.lit(None, dtype=pl.String), temperature=pl.lit(None, dtype=pl.String)
    )
    corrupted = pl.concat([ahead, corrupted])
    columns = pl.exclude("value", "known_at")  # the target may change; it is no feature
    past = pl.col("issued_at") <= moment
    expected = made["features"].filter(past).select(columns)
    assert expected.height
    found = refine(declaration, corrupted, declaration.issue_times(FIRST, moment), SERIES)["features"]
    assert found.select(columns).equals(expected)


def test_blocks_of_series_and_batches_of_months_change_no_row(made: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BLOCK", 1)
    monkeypatch.setattr(features, "PANEL_CELLS", 1)
    keys = ["issued_at", "series_id", "ts"]
    gold, whole = made["gold"], made["features"].sort(keys)
    first_hours = gold.group_by("series_id").agg(first_hour=pl.col("ts").min())
    times = sorted(whole["issued_at"].unique())
    frames = list(features.transform(gold.lazy(), made["declaration"], SERIES, first_hours, times))
    assert len(frames) == 2 * whole["month"].n_unique()
    assert pl.concat(frames).sort(keys).equals(whole)


def test_places_are_where_they_are_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five series, one in the middle; each of the others was higher by a share of its own in the last three hours."""
    declaration = declare(tmp_path, series={"file": "s.csv", "columns": {"latitude": "x", "longitude": "y"}})
    around = {"east": (40.0, -91.7), "north": (46.3, -100.0), "south": (33.7, -100.0), "west": (40.0, -108.3)}
    places = {"middle": (40.0, -100.0), **around}
    share = {"middle": 0.0, "east": 0.1, "north": 0.2, "south": 0.3, "west": 0.4}
    curves = {name: np.full(40 * 24, 100.0) for name in places}
    for name, curve in curves.items():
        curve[-3:] *= 1 + share[name]
    rows = pl.concat([texts(name, START, curve.tolist()) for name, curve in curves.items()])
    table = pl.DataFrame(
        {
            "series_id": list(places),
            "group": ["g"] * 5,
            "time_zone": ["UTC"] * 5,
            "holidays": pl.Series([None] * 5, dtype=pl.String),
            "latitude": [at[0] for at in places.values()],
            "longitude": [at[1] for at in places.values()],
        }
    )
    at = [START + timedelta(days=40)]
    whole = refine(declaration, landed(declaration, rows), at, table)["features"]
    found = whole.filter(series_id="middle", horizon=0)
    for place in around:
        assert found[f"{place}_change_3h"].item() == pytest.approx(share[place], abs=0.02), place
    assert found["near_change_3h"].item() == pytest.approx(0.25, abs=0.02)
    # Nobody lies east of the easternmost: the nearest to the point there speaks, and never the series itself.
    edge = whole.filter(series_id="east", horizon=0)
    assert edge["east_change_3h"].item() < 0.25
    # The same where the series around are not in memory together.
    monkeypatch.setattr(features, "BLOCK", 2)
    monkeypatch.setattr(features, "PANEL_CELLS", 2)
    again = refine(declaration, landed(declaration, rows), at, table)["features"]
    keys = ["issued_at", "series_id", "ts"]
    assert again.sort(keys).equals(whole.sort(keys))


def test_holidays_and_groups_come_from_the_table_of_the_series(tmp_path: Path) -> None:
    declaration = declare(tmp_path, start="2021-12-01")
    first = datetime(2021, 12, 1, tzinfo=UTC)
    gold = refine(declaration, landed(declaration, texts("a", first, load_curve(24 * 40))))["gold"]
    about = {"series_id": "a", "group": "east", "time_zone": "Australia/Sydney", "holidays": "AU-NSW"}
    first_hours = gold.head(1).select("series_id", first_hour=pl.col("ts") - timedelta(days=28))
    times = declaration.issue_times(datetime(2021, 12, 24, tzinfo=UTC), datetime(2021, 12, 29, tzinfo=UTC))
    (frame,) = features.transform(gold.lazy(), declaration, pl.DataFrame([about]), first_hours, times)
    local = frame.with_columns(day=pl.col("ts").dt.convert_time_zone("Australia/Sydney").dt.date())
    days = local.group_by("day").agg(pl.col("^is_.*$").unique()).sort("day")
    holidays = {date(2021, 12, d) for d in (25, 26, 27, 28)}  # the two after are in lieu of the weekend
    for row in days.iter_rows(named=True):
        one = timedelta(days=1)
        assert row["is_holiday"] == [float(row["day"] in holidays)]
        assert row["is_day_before_holiday"] == [float(row["day"] + one in holidays)]
        assert row["is_day_after_holiday"] == [float(row["day"] - one in holidays)]
    year_end = set(local.filter(is_year_end=1)["day"])
    assert year_end == {d for d in days["day"] if d >= date(2021, 12, 20) and d.weekday() < 5 and d not in holidays}
    assert {date(2021, 12, 24), date(2021, 12, 29)} <= year_end
    assert frame["series_group"].unique().to_list() == ["east"]
    assert frame.filter(pl.col("horizon") == 0)["hour"].unique().to_list() == [11.0]  # midnight UTC in summer


def test_a_range_of_months_is_the_same_as_month_by_month(tmp_path: Path) -> None:
    """Through Dagster and Delta: silver, gold and features of five months, in one pass and one after the other."""
    tables = ("silver/demand", "silver/demand_quarantine", "gold/demand_hourly", "gold/demand_daily", "features/demand")
    rooms = ("silver", "demand_hourly", "demand_daily", "features")
    rng = np.random.default_rng(5)
    start = START + timedelta(days=20)
    values: list[float | str | None] = list(load_curve(24 * 100))
    for i in rng.choice(2400, 150, replace=False):
        values[i] = rng.choice(["0", "1e7", "", "garbage"])
    rows = texts("a", start, values, plan=load_curve(24 * 100, 9))
    rows = rows.rename({"series_id": "area", "ts": "time", "value": "mw"})
    kept = {}
    for how in ("at_once", "by_month"):
        with source(tmp_path / how, covariates=PUBLISHED, horizon="36h", time_zone="America/New_York") as plant:
            plant.write("rows.csv", rows)
            assert plant.run("bronze").success
            if how == "at_once":
                assert plant.run(*rooms, months=months(0, 4)).success
            else:
                for room in rooms:
                    for month in range(5):
                        assert plant.run(room, months=months(month, month)).success
            kept[how] = {name: plant.rows(name).drop("batch_id", "ingested_at", strict=False) for name in tables}
    for name in tables:
        keys = [key for key in ("series_id", "ts", "date", "issued_at") if key in kept["at_once"][name].columns]
        a, b = (kept[how][name].sort(keys) for how in kept)
        assert a.height, name
        assert a.equals(b), name
    assert kept["at_once"]["silver/demand_quarantine"].height > 20
    assert kept["at_once"]["gold/demand_hourly"]["imputed"].null_count() < 2400


def test_short_series_are_issued_often_and_early(tmp_path: Path) -> None:
    rows = pl.concat([texts("a", START, load_curve(20 * 24)), texts("b", START, load_curve(15 * 24, 1))])
    daily = declare(tmp_path, horizon="48h", warm_up="14d")
    often = declare(tmp_path, horizon="48h", warm_up="14d", issue_every="6h")
    by_day, by_hours = (refine(d, landed(d, rows))["features"] for d in (daily, often))
    issued = by_hours.select("series_id", "issued_at").unique()
    learned = by_hours.drop_nulls("known_at").group_by("series_id").agg(pl.col("issued_at").min())
    assert set(learned["issued_at"]) == {START + timedelta(days=14)}
    assert set(issued["issued_at"].dt.hour()) == {0, 6, 12, 18}
    # What is forecast at midnight does not depend on what is forecast at other times.
    assert by_hours.filter(pl.col("issued_at").dt.hour() == 0).equals(by_day)
    # The second day of a horizon has no same hour of the day before it, unless that was known at the issue time.
    second = by_hours.filter(pl.col("horizon") == 30, pl.col("issued_at") >= START + timedelta(days=14))
    assert second["lag_24h"].null_count() == second.height
    assert second.filter(pl.col("series_id") == "a")["lag_48h"].null_count() == 0
    assert by_hours["mean_672h"].null_count() == 0  # of a new series what is there is enough


def test_a_series_is_forecast_from_its_first_day_until_it_is_silent_for_four_weeks(tmp_path: Path) -> None:
    day = timedelta(days=1)
    curve = load_curve(100 * 24, 1)
    parts = [texts("a", START, load_curve(100 * 24))]
    spans = ((10, 13), (60, 62))  # days in which b reports
    parts += [texts("b", START + k * day, curve[k * 24 : end * 24]) for k, end in spans]
    declaration = declare(tmp_path)
    table = refine(declaration, landed(declaration, pl.concat(parts)))["features"]
    mine = table.filter(pl.col("series_id") == "b")
    days = sorted((at - START) // day for at in mine["issued_at"].unique())
    assert days == [*range(11, 41), *range(61, 90)]
    first = mine.filter(pl.col("issued_at") == START + 11 * day)
    assert first["mean_24h"][0] == first["mean_168h"][0] == pytest.approx(np.mean(curve[240:264]), rel=1e-3)
    assert mine.filter(pl.col("issued_at") < START + 38 * day)["known_at"].null_count() == 27 * 24
    assert table.filter(pl.col("series_id") == "a")["issued_at"].n_unique() == 100
