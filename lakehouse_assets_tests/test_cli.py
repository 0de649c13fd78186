"""The `lakehouse` command: help, and what it says and how it ends when it is used wrongly."""

import subprocess
import sys
from pathlib import Path

import pytest

from lakehouse_assets_tests.operation.commands import Commands, Ended

DECLARATION = """\
name: mine
files: {glob: "rows/*.csv", format: csv}
columns: {series_id: area, ts: time, value: load}
time_zone: UTC
interval: 1h
unit: {kind: power, name: MW}
start: 2024-01-01
"""
COMMANDS = (
    *("quickstart", "run", "replay", "status", "models", "retrain", "rollback", "pin", "unpin"),
    *("simulate", "settings", "ui"),
)


def assert_usage_error(ended: Ended, *said: str) -> None:
    assert ended.code == 2, ended
    assert "Traceback" not in ended.out + ended.err
    message = " ".join(ended.err.split())
    for part in said:
        assert part in message, message


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A right declaration, with a landing file."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.csv").write_text("area,time,load\nA,2024-01-01T00:00,5\n")
    path = tmp_path / "source.yaml"
    path.write_text(DECLARATION)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(lakehouse: Commands, tmp_path: Path, command: str) -> None:
    ended = lakehouse(command, "--help", home=tmp_path)
    assert ended.code == 0, ended.err
    assert command in ended.out
    assert len(ended.out) > 300


def test_as_a_module_and_without_a_command_it_shows_all_commands(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "lakehouse_assets.cli", "--help"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for command in COMMANDS:
        assert f" {command} " in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], ["nonsense"]),
        (["run"], ["--config"]),
        (["run", "--config", "absent.yaml"], ["error: there is no file absent.yaml"]),
        (["replay", "--start", "2024-01-01", "--end", "soon"], ["error: 'soon' is no time", "2019-07-02"]),
        (["replay", "--start", "2024-13-01", "--end", "2024-02-01"], ["error: '2024-13-01' is no time"]),
        (["replay", "--start", "2024-02-01", "--end", "2024-02-01"], ["--start 2024-02-01", "before --end"]),
        (["replay", "--start", "2024-02-02", "--end", "2024-02-01"], ["--start 2024-02-02", "before --end"]),
        (["replay", "--start", "2024-01-01", "--end", "2024-02-01", "--step", "week"], ["'week' is no step", "7d"]),
        (["replay", "--start", "2024-01-01", "--end", "2024-02-01", "--step", "0d"], ["'0d' is no step"]),
        (["replay", "--start", "2024-01-01", "--end", "2024-02-01", "--step", ""], ["'' is no step"]),
        (["replay", "--start", "2024-01-01", "--end", "2024-02-01"], ["holds no source yet", "lakehouse run --config"]),
        (["retrain", "no_such_model"], ["there is no model 'no_such_model'", "demand_forecast"]),
        (["rollback", "no_such_model"], ["there is no model 'no_such_model'", "demand_forecast"]),
        (["rollback", "demand_forecast"], ["demand_forecast has no champion"]),
        (["rollback", "demand_forecast", "--series", "a", "--group", "b"], ["give --series or --group, not both"]),
        (["pin", "demand_forecast", "--series", "a"], ["demand_forecast has no champion"]),
        (["pin", "demand_forecast", "--version", "x"], ["--version", "integer"]),
        (["unpin", "no_such_model"], ["there is no model 'no_such_model'"]),
        (["models", "show"], ["Missing argument 'model'"]),
        (["models", "show", "no_such_model"], ["there is no model 'no_such_model'"]),
        (["models", "show", "demand_forecast", "--series", "a"], ["demand_forecast has no champion"]),
        (["simulate", "w", "--start", "2024-02-01", "--end", "2024-01-01"], ["must be after start"]),
        (["simulate", "w", "--start", "today"], ["'today' is no time"]),
        (["simulate", "w", "--series", "0"], ["--series"]),
        (["simulate", "w", "--interval", "7"], ["interval_minutes"]),
        (["simulate", "w", "--change", "meteor:2024-03-01"], ["'meteor' is no change", "tariff"]),
        (["simulate", "w", "--change", "tariff"], ["is no time"]),
        (["simulate", "w", "--change", "tariff:2024-03-01:big"], ["'big'"]),
    ],
)
def test_wrong_use_ends_with_2_and_says_what_is_wrong(
    lakehouse: Commands, tmp_path: Path, arguments: list[str], said: list[str]
) -> None:
    arguments = [str(tmp_path / "w") if argument == "w" else argument for argument in arguments]
    assert_usage_error(lakehouse(*arguments, home=tmp_path / "home"), *said)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("wrong", "line", "said"),
    [
        ("interval: 7h", 5, "interval"),
        ("interval: 1h\nzone: UTC", 6, "zone"),
        ("interval: [1h", 5, ""),
    ],
)
def test_a_wrong_declaration_is_told_by_file_and_line(
    lakehouse: Commands, tmp_path: Path, source: Path, wrong: str, line: int, said: str
) -> None:
    source.write_text(DECLARATION.replace("interval: 1h", wrong))
    ended = lakehouse("run", "--config", source, home=tmp_path / "home")
    assert_usage_error(ended, said)
    assert "source.yaml:" in ended.err.replace("\n", "")
    if said:
        assert f"source.yaml:{line}" in ended.err.replace("\n", "")


