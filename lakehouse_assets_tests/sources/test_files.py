import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from lakehouse_assets.sources.declaration import Declaration
from lakehouse_assets.sources.files import BrokenFileError, discover, read
from lakehouse_assets_tests.sources.declaring import COVARIATES, declare


def _read(declaration: Declaration, folder: Path) -> pl.DataFrame:
    (file,) = discover(declaration, folder)
    return read(file, declaration).collect()


def _csv(folder: Path, text: str | bytes, **changes: object) -> pl.DataFrame:
    (folder / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return _read(declare(folder, **changes), folder)


def test_csv_is_text_as_written(tmp_path: Path) -> None:
    frame = _csv(tmp_path, "extra,mw,time,area\n1,007.50,2020-01-01,A\n2,1e3,x,'B'\n")
    assert frame.columns == ["row_number", "series_id", "ts", "value"]
    assert frame.rows() == [(1, "A", "2020-01-01", "007.50"), (2, "'B'", "x", "1e3")]
    assert frame.schema["row_number"] == pl.Int64


def test_broken_csv_lines_lose_no_row(tmp_path: Path) -> None:
    lines = [
        b"area,time,mw",
        b"A,t1,1",
        b"A",
        b"A,t3,3,4,5",
        b"",
        b'"A, north",t4,4',
        b'"A,t5,5',
        b'A"B,t6,6',
        b"\xff\xfe,t7,7",
        b'A,t8,"8',
    ]
    frame = _csv(tmp_path, b"\xef\xbb\xbf" + b"\r\n".join(lines))
    assert frame["row_number"].to_list() == list(range(1, 9))
    assert frame["ts"].to_list() == ["t1", None, "t3", "t4", "t5", "t6", "t7", "t8"]
    assert frame["value"].to_list() == ["1", None, "3", "4", "5", "6", "7", "8"]
    assert frame["series_id"].to_list() == ["A", "A", "A", "A, north", "A", "AB", "\ufffd\ufffd", "A"]


def test_separator_and_constant_series(tmp_path: Path) -> None:
    files = {"glob": "*.csv", "format": "csv", "separator": ";"}
    columns = {"series_id": {"constant": "town"}, "ts": "time", "value": "mw"}
    frame = _csv(tmp_path, "time;mw\n2020-01-01;1,5\n", files=files, columns=columns)
    assert frame.rows() == [(1, "town", "2020-01-01", "1,5")]


@pytest.mark.parametrize(("marks", "last"), [("start", "2020-02-01T21:00:00Z"), ("end", "2020-02-02T00:00:00Z")])
def test_running_numbers_count_back_from_the_end_of_each_series(tmp_path: Path, marks: str, last: str) -> None:
    columns = {"series_id": "area", "ts": {"step": "n", "end": "2020-02-02"}, "value": "mw"}
    text = "area,n,mw\nA,1,5\nB,7,6\nA,3,7\nA,x,8\nA,,9\n"
    frame = _csv(tmp_path, text, columns=columns, interval="3h", ts_marks=marks)
    first = {"start": "2020-02-01T15:00:00Z", "end": "2020-02-01T18:00:00Z"}[marks]
    assert frame["ts"].to_list() == [first, last, last, "x", None]
    (tmp_path / "a.csv").unlink()
    (tmp_path / "a.json").write_text('{"area": "A", "n": 4, "mw": 1}\n')
    declaration = declare(
        tmp_path, columns=columns, interval="3h", ts_marks=marks, files={"glob": "*.json", "format": "ndjson"}
    )
    assert _read(declaration, tmp_path)["ts"].to_list() == [last]


def test_gzip_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"area,time,mw\nA,t,1\n"))
    assert _read(declare(tmp_path, files={"glob": "*.gz", "format": "csv"}), tmp_path).height == 1


def test_ndjson_lines_are_rows(tmp_path: Path) -> None:
    lines = ['{"area": "A", "mw": 1.5, "time": "t1"}', "{broken", "", '{"area": "A"}', "[1]", '{"mw": null}']
    (tmp_path / "a.ndjson").write_text("\n".join(lines))
    frame = _read(declare(tmp_path, files={"glob": "*.ndjson", "format": "ndjson"}), tmp_path)
    nothing = (None, None, None)
    assert [row[1:] for row in frame.rows()] == [("A", "t1", "1.5"), nothing, ("A", None, None), nothing, nothing]
    assert frame["row_number"].to_list() == [1, 2, 3, 4, 5]


