"""The stages in a chain, on real Delta tables, a real MLflow store and real Dagster runs."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import polars as pl
import pytest

from lakehouse_assets.lifecycle import training
from lakehouse_assets.lifecycle.fleet import FleetRegistry
from lakehouse_assets.lifecycle.names import Names
from lakehouse_assets.ml.deep import Deep
from lakehouse_assets.ml.definition import Search
from lakehouse_assets.ml.estimators import SeasonalNaive
from lakehouse_assets.operation.fleet import by_hand
from lakehouse_assets.settings import Settings
from lakehouse_assets_tests.lifecycle.conftest import TOY, House, definitions_of

REGISTRY = [Names("toy").promotion, Names("toy").series, Names("toy").series_history]


def _runs(house: House, status: str | None = None) -> list:
    client = house.registry.client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, filter_string=f"attributes.status = '{status}'" if status else "")


def test_from_features_to_predictions_errors_and_a_verdict(house: House) -> None:
    at = house.know(120)
    trained = house.run("toy_retrain", at)
    assert trained.success

    champion = house.registry.get("toy", "champion")
    assert champion is not None
    assert champion.version == 1
    assert dict(champion.pins) == {"features/toy": house.table("features/toy").version()}
    assert champion.tags["candidate"] == "ridge_on_published"
    assert champion.metrics["mae"] > 0
    decision = house.table("registry/toy").scan().collect()
    assert decision["decision"].to_list() == ["promoted"]
    assert json.loads(decision["evidence"][0])["against_seasonal_naive"]["gain"] > 0

    # one MLflow run a training, a nested one a candidate; all ended
    assert not _runs(house, "RUNNING")
    assert len(_runs(house)) == 2 + len(TOY.candidates)  # with the baseline that always competes
    predicted = house.table("predictions/toy").scan().collect()
    assert predicted["issued_at"].unique().to_list() == [at]
    assert predicted.height == 4 * 24
    assert predicted["model_version"].unique().to_list() == [1]
    assert predicted["yhat"].is_finite().all()
    assert (predicted["horizon"] == (predicted["ts"] - predicted["issued_at"]).dt.total_hours()).all()

    # no week has passed, no prediction can be compared: nothing is written, and nothing fails
    assert house.run("toy_monitor", at).success
    assert not house.table("monitoring/toy_drift").exists()

    later = house.know(141)
    assert house.run("toy_predict", later).success
    assert house.run("toy_predict", later).success
    predicted = house.table("predictions/toy").scan().collect()
    assert predicted["issued_at"].n_unique() == 22
    assert predicted.height == 22 * 4 * 24, "one prediction a key, however often it is asked for"
    errors = house.table("monitoring/toy_errors").scan().collect()
    assert errors["issued_at"].n_unique() == 21, "the last day is not known yet"
    assert (errors["error"] - (errors["yhat"] - errors["value"])).abs().max() == 0

    assert house.run("toy_monitor", later).success
    event = house.instance.get_latest_materialization_event(Names("toy").drift)
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["verdict"].value in ("ok", "drift")
    judged = house.verdicts()
    assert judged["week"].n_unique() == 2
    assert house.run("toy_monitor", later).success
    assert house.verdicts().height == judged.height


def test_a_better_challenger_is_promoted_an_equal_one_is_not_and_a_rollback_undoes_it(house: House) -> None:
    assert house.run("toy_retrain", house.know(130)).success
    assert house.run("toy_retrain", house.know(137)).success
    decisions = house.table("registry/toy").scan().collect().sort("version")
    assert decisions["decision"].to_list() == ["promoted", "kept"]
    assert house.registry.get("toy", "champion").version == 1
    assert house.run("toy_monitor", house.know(152)).success
    assert house.table("monitoring/toy_drift").exists()

    # four weeks after the published forecast changed its habits
    at = house.know(175)
    assert house.run("toy_retrain", at, **{"lakehouse/trigger": "drift"}).success
    decisions = house.table("registry/toy").scan().collect().sort("version")
    assert decisions["decision"].to_list() == ["promoted", "kept", "promoted"]
    assert decisions["trigger"].to_list()[-1] == "drift"
    assert decisions["gain"][2] > 0.1
    assert house.registry.get("toy", "champion").version == 3
    assert house.registry.get("toy", "previous").version == 1
    latest = house.table("predictions/toy").scan().filter(pl.col("issued_at") == at).collect()
    assert latest["model_version"].unique().to_list() == [3], "the new champion predicts anew"

    # reports about the old champion are there, none can be made about the new one yet
    assert house.run("toy_monitor", at).success
    event = house.instance.get_latest_materialization_event(Names("toy").drift)
    assert event.asset_materialization.metadata["verdict"].value == "insufficient_data"

    before, change = by_hand(house.lake, house.registry, TOY, house.instance, FleetRegistry.roll_back)
    assert (before, change.champion, change.moved) == (3, 1, 4)
    assert house.registry.get("toy", "champion").version == 1
    last = house.table("registry/toy").scan().collect().sort("decided_at").row(-1, named=True)
    assert (last["decision"], last["champion_before"], last["champion_after"]) == ("rolled_back", 3, 1)


def test_a_decision_against_a_champion_that_changed_meanwhile_is_refused(house: House) -> None:
    at = house.know(120)
    assert house.run("toy_retrain", at).success
    assert house.run("toy_retrain", at).success
    at = house.know(175)
    assert house.run("toy_retrain", at, only=[Names("toy").training]).success
    house.registry.promote("toy", 2, expected_champion=1)
    assert house.run("toy_retrain", at, only=REGISTRY).success
    decision = house.table("registry/toy").scan().filter(version=3).collect().row(0, named=True)
    assert decision["decision"] == "kept"
    assert "compared with version 1, but version 2 is champion" in decision["reason"]
    assert house.registry.get("toy", "champion").version == 2


def test_training_again_from_the_pins_gives_the_same_metrics(house: House) -> None:
    assert house.run("toy_retrain", house.know(120)).success
    first = house.registry.get("toy", "champion")
    house.know(130)
    pinned = house.table("features/toy").scan(first.pins["features/toy"]).collect()
    again = TOY.kind.backtest(
        TOY.kind.dataset(pinned),
        TOY.candidates,
        cutoff=datetime.fromisoformat(first.tags["cutoff"]),
        seed=int(first.tags["seed"]),
    )
    assert again.summary()[again.best] == dict(first.metrics)


def test_a_search_finds_the_candidates_and_each_trial_is_a_run(house: House) -> None:
    search = Search(trials=3, families=("linear", "ridge_on_published"), keep=1)
    house.definitions = definitions_of(replace(TOY, candidates=search), house.folder)
    assert house.run("toy_retrain", house.know(120), only=[Names("toy").training]).success
    trials = sorted(
        (run for run in _runs(house) if "trial" in run.data.tags), key=lambda run: int(run.data.tags["trial"])
    )
    assert [run.info.run_name for run in trials[:2]] == ["trial 0 linear", "trial 1 ridge_on_published"]
    assert len(trials) == 3
    assert {run.data.tags["state"] for run in trials} <= {"complete", "pruned"}
    assert trials[1].data.params["on_published"] == "True"
    assert 0 < trials[1].data.metrics["loss"] < trials[0].data.metrics["loss"]
    assert not _runs(house, "RUNNING")
    event = house.instance.get_latest_materialization_event(Names("toy").training)
    metadata = event.asset_materialization.metadata
    assert metadata["candidate"].value == "ridge_on_published"
    assert "data:image/png" in metadata["search_picture"].value
    assert "| exponential_smoothing |" in metadata["leaderboard"].value


@pytest.mark.parametrize("asked", ["declared", "deep"])
def test_deep_candidates_compete_where_they_are_asked_for(
    asked: str, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "get_settings", lambda: Settings(candidates=asked))
    house.definitions = definitions_of(replace(TOY, deep={"slow": SeasonalNaive(window_days=28)}), house.folder)
    assert house.run("toy_retrain", house.know(120), only=[Names("toy").training]).success
    competed = {run.info.run_name for run in _runs(house) if "mlflow.parentRunId" in run.data.tags}
    assert competed == {*TOY.candidates, "exponential_smoothing"} | ({"slow"} if asked == "deep" else set())


def test_what_learns_in_epochs_tells_its_curve(house: House) -> None:
    pytest.importorskip("torch")
    network = Deep(width=8, epochs=3, refit_days=365)
    house.definitions = definitions_of(replace(TOY, candidates={"network": network}), house.folder)
    assert house.run("toy_retrain", house.know(120), only=[Names("toy").training]).success
    (run,) = (run for run in _runs(house) if run.info.run_name == "network")
    for measure in ("training_loss", "validation_loss"):
        told = house.registry.client.get_metric_history(run.info.run_id, measure)
        assert [metric.step for metric in told] == [1, 2, 3]
        assert all(metric.value > 0 for metric in told)
    event = house.instance.get_latest_materialization_event(Names("toy").training)
    assert "data:image/png" in event.asset_materialization.metadata["training_network_picture"].value


def test_without_features_the_training_says_so(house: House) -> None:
    house.table("features/toy").append(house.frame.clear(), partition_by=["month"])
    result = house.run("toy_retrain", datetime(2023, 5, 1, tzinfo=UTC))
    assert not result.success
    assert "features/toy has no rows yet" in str(result.get_step_failure_events()[0].step_failure_data.error)
    assert not _runs(house, "RUNNING")
