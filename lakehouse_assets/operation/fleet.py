"""What is in force, told and changed by hand: the models' champions and their series', rollbacks and pins."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.lifecycle.fleet import Change, FleetRegistry, members_of_group, summary
from lakehouse_assets.lifecycle.names import REQUESTED_AT_TAG, TRIGGER_TAG, Names, table_key
from lakehouse_assets.lifecycle.promotion import tell
from lakehouse_assets.ml.definition import Kind, ModelDefinition
from lakehouse_assets.operation.errors import WrongRequest
from lakehouse_assets.registry.tracking import ALIASES, Registry, RegistryError


def list_models(lake: Lake, registry: Registry, models: Sequence[str]) -> dict[str, Any]:
    """Every model's aliases, its series by version, its pins and its last decision; JSON-able, None: there is none."""
    found = {}
    for name in models:
        aliases = {alias: registry.get(name, alias) for alias in sorted(ALIASES)}
        found[name] = {
            **{alias: version.version if version else None for alias, version in aliases.items()},
            "series": summary(FleetRegistry(name, registry, lake).rows()),
            "last_decision": next(iter(_decisions(lake, name)[::-1]), None),
        }
    return found


def show(lake: Lake, registry: Registry, definition: ModelDefinition, series: str | None) -> dict[str, Any]:
    """The champion of a model, or of one of its series, and how it came to be: JSON-able.

    Raises:
        WrongRequest: there is no such series.
    """
    fleet = FleetRegistry(definition.name, registry, lake)
    if series is None:
        champion = registry.get(definition.name, "champion")
        rows = _decisions(lake, definition.name)
        shown = [{**row, "version": row["champion_after"], "previous_version": row["champion_before"]} for row in rows]
        return {"champion": champion.version if champion else None, "history": shown}
    with _told():
        row = fleet.row(definition.kind, series)
    history = [_jsonable(one) for one in fleet.history(series).iter_rows(named=True)]
    return {"champion": row["version"], "pinned": row["pinned"], "since": row["since"].isoformat(), "history": history}


def training_of(model: str, series: Sequence[str]) -> dict[str, Any]:
    """What to run (job, tags and configuration) to train a model by hand: all of it, or some of its series."""
    names = Names(model)
    config = {"ops": {names.training.to_python_identifier(): {"config": {"members": list(series)}}}}
    tags = {TRIGGER_TAG: "manual", REQUESTED_AT_TAG: datetime.now(UTC).isoformat()}
    return {"job": names.retrain_job, "tags": tags, "run_config": config}


def why_not_trained(result: dg.ExecuteInProcessResult, model: str) -> str | None:
    """Why a run that was to train a model did not; None where it did."""
    for event in result.all_events:
        if event.event_type is dg.DagsterEventType.ASSET_OBSERVATION:
            observed = event.asset_observation_data.asset_observation
            if observed.asset_key == Names(model).training:
                return str(observed.metadata["reason"].value)
    return None


Act = Callable[[FleetRegistry, Kind, Sequence[str] | None, datetime], Change]
"""`FleetRegistry.roll_back`, `pin` or `unpin`."""


def by_hand(
    lake: Lake,
    registry: Registry,
    definition: ModelDefinition,
    instance: dg.DagsterInstance,
    act: Act,
    *,
    series: str | None = None,
    group: str | None = None,
) -> tuple[int, Change]:
    """Change what is in force as a person asks, for the fleet, or for a group or a series of it.

    Returns:
        The fleet's champion before, and what was done.

    Raises:
        WrongRequest: it cannot be done.
    """
    now = datetime.now(UTC)
    fleet = FleetRegistry(definition.name, registry, lake)
    with _told():
        known = set(fleet.members(definition.kind))
        champion = registry.get(definition.name, "champion")
        assert champion is not None  # there are members
        members = None if series is None else [series]
        if group is not None:
            members = [one for one in members_of_group(definition, lake, group) if one in known]
            if not members:
                raise WrongRequest(f"no series of group {group!r} has a version of its own yet")
        done = act(fleet, definition.kind, members, now)
    tell(definition, fleet, lake, instance, champion.version, done)
    return champion.version, done


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except RegistryError as error:
        raise WrongRequest(str(error)) from None


def _decisions(lake: Lake, model: str) -> list[dict[str, Any]]:
    table = lake.table(table_key(Names(model).promotion))
    if not table.exists():
        return []
    rows = table.scan().select(pl.exclude("evidence")).sort("decided_at", maintain_order=True).collect()
    return [_jsonable(row) for row in rows.iter_rows(named=True)]


def _jsonable(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
