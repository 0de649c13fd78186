"""Demand on a gapless hourly grid, for models: each hour has its value, or one from the weeks before that is marked.

A series runs from its first good hour to the end of what was landed, pending hours included. Shorter intervals are
averaged (power) or summed (energy), longer ones spread evenly over their hours. A late or bad hour is replaced by what
was known on time. A change in a month reaches eight weeks on: whoever refines a month makes the next one again too.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import dataframely as dy
import numpy as np
import polars as pl

from lakehouse_assets.bronze import demand as bronze
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import (
    ContractClass,
    contract_check,
    delta_asset,
    extended,
    lineage,
    months_of_run,
    table_key,
)
from lakehouse_assets.silver import demand as silver
from lakehouse_assets.sources.declaration import Declaration, active_declaration
from lakehouse_assets.sources.partitions import MONTHS

KEY = table_key(__name__)

HOUR = timedelta(hours=1)
WEEKS = ("week_before", "two_weeks_before", "three_weeks_before", "four_weeks_before")
IMPUTED = (*WEEKS, "last_same_hour", "partial", "spread", "unknown")
_REACH_DAYS = 56  # how far back a substitute is looked for


class GoldDemandHourly(dy.Schema):
    """An hour of a series; the covariates of the declaration come on top, as numbers."""

    series_id = dy.String(primary_key=True, description="Series.")
    ts = dy.Datetime(primary_key=True, time_zone="UTC", description="Start of the hour (UTC).")
    value = dy.Float64(
        nullable=True,
        description="Final value: mean power or energy of the hour, in the declared unit; imputed where `imputed` says "
        "how. Null if pending, or if nothing is known of the eight weeks before.",
    )
    imputed = dy.String(
        nullable=True,
        check=lambda column: column.is_in(IMPUTED),
        description="How the value was made where none was reported good: week_before (two_, three_, four_weeks_before:"
        " the same hour then), last_same_hour (of the last day known), partial (at least half of a shorter "
        "interval's values), spread (evenly, from a longer interval), unknown (no value). Null: as reported.",
    )
    known_value = dy.Float64(
        nullable=True,
        description="Value as it was known on time, what a feature may use: `value`, unless the row came late or was "
        "revised; then what was first known, or the substitute.",
    )
    known_at = dy.Datetime(
        nullable=True, time_zone="UTC", description="When the reported value was known (UTC); null if there is none."
    )
    pending = dy.Bool(description="The hour is not yet known; only what was published ahead of it is here.")
    month = dy.Date(description="First day of the UTC month of `ts`: the partition.")


def contract(declaration: Declaration | None = None) -> ContractClass:
    """The contract for what is declared (by default the declaration in force)."""
    sources = (declaration or active_declaration()).covariate_sources
    return extended(
        GoldDemandHourly,
        {
            name: dy.Float64(
                nullable=True, description=f"Covariate `{covariate.column}`, as in silver/demand; mean of the hour."
            )
            for name, covariate in sources.items()
        },
    )


def resample(rows: pl.LazyFrame, declaration: Declaration) -> pl.LazyFrame:
    """Judged intervals as hours: `good` (value where judged ok), `known`, `how` (null, partial or spread), known_at,
    pending and the covariates.

    Args:
        rows: rows of silver/demand.
        declaration: the source.
    """
    interval, covariates = declaration.interval_td, declaration.covariate_columns
    good = pl.when(pl.col("quality") == "ok").then(pl.col("value"))
    rows = rows.with_columns(good=good, known=pl.col("known_value"), how=pl.lit(None, dtype=pl.String))
    columns = ["series_id", "ts", "good", "known", "how", "known_at", "pending", *covariates]
    rows = rows.with_columns(pending=pl.col("quality") == "pending")
    if interval < HOUR:
        n = HOUR // interval
        # Energies of the missing parts are taken to be as large as those of the others.
        scale = 1 if declaration.unit.kind == "power" else n

        def whole(column: str) -> pl.Expr:
            return pl.when(2 * pl.col(column).count() >= n).then(pl.col(column).mean() * scale)

        partial = pl.col("good").count().is_between((n + 1) // 2, n - 1)
        rows = rows.group_by("series_id", ts=pl.col("ts").dt.truncate("1h")).agg(
            whole("good"),
            whole("known"),
            pl.col("known_at").max(),
            pl.col("pending").all(),
            *(pl.col(name).mean() for name in covariates),
            how=pl.when(partial).then(pl.lit("partial")),
        )
    elif interval > HOUR:
        end = bronze.due_at(pl.col("ts"), declaration) - declaration.publication_delay_td
        rows = rows.with_columns(n=(end - pl.col("ts")).dt.total_hours())
        if declaration.unit.kind == "energy":
            rows = rows.with_columns(pl.col("good") / pl.col("n"), pl.col("known") / pl.col("n"))
        rows = (
            rows.with_columns(how=pl.lit("spread"), hour=pl.int_ranges("n"))
            .explode("hour")
            .with_columns(ts=pl.col("ts").dt.truncate("1h") + pl.duration(hours="hour"))
        )
    else:
        rows = rows.with_columns(pl.col("ts").dt.truncate("1h"))
    return rows.select(columns)


def extent(rows: pl.LazyFrame, declaration: Declaration) -> tuple[pl.DataFrame, datetime, datetime] | None:
    """Of all rows of silver/demand: first_good by series_id, until when values are known, and the end of the last row.

    None if no row is good.
    """
    due = bronze.due_at(pl.col("ts"), declaration)
    known = pl.when(pl.col("quality") != "pending").then(pl.min_horizontal("known_at", due)).max()
    end = (due - declaration.publication_delay_td).max().dt.offset_by("59m").dt.truncate("1h")
    good = rows.filter(pl.col("quality") == "ok").group_by("series_id").agg(first_good=pl.col("ts").min())
    first_good, ends = pl.collect_all([good, rows.select(known=known, end=end)])
    return None if first_good.is_empty() else (first_good, *ends.row(0))


def transform(
    rows: pl.LazyFrame,
    declaration: Declaration,
    first_good: pl.DataFrame,
    edge: datetime,
    start: datetime,
    end: datetime,
) -> pl.LazyFrame:
    """Judged intervals as the gapless hours from `start` to before `end`.

    Args:
        rows: rows of silver/demand of these hours and of 56 days before them.
        declaration: the source.
        first_good: series_id, first_good: first time with a good value; the series' hours start there.
        edge: until when values are known; hours due later are pending.
        start: first hour (UTC).
        end: hour after the last one (UTC).
    """
    origin = start - timedelta(days=_REACH_DAYS)
    series = first_good.sort("series_id").with_row_index("s")
    hours = resample(rows, declaration).filter(pl.col("ts").is_between(origin, end, closed="left"))
    cells = hours.join(series.lazy().select("s", "series_id"), on="series_id").collect()
    s, t = cells["s"].to_numpy(), _hour(cells["ts"], origin)
    shape = (series.height, (end - origin) // HOUR)

    def panel(column: str) -> np.ndarray:
        values = np.full(shape, np.nan)
        values[s, t] = cells[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
        return values

    good, known = panel("good"), panel("known")
    known_at = np.full(shape, np.iinfo(np.int64).min)
    known_at[s, t] = cells["known_at"].cast(pl.Int64).to_numpy()
    how = np.full(shape, -1, dtype=np.int8)
    how[s, t] = (
        cells["how"].replace_strict({name: i for i, name in enumerate(IMPUTED)}, return_dtype=pl.Int8).fill_null(-1)
    )

    grid = pl.datetime_range(origin, end - HOUR, "1h", time_unit="us", time_zone="UTC", eager=True).alias("ts")
    due = bronze.due_at(pl.col("ts"), declaration, max(declaration.interval_td, HOUR))
    waiting = grid.to_frame().select(due > edge).to_series().to_numpy()
    first = _hour(series["first_good"].dt.truncate("1h"), origin)
    wanted = (np.arange(shape[1]) >= first[:, None]) & (np.arange(shape[1]) >= (start - origin) // HOUR)

    needed = wanted & ~waiting & (np.isnan(good) | np.isnan(known))
    substitute, method = _substitutes(known, *np.nonzero(needed))
    bad = needed & np.isnan(good)
    how[bad] = method[bad[needed]]
    good[bad] = substitute[bad[needed]]
    unknown = needed & np.isnan(known)
    known[unknown] = substitute[unknown[needed]]

    at = np.nonzero(wanted)
    known_times = pl.Series(known_at[at]).cast(pl.Datetime("us", "UTC"))
    reported = pl.Series(known_at[at] != np.iinfo(np.int64).min)
    columns: dict[str, Any] = {
        "series_id": series["series_id"].gather(at[0]),
        "ts": grid.gather(at[1]),
        "value": _nullable(np.where(waiting, np.nan, good)[at]),
        "imputed": pl.Series(IMPUTED).gather(pl.Series(how[at]).cast(pl.Int64).replace(-1, None)),
        "known_value": _nullable(np.where(waiting, np.nan, known)[at]),
        "pending": waiting[at[1]],
    }
    columns |= {name: _nullable(panel(name)[at]) for name in declaration.covariate_columns}
    frame = pl.DataFrame(columns).with_columns(
        known_at=pl.when(reported & ~pl.col("pending")).then(known_times), month=pl.col("ts").dt.date().dt.month_start()
    )
    return frame.lazy().select(contract(declaration).column_names())


def _hour(times: pl.Series, origin: datetime) -> np.ndarray:
    return (times.dt.epoch("us").to_numpy() - _micros(origin)) // 3_600_000_000


def _micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _nullable(values: np.ndarray) -> pl.Series:
    return pl.Series(values, nan_to_null=True)


def _substitutes(known: np.ndarray, s: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For the hours (s, t): a value of the same hour in the weeks before, else of the last day known; and how."""
    value = np.full(s.size, np.nan)
    method = np.full(s.size, IMPUTED.index("unknown"), dtype=np.int8)
    lags = [(168 * (week + 1), week) for week in range(len(WEEKS))]
    lags += [(24 * day, IMPUTED.index("last_same_hour")) for day in range(1, _REACH_DAYS + 1)]
    for lag, code in lags:
        open_ = np.flatnonzero(np.isnan(value) & (t >= lag))
        found = known[s[open_], t[open_] - lag]
        hit = ~np.isnan(found)
        value[open_[hit]] = found[hit]
        method[open_[hit]] = code
    return value, method


