"""Promotion series by series: a gate that decides about each, real runs, and what follows from it in every stage."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import polars as pl

from lakehouse_assets.lake.table_asset import evaluate
from lakehouse_assets.lifecycle.fleet import FleetRegistry, history_contract, series_contract
from lakehouse_assets.lifecycle.names import Names
from lakehouse_assets.ml.definition import GateDecision
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets.operation.fleet import by_hand, list_models, show
from lakehouse_assets.operation.status import status
from lakehouse_assets_tests.lifecycle.conftest import TOY, House, definitions_of


class Choosing(Forecast):
    """A forecast whose gate keeps the fleet, but promotes two series by themselves."""

    def gate(self, *args: Any, **kwargs: Any) -> GateDecision:
        decision = super().gate(*args, **kwargs)
        if not kwargs["has_champion"]:
            return decision
        assert decision.series is not None
        chosen = pl.col("series_id").is_in(["S1", "S3"])
        series = decision.series.with_columns(promote=chosen, harmed=~chosen, reason=pl.lit("the test says so"))
        return replace(decision, promote=False, reason="kept: the test says so", series=series)


CHOOSING = replace(TOY, kind=Choosing(spread=2, recent=3))


def test_a_fleet_of_two_versions_lives_through_every_stage(house: House) -> None:
    house = replace(house, definitions=definitions_of(CHOOSING, house.folder))
    at = house.know(120)
    assert house.run("toy_retrain", at).success
    assert house.run("toy_retrain", at).success

    # the fleet kept its champion, two series moved
    decisions = house.table("registry/toy").scan().sort("version").collect()
    assert decisions["decision"].to_list() == ["promoted", "kept"]
    assert decisions["reason"][1] == "kept: the test says so; 2 series promoted by themselves"
    assert house.registry.get("toy", "champion").version == 1
    rows = house.table("registry/toy_series").scan().sort("series_id").collect()
    assert dict(rows.select("series_id", "version").iter_rows()) == {"S0": 1, "S1": 2, "S2": 1, "S3": 2}
    assert rows["decision"].to_list() == ["promoted"] * 4
    assert '"p_value":' in rows["evidence"][1]
    for key, contract in ((Names("toy").series, series_contract), (Names("toy").series_history, history_contract)):
        assert evaluate(contract(CHOOSING.kind), house.table("/".join(key.path))).passed
    event = house.instance.get_latest_materialization_event(Names("toy").promotion)
    told = {name: entry.value for name, entry in event.asset_materialization.metadata.items()}
    assert {name: told[f"series_{name}"] for name in ("moved", "stayed", "pinned", "harmed")} == {
        "moved": 2,
        "stayed": 2,
        "pinned": 0,
        "harmed": 0,
    }
    event = house.instance.get_latest_materialization_event(Names("toy").series)
    assert event.asset_materialization.metadata["by_version"].value == {"1": 2, "2": 2}

    # each prediction says which version made it; the latest issue time was predicted again when two series moved
    predicted = house.table("predictions/toy").scan().collect()
    assert predicted.height == 4 * 24
    by = dict(predicted.group_by("series_id").agg(pl.col("model_version").unique().first()).iter_rows())
    assert by == {"S0": 1, "S1": 2, "S2": 1, "S3": 2}

    # a pin and a rollback of one series by hand; then predictions follow
    fleet = FleetRegistry("toy", house.registry, house.lake)
    by_hand(house.lake, house.registry, CHOOSING, house.instance, FleetRegistry.pin, group="a")
    assert fleet.rows().filter("pinned")["series_id"].sort().to_list() == ["S0", "S1"]
    by_hand(house.lake, house.registry, CHOOSING, house.instance, FleetRegistry.roll_back, series="S3")
    later = house.know(141)
    assert house.run("toy_predict", later).success
    latest = house.table("predictions/toy").scan().filter(pl.col("issued_at") == later).collect()
    by = dict(latest.group_by("series_id").agg(pl.col("model_version").unique().first()).iter_rows())
    assert by == {"S0": 1, "S1": 2, "S2": 1, "S3": 1}

    # each series is watched under its own version
    assert house.run("toy_monitor", later).success
    judged = house.verdicts()
    assert dict(judged.select("series_id", "model_version").unique().iter_rows()) == by
    assert judged["week"].n_unique() == 2
    assert judged.height == 8
    again = house.table("monitoring/toy_drift").version()
    assert house.run("toy_monitor", later).success
    assert house.table("monitoring/toy_drift").version() == again, "what was judged is not judged again"

    # a training meets the whole of it as champion; the pinned series of the two chosen stays
    assert house.run("toy_retrain", later).success
    assert dict(fleet.rows().select("series_id", "version").iter_rows()) == {"S0": 1, "S1": 2, "S2": 1, "S3": 3}

    listed = list_models(house.lake, house.registry, ["toy"])["toy"]
    assert (listed["champion"], listed["challenger"]) == (1, 3)
    assert listed["series"] == {"by_version": {"1": 2, "2": 1, "3": 1}, "pinned": 2}
    assert listed["last_decision"]["version"] == 3
    assert status(house.lake, house.registry, house.instance, ["toy"])["models"]["toy"]["series"] == listed["series"]
    shown = show(house.lake, house.registry, CHOOSING, "S3")
    assert (shown["champion"], shown["pinned"]) == (3, False)
    assert [row["decision"] for row in shown["history"]] == ["promoted", "promoted", "rolled_back", "promoted"]
    assert [row["version"] for row in shown["history"]] == [1, 2, 1, 3]
    assert shown["history"][1]["reason"] == "the test says so"


def test_a_version_that_serves_only_silent_series_is_not_fitted_again_and_again(house: House) -> None:
    house = replace(house, definitions=definitions_of(CHOOSING, house.folder))
    at = house.know(120)
    assert house.run("toy_retrain", at).success
    assert house.run("toy_retrain", at).success
    rows = house.table("registry/toy_series").scan().collect()
    assert rows.filter(version=2)["series_id"].sort().to_list() == ["S1", "S3"]
    later = house.know(141)
    table = house.table("features/toy")
    silent = pl.col("series_id").is_in(["S1", "S3"]) & (pl.col("issued_at") > later - timedelta(days=70))
    table.overwrite(
        table.scan().collect().with_columns(pl.when(~silent).then(name).alias(name) for name in ("value", "known_at"))
    )
    for fitted in (2, 0):  # two whole weeks since the training; and then nothing is new
        run = house.run("toy_monitor", later)
        assert run.success
        messages = [entry.user_message for entry in house.instance.all_logs(run.run_id)]
        assert sum(message.endswith(": challenger") for message in messages) == fitted
    judged = house.verdicts()
    assert judged["model_version"].unique().to_list() == [1]
    assert judged["series_id"].unique().sort().to_list() == ["S0", "S2"]
