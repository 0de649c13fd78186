"""Days against expectation: against a loop over known hours, on the local clock, and blind to what comes later."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.features.usage import EXPECTED, RESIDUALS, FeaturesUsage, transform
from lakehouse_assets.sources.declaration import Declaration
from lakehouse_assets_tests.sources.declaring import declare

HOUR = timedelta(hours=1)
ZONE = ZoneInfo("Europe/Berlin")
FIRST, END = datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 4, 10, tzinfo=UTC)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def declaration(tmp_path_factory: pytest.TempPathFactory) -> Declaration:
    folder: Path = tmp_path_factory.mktemp("berlin")
    return declare(folder, time_zone="Europe/Berlin", publication_delay="2h", unit={"kind": "power", "name": "kW"})


@pytest.fixture(scope="module")
def hours() -> pl.DataFrame:
    """Two series; some hours are late by a day and a half, some are not good."""
    ts = pl.datetime_range(FIRST, END - HOUR, "1h", time_unit="us", time_zone="UTC", eager=True)
    frames = []
    for name, level in (("a", 500.0), ("b", 9000.0)):
        n = len(ts)
        value = level * (1 + 0.3 * np.sin(np.arange(n) * 2 * np.pi / 24) + RNG.normal(0, 0.05, n))
        late = RNG.random(n) < 0.03
        frames.append(
            pl.DataFrame({"series_id": [name] * n, "ts": ts, "value": value, "known_value": value}).with_columns(
                known_at=pl.col("ts") + 3 * HOUR + pl.Series(late).cast(pl.Int64) * pl.duration(hours=36),
                imputed=pl.when(pl.Series(RNG.random(n) < 0.03)).then(pl.lit("week_before")),
                pending=pl.lit(False),
            )
        )
    return pl.concat(frames)


def test_every_day_is_what_a_loop_over_known_hours_finds(declaration: Declaration, hours: pl.DataFrame) -> None:
    made = transform(hours.lazy(), None, declaration, None, FIRST, END)
    FeaturesUsage.validate(made)
    known: dict[tuple[str, datetime], float] = {}
    for row in hours.iter_rows(named=True):
        local = row["ts"].astimezone(ZONE)
        midnight = datetime(local.year, local.month, local.day, tzinfo=ZONE) + timedelta(days=1)
        if row["imputed"] is None and row["known_at"] <= midnight.astimezone(UTC) + 2 * HOUR:
            known[row["series_id"], local.replace(tzinfo=None)] = row["known_value"] / 1000
    assert made.filter(series_id="a")["day"].is_sorted()
    # Two hours after midnight: once that is three o'clock.
    assert set(made["as_of"].dt.convert_time_zone("Europe/Berlin").dt.hour()) == {2, 3}
    for row in made.sample(25, seed=1).iter_rows(named=True):
        day = datetime.combine(row["day"], datetime.min.time())
        back = [known.get((row["series_id"], day - timedelta(hours=h))) for h in range(1, 28 * 24 + 1)]
        level = np.mean([x for x in back if x is not None])
        assert row["level"] == pytest.approx(level, rel=1e-9)
        for hour in range(24):
            at = day + hour * HOUR
            like = [known.get((row["series_id"], at - timedelta(days=7 * k))) for k in range(1, 5)]
            like = [x for x in like if x is not None]
            actual, expected = known.get((row["series_id"], at)), median(like) if len(like) > 1 else None
            assert row[EXPECTED[hour]] == (None if expected is None else pytest.approx(expected / level, rel=1e-5))
            if actual is None or expected is None:
                assert row[RESIDUALS[hour]] is None
            else:
                assert row[RESIDUALS[hour]] == pytest.approx((actual - expected) / level, abs=1e-5)


def test_a_forecast_made_before_the_hour_is_what_was_expected(declaration: Declaration, hours: pl.DataFrame) -> None:
    rows = hours.filter(pl.col("ts") >= END - timedelta(days=8)).select("series_id", "ts", yhat=pl.col("value") * 0.9)
    in_time = rows.with_columns(issued_at=pl.col("ts") - 5 * HOUR)
    earlier = rows.with_columns(issued_at=pl.col("ts") - 30 * HOUR, yhat=pl.lit(1e9))
    after = rows.with_columns(issued_at=pl.col("ts") + HOUR, yhat=pl.lit(-1e9))
    forecasts = pl.concat([after, in_time, earlier], how="diagonal").lazy()
    made = transform(hours.lazy(), forecasts, declaration, None, FIRST, END)
    last = made.filter(pl.col("day") == pl.col("day").max())
    assert (last["forecast_hours"] >= 20).all()
    assert (last["expected_energy"] / last["actual_energy"]).to_list() == pytest.approx([0.9, 0.9], rel=1e-6)
    assert (made.filter(pl.col("day") < pl.lit(END).dt.date() - timedelta(days=9))["forecast_hours"] == 0).all()


def test_what_comes_later_changes_no_day(declaration: Declaration, hours: pl.DataFrame) -> None:
    now = datetime(2024, 3, 31, 12, tzinfo=UTC)  # the day on which the clock changes
    wild = hours.with_columns(
        pl.when(pl.col("known_at") > now)
        .then(-7.0 * pl.col("known_value"))
        .otherwise("known_value")
        .alias("known_value")
    )
    made, changed = (
        transform(rows.lazy(), None, declaration, None, FIRST, END).filter(pl.col("as_of") <= now)
        for rows in (hours, wild)
    )
    assert made.height > 50
    assert made.equals(changed)


def test_a_month_alone_is_as_in_the_whole(declaration: Declaration, hours: pl.DataFrame) -> None:
    march = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)
    whole = transform(hours.lazy(), None, declaration, None, FIRST, END)
    alone = transform(hours.lazy(), None, declaration, None, *march)
    expected = whole.filter(pl.col("as_of").is_between(*march, closed="left"))
    assert (
        alone.drop(["level", *RESIDUALS, *EXPECTED])
        .drop("actual_energy", "expected_energy")
        .equals(expected.drop(["level", *RESIDUALS, *EXPECTED]).drop("actual_energy", "expected_energy"))
    )
    assert np.allclose(alone["level"], expected["level"], rtol=1e-9)
