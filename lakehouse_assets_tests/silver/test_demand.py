from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.silver import demand as silver
from lakehouse_assets_tests.demand import HOUR, PUBLISHED, declare, landed, load_curve, months, refine, source, texts

FIRST = datetime(2021, 1, 1, tzinfo=UTC)
NOW = datetime(2021, 6, 1, tzinfo=UTC)


def _one(**changes: Any) -> dict[str, Any]:
    return {"series_id": "a", "ts": "2021-02-03T04:00", "value": "12.5", "published_forecast": "13", **changes}


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, []),
        ({"value": None}, []),
        ({"value": " NaN "}, []),
        ({"value": "-3e2"}, []),
        ({"value": "12,5"}, ["value_is_a_number"]),
        ({"value": "inf"}, ["value_is_a_number"]),
        ({"value": "n.v."}, ["value_is_a_number"]),
        ({"series_id": None}, ["series_id_present"]),
        ({"series_id": "  "}, ["series_id_present", "series_is_declared"]),
        ({"series_id": "zz"}, ["series_is_declared"]),
        ({"ts": None}, ["ts_is_a_time"]),
        ({"ts": "2021-02-30T00:00"}, ["ts_is_a_time"]),
        ({"ts": "2020-12-31T23:00"}, ["ts_in_range"]),
        ({"ts": "2021-01-01T00:00"}, []),
        ({"ts": "2021-06-04T00:00"}, []),  # now, the horizon of a day, and two days
        ({"ts": "2021-06-04T01:00"}, ["ts_in_range"]),
        ({"ts": "2021-02-03T04:30"}, ["ts_starts_an_interval"]),
        ({"published_forecast": "a lot"}, ["published_forecast_is_a_number"]),
        ({"published_at": "soon"}, ["published_at_is_a_time"]),
        ({"published_at": ""}, []),
        (
            {"value": "x", "ts": "never", "published_forecast": "y"},
            ["ts_is_a_time", "value_is_a_number", "published_forecast_is_a_number"],
        ),
        # columns that have changed places
        ({"series_id": "12.5", "value": "a"}, ["value_is_a_number", "series_is_declared"]),
        ({"ts": "12.5", "value": "2021-02-03T04:00"}, ["ts_is_a_time", "value_is_a_number"]),
    ],
)  # fmt: skip
def test_a_row_that_breaks_rules_is_quarantined_with_their_names(
    tmp_path: Path, changes: dict, broken: list[str]
) -> None:
    columns = {"series_id": "area", "ts": "time", "value": "mw", "published_at": "published"}
    declaration = declare(tmp_path, columns=columns, covariates=PUBLISHED, start="2021-01-01")
    row = {"published_at": None, **_one(**changes)}
    rows = landed(declaration, pl.DataFrame([row], schema=dict.fromkeys(row, pl.String)), NOW)
    series = pl.DataFrame({"series_id": ["a"]})
    typed, rejected = silver.split(rows.lazy(), declaration, series)
    assert typed.height + rejected.height == 1
    assert sorted(rejected["rules"].explode(empty_as_null=False).to_list()) == sorted(broken)
    if broken:  # as it was landed
        assert rejected.select(row.keys()).row(0, named=True) == row
        assert silver.demand_quarantine.contract(declaration).is_valid(rejected)


