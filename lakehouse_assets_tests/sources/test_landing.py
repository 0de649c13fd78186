import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.sources.declaration import Declaration
from lakehouse_assets.sources.landing import Landing, land
from lakehouse_assets_tests.sources.declaring import COVARIATES, declare

START = datetime(2020, 1, 1, tzinfo=UTC)
BRONZE = ["file", "fingerprint", "row_number", "pending"]


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


class Feed:
    """A source in a folder, and what was landed from it so far."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.declaration: Declaration = declare(folder, covariates=COVARIATES, **changes)
        self.landed: pl.DataFrame | None = None

    def write(self, name: str, rows: list[str], header: str = "area,time,mw,plan,temp") -> None:
        (self.folder / name).write_text("\n".join([header, *rows]) + "\n")

    def hours(self, first: int, last: int) -> list[str]:
        return [f"A,{at(h):%Y-%m-%d %H:%M},{h},{h + 0.5},{h}.1" for h in range(first, last)]

    def land(self, until: datetime | None = None) -> Landing:
        landed = self.landed.lazy().select(BRONZE) if self.landed is not None else None
        landing = land(self.declaration, self.folder, landed, until, START, self.folder / "aside")
        if landing.frame is not None:
            self.landed = landing.frame if self.landed is None else pl.concat([self.landed, landing.frame])
        return landing


def _whole(frame: pl.DataFrame | None) -> pl.DataFrame:
    assert frame is not None
    return frame.filter(~pl.col("pending")).sort("file", "fingerprint", "row_number")


def test_all_at_once_in_order(tmp_path: Path) -> None:
    feed = Feed(tmp_path)
    feed.write("b.csv", feed.hours(2, 3))
    feed.write("a.csv", feed.hours(0, 2))
    landing = feed.land()
    assert landing.frame is not None
    assert landing.frame.columns == [*BRONZE, *feed.declaration.raw_columns, "ts_utc", "month", "known_at"]
    assert landing.frame.select("file", "row_number", "value", "temperature", "pending").rows() == [
        ("a.csv", 1, "0", "0.1", False),
        ("a.csv", 2, "1", "1.1", False),
        ("b.csv", 1, "2", "2.1", False),
    ]
    assert [file.name for file in landing.files] == ["a.csv", "b.csv"]
    again = feed.land()
    assert again.frame is None
    assert (again.files, again.set_aside) == ([], [])


def test_rows_ahead_are_pending_once_and_whole_when_known(tmp_path: Path) -> None:
    feed = Feed(tmp_path, horizon="2h")
    feed.write("a.csv", feed.hours(0, 100))
    first = feed.land(at(3)).frame
    assert first is not None
    whole, pending = first.filter(~pl.col("pending")), first.filter("pending")
    assert whole["value"].to_list() == ["0", "1", "2"]
    # Until + horizon + a day, both ends: hours 3 to 29.
    assert pending["published_forecast"].to_list() == [str(h + 0.5) for h in range(3, 30)]
    assert pending["value"].null_count() == pending["temperature"].null_count() == pending.height
    second = feed.land(at(4)).frame
    assert second is not None
    assert second.select("row_number", "pending", "value", "temperature").rows() == [
        (4, False, "3", "3.1"),
        (31, True, None, None),
    ]
    assert feed.land(at(4)).frame is None


def test_nothing_ahead_is_pending_without_something_published(tmp_path: Path) -> None:
    feed = Feed(tmp_path)
    rows = feed.hours(0, 6)
    rows[4] = rows[4].replace(",4.5,", ",,")
    feed.write("a.csv", rows)
    frame = feed.land(at(3)).frame
    assert frame is not None
    assert frame.filter("pending")["row_number"].to_list() == [4, 6]


def test_publication_delay_and_published_at(tmp_path: Path) -> None:
    feed = Feed(tmp_path, publication_delay="2h")
    feed.write("a.csv", feed.hours(0, 3))
    assert _whole(feed.land(at(4)).frame)["value"].to_list() == ["0", "1"]
    (tmp_path / "p").mkdir()
    columns = {"series_id": "area", "ts": "time", "value": "mw", "published_at": "sent"}
    late = Feed(tmp_path / "p", columns=columns)
    rows = [f"{row},{at(sent):%Y-%m-%dT%H:%MZ}" for row, sent in zip(late.hours(0, 3), (1, 30, 3), strict=True)]
    late.write("a.csv", rows, "area,time,mw,plan,temp,sent")
    assert _whole(late.land(at(3)).frame)["value"].to_list() == ["0", "2"]
    # An hour that is late is no pending one: it lies behind.
    assert late.landed is not None
    assert not late.landed["pending"].any()
    assert _whole(late.land(at(30)).frame)["value"].to_list() == ["1"]


def test_rows_without_a_possible_time_land_at_once(tmp_path: Path) -> None:
    feed = Feed(tmp_path)
    feed.write("a.csv", ["A,never,1,2,3", "A,2999-01-01,1,2,3", "A", *feed.hours(50, 51)])
    frame = feed.land(at(0)).frame
    assert frame is not None
    assert frame.select("row_number", "pending").rows() == [(1, False), (2, False), (3, False)]


def test_a_changed_file_is_landed_anew(tmp_path: Path) -> None:
    feed = Feed(tmp_path)
    feed.write("a.csv", feed.hours(0, 2))
    feed.land()
    feed.write("a.csv", feed.hours(0, 3))
    landing = feed.land()
    assert landing.frame is not None
    assert landing.frame["value"].to_list() == ["0", "1", "2"]
    assert feed.land().frame is None


def test_a_repeated_hour_keeps_its_passes_when_landed_apart(tmp_path: Path) -> None:
    feed = Feed(tmp_path, time_zone="Europe/Berlin")
    clocks = ["01:00", "02:00", "02:00", "03:00"]
    feed.write("a.csv", [f"A,2020-10-25 {clock},{i},,1" for i, clock in enumerate(clocks)])
    for hour in (0, 1, 2, 3):
        feed.land(datetime(2020, 10, 25, hour, tzinfo=UTC))
    assert feed.landed is not None
    assert feed.landed["value"].to_list() == ["0", "1", "2", "3"]
    assert (feed.landed["ts_utc"].diff().drop_nulls() == timedelta(hours=1)).all()


def test_a_broken_file_is_set_aside_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Feed(tmp_path)
    feed.write("a.csv", ["A,1"], header="area,mw")
    feed.write("b.csv", feed.hours(0, 1))
    landing = feed.land()
    assert landing.frame is not None
    assert landing.frame["file"].to_list() == ["b.csv"]
    (item,) = landing.set_aside
    assert (item.name, item.reason) == ("a.csv", "columns missing: plan, temp, time; there are: area, mw")
    (note,) = (tmp_path / "aside").glob("*.json")
    content = json.loads(note.read_text())
    assert content == {"file": "a.csv", "fingerprint": item.fingerprint, "reason": item.reason, "at": START.isoformat()}

    # It is told of again, by the note and not by another look at the file.
    note.write_text(json.dumps({**content, "reason": "as noted"}))
    again = feed.land()
    assert again.frame is None
    assert [item.reason for item in again.set_aside] == ["as noted"]

    feed.write("a.csv", feed.hours(1, 2))
    mended = feed.land()
    assert mended.frame is not None
    assert mended.set_aside == []
    assert mended.frame["file"].to_list() == ["a.csv"]


@pytest.mark.parametrize("position", [0.2, 0.8, 0.99])
def test_a_damaged_parquet_file_is_set_aside(tmp_path: Path, position: float) -> None:
    rows = 20_000
    frame = pl.DataFrame({"area": ["A"] * rows, "time": [f"t{i}" for i in range(rows)], "mw": range(rows)})
    frame.write_parquet(tmp_path / "a.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    where = int(len(content) * position)
    content[where : where + 200] = b"\xff" * len(content[where : where + 200])
    (tmp_path / "a.parquet").write_bytes(content)
    declaration = declare(tmp_path, files={"glob": "*.parquet", "format": "parquet"})
    landing = land(declaration, tmp_path, None, None, START, tmp_path / "aside")
    assert landing.frame is None
    assert [item.name for item in landing.set_aside] == ["a.parquet"]


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    columns = {"series_id": "area", "ts": "time", "value": "mw", "published_at": "sent"}
    feed = Feed(tmp_path_factory.mktemp("feed"), columns=columns, horizon="6h", time_zone="Europe/Berlin")
    header = "area,time,mw,plan,temp,sent"
    for day in range(4):
        rows = []
        for i, row in enumerate(feed.hours(24 * day, 24 * day + 24)):
            sent = ["", f"{at(24 * day + i + 30):%Y-%m-%dT%H:%MZ}", "soon"][i % 7 % 3]
            rows.append(f"{row},{sent}")
        rows[day] = "A,not a time,1,2,3,"
        feed.write(f"day{day}.csv", [*rows, rows[5]], header)
    return feed


@settings(max_examples=60, deadline=None, derandomize=True)
@given(untils=st.lists(st.one_of(st.none(), st.integers(-30, 200)), max_size=8))
def test_any_sequence_of_untils_lands_the_same_rows(feed: Feed, untils: list[int | None]) -> None:
    everything = Feed.__new__(Feed)
    everything.folder, everything.declaration, everything.landed = feed.folder, feed.declaration, None
    feed.landed = None
    for until in untils:
        feed.land(at(until) if until is not None else None)
        if feed.landed is not None:
            # Never twice, neither whole nor pending.
            assert not feed.landed.select("file", "row_number", "pending").is_duplicated().any()
    feed.land()
    everything.land()
    assert _whole(feed.landed).equals(_whole(everything.landed))
    assert feed.landed is not None
    # What is pending is told of as it was published.
    pending = feed.landed.filter("pending").join(_whole(everything.landed), on=["file", "row_number"], suffix="_whole")
    assert pending.height == feed.landed["pending"].sum()
    assert pending["published_forecast"].equals(pending["published_forecast_whole"].alias("published_forecast"))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(until=st.integers(-10, 150))
def test_nothing_is_told_before_it_is_known(feed: Feed, until: int) -> None:
    feed.landed = None
    frame = feed.land(at(until)).frame
    assert frame is not None  # the rows without a time
    told = frame.filter(~pl.col("pending") & pl.col("known_at").is_not_null())
    assert (told["known_at"] <= at(until)).all()
    assert (frame.filter("pending")["known_at"] > at(until)).all()
    assert frame.filter("pending").select("value", "temperature").null_count().row(0) == (
        frame["pending"].sum(),
        frame["pending"].sum(),
    )
