"""The IO manager: outputs of assets become Delta tables, and inputs are scans of them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_origin

import dagster as dg
import polars as pl
from deltalake.exceptions import TableNotFoundError
from pydantic import Field

from lakehouse_assets.lake.base import AzureConfig, ClientConfig, DeltaLakeIOManager, GcsConfig, LocalConfig, S3Config
from lakehouse_assets.lake.partitions import partition_columns, partition_predicate
from lakehouse_assets.lake.predicate import parse_predicate
from lakehouse_assets.lake.resource import StorageConfig
from lakehouse_assets.lake.resource import storage_options_dict as storage_options_dict
from lakehouse_assets.lake.table import Frame, Lake, Table, WriteResult

__all__ = [
    "AzureConfig",
    "ClientConfig",
    "DeltaIOManager",
    "GcsConfig",
    "LocalConfig",
    "MissingTableError",
    "S3Config",
    "storage_options_dict",
]


class MissingTableError(LookupError):
    """An input's table does not exist: its asset has not been materialised yet."""


class DeltaIOManager(DeltaLakeIOManager):
    """Stores polars frames as Delta tables at `<root_uri>/<asset key>` and loads them as lazy scans.

    Metadata of an asset that it reads:

    * `partition_expr`: the column that tells partitions apart; for several dimensions a dict, dimension -> column.
    * `partition_by`: Delta partition columns; by default the columns of `partition_expr` but for timestamps.
    * `mode`: "overwrite" (default; the partitions of the run, or the whole of an unpartitioned table), "append" or
      "merge" (upsert by `merge_keys`).
    * `schema_mode`: "merge" or "overwrite", as in `Table`; by default a changed schema is an error.

    Metadata of an input that it reads: `columns`, a list.

    Rows that do not lie in the partitions of the run are refused. The data version of a materialisation is the Delta
    version, and the Delta commit names the Dagster run.
    """

    root_uri: str = Field(description="Root of the Delta tables: a local folder or an object store URI.")
    storage_options: StorageConfig = Field(
        default=LocalConfig(), discriminator="provider", description="Access to the storage."
    )
    client_options: ClientConfig | None = Field(default=None, description="Options of the HTTP client of a storage.")

    # Fields of the base class that have no meaning here: what they said for all tables, an asset's metadata says.
    mode: ClassVar[None] = None  # type: ignore[misc]
    overwrite_schema: ClassVar[None] = None  # type: ignore[misc]
    writer_engine: ClassVar[None] = None  # type: ignore[misc]
    table_config: ClassVar[None] = None  # type: ignore[misc]
    schema_: ClassVar[None] = None  # type: ignore[misc]
    custom_metadata: ClassVar[None] = None  # type: ignore[misc]
    writer_properties: ClassVar[None] = None  # type: ignore[misc]

    @staticmethod
    def type_handlers() -> Sequence[Any]:
        """None: the frames need no conversion on their way."""
        return []

    def create_io_manager(self, context: Any) -> "DeltaTables":  # type: ignore[override]
        """The IO manager proper."""
        return DeltaTables(Lake(self.root_uri, storage_options_dict(self.storage_options, self.client_options)))


class DeltaTables(dg.IOManager):
    """Stores and loads the tables of one lake; see `DeltaIOManager`."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write a frame; nothing for None.

        Raises:
            WriteRefusedError: rows lie outside of the run's partitions, or merge keys are not unique.
            SchemaChangedError: the columns are not the table's, and `schema_mode` does not allow it.
        """
        if obj is None:
            return
        name = _name(context)
        if not isinstance(obj, pl.DataFrame | pl.LazyFrame):
            raise TypeError(
                f"{name} is a {type(obj).__name__}; DeltaIOManager stores polars DataFrames and LazyFrames."
            )
        table = self._table(context)
        result = _write(context, name, table, obj)
        known = {**context.definition_metadata, **context.output_metadata}
        context.add_output_metadata(
            {key: value for key, value in _metadata(context, table, obj, result).items() if key not in known}
        )
        if context.has_asset_key and not context.step_context.has_data_version(context.asset_key):
            context.step_context.set_data_version(context.asset_key, dg.DataVersion(str(result.version)))

    def load_input(self, context: dg.InputContext) -> Frame:
        """A scan of the input's partitions, collected where the input is annotated as a DataFrame.

        Raises:
            MissingTableError: there is no table yet.
        """
        table = self._table(context)
        try:
            scan = table.scan()
        except TableNotFoundError:
            raise MissingTableError(
                f"There is no table at {table.uri}: {_name(context)} must be materialised before"
                f" {context.op_def.name!r} can load it."
            ) from None
        if context.has_asset_key and context.has_asset_partitions:
            scan = _partitions_only(context, scan)
        if columns := context.definition_metadata.get("columns"):
            scan = scan.select(columns)
        annotation = context.dagster_type.typing_type
        annotation = get_origin(annotation) or annotation
        if isinstance(annotation, type) and issubclass(annotation, pl.DataFrame):
            return scan.collect()
        return scan

    def _table(self, context: dg.InputContext | dg.OutputContext) -> Table:
        if context.has_asset_key:
            return self._lake.table(context.asset_key.path)
        # What ops inside of a graph hand to each other is no asset; it lies apart, and Lake.tables() does not list it.
        return self._lake.table(["_runs", *context.get_identifier()])


