"""Every environment variable that the project reads, with its type, default and meaning, in one class.

Nothing else in the package reads the environment. `lakehouse settings` prints what is in force.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from dagster import DefaultScheduleStatus, DefaultSensorStatus


_WEB = re.compile(r"https?://[!-~]+")
_MAILBOX = re.compile(r"[^\s@,<>]+@[^\s@,<>]+")


class SettingsError(ValueError):
    """A setting has a wrong value; the message is one line a setting, for the person who set it."""


class Settings(BaseSettings):
    """Settings of this process, read from `LAKEHOUSE_*` variables."""

    model_config = SettingsConfigDict(env_prefix="LAKEHOUSE_", extra="ignore", frozen=True)

    home: Path = Field(Path(".lakehouse"), description="Folder of all state; deleting it is a full reset.")
    lake: str | None = Field(
        None, description="Root URI of the Delta tables; by default the folder `lake` in the home."
    )
    mlflow_uri: str | None = Field(
        None, description="MLflow tracking URI; by default the SQLite file `mlflow.db` in the home."
    )
    data: Path = Field(Path("../shared/data"), description="Folder that the globs of source declarations start from.")
    config: Path | None = Field(
        None,
        description="Source declaration in force; by default `landing/source.yaml` in the home, else the simulator's.",
    )
    env: Literal["local", "production"] = Field(
        "local", description="Environment; schedules and sensors start by themselves only where they declare it."
    )
    engine: Literal["local", "dask", "ray"] = Field(
        "local", description="Where the shards of a fleet are worked on: by processes of this machine, or on a cluster."
    )
    engine_address: str | None = Field(
        None,
        validate_default=True,
        description="Address of the cluster: tcp://HOST:PORT of Dask's scheduler, HOST:PORT of Ray's head.",
    )
    workers: int | None = Field(
        None, ge=1, description="Processes that the engine `local` works with; by default one for each core."
    )
    seed: int = Field(20260101, ge=0, description="Seed of training, of resampling and of the simulator.")
    candidates: Literal["declared", "auto", "deep"] = Field(
        "declared",
        description="What competes in a training: what the model's definition names; a search (`auto`); or what is "
        "named, and neural networks (`deep`, which needs the extra of this name).",
    )
    host: str = Field("127.0.0.1", description="Address that the servers of `lakehouse ui` bind to.")
    dagster_port: int = Field(3000, ge=1, le=65535, description="Port of the Dagster web UI.")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="Port of the MLflow UI.")
    dagster_url: str | None = Field(
        None, description="Address of the Dagster web UI as others reach it, for links; by default from host and port."
    )
    reports_url: str | None = Field(
        None, description="Address under which the home's folder `reports` is served, for links; by default its path."
    )
    alert_webhook: SecretStr | None = Field(
        None, description="Address that alerts are posted to as JSON (a secret); none: no such alerts."
    )
    alert_email_to: str | None = Field(
        None, description="Addresses that alerts are mailed to, separated by commas; none: no such alerts."
    )
    alert_email_from: str | None = Field(
        None, validate_default=True, description="Address that alerts are mailed from; by default the first they go to."
    )
    smtp_host: str = Field("localhost", description="The mail server.")
    smtp_port: int = Field(587, ge=1, le=65535, description="Port of the mail server.")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="How the connection to the mail server is encrypted: after a greeting, at once, or not."
    )
    smtp_user: str | None = Field(None, description="User at the mail server; none: no login.")
    smtp_password: SecretStr | None = Field(
        None, validate_default=True, description="Password at the mail server (a secret)."
    )

    @field_validator("home", "data")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # Dagster changes the working directory of the processes that it starts; a relative folder would move with it.
        return value.expanduser().resolve()

    @field_validator("home")
    @classmethod
    def _readable(cls, value: Path) -> Path:
        # deltalake hands out the paths of data files in URL encoding, and polars then does not find them.
        if re.search(r'[\s"<>`#?{}%]|[^\x00-\x7f]', str(value)):
            raise ValueError("tables cannot be read below a path with spaces, # ? % or letters beyond ASCII")
        return value

    @field_validator("engine_address")
    @classmethod
    def _answerable(cls, value: str | None, info: ValidationInfo) -> str | None:
        engine = info.data.get("engine")
        if engine == "local" and value is not None:
            raise ValueError("LAKEHOUSE_ENGINE=local has no address; unset it, or set LAKEHOUSE_ENGINE to dask or ray")
        wanted = {
            "dask": (r"(tcp|tls)://[^\s/]+:\d{1,5}", "tcp://127.0.0.1:8786"),
            "ray": (r"[^\s/]+:\d{1,5}", "127.0.0.1:6379"),
        }
        if engine in wanted and not re.fullmatch(wanted[engine][0], value or ""):
            raise ValueError(f"LAKEHOUSE_ENGINE={engine} needs the address of its cluster, as {wanted[engine][1]}")
        return value

    @field_validator("dagster_url", "reports_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not _WEB.fullmatch(value):
            raise ValueError("is no address such as https://dagster.example.org")
        return value.rstrip("/") if value else None

    @field_validator("alert_webhook")
    @classmethod
    def _secret_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _WEB.fullmatch(value.get_secret_value()):
            raise ValueError("is no address such as https://chat.example.org/hooks/...")
        return value

    @field_validator("alert_email_to", "alert_email_from")
    @classmethod
    def _mailboxes(cls, value: str | None, info: ValidationInfo) -> str | None:
        addresses = [] if value is None else [one.strip() for one in value.split(",")]
        if not all(_MAILBOX.fullmatch(one) for one in addresses):
            raise ValueError("is no list of mail addresses, as ops@example.org, grid@example.org")
        if info.field_name == "alert_email_from" and len(addresses) > 1:
            raise ValueError("mails come from one address")
        return ", ".join(addresses) or None

    @field_validator("smtp_password")
    @classmethod
    def _login(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if (value is None) != (info.data.get("smtp_user") is None):
            raise ValueError("LAKEHOUSE_SMTP_USER and LAKEHOUSE_SMTP_PASSWORD are given both or neither")
        if value is not None and info.data.get("smtp_security") == "none":
            raise ValueError("is not sent unencrypted; unset it, or set LAKEHOUSE_SMTP_SECURITY to starttls or tls")
        return value

    @property
    def alert_mailboxes(self) -> list[str]:
        """Addresses that alerts are mailed to."""
        return self.alert_email_to.split(", ") if self.alert_email_to else []

    @property
    def dagster_address(self) -> str:
        """Address of the Dagster web UI, without a slash at the end."""
        return self.dagster_url or f"http://{self.host}:{self.dagster_port}"

    @property
    def reports(self) -> Path:
        """Folder of the pages about findings."""
        return self.home / "reports"

    @property
    def lake_uri(self) -> str:
        """Root URI of the Delta tables."""
        return self.lake or str(self.home / "lake")

    @property
    def landing(self) -> Path:
        """Folder of landing files, of the declaration in force and of files set aside."""
        return self.home / "landing"

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance (DAGSTER_HOME)."""
        return self.home / "dagster"

    @property
    def mlflow_tracking_uri(self) -> str:
        """URI of the MLflow tracking store and registry."""
        return self.mlflow_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def mlflow_artifact_root(self) -> Path:
        """Folder of MLflow artifacts, for experiments on the default store."""
        return self.home / "mlartifacts"

    @property
    def declaration_path(self) -> Path:
        """The source declaration in force; it need not exist."""
        return self.config or self.landing / "source.yaml"

    def schedule_status(self, *environments: str) -> "DefaultScheduleStatus":
        """Whether a schedule that declares these environments starts by itself in this one."""
        from dagster import DefaultScheduleStatus

        return DefaultScheduleStatus.RUNNING if self.env in environments else DefaultScheduleStatus.STOPPED

    def sensor_status(self, *environments: str) -> "DefaultSensorStatus":
        """Whether a sensor that declares these environments starts by itself in this one."""
        from dagster import DefaultSensorStatus

        return DefaultSensorStatus.RUNNING if self.env in environments else DefaultSensorStatus.STOPPED


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: a value is wrong; one line a value, with the variable's name.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(_line(str(e["loc"][0]), e["input"], e["msg"]) for e in error.errors())) from None


def _line(name: str, value: object, said: str) -> str:
    if SecretStr in get_args(Settings.model_fields[name].annotation):
        value = None if value is None else "**********"
    return f"LAKEHOUSE_{name.upper()}={value!r}: {said}"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return read_settings()
