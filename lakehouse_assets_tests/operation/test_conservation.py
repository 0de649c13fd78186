"""The line that says whether every landed row is accounted for."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.operation.conservation import rows_accounted_for

TIMES = [datetime(2024, 1, 1, hour, tzinfo=UTC) for hour in (0, 1, 1, 2)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Five rows: three intervals, one of them twice, and one row whose time cannot be read."""
    lake = Lake(tmp_path)
    rows = pl.DataFrame(
        {
            "file": ["a.csv"] * 5,
            "fingerprint": ["f"] * 5,
            "row_number": [1, 2, 3, 4, 5],
            "pending": [False] * 5,
            "series_id": ["A"] * 5,
            "ts_utc": [*TIMES, None],
        },
        schema_overrides={"ts_utc": pl.Datetime("us", "UTC")},
    )
    lake.table("bronze/demand").append(rows)
    lake.table("silver/demand").append(pl.DataFrame({"ts": sorted(set(TIMES))}))
    lake.table("silver/demand_quarantine").append(rows.tail(1))
    return lake


def test_kept_rejected_and_removed_rows_are_all_rows(lake: Lake) -> None:
    assert rows_accounted_for(lake) == (
        "bronze/demand: 5 rows landed = 3 in silver + 1 in quarantine + 1 duplicates removed: nothing lost"
    )


@pytest.mark.parametrize("table", ["silver/demand", "silver/demand_quarantine"])
def test_a_row_that_is_missing_is_seen(lake: Lake, table: str) -> None:
    lake.table(table).overwrite(lake.table(table).scan().collect().head(-1))
    assert rows_accounted_for(lake).endswith("ROWS ARE MISSING")


def test_without_tables_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert rows_accounted_for(Lake(tmp_path)) == ""
