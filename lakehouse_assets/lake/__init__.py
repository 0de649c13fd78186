"""Delta storage: tables, the IO manager, and what turns a contract and a transform into an asset."""

from lakehouse_assets.lake.base import AzureConfig, ClientConfig, GcsConfig, LocalConfig, S3Config
from lakehouse_assets.lake.io_manager import DeltaIOManager
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table import Lake, Table

__all__ = [
    "AzureConfig",
    "ClientConfig",
    "DeltaIOManager",
    "GcsConfig",
    "Lake",
    "LakeResource",
    "LocalConfig",
    "S3Config",
    "Table",
]