def test_the_latest_row_counts_and_what_was_known_on_time_stays(tmp_path: Path) -> None:
    columns = {"series_id": "area", "ts": "time", "value": "mw", "published_at": "published"}
    temperature = {"temperature": {"column": "temp", "known": "after"}}
    declaration = declare(tmp_path, columns=columns, covariates={**PUBLISHED, **temperature}, start="2021-01-01")
    ahead, on_time, late = "2021-01-09T00:00", "2021-01-10T01:00", "2021-01-12T00:00"
    covariates = ("published_forecast", "temperature")
    names = ("value", "published_at", *covariates)

    def row(hour: int, *values: str | None) -> dict[str, str | None]:
        return {"series_id": "a", "ts": f"2021-01-10T0{hour}:00", **dict(zip(names, values, strict=True))}

    def batch(name: str, at: datetime, rows: list[dict], pending: bool = False) -> pl.DataFrame:
        frame = pl.DataFrame(rows, schema=dict.fromkeys(rows[0], pl.String)).with_columns(pending=pl.lit(pending))
        return landed(declaration, frame.with_columns(file=pl.lit(name)), at, name)

    rows = pl.concat(
        [
            batch(
                "1", NOW - 3 * HOUR, [row(0, None, ahead, "11", None), row(1, None, ahead, "21", None)], pending=True
            ),
            batch("2", NOW - 2 * HOUR, [row(0, "10", on_time, "12", "5"), row(2, "30", late, "31", "7")]),
            # revised: twice in one file, the second published last though it stands first
            batch("3", NOW, [row(0, "99", "2021-01-20", "98", "9"), row(0, "55", late, "54", "8")]),
        ]
    )
    typed, _ = silver.split(rows.lazy(), declaration, None)
    found = silver.deduplicate(typed, declaration)
    shown = ("value", "known_value", "pending", *covariates)
    assert [found.select(shown).row(i) for i in range(3)] == [
        (99.0, 10.0, False, 11.0, 5.0),
        (None, None, True, 21.0, None),
        (30.0, None, False, 31.0, None),
    ]


def _judged(tmp_path: Path, values: list, forecast: np.ndarray | None = None, **changes: Any) -> list[str]:
    covariates = None if forecast is None else PUBLISHED
    declaration = declare(tmp_path, covariates=covariates, start=FIRST.date().isoformat(), **changes)
    columns = {} if forecast is None else {"published_forecast": forecast}
    step = declaration.interval_td
    rows = landed(declaration, texts("a", FIRST, values, step, **columns))
    first_months = rows.group_by("series_id").agg(first_month=pl.col("month").min())
    return silver.transform(rows.lazy(), declaration, None, first_months)[0].collect()["quality"].to_list()


@pytest.mark.parametrize("with_forecast", [True, False])
def test_each_kind_of_error_is_named(tmp_path: Path, with_forecast: bool) -> None:
    curve = load_curve(24 * 60)
    values: list[float | None] = list(curve)
    spoiled: dict[int, tuple[float | None, str]] = {
        1000: (None, "missing"),
        1010: (0.0, "non_positive"),
        1011: (-5.0, "non_positive"),
        1040: (curve[1040] * 10, "spike"),
        1050: (curve[1050] * 0.1, "spike"),
        1100: (curve[1100] * 1.6, "jump"),
        1101: (curve[1101] * 1.6, "implausible"),
        1102: (curve[1102] * 1.6, "implausible"),
        **{1200 + k: (curve[1200], "ok" if k < 2 else "stuck") for k in range(6)},
    }
    for hour, (value, _) in spoiled.items():
        values[hour] = value
    found = _judged(tmp_path, values, curve * 1.05 if with_forecast else None)
    assert {hour: found[hour] for hour in spoiled} == {hour: quality for hour, (_, quality) in spoiled.items()}
    others = [quality for hour, quality in enumerate(found) if hour not in spoiled]
    assert others.count("ok") >= len(others) - 1  # the hour after the stuck ones may be a jump


def test_screened_values_are_not_judged_by_their_size(tmp_path: Path) -> None:
    values: list = list(load_curve(800))
    values[700:704] = [values[700] * 50, 0.0, None, values[703]]
    assert _judged(tmp_path, values)[700:704] == ["spike", "non_positive", "missing", "ok"]
    assert _judged(tmp_path, values, screened=True)[700:704] == ["ok", "non_positive", "missing", "ok"]
    assert _judged(tmp_path, values[:10], screened=True) == ["ok"] * 10


def test_a_holiday_that_was_forecast_is_no_jump(tmp_path: Path) -> None:
    curve = load_curve(24 * 60)
    curve[960:984] *= 0.75
    assert set(_judged(tmp_path, list(curve), curve.round(0))) == {"ok"}


