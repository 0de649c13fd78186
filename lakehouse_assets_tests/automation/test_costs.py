"""What a training and its steps cost, from real runs."""

import dagster as dg
import polars as pl

from lakehouse_assets.automation.costs import contract, costs
from lakehouse_assets_tests.lifecycle.conftest import House, house, toy_frame  # noqa: F401


def _book(house: House) -> pl.DataFrame:  # noqa: F811
    made = dg.materialize([costs, contract], instance=house.instance, resources=house.definitions.resources)
    assert made.success
    assert all(check.passed for check in made.get_asset_check_evaluations())
    return house.table("monitoring/costs").scan().collect()


def test_steps_candidates_and_shards_are_booked_once(house: House) -> None:  # noqa: F811
    assert house.run("toy_retrain", house.know(120)).success
    ledger = _book(house)
    steps = ledger.filter(stage="step")
    assert {"models/toy", "registry/toy", "predictions/toy"} <= set(steps["asset"])
    assert (steps["wall_seconds"] > 0).all()
    training = ledger.filter(pl.col("candidate") != "")
    assert set(training["asset"]) == {"models/toy"}
    assert {"seasonal_naive", "ridge_on_published"} <= set(training["candidate"])
    ridge = training.filter(candidate="ridge_on_published")
    assert ridge["cpu_seconds"].sum() > 0
    assert (ridge["bytes"] > 0).any()
    assert ridge["shard"].to_list() == [0]
    assert ledger["run_id"].n_unique() == 1

    assert house.run("toy_predict", house.know(122)).success
    again = _book(house)
    assert again.filter(pl.col("run_id").is_in(ledger["run_id"].implode())).sort(pl.all()).equals(ledger.sort(pl.all()))
    # the prediction, and the run that booked the first one
    assert again["run_id"].n_unique() == 3
    event = house.instance.get_latest_materialization_event(costs.key)
    assert "image/png" in event.asset_materialization.metadata["costs_picture"].value