def test_ndjson_keys_may_hold_any_sign(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text(json.dumps({"the area": "A", "t.s": "t1", "mw['x']": 2}))
    columns = {"series_id": "the area", "ts": "t.s", "value": "mw['x']"}
    frame = _read(declare(tmp_path, files={"glob": "*.ndjson", "format": "ndjson"}, columns=columns), tmp_path)
    assert frame.rows() == [(1, "A", "t1", "2")]


def test_typed_parquet_becomes_text(tmp_path: Path) -> None:
    moment = datetime(2020, 1, 1, 5, 30)
    frame = pl.DataFrame(
        {"area": [1], "time": [moment], "mw": [2.5], "plan": [None], "temp": [moment.replace(tzinfo=UTC)]}
    )
    frame.write_parquet(tmp_path / "a.parquet")
    declaration = declare(tmp_path, files={"glob": "*.parquet", "format": "parquet"}, covariates=COVARIATES)
    assert _read(declaration, tmp_path).rows() == [(1, "1", "2020-01-01T05:30:00", "2.5", None, "2020-01-01T05:30:00Z")]


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet"])
def test_an_empty_file_has_no_rows(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(b"")
    declaration = declare(tmp_path, files={"glob": "a", "format": kind}, covariates=COVARIATES)
    frame = _read(declaration, tmp_path)
    assert frame.columns == ["row_number", *declaration.raw_columns]
    assert frame.height == 0


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert _csv(tmp_path, "area,time,mw").height == 0


@pytest.mark.parametrize(
    ("name", "kind", "content", "reason"),
    [
        ("a.csv", "csv", b"area,time\nA,t\n", "columns missing: mw; there are: area, time"),
        ("a.csv", "csv", b"\n\n", "there is no header"),
        ("a.csv.gz", "csv", gzip.compress(b"area,time,mw\n" + b"A,t,1\n" * 999, mtime=0)[:-9], "end-of-stream"),
        ("a.csv.gz", "csv", b"area,time,mw\n", "Not a gzipped file"),
        ("a.ndjson", "ndjson", b'{"area": 1, "time": 2}\n', "keys missing in every line: mw"),
        ("a.parquet", "parquet", b"area,time,mw\nA,t,1\n", "not a parquet file"),
    ],
    ids=["column", "header", "cut-gzip", "no-gzip", "key", "no-parquet"],
)
def test_what_cannot_be_read_is_told_in_one_line(
    tmp_path: Path, name: str, kind: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BrokenFileError, match=reason) as error:
        _read(declare(tmp_path, files={"glob": name, "format": kind}), tmp_path)
    assert "\n" not in str(error.value)


def test_nested_parquet_columns_are_refused(tmp_path: Path) -> None:
    pl.DataFrame({"area": ["A"], "time": ["t"], "mw": [[1.0]]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(BrokenFileError, match="column mw holds List"):
        _read(declare(tmp_path, files={"glob": "*.parquet", "format": "parquet"}), tmp_path)


def test_where_a_glob_starts(tmp_path: Path) -> None:
    own, data = tmp_path / "own", tmp_path / "data"
    for folder in (own, data / "sub", data / "sub" / "deep"):
        folder.mkdir(parents=True)
    (data / "sub" / "deep" / "b.csv").write_text("b")
    (data / "sub" / "a.csv").write_text("a")
    declaration = declare(own, files={"glob": "sub/**/*.csv", "format": "csv"})
    assert [file.name for file in discover(declaration, data)] == ["a.csv", "deep/b.csv"]
    (own / "sub").mkdir()
    (own / "sub" / "c.csv").write_text("c")
    assert [file.name for file in discover(declaration, data)] == ["c.csv"]
    absolute = declare(own, files={"glob": f"{data}/sub/*.csv", "format": "csv"})
    assert [file.name for file in discover(absolute, tmp_path)] == ["a.csv"]
    assert discover(declare(own, files={"glob": "no/*.csv", "format": "csv"}), data / "missing") == []


def test_a_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    for name, text in (("a.csv", "x"), ("b.csv", "x"), ("c.csv", "y")):
        (tmp_path / name).write_text(text)
    a, b, c = discover(declare(tmp_path), tmp_path)
    assert a.fingerprint == b.fingerprint != c.fingerprint
