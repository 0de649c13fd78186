"""The lake as a Dagster resource, for assets that write their tables themselves; and its storage configuration."""

import dagster as dg
from pydantic import Field

from lakehouse_assets.lake.base import AzureConfig, ClientConfig, GcsConfig, LocalConfig, S3Config
from lakehouse_assets.lake.table import Lake

StorageConfig = LocalConfig | S3Config | AzureConfig | GcsConfig


class LakeResource(dg.ConfigurableResource):
    """The Delta tables under one root, locally or on an object store."""

    root_uri: str = Field(description="Root of the Delta tables: a local folder or an object store URI.")
    storage_options: StorageConfig = Field(
        default=LocalConfig(), discriminator="provider", description="Access to the storage."
    )
    client_options: ClientConfig | None = Field(default=None, description="Options of the HTTP client of a storage.")

    def lake(self) -> Lake:
        """The lake."""
        return Lake(self.root_uri, storage_options_dict(self.storage_options, self.client_options))


def storage_options_dict(config: StorageConfig, client: ClientConfig | None = None) -> dict[str, str]:
    """Options as deltalake and polars take them: text, without what is not set and without `provider`."""
    options = {**config.str_dict(), **(client.str_dict() if client else {})}
    options.pop("provider")
    # object stores read `true`, not Python's `True`
    return {key: value.lower() if value in ("True", "False") else value for key, value in options.items()}
