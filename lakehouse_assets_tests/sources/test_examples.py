from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from lakehouse_assets.settings import get_settings
from lakehouse_assets.sources.declaration import Declaration, load_declaration
from lakehouse_assets.sources.files import discover
from lakehouse_assets.sources.landing import land
from lakehouse_assets.sources.series import series_table

EXAMPLES = Path(__file__).parents[2] / "examples"
NOW = datetime(2021, 1, 1, tzinfo=UTC)


def _land(name: str, folder: Path) -> tuple[Declaration, pl.DataFrame]:
    declaration, data = load_declaration(EXAMPLES / f"{name}.yaml"), get_settings().data
    if not discover(declaration, data):
        pytest.skip(f"{declaration.files.glob} is not in {data} (LAKEHOUSE_DATA)")
    frame = land(declaration, data, None, None, NOW, folder).frame
    assert frame is not None
    return declaration, frame


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.yaml")) if path.stem != "telco"])
def test_the_series_table_names_every_series(name: str, tmp_path: Path) -> None:
    declaration, frame = _land(name, tmp_path)
    series = series_table(declaration, get_settings().data)
    if declaration.series is None:
        pytest.skip("it declares no series table")
    assert series is not None
    assert set(series["series_id"]) == set(frame["series_id"])
    assert series.select("name", "group", "time_zone", "holidays").null_count().sum_horizontal().item() == 0


def test_eia930_lands_whole(tmp_path: Path) -> None:
    declaration, frame = _land("eia930", tmp_path)
    assert frame.height == 2_367_792
    assert declaration.raw_columns == ["series_id", "ts", "value", "published_forecast"]
    assert frame["ts_utc"].null_count() == 0
    assert frame["month"].min() >= declaration.start  # type: ignore[operator]


def test_au_states_agrees_with_the_same_values_in_utc(tmp_path: Path) -> None:
    _, frame = _land("au_states", tmp_path)
    path = get_settings().data / "au_vic_elec_2012_2014.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    known = pl.read_parquet(path).select(ts_utc=pl.col("Time").dt.replace_time_zone("UTC"), mw="Demand")
    victoria = frame.filter(series_id="Victoria").select("ts_utc", pl.col("value").cast(pl.Float64))
    both = known.join(victoria, on="ts_utc")
    assert both.height > 52_000
    assert both.select((pl.col("mw") - pl.col("value")).abs().max()).item() < 1e-6


def test_pjm_has_every_hour_once(tmp_path: Path) -> None:
    _, frame = _land("pjm", tmp_path)
    assert frame.height == 1_090_167
    assert not frame.select("series_id", "ts_utc").is_duplicated().any()
    steps = frame.sort("series_id", "ts_utc").select(pl.col("ts_utc").diff().over("series_id")).to_series().drop_nulls()
    # In local time 2 % of the days had a hole in spring; what is left are the real ones and the autumns before 2014.
    assert (steps > timedelta(hours=1)).sum() < 250
    assert steps.min() == timedelta(hours=1)


def test_m4_series_end_together(tmp_path: Path) -> None:
    declaration, frame = _land("m4_hourly", tmp_path)
    assert frame.height == 353_500
    ends = frame.group_by("series_id").agg(pl.col("ts_utc").max(), pl.len())
    assert ends["ts_utc"].unique().to_list() == [datetime(2017, 2, 19, 23, tzinfo=UTC)]
    assert set(ends["len"]) == {700, 960}
    assert frame["month"].min() >= declaration.start  # type: ignore[operator]
