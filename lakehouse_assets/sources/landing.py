"""Landing: which rows of the files are new and known by a moment, each once, in a stable order.

It reads files and what bronze holds already, and returns a frame; writing it is bronze's task.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from lakehouse_assets.sources.customers import Layout
from lakehouse_assets.sources.declaration import Declaration
from lakehouse_assets.sources.files import BrokenFileError, SourceFile, discover, read
from lakehouse_assets.sources.times import UTC_TIME, instants, resolve_times


@dataclass(frozen=True)
class SetAside:
    """A file that cannot be read, with the reason; it is not tried again until its content changes."""

    name: str
    fingerprint: str
    reason: str


@dataclass(frozen=True)
class Landing:
    """What a landing brings: the rows (None: none), the files they are from, and the files that are set aside."""

    frame: pl.DataFrame | None
    files: list[SourceFile] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)


def land(
    declaration: Declaration,
    data_dir: Path,
    landed: pl.LazyFrame | None,
    until: datetime | None,
    now: datetime,
    set_aside_dir: Path,
) -> Landing:
    """The rows that are not landed yet and known by `until` (None: all), sorted by file and row number.

    Args:
        declaration: the source.
        data_dir: folder that the glob starts from when it matches nothing in the declaration's own.
        landed: bronze's columns file, fingerprint, row_number, pending; None when there is no bronze yet.
        until: only rows whose known_at is at most this. Rows beyond it whose `known: before` covariates are published
            (up to the horizon and a day) are landed as *pending* rows, once: without value and without `known: after`
            covariates. When their value becomes known the whole row is landed.
        now: when this is; written down with a file that is set aside.
        set_aside_dir: folder with a JSON file {file, fingerprint, reason, at} for each broken file.

    Returns:
        A frame with file, fingerprint, row_number, pending, the raw columns (text), ts_utc, month, known_at.

    A row without a readable time, or with one beyond the horizon from the real present, has no known time that could
    be waited for, and is landed at once. A file whose content changed is a new one: all of its rows are landed anew.
    """
    return _land(
        discover(declaration, data_dir),
        landed,
        lambda file, already: _new_rows(file, declaration, already, until),
        now,
        set_aside_dir,
    )


def land_records(
    layout: Layout,
    data_dir: Path,
    landed: pl.LazyFrame | None,
    until: datetime | None,
    now: datetime,
    set_aside_dir: Path,
) -> Landing:
    """The rows of customers' files that are not landed yet and known by `until`; arguments as of `land`.

    Returns:
        A frame with file, fingerprint, row_number, the raw columns (text), ts_utc (from when the row is valid; of
        monthly rows the first of the month), known_at (when it was published, else ts_utc, of monthly rows the end of
        the month).

    A row without a readable known time, or with one more than a year from the real present, is landed at once.
    """
    return _land(
        discover(layout, data_dir),
        landed,
        lambda file, already: _new_records(file, layout, already, until),
        now,
        set_aside_dir,
    )


_REACH_MONTHS = 13


def months_touched_by_records(rows: pl.DataFrame, first_month: date, last_known: datetime | None) -> list[date]:
    """The months whose tables change by new records: from a year before the earliest of them to the latest known.

    What is known of a month tells how snapshots of the twelve months before it ended: labels that were open are made
    then. What becomes known is also part of all snapshots after it.

    Args:
        rows: columns ts_utc and known_at of the new records.
        first_month: the first month of history.
        last_known: when the latest record that was landed before became known.
    """
    at = pl.concat([rows["ts_utc"], rows["known_at"], pl.Series([last_known], dtype=UTC_TIME)]).drop_nulls()
    latest = pl.concat([rows["known_at"], pl.Series([last_known], dtype=UTC_TIME)]).max()
    if latest is None:
        return []
    earliest = at.dt.date().dt.month_start().dt.offset_by(f"-{_REACH_MONTHS}mo").min()
    assert isinstance(earliest, date)
    assert isinstance(latest, datetime)
    first, last = max(first_month, earliest), max(first_month, latest.date().replace(day=1))
    return pl.date_range(first, last, "1mo", eager=True).to_list()


def _land(
    found: list[SourceFile],
    landed: pl.LazyFrame | None,
    new_rows: Callable[[SourceFile, pl.DataFrame | None], pl.DataFrame],
    now: datetime,
    set_aside_dir: Path,
) -> Landing:
    already = _already(landed)
    aside = {(item.name, item.fingerprint): item for item in _read_set_aside(set_aside_dir)}
    frames, files, set_aside = [], [], []
    for file in found:
        item = aside.get((file.name, file.fingerprint))
        if item is None:
            try:
                frame = new_rows(file, already.get((file.name, file.fingerprint)))
            except (BrokenFileError, pl.exceptions.PolarsError) as error:
                item = SetAside(file.name, file.fingerprint, " ".join(str(error).split())[:500])
                _write_set_aside(item, now, set_aside_dir)
            else:
                if frame.height:
                    frames.append(frame)
                    files.append(file)
        if item is not None:
            set_aside.append(item)
    return Landing(pl.concat(frames) if frames else None, files, set_aside)


def _already(landed: pl.LazyFrame | None) -> dict[tuple[str, str], pl.DataFrame]:
    """Landed row numbers and whether each was pending (where rows can be), by file and fingerprint."""
    if landed is None:
        return {}
    rows = landed.select(pl.col("file", "fingerprint", "row_number", "^pending$")).collect()
    parts = rows.partition_by("file", "fingerprint", as_dict=True, include_key=False)
    return {(str(file), str(fingerprint)): part for (file, fingerprint), part in parts.items()}


def _new_rows(
    file: SourceFile, declaration: Declaration, already: pl.DataFrame | None, until: datetime | None
) -> pl.DataFrame:
    import numpy as np

    times = _cached(file, declaration)
    # Row numbers are positions, so that what was landed is a mask and needs no join.
    whole = np.zeros(times.height, dtype=bool)
    waiting = np.zeros(times.height, dtype=bool)
    if already is not None:
        position, pending = already["row_number"].to_numpy() - 1, already["pending"].to_numpy()
        whole[position[~pending]] = True
        waiting[position[pending]] = True
    picked = ~whole
    pending = np.zeros(times.height, dtype=bool)
    if until is not None:
        ahead = declaration.horizon_td + timedelta(days=1)
        # A time that far ahead of the real present is a mistake, whatever clock a replay runs on.
        never = pl.col("ts_utc").is_null() | (pl.col("ts_utc") > datetime.now(UTC) + ahead + timedelta(days=1))
        behind = until - declaration.publication_delay_td - declaration.interval_td
        soon = pl.col("published") & (pl.col("ts_utc") > behind) & (pl.col("ts_utc") <= until + ahead)
        flags = times.select(
            known=(never | (pl.col("known_at") <= until)).fill_null(False),
            soon=soon.fill_null(False),
        )
        known = flags["known"].to_numpy()
        pending = picked & ~known & flags["soon"].to_numpy() & ~waiting
        picked &= known
    chosen = picked | pending
    if not chosen.any():
        return pl.DataFrame()
    mask = pl.Series(chosen)
    numbers = times["row_number"].filter(mask)
    rows = read(file, declaration).filter(pl.col("row_number").is_in(numbers.implode())).collect()
    unknown = ("value", *declaration.after)
    is_pending = pl.Series("pending", pending).filter(mask)
    return (
        rows.with_columns(is_pending, *times.filter(mask).select("ts_utc", "month", "known_at").get_columns())
        .with_columns(pl.when(~pl.col("pending")).then(pl.col(name)).alias(name) for name in unknown)
        .select(
            pl.lit(file.name).alias("file"),
            pl.lit(file.fingerprint).alias("fingerprint"),
            "row_number",
            "pending",
            *declaration.raw_columns,
            "ts_utc",
            "month",
            "known_at",
        )
    )


def _new_records(
    file: SourceFile, layout: Layout, already: pl.DataFrame | None, until: datetime | None
) -> pl.DataFrame:
    whole = None
    if already is None and (file.fingerprint, file.path.name, repr(layout)) not in _cache:
        whole = read(file, layout).collect()  # read once, for its times and for its rows
    times = _cached(file, layout, whole)
    if already is not None and already.height == times.height:
        return pl.DataFrame()
    if already is not None:
        times = times.join(already, on="row_number", how="anti", maintain_order="left")
    if until is not None:
        never = pl.col("known_at").is_null() | (pl.col("known_at") > datetime.now(UTC) + timedelta(days=366))
        times = times.filter(never | (pl.col("known_at") <= until))
    if times.is_empty():
        return pl.DataFrame()
    rows = whole if whole is not None else read(file, layout).collect()
    return rows.join(times, on="row_number", maintain_order="left").select(
        pl.lit(file.name).alias("file"),
        pl.lit(file.fingerprint).alias("fingerprint"),
        "row_number",
        *layout.raw_columns,
        "ts_utc",
        "known_at",
    )


def _record_times(file: SourceFile, layout: Layout, whole: pl.DataFrame | None) -> pl.DataFrame:
    """row_number, ts_utc and known_at of each record of the file, whose rows may have been read."""
    named = [name for name in (layout.time, "published_at") if name is not None]
    rows = (read(file, layout) if whole is None else whole.lazy()).select("row_number", *named).collect()
    for name in named:
        # A month is one everywhere; it has no time zone.
        zone = "UTC" if layout.monthly and name == layout.time else layout.time_zone
        found = instants(rows[name].unique(), zone, timedelta(0))
        found = found.select(pl.col("text").alias(name), pl.col("early").alias(f"{name}_at"))
        rows = rows.join(found, on=name, how="left", nulls_equal=True, maintain_order="left")
    ts = pl.lit(layout.as_of, dtype=UTC_TIME) if layout.time is None else pl.col(f"{layout.time}_at")
    known = ts
    if layout.monthly:
        ts = ts.dt.truncate("1mo")
        known = ts.dt.offset_by("1mo")
    return rows.select("row_number", ts_utc=ts, known_at=pl.coalesce("published_at_at", known))


# A replay lands from the same files at every step; their times never change while their content does not. Five million
# rows are some 150 MB.
_CACHED_ROWS = 5_000_000
_cache: OrderedDict[tuple[str, str, str], pl.DataFrame] = OrderedDict()


def _cached(file: SourceFile, source: Declaration | Layout, whole: pl.DataFrame | None = None) -> pl.DataFrame:
    """Each row of the file with its times; of demand, whether something is published before its value is known."""
    declared = repr(source) if isinstance(source, Layout) else source.model_dump_json()
    key = (file.fingerprint, file.path.name, declared)
    if key not in _cache:
        _cache[key] = _record_times(file, source, whole) if isinstance(source, Layout) else _read_times(file, source)
        while len(_cache) > 1 and sum(frame.height for frame in _cache.values()) > _CACHED_ROWS:
            _cache.popitem(last=False)
    _cache.move_to_end(key)
    return _cache[key]


def _read_times(file: SourceFile, declaration: Declaration) -> pl.DataFrame:
    published_at = ["published_at"] if declaration.columns.published_at else []
    published = [pl.col(name).is_not_null() for name in declaration.before]
    rows = read(file, declaration).select(
        pl.lit(file.name).alias("file"),
        "row_number",
        "series_id",
        "ts",
        *published_at,
        pl.any_horizontal(pl.lit(False), *published).alias("published"),
    )
    times = resolve_times(rows, declaration)
    return times.select("row_number", "published", "ts_utc", "month", "known_at").collect()


def _read_set_aside(folder: Path) -> Iterator[SetAside]:
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        note = json.loads(path.read_text(encoding="utf-8"))
        yield SetAside(note["file"], note["fingerprint"], note["reason"])


def _write_set_aside(item: SetAside, now: datetime, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    note = {"file": item.name, "fingerprint": item.fingerprint, "reason": item.reason, "at": now.isoformat()}
    path = folder / f"{item.name.replace('/', '__')}-{item.fingerprint[:12]}.json"
    # Written beside and moved, so that a killed run leaves no half of a note behind.
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(note, indent=1), encoding="utf-8")
    draft.replace(path)
