"""Monitoring: predictions against what came, and the verdict on whether the champion has drifted, window by window."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

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
from lakehouse_assets.lifecycle.windows import LOOK_BACK, WEEK, Windows
from lakehouse_assets.ml.definition import ALL, DriftVerdict, ModelDefinition
from lakehouse_assets.registry.resource import RegistryResource
from lakehouse_assets.settings import get_settings

# So far back the pictures go.
_SHOWN = timedelta(weeks=26)


def errors_asset(definition: ModelDefinition) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """The asset `monitoring/<name>_errors` and the check of its contract."""
    names, kind = Names(definition.name), definition.kind
    time, columns = kind.time_column, [*kind.keys, *([definition.target] if definition.target else [])]
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
        actual = features.select(*columns).collect()
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
    names, kind, windows = Names(definition.name), definition.kind, Windows.of_model(definition)
    columns, unique = comparison.drift_columns(definition), comparison.KEYS
    contract = contract_of("Drift", columns, comparison.NEVER_NULL, {}, unique=unique)
    of_verdict = ["window_start", "model_version", *kind.drift_columns, *REPORT]
    sources = [names.errors] if kind.error_columns else []

    @dg.asset(
        key=names.drift,
        deps=[names.promotion, names.series, *sources, names.profile, dg.AssetKey(definition.features.split("/"))],
        group_name="monitoring",
        description=(
            f"Verdict about each {kind.window}: whether {definition.name} has drifted, by the channels "
            f"{', '.join(definition.drift.channels)} (challenger: against a fresh fit of its own recipe, which is what "
            "retraining would mend; error: against its backtest's errors; input: against what it was trained on). "
            "Beside it, how far target, inputs, predictions and errors are from the window before, and from what the "
            "version was trained on."
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
        store, member = registry.registry(), kind.member
        keys = ("model_version", "window_start", "comparison", "slice_value")
        fleet = FleetRegistry(definition.name, store, lake.lake())
        in_force = fleet.assignment()
        if in_force is None:
            return _no_report("no champion yet")
        features = lake.lake().table(definition.features)
        table = lake.lake().table(table_key(names.drift))
        history = judged = pl.DataFrame({"model_version": [], "window_start": []})
        comparison.take_over(table, definition)
        profiles = lake.lake().table(table_key(names.profile))
        months = comparison.compare_windows(table, profiles, definition, in_force, context.run_id)
        if table.exists():
            judgements = table.scan().filter(pl.col("comparison") == comparison.CHALLENGER)
            judged = judgements.select("model_version", "window_start").unique().collect()
            # Of the versions in force; a new one begins without.
            mine = judgements.filter(pl.col("model_version") == in_force.versions_of(member))
            history = mine.select(of_verdict).collect()
        edge = features.scan().select(pl.col(kind.time_column).max()).collect().item()
        heard = _heard(definition, features.scan(), edge)
        cutoffs = {
            version: datetime.fromisoformat(store.version(definition.name, version).tags["cutoff"])
            for version in {in_force.version_of(one) for one in heard}
        }
        last = dict(judged.group_by("model_version").max().iter_rows())
        # window -> the versions that were trained by then and have not been judged in it
        waiting: dict[datetime, list[int]] = {}
        for start in windows.whole(min(cutoffs.values(), default=edge), edge):
            # A window before the last one judged had nothing to score: it is not asked for again.
            due = [v for v, cutoff in cutoffs.items() if start >= cutoff and (v not in last or start > last[v])]
            if due:
                waiting[start] = due
        if history.is_empty() and not waiting:
            return _no_report(f"no full {kind.window} since the champion was trained")
        moved, evidence, drifted = pl.DataFrame(), None, []
        others = set(definition.drift.channels) - {"challenger"}
        if waiting or others:
            model = fleet.load(kind, in_force, heard)
            dataset = kind.dataset(features.scan())
            with engine(get_settings()):
                shadow = "challenger" in definition.drift.channels
                for start, due in waiting.items():
                    context.log.info(f"{kind.window} of {start:%Y-%m-%d}: {', '.join(definition.drift.channels)}")
                    new = kind.window_losses(model, dataset, *windows.bounds(start), shadow=shadow).with_columns(
                        window_start=pl.lit(start, comparison.UTC_TIME),
                        model_version=in_force.versions_of(member),
                        report=pl.lit(windows.report(start)),
                    )
                    new = new.filter(pl.col("model_version").is_in(due))
                    earlier = new if history.is_empty() else pl.concat([history.select(new.columns), new])
                    beside = kind.evidence(model, dataset, start, definition.drift) if others else None
                    verdict = kind.verdict(earlier, definition.drift, beside)
                    drifted = verdict.series.filter(verdict="drift")[member].to_list()
                    statistics = verdict.series.with_columns(fleet_verdict=pl.lit(verdict.verdict))
                    rows = comparison.verdicts(new.join(statistics, on=member, how="left"), definition)
                    table.merge(rows, keys=keys, partition_by=comparison.PARTITIONS, run_id=context.run_id)
                    months += rows["month"].unique().cast(pl.String).to_list()
                    rows = rows.select(of_verdict)
                    history = rows if history.is_empty() else pl.concat([history, rows])
            latest: Any = max(waiting) if waiting else history["window_start"].max()
            start, end = windows.bounds(latest)
            if drifted:
                moved = kind.explain(dataset, drifted, start, end - start)
            evidence = kind.evidence(model, dataset, latest, definition.drift, moved)
        verdict = kind.verdict(history, definition.drift, evidence)
        if verdict.window_end is None:
            return _no_report(f"no {kind.window} since the champion was trained has enough to score")
        judged_last = windows.containing(verdict.window_end - timedelta(microseconds=1))
        report, champion = windows.report(judged_last), in_force.champion
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


def _heard(definition: ModelDefinition, features: pl.LazyFrame, edge: datetime) -> list[str]:
    """Who is judged: not members that have fallen silent, nor a version that serves none but them."""
    member = definition.kind.member
    if member not in definition.kind.keys:
        return [ALL]
    recent = pl.col("month") >= (edge - LOOK_BACK).date().replace(day=1)
    known = pl.lit(True) if definition.target is None else pl.col(definition.target).is_not_null()
    return features.filter(recent, known).select(pl.col(member).unique()).collect()[member].to_list()


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
