"""Materialise everything once: land, refine, train, decide, predict, compare, watch."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import dagster as dg

from lakehouse_assets.lifecycle.fleet import PARTIAL
from lakehouse_assets.operation.execution import Operator

STAGES = ("land", "refine", "train and decide", "predict", "watch")


def run_everything(operator: Operator, models: list[str], at: datetime) -> Iterator[str]:
    """Bring every table and model up to date, as of a time; yields the stages as they begin.

    Nothing is done twice: rows that were landed, months that are as new as their rows, and models whose features have
    not changed since they were trained are left as they are. A command that was killed is completed by repeating it.
    A model whose features are made of what others predict comes after them, and after these features, made again.

    Raises:
        RunFailed: a step failed.
    """
    # Loaded late: a declaration must be in force before automation loads.
    from lakehouse_assets.automation.landing import stale_months
    from lakehouse_assets.operation.dependencies import models_before, outdated

    yield STAGES[0]
    operator.run("ingest", at=at)
    yield STAGES[1]
    # Not by ticking the sensor: that gives up after some attempts, and a person who repeats the command does not.
    graph = operator.definitions.get_repository_def().asset_graph
    for stale in stale_months(operator.instance, graph):
        operator.run(stale.job, at=at, tags=stale.range_tags)
    yield STAGES[2]
    before = models_before(graph, models)
    awaited = set().union(*before.values())
    for model in before:
        for old in outdated(operator.instance, graph, model, before[model]):
            operator.run(old.job, at=at, tags=old.range_tags, only=old.tables)
        if not _is_trained(operator.instance, model):
            tags = {"lakehouse/trigger": "manual", "lakehouse/requested_at": at.isoformat()}
            operator.run(f"{model}_retrain", at=at, tags=tags)
        elif model in awaited:
            operator.run(f"{model}_predict", at=at)
    yield STAGES[3]
    for model in models:
        operator.run(f"{model}_predict", at=at)
    yield STAGES[4]
    for model in models:
        operator.run(f"{model}_monitor", at=at)


def _is_trained(instance: dg.DagsterInstance, model: str) -> bool:
    """Whether the model's latest decision is about the feature table as it is now."""
    decision = instance.get_latest_materialization_event(dg.AssetKey(["registry", model]))
    training = instance.get_latest_materialization_event(dg.AssetKey(["models", model]))
    if decision is None or training is None or decision.timestamp < training.timestamp:
        return False
    assert training.asset_materialization is not None
    about = training.asset_materialization.metadata
    if "scope" in about and about["scope"].value == PARTIAL:
        return False  # the others may be older
    pins: Any = about["pins"].value
    for table in pins:
        made = instance.get_latest_materialization_event(dg.AssetKey(table.split("/")))
        if made is not None and made.timestamp > training.timestamp:
            return False
    return True
