"""Contracts of the tables that a life cycle writes: the columns that a kind brings, and those that every model has."""

from collections.abc import Mapping, Sequence

import dataframely as dy
import polars as pl

from lakehouse_assets.lake.table import Table
from lakehouse_assets.lake.table_asset import ContractClass, extended
from lakehouse_assets.ml.definition import Columns

MODEL_VERSION: Columns = {"model_version": (pl.Int64(), "Version of the registered model.")}
MONTH: Columns = {"month": (pl.Date(), "First day of the UTC month of the first key: the partition.")}
RUNGS: Columns = {
    "rung": (pl.String(), "Who predicted, from the top of the ladder; none: nobody."),
    "reason": (pl.String(), "Why not the version in force with its own recipe."),
    "rows": (pl.Int64(), "How many predictions."),
}
REPORT: Columns = {
    "report": (pl.String(), "Local date at which the week ended: the name of the report."),
    "fleet_verdict": (pl.String(), "ok, drift or insufficient_data, for all members together."),
}
_TYPES: Mapping[type[pl.DataType], type[dy.Column]] = {
    pl.String: dy.String,
    pl.Float64: dy.Float64,
    pl.Float32: dy.Float32,
    pl.Int64: dy.Int64,
    pl.Int16: dy.Int16,
    pl.Date: dy.Date,
    pl.Boolean: dy.Bool,
}


def contract_of(name: str, columns: Columns, keys: Sequence[str], further: Columns) -> ContractClass:
    """A contract from columns: `keys` are the primary key and not null, everything else may be null.

    Raises:
        KeyError: a column has a type that no contract here has needed so far.
    """
    fields: dict[str, dy.Column] = {}
    for column, (dtype, description) in {**columns, **further}.items():
        is_key = column in keys
        if isinstance(dtype, pl.Datetime):
            fields[column] = dy.Datetime(
                primary_key=is_key, nullable=not is_key, time_zone="UTC", description=description
            )
        else:
            kind = _TYPES[type(dtype)]
            fields[column] = kind(primary_key=is_key, nullable=not is_key, description=description)
    contract = extended(dy.Schema, fields)
    contract.__name__ = name
    return contract


def grow(table: Table, columns: Columns) -> None:
    """Give a table that an earlier release wrote the columns that have come since; its rows hold null in them."""
    if not table.exists():
        return
    schema = table.schema()
    new = {name: dtype for name, (dtype, _) in columns.items() if name not in schema}
    if new:
        table.append(pl.DataFrame(schema={**schema, **new}), schema_mode="merge")
