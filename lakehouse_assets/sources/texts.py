"""Text as values: numbers, flags and days out of columns that hold what was written."""

import polars as pl

# What exporters write where there is no value.
NO_VALUE = ("", "na", "n/a", "nan", "null", "none")
_YES, _NO = ("yes", "true", "1", "y"), ("no", "false", "0", "n")


def _plain(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars().str.to_lowercase()


def says_nothing(column: str) -> pl.Expr:
    """Whether a column of text is null or says that there is no value."""
    return pl.col(column).is_null() | _plain(column).is_in(NO_VALUE)


def word(column: str) -> pl.Expr:
    """A column of text without the blanks around it; null where it says that there is no value."""
    return pl.when(~says_nothing(column)).then(pl.col(column).str.strip_chars())


def number(column: str) -> pl.Expr:
    """A column of text as Float64; null where it says that there is no value, or where it is no finite number."""
    value = pl.col(column).str.strip_chars().cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def flag(column: str) -> pl.Expr:
    """A column of text as Boolean: yes, true, 1 or y, and no, false, 0 or n; null for anything else."""
    text = _plain(column)
    return pl.when(text.is_in(_YES)).then(True).when(text.is_in(_NO)).then(False)


def day(column: str) -> pl.Expr:
    """A column of text that begins with an ISO date as Date; null for anything else."""
    return pl.col(column).str.strip_chars().str.head(10).str.to_date("%Y-%m-%d", strict=False)


def is_a_number(column: str) -> pl.Expr:
    """Whether `number` reads the column, or it says that there is no value."""
    return says_nothing(column) | number(column).is_not_null()


def is_a_flag(column: str) -> pl.Expr:
    """Whether `flag` reads the column, or it says that there is no value."""
    return says_nothing(column) | flag(column).is_not_null()


def is_a_day(column: str) -> pl.Expr:
    """Whether `day` reads the column, or it says that there is no value."""
    return says_nothing(column) | day(column).is_not_null()
