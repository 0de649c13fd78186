"""Settings: defaults, variables, and what is said about a wrong value."""

from pathlib import Path

import pytest

from lakehouse_assets.settings import Settings, SettingsError, read_settings
from lakehouse_assets_tests.operation.commands import Commands


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LAKEHOUSE_{name.upper()}", raising=False)


def test_all_state_lies_in_the_home_by_default() -> None:
    settings = read_settings()
    home = Path.cwd() / ".lakehouse"
    assert settings.home == home
    assert settings.lake_uri == str(home / "lake")
    assert settings.mlflow_tracking_uri == f"sqlite:///{home / 'mlflow.db'}"
    assert settings.mlflow_artifact_root == home / "mlartifacts"
    assert settings.dagster_home == home / "dagster"
    assert settings.landing == home / "landing"
    assert settings.declaration_path == home / "landing" / "source.yaml"
    assert settings.env == "local"
    assert settings.host == "127.0.0.1"


def test_variables_replace_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path))
    monkeypatch.setenv("LAKEHOUSE_LAKE", "s3://bucket/lake")
    monkeypatch.setenv("LAKEHOUSE_MLFLOW_URI", "http://mlflow:5000")
    monkeypatch.setenv("LAKEHOUSE_ENV", "production")
    monkeypatch.setenv("LAKEHOUSE_SEED", "3")
    settings = read_settings()
    assert settings.home == tmp_path
    assert settings.lake_uri == "s3://bucket/lake"
    assert settings.mlflow_tracking_uri == "http://mlflow:5000"
    assert (settings.env, settings.seed) == ("production", 3)
    assert settings.landing == tmp_path / "landing"


def test_schedules_start_only_where_they_declare_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_ENV", "production")
    settings = read_settings()
    assert settings.schedule_status("local").value == "STOPPED"
    assert settings.schedule_status("local", "production").value == "RUNNING"
    assert settings.sensor_status("local").value == "STOPPED"
    assert settings.sensor_status("production").value == "RUNNING"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENV", "staging"),
        ("SEED", "many"),
        ("SEED", "-1"),
        ("DAGSTER_PORT", "70000"),
        ("MLFLOW_PORT", "x"),
        ("WORKERS", "0"),
        ("ENGINE", "spark"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"LAKEHOUSE_{name}", value)
    with pytest.raises(SettingsError) as raised:
        read_settings()
    said = str(raised.value)
    assert said.startswith(f"LAKEHOUSE_{name}={value!r}: ")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("engine", "address", "said"),
    [
        ("dask", None, "LAKEHOUSE_ENGINE=dask needs the address of its cluster, as tcp://127.0.0.1:8786"),
        ("dask", "127.0.0.1:8786", "as tcp://127.0.0.1:8786"),
        ("ray", None, "LAKEHOUSE_ENGINE=ray needs the address of its cluster, as 127.0.0.1:6379"),
        ("ray", "head", "as 127.0.0.1:6379"),
        ("local", "127.0.0.1:6379", "LAKEHOUSE_ENGINE=local has no address; unset it"),
    ],
)
def test_an_engine_is_given_with_its_address(
    monkeypatch: pytest.MonkeyPatch, engine: str, address: str | None, said: str
) -> None:
    monkeypatch.setenv("LAKEHOUSE_ENGINE", engine)
    if address:
        monkeypatch.setenv("LAKEHOUSE_ENGINE_ADDRESS", address)
    with pytest.raises(SettingsError) as raised:
        read_settings()
    assert str(raised.value).startswith(f"LAKEHOUSE_ENGINE_ADDRESS={address!r}: ")
    assert said in str(raised.value)


def test_an_engine_with_its_address_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine, address in (("dask", "tls://scheduler:8786"), ("ray", "10.0.0.1:6379")):
        monkeypatch.setenv("LAKEHOUSE_ENGINE", engine)
        monkeypatch.setenv("LAKEHOUSE_ENGINE_ADDRESS", address)
        settings = read_settings()
        assert (settings.engine, settings.engine_address, settings.workers) == (engine, address, None)


