from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from lakehouse_assets.bronze import demand as bronze
from lakehouse_assets_tests.demand import HOUR, PUBLISHED, START, declare, landed, load_curve, source, texts

NAMES = {"series_id": "area", "ts": "time", "value": "mw"}


def _metadata(run) -> dict:
    return {k: v.value for k, v in run.asset_materializations_for_node("bronze__demand")[0].metadata.items()}


def test_landing_again_adds_nothing_a_new_file_its_rows_and_a_broken_one_its_reason(tmp_path: Path) -> None:
    rows = texts("a", START, load_curve(24 * 40)).rename(NAMES)
    with source(tmp_path) as plant:
        plant.write("one.csv", rows)
        first = plant.run("bronze")
        assert first.success
        assert _metadata(first)["rows_landed"] == 960
        assert _metadata(first)["months_touched"][:2] == [
            START.date().isoformat(),
            (START + timedelta(days=31)).date().replace(day=1).isoformat(),
        ]

        again = plant.run("bronze")
        assert again.success
        assert (_metadata(again)["rows_landed"], _metadata(again)["months_touched"]) == (0, [])

        plant.write("two.csv", texts("b", START, [1, 2, 3]).rename(NAMES))
        (tmp_path / "landing" / "three.csv").write_text("area,time,megawatts\na,b,c\n")
        third = plant.run("bronze")
        assert third.success  # the check only warns
        assert _metadata(third)["files"] == ["two.csv"]
        (check,) = [e for e in third.get_asset_check_evaluations() if e.check_name == "files_set_aside"]
        assert not check.passed
        assert "three.csv" in check.description
        assert "mw" in check.description

        table = plant.rows("bronze/demand")
        assert table.group_by("file").len().sort("file").rows() == [("one.csv", 960), ("two.csv", 3)]
        assert bronze.contract(plant.declaration).is_valid(table)
        one = table.filter(pl.col("file") == "one.csv").sort("row_number")
        assert one.select("ts", "value").equals(rows.select(ts="time", value="mw"))  # the text as it was written
        assert one["batch_id"].unique().to_list() == [first.run_id]


def test_rows_come_when_they_are_known(tmp_path: Path) -> None:
    curve = load_curve(24 * 6)
    with source(tmp_path, covariates=PUBLISHED) as plant:
        plant.write("rows.csv", texts("a", START, curve, plan=curve).rename(NAMES))
        assert plant.run("bronze", at=START + timedelta(days=2)).success
        table = plant.rows("bronze/demand")
        whole, pending = table.filter(~pl.col("pending")), table.filter("pending")
        assert whole["ts_utc"].max() == START + 47 * HOUR
        assert (pending["ts_utc"].min(), pending["ts_utc"].max()) == (START + 48 * HOUR, START + 96 * HOUR)
        assert pending["value"].null_count() == pending.height
        assert pending["published_forecast"].null_count() == 0
        assert set(table["ingested_at"]) == {START + timedelta(days=2)}

        assert plant.run("bronze", at=START + timedelta(days=3)).success
        table = plant.rows("bronze/demand").sort("pending", "ts_utc")
        assert table.group_by("pending").len().sort("pending").rows() == [(False, 72), (True, 49 + 24)]
        assert table["value"].drop_nulls().cast(pl.Float64).to_list() == list(curve[:72])


def test_a_row_without_a_time_in_range_lies_in_the_month_of_its_landing(tmp_path: Path) -> None:
    declaration = declare(tmp_path, start="2021-01-01")
    now = datetime(2021, 3, 15, 12, tzinfo=UTC)
    times = ["2021-01-05", "never", "2020-12-31T23:00", "2021-03-18T12:00", "2021-03-18T13:00", None]
    rows = pl.DataFrame({"series_id": ["a"] * 6, "ts": times, "value": ["1"] * 6})
    found = landed(declaration, rows, now)["month"].to_list()
    assert found == [date(2021, 1, 1), *[date(2021, 3, 1)] * 5]


def test_months_touched_reach_back_by_the_horizon_and_on_from_the_last(tmp_path: Path) -> None:
    declaration = declare(tmp_path, start="2021-01-01", horizon="48h")

    def touched(first: datetime, last_month: date | None) -> list[int]:
        rows = landed(declaration, texts("a", first, [1]), first)
        return [month.month for month in bronze.months_touched(rows, declaration, last_month)]

    assert touched(datetime(2021, 3, 15, tzinfo=UTC), None) == [3]
    assert touched(datetime(2021, 3, 2, 12, tzinfo=UTC), None) == [2, 3]  # issued on 28 February, too
    assert touched(datetime(2021, 1, 1, tzinfo=UTC), None) == [1]  # nothing is before the start
    assert touched(datetime(2021, 6, 15, tzinfo=UTC), date(2021, 3, 1)) == [3, 4, 5, 6]
    assert touched(datetime(2021, 3, 15, tzinfo=UTC), date(2021, 6, 1)) == [3]
