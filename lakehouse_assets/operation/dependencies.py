"""Models whose features are made of what other models predict: their order, and the tables to make again in between."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg

from lakehouse_assets.automation.landing import REFINE_JOBS
from lakehouse_assets.lifecycle.names import Names

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

_PREDICTIONS = 1000  # of the latest of a model so many are looked at


@dataclass(frozen=True)
class Outdated:
    """Months of tables that are older than the predictions they are made of, and the job that makes them again."""

    job: str
    tables: list[dg.AssetKey]
    months: list[str]

    @property
    def range_tags(self) -> dict[str, str]:
        """Dagster's tags for a run over the range of these months."""
        return {
            "dagster/asset_partition_range_start": self.months[0],
            "dagster/asset_partition_range_end": self.months[-1],
        }


def models_before(graph: "BaseAssetGraph", models: Sequence[str]) -> dict[str, Set[str]]:
    """For each model those of the others whose predictions it is made of, at whatever remove; in an order that works.

    Among models that do not depend on each other it is the order in which they are given.
    """
    predictions = {Names(model).prediction: model for model in models}
    before: dict[str, Set[str]] = {}
    for model in models:
        upstream = dg.AssetSelection.assets(Names(model).training).upstream().resolve(graph)
        before[model] = {predictions[key] for key in upstream & predictions.keys()}
    # Whoever comes after another is after all those that the other is after.
    return dict(sorted(before.items(), key=lambda item: len(item[1])))


def outdated(instance: dg.DagsterInstance, graph: "BaseAssetGraph", model: str, before: Set[str]) -> list[Outdated]:
    """The monthly tables between others' predictions and a model, where predictions of the month or before are newer.

    Args:
        instance: where the events are.
        graph: the assets.
        model: whose features are asked about.
        before: the models that it depends on, of `models_before`.

    Returns:
        What is to be made again, by job; only months that are there.
    """
    found = []
    upstream = dg.AssetSelection.assets(Names(model).training).upstream().resolve(graph)
    jobs = {job.name: job.selection.resolve(graph) & upstream for job in REFINE_JOBS}
    for job, keys in jobs.items():
        tables: set[dg.AssetKey] = set()
        months: set[str] = set()
        for other in sorted(before):
            key = Names(other).prediction
            between = _made_of(graph, key, keys)
            predicted = _predicted(instance, key) if between else {}
            for table in between:
                made = instance.get_latest_storage_id_by_partition(table, dg.DagsterEventType.ASSET_MATERIALIZATION)
                if older := _older(made, predicted):
                    tables.add(table)
                    months |= older
        if months:
            found.append(Outdated(job, sorted(tables), sorted(months)))
    return found


def _made_of(graph: "BaseAssetGraph", key: dg.AssetKey, tables: Set[dg.AssetKey]) -> set[dg.AssetKey]:
    """Those of the tables that are made of an asset, with nothing but tables in between."""
    found: set[dg.AssetKey] = set()
    waiting = [key]
    while waiting:
        more = (graph.get(waiting.pop()).child_keys & tables) - found
        found |= more
        waiting += more
    return found


def _older(made: Mapping[str, int], predicted: Mapping[int, str]) -> set[str]:
    """The months that were made before predictions as of them, or of before them, were."""
    return {
        month for month, event in made.items() if any(event < at and since <= month for at, since in predicted.items())
    }


def _predicted(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[int, str]:
    """Event -> the month from which on it predicted anything; one that had nothing to predict is none."""
    found = {}
    for record in instance.fetch_materializations(key, limit=_PREDICTIONS).records:
        first = record.asset_materialization.metadata.get("first") if record.asset_materialization else None
        if first is not None:
            month = datetime.fromisoformat(str(first.value)).date().replace(day=1)
            found[record.storage_id] = month.isoformat()
    return found
