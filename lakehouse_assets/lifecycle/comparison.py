"""The drift table: one row a window, slice, column and comparison, in one tall table.

A `comparison` says what a window was compared with:

- `baseline`: with what the version in force was trained on, as far as it is profiled;
- `consecutive`: with the window before;
- `challenger`: the champion's loss with that of a fresh fit of its own recipe. These rows are the verdicts.

The first two are made from profiles and hold distances; the third holds losses and verdict under the names that they
have had from the beginning, the member's (and a forecast's `week`) among them, and only its rows do. One table, because
people ask one question of it: what is different in this window, and is it the model's fault? It is sparse, and costs
nothing for that: columns of nulls take no room in Parquet, and the table is partitioned by comparison and month, so
that who reads verdicts reads nothing else, and writing distances never touches them.
"""

from collections.abc import Mapping
from datetime import datetime

import polars as pl

from lakehouse_assets.lake.table import Table
from lakehouse_assets.lifecycle.contracts import MODEL_VERSION, MONTH, REPORT, WINDOW, filled, grow
from lakehouse_assets.lifecycle.fleet import Assignment
from lakehouse_assets.lifecycle.profile import BASELINE
from lakehouse_assets.lifecycle.windows import Windows, month_of
from lakehouse_assets.ml.definition import Columns, ModelDefinition
from lakehouse_assets.ml.profile import DISTANCES, compared

CONSECUTIVE, CHALLENGER = "consecutive", "challenger"
KEYS = ("window_start", "comparison", "model_version", "slice_key", "slice_value", "column")
NEVER_NULL = ("window_start", "window_end", "granularity", "column", "comparison", "month")
PARTITIONS = ["comparison", "month"]
UTC_TIME = pl.Datetime("us", "UTC")
_COMPARISON: Columns = {
    "comparison": (pl.String(), "What with: baseline, consecutive (the window before) or challenger (a fresh fit)."),
    "reference_start": (UTC_TIME, "Start of the window that it is compared with (UTC); null: a challenger."),
    "reference_end": (UTC_TIME, "Its end (UTC), exclusive."),
}
_SLICE = ["slice_key", "slice_value", "column"]


def drift_columns(definition: ModelDefinition) -> Columns:
    """All columns of a model's drift table."""
    return {**WINDOW, **_COMPARISON, **DISTANCES, **MODEL_VERSION, **definition.kind.drift_columns, **REPORT, **MONTH}


def verdicts(rows: pl.DataFrame, definition: ModelDefinition) -> pl.DataFrame:
    """Verdicts, with the `window_start` that each is about, as rows of the drift table."""
    return filled(rows.with_columns(**_verdict_window(definition)), drift_columns(definition))


def _verdict_window(definition: ModelDefinition) -> Mapping[str, pl.Expr]:
    kind, windows = definition.kind, Windows.of_model(definition)
    return {
        "window_end": windows.end(pl.col("window_start")),
        "granularity": pl.lit(windows.granularity),
        "slice_key": pl.lit(kind.member),
        "slice_value": pl.col(kind.member),
        "column": pl.lit(kind.loss_column),
        "comparison": pl.lit(CHALLENGER),
        "month": month_of(pl.col("window_start")),
    }


def take_over(table: Table, definition: ModelDefinition) -> None:
    """Bring a drift table that an earlier release wrote into this shape, in one commit; its rows stay as they are."""
    if not table.exists():
        return
    if "comparison" in table.schema():
        grow(table, drift_columns(definition))
        return
    version = table.version()
    rows = verdicts(table.scan(version).collect().with_columns(window_start="week"), definition)
    table.overwrite(rows, schema_mode="overwrite", partition_by=PARTITIONS, expected_version=version)


