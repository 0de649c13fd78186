"""Profiles: what values, inputs, predictions and errors were like, window by window, and where a version was trained.

A row is a window, a slice and a column. Windows are whole weeks of the times at which predictions are made, or months
with their snapshot, as the drift verdict judges them; finer ones would be noise to it. Slices are all rows (null,
null), the groups, the members where they have models of their own, and the versions that predicted. The rows of
granularity `baseline` say what a version in force was trained on: a year of features before its cutoff, and the errors
of its backtest.

Each window is computed once, and written whole in one commit, so that a run that is killed between two has done the
first. What comes late (a value, a prediction, an error) is looked for at every run, five weeks back from the last
window, and as much further as the kind's truth takes to come, by counting what there is now, and by the mean of the
target: a window of which there is more than when it was computed, or that was corrected, is computed again and
replaced. What comes later than that is not in the profile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg
import polars as pl
import polars.selectors as cs

from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table import Lake, Table
from lakehouse_assets.lake.table_asset import column_schema, contract_check
from lakehouse_assets.lifecycle.contracts import MODEL_VERSION, MONTH, WINDOW, contract_of, filled, grow, months_written
from lakehouse_assets.lifecycle.evidence import has_backtest, load_backtest
from lakehouse_assets.lifecycle.fleet import FleetRegistry
from lakehouse_assets.lifecycle.names import Names, table_key
from lakehouse_assets.lifecycle.windows import LOOK_BACK, Windows, month_of
from lakehouse_assets.ml.definition import ALL, Columns, ModelDefinition
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
    errors = [names.errors] if definition.kind.error_columns else []
    never_null = ("window_start", "window_end", "granularity", "column", "count", "nulls", "zeros", "month")
    contract = contract_of("Profile", COLUMNS, never_null, {}, unique=(*KEYS, "model_version"))

    @dg.asset(
        key=names.profile,
        deps=[names.promotion, names.series, names.prediction, *errors, dg.AssetKey(definition.features.split("/"))],
        group_name="monitoring",
        description=(
            f"Profiles of the target of {definition.name}, its main inputs, predictions and errors: by "
            f"{definition.kind.window}, over all, by group, member and version; and of what the versions in force were "
            "trained on."
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
        profiled = []
        for start in sources.due(table, min(cutoffs.values())):
            context.log.info(f"{definition.kind.window} of {start:%Y-%m-%d}: profiles")
            written.append(_write(table, sources.window(start), context.run_id))
            profiled.append(f"{start:%Y-%m-%d}")
        if not table.exists():
            return dg.MaterializeResult(metadata={"reason": "no features yet"})
        version = table.version()
        return dg.MaterializeResult(
            metadata={
                "windows": dg.MetadataValue.json(profiled),
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

    @property
    def windows(self) -> Windows:
        """The windows that are profiled."""
        return Windows.of_model(self.definition)

    def due(self, table: Table, since: datetime) -> list[datetime]:
        """The windows to compute: those that are over and new, or have grown since, none before `since`."""
        time, target = self.definition.kind.time_column, self.definition.target
        windows, look_back = self.windows, LOOK_BACK + self.definition.kind.truth_after
        features = self._features()
        edge = features.select(pl.col(time).max()).collect().item()
        if edge is None:
            return []
        keys = ["window_start", "column"]
        known = pl.DataFrame(schema={**{name: COLUMNS[name][0] for name in (*keys, "count", "mean")}})
        if table.exists():
            whole = (pl.col("granularity") == windows.granularity) & pl.col("slice_key").is_null()
            known = table.scan().filter(whole).select(known.columns).collect()
        if not known.is_empty():
            first, last = known.select(first=pl.col("window_start").min(), last=pl.col("window_start").max()).row(0)
            since = max(first, last - look_back)
        starts = windows.whole(since, edge)
        if not starts:
            return []
        window = windows.of(pl.col(time)).alias("window_start")
        targets = [(features, target)] if target else []
        counted = [
            rows.filter(pl.col("month") >= starts[0].date().replace(day=1))
            .group_by(window)
            .agg(count=_known(column).sum().cast(pl.Int64), mean=pl.col(column).filter(_known(column)).mean())
            .select("window_start", pl.lit(column).alias("column"), "count", pl.col("mean").cast(pl.Float64))
            for rows, column in [*targets, *self._outcomes()]
        ]
        if not counted:
            return []
        now = pl.concat(counted).filter(pl.col("count") > 0).collect(engine="streaming")
        both = now.join(known, on=keys, how="left", suffix="_then")
        # The means of predictions and errors follow from what is counted; that of the target may be set right later.
        off = (pl.col("mean") - pl.col("mean_then")).abs() > 1e-9 * pl.col("mean").abs()
        changed = pl.col("count").ne_missing(pl.col("count_then")) | (off & pl.col("column").eq_missing(pl.lit(target)))
        due = set(both.filter(changed)["window_start"])
        return [start for start in starts if start in due]

    def window(self, start: datetime) -> pl.DataFrame:
        """The rows of the window that starts at a time."""
        bounds = self.windows.bounds(start)
        within = _between(self.definition.kind.time_column, *bounds)
        outcomes = [(rows.filter(within), column) for rows, column in self._outcomes()]
        return self._rows(self.windows.granularity, bounds, within, outcomes)

    def baseline(self, version: int, cutoff: datetime, errors: pl.LazyFrame | None) -> pl.DataFrame:
        """The rows of what a version was trained on; errors: of its backtest."""
        kind, mine = self.definition.kind, pl.lit(version, pl.Int64)
        # A snapshot is of the moment of the cutoff itself; a prediction that is made then comes after it.
        bounds = (cutoff - _YEAR, cutoff + timedelta(microseconds=1) if kind.window == "month" else cutoff)
        columns = [column for column in (kind.prediction_column, kind.error_column) if column]
        outcomes = [] if errors is None else [(errors.with_columns(model_version=mine), c) for c in columns]
        rows = self._rows(BASELINE, bounds, _between(kind.time_column, *bounds), outcomes)
        return rows.with_columns(model_version=mine)

    def _features(self) -> pl.LazyFrame:
        """The features; what is true or false counts as 1 or 0."""
        return self.lake.table(self.definition.features).scan().with_columns(cs.boolean().cast(pl.Int8))

    def _outcomes(self) -> Iterator[tuple[pl.LazyFrame, str]]:
        """Predictions and errors, with the column that is profiled of each."""
        names, kind = Names(self.definition.name), self.definition.kind
        for key, column in ((names.prediction, kind.prediction_column), (names.errors, kind.error_column)):
            table = self.lake.table(table_key(key))
            if column and table.exists():
                yield table.scan(), column

    def _rows(
        self,
        granularity: str,
        bounds: tuple[datetime, datetime],
        within: pl.Expr,
        outcomes: Sequence[tuple[pl.LazyFrame, str]],
    ) -> pl.DataFrame:
        """The rows of a window: the features in it, and what came of predictions."""
        kind, member, target = self.definition.kind, self.definition.kind.member, self.definition.target
        features = self._features().filter(within)
        schema = features.collect_schema()
        other = {*kind.keys, target, "month"}
        numeric = [name for name, dtype in schema.items() if dtype.is_numeric() and name not in other]
        watched = [*([target] if target else []), *kind.main_inputs(numeric)]
        group = self.definition.group if self.definition.group in schema else None
        if member not in kind.keys:
            # One model serves everybody: the rows of a group are profiled together as those of a member are elsewhere.
            entity = kind.keys[1]
            groups = pl.lit(ALL) if group is None else pl.coalesce(group, pl.lit(ALL))
            grouped = features.select(entity, groups.alias(member)).group_by(entity).agg(pl.col(member).last())
            features = features.join(grouped, on=entity, how="left")
            outcomes = [(rows.join(grouped, on=entity, how="left"), column) for rows, column in outcomes]
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
        made = sliced(by_member, member if member in kind.keys else None, group).with_columns(
            window_start=pl.lit(start), window_end=pl.lit(end), granularity=pl.lit(granularity)
        )
        made = made.with_columns(month=month_of(pl.col("window_start")))
        return filled(made, COLUMNS).sort("column", "slice_key", "slice_value")


def sliced(by_member: pl.DataFrame, member: str | None, group: str | None) -> pl.DataFrame:
    """Profiles of all slices, from those by member and version: slice_key, slice_value, column, statistics, version.

    by_member: `member`, `model_version` (null: none is concerned), `group`, and the profile. member: None: no slices of
    their own. model_version, of a slice: the only one in it; null where there are several.
    """
    parts = []
    for key, column, rows in (
        (None, None, by_member),
        (group, "group", by_member.filter(pl.col("group").is_not_null())),
        *([(member, member, by_member)] if member else []),
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