_LINEAGE = {
    "value": ["silver/demand:value", "silver/demand:quality", "silver/demand:known_value"],
    "imputed": ["silver/demand:quality"],
    "pending": ["silver/demand:quality", "silver/demand:known_at"],
}


@delta_asset(
    contract,
    lineage=lineage(contract(), {"silver/demand": silver.contract()}, _LINEAGE),
    partitions_def=MONTHS,
    metadata={"schema_mode": "merge"},
    deps=[
        dg.AssetDep(
            silver.KEY,
            partition_mapping=dg.TimeWindowPartitionMapping(
                start_offset=-silver.LOOKBACK_MONTHS, allow_nonexistent_upstream_partitions=True
            ),
        )
    ],
)
def demand_hourly(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.Output[pl.LazyFrame]:
    """The hours of the months in hand, from silver's rows of these and of two months before."""
    declaration = active_declaration()
    first, last = months_of_run(context)
    rows = lake.lake().table(silver.KEY.path).scan()
    found = extent(rows, declaration)
    if found is None:
        return dg.Output(contract(declaration).create_empty(lazy=True))
    first_good, edge, landed_end = found
    start = datetime(first.year, first.month, 1, tzinfo=UTC)
    end = datetime(last.year + last.month // 12, last.month % 12 + 1, 1, tzinfo=UTC)
    end = max(start, min(end, landed_end))
    recent = rows.filter(pl.col("month") >= start.date() - timedelta(days=_REACH_DAYS + 31), pl.col("month") <= last)
    frame = transform(recent, declaration, first_good, edge, start, end).collect()
    counts = dict(frame["imputed"].value_counts().drop_nulls().iter_rows())
    pending = int(frame["pending"].sum())
    return dg.Output(frame.lazy(), metadata={"imputed": dg.MetadataValue.json(counts), "pending": pending})


contract_of_demand_hourly = contract_check(demand_hourly, contract)
