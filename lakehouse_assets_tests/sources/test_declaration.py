import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from lakehouse_assets.settings import Settings
from lakehouse_assets.sources.declaration import DeclarationError, active_declaration, load_declaration
from lakehouse_assets_tests.sources.declaring import COVARIATES, declare

GOOD = """\
name: plant
files:
  glob: "*.csv"
  format: csv
columns:
  series_id: area
  ts: time
  value: mw
time_zone: Europe/Berlin
interval: 30m
unit: {kind: power, name: MW}
covariates:
  temp:
    column: temp
    known: after
  plan: {column: plan, known: before, role: published_forecast}
publication_delay: 2h
issue_time: 12:30
horizon: 36h
start: 2020-01-01
"""


def _error(folder: Path, text: str) -> list[str]:
    path = folder / "x.yaml"
    path.write_text(text)
    with pytest.raises(DeclarationError) as error:
        load_declaration(path)
    return str(error.value).replace(f"{path}:", "").split("\n")


def test_helpers_of_a_good_declaration(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    declaration = load_declaration(tmp_path / "x.yaml")
    assert declaration.covariate_columns == ["temp", "published_forecast"]
    assert (declaration.before, declaration.after) == (["published_forecast"], ["temp"])
    assert declaration.raw_columns == ["series_id", "ts", "value", "temp", "published_forecast"]
    assert declaration.interval_td == timedelta(minutes=30)
    assert declaration.publication_delay_td == timedelta(hours=2)
    assert declaration.horizon_hours == 36
    assert declaration.start == date(2020, 1, 1)
    assert declaration.issue_time == "12:30"  # YAML 1.1 would read the number 750
    assert declaration.folder == tmp_path
    assert declaration.allow_negative is False


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("known: after", "known: during", "15: covariates.temp.known: must be 'before' or 'after'"),
        ("  ts: time\n", "", "5: columns.ts: is missing"),
        ("interval: 30m\n", "", "1: interval: is missing"),
        ("horizon: 36h", "horizons: 36h", "19: horizons: is not known here"),
        ("    column: temp\n", "    column: temp\n    colour: red\n", "15: covariates.temp.colour: is not known here"),
        ("Europe/Berlin", "Europe/Nowhere", "9: time_zone: 'Europe/Nowhere' is not an IANA time zone"),
        ("Europe/Berlin", "Europe", "9: time_zone: 'Europe' is not an IANA time zone"),
        ("Europe/Berlin", "../etc", "9: time_zone: '../etc' is not an IANA time zone"),
        ("interval: 30m", "interval: half an hour", "10: interval: 'half an hour' is not a duration"),
        ("interval: 30m", "interval: 7h", "10: interval: '7h' must be from 15m to 1d and divide a day"),
        ("interval: 30m", "interval: 5m", "10: interval: '5m' must be from 15m to 1d and divide a day"),
        ("horizon: 36h", "horizon: 90m", "19: horizon: '90m' must be whole hours"),
        ("horizon: 36h", "horizon: 8d", "19: horizon: '8d' must be whole hours"),
        ("issue_time: 12:30", "issue_time: 24:00", "18: issue_time: '24:00' is not a time of day"),
        ("start: 2020-01-01", "issue_every: 5h\nstart: 2020-01-01", "20: issue_every: '5h' must be whole hours"),
        ("start: 2020-01-01", "issue_every: 30m\nstart: 2020-01-01", "20: issue_every: '30m' must be whole hours"),
        ("start: 2020-01-01", "warm_up: 3d\nstart: 2020-01-01", "20: warm_up: '3d' must be from 7d to 366d"),
        ("ts: time", "ts: {step: n, end: 2020-01-31T10:30}", "7: columns.ts.end: 2020-01-31 10:30:00+00:00 must be a"),
        (
            "ts: time",
            "ts: {step: n, end: 2020-01-31, of: x}",
            "7: columns.ts.of: is not known here; known are step, end",
        ),
        ("start: 2020-01-01", "start: 2020-02-30", "20: start: '2020-02-30' is not a date"),
        ("unit: {kind: power, name: MW}", "unit: MW", "11: unit: must be a mapping"),
        ("  plan: {", "  temp: {", "16: covariates.temp: is declared twice, first in line 13"),
        ("  plan: {", "  lag_24h: {", None),
        ("role: published_forecast}", "role: forecast}", "16: covariates.plan.role: must be 'published_forecast'"),
        (
            "known: before, role",
            "known: after, role",
            "16: covariates.plan.role: published_forecast needs known: be",
        ),
        ("  temp:\n", "  quality:\n", "13: covariates.quality: the name is taken by a column of the tables"),
        ("  temp:\n", "  Air-Temp:\n", "13: covariates.Air-Temp: must be a snake_case word"),
        ("    known: after\n", "    known: before\n    role: published_forecast\n", "plan.role: temp has this role"),
        ("name: plant", "name: 'my plant'", "1: name: 'my plant' must be a snake_case word"),
        ("  format: csv", "  format:", "4: files.format: must be 'csv', 'ndjson' or 'parquet'"),
        ("files:\n", "files: [\n", "not valid YAML"),
    ],
)
def test_an_error_names_line_and_key(tmp_path: Path, old: str, new: str, expected: str | None) -> None:
    assert GOOD.count(old) == 1
    text = GOOD.replace(old, new)
    if expected is None:  # a covariate with the role is stored under the role's name, so its own may be anything
        (tmp_path / "x.yaml").write_text(text)
        assert load_declaration(tmp_path / "x.yaml").before == ["published_forecast"]
        return
    lines = _error(tmp_path, text)
    assert len(lines) == 1
    assert expected in lines[0]


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("30m", "soon").replace("known: after", "known: maybe").replace("value: mw", "valeu: mw")
    assert [line.split(": ")[1] for line in _error(tmp_path, text)] == [
        "columns.value",
        "columns.valeu",
        "interval",
        "covariates.temp.known",
    ]


