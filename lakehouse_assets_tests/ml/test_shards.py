import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import joblib
import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.definition import CHAMPION, BacktestResult
from lakehouse_assets.ml.estimators import Blend, Boosting, Ridge, SeasonalNaive
from lakehouse_assets.ml.fitted import ShardedForecast
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets.ml.panel import Panel
from lakehouse_assets.ml.shards import Shards, worked_on_by
from lakehouse_assets.registry.archive import read_archive, write_archive
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

KIND = Forecast(spread=1, recent=2, shard_series=2)
CANDIDATES = {
    "seasonal_naive": SeasonalNaive(),
    "ridge": Ridge(),
    "boosting": Boosting(iterations=5, rows=2000),
    "blend": Blend(("ridge", "boosting")),
}
CUTOFF = datetime(2023, 4, 24, tzinfo=UTC)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pl.LazyFrame:
    file = tmp_path_factory.mktemp("features") / "demand.parquet"
    feature_frame(*load_curves(5, 130)).write_parquet(file)
    return pl.scan_parquet(file)


@pytest.fixture(scope="module")
def result(table: pl.LazyFrame, tmp_path_factory: pytest.TempPathFactory) -> BacktestResult:
    workspace = tmp_path_factory.mktemp("workspace")
    return KIND.backtest(KIND.dataset(table), CANDIDATES, cutoff=CUTOFF, seed=1, workspace=workspace)


def test_shards_hold_every_row_once(table: pl.LazyFrame) -> None:
    shards = Shards.of(table, "value", 2)
    whole = Panel.from_frame(table.collect())
    assert [shard.series for shard in shards] == [("S0", "S1"), ("S2",), ("S3", "S4")]
    assert len(shards) == 3
    panels = [shard.panel() for shard in shards]
    np.testing.assert_array_equal(np.concatenate([p.target for p in panels]), whole.target)
    in_memory = Shards.of(whole, "value", 2)
    np.testing.assert_array_equal(shards.known_from, in_memory.known_from)
    assert (shards.known_until, shards.horizon, shards.features) == (
        in_memory.known_until,
        in_memory.horizon,
        in_memory.features,
    )
    assert shards.has("lag_24h")
    assert not shards.has("no_such_column")
    few = shards.of_series(["S4", "S1"]).between(int(whole.issued[3]), int(whole.issued[9])).panel()
    np.testing.assert_array_equal(few.target, whole.target[[1, 4], 3:9])
    with pytest.raises(ValueError, match="at least one row"):
        Shards.of(table.filter(pl.lit(False)), "value")


def test_a_series_model_is_the_same_in_any_shard(table: pl.LazyFrame, result: BacktestResult) -> None:
    whole = replace(KIND, shard_series=9)
    few = {n: CANDIDATES[n] for n in ("seasonal_naive", "ridge")}
    together = whole.backtest(whole.dataset(table), few, cutoff=CUTOFF, seed=1)
    names = ["fold", "series_id", "ts", "y", "ridge", "seasonal_naive"]
    assert together.losses.select(names).collect().equals(result.losses.select(names).collect())
    ours, theirs = (r.metrics.filter(candidate="ridge").drop("candidate") for r in (result, together))
    for column in ("mae", "rmse", "relative_mae"):
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-12)
    day = table.filter(pl.col("issued_at") >= CUTOFF).collect()
    assert result.fitted["ridge"].predict(day).equals(together.fitted["ridge"].predict(day))


def test_processes_find_the_same_to_the_last_bit(table: pl.LazyFrame, result: BacktestResult) -> None:
    with worked_on_by("loky", workers=2):
        assert joblib.effective_n_jobs(None) == 1, "scikit-learn's own steps stay here"
        elsewhere = KIND.backtest(KIND.dataset(table), CANDIDATES, cutoff=CUTOFF, seed=1)
    assert elsewhere.losses.collect().equals(result.losses.collect())
    assert elsewhere.metrics.equals(result.metrics)
    day = table.filter(pl.col("issued_at") >= CUTOFF).collect()
    for name, fitted in result.fitted.items():
        assert fitted.predict(day).equals(elsewhere.fitted[name].predict(day))


def test_a_fleet_is_archived_part_by_part(table: pl.LazyFrame, result: BacktestResult, tmp_path: Path) -> None:
    fitted = result.fitted["blend"]
    assert isinstance(fitted, ShardedForecast)
    write_archive(tmp_path / "model.zip", fitted, {})
    loaded = pickle.loads(pickle.dumps(read_archive(tmp_path / "model.zip")))
    day = table.filter(pl.col("issued_at") >= CUTOFF).collect()
    assert loaded.predict(day).equals(fitted.predict(day))
    assert loaded.series_ids == ["S0", "S1", "S2", "S3", "S4"]
    with pytest.raises(ValueError, match="read the archive"):
        fitted.dismantled()[0].predict(day)


def test_a_new_series_is_forecast_by_what_the_fleet_has_in_common(table: pl.LazyFrame, result: BacktestResult) -> None:
    fitted = result.fitted["blend"]
    newcomer = table.filter(pl.col("issued_at") >= CUTOFF, series_id="S3").collect()
    newcomer = newcomer.with_columns(series_id=pl.lit("S9"))
    everything = fitted.predict(newcomer)
    assert everything.select(pl.col("yhat", "q025", "q975").is_finite().all()).row(0) == (True, True, True)
    shared = result.fitted["boosting"].predict(newcomer)
    # The ridge knows nothing of it, and leaves its weight to the boosting.
    np.testing.assert_allclose(everything["yhat"], shared["yhat"], rtol=1e-12)


def test_the_champion_of_other_shards_takes_part_and_is_refitted(table: pl.LazyFrame, result: BacktestResult) -> None:
    champion = result.fitted["blend"]
    other = replace(KIND, shard_series=3)
    dataset = other.dataset(table)
    again = other.backtest(dataset, {"ridge": Ridge()}, champion=champion)
    losses = again.losses.filter("champion_own").collect()
    assert losses.height
    stored = losses.join(champion.predict(table.collect()), on=["issued_at", "series_id", "ts"])
    assert stored.select((pl.col(CHAMPION) == pl.col("yhat")).all()).item()
    fresh = KIND.refit(champion, KIND.dataset(table), CUTOFF)
    day = table.filter(pl.col("issued_at") >= CUTOFF).collect()
    np.testing.assert_allclose(fresh.predict(day)["yhat"], champion.predict(day)["yhat"], rtol=1e-9)
    week = KIND.window_losses(champion, dataset, CUTOFF, CUTOFF + timedelta(days=7))
    assert week["series_id"].to_list() == ["S0", "S1", "S2", "S3", "S4"]
    np.testing.assert_allclose(week["champion_loss"], week["fresh_loss"], rtol=0.1)


def test_what_a_training_costs_is_told_by_candidate_and_shard(result: BacktestResult) -> None:
    costs = result.costs
    assert set(costs.columns) == {"shard", "candidate", "stage", "cpu_seconds", "bytes"}
    assert set(costs["candidate"]) == set(CANDIDATES) | {"exponential_smoothing"}
    assert costs.filter(candidate="ridge")["shard"].to_list() == [0, 1, 2]
    assert costs.filter(candidate="ridge").select((pl.col("cpu_seconds") > 0).all()).item()
    assert costs.filter(candidate="boosting", stage="fit")["shard"].to_list() == [None]
