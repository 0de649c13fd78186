"""The table of the series: what is known of each beside its rows."""

from pathlib import Path

import polars as pl

from lakehouse_assets.sources.declaration import Declaration, DeclarationError
from lakehouse_assets.sources.parts import check_time_zone

SERIES_SCHEMA = pl.Schema(
    {
        "series_id": pl.String,
        "name": pl.String,
        "group": pl.String,
        "time_zone": pl.String,
        "holidays": pl.String,
        "latitude": pl.Float64,
        "longitude": pl.Float64,
    }
)


def series_table(declaration: Declaration, data_dir: Path) -> pl.DataFrame | None:
    """The declared table of the series (columns of `SERIES_SCHEMA`, sorted by series_id), or None without one.

    `group` is free text, `time_zone` an IANA name, `holidays` a calendar of the `holidays` package (`US`, `AU-VIC`),
    the coordinates are degrees. What is not declared or left empty is null.

    Raises:
        DeclarationError: the file or a column is not there, or a row is wrong (no id, an id twice, an unknown zone,
            a coordinate that is none).
    """
    if declaration.series is None:
        return None
    places = [folder / declaration.series.file for folder in (declaration.folder, data_dir) if folder is not None]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        raise DeclarationError(f"series.file: there is no {' and no '.join(map(str, places))}")
    raw = pl.read_csv(path, infer_schema=False)
    columns = {name: column for name, column in declaration.series.columns.model_dump().items() if column is not None}
    missing = [column for column in columns.values() if column not in raw.columns]
    if missing:
        raise DeclarationError(f"{path}:1: columns missing: {', '.join(missing)}; there are {', '.join(raw.columns)}")
    text = raw.select(pl.col(column).str.strip_chars().alias(name) for name, column in columns.items())
    text = text.with_columns(pl.when(pl.all() != "").then(pl.all()))
    table = text.cast({n: t for n, t in SERIES_SCHEMA.items() if n in columns}, strict=False)

    problems = []
    for line, (given, read) in enumerate(zip(text.iter_rows(named=True), table.iter_rows(named=True), strict=True), 2):
        if given["series_id"] is None:
            problems.append(f"{path}:{line}: series_id is empty")
        problems += [f"{path}:{line}: {n}: {v!r} is no number" for n, v in given.items() if v and read[n] is None]
        try:
            check_time_zone(read.get("time_zone") or "UTC")
        except ValueError as error:
            problems.append(f"{path}:{line}: time_zone: {error}")
    repeated = table.filter(pl.col("series_id").is_duplicated())["series_id"].drop_nulls().unique().sort()
    problems += [f"{path}: series_id {name!r} stands there more than once" for name in repeated]
    if problems:
        raise DeclarationError("\n".join(problems))
    absent = {name: pl.lit(None, dtype=dtype) for name, dtype in SERIES_SCHEMA.items() if name not in columns}
    return table.with_columns(**absent).select(SERIES_SCHEMA.names()).sort("series_id")