def test_the_first_fortnight_is_judged_against_itself(tmp_path: Path) -> None:
    curve = load_curve(24 * 20)
    curve[:3] *= 40  # nothing lies before it that it could be compared with
    found = _judged(tmp_path, list(curve))
    assert found[:3] == ["spike"] * 3
    assert set(found[3:]) == {"ok"}


def test_a_series_of_a_few_rows_is_not_trusted(tmp_path: Path) -> None:
    assert _judged(tmp_path, [5.0, 6.0, 7.0]) == ["implausible"] * 3
    assert set(_judged(tmp_path, list(load_curve(24)))) == {"ok"}


def test_a_small_series_may_repeat_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    small = rng.integers(5, 9, 24 * 40)
    assert "stuck" not in _judged(tmp_path, list(small))
    small[800:840] = 6
    found = _judged(tmp_path, list(small))
    assert found[815:840] == ["stuck"] * 25


def test_negative_values_are_judged_by_size_where_they_are_allowed(tmp_path: Path) -> None:
    curve = load_curve(24 * 40) - 1000  # around zero
    values = list(curve)
    values[700] = -9e6
    found = _judged(tmp_path, values, allow_negative=True)
    assert found[700] == "spike"
    assert found.count("ok") >= len(found) - 2


@pytest.mark.parametrize("interval", ["15m", "30m", "1d"])
def test_other_intervals(tmp_path: Path, interval: str) -> None:
    per_day = {"15m": 96, "30m": 48, "1d": 1}[interval]
    curve = load_curve(per_day * 60, per_day=per_day)
    values: list[float | None] = list(curve)
    bad = per_day * 50
    values[bad], values[bad + 1], values[bad + 2] = None, curve[bad + 1] * 9, 0.0
    found = _judged(tmp_path, values, interval=interval)
    assert found[bad : bad + 3] == ["missing", "spike", "non_positive"]
    assert found.count("ok") >= len(found) - 4


def test_daily_rows_across_a_change_of_the_clock(tmp_path: Path) -> None:
    declaration = declare(tmp_path, time_zone="Europe/Berlin", interval="1d", start="2021-03-01")
    days = pl.date_range(date(2021, 3, 2), date(2021, 4, 30), eager=True)
    rows = pl.DataFrame(
        {"series_id": "a", "ts": days.cast(pl.String), "value": pl.Series(range(100, 160)).cast(pl.String)}
    )
    found = refine(declaration, landed(declaration, rows))
    assert set(found["silver"]["quality"]) == {"ok"}
    by_day = found["gold"].group_by(pl.col("ts").dt.convert_time_zone("Europe/Berlin").dt.date()).len().sort("ts")
    assert dict(by_day.iter_rows())[date(2021, 3, 28)] == 23
    assert set(by_day.filter(pl.col("ts") != date(2021, 3, 28))["len"]) == {24}


def test_nothing_is_lost(tmp_path: Path) -> None:
    """A real run over duplicates and broken rows; then a row goes missing behind its back."""
    values: list[Any] = list(load_curve(24 * 40))
    values[5], values[700] = "broken", "broken too"
    with source(tmp_path) as plant:
        start = datetime.fromisoformat(months(0, 0)[0]).replace(tzinfo=UTC)
        rows = texts("a", start, values).rename({"series_id": "area", "ts": "time", "value": "mw"})
        plant.write("one.csv", rows)
        plant.write("two.csv", rows.slice(100, 50))
        run = plant.run("bronze")
        assert run.success
        run = plant.run("silver", months=months(0, 1))
        assert run.success
        checks = {(e.asset_key.path[-1], e.check_name): e for e in run.get_asset_check_evaluations()}
        counts = {name: value.value for name, value in checks["demand", "nothing_lost"].metadata.items()}
        assert counts == {"bronze_rows": 1010, "silver_rows": 958, "quarantined_rows": 2, "removed_duplicates": 50}
        made = run.asset_materializations_for_node("silver_demand")[0].metadata
        assert {name: made[name].value for name in counts} == counts
        assert plant.rows("silver/demand_quarantine")["value"].sort().to_list() == ["broken", "broken too"]

        # again: nothing is added; one month alone: the other stays
        assert plant.run("bronze").success
        assert plant.run("silver", months=months(1, 1)).success
        assert plant.table("silver/demand").row_count() == 958

        lost = plant.rows("silver/demand").filter(pl.col("ts") != start + 20 * HOUR)
        plant.table("silver/demand").overwrite(lost)
        checked = plant.check("silver", "nothing_lost")
        assert not checked.passed
        assert checked.metadata["silver_rows"].value == 957