def compare_windows(
    table: Table, profiles: Table, definition: ModelDefinition, in_force: Assignment, run_id: str
) -> list[str]:
    """Compare the profiled windows that have not been compared as they are now; returns the months written.

    One that was profiled again is compared again, and so is the one after it. A comparison with a baseline stays
    with the version that was in force when it was made.
    """
    if not profiles.exists():
        return []
    whole = profiles.scan().filter(pl.col("slice_key").is_null())
    known = whole.select("granularity", "window_start", "column", "count", "mean", "model_version").collect()
    granularity = Windows.of_model(definition).granularity
    starts = known.filter(granularity=granularity)["window_start"].unique().sort().to_list()
    before = dict(zip(starts[1:], starts[:-1], strict=True))
    baseline = known.filter(granularity=BASELINE, model_version=in_force.champion)
    stale = _stale(table, known.filter(granularity=granularity), baseline, before)
    stale |= {start for start, previous in before.items() if previous in stale}
    months = []
    # The latest first: a run that is killed between two leaves the one before stale, and with it this one.
    for start in sorted(stale, reverse=True):
        rows = _compared(profiles, definition, in_force, start, before.get(start))
        month = rows["month"][0]
        predicate = f"comparison IN ('{BASELINE}', '{CONSECUTIVE}') AND month = '{month}'"
        predicate += f" AND window_start = '{start:%Y-%m-%d %H:%M:%S.%f}'"
        table.overwrite(rows, predicate=predicate, partition_by=PARTITIONS, run_id=run_id)
        months.append(str(month))
    return months


def _stale(
    table: Table, now: pl.DataFrame, baseline: pl.DataFrame, before: Mapping[datetime, datetime]
) -> set[datetime]:
    """The windows whose comparisons are not there, or were made from other profiles than there are now.

    now, baseline: the profiles of the whole. before: window -> the one before.
    """
    keys = ["window_start", "column", "comparison", "count", "mean"]
    pairs = pl.DataFrame(list(before.items()), schema={"window_start": UTC_TIME, "previous": UTC_TIME}, orient="row")
    there = now.select("column", previous="window_start")
    wanted = [
        now.join(baseline, on="column", how="semi").with_columns(comparison=pl.lit(BASELINE)),
        now.join(pairs, on="window_start")
        .join(there, on=["previous", "column"], how="semi")
        .with_columns(comparison=pl.lit(CONSECUTIVE)),
    ]
    missing = pl.concat(part.select(keys) for part in wanted)
    if table.exists():
        stored = table.scan().filter(pl.col("comparison") != CHALLENGER, pl.col("slice_key").is_null())
        missing = missing.join(stored.select(keys).collect(), on=keys, how="anti", nulls_equal=True)
    return set(missing["window_start"])


def _compared(
    profiles: Table, definition: ModelDefinition, in_force: Assignment, start: datetime, before: datetime | None
) -> pl.DataFrame:
    """The rows of a window: each slice beside the baseline of the version in force for it, and the window before."""
    windows = profiles.scan().filter(pl.col("granularity") == Windows.of_model(definition).granularity)
    current = windows.filter(pl.col("window_start") == start).collect()
    versions = {in_force.champion, *in_force.members.values()}
    baselines = profiles.scan().filter(pl.col("granularity") == BASELINE, pl.col("model_version").is_in(versions))
    in_charge = (
        pl.when(pl.col("slice_key") == definition.kind.member)
        .then(in_force.versions_of("slice_value"))
        .when(pl.col("slice_key") == "model_version")
        .then(pl.col("slice_value").cast(pl.Int64, strict=False))
        .otherwise(pl.lit(in_force.champion, pl.Int64))
    )
    mine = current.with_columns(model_version=in_charge)
    parts = {BASELINE: compared(mine, baselines.collect(), [*_SLICE, "model_version"])}
    if before is not None:
        parts[CONSECUTIVE] = compared(current, windows.filter(pl.col("window_start") == before).collect(), _SLICE)
    return pl.concat(
        filled(
            rows.with_columns(
                comparison=pl.lit(name),
                reference_start="window_start_reference",
                reference_end="window_end_reference",
            ),
            drift_columns(definition),
        )
        for name, rows in parts.items()
    )
