"""Models that stand on what others predict come after them, and their features are made again when that is new."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.automation.landing import REFINE_JOBS
from lakehouse_assets.definitions import defs
from lakehouse_assets.operation.dependencies import models_before, outdated
from lakehouse_assets.operation.run import run_everything

MONTHS = dg.MonthlyPartitionsDefinition("2024-01-01", end_date="2024-05-01")
KEYS = MONTHS.get_partition_keys()
AT = datetime(2024, 4, 2, tzinfo=UTC)


def _asset(name: str, *deps: str) -> dg.AssetsDefinition:
    room, table = name.split("/")
    monthly = MONTHS if room in ("silver", "gold", "features") else None
    domain = {"domain": "customers" if table in ("b", "c", "mid") else "demand"}

    @dg.asset(
        key=[room, table],
        group_name=room,
        deps=[dep.split("/") for dep in deps],
        partitions_def=monthly,
        backfill_policy=dg.BackfillPolicy.single_run() if monthly else None,
        tags=domain,
    )
    def made() -> None: ...

    asset: dg.AssetsDefinition = made
    return asset


class Town:
    """A graph of four models, `c` on what `b` predicts, `b` on what `a` does; the operator only tells events."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.made: list[str] = []
        self.first: dict[str, str] = {}  # table -> as of when its next predictions begin
        assets = [
            _asset("silver/raw"),
            *(_asset("features/a", "silver/raw"), _asset("features/b", "predictions/a"), _asset("features/d")),
            *(_asset("gold/mid", "predictions/b"), _asset("features/c", "gold/mid", "features/a")),
        ]
        for model in "abcd":
            assets += [_asset(f"models/{model}", f"features/{model}"), _asset(f"registry/{model}", f"models/{model}")]
            assets += [_asset(f"predictions/{model}", f"registry/{model}", f"features/{model}")]
        self.definitions = dg.Definitions(assets, jobs=REFINE_JOBS)
        self.graph = self.definitions.get_repository_def().asset_graph

    def run(
        self, job: str, *, at: datetime, tags: Mapping[str, str] | None = None, only: Sequence[dg.AssetKey] = ()
    ) -> None:
        model, _, stage = job.partition("_")
        rooms = {"retrain": ("models", "registry", "predictions"), "predict": ("predictions",)}.get(stage, ())
        for key in only or [dg.AssetKey([room, model]) for room in rooms]:
            self.make(key.to_user_string(), tags or {})

    def make(self, table: str, tags: Mapping[str, str]) -> None:
        self.made.append(table)
        first, last = (tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
        months = [None] if first is None or last is None else [month for month in KEYS if first <= month <= last]
        about: dict[str, Any] = {"pins": {table.replace("models", "features"): 1}} if "models" in table else {}
        if table in self.first:
            about["first"] = self.first.pop(table)
        for month in months:
            event = dg.AssetMaterialization(table.split("/"), partition=month, metadata=about)
            self.instance.report_runless_asset_event(event)

    def everything(self, *models: str) -> list[str]:
        """What a run of everything makes, in order."""
        self.made.clear()
        list(run_everything(self, list(models), AT))  # type: ignore[arg-type]
        return list(self.made)


@pytest.fixture
def town() -> Iterator[Town]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Town(instance)


def test_a_model_comes_after_those_that_its_features_are_made_of(town: Town) -> None:
    before = models_before(town.graph, ["d", "c", "b", "a"])
    assert list(before.items()) == [("d", set()), ("a", set()), ("b", {"a"}), ("c", {"a", "b"})]
    assert models_before(town.graph, ["c", "d"]) == {"c": set(), "d": set()}, "of those that are asked for"


def test_tables_are_made_again_between_the_models_and_then_no_more(town: Town) -> None:
    whole = {"dagster/asset_partition_range_start": KEYS[0], "dagster/asset_partition_range_end": KEYS[-1]}
    for table in ("silver/raw", "features/a", "features/b", "gold/mid", "features/c", "features/d"):
        town.make(table, whole)
    town.first = {"predictions/a": "2024-01-01 00:00:00+00:00", "predictions/b": "2024-03-15 12:00:00+00:00"}
    models = ["c", "b", "a", "d"]
    trained = {model: [f"{room}/{model}" for room in ("models", "registry", "predictions")] for model in models}
    last = [f"predictions/{model}" for model in models]
    # The first two months of what is made of b's predictions are as they were; those of a's are all made again.
    made = town.everything(*models)
    assert made == [
        *trained["a"], *trained["d"], "features/b", *trained["b"], "features/c", "gold/mid", *trained["c"], *last
    ]  # fmt: skip
    events = {
        table: town.instance.get_latest_storage_id_by_partition(
            dg.AssetKey(table.split("/")), dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        for table in ("features/b", "gold/mid")
    }
    assert min(events["features/b"].values()) > max(events["gold/mid"][month] for month in KEYS[:2])
    assert min(events["gold/mid"][month] for month in KEYS[2:]) > max(events["features/b"].values())
    # Predicting anew, which finds nothing to predict, makes nothing old.
    assert town.everything(*models) == ["predictions/a", "predictions/b", *last]
    # What was predicted by somebody else is seen; a command that was killed is gone on with.
    town.first = {"predictions/b": "2024-04-01 00:00:00+00:00"}
    town.run("b_predict", at=AT)
    (old,) = outdated(town.instance, town.graph, "c", {"a", "b"})
    assert (old.job, old.months) == ("refine_customers", ["2024-04-01"])
    assert [key.to_user_string() for key in old.tables] == ["features/c", "gold/mid"]
    assert town.everything(*models)[2:4] == ["features/c", "gold/mid"]
    assert outdated(town.instance, town.graph, "c", {"a", "b"}) == []


def test_tables_that_are_not_there_yet_are_not_made_for_it(town: Town) -> None:
    town.first = {"predictions/a": "2024-01-01 00:00:00+00:00"}
    town.run("a_predict", at=AT)
    assert outdated(town.instance, town.graph, "b", {"a"}) == []


def test_in_the_house_customers_come_after_their_segments() -> None:
    models = ["customer_churn", "customer_value", "demand_forecast", "load_segments"]
    before = models_before(defs.get_repository_def().asset_graph, models)
    assert list(before) == ["demand_forecast", "load_segments", "customer_churn", "customer_value"]
    assert before["customer_churn"] == before["customer_value"] == {"load_segments"}