def test_pending_rows_give_way_to_whole_ones(tmp_path: Path) -> None:
    start = datetime.fromisoformat(months(0, 0)[0]).replace(tzinfo=UTC)
    curve = load_curve(24 * 4)
    with source(tmp_path, covariates=PUBLISHED) as plant:
        rows = texts("a", start, list(curve), plan=curve).rename({"series_id": "area", "ts": "time", "value": "mw"})
        plant.write("rows.csv", rows)
        seen = []
        for day in (2, 3):
            assert plant.run("bronze", at=start + timedelta(days=day)).success
            assert plant.run("silver", months=months(0, 0)).success
            seen.append(dict(plant.rows("silver/demand")["quality"].value_counts().iter_rows()))
        assert seen == [{"ok": 48, "pending": 48}, {"ok": 72, "pending": 24}]
        silver_rows = plant.rows("silver/demand")
        pending = silver_rows.filter(pl.col("quality") == "pending")
        assert pending["value"].null_count() == pending.height
        assert silver_rows["published_forecast"].null_count() == 0


def test_lasting_faults_are_named_and_a_change_to_summer_time_is_none(tmp_path: Path) -> None:
    declaration = declare(tmp_path, time_zone="Europe/Berlin", start="2021-01-01")
    start = datetime(2021, 1, 31, 23, tzinfo=UTC)  # midnight in Berlin
    local = np.concatenate([load_curve(24 * 56), load_curve(24 * 34, seed=1)])
    curve = np.delete(local, 24 * 55 + 2)  # on 28 March a local hour is skipped
    assert (start + (24 * 55 + 2) * HOUR).astimezone(ZoneInfo("Europe/Berlin")).hour == 3
    stuck, silent, kilo = curve.copy(), list(curve), curve.copy()
    stuck[1500:1530] = stuck[1500]
    silent[1400:1440] = [None] * 40
    kilo[1704:1800] *= 1000
    parts = {"a": curve, "b": stuck, "c": silent, "d": kilo}
    rows = pl.concat([texts(name, start, list(values)) for name, values in parts.items()])
    judged = refine(declaration, landed(declaration, rows), [])["silver"]
    found = silver.lasting_faults(judged.lazy(), declaration, None)
    assert list(zip(found["series_id"], found["fault"], strict=True)) == [
        ("b", "stuck_meter"),
        ("c", "gap"),
        ("d", "unit_error"),
    ]
    assert found["since"].to_list()[1] == datetime(2021, 2, 1) + 1401 * HOUR, "on the local clock, in summer time"


def test_a_lasting_fault_of_late_is_a_warning(tmp_path: Path) -> None:
    curve = load_curve(24 * 75)
    with source(tmp_path) as plant:
        start = datetime.fromisoformat(months(0, 0)[0]).replace(tzinfo=UTC)
        for name, at in (("old.csv", 24 * 20), ("late.csv", 24 * 70)):
            values: list[Any] = list(curve)
            values[at : at + 20] = [None] * 20
            rows = texts(name[:3], start, values).rename({"series_id": "area", "ts": "time", "value": "mw"})
            plant.write(name, rows)
        assert plant.run("bronze").success
        run = plant.run("silver", months=months(0, 2))
        assert run.success, "a warning, and what follows is made nevertheless"
        checks = {e.check_name: e for e in run.get_asset_check_evaluations()}
        checked = checks["no_lasting_faults"]
        assert not checked.passed
        assert checked.metadata["gap"].value == 1
        assert [fault["series_id"] for fault in checked.metadata["faults"].value] == ["lat"]
