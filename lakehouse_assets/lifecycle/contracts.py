"""Contracts of the tables that a life cycle writes: the columns that a kind brings, and those that every model has."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.table import Table
from lakehouse_assets.lake.table_asset import ContractClass, Written, extended
from lakehouse_assets.ml.definition import Columns, Kind

MODEL_VERSION: Columns = {"model_version": (pl.Int64(), "Version of the registered model.")}
MONTH: Columns = {"month": (pl.Date(), "First day of the UTC month of the first key: the partition.")}
RUNGS: Columns = {
    "rung": (pl.String(), "Who predicted, from the top of the ladder; none: nobody."),
    "reason": (pl.String(), "Why not the version in force with its own recipe."),
    "rows": (pl.Int64(), "How many predictions."),
}
REPORT: Columns = {
    "report": (pl.String(), "Local date from which the window could be judged: the name of the report."),
    "fleet_verdict": (pl.String(), "ok, drift or insufficient_data, for all members together."),
}
_UTC = pl.Datetime("us", "UTC")
WINDOW: Columns = {
    "window_start": (_UTC, "Start of the window (UTC), by the time at which predictions are made."),
    "window_end": (_UTC, "End of the window (UTC), exclusive."),
    "granularity": (
        pl.String(),
        "1 week or 1 month; baseline: what a version was trained on, the last year before its cutoff.",
    ),
    "slice_key": (pl.String(), "What the rows are of one of: a column's name; null: all rows."),
    "slice_value": (pl.String(), "Which one; null: all rows."),
    "column": (pl.String(), "The column of the feature, prediction or error table."),
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


def has_ladder(kind: Kind) -> bool:
    """Whether a kind's predictions say who made each: the version in force, or what stands in where it cannot."""
    return "rung" in kind.prediction_columns


def contract_of(
    name: str, columns: Columns, keys: Sequence[str], further: Columns, *, unique: Sequence[str] = ()
) -> ContractClass:
    """A contract from columns: `keys` are the primary key and not null, everything else may be null.

    unique: instead of the keys alone, these columns together tell rows apart; some of them may be null.

    Raises:
        KeyError: a column has a type that no contract here has needed so far.
    """
    fields: dict[str, Any] = {}
    for column, (dtype, description) in {**columns, **further}.items():
        is_key, may_be_null = column in keys and not unique, column not in keys
        if isinstance(dtype, pl.Datetime):
            fields[column] = dy.Datetime(
                primary_key=is_key, nullable=may_be_null, time_zone="UTC", description=description
            )
        elif isinstance(dtype, pl.List):
            inner = _TYPES[type(dtype.inner)](nullable=True)  # type: ignore[index]
            fields[column] = dy.List(inner, nullable=may_be_null, description=description)
        else:
            kind = _TYPES[type(dtype)]
            fields[column] = kind(primary_key=is_key, nullable=may_be_null, description=description)
    if unique:
        fields["one_row_each"] = dy.rule()(lambda _: ~pl.struct(list(unique)).is_duplicated())
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


def filled(rows: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """The rows with all of the columns, in their order; null where they have none."""
    missing = [pl.lit(None, dtype).alias(name) for name, (dtype, _) in columns.items() if name not in rows.columns]
    return rows.with_columns(missing).select(pl.col(name).cast(dtype) for name, (dtype, _) in columns.items())


def months_written(key: dg.AssetKey) -> Written:
    """The rows of the months that the latest materialisation names in its metadata `months`; else all."""

    def written(context: dg.AssetCheckExecutionContext) -> pl.Expr | None:
        event = context.instance.get_latest_materialization_event(key)
        metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
        if "months" not in metadata:
            return None
        months: Any = metadata["months"].value
        return pl.col("month").is_in([date.fromisoformat(month) for month in months])

    return written
