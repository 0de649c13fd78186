"""Monitoring: predictions against what came, and the weekly verdict on whether the champion has drifted."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import polars as pl

from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import column_schema, contract_check
from lakehouse_assets.lifecycle import comparison
from lakehouse_assets.lifecycle.contracts import MODEL_VERSION, MONTH, REPORT, contract_of, grow, months_written
from lakehouse_assets.lifecycle.engine import engine
from lakehouse_assets.lifecycle.fleet import FleetRegistry
from lakehouse_assets.lifecycle.names import Names, table_key
from lakehouse_assets.lifecycle.pictures import picture_metadata
from lakehouse_assets.lifecycle.reports import ReportsResource, publish
from lakehouse_assets.lifecycle.windows import LOOK_BACK, WEEK, whole_weeks
from lakehouse_assets.ml.definition import DriftVerdict, ModelDefinition
from lakehouse_assets.registry.resource import RegistryResource
from lakehouse_assets.settings import get_settings

# So far back the pictures go.
_SHOWN = timedelta(weeks=26)


def errors_asset(definition: ModelDefinition) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """The asset `monitoring/<name>_errors` and the check of its contract."""
    names, kind = Names(definition.name), definition.kind
    time = kind.time_column
    contract = contract_of("Errors", kind.error_columns, kind.keys, {**MODEL_VERSION, **MONTH})

    @dg.asset(
        key=names.errors,
        deps=[names.prediction, dg.AssetKey(definition.features.split("/"))],
        group_name="monitoring",
        description=f"Predictions of {definition.name} against what came, once it is known.",
        kinds={"delta", "polars"},
        owners=["team:lakehouse"],
        tags={"model": definition.name, "layer": "monitoring"},
        metadata={"partition_expr": "month", "dagster/column_schema": column_schema(contract)},
    )
    def errors(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        predictions = lake.lake().table(table_key(names.prediction))
        if not predictions.exists():
            return dg.MaterializeResult(metadata={"reason": "nothing has been predicted yet"})
        table = lake.lake().table(table_key(names.errors))
        grow(predictions, kind.prediction_columns)
        grow(table, kind.error_columns)
        since = None
        if table.exists():
            since = table.scan().select(pl.col(time).max()).collect().item()
        recent = (
            pl.lit(True)
            if since is None
            else (pl.col(time) >= since - LOOK_BACK) & (pl.col("month") >= (since - LOOK_BACK).date().replace(day=1))
        )
        predicted = predictions.scan().filter(recent).collect()
        first = predicted["month"].min()
        features = lake.lake().table(definition.features).scan().filter(pl.col("month") >= first)
        actual = features.select(*kind.keys, definition.target).collect()
        compared = kind.errors(predicted, actual)
        result = table.merge(compared, keys=kind.keys, partition_by=["month"], run_id=context.run_id)
        shown: dict[str, Any] = {}
        if not compared.is_empty():
            latest: datetime = compared.select(pl.col(time).max()).item()
            rows = compared.filter(pl.col(time) > latest - WEEK)
            shown = {f"last_week_{name}": value for name, value in kind.scores(rows).items()}
            year = pl.col("month") >= (latest - _SHOWN).date().replace(day=1)
            shown |= picture_metadata(kind.error_pictures(table.scan().filter(year)))
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": table.row_count(),
                "rows_compared": compared.height,
                "delta_version": result.version,
                **shown,
            },
            data_version=dg.DataVersion(str(result.version)),
        )

    return errors, contract_check(errors, contract)


def drift_asset(definition: ModelDefinition) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """The asset `monitoring/<name>_drift` with its verdict as a check, and the check of its contract."""
    names, kind = Names(definition.name), definition.kind
    columns, unique = comparison.drift_columns(definition), comparison.KEYS
    contract = contract_of("Drift", columns, comparison.NEVER_NULL, {}, unique=unique)
    of_verdict = ["model_version", *kind.drift_columns, *REPORT]

    @dg.asset(
        key=names.drift,
        deps=[names.promotion, names.series, names.errors, names.profile, dg.AssetKey(definition.features.split("/"))],
        group_name="monitoring",
        description=(
            "Weekly verdict by member: the champion against a fresh fit of its own recipe on the week after that fit "
            "(regret: what retraining would mend), and against its backtest's errors; beside it, how far "
            "target, inputs, predictions and errors are from the week before, and from what the version was trained on."
        ),
        kinds={"delta", "scikitlearn"},
        owners=["team:lakehouse"],
        tags={"model": definition.name, "layer": "monitoring"},
        metadata={"partition_expr": "month", "dagster/column_schema": column_schema(contract)},
        check_specs=[
            dg.AssetCheckSpec(
                "no_drift", asset=names.drift, description="The champion does as well as a fresh fit would."
            )
        ],
    )
    def drift(
        context: dg.AssetExecutionContext, lake: LakeResource, registry: RegistryResource, reports: ReportsResource
    ) -> dg.MaterializeResult:
        store, member = registry.registry(), kind.keys[1]
        keys = ("model_version", "week", member)
        fleet = FleetRegistry(definition.name, store, lake.lake())
        in_force = fleet.assignment()
        if in_force is None:
            return _no_report("no champion yet")
        features = lake.lake().table(definition.features)
        table = lake.lake().table(table_key(names.drift))
        history = judged = pl.DataFrame({"model_version": [], "week": []})
        comparison.take_over(table, definition)
        profiles = lake.lake().table(table_key(names.profile))
        months = comparison.compare_windows(table, profiles, definition, in_force, context.run_id)
        if table.exists():
            judgements = table.scan().filter(pl.col("comparison") == comparison.CHALLENGER)
            judged = judgements.select("model_version", "week").unique().collect()
            # Of the versions in force; a new one begins without.
            mine = judgements.filter(pl.col("model_version") == in_force.versions_of(member))
            history = mine.select(of_verdict).collect()
        edge = features.scan().select(pl.col(kind.time_column).max()).collect().item()
        zone = definition.schedules.time_zone
        # Members that have fallen silent are not judged, nor is a version that serves none but them.
        recent = pl.col("month") >= (edge - LOOK_BACK).date().replace(day=1)
        heard = (
            features.scan().filter(recent, pl.col(definition.target).is_not_null()).select(member).unique().collect()
        )
        cutoffs = {
            version: datetime.fromisoformat(store.version(definition.name, version).tags["cutoff"])
            for version in {in_force.version_of(one) for one in heard[member]}
        }
        last = dict(judged.group_by("model_version").max().iter_rows())
        # week -> the versions that were trained by then and have not been judged in it
        weeks: dict[datetime, list[int]] = {}
        for week in whole_weeks(min(cutoffs.values(), default=edge), edge, zone):
            # A week before the last one judged had no hour to score: it is not asked for again.
            due = [v for v, cutoff in cutoffs.items() if week >= cutoff and (v not in last or week > last[v])]
            if due:
                weeks[week] = due
        if history.is_empty() and not weeks:
            return _no_report("no full week since the champion was trained")
        moved, evidence, drifted = pl.DataFrame(), None, []
        others = set(definition.drift.channels) - {"challenger"}
        if weeks or others:
            model = fleet.load(kind, in_force, heard[member].to_list())
            dataset = kind.dataset(features.scan())
            with engine(get_settings()):
                for week, due in weeks.items():
                    context.log.info(f"week of {week:%Y-%m-%d}: {', '.join(definition.drift.channels)}")
                    new = (
                        kind.weekly_losses(model, dataset, week, shadow="challenger" in definition.drift.channels)
                        .with_columns(
                            model_version=in_force.versions_of(member), report=pl.lit(_report_name(week, zone))
                        )
                        .filter(pl.col("model_version").is_in(due))
                    )
                    earlier = new if history.is_empty() else pl.concat([history.select(new.columns), new])
                    beside = kind.evidence(model, dataset, week, definition.drift) if others else None
                    verdict = kind.verdict(earlier, definition.drift, beside)
                    drifted = verdict.series.filter(verdict="drift")[member].to_list()
                    statistics = verdict.series.with_columns(fleet_verdict=pl.lit(verdict.verdict))
                    rows = comparison.verdicts(new.join(statistics, on=member, how="left"), definition)
                    table.merge(rows, keys=keys, partition_by=comparison.PARTITIONS, run_id=context.run_id)
                    months += rows["month"].unique().cast(pl.String).to_list()
                    rows = rows.select(of_verdict)
                    history = rows if history.is_empty() else pl.concat([history, rows])
            latest: Any = max(weeks) if weeks else history["week"].max()
            if drifted:
                moved = kind.explain(dataset, drifted, latest, WEEK)
            evidence = kind.evidence(model, dataset, latest, definition.drift, moved)
        verdict = kind.verdict(history, definition.drift, evidence)
        if verdict.window_end is None:
            return _no_report("no week since the champion was trained has enough hours to score")
        report, champion = _report_name(verdict.window_end - WEEK, zone), in_force.champion
        of_all = table.scan().filter(pl.col("comparison") == comparison.CHALLENGER).select(of_verdict).collect()
        pictures = kind.drift_pictures(of_all, features.scan(), definition.drift)
        shown: dict[str, Any] = {
            "dagster/row_count": table.row_count(),
            "months": dg.MetadataValue.json(sorted(set(months))),
            **publish(
                context, reports.reports(), definition, report, champion, verdict, moved, history, features.scan()
            ),
            **picture_metadata(pictures),
        }
        return _report(report, champion, verdict, moved, shown, table.version())

    return drift, contract_check(drift, contract, written=months_written(names.drift))


def _report_name(week: datetime, zone: str) -> str:
    """The local date at which a week ends names the report about it."""
    return f"{week.astimezone(ZoneInfo(zone)) + WEEK:%Y-%m-%d}"


def _no_report(reason: str) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        metadata={"verdict": "insufficient_data", "reason": reason},
        check_results=[dg.AssetCheckResult(check_name="no_drift", passed=True, description=reason)],
    )


def _report(
    report: str,
    champion: int,
    verdict: DriftVerdict,
    moved: pl.DataFrame,
    further: Mapping[str, Any],
    version: int,
) -> dg.MaterializeResult:
    """The latest verdict as metadata (the sensor reads it), as a check that warns, and as a picture."""
    summary: dict[str, Any] = {key: value for key, value in verdict.summary.items() if value is not None}
    said = f"{verdict.verdict}: {summary['series_drifted']} of {summary['series_tested']} drifted by {report}"
    shown: dict[str, Any] = {
        "report": report,
        "verdict": verdict.verdict,
        "champion_version": champion,
        "window_end": report,
        **summary,
        "delta_version": version,
        **further,
    }
    if not moved.is_empty():
        shown["what_moved"] = dg.MetadataValue.json(json.loads(moved.write_json()))
    return dg.MaterializeResult(
        metadata=shown,
        data_version=dg.DataVersion(str(version)),
        check_results=[
            dg.AssetCheckResult(
                check_name="no_drift",
                passed=verdict.verdict != "drift",
                severity=dg.AssetCheckSeverity.WARN,
                description=said,
                metadata=summary,
            )
        ],
    )