def test_a_wrong_time_is_told_before_anything_is_made(lakehouse: Commands, tmp_path: Path, source: Path) -> None:
    ended = lakehouse("run", "--config", source, "--until", "2024-02-30", home=tmp_path / "home")
    assert_usage_error(ended, "'2024-02-30' is no time")
    assert not (tmp_path / "home").exists()


def test_a_declaration_that_broke_in_the_home_is_told(lakehouse: Commands, tmp_path: Path) -> None:
    landing = tmp_path / "home" / "landing"
    landing.mkdir(parents=True)
    (landing / "source.yaml").write_text(DECLARATION + "nonsense: 1\n")
    for arguments in (["status"], ["replay", "--start", "2024-01-01", "--end", "2024-02-01"]):
        assert_usage_error(lakehouse(*arguments, home=tmp_path / "home"), "source.yaml:8", "nonsense")


def test_a_home_keeps_to_its_source(lakehouse: Commands, tmp_path: Path, source: Path) -> None:
    landing = tmp_path / "home" / "landing"
    landing.mkdir(parents=True)
    (landing / "source.yaml").write_text(DECLARATION.replace("mine", "another"))
    for arguments in (["run", "--config", source], ["quickstart"]):
        ended = lakehouse(*arguments, home=tmp_path / "home")
        assert_usage_error(ended, "already holds the source 'another'", "LAKEHOUSE_HOME")


def test_a_failed_run_ends_with_1_and_says_which_step(lakehouse: Commands, tmp_path: Path, source: Path) -> None:
    """One row is too little history to train on: what can be made is made, and the rest is said."""
    home = tmp_path / "home"
    ended = lakehouse("run", "--config", source, "--until", "2024-01-02", home=home)
    assert ended.code == 1, ended
    message = " ".join(ended.err.split())
    assert "failed:" in message
    assert "step models__demand_forecast" in message
    assert "too little history" in message
    assert "Traceback" not in ended.out + ended.err
    ended = lakehouse("status", home=home)
    assert ended.code == 0, ended.err
    assert "silver/demand" in ended.out
    assert "no champion yet" in ended.out
    assert_usage_error(lakehouse("rollback", "demand_forecast", home=home), "demand_forecast has no champion")


def test_status_of_an_empty_home(lakehouse: Commands, tmp_path: Path) -> None:
    ended = lakehouse("status", "--json", home=tmp_path)
    assert ended.code == 0, ended.err
    assert '"tables": {}' in ended.out
    assert '"champion": null' in ended.out