def test_a_wrong_constant(tmp_path: Path) -> None:
    assert _error(tmp_path, GOOD.replace("series_id: area", "series_id: {const: area}")) == [
        "6: columns.series_id.const: is not known here; known are constant",
        "6: columns.series_id.constant: is missing",
    ]


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_no_mapping_at_all(tmp_path: Path, text: str) -> None:
    assert _error(tmp_path, text) == ["1: must be a mapping of keys to values"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"nothing\.yaml: there is no such file"):
        load_declaration(tmp_path / "nothing.yaml")


def test_issue_times_keep_the_clock_through_daylight_saving(tmp_path: Path) -> None:
    declaration = declare(tmp_path, time_zone="Europe/Berlin", issue_time="02:30")
    times = declaration.issue_times(datetime(2020, 3, 28, 1, 30, tzinfo=UTC), datetime(2020, 3, 30, 1, tzinfo=UTC))
    # 02:30 is at 01:30 UTC in winter and 00:30 UTC in summer; on the 29th the clock skips it.
    assert [f"{t:%d %H:%M}" for t in times] == ["28 01:30", "29 01:30", "30 00:30"]


def test_issue_time_zone(tmp_path: Path) -> None:
    declaration = declare(tmp_path, time_zone="Australia/Sydney", issue_time="06:00", issue_time_zone="UTC")
    moment = datetime(2020, 1, 1, 6, tzinfo=UTC)
    assert declaration.issue_times(moment, moment) == [moment]


def test_issue_times_through_the_day_keep_their_pauses(tmp_path: Path) -> None:
    declaration = declare(tmp_path, time_zone="Europe/Berlin", issue_time="02:30", issue_every="12h")
    times = declaration.issue_times(datetime(2020, 3, 28, 1, 30, tzinfo=UTC), datetime(2020, 3, 30, 12, tzinfo=UTC))
    # The day from the 29th to the 30th has 23 hours.
    assert [f"{t:%d %H:%M}" for t in times] == ["28 01:30", "28 13:30", "29 01:30", "29 13:30", "30 00:30"]


def test_cron_schedules_follow_the_issue_times(tmp_path: Path) -> None:
    assert declare(tmp_path, issue_time="23:45").issue_cron(30) == ("15 0 * * *", "UTC")
    often = declare(tmp_path, issue_time="05:45", issue_every="8h", issue_time_zone="Europe/Berlin")
    assert often.issue_cron(30) == ("15 6,14,22 * * *", "Europe/Berlin")
    assert often.issue_cron(60, "* * 1", daily=True)[0] == "45 6 * * 1"


def test_active_declaration(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert active_declaration(settings).name == "simulated"
    settings.landing.mkdir()
    declare(settings.landing, covariates=COVARIATES)
    assert active_declaration(settings).name == "plant"
    declare(settings.landing, name="other")
    os.utime(settings.declaration_path, ns=(1, 1))  # an edit is seen even where the clock is coarse
    assert active_declaration(settings).name == "other"
    with pytest.raises(DeclarationError, match="no such file"):
        active_declaration(Settings(home=tmp_path, config=tmp_path / "missing.yaml"))
