"""A fleet of several versions is, series by series, the version in force."""

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.ml.estimators import Blend, Boosting, Ridge, SeasonalNaive
from lakehouse_assets.ml.fitted import FittedForecast, ShardedForecast
from lakehouse_assets.ml.fleet import Fleet
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

KIND = Forecast(spread=2, recent=2, shard_series=2)
CUTOFF = datetime(2023, 4, 24, tzinfo=UTC)
WEEK = datetime(2023, 4, 24, tzinfo=UTC)
KEYS = ["issued_at", "series_id", "ts"]


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return feature_frame(*load_curves(3, 130))


@pytest.fixture(scope="module")
def models(frame: pl.DataFrame) -> dict[int, FittedForecast | ShardedForecast]:
    """Two versions, of one shard; a third of several shards, which knows two series alone."""
    known = frame.filter(pl.col("issued_at") <= CUTOFF)
    candidates = {"naive": SeasonalNaive(), "ridge": Ridge()}
    one = Forecast(spread=2, recent=2).backtest(KIND.dataset(known).panel(), candidates, cutoff=CUTOFF).fitted
    some = KIND.backtest(KIND.dataset(known), {"ridge": Ridge(half_life=20.0)}, cutoff=CUTOFF).fitted
    assert isinstance(some["ridge"], ShardedForecast)
    return {1: one["naive"], 2: one["ridge"], 3: some["ridge"]}


def each_by_its_own(models: dict, frame: pl.DataFrame, assignment: dict[str, int], champion: int) -> pl.DataFrame:
    parts = []
    for (series,), rows in frame.partition_by("series_id", as_dict=True).items():
        version = assignment.get(str(series), champion)
        parts.append(models[version].predict(rows).with_columns(model_version=pl.lit(version, pl.Int64)))
    return pl.concat(parts).sort(KEYS)


@settings(max_examples=12, deadline=None)
@given(
    assignment=st.dictionaries(st.sampled_from(["S0", "S1", "S2", "gone"]), st.integers(1, 3)),
    champion=st.integers(1, 3),
)
def test_each_series_is_forecast_by_its_version(
    models: dict, frame: pl.DataFrame, assignment: dict[str, int], champion: int
) -> None:
    latest = frame.filter(pl.col("issued_at") == pl.col("issued_at").max())
    fleet = KIND.compose(models, assignment, champion)
    expected = each_by_its_own(models, latest, assignment, champion)
    predicted = fleet.predict(latest.sample(fraction=1, shuffle=True, seed=1)).sort(KEYS)
    assert predicted.select(expected.columns).equals(expected)
    panel = KIND.dataset(latest).panel()
    forecast = panel.frame(yhat=fleet.forecast(panel)).sort(KEYS)
    np.testing.assert_array_equal(forecast["yhat"], expected["yhat"])
    # cut down to some series, as it travels to the worker that has them
    some = pickle.loads(pickle.dumps(fleet.only(["S1"])))
    one = latest.filter(series_id="S1")
    assert some.predict(one).sort(KEYS).equals(expected.filter(series_id="S1"))
    assert set(some.models) == {champion, assignment.get("S1", champion)}


def test_what_the_fleet_says_of_itself_is_said_by_the_version_in_force(models: dict) -> None:
    fleet = KIND.compose(models, {"S0": 1, "new": 3}, 2)
    assert fleet.series_ids == ["S0", "S1", "S2", "new"]
    assert fleet.series_by_version(fleet.series_ids) == {1: ["S0"], 2: ["S1", "S2"], 3: ["new"]}
    assert fleet.expected_loss == {
        "S0": models[1].expected_loss["S0"],
        "S1": models[2].expected_loss["S1"],
        "S2": models[2].expected_loss["S2"],
    }
    assert fleet.parameters() == models[2].parameters()
    assert fleet.trained_at == CUTOFF


def test_a_fleet_is_backtested_and_watched_as_any_champion(models: dict, frame: pl.DataFrame) -> None:
    fleet = KIND.compose(models, {"S0": 1, "S1": 3}, 2)
    losses = KIND.window_losses(fleet, KIND.dataset(frame), WEEK, WEEK + timedelta(days=7)).sort("series_id")
    assert losses["series_id"].to_list() == ["S0", "S1", "S2"]
    for version, series in ((1, "S0"), (3, "S1"), (2, "S2")):
        alone = KIND.window_losses(models[version], KIND.dataset(frame), WEEK, WEEK + timedelta(days=7)).filter(
            series_id=series
        )
        assert losses.filter(series_id=series).equals(alone), series
    fresh = KIND.refit(fleet, KIND.dataset(frame), WEEK)
    assert isinstance(fresh, Fleet)
    assert KIND.window_losses(fleet, KIND.dataset(frame), WEEK, WEEK + timedelta(days=7), fresh=fresh).height == 3
    later = frame["issued_at"].max()
    result = KIND.backtest(KIND.dataset(frame), {"ridge": Ridge()}, cutoff=later, champion=fleet)
    scored = result.losses.filter("champion_own").collect().sort(KEYS)
    assert scored["series_id"].n_unique() == 3
    expected = each_by_its_own(models, frame, dict(fleet.assignment), 2)
    both = scored.join(expected, on=KEYS)
    assert both.height == scored.height
    assert (both["champion"] - both["yhat"]).abs().max() < 1e-9


