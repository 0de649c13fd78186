"""Files as text: finding them, telling their contents apart, and reading each row as it is written.

Nothing is inferred or converted here, so nothing can be lost: one row of the file is one row of the frame.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lakehouse_assets.sources.customers import Layout
from lakehouse_assets.sources.declaration import Constant, Declaration, Steps
from lakehouse_assets.sources.parts import Files


class BrokenFileError(ValueError):
    """A file cannot be read as the declaration says; the message is the reason, in one line."""


@dataclass(frozen=True)
class SourceFile:
    """A file of a source. `name` is its path below the glob's fixed part, `fingerprint` a hash of its content."""

    path: Path
    name: str
    fingerprint: str
    size: int


def discover(declaration: Declaration | Layout, data_dir: Path) -> list[SourceFile]:
    """The files that the declaration's glob matches, by name.

    The glob starts from the declaration's own folder when it matches something there, else from `data_dir`.
    """
    glob = Path(declaration.files.glob)
    fixed = Path(*_fixed_parts(glob))
    pattern = str(Path(*glob.parts[len(fixed.parts) :]))
    if glob.is_absolute():
        bases = [fixed]
    else:
        bases = [folder / fixed for folder in (declaration.folder, data_dir) if folder is not None]
    for base in bases:
        paths = sorted(path for path in base.glob(pattern) if path.is_file())
        if paths:
            return [_source_file(path, path.relative_to(base).as_posix()) for path in paths]
    return []


def _fixed_parts(glob: Path) -> list[str]:
    parts: list[str] = []
    for part in glob.parts[:-1]:
        if any(sign in part for sign in "*?["):
            break
        parts.append(part)
    return parts


def _source_file(path: Path, name: str) -> SourceFile:
    with path.open("rb") as content:
        fingerprint = hashlib.file_digest(content, "blake2b").hexdigest()[:32]
    return SourceFile(path=path, name=name, fingerprint=fingerprint, size=path.stat().st_size)


def read(file: SourceFile, declaration: Declaration | Layout) -> pl.LazyFrame:
    """The file's rows: row_number Int64 (from 1) and the declaration's raw columns, all text as written.

    A csv or ndjson line is one row: fields that it lacks are null, fields too many are left out, bytes that are not
    UTF-8 become the replacement character, a line that is no JSON object has nulls only. Blank lines are no rows.
    Typed parquet columns become text, timestamps in ISO form, steps the times that they stand for. An empty
    file has no rows.

    Raises:
        BrokenFileError: the file cannot be read at all, or a declared column is missing.
            A damaged parquet file may raise polars' ComputeError only when the frame is collected.
    """
    if file.size == 0:
        return pl.LazyFrame(schema={"row_number": pl.Int64, **dict.fromkeys(declaration.raw_columns, pl.String)})
    if isinstance(declaration, Declaration):
        return _finish(_texts(file, declaration.files, _wanted(declaration)), declaration)
    wanted = {name: column for name, column in declaration.columns.items() if column is not None}
    absent = [pl.lit(None, dtype=pl.String).alias(name) for name in declaration.raw_columns if name not in wanted]
    return _texts(file, declaration.files, wanted).with_columns(absent).select("row_number", *declaration.raw_columns)


def _texts(file: SourceFile, files: Files, wanted: Mapping[str, str]) -> pl.LazyFrame:
    """row_number Int64 and the wanted columns as text; `wanted`: name -> the file's column."""
    match files.format:
        case "parquet":
            raw = _scan_parquet(file)
        case "csv":
            raw = _read_csv(_content(file), files.separator).lazy()
        case "ndjson":
            return _read_ndjson(_content(file), wanted)
    schema = raw.collect_schema()
    missing = sorted({column for column in wanted.values() if column not in schema})
    if missing:
        there = ", ".join(schema.names()) or "none"
        raise BrokenFileError(f"columns missing: {', '.join(missing)}; there are: {there}")
    texts = [_as_text(column, schema[column]).alias(name) for name, column in wanted.items()]
    return raw.with_row_index("row_number", offset=1).select(pl.col("row_number").cast(pl.Int64), *texts)


def _wanted(declaration: Declaration) -> dict[str, str]:
    """The file's column for each raw column, without a constant series_id."""
    columns = declaration.columns
    wanted = {name: c.column for name, c in declaration.covariate_sources.items()}
    wanted |= {"ts": columns.ts.step if isinstance(columns.ts, Steps) else columns.ts, "value": columns.value}
    if columns.published_at:
        wanted["published_at"] = columns.published_at
    if not isinstance(columns.series_id, Constant):
        wanted["series_id"] = columns.series_id
    return wanted


