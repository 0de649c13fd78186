"""What there is and how it is doing: tables, models, drift and retrainings, as one JSON-able dictionary."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import dagster as dg
import polars as pl

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.lifecycle.fleet import FleetRegistry, summary
from lakehouse_assets.lifecycle.names import REQUESTED_AT_TAG, TRIGGER_TAG, Names, table_key
from lakehouse_assets.registry.tracking import ModelVersion, Registry


def status(lake: Lake, registry: Registry, instance: dg.DagsterInstance, models: Sequence[str]) -> dict[str, Any]:
    """The state of the lakehouse.

    Returns:
        `{"tables": {key: {"version", "rows", "updated_at"}}, "models": {name: {"champion", "challenger", "previous",
        "series", "last_week", "drift", "retrains"}}}`; `series` counts them by version; what there is not yet is None.
        A version has its `metrics`, and the `primary` one of all `candidates` of its training, with its interval.
    """
    return {
        "tables": {key: _table(lake, key) for key in lake.tables()},
        "models": {name: _model(lake, registry, instance, Names(name)) for name in models},
    }


def _table(lake: Lake, key: str) -> dict[str, Any]:
    table = lake.table(key)
    return {"version": table.version(), "rows": table.row_count(), "updated_at": table.updated_at().isoformat()}


def _model(lake: Lake, registry: Registry, instance: dg.DagsterInstance, names: Names) -> dict[str, Any]:
    aliases = ("champion", "challenger", "previous")
    return {
        **{alias: _version(registry.get(names.model, alias)) for alias in aliases},
        "series": summary(FleetRegistry(names.model, registry, lake).rows()),
        "last_week": _last_week(instance, names),
        "drift": _drift(instance, names),
        "retrains": _retrains(lake, instance, names),
    }


def _version(version: ModelVersion | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {
        "version": version.version,
        "run_id": version.run_id,
        "trained_at": version.tags["trained_at"],
        "candidate": version.tags["candidate"],
        "pins": dict(version.pins),
        "metrics": dict(version.metrics),
        "primary": version.tags.get("primary"),
        "candidates": json.loads(version.tags.get("leaderboard", "{}")),
    }


def _last_week(instance: dg.DagsterInstance, names: Names) -> dict[str, float]:
    """The measures of the last week of predictions that was compared with what came, whatever the kind has."""
    event = instance.get_latest_materialization_event(names.errors)
    metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
    start = "last_week_"
    return {key.removeprefix(start): float(entry.value) for key, entry in metadata.items() if key.startswith(start)}  # type: ignore[arg-type]


def _drift(instance: dg.DagsterInstance, names: Names) -> dict[str, Any]:
    event = instance.get_latest_materialization_event(names.drift)
    metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
    shown = {key: entry.value for key, entry in metadata.items()}
    return {
        "verdict": shown.get("verdict", "insufficient_data"),
        "window_end": shown.get("window_end"),
        "series_drifted": shown.get("series_drifted", 0),
        "series_tested": shown.get("series_tested", 0),
        "pages": shown.get("pages"),
    }


def _retrains(lake: Lake, instance: dg.DagsterInstance, names: Names) -> list[dict[str, Any]]:
    """Every training that was asked for, in order: those decided, from the decisions; those failed, from the runs."""
    decided: list[dict[str, Any]] = []
    table = lake.table(table_key(names.promotion))
    if table.exists():
        rows = table.scan().filter(pl.col("decision").is_in(["promoted", "promoted_in_part", "kept"])).collect()
        decided = [
            {
                "requested_at": row["requested_at"].isoformat(),
                "trigger": row["trigger"],
                "run_id": row["run_id"],
                "decision": row["decision"],
            }
            for row in rows.iter_rows(named=True)
        ]
    known = {row["run_id"] for row in decided}
    failed = dg.RunsFilter(
        job_name=names.retrain_job, statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    )
    for record in instance.get_run_records(failed):
        run = record.dagster_run
        if run.run_id not in known:
            decided.append(
                {
                    "requested_at": run.tags.get(REQUESTED_AT_TAG, record.create_timestamp.isoformat()),
                    "trigger": run.tags.get(TRIGGER_TAG, "manual"),
                    "run_id": run.run_id,
                    "decision": "failed",
                }
            )
    return sorted(decided, key=lambda row: datetime.fromisoformat(row["requested_at"]))
