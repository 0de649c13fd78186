from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.sources.times import resolve_times
from lakehouse_assets_tests.sources.declaring import declare


def _resolve(
    folder: Path,
    ts: list[str | None],
    series: list[str] | None = None,
    published: list[str] | None = None,
    **changes: object,
) -> pl.DataFrame:
    columns = {"series_id": "area", "ts": "time", "value": "mw"}
    frame = pl.DataFrame(
        {"file": "f", "series_id": series or ["A"] * len(ts), "ts": ts, "row_number": range(1, len(ts) + 1)},
        schema_overrides={"ts": pl.String, "row_number": pl.Int64},
    )
    if published is not None:
        frame = frame.with_columns(published_at=pl.Series(published))
        columns["published_at"] = "sent"
    return resolve_times(frame.lazy(), declare(folder, columns=columns, **changes)).collect()


def _utc(frame: pl.DataFrame, column: str = "ts_utc") -> list[str | None]:
    return frame[column].dt.strftime("%Y-%m-%d %H:%M").to_list()


def test_forms_of_a_time(tmp_path: Path) -> None:
    forms = {
        "2020-07-01": "2020-06-30 22:00",
        "2020-07-01 12:00": "2020-07-01 10:00",
        "2020-07-01T12:00:00": "2020-07-01 10:00",
        " 2020-07-01 12:00:00.5 ": "2020-07-01 10:00",
        "2020-07-01T12:00Z": "2020-07-01 12:00",
        "2020-07-01T12:00:00+05:30": "2020-07-01 06:30",
        "2020-07-01 12:00:00-0430": "2020-07-01 16:30",
        "2020-07-01 12:00 +02": "2020-07-01 10:00",
    }
    assert _utc(_resolve(tmp_path, list(forms), time_zone="Europe/Berlin")) == list(forms.values())


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "soon", "12.5", "1577836800", "2020-13-01", "2020-02-30", "2019-02-29 10:00", "2020-01-01 24:00"),
        *("2020-01-01 10:61", "2020-01-01 10:00:60", "01/02/2020", "2020-1-1", "0000-01-01", "2020-01-01 10"),
        "2020-01-01T10:00+99:00",
    ],
)
def test_what_is_no_time_is_null(tmp_path: Path, text: str | None) -> None:
    frame = _resolve(tmp_path, [text, "2020-01-01"], time_zone="Europe/Berlin")
    assert frame.select("ts_utc", "month", "known_at").row(0) == (None, None, None)
    assert frame["ts_utc"][1] is not None


def test_the_repeated_hour_becomes_two(tmp_path: Path) -> None:
    times = [f"2020-11-01 {t}" for t in ("00:30", "01:00", "01:30", "01:00", "01:30", "02:00")]
    frame = _resolve(tmp_path, times, time_zone="America/New_York", interval="30m")
    assert [t[11:] for t in _utc(frame) if t] == ["04:30", "05:00", "05:30", "06:00", "06:30", "07:00"]


def test_each_series_has_its_own_repeated_hour(tmp_path: Path) -> None:
    times = ["2020-11-01 01:00"] * 4
    frame = _resolve(tmp_path, times, series=["A", "B", "B", "A"], time_zone="America/New_York")
    assert [t[11:] for t in _utc(frame) if t] == ["05:00", "05:00", "06:00", "06:00"]


def test_occurrences_follow_row_numbers(tmp_path: Path) -> None:
    declaration = declare(tmp_path, time_zone="America/New_York")
    rows = pl.DataFrame({"file": "f", "series_id": "A", "ts": "2020-11-01 01:00", "row_number": [2, 1]})
    frame = resolve_times(rows.lazy(), declaration).collect()
    assert frame["row_number"].to_list() == [2, 1]
    assert [t[11:] for t in _utc(frame) if t] == ["06:00", "05:00"]


def test_the_missing_hour_moves_forward(tmp_path: Path) -> None:
    frame = _resolve(
        tmp_path, ["2020-03-08 01:30", "2020-03-08 02:30", "2020-03-08 03:30"], time_zone="America/New_York"
    )
    assert [t[11:] for t in _utc(frame) if t] == ["06:30", "07:30", "07:30"]
    # Samoa skipped a whole day.
    assert _utc(_resolve(tmp_path, ["2011-12-30 12:00"], time_zone="Pacific/Apia")) == ["2011-12-30 22:00"]


