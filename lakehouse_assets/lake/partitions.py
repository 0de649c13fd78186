"""From Dagster's partition keys to a predicate over a table's columns."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import dagster as dg
import polars as pl

from lakehouse_assets.lake.predicate import literal, quote

# Formats whose text sorts as time does, so that a range of text is a range of time.
_SORTABLE_FORMAT = re.compile(r"%Y\W*(?:%m\W*(?:%d\W*T?(?:%H\W*(?:%M\W*(?:%S)?)?)?)?)?Z?")


def partition_columns(
    partitions_def: dg.PartitionsDefinition, partition_expr: str | Mapping[str, str], asset: str
) -> dict[str, str]:
    """The column of each dimension, in the definition's order (one unnamed dimension: its name is empty).

    Raises:
        ValueError: `partition_expr` does not name a column for each dimension.
    """
    if not isinstance(partitions_def, dg.MultiPartitionsDefinition):
        if not isinstance(partition_expr, str):
            raise ValueError(f"{asset}: the metadata 'partition_expr' must name one column, not {partition_expr!r}.")
        return {"": partition_expr}
    names = [dimension.name for dimension in partitions_def.partitions_defs]
    if isinstance(partition_expr, str) or set(partition_expr) != set(names):
        raise ValueError(
            f"{asset}: the metadata 'partition_expr' must name a column for each of the dimensions {names},"
            f" not {partition_expr!r}."
        )
    return {name: partition_expr[name] for name in names}


def partition_predicate(
    keys: Sequence[str], partitions_def: dg.PartitionsDefinition, columns: Mapping[str, str], schema: pl.Schema
) -> str:
    """The predicate that the rows of these partitions satisfy, and no others.

    Time windows become half-open ranges (adjacent ones are joined), other keys lists of values.

    Args:
        keys: partition keys, at least one.
        partitions_def: what they are keys of.
        columns: the column of each dimension, see `partition_columns`.
        schema: the table's columns; a column's type decides how a partition is compared with it.

    Raises:
        ValueError: a column is missing, or its type cannot tell the partitions apart.
    """
    if missing := [column for column in columns.values() if column not in schema]:
        raise ValueError(f"the partition columns {missing} are not among the columns {list(schema)}.")
    if not isinstance(partitions_def, dg.MultiPartitionsDefinition):
        (column,) = columns.values()
        return _dimension(sorted(set(keys)), partitions_def, column, schema[column])
    dimensions = {dimension.name: dimension.partitions_def for dimension in partitions_def.partitions_defs}
    parts = [partitions_def.get_partition_key_from_str(key).keys_by_dimension for key in keys]

    def product(names: Sequence[str], rows: frozenset[tuple[str, ...]]) -> str:
        """Join the keys of the first dimension that go with the same keys of the others: a grid is one such group."""
        name, *others = names
        rest: dict[str, set[tuple[str, ...]]] = {}
        for first, *remaining in rows:
            rest.setdefault(first, set()).add(tuple(remaining))
        groups: dict[frozenset[tuple[str, ...]], list[str]] = {}
        for first, remaining_rows in rest.items():
            groups.setdefault(frozenset(remaining_rows), []).append(first)
        clauses = []
        for remaining_group, firsts in groups.items():
            clause = _dimension(sorted(firsts), dimensions[name], columns[name], schema[columns[name]])
            clauses.append(f"({clause}) AND ({product(others, remaining_group)})" if others else clause)
        return _any(clauses)

    return product(list(columns), frozenset(tuple(part[name] for name in columns) for part in parts))


def _dimension(keys: Sequence[str], definition: dg.PartitionsDefinition, column: str, dtype: pl.DataType) -> str:
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return f"{quote(column)} IN ({', '.join(_key_literal(key, column, dtype) for key in keys)})"
    if isinstance(dtype, pl.String) and not _SORTABLE_FORMAT.fullmatch(definition.fmt):
        return f"{quote(column)} IN ({', '.join(literal(key) for key in keys)})"
    ranges = []
    for window_start, window_end in _joined(definition, keys):
        start = _bound(window_start, definition, column, dtype)
        end = _bound(window_end, definition, column, dtype)
        if start == end:
            raise ValueError(
                f"the column {column!r} of type {dtype} cannot tell the partitions of {definition!r} apart: a window"
                f" from {window_start} to {window_end} starts and ends at {start}."
            )
        ranges.append(f"{quote(column)} >= {start} AND {quote(column)} < {end}")
    return _any(ranges)


def _joined(definition: dg.TimeWindowPartitionsDefinition, keys: Iterable[str]) -> list[tuple[datetime, datetime]]:
    joined: list[tuple[datetime, datetime]] = []
    for window in sorted(definition.time_window_for_partition_key(key) for key in keys):
        if joined and joined[-1][1] == window.start:
            joined[-1] = (joined[-1][0], window.end)
        else:
            joined.append((window.start, window.end))
    return joined


def _bound(at: datetime, definition: dg.TimeWindowPartitionsDefinition, column: str, dtype: pl.DataType) -> str:
    match dtype:
        case pl.Date():
            return literal(at.date())
        case pl.Datetime():
            # A naive column shows the clock of the partitions' time zone, as the partition keys do.
            return literal(at if dtype.time_zone else at.replace(tzinfo=None))
        case pl.String():
            return literal(at.strftime(definition.fmt))
        case _:
            raise ValueError(f"the column {column!r} of type {dtype} cannot be compared with time windows.")


def _key_literal(key: str, column: str, dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum) or dtype.is_temporal():
        return literal(key)
    if dtype.is_integer():
        return str(int(key))
    raise ValueError(f"the column {column!r} of type {dtype} cannot be compared with partition keys.")


def _any(clauses: Sequence[str]) -> str:
    return clauses[0] if len(clauses) == 1 else " OR ".join(f"({clause})" for clause in clauses)