def test_alerts_are_given_with_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_ALERT_EMAIL_TO", "ops@example.org,grid@example.org")
    monkeypatch.setenv("LAKEHOUSE_DAGSTER_URL", "https://dagster.example.org/")
    settings = read_settings()
    assert settings.alert_mailboxes == ["ops@example.org", "grid@example.org"]
    assert settings.dagster_address == "https://dagster.example.org"
    monkeypatch.delenv("LAKEHOUSE_DAGSTER_URL")
    monkeypatch.setenv("LAKEHOUSE_DAGSTER_PORT", "3001")
    assert read_settings().dagster_address == "http://127.0.0.1:3001"
    for name, value, said in (
        ("ALERT_EMAIL_TO", "ops", "no list of mail addresses"),
        ("ALERT_EMAIL_FROM", "a@example.org, b@example.org", "come from one address"),
        ("REPORTS_URL", "pages.example.org", "no address such as"),
        ("SMTP_USER", "lake", "given both or neither"),
    ):
        monkeypatch.setenv(f"LAKEHOUSE_{name}", value)
        with pytest.raises(SettingsError, match=said):
            read_settings()
        monkeypatch.delenv(f"LAKEHOUSE_{name}")


def test_secrets_are_shown_nowhere(monkeypatch: pytest.MonkeyPatch, lakehouse: Commands, tmp_path: Path) -> None:
    secret = "t0p-s3cret"
    right = {
        "LAKEHOUSE_ALERT_WEBHOOK": f"https://chat.example.org/{secret}",
        "LAKEHOUSE_SMTP_USER": "lake",
        "LAKEHOUSE_SMTP_PASSWORD": secret,
    }
    for name, value in right.items():
        monkeypatch.setenv(name, value)
    assert secret not in repr(read_settings())
    ended = lakehouse("settings", home=tmp_path, env=right)
    assert "LAKEHOUSE_SMTP_USER=lake" in ended.out
    assert secret not in ended.out + ended.err
    for wrong in (
        {"LAKEHOUSE_ALERT_WEBHOOK": f"chat.example.org/{secret}"},
        {"LAKEHOUSE_ALERT_WEBHOOK": f"https://chat.example.org/{secret}ä"},
        {"LAKEHOUSE_SMTP_SECURITY": "none"},
    ):
        ended = lakehouse("settings", home=tmp_path, env={**right, **wrong})
        assert ended.code == 2
        assert "**********" in ended.err
        assert secret not in ended.out + ended.err


def test_the_command_lists_every_setting(lakehouse: Commands, tmp_path: Path) -> None:
    ended = lakehouse("settings", home=tmp_path, env={"LAKEHOUSE_SEED": "77"})
    assert ended.code == 0, ended.err
    for name, field in Settings.model_fields.items():
        assert f"LAKEHOUSE_{name.upper()}" in ended.out
        assert str(field.description).split(";")[0] in " ".join(ended.out.split())
    assert "77" in ended.out
    assert str(tmp_path) in ended.out
    assert list(tmp_path.iterdir()) == []  # looking changes nothing


def test_the_command_says_what_is_wrong_and_ends_with_2(lakehouse: Commands, tmp_path: Path) -> None:
    for command in ("settings", "status"):
        ended = lakehouse(command, home=tmp_path, env={"LAKEHOUSE_ENV": "staging"})
        assert ended.code == 2
        assert ended.err.strip() == "error: LAKEHOUSE_ENV='staging': Input should be 'local' or 'production'"


@pytest.mark.parametrize("name", ["my home", "häuslich", "50%", "a#b"])
def test_a_home_below_which_tables_could_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path / name))
    with pytest.raises(SettingsError, match=r"LAKEHOUSE_HOME=.*cannot be read below a path with spaces"):
        read_settings()
