from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from lakehouse_assets.gold import demand_daily
from lakehouse_assets_tests.demand import HOUR, declare, landed, refine, texts

FIRST = datetime(2021, 3, 1, tzinfo=UTC)


def test_local_days_have_23_24_or_25_hours(tmp_path: Path) -> None:
    declaration = declare(tmp_path, start="2021-03-01", time_zone="UTC", unit={"kind": "power", "name": "kW"})
    values: list[float | None] = [1000.0 + hour % 24 for hour in range(24 * 260)]
    values[24 * 40 + 5] = None  # one hour of 10 April
    gold = refine(declaration, landed(declaration, texts("a", FIRST, values)), [])["gold"]
    gold = gold.filter(pl.col("ts") < FIRST + (24 * 260 - 12) * HOUR)  # the last day in part
    series = pl.DataFrame({"series_id": ["a"], "time_zone": ["Europe/Berlin"]})
    found = demand_daily.transform(gold.lazy(), declaration, series).collect()
    assert demand_daily.GoldDemandDaily.is_valid(found)
    days = {row["date"]: row for row in found.iter_rows(named=True)}
    assert days[date(2021, 3, 28)]["energy"] == pytest.approx(sum(1000 + h % 24 for h in range(23, 46)) / 1000)
    assert days[date(2021, 10, 31)]["energy"] == pytest.approx(sum(1000 + h % 24 for h in range(22, 47)) / 1000)
    plain = days[date(2021, 5, 1)]
    assert plain["peak"] == pytest.approx(1.023)
    assert plain["load_factor"] == pytest.approx(1011.5 / 1023)
    assert (plain["completeness"], plain["month"]) == (1.0, date(2021, 5, 1))
    assert days[date(2021, 4, 10)]["completeness"] == pytest.approx(23 / 24)
    assert days[date(2021, 4, 10)]["energy"] is not None  # the hour is imputed
    first, last = days[min(days)], days[max(days)]
    for part in (first, last):  # days that the grid holds in part
        assert (part["energy"], part["peak"], part["load_factor"]) == (None, None, None)
        assert part["completeness"] < 1