def _finish(frame: pl.LazyFrame, declaration: Declaration) -> pl.LazyFrame:
    if isinstance(declaration.columns.series_id, Constant):
        frame = frame.with_columns(series_id=pl.lit(declaration.columns.series_id.constant))
    if isinstance(declaration.columns.ts, Steps):
        frame = frame.with_columns(ts=_dated(declaration.columns.ts, declaration))
    return frame.select("row_number", *declaration.raw_columns)


def _dated(steps: Steps, declaration: Declaration) -> pl.Expr:
    """The step as the time of its interval; text that is no whole number stays as it is."""
    step = pl.col("ts").cast(pl.Int64, strict=False)
    behind = step.max().over("series_id") - step + (1 if declaration.ts_marks == "start" else 0)
    time = pl.lit(steps.end) - behind * pl.lit(declaration.interval_td)
    return pl.coalesce(time.dt.strftime("%Y-%m-%dT%H:%M:%SZ"), "ts")


def _content(file: SourceFile) -> bytes:
    try:
        content = file.path.read_bytes()
        return gzip.decompress(content) if file.path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise BrokenFileError(f"cannot be read: {_one_line(error)}") from None


def _scan_parquet(file: SourceFile) -> pl.LazyFrame:
    try:
        raw = pl.scan_parquet(file.path, glob=False)
        raw.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BrokenFileError(f"not a parquet file: {_one_line(error)}") from None
    return raw


def _as_text(column: str, dtype: pl.DataType) -> pl.Expr:
    expression = pl.col(column)
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is not None:
            return expression.dt.convert_time_zone("UTC").dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
        return expression.dt.strftime("%Y-%m-%dT%H:%M:%S%.f")
    if dtype.is_nested() or dtype == pl.Binary:
        raise BrokenFileError(f"column {column} holds {dtype}, not single values")
    return expression.cast(pl.String)


def _read_csv(content: bytes, separator: str) -> pl.DataFrame:
    lines = _lines(content)
    if not lines:
        raise BrokenFileError("not a csv file: there is no header")
    # A field in quotes may hold the separator; but a stray quote would swallow the lines up to the next one, so it is
    # taken out of a line with an odd number of them. One line is one row, whatever is in it.
    paired = [line.replace(b'"', b"") if line.count(b'"') % 2 else line for line in lines]
    reason = "not a csv file"
    for quote in ('"', None):
        try:
            frame = _parse_csv(b"\n".join(paired) + b"\n", separator, quote)
        except pl.exceptions.PolarsError as error:
            reason = f"not a csv file: {_one_line(error)}"
            continue
        if frame.height == len(lines) - 1:
            return frame
        reason = f"not a csv file: {len(lines) - 1} lines below the header, {frame.height} rows"
    raise BrokenFileError(reason)


def _parse_csv(content: bytes, separator: str, quote: str | None) -> pl.DataFrame:
    return pl.read_csv(
        content,
        separator=separator,
        quote_char=quote,
        infer_schema=False,
        truncate_ragged_lines=True,
        encoding="utf8-lossy",
    )


def _read_ndjson(content: bytes, wanted: Mapping[str, str]) -> pl.LazyFrame:
    text = b"\n".join(_lines(content)).decode("utf-8", errors="replace")
    lines = pl.Series("line", text.split("\n") if text else [], dtype=pl.String)
    # Each value is taken out of its line by itself: a broken line is a row of nulls and not the end of the file.
    values = lines.to_frame().select(
        pl.col("line").str.json_path_match(f"$[{json.dumps(column)}]").alias(name) for name, column in wanted.items()
    )
    missing = sorted(
        {
            column
            for name, column in wanted.items()
            if values[name].null_count() == len(lines) and f'"{column}"' not in text
        }
    )
    if missing and len(lines):
        there = ", ".join(_keys(lines)) or "none: no line is a JSON object"
        raise BrokenFileError(f"keys missing in every line: {', '.join(missing)}; there are: {there}")
    numbered = values.lazy().with_row_index("row_number", offset=1)
    return numbered.with_columns(pl.col("row_number").cast(pl.Int64))


def _keys(lines: Iterable[str]) -> list[str]:
    """The keys of the first line that is a JSON object; never a value, which may be somebody's name."""
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return list(found)
    return []


def _lines(content: bytes) -> list[bytes]:
    """The lines that are not blank, without a byte order mark."""
    lines = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
    return [line for line in lines if line]


def _one_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return text or type(error).__name__
