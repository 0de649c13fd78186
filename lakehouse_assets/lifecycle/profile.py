"""Profiles: what values, inputs, predictions and errors were like, week by week, and where a version was trained.

A row is a window, a slice and a column. Windows are whole weeks of the times at which predictions are made, as the
drift verdict judges them; finer ones would be noise to it. Slices are all rows (null, null), the groups, the members,
and the versions that predicted. The rows of granularity `baseline` say what a version in force was trained on: a year
of features before its cutoff, and the errors of its backtest.

Each week is computed once, and written whole in one commit, so that a run that is killed between two weeks has done
the first. What comes late (a value, a prediction, an error) is looked for at every run, five weeks back from the last
window, by counting what there is now, and by the mean of the target: a week of which there is more than when it was
computed, or that was corrected, is computed again and replaced. What comes later than that is not in the profile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg
import polars as pl

from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table import Lake, Table
from lakehouse_assets.lake.table_asset import column_schema, contract_check
from lakehouse_assets.lifecycle.contracts import MODEL_VERSION, MONTH, WINDOW, contract_of, filled, grow, months_written
from lakehouse_assets.lifecycle.evidence import has_backtest, load_backtest
from lakehouse_assets.lifecycle.fleet import FleetRegistry
from lakehouse_assets.lifecycle.names import Names, table_key
from lakehouse_assets.lifecycle.windows import GRANULARITY, LOOK_BACK, month_of, week_end, week_of, whole_weeks
from lakehouse_assets.ml.definition import Columns, ModelDefinition
from lakehouse_assets.ml.profile import STATISTICS, profiled, united
from lakehouse_assets.registry.resource import RegistryResource

BASELINE = "baseline"
COLUMNS: Columns = {**WINDOW, **STATISTICS, **MODEL_VERSION, **MONTH}
KEYS = ("window_start", "granularity", "slice_key", "slice_value", "column")
_YEAR = timedelta(days=364)
# Rows that are in memory together.
_ROWS = 2_000_000


def profile_asset(definition: ModelDefinition) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """The asset `monitoring/<name>_profile` and the check of its contract."""
    names = Names(definition.name)
    never_null = ("window_start", "window_end", "granularity", "column", "count", "nulls", "zeros", "month")
    contract = contract_of("Profile", COLUMNS, never_null, {}, unique=(*KEYS, "model_version"))

    @dg.asset(
        key=names.profile,
        deps=[names.promotion, names.series, names.errors, dg.AssetKey(definition.features.split("/"))],
        group_name="monitoring",
        description=(
            f"Profiles of the target of {definition.name}, its main inputs, predictions and errors: by week, over all, "
            "by group, member and version; and of what the versions in force were trained on."
        ),
        kinds={"delta", "polars"},
        owners=["team:lakehouse"],
        tags={"model": definition.name, "layer": "monitoring"},
        metadata={"partition_expr": "month", "dagster/column_schema": column_schema(contract)},
    )
    def profile(
        context: dg.AssetExecutionContext, lake: LakeResource, registry: RegistryResource
    ) -> dg.MaterializeResult:
        store = registry.registry()
        in_force = FleetRegistry(definition.name, store, lake.lake()).assignment()
        if in_force is None:
            return dg.MaterializeResult(metadata={"reason": "no champion yet"})
        table = lake.lake().table(table_key(names.profile))
        grow(table, COLUMNS)
        sources = Sources(definition, lake.lake())
        written = []
        versions = {v: store.version(definition.name, v) for v in {in_force.champion, *in_force.members.values()}}
        cutoffs = {v: datetime.fromisoformat(version.tags["cutoff"]) for v, version in versions.items()}
        for v in sorted(versions.keys() - _baselines(table)):
            run = versions[v].run_id
            if not has_backtest(store, run):
                context.log.warning(f"version {v} has no backtest any more: its baseline is without errors")
                written.append(_write(table, sources.baseline(v, cutoffs[v], None), context.run_id))
                continue
            with load_backtest(store, run) as backtest:
                errors = definition.kind.backtest_errors(backtest.result)
                written.append(_write(table, sources.baseline(v, cutoffs[v], errors), context.run_id))
        weeks = []
        for week in sources.due(table, min(cutoffs.values())):
            context.log.info(f"week of {week:%Y-%m-%d}: profiles")
            written.append(_write(table, sources.week(week), context.run_id))
            weeks.append(f"{week:%Y-%m-%d}")
        if not table.exists():
            return dg.MaterializeResult(metadata={"reason": "no features yet"})
        version = table.version()
        return dg.MaterializeResult(
            metadata={
                "weeks": dg.MetadataValue.json(weeks),
                "months": dg.MetadataValue.json(sorted({month for months in written for month in months})),
                "dagster/row_count": table.row_count(),
                "delta_version": version,
            },
            data_version=dg.DataVersion(str(version)),
        )

    return profile, contract_check(profile, contract, written=months_written(names.profile))


def _baselines(table: Table) -> set[int]:
    """The versions that have their baseline."""
    if not table.exists():
        return set()
    rows = table.scan().filter(pl.col("granularity") == BASELINE).select(pl.col("model_version").unique())
    return set(rows.collect()["model_version"])


def _write(table: Table, rows: pl.DataFrame, run_id: str) -> list[str]:
    """Put the rows of one window in the place of those that are there of it; returns their month."""
    if rows.is_empty():
        return []
    window = rows.row(0, named=True)
    predicate = f"month = '{window['month']}' AND window_start = '{window['window_start']:%Y-%m-%d %H:%M:%S.%f}'"
    predicate += f" AND granularity = '{window['granularity']}'"
    if window["granularity"] == BASELINE:
        predicate += f" AND model_version = {window['model_version']}"
    table.overwrite(rows, predicate=predicate, partition_by=["month"], run_id=run_id)
    return [str(window["month"])]


@dataclass(frozen=True)
class Sources:
    """What is profiled of a model: its tables in a lake."""

    definition: ModelDefinition
    lake: Lake

    def due(self, table: Table, since: datetime) -> list[datetime]:
        """The weeks to compute: those that have ended and are new, or have grown since, none before `since`."""
        time, target = self.definition.kind.time_column, self.definition.target
        zone = self.definition.schedules.time_zone
        features = self._features()
        edge = features.select(pl.col(time).max()).collect().item()
        if edge is None:
            return []
        keys = ["window_start", "column"]
        known = pl.DataFrame(schema={**{name: COLUMNS[name][0] for name in (*keys, "count", "mean")}})
        if table.exists():
            whole = (pl.col("granularity") == GRANULARITY) & pl.col("slice_key").is_null()
            known = table.scan().filter(whole).select(known.columns).collect()
        if not known.is_empty():
            first, last = known.select(first=pl.col("window_start").min(), last=pl.col("window_start").max()).row(0)
            since = max(first, last - LOOK_BACK)
        weeks = whole_weeks(since, edge, zone)
        if not weeks:
            return []
        week = week_of(pl.col(time), zone).alias("window_start")
        counted = [
            rows.filter(pl.col("month") >= weeks[0].date().replace(day=1))
            .group_by(week)
            .agg(count=_known(column).sum().cast(pl.Int64), mean=pl.col(column).filter(_known(column)).mean())
            .select("window_start", pl.lit(column).alias("column"), "count", pl.col("mean").cast(pl.Float64))
            for rows, column in [(features, target), *self._outcomes()]
        ]
        now = pl.concat(counted).filter(pl.col("count") > 0).collect(engine="streaming")
        both = now.join(known, on=keys, how="left", suffix="_then")
        # The means of predictions and errors follow from what is counted; that of the target may be set right later.
        off = (pl.col("mean") - pl.col("mean_then")).abs() > 1e-9 * pl.col("mean").abs()
        changed = pl.col("count").ne_missing(pl.col("count_then")) | (off & (pl.col("column") == target))
        due = set(both.filter(changed)["window_start"])
        return [start for start in weeks if start in due]

    def week(self, start: datetime) -> pl.DataFrame:
        """The rows of the week that starts at a time."""
        zone, time = self.definition.schedules.time_zone, self.definition.kind.time_column
        bounds = pl.select(window_start=pl.lit(start), window_end=week_end(pl.lit(start), zone)).row(0)
        within = _between(time, *bounds)
        outcomes = [(rows.filter(within), column) for rows, column in self._outcomes()]
        return self._rows(GRANULARITY, bounds, within, outcomes)

    def baseline(self, version: int, cutoff: datetime, errors: pl.LazyFrame | None) -> pl.DataFrame:
        """The rows of what a version was trained on; errors: of its backtest."""
        kind, bounds, mine = self.definition.kind, (cutoff - _YEAR, cutoff), pl.lit(version, pl.Int64)
        columns = (kind.prediction_column, kind.error_column)
        outcomes = [] if errors is None else [(errors.with_columns(model_version=mine), c) for c in columns]
        rows = self._rows(BASELINE, bounds, _between(kind.time_column, *bounds), outcomes)
        return rows.with_columns(model_version=mine)

    def _features(self) -> pl.LazyFrame:
        return self.lake.table(self.definition.features).scan()

    def _outcomes(self) -> Iterator[tuple[pl.LazyFrame, str]]:
        """Predictions and errors, with the column that is profiled of each."""
        names, kind = Names(self.definition.name), self.definition.kind
        for key, column in ((names.prediction, kind.prediction_column), (names.errors, kind.error_column)):
            table = self.lake.table(table_key(key))
            if table.exists():
                yield table.scan(), column

    def _rows(
        self,
        granularity: str,
        bounds: tuple[datetime, datetime],
        within: pl.Expr,
        outcomes: Sequence[tuple[pl.LazyFrame, str]],
    ) -> pl.DataFrame:
        """The rows of a window: the features in it, and what came of predictions."""
        kind, group = self.definition.kind, self.definition.group
        member = kind.keys[1]
        features = self._features().filter(within)
        schema = features.collect_schema()
        other = {*kind.keys, self.definition.target, "month"}
        numeric = [name for name, dtype in schema.items() if dtype.is_numeric() and name not in other]
        watched = [self.definition.target, *kind.main_inputs(numeric)]
        group = group if group in schema else None
        of_group = pl.lit(None, pl.String) if group is None else pl.col(group).last()
        members = features.group_by(member).agg(rows=pl.len(), group=of_group).sort(member).collect(engine="streaming")
        if members.is_empty():
            return pl.DataFrame(schema={name: dtype for name, (dtype, _) in COLUMNS.items()})
        no_version = features.with_columns(model_version=pl.lit(None, pl.Int64))
        sources = [(no_version, watched), *((rows, [column]) for rows, column in outcomes)]
        step = max(1, _ROWS * members.height // max(1, int(members["rows"].sum())))
        parts = []
        for first in range(0, members.height, step):
            some = members[member][first : first + step]
            for rows, columns in sources:
                # A range and not a list: ranges let the reader skip what lies outside.
                mine = rows.filter(pl.col(member).is_between(pl.lit(some[0]), pl.lit(some[-1])))
                read = mine.select(member, "model_version", *columns).collect(engine="streaming")
                parts.append(profiled(read, [member, "model_version"], columns, [kind.error_column]))
        by_member = pl.concat(parts).join(members.select(member, "group"), on=member, how="left")
        start, end = bounds
        made = sliced(by_member, member, group).with_columns(
            window_start=pl.lit(start), window_end=pl.lit(end), granularity=pl.lit(granularity)
        )
        made = made.with_columns(month=month_of(pl.col("window_start")))
        return filled(made, COLUMNS).sort("column", "slice_key", "slice_value")


def sliced(by_member: pl.DataFrame, member: str, group: str | None) -> pl.DataFrame:
    """Profiles of all slices, from those by member and version: slice_key, slice_value, column, statistics, version.

    by_member: `member`, `model_version` (null: none is concerned), `group`, and the profile. model_version, of a slice:
    the only one in it; null where there are several.
    """
    parts = []
    for key, column, rows in (
        (None, None, by_member),
        (group, "group", by_member.filter(pl.col("group").is_not_null())),
        (member, member, by_member),
        ("model_version", "model_version", by_member.filter(pl.col("model_version").is_not_null())),
    ):
        value = pl.lit(None, pl.String) if column is None else pl.col(column).cast(pl.String)
        rows = rows.with_columns(slice_key=pl.lit(key, pl.String), slice_value=value)
        by = ["slice_key", "slice_value"]
        versions = rows.group_by(*by, "column").agg(
            model_version=pl.when(pl.col("model_version").n_unique() == 1).then(pl.col("model_version").first())
        )
        parts.append(united(rows, by).join(versions, on=[*by, "column"], nulls_equal=True))
    return pl.concat(parts)


def _known(column: str) -> pl.Expr:
    return pl.col(column).is_finite().fill_null(False)


def _between(time: str, start: datetime, end: datetime) -> pl.Expr:
    """Times from start to end, by the month first: it prunes files."""
    first, last = (moment.date().replace(day=1) for moment in (start, end))
    return (pl.col("month") >= first) & (pl.col("month") <= last) & (pl.col(time) >= start) & (pl.col(time) < end)