def test_each_series_meets_its_own_version_from_when_that_was_trained(models: dict, frame: pl.DataFrame) -> None:
    early = CUTOFF - timedelta(days=14)
    old = KIND.backtest(KIND.dataset(frame), {"ridge": Ridge()}, cutoff=early).fitted["ridge"]
    fleet = KIND.compose({1: old, 2: models[2]}, {"S0": 1}, 2)
    result = KIND.backtest(KIND.dataset(frame), {"ridge": Ridge()}, champion=fleet)
    trained = pl.when(pl.col("series_id") == "S0").then(pl.lit(early)).otherwise(pl.lit(CUTOFF))
    losses = result.losses.collect()
    assert losses.select((pl.col("champion_own") == (pl.col("origin") >= trained)).all()).item()
    own = losses.filter("champion_own").group_by("series_id").agg(pl.col("fold").n_unique()).sort("series_id")
    assert own["fold"].to_list() == [3, 2, 2]


def test_versions_of_one_recipe_share_the_fresh_fit_across_series(
    frame: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    learn = Boosting.fit_samples

    def counted(self: Boosting, *arguments: Any) -> Any:
        made.append(self.iterations)
        return learn(self, *arguments)

    def versions(*iterations: int) -> dict[int, Any]:
        found = [
            KIND.backtest(KIND.dataset(frame), {"boosting": Boosting(iterations=n)}, cutoff=CUTOFF).fitted["boosting"]
            for n in iterations
        ]
        return dict(enumerate(found, start=1))

    def losses(models: dict[int, Any], assignment: dict[str, int]) -> pl.DataFrame:
        made.clear()
        fleet = KIND.compose(models, assignment, 1)
        return KIND.window_losses(fleet, KIND.dataset(frame), WEEK, WEEK + timedelta(days=7)).sort("series_id")

    models = versions(5, 5, 7)
    monkeypatch.setattr(Boosting, "fit_samples", counted)
    alone = losses({1: models[1]}, {})
    assert losses({1: models[1], 2: models[2]}, {"S1": 2}).equals(alone)
    assert made == [5]
    other = losses({1: models[1], 2: models[3]}, {"S1": 2})
    assert made == [5, 7]
    assert other.filter(series_id="S1")["fresh_loss"].item() != alone.filter(series_id="S1")["fresh_loss"].item()


def test_where_some_are_trained_nothing_learns_across_series(frame: pl.DataFrame) -> None:
    blend = Blend(("ridge", "naive", "boosting"))
    candidates = {"ridge": Ridge(), "naive": SeasonalNaive(), "boosting": Boosting(iterations=3), "blend": blend}
    champion = KIND.backtest(KIND.dataset(frame), candidates, cutoff=CUTOFF).fitted["blend"]
    alone = ["ridge", "naive", "blend"]
    assert list(KIND.candidates_of_some(candidates, champion)) == alone
    assert sorted(KIND.candidates_of_some("auto", champion)) == sorted(alone), "not searched for: the champion's"
    some = KIND.dataset(frame).of_series(["S1"])
    result = KIND.backtest(some, KIND.candidates_of_some(candidates, champion), champion=champion)
    assert "boosting" not in " ".join(result.costs["candidate"])
    assert result.fitted["blend"].parameters()["members"] == ["ridge", "naive"]
    assert result.fitted["blend"].series_ids == ["S1"]
    stored = result.losses.filter("champion_own").collect().join(champion.predict(frame), on=KEYS)
    assert stored.height
    assert (stored["champion"] - stored["yhat"]).abs().max() < 1e-9
    # A champion that does nothing but learn across series does so before it was trained, too.
    only = KIND.backtest(KIND.dataset(frame), candidates, cutoff=CUTOFF).fitted["boosting"]
    assert "champion/boosting" in KIND.backtest(some, {"ridge": Ridge()}, champion=only).costs["candidate"].to_list()
