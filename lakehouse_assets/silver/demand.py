"""Demand, typed, in UTC, one row per series and interval, each judged: quality is `ok` or says what is wrong.

Rows that break a rule of the contract go to silver/demand_quarantine; of rows for the same interval the latest landed
one counts. A value judged wrong is kept here and flagged; gold/demand_hourly replaces it. A judgement uses only rows
known by the time the hour itself was known, except in the first fortnight of a series, which is judged against itself.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta

import dagster as dg
import dataframely as dy
import numpy as np
import polars as pl

from lakehouse_assets.bronze import demand as bronze
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import (
    ContractClass,
    contract_check,
    extended,
    lineage,
    months_of_run,
    rows_of_run,
    table_key,
    table_spec,
)
from lakehouse_assets.ml.quality import SCHEMA, faults
from lakehouse_assets.settings import get_settings
from lakehouse_assets.silver import demand_quarantine
from lakehouse_assets.sources.declaration import Declaration, active_declaration
from lakehouse_assets.sources.partitions import MONTHS
from lakehouse_assets.sources.series import series_table
from lakehouse_assets.sources.texts import NO_VALUE, is_a_number, number

KEY = table_key(__name__)
QUARANTINE_KEY = table_key(demand_quarantine.__name__)

QUALITY = ("ok", "pending", "missing", "non_positive", "spike", "implausible", "stuck", "jump")


class SilverDemand(dy.Schema):
    """An interval of a series; the covariates of the declaration come on top, as numbers."""

    series_id = dy.String(primary_key=True, description="Series.")
    ts = dy.Datetime(primary_key=True, time_zone="UTC", description="Start of the interval (UTC).")
    value = dy.Float64(
        nullable=True, description="Value as last reported, in the declared unit; null if missing or pending."
    )
    quality = dy.String(
        check=lambda column: column.is_in(QUALITY),
        description="ok, or what is wrong: pending (not yet known), missing, non_positive, spike (far from the level "
        "of the last two weeks), implausible (far from what the same hours and the published forecast say, or a series "
        "of less than a day), stuck (the same value again and again), jump (a level not there an hour before).",
    )
    known_value = dy.Float64(
        nullable=True,
        description="Value as first known on time, where it was good: what features and judgements may use. Null if "
        "the row came late, is bad or pending; differs from `value` where it was revised.",
    )
    known_at = dy.Datetime(
        time_zone="UTC",
        description="When the row was known (UTC): as published, or the declared delay after the interval.",
    )
    source = dy.String(description="Name of the declaration that the row was landed by.")
    file = dy.String(description="File that the row is from.")
    row_number = dy.Int64(description="Position of the row in its file, from 1.")
    ingested_at = dy.Datetime(time_zone="UTC", description="When the row was landed (UTC).")
    month = dy.Date(description="First day of the UTC month of `ts`: the partition.")


_COVARIATE = {
    "before": "Covariate `{}`, published ahead of the interval: as first published.",
    "after": "Covariate `{}`, as it was known on time; null if the row came late.",
}


def contract(declaration: Declaration | None = None) -> ContractClass:
    """The contract for what is declared (by default the declaration in force)."""
    sources = (declaration or active_declaration()).covariate_sources
    return extended(
        SilverDemand,
        {
            name: dy.Float64(nullable=True, description=_COVARIATE[covariate.known].format(covariate.column))
            for name, covariate in sources.items()
        },
    )


# ---------------------------------------------------------------- rules


def rules(declaration: Declaration, series: pl.DataFrame | None) -> dict[str, pl.Expr]:
    """The rules of a landed row, by name: true where it satisfies them. A row that breaks one is quarantined."""
    ts, ingested_at = pl.col("ts_utc"), pl.col("ingested_at")
    start = datetime(declaration.start.year, declaration.start.month, declaration.start.day)
    found = {
        "series_id_present": pl.col("series_id").str.strip_chars().str.len_chars().fill_null(0) > 0,
        "ts_is_a_time": ts.is_not_null(),
        "ts_in_range": ts.is_null()
        | ts.is_between(pl.lit(start).dt.replace_time_zone("UTC"), bronze.last_time(declaration, ingested_at)),
        "ts_starts_an_interval": ts.is_null() | _starts_an_interval(declaration),
        "value_is_a_number": is_a_number("value"),
    }
    if series is not None:
        found["series_is_declared"] = pl.col("series_id").is_null() | pl.col("series_id").is_in(
            series["series_id"].implode()
        )
    if declaration.columns.published_at:
        published = pl.col("published_at").str.strip_chars()
        found["published_at_is_a_time"] = (
            published.is_null()
            | published.str.to_lowercase().is_in(NO_VALUE)
            | published.str.head(10).str.to_date("%Y-%m-%d", strict=False).is_not_null()
        )
    return found | {f"{name}_is_a_number": is_a_number(name) for name in declaration.covariate_columns}


def _starts_an_interval(declaration: Declaration) -> pl.Expr:
    # In the clock of the time zone or in UTC: a source may write either.
    length = int(declaration.interval_td / timedelta(microseconds=1))
    local = pl.col("ts_utc").dt.convert_time_zone(declaration.time_zone).dt.replace_time_zone(None)
    return (local.dt.epoch("us") % length == 0) | (pl.col("ts_utc").dt.epoch("us") % length == 0)


def split(
    bronze_rows: pl.LazyFrame, declaration: Declaration, series: pl.DataFrame | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Landed rows as (typed rows that satisfy every rule, rejected rows with `rules`).

    Args:
        bronze_rows: rows of bronze/demand.
        declaration: the source.
        series: the table of the series, if there is one.
    """
    valid, doubtless = pl.all_horizontal(rules(declaration, series).values()), _doubtless(declaration, series)
    numbers = {name: number(name) for name in ("value", *declaration.covariate_columns)}
    kept = ("series_id", "pending", "known_at", "source", "file", "row_number", "ingested_at", "month")

    def typed(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.select(*kept, ts="ts_utc", **numbers)

    # Nearly all rows pass the quick test; exact rules, and columns that only the quarantine needs, are for the rest.
    rows = typed(bronze_rows.filter(doubtless)).collect()
    others = bronze_rows.filter(~doubtless).collect().lazy()
    checks = rules(declaration, series)
    broken = [pl.when(~rule.fill_null(False)).then(pl.lit(name)) for name, rule in checks.items()]
    rejected = others.filter(~valid.fill_null(False)).with_columns(rules=pl.concat_list(broken).list.drop_nulls())
    columns = demand_quarantine.contract(declaration).column_names()
    accepted, rejected_rows = pl.collect_all([typed(others.filter(valid.fill_null(False))), rejected.select(columns)])
    return pl.concat([rows, accepted]), rejected_rows


def _doubtless(declaration: Declaration, series: pl.DataFrame | None) -> pl.Expr:
    """A quick test: rows that pass satisfy every rule."""
    quick = rules(declaration, series) | {
        f"{name}_is_a_number": pl.col(name).is_null() | number(name).is_not_null()
        for name in ("value", *declaration.covariate_columns)
    }
    return pl.all_horizontal(quick.values()).fill_null(False)


def on_time(declaration: Declaration) -> pl.Expr:
    """Whether a row (`ts`, `known_at`) was known when its interval was due."""
    return pl.col("known_at") <= bronze.due_at(pl.col("ts"), declaration)


def deduplicate(rows: pl.DataFrame, declaration: Declaration) -> pl.DataFrame:
    """One row per series and interval, sorted by them, with `known_value`: the value last known on time (null: none).

    The row landed last counts; of those landed together a whole one before a pending one, then the one known last, then
    the last in the order of files and row numbers. But what features use stays as it was when it was first needed: a
    covariate known after the hour as it was on time (else null), one that is published ahead as first published.
    """
    rows = rows.sort("series_id", "ts").with_columns(_on_time=on_time(declaration) & ~pl.col("pending"))
    same = (pl.col("series_id") == pl.col("series_id").shift()) & (pl.col("ts") == pl.col("ts").shift())
    same = same.fill_null(False)
    repeated = rows.select(same | same.shift(-1).fill_null(False)).to_series()
    known = {"known_value": "value", **{name: name for name in declaration.after}}
    single = rows.filter(~repeated) if repeated.any() else rows
    single = single.with_columns(pl.when("_on_time").then(column).alias(name) for name, column in known.items())
    if not repeated.any():
        return single.drop("_on_time")
    first_published = [~pl.col("pending"), ~pl.col("_on_time"), pl.col("ingested_at")]
    order = [pl.col("ingested_at"), ~pl.col("pending"), *map(pl.col, ("known_at", "file", "row_number"))]
    merged = (
        rows.filter(repeated)
        .sort("series_id", "ts", *order)
        .group_by("series_id", "ts", maintain_order=True)
        .agg(
            pl.exclude("_on_time", *declaration.covariate_columns).last(),
            *(pl.col(name).sort_by(first_published).drop_nulls().first() for name in declaration.before),
            *(pl.col(column).filter("_on_time").last().alias(name) for name, column in known.items()),
        )
    )
    columns = single.drop("_on_time").columns
    return pl.concat([single.select(columns), merged.select(columns)]).sort("series_id", "ts")


# ---------------------------------------------------------------- quality

# Found on the EIA labels, see benchmarks/quality.py. Deviations are in units of the level, the trailing median.
_LOW, _HIGH = 0.25, 2.5  # a value beyond these multiples of the level is a spike ...
_USUAL = 0.2  # ... unless the same hours of the week before were as far off
_FAR, _FAR_SPREADS = 0.05, 2.0  # far from the expected: that much of the level, and that many usual deviations
_JUMP, _JUMP_SPREADS = 0.1, 15.0  # and away from where the last good value was, likewise
_ALONE = 3.0  # without a published forecast that agrees, three times as much is asked for
_MEMORY = timedelta(hours=6)  # how long the last good value is remembered
_PASSES = 2  # of a run of bad values, so many hours are found after its first
_LEVEL_DAYS, _SPREAD_DAYS, _LONG_DAYS = 14, 28, 56
_CHANCE = 0.01  # a run of equal values is stuck when chance makes it rarer than this

# What a judgement can depend on: two whole months before the one that is judged.
LOOKBACK_MONTHS = 2


def judge(rows: pl.DataFrame, declaration: Declaration, first_months: pl.DataFrame) -> pl.DataFrame:
    """Rows with `quality`, and `known_value` only where it was good.

    All windows are trailing and at most 56 days long, so that a month can be judged from two months before it.

    Args:
        rows: one row per series and interval, sorted by them; `value`, `pending`, `known_value` (unjudged).
        declaration: the source.
        first_months: series_id, first_month: the first month in which the series has any row, landed earlier or here.
    """
    per_day = timedelta(days=1) // declaration.interval_td
    grid = _grid(rows, declaration)
    usable = pl.col("x").is_not_null() if declaration.allow_negative else pl.col("x") > 0
    grid = grid.with_columns(x=pl.when(usable).then(pl.col("x")))
    grid = _levels(grid, per_day, first_months, declaration)
    grid = _expectations(grid, per_day)
    grid = _references(grid, per_day, declaration)
    grid = grid.with_columns(quality=_verdict("v", declaration))
    # A value that was revised, or that came late, is judged apart from the one that was known on time.
    revised = pl.col("x").is_not_null() & (pl.col("v").is_null() | (pl.col("v") != pl.col("x")))
    good = pl.when(revised).then(_verdict("x", declaration)).otherwise("quality") == "ok"
    if not grid.select(revised.any()).item():
        good = pl.col("quality") == "ok"
    judged = grid.select("here", "quality", known_value=pl.when(good).then(pl.col("x"))).filter("here")
    return rows.with_columns(judged.drop("here").get_columns())


def _grid(rows: pl.DataFrame, declaration: Declaration) -> pl.DataFrame:
    """Every interval between a series' first and last: s (number of the series), i (of the interval), here, v, x, f."""
    if declaration.interval_td == timedelta(days=1):
        number_of = pl.col("ts").dt.convert_time_zone(declaration.time_zone).dt.date().cast(pl.Int32).cast(pl.Int64)
    else:
        number_of = pl.col("ts").dt.epoch("us") // int(declaration.interval_td / timedelta(microseconds=1))
    forecast = pl.col("published_forecast") if declaration.has_published_forecast else pl.lit(None, dtype=pl.Float64)
    grid = rows.select(
        "series_id",
        "month",
        s=pl.col("series_id").rle_id(),
        i=number_of,
        v="value",
        x="known_value",
        f=pl.when(forecast > 0).then(forecast) if not declaration.allow_negative else forecast,
        pending="pending",
        here=pl.lit(True),
    )
    gap = (pl.col("s") == pl.col("s").shift()) & (pl.col("i") != pl.col("i").shift() + 1)
    if grid.select(gap.any()).item():
        ends = grid.group_by("s", maintain_order=True).agg(
            pl.col("series_id").first(), first=pl.col("i").min(), last=pl.col("i").max() + 1
        )
        whole = ends.select("s", "series_id", i=pl.int_ranges("first", "last")).explode("i")
        grid = whole.join(grid.drop("series_id"), on=["s", "i"], how="left", maintain_order="left")
        grid = grid.with_columns(pl.col("here").fill_null(False))
    starts = grid.select(pl.int_range(pl.len()).filter(pl.col("s") != pl.col("s").shift()).alias("at"))["at"]
    first = pl.concat([pl.Series("at", [0]), starts]) if grid.height else starts
    return grid.with_columns(pos=pl.int_range(pl.len()) - first.gather(grid["s"]))


def _before(column: pl.Expr, steps: int) -> pl.Expr:
    """The value of the same series so many intervals before."""
    return pl.when(pl.col("pos") >= steps).then(column.shift(steps))


def _by_day(
    grid: pl.DataFrame, per_day: int, aggregates: dict[str, pl.Expr], windows: dict[str, pl.Expr]
) -> pl.DataFrame:
    """Add statistics of the days before each interval's own.

    Args:
        grid: the intervals.
        per_day: intervals a day.
        aggregates: name -> statistic of a day.
        windows: name -> statistic of the days (rows of one series, named as in `aggregates`), up to each day; it is
            shifted here by a day, so that a day is judged by those before it.
    """
    day = (pl.col("i") // per_day).rle_id() + pl.col("s")
    grid = grid.with_columns(day=day.rle_id())
    days = (
        grid.group_by("day", maintain_order=True)
        .agg(pl.col("s").first(), **aggregates)
        .with_columns([window.shift(1).over("s").alias(name) for name, window in windows.items()])
    )
    return grid.with_columns(days[name].gather(grid["day"]) for name in windows)


def _median(name: str, days: int) -> pl.Expr:
    return pl.col(name).rolling_median(days, min_samples=1)


def _levels(grid: pl.DataFrame, per_day: int, first_months: pl.DataFrame, declaration: Declaration) -> pl.DataFrame:
    """Add `level` (what a spike is measured by), `trail` (the two weeks before), `seen`, and runs of equal values."""
    size = pl.col("x").abs()
    row = pl.int_range(pl.len())
    new = (pl.col("x") != _before(pl.col("x"), 1)).fill_null(True)
    grid = grid.with_columns(run=row - pl.when(new).then(row).forward_fill() + 1)
    repeats = (pl.col("run") > 1) & pl.col("x").is_not_null()
    grid = _by_day(
        grid,
        per_day,
        {
            "size": pl.when(size.median() > 0).then(size.median()),
            "count": pl.col("x").count(),
            "repeats": repeats.sum(),
        },
        {
            "trail": _median("size", _LEVEL_DAYS),
            "long": _median("size", _LONG_DAYS),
            "seen": pl.col("count").cast(pl.Int64).rolling_sum(_LONG_DAYS, min_samples=1),
            "repeated": pl.col("repeats").cast(pl.Int64).rolling_sum(_SPREAD_DAYS, min_samples=1),
            "reported": pl.col("count").cast(pl.Int64).rolling_sum(_SPREAD_DAYS, min_samples=1),
        },
    )
    today = pl.col("x").is_not_null().cast(pl.Int64).cum_sum().over("day")
    grid = grid.with_columns(level=pl.coalesce("trail", "long"), seen=pl.col("seen").fill_null(0) + today)
    # A series that is new within the two months that can be read: its first fortnight is its own measure.
    first_i = grid.filter(pl.col("x").is_not_null()).group_by("s").agg(first_i=pl.col("i").min())
    fortnight = (
        grid.join(first_i, on="s", maintain_order="left")
        .filter(pl.col("i") < pl.col("first_i") + _LEVEL_DAYS * per_day, pl.col("i") >= pl.col("first_i"))
        .group_by("s")
        .agg(pl.col("first_i").first(), own=pl.col("x").abs().median(), own_seen=pl.col("x").count().cast(pl.Int64))
        .join(grid.group_by("s").agg(pl.col("series_id").first()), on="s")
        .join(first_months, on="series_id", how="left")
    )
    grid = grid.join(fortnight.drop("series_id"), on="s", how="left", maintain_order="left")
    new = (pl.col("i") < pl.col("first_i") + _LEVEL_DAYS * per_day) & (
        pl.col("first_month") >= pl.col("month").dt.offset_by(f"-{LOOKBACK_MONTHS}mo")
    )
    return grid.with_columns(
        level=pl.when(new).then("own").otherwise("level"), seen=pl.when(new).then("own_seen").otherwise("seen")
    ).drop("first_i", "own", "own_seen", "first_month", "long")


def _expectations(grid: pl.DataFrame, per_day: int) -> pl.DataFrame:
    """Add what is expected, and the usual deviations from it in units of the level.

    `p` and `sp`: from the same hours of the week before; `f` and `sf`: from the published one less its usual error.
    """
    plausible = pl.col("trail").is_null() | pl.col("x").abs().is_between(
        _LOW * pl.col("trail"), _HIGH * pl.col("trail")
    )
    grid = grid.with_columns(c=pl.when(plausible & (pl.col("run") < 3)).then(pl.col("x")))
    same = [_before(pl.col("c"), day * per_day) for day in range(1, 8)]
    grid = grid.with_columns(same[k].alias(f"_{k}") for k in range(7))
    days = [pl.col(f"_{k}") for k in range(7)]
    count = pl.sum_horizontal(day.is_not_null().cast(pl.Int8) for day in days)
    total, least, most = pl.sum_horizontal(days), pl.min_horizontal(days), pl.max_horizontal(days)
    # The mean without the lowest and the highest.
    grid = grid.with_columns(p=pl.when(count >= 3).then((total - least - most) / (count - 2))).drop(
        [f"_{k}" for k in range(7)]
    )
    error = (pl.col("f") - pl.col("c")).median()
    grid = _by_day(grid, per_day, {"error": error}, {"bias": _median("error", _LEVEL_DAYS)})
    grid = grid.with_columns(f=pl.col("f") - pl.col("bias"))
    p_size = ((pl.col("c") - pl.col("p")).abs() / pl.col("trail")).median()
    f_size = ((pl.col("c") - pl.col("f")).abs() / pl.col("trail")).median()
    return _by_day(
        grid,
        per_day,
        {"p_size": p_size, "f_size": f_size},
        {"sp": _median("p_size", _SPREAD_DAYS), "sf": _median("f_size", _SPREAD_DAYS)},
    )


def _references(grid: pl.DataFrame, per_day: int, declaration: Declaration) -> pl.DataFrame:
    """Add the deviations of the last good value, `gp` and `gf`, and `after_good`: that is the interval before."""
    memory = max(1, _MEMORY // declaration.interval_td)
    good = pl.col("c").is_not_null()
    grid = _last_good(grid, good, memory)
    sizes = {
        name: pl.when(good).then((_deviation("x", expected) - pl.col(last)).abs()).median()
        for name, expected, last in (("jp_size", "p", "gp"), ("jf_size", "f", "gf"))
    }
    windows = {"jp": _median("jp_size", _SPREAD_DAYS), "jf": _median("jf_size", _SPREAD_DAYS)}
    grid = _by_day(grid, per_day, sizes, windows)
    # Each pass finds one more hour of a run of bad ones, which the pass before still took for the last good one.
    for _ in range(_PASSES):
        grid = _last_good(grid.with_columns(good=good & ~_far("x")), pl.col("good"), memory)
    return grid


def _last_good(grid: pl.DataFrame, good: pl.Expr, memory: int) -> pl.DataFrame:
    last = pl.when(good).then(pl.int_range(pl.len())).forward_fill().shift(1)
    grid = grid.with_columns(_last=last, gp=_deviation("x", "p"), gf=_deviation("x", "f"))
    age = pl.int_range(pl.len()) - pl.col("_last")
    known = (age <= memory) & (age <= pl.col("pos"))
    return grid.with_columns(
        gp=pl.when(known).then(pl.col("gp").gather(pl.col("_last"))),
        gf=pl.when(known).then(pl.col("gf").gather(pl.col("_last"))),
        after_good=(age == 1) & (pl.col("pos") > 0),
    ).drop("_last")


def _deviation(value: str, expected: str) -> pl.Expr:
    return (pl.col(value) - pl.col(expected)) / pl.col("trail")


def _far(value: str) -> pl.Expr:
    """Far from both expectations, and from where the last good value lay beside them."""
    p, f = _deviation(value, "p"), _deviation(value, "f")
    from_p, jumped_p = p.abs(), (p - pl.col("gp")).abs()
    from_f, jumped_f = f.abs(), (f - pl.col("gf")).abs()

    def beyond(level: pl.Expr, jump: pl.Expr, spread: str, jump_spread: str, times: float) -> pl.Expr:
        return (
            (level > times * _FAR)
            & (level > times * _FAR_SPREADS * pl.col(spread))
            & (jump > times * _JUMP)
            & (jump > times * _JUMP_SPREADS * pl.col(jump_spread))
        )

    both = beyond(from_p, jumped_p, "sp", "jp", 1) & beyond(from_f, jumped_f, "sf", "jf", 1)
    alone = jumped_f.is_null() & beyond(from_p, jumped_p, "sp", "jp", _ALONE)
    return (both | alone).fill_null(False)


def _verdict(value: str, declaration: Declaration) -> pl.Expr:
    v, day = pl.col(value), timedelta(days=1) // declaration.interval_td
    plain = (
        pl.when("pending")
        .then(pl.lit("pending"))
        .when(v.is_null())
        .then(pl.lit("missing"))
        .when((v <= 0) & (not declaration.allow_negative))
        .then(pl.lit("non_positive"))
    )
    if declaration.screened:
        return plain.otherwise(pl.lit("ok"))
    ratio = v.abs() / pl.col("level")
    off = (ratio > _HIGH) if declaration.allow_negative else (ratio > _HIGH) | (ratio < _LOW)
    spike = off & ((_deviation(value, "p").abs() > _USUAL).fill_null(True))
    share = pl.col("repeated") / pl.col("reported")
    before = _before(pl.col("run"), 1)
    equal = (v == _before(pl.col("x"), 1)).fill_null(False)
    stuck = equal & (before >= 2) & (share.fill_null(0.5).clip(1e-9).pow(before) < _CHANCE)
    if declaration.allow_negative:
        stuck &= v != 0
    far = _far(value)
    return (
        plain.when(spike.fill_null(False))
        .then(pl.lit("spike"))
        .when(stuck.fill_null(False))
        .then(pl.lit("stuck"))
        .when(far & pl.col("after_good").fill_null(False))
        .then(pl.lit("jump"))
        .when(far | (pl.col("seen") < max(day, 3)))
        .then(pl.lit("implausible"))
        .otherwise(pl.lit("ok"))
    )


# ---------------------------------------------------------------- asset


def transform(
    bronze_rows: pl.LazyFrame, declaration: Declaration, series: pl.DataFrame | None, first_months: pl.DataFrame
) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Landed rows as (silver/demand, silver/demand_quarantine).

    Args:
        bronze_rows: rows of bronze/demand, those of the months asked for and of `LOOKBACK_MONTHS` before.
        declaration: the source.
        series: the table of the series, if there is one.
        first_months: series_id, first_month, over all rows landed.
    """
    typed, rejected = split(bronze_rows, declaration, series)
    judged = judge(deduplicate(typed, declaration), declaration, first_months)
    return judged.lazy().select(contract(declaration).column_names()), rejected.lazy()


def _shifted(month: date, months: int) -> date:
    return date(month.year + (month.month - 1 + months) // 12, (month.month - 1 + months) % 12 + 1, 1)


_LINEAGE = {
    "ts": ["bronze/demand:ts_utc"],
    "quality": [f"bronze/demand:{name}" for name in ("value", "ts_utc", "known_at", "pending", "series_id")],
    "known_value": [f"bronze/demand:{name}" for name in ("value", "known_at", "pending")],
}
_SPEC = table_spec(
    __name__,
    contract,
    lineage=lineage(contract(), {"bronze/demand": bronze.contract()}, _LINEAGE),
    metadata={"schema_mode": "merge"},
)
_QUARANTINE_SPEC = table_spec(
    demand_quarantine.__name__,
    demand_quarantine.contract,
    lineage=lineage(demand_quarantine.contract(), {"bronze/demand": bronze.contract()}),
    metadata={"schema_mode": "merge"},
)


@dg.multi_asset(
    name="silver_demand",
    outs={"demand": dg.AssetOut.from_spec(_SPEC), "demand_quarantine": dg.AssetOut.from_spec(_QUARANTINE_SPEC)},
    deps=[bronze.KEY],
    partitions_def=MONTHS,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def demand(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[dg.Output]:
    """Judge the months in hand, reading two months more before them."""
    declaration = active_declaration()
    first, last = months_of_run(context)
    landed = lake.lake().table(bronze.KEY.path).scan()
    first_months = landed.group_by("series_id").agg(first_month=pl.col("month").min()).collect()
    # The first fortnight of a series that starts in the last month may reach into the next.
    starts = first_months.select((pl.col("first_month") == last).any()).item()
    until = _shifted(last, 1) if starts else last
    rows = landed.filter(pl.col("month").is_between(_shifted(first, -LOOKBACK_MONTHS), until))
    in_hand = pl.col("month").is_between(first, last)
    series = series_table(declaration, get_settings().data)
    silver, quarantine = (
        table.filter(in_hand).collect() for table in transform(rows, declaration, series, first_months)
    )
    landed_rows = int(landed.filter(in_hand).select(pl.len()).collect().item())
    counts = {
        "bronze_rows": landed_rows,
        "silver_rows": silver.height,
        "quarantined_rows": quarantine.height,
        "removed_duplicates": landed_rows - silver.height - quarantine.height,
    }
    qualities = dict(silver["quality"].value_counts().sort("count", descending=True).iter_rows())
    broken = dict(quarantine.select(pl.col("rules").explode()).to_series().drop_nulls().value_counts().iter_rows())
    yield dg.Output(silver, "demand", metadata={**counts, "quality": dg.MetadataValue.json(qualities)})
    yield dg.Output(quarantine, "demand_quarantine", metadata={**counts, "broken_rules": dg.MetadataValue.json(broken)})


contract_of_demand = contract_check(demand, contract, key=KEY)
contract_of_quarantine = contract_check(demand, demand_quarantine.contract, key=QUARANTINE_KEY)


@dg.asset_check(
    asset=KEY,
    additional_deps=[QUARANTINE_KEY],
    blocking=True,
    description="Every landed row is here, in the quarantine, or a duplicate of a row that is here.",
)
def nothing_lost(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
    """Count anew: rows of bronze that are not in the quarantine have as many intervals as there are rows here."""
    only = rows_of_run(context.run.tags, MONTHS, "month")
    tables = lake.lake()

    def rows(key: dg.AssetKey) -> pl.LazyFrame:
        scan = tables.table(key.path).scan()
        return scan if only is None else scan.filter(only)

    row = ["file", "fingerprint", "row_number", "pending"]
    rejected = rows(QUARANTINE_KEY).select(row).collect()
    landed = rows(bronze.KEY).select(*row, "series_id", "ts_utc").collect()
    kept = landed.join(rejected, on=row, how="anti") if rejected.height else landed
    kept_keys = kept.select("series_id", "ts_utc").n_unique()
    silver_rows = int(rows(KEY).select(pl.len()).collect().item())
    passed = silver_rows == kept_keys and landed.height == kept.height + rejected.height
    return dg.AssetCheckResult(
        passed=passed,
        metadata={
            "bronze_rows": landed.height,
            "silver_rows": silver_rows,
            "quarantined_rows": rejected.height,
            "removed_duplicates": kept.height - kept_keys,
        },
    )


# ---------------------------------------------------------------- lasting faults

_BLOCK = 200  # series whose grids are in memory together


def lasting_faults(rows: pl.LazyFrame, declaration: Declaration, series: pl.DataFrame | None) -> pl.DataFrame:
    """Faults of half a day and more by name, see `ml/quality.py`: series_id, fault, since, until (local clock).

    Args:
        rows: rows of silver/demand, as many weeks as the answer may depend on: nine, to judge the last four.
        declaration: the source.
        series: the table of the series, if there is one.
    """
    zones: dict[str, str] = {}
    if series is not None:
        known = series.select("series_id", "time_zone").drop_nulls()
        zones = dict(known.iter_rows())
    ids = rows.select(pl.col("series_id").unique().sort()).collect()["series_id"].to_list()
    by_zone: dict[str, list[str]] = {}
    for one in ids:
        by_zone.setdefault(zones.get(one, declaration.time_zone), []).append(one)
    found = [pl.DataFrame(schema=SCHEMA)]
    for zone, members in by_zone.items():
        for start in range(0, len(members), _BLOCK):
            block = members[start : start + _BLOCK]
            local = pl.col("ts").dt.convert_time_zone(zone).dt.replace_time_zone(None).dt.truncate("1h")
            hours = (
                rows.filter(pl.col("series_id").is_in(block))
                .group_by("series_id", hour=local.dt.cast_time_unit("us"))
                .agg(value=pl.col("value").mean())
                .collect()
            )
            first, last = hours.select(first=pl.col("hour").min(), last=pl.col("hour").max()).row(0)
            first = first.replace(hour=0)
            grid = np.full((len(block), (last - first) // timedelta(hours=1) + 1), np.nan)
            at = hours.select(
                s=pl.col("series_id").cast(pl.Enum(block)).to_physical(), t=(pl.col("hour") - first).dt.total_hours()
            )
            grid[at["s"].to_numpy(), at["t"].to_numpy()] = hours["value"].fill_null(np.nan).to_numpy()
            # The hour that a change to summer time skips is no gap.
            alone = np.isnan(grid[:, 1:-1]) & np.isfinite(grid[:, :-2]) & np.isfinite(grid[:, 2:])
            s, t = np.nonzero(alone)
            grid[s, t + 1] = (grid[s, t] + grid[s, t + 2]) / 2
            whole = -(-grid.shape[1] // 24) * 24 - grid.shape[1]
            found.append(faults(block, first, np.pad(grid, ((0, 0), (0, whole)), constant_values=np.nan)))
    return pl.concat(found).sort("series_id", "since", "fault")


@dg.asset_check(
    asset=KEY,
    description="No meter has been silent, stuck, in another unit or on another clock for half a day or more of the "
    "latest four weeks. Such a fault is no drift: no training mends it.",
)
def no_lasting_faults(lake: LakeResource) -> dg.AssetCheckResult:
    """Look for lasting faults in the latest four weeks, with the five before them for a measure."""
    declaration = active_declaration()
    rows = lake.lake().table(KEY.path).scan()
    latest = rows.filter(pl.col("quality") != "pending").select(pl.col("ts").max()).collect().item()
    found = pl.DataFrame(schema=SCHEMA)
    if latest is not None and declaration.interval_td <= timedelta(hours=1):
        since = latest - timedelta(days=63)
        recent = rows.filter(pl.col("month") >= since.date().replace(day=1), pl.col("ts").is_between(since, latest))
        found = lasting_faults(recent, declaration, series_table(declaration, get_settings().data))
        edge = (latest - timedelta(days=28)).replace(tzinfo=None)
        found = found.filter(pl.col("until") > edge)
    counts = dict(found["fault"].value_counts().sort("fault").iter_rows())
    shown = found.with_columns(pl.col("since", "until").dt.to_string("%Y-%m-%dT%H:%M")).head(100)
    return dg.AssetCheckResult(
        passed=found.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={**counts, "faults": dg.MetadataValue.json(shown.to_dicts())},
    )
