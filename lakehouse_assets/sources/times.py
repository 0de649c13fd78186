"""Times as instants: text as written, in the source's time zone, becomes UTC, and each row gets its known time.

Daylight saving is resolved here and nowhere else: the repeated hour becomes two hours, the missing one is moved, and
no row is dropped.
"""

from datetime import timedelta

import polars as pl

from lakehouse_assets.sources.declaration import Declaration

UTC_TIME = pl.Datetime("us", "UTC")

_TIME = (
    r"^\s*(?<date>[1-9]\d{3}-\d{2}-\d{2})"
    r"(?:[T ](?<minute>\d{2}:\d{2})(?::(?<second>[0-5]\d)(?:[.,](?<fraction>\d{1,9}))?)?"
    r" ?(?<offset>Z|[+-](?:0\d|1[0-4])(?::?[0-5]\d)?)?)?\s*$"
)


def resolve_times(frame: pl.LazyFrame, declaration: Declaration) -> pl.LazyFrame:
    """Add `ts_utc`, `month` and `known_at` to raw rows (file, row_number, series_id, ts, [published_at], all text).

    - `ts_utc`: start of the interval, Datetime(us, UTC); null where `ts` is no ISO time (date, or date and time to
      the minute or finer, joined by T or a space, with or without an offset).
    - `month`: Date, the first day of its UTC month.
    - `known_at`: when the row became known: `published_at` where that is a time, else the end of the interval plus the
      publication delay.

    A local time that daylight saving repeats is the earlier instant where it stands first within (file, series_id),
    and the later one after that; a time that it skips is read with the offset before the gap, which moves it forward.
    A text with an offset or Z is taken as it is. The order of the rows is kept.
    """
    columns = {"ts_utc": UTC_TIME, "month": pl.Date(), "known_at": UTC_TIME}
    return frame.map_batches(
        lambda rows: _resolve(rows, declaration),
        schema={**frame.collect_schema(), **columns},
        predicate_pushdown=False,
        projection_pushdown=False,
        slice_pushdown=False,
    )


def _resolve(rows: pl.DataFrame, declaration: Declaration) -> pl.DataFrame:
    shift = declaration.interval_td if declaration.ts_marks == "end" else timedelta(0)
    # The same text stands in the rows of many series: each is parsed once.
    times = instants(rows["ts"].unique(), declaration.time_zone, shift).rename({"text": "ts"})
    rows = rows.join(times, on="ts", how="left", maintain_order="left", nulls_equal=True)
    repeated = rows["late"].is_not_null()
    if repeated.any():
        occurrence = (
            rows.with_row_index("_position")
            .filter(repeated)
            .select(
                "_position",
                pl.col("row_number").rank("ordinal").over("file", "series_id", "early").alias("_occurrence"),
            )
        )
        rows = (
            rows.with_row_index("_position")
            .join(occurrence, on="_position", how="left", maintain_order="left")
            .with_columns(early=pl.when(pl.col("_occurrence") > 1).then("late").otherwise("early"))
            .drop("_position", "_occurrence")
        )
    rows = rows.drop("late").rename({"early": "ts_utc"})
    if declaration.interval_td == timedelta(days=1):
        zone = declaration.time_zone
        end = pl.col("ts_utc").dt.convert_time_zone(zone).dt.offset_by("1d").dt.convert_time_zone("UTC")
    else:
        end = pl.col("ts_utc") + declaration.interval_td
    known_at = end + declaration.publication_delay_td
    if "published_at" in rows.columns:
        published = instants(rows["published_at"].unique(), declaration.time_zone, timedelta(0))
        published = published.select(published_at="text", _published="early")
        rows = rows.join(published, on="published_at", how="left", maintain_order="left", nulls_equal=True)
        # A row whose own time cannot be read has no known time: it is landed at once.
        known_at = pl.when(pl.col("ts_utc").is_not_null()).then(pl.coalesce("_published", known_at))
    return rows.with_columns(
        month=pl.col("ts_utc").dt.date().dt.month_start(),
        known_at=known_at,
    ).drop("_published", strict=False)


def instants(texts: pl.Series, zone: str, shift: timedelta) -> pl.DataFrame:
    """Each `text` with its instants (UTC): `early`, and `late` where the local time is repeated (else null)."""
    part = pl.col("text").str.extract_groups(_TIME).alias("part")
    parts = texts.alias("text").to_frame().with_columns(part).unnest("part")
    time = pl.concat_str(
        "date", pl.lit("T"), pl.col("minute").fill_null("00:00"), pl.lit(":"), pl.col("second").fill_null("00")
    ).str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="us", strict=False)
    fraction = pl.col("fraction").fill_null("0").str.pad_end(6, "0").str.slice(0, 6).cast(pl.Int64)
    digits = pl.col("offset").str.replace_all("[+:-]", "").str.pad_end(4, "0")
    minutes = digits.str.slice(0, 2).cast(pl.Int64, strict=False) * 60 + digits.str.slice(2, 2).cast(
        pl.Int64, strict=False
    )
    signed = pl.when(pl.col("offset").str.starts_with("-")).then(-minutes).otherwise(minutes)
    offset = pl.when(pl.col("offset") == "Z").then(0).otherwise(signed)
    local = pl.col("local")
    before_gap = local - timedelta(days=1)  # no zone ever skipped more than a day
    return (
        parts.select("text", local=time + pl.duration(microseconds=fraction) - shift, minutes=offset)
        .with_columns(
            fixed=(local - pl.duration(minutes="minutes")).dt.replace_time_zone("UTC"),
            first=_utc(local, zone, "earliest"),
            second=_utc(local, zone, "latest"),
            moved=_utc(before_gap, zone, "earliest") + timedelta(days=1),
        )
        .select(
            "text",
            early=pl.coalesce("fixed", "first", "moved"),
            late=pl.when(pl.col("fixed").is_null() & (pl.col("first") != pl.col("second"))).then("second"),
        )
    )


def _utc(local: pl.Expr, zone: str, ambiguous: str) -> pl.Expr:
    kind: pl._typing.Ambiguous = "earliest" if ambiguous == "earliest" else "latest"
    return local.dt.replace_time_zone(zone, ambiguous=kind, non_existent="null").dt.convert_time_zone("UTC")
