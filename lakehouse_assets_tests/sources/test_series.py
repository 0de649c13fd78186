from pathlib import Path

import polars as pl
import pytest

from lakehouse_assets.sources.declaration import Declaration, DeclarationError
from lakehouse_assets.sources.series import SERIES_SCHEMA, series_table
from lakehouse_assets_tests.sources.declaring import declare


def _declare(folder: Path, text: str, **columns: str) -> Declaration:
    (folder / "series.csv").write_text(text)
    return declare(folder, series={"file": "series.csv", "columns": columns})


def test_none_is_declared(tmp_path: Path) -> None:
    assert series_table(declare(tmp_path), tmp_path) is None


def test_what_is_left_out_is_null(tmp_path: Path) -> None:
    text = "id,where,lat\nB,Asia/Tokyo,35.5\nA, ,\n"
    declaration = _declare(tmp_path, text, series_id="id", time_zone="where", latitude="lat")
    table = series_table(declaration, tmp_path / "elsewhere")
    assert table is not None
    assert table.schema == SERIES_SCHEMA
    assert table.rows() == [("A",) + (None,) * 6, ("B", None, None, "Asia/Tokyo", None, 35.5, None)]


def test_the_table_may_lie_in_the_data_folder(tmp_path: Path) -> None:
    own, data = tmp_path / "own", tmp_path / "data"
    own.mkdir()
    data.mkdir()
    pl.DataFrame({"series_id": ["A"]}).write_csv(data / "s.csv")
    declaration = declare(own, series={"file": "s.csv"})
    table = series_table(declaration, data)
    assert table is not None
    assert table.height == 1
    with pytest.raises(DeclarationError, match="there is no"):
        series_table(declaration, own)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,where\nA,UTC\n", "series.csv:1: columns missing: lat"),
        ("id,where,lat\nA,Mars,1\n", "series.csv:2: time_zone: 'Mars' is not an IANA"),
        ("id,where,lat\nA,UTC,1\nB,UTC,north\n", "series.csv:3: latitude: 'north' is no number"),
        ("id,where,lat\nA,UTC,1\nA,UTC,1\n", "series_id 'A' stands there more than once"),
        ("id,where,lat\n,UTC,1\n", "series.csv:2: series_id is empty"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, reason: str) -> None:
    declaration = _declare(tmp_path, text, series_id="id", time_zone="where", latitude="lat")
    with pytest.raises(DeclarationError, match=reason):
        series_table(declaration, tmp_path)
