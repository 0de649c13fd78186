"""Predicates over columns and literals, in the SQL that Delta takes and as polars expressions."""

import re
from datetime import UTC, date, datetime, time
from typing import Any

import polars as pl


def quote(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """A value in the SQL that Delta takes; times as ISO text, those with a zone in UTC."""
    if isinstance(value, datetime):
        value = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return f"'{value.isoformat(sep=' ', timespec='microseconds')}'"
    if isinstance(value, str | date):
        return "'" + str(value).replace("'", "''") + "'"
    return str(value)


_STRING = re.compile(r"'((?:[^']|'')*)'")
_BEFORE_LITERAL = re.compile(
    r"""("[^"]+"|[A-Za-z_]\w*)\s*(?:=|<>|!=|<=|>=|<|>|(?:NOT\s+)?IN\s*\(|(?:NOT\s+)?BETWEEN\s)\s*(?:(?:DATE|TIMESTAMP)\s*)?$""",
    re.IGNORECASE,
)
_NEXT_LITERAL = re.compile(r"\s*(?:,|AND\s)\s*(?:(?:DATE|TIMESTAMP)\s*)?$", re.IGNORECASE)
_KEYWORD = re.compile(r"\b(?:DATE|TIMESTAMP)\s*$", re.IGNORECASE)


def parse_predicate(predicate: str, schema: pl.Schema) -> tuple[str, pl.Expr]:
    """A predicate for Delta, and the same for polars.

    Delta's pruning takes dates and timestamps as plain text (a typed timestamp literal is nanoseconds to it, which it
    refuses to compare); polars wants them typed.

    Raises:
        ValueError: the predicate is no SQL, names a column that is not there, or compares a time with no time.
    """
    for_delta, for_polars, position, column = [], [], 0, None
    for match in _STRING.finditer(predicate):
        between = predicate[position : match.start()]
        if not (column and _NEXT_LITERAL.fullmatch(between)):
            before = _BEFORE_LITERAL.search(between)
            column = before.group(1).strip('"') if before else None
        dtype = schema.get(column) if column else None
        delta_literal = polars_literal = match.group(0)
        if dtype is not None and dtype.is_temporal():
            between = _KEYWORD.sub("", between)
            try:
                at = datetime.fromisoformat(match.group(1))
            except ValueError:
                raise ValueError(f"{match.group(0)} in the predicate {predicate!r} is not a time.") from None
            at = at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at
            if dtype == pl.Date:
                if at.time() != time.min:
                    raise ValueError(f"{match.group(0)} in the predicate {predicate!r} is no date, as {column!r} is.")
                delta_literal, polars_literal = f"'{at:%Y-%m-%d}'", f"DATE '{at:%Y-%m-%d}'"
            else:
                text = at.isoformat(sep=" ", timespec="microseconds")
                zoned = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
                delta_literal = f"'{text}'"
                polars_literal = f"TIMESTAMPTZ '{text}+00:00'" if zoned else f"TIMESTAMP '{text}'"
        for_delta += [between, delta_literal]
        for_polars += [between, polars_literal]
        position = match.end()
    rest = predicate[position:]
    expression = pl.sql_expr("".join([*for_polars, rest]))
    if unknown := sorted(set(expression.meta.root_names()) - set(schema)):
        raise ValueError(f"The predicate {predicate!r} names {unknown}; the columns are {list(schema)}.")
    return "".join([*for_delta, rest]), expression