def _write(context: dg.OutputContext, name: str, table: Table, frame: Frame) -> WriteResult:
    metadata = context.definition_metadata
    mode = metadata.get("mode", "overwrite")
    schema = frame.collect_schema()
    predicate, partition_by = None, list(metadata.get("partition_by", []))
    if context.has_asset_key and context.has_asset_partitions:
        columns = _columns(context, metadata)
        predicate = _predicate(context, columns, schema)
        if "partition_by" not in metadata:
            # Delta keeps no file without a column, and a folder for each timestamp would be a folder for each row.
            partition_by = [column for column in columns.values() if not isinstance(schema[column], pl.Datetime)]
            partition_by = [] if len(partition_by) == len(schema) else partition_by
            if table.exists():  # made by others, or before the columns were chosen: that is for them to decide
                partition_by = table.delta().metadata().partition_columns
    options: dict[str, Any] = {
        "predicate": predicate,
        "partition_by": partition_by,
        "run_id": context.run_id,
        "metadata": {"dagster_asset": name},
        "schema_mode": metadata.get("schema_mode"),
    }
    if mode == "overwrite":
        return table.overwrite(frame, **options)
    if mode == "append":
        return table.append(frame, **options)
    if mode == "merge":
        if not metadata.get("merge_keys"):
            raise ValueError(f"{name}: mode 'merge' needs the metadata 'merge_keys', a list of columns.")
        return table.merge(frame, keys=metadata["merge_keys"], **options)
    raise ValueError(f"{name}: the metadata 'mode' is {mode!r}; it must be 'overwrite', 'append' or 'merge'.")


def _partitions_only(context: dg.InputContext, scan: pl.LazyFrame) -> pl.LazyFrame:
    if not context.asset_partition_keys:
        return scan.head(0)
    assert context.upstream_output is not None
    schema = scan.collect_schema()
    predicate = _predicate(context, _columns(context, context.upstream_output.definition_metadata), schema)
    return scan.filter(parse_predicate(predicate, schema)[1])


def _columns(context: dg.InputContext | dg.OutputContext, metadata: Mapping[str, Any]) -> dict[str, str]:
    name = _name(context)
    if "partition_expr" not in metadata:
        raise ValueError(
            f"{name} has partitions, but no metadata 'partition_expr' that names the column that tells them apart."
        )
    return partition_columns(context.asset_partitions_def, metadata["partition_expr"], name)


def _predicate(context: dg.InputContext | dg.OutputContext, columns: Mapping[str, str], schema: pl.Schema) -> str:
    try:
        return partition_predicate(context.asset_partition_keys, context.asset_partitions_def, columns, schema)
    except ValueError as error:
        raise ValueError(f"{_name(context)}: {error}") from error


def _metadata(context: dg.OutputContext, table: Table, frame: Frame, result: WriteResult) -> dict[str, Any]:
    files = table.files(result.version)
    columns = [dg.TableColumn(name, str(dtype)) for name, dtype in frame.collect_schema().items()]
    metadata: dict[str, Any] = {
        "dagster/row_count": result.rows,
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "dagster/uri": table.uri,
        "delta_version": result.version,
        "size_bytes": int(files["size_bytes"].sum()),
        "files": files.height,
    }
    if context.has_asset_key:
        metadata["dagster/table_name"] = ".".join(context.asset_key.path)
        if context.has_asset_partitions and len(context.asset_partition_keys) == 1:
            metadata["dagster/partition_row_count"] = result.rows
    return metadata


def _name(context: dg.InputContext | dg.OutputContext) -> str:
    return context.asset_key.to_user_string() if context.has_asset_key else f"the output {context.name!r}"