def test_an_offset_decides_within_the_repeated_hour(tmp_path: Path) -> None:
    times = ["2020-10-25T02:00+01:00", "2020-10-25T02:00+02:00", "2020-10-25T02:00"]
    assert [t[11:] for t in _utc(_resolve(tmp_path, times, time_zone="Europe/Berlin")) if t] == [
        "01:00",
        "00:00",
        "00:00",
    ]


def test_marks_of_the_end(tmp_path: Path) -> None:
    # The hour that ends at 02:00 is the repeated one; none ends at 03:00 in spring.
    autumn = ["2014-11-02T01:00", "2014-11-02T02:00", "2014-11-02T02:00", "2014-11-02T03:00"]
    frame = _resolve(tmp_path, autumn, time_zone="America/New_York", ts_marks="end")
    assert [t[11:] for t in _utc(frame) if t] == ["04:00", "05:00", "06:00", "07:00"]
    spring = ["2014-03-09T02:00", "2014-03-09T04:00"]
    frame = _resolve(tmp_path, spring, time_zone="America/New_York", ts_marks="end")
    assert [t[11:] for t in _utc(frame) if t] == ["06:00", "07:00"]
    assert _utc(_resolve(tmp_path, ["2014-01-01T00:00Z"], ts_marks="end")) == ["2013-12-31 23:00"]


def test_known_at_and_month(tmp_path: Path) -> None:
    published = ["2020-02-01 09:00", "nonsense", ""]
    times = ["2020-01-31 23:30", "2020-02-01 00:00", "bad"]
    frame = _resolve(tmp_path, times, published=published, time_zone="Europe/Berlin", publication_delay="2h")
    assert _utc(frame, "known_at") == ["2020-02-01 08:00", "2020-02-01 02:00", None]
    assert frame["month"].cast(pl.String).to_list() == ["2020-01-01", "2020-01-01", None]
    daily = _resolve(tmp_path, ["2020-10-25"], time_zone="Europe/Berlin", interval="1d")
    assert _utc(daily, "known_at") == ["2020-10-25 23:00"]  # a local day of 25 hours


@pytest.mark.parametrize(
    ("zone", "minutes"),
    [("America/New_York", 15), ("America/New_York", 60), ("Australia/Lord_Howe", 30), ("Europe/Berlin", 30)],
)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_regular_local_times_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, zone: str, minutes: int, data: st.DataObject
) -> None:
    """Any regular stretch, written as wall-clock text by series and file order, is the same instants again."""
    first = data.draw(st.datetimes(datetime(2010, 1, 1), datetime(2024, 1, 1)).map(lambda t: t.replace(minute=0)))
    first = first.replace(second=0, microsecond=0, tzinfo=UTC)
    length = data.draw(st.integers(2, 24 * 300 * 60 // minutes))
    instants = pl.datetime_range(first, first + timedelta(minutes=minutes * (length - 1)), f"{minutes}m", eager=True)
    form = data.draw(st.sampled_from(["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%:z"]))
    texts = instants.dt.convert_time_zone(zone).dt.strftime(form).to_list()
    frame = _resolve(tmp_path_factory.mktemp("d"), texts, time_zone=zone, interval=f"{minutes}m")
    assert frame.height == length
    assert frame["ts_utc"].equals(instants.cast(pl.Datetime("us", "UTC")).alias("ts_utc"))
    assert (frame["ts_utc"].diff().drop_nulls() > timedelta(0)).all()


@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Lord_Howe", "Europe/Berlin", "Asia/Kathmandu"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(clocks=st.lists(st.datetimes(datetime(2019, 1, 1), datetime(2021, 1, 1)), min_size=1, max_size=20))
def test_any_clock_time_is_read_as_the_standard_library_reads_it(
    tmp_path_factory: pytest.TempPathFactory, zone: str, clocks: list[datetime]
) -> None:
    clocks = list(dict.fromkeys(clock.replace(microsecond=0) for clock in clocks))
    frame = _resolve(tmp_path_factory.mktemp("d"), [clock.isoformat() for clock in clocks], time_zone=zone)
    # fold=0: the first of a repeated time, and the offset before a gap.
    expected = [clock.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC) for clock in clocks]
    assert frame["ts_utc"].to_list() == expected
