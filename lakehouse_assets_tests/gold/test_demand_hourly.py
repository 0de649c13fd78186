from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.gold import demand_hourly
from lakehouse_assets_tests.demand import HOUR, PUBLISHED, declare, landed, load_curve, refine, texts

FIRST = datetime(2021, 1, 1, tzinfo=UTC)
START = {"start": "2021-01-01"}


def _gold(declaration, rows: pl.DataFrame, now: datetime | None = None) -> pl.DataFrame:
    return refine(declaration, landed(declaration, rows, now), [])["gold"]


def test_the_grid_has_no_gap_from_the_first_good_hour_to_the_end_of_what_was_landed(tmp_path: Path) -> None:
    declaration = declare(tmp_path, **START)
    a = texts("a", FIRST, [None, 0, *load_curve(24 * 30)]).filter(pl.col("ts").str.slice(0, 10) != "2021-01-20")
    b = texts("b", FIRST + 50 * HOUR, load_curve(24 * 10))  # ends weeks before the other
    gold = _gold(declaration, pl.concat([a, b]))
    assert demand_hourly.contract(declaration).is_valid(gold)
    for name, first in (("a", FIRST + 2 * HOUR), ("b", FIRST + 50 * HOUR)):
        hours = gold.filter(pl.col("series_id") == name)["ts"]
        assert (hours[0], hours[-1]) == (first, FIRST + 24 * 30 * HOUR + HOUR)
        assert (hours.diff().drop_nulls() == HOUR).all()
    assert gold["value"].null_count() == gold["pending"].sum() == 0


def test_a_gap_is_filled_from_the_weeks_before_and_says_so(tmp_path: Path) -> None:
    declaration = declare(tmp_path, **START)
    values: list[float | None] = list(load_curve(24 * 100))
    for gap in (range(24 * 35, 24 * 36), range(24 * 42, 24 * 100)):
        for hour in gap:
            values[hour] = None
    gold = _gold(declaration, texts("a", FIRST, values))
    how, value = gold["imputed"], gold["value"].to_list()

    def day(number: int) -> str | None:
        hours = slice(24 * number, 24 * number + 24)
        (method,) = set(how[hours])
        lags = {
            "week_before": 7, "two_weeks_before": 14, "three_weeks_before": 21, "four_weeks_before": 28
        }  # fmt: skip
        if method in lags:
            assert value[hours] == values[24 * (number - lags[method]) : 24 * (number - lags[method]) + 24]
        return method

    assert [day(n) for n in (34, 35, 41, 42, 48, 49, 55, 56, 63, 69, 70, 97, 98)] == [
        None, "week_before", None, "two_weeks_before", "week_before",
        "three_weeks_before", "two_weeks_before", "four_weeks_before", "last_same_hour", "four_weeks_before",
        "last_same_hour", "last_same_hour", "unknown",
    ]  # fmt: skip
    assert value[24 * 70 : 24 * 71] == values[24 * 41 : 24 * 42]  # the last day that was known
    assert value[24 * 98 :] == [None] * 48
    assert gold["known_value"].to_list() == value


def test_a_late_value_counts_but_features_see_what_stood_in_for_it(tmp_path: Path) -> None:
    columns = {"series_id": "area", "ts": "time", "value": "mw", "published_at": "published"}
    declaration = declare(tmp_path, columns=columns, publication_delay="2h", **START)
    curve = load_curve(24 * 30)
    published = [(FIRST + (i + 3) * HOUR).isoformat() for i in range(len(curve))]
    published[500] = (FIRST + 600 * HOUR).isoformat()
    gold = _gold(declaration, texts("a", FIRST, curve, published_at=published))
    late = gold.row(500, named=True)
    assert (late["value"], late["imputed"], late["known_at"]) == (curve[500], None, FIRST + 600 * HOUR)
    assert late["known_value"] == curve[500 - 168]
    others = gold.filter(pl.col("ts") != late["ts"])
    assert (others["known_value"] == others["value"]).all()


def test_hours_not_yet_known_are_pending(tmp_path: Path) -> None:
    declaration = declare(tmp_path, covariates=PUBLISHED, **START)
    curve = load_curve(24 * 3)
    rows = texts("a", FIRST, [*curve[:48], *[None] * 24], published_forecast=curve)
    rows = rows.with_columns(pending=pl.int_range(pl.len()) >= 48)
    gold = _gold(declaration, rows)
    assert gold["pending"].to_list() == [False] * 48 + [True] * 24
    assert gold["value"].null_count() == gold["imputed"].drop_nulls().len() + 24 == 24
    assert gold["published_forecast"].to_list() == list(curve)


@pytest.mark.parametrize(("kind", "of_an_hour"), [("power", np.mean), ("energy", np.sum)])
def test_quarters_become_hours(tmp_path: Path, kind: str, of_an_hour) -> None:
    declaration = declare(tmp_path, interval="15m", unit={"kind": kind, "name": "MW"}, covariates=PUBLISHED, **START)
    curve = load_curve(96 * 20, per_day=96)
    values: list[float | None] = list(curve)
    values[96 * 10] = None
    values[96 * 10 + 4 : 96 * 10 + 7] = [None] * 3
    gold = _gold(declaration, texts("a", FIRST, values, timedelta(minutes=15), published_forecast=curve))
    hours = curve.reshape(-1, 4)
    expected = of_an_hour(hours, axis=1)
    expected[240] = hours[240, 1:].mean() * (4 if kind == "energy" else 1)
    expected[241] = expected[241 - 168]  # one quarter of four is too little
    assert gold["value"].to_list() == pytest.approx(list(expected))
    assert dict(gold["imputed"].drop_nulls().value_counts().iter_rows()) == {"partial": 1, "week_before": 1}
    assert gold["published_forecast"].to_list() == pytest.approx(list(hours.mean(axis=1)))


@pytest.mark.parametrize(("kind", "share"), [("power", 1), ("energy", 24)])
def test_days_are_spread_over_their_hours(tmp_path: Path, kind: str, share: int) -> None:
    declaration = declare(tmp_path, interval="1d", unit={"kind": kind, "name": "MW"}, **START)
    gold = _gold(declaration, texts("a", FIRST, [*range(2400, 2460)], timedelta(days=1)))
    assert gold["value"].to_list() == pytest.approx(list(np.repeat(np.arange(2400, 2460) / share, 24)))
    assert set(gold["imputed"]) == {"spread"}
    assert (gold["known_value"] == gold["value"]).all()
