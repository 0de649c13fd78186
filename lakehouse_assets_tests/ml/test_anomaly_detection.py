"""Anomaly detection on days: what is planted is found and named, the gate, drift, and the pictures."""

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.anomaly_detection import AnomalyDetection
from lakehouse_assets.ml.definition import ALL, CHAMPION, BacktestResult, DriftPolicy, GatePolicy
from lakehouse_assets.ml.unusual_days import Blend, Forest, ResidualRule
from lakehouse_assets_tests.ml.days import FIRST, usage_frame

KIND = AnomalyDetection(alarm_budget=5.0)
CUTOFF = FIRST + timedelta(days=200)
FOREST = Forest(trees=20)
CANDIDATES = {"residual_rule": ResidualRule(), "isolation_forest": FOREST, "blend": Blend(forest=FOREST)}


@pytest.fixture(scope="module")
def result() -> BacktestResult:
    return KIND.backtest(KIND.dataset(usage_frame()), CANDIDATES, cutoff=CUTOFF)


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_budget_is_kept_on_days_without_anomalies_and_a_spike_is_found(result: BacktestResult, name: str) -> None:
    model = result.fitted[name]
    fresh = usage_frame(days=300, seed=9)
    quiet = model.predict(fresh)
    assert 0 < quiet["alarm"].mean() <= 3 * KIND.alarm_budget / 1000
    spiked = fresh.with_columns(r14=pl.col("r14") + 0.3)
    assert model.predict(spiked)["alarm"].mean() > (0.6 if name == "isolation_forest" else 0.9)


def test_a_reason_names_the_hours_the_power_and_the_deviations(result: BacktestResult) -> None:
    frame = usage_frame(days=60, seed=3).with_columns(r05=pl.lit(0.0), r14=pl.lit(0.25), r15=pl.lit(0.25))
    frame = frame.with_columns(pl.lit(0.0, pl.Float32).alias(f"r{h:02}") for h in range(24) if h not in (14, 15))
    told = result.fitted["residual_rule"].predict(frame)
    assert told.columns == list(KIND.prediction_columns)
    assert told["alarm"].all()
    last = told.filter(series_id="s03").row(-1, named=True)
    assert last["hours"] == "14-16"
    assert "14:00-16:00 100.0 MW above" in last["reason"]
    assert "like weekdays" in last["reason"]
    quiet = result.fitted["residual_rule"].predict(usage_frame(days=60, seed=3)).filter(~pl.col("alarm"))
    assert quiet["reason"].null_count() == quiet.height


def test_a_backtest_is_of_the_same_planted_days_for_all_and_knows_nothing_of_them(result: BacktestResult) -> None:
    losses = result.losses.collect()
    assert losses.height == 4 * 28 * 10
    overall = result.metrics.filter(slice="overall")
    assert overall["found"].min() > 0.5
    assert result.best == overall.sort("missed")["candidate"][0]
    for name in CANDIDATES:  # the same share of alarms for all, on the days as they were
        threshold = overall.filter(candidate=name)["threshold"].item()
        assert (losses[f"{name}_score"] >= threshold).mean() == pytest.approx(KIND.alarm_budget / 1000, abs=0.003)
    # A fold's fits see nothing of it: what lies after the first fold may be anything.
    since = result.folds["end"][0]
    wild = usage_frame().with_columns(
        pl.when(pl.col("as_of") >= since).then(pl.col("r07") * 50).otherwise("r07").alias("r07")
    )
    again = KIND.backtest(KIND.dataset(wild), {"blend": CANDIDATES["blend"]}, cutoff=CUTOFF).losses.collect()
    first = [rows.filter(fold=0)["blend_score"].to_list() for rows in (losses, again)]
    assert first[0] == first[1]


def test_the_gate_wants_fewer_misses_than_the_champion(result: BacktestResult) -> None:
    assert KIND.gate(result, "blend", GatePolicy(), has_champion=False).promote
    losses = result.losses.collect()
    rng = np.random.default_rng(0)
    blind = losses.with_columns(pl.lit(rng.random(losses.height) < 0.9).cast(pl.Float64).alias(CHAMPION))

    def decide(rows: pl.DataFrame, challenger: str) -> Any:
        changed = BacktestResult(challenger, "missed", result.metrics, result.folds, rows.lazy(), {})
        return KIND.gate(changed, challenger, GatePolicy(), has_champion=True)

    better = decide(blind, "blend")
    assert better.promote
    assert better.evidence["p_value"] < 0.01
    same = decide(losses.with_columns(pl.col("blend").alias(CHAMPION)), "blend")
    assert not same.promote
    assert same.evidence["gain"] == 0
    assert not decide(losses.with_columns(pl.lit(1.0).alias("blend"), pl.lit(0.9).alias(CHAMPION)), "blend").promote


def test_a_champion_takes_part_and_a_fit_goes_through_a_pickle(result: BacktestResult) -> None:
    champion = KIND.compose({3: pickle.loads(pickle.dumps(result.fitted["blend"]))}, {}, 3)
    frame = usage_frame(days=60, seed=4)
    predicted = champion.predict(frame)
    assert predicted["model_version"].unique().to_list() == [3]
    assert predicted["score"].to_list() == result.fitted["blend"].predict(frame)["score"].to_list()
    assert champion.series_ids == [ALL]
    again = KIND.backtest(KIND.dataset(usage_frame(days=130)), {"rule": ResidualRule()}, champion=champion)
    assert CHAMPION in again.summary()
    assert again.metrics.filter(candidate=CHAMPION, slice="overall")["found"].item() > 0.5


def _weeks(champion: Any, frame: pl.DataFrame, since: datetime) -> pl.DataFrame:
    days = KIND.dataset(frame)
    starts = [since + timedelta(days=7 * k) for k in range(6)]
    rows = [
        KIND.window_losses(champion, days, at, at + timedelta(days=7)).with_columns(
            window_start=pl.lit(at, pl.Datetime("us", "UTC"))
        )
        for at in starts
    ]
    return pl.concat(rows)


def test_drift_is_scores_that_are_other_than_those_of_the_reference(result: BacktestResult) -> None:
    policy = DriftPolicy(channels=("input",), weeks=3, false_alarm_rate=0.005)
    champion = result.fitted["blend"]
    same = _weeks(champion, usage_frame(days=300, seed=7), CUTOFF)
    assert KIND.verdict(same, policy).verdict == "ok"
    assert KIND.verdict(same.head(2), policy).verdict == "insufficient_data"
    wider = _weeks(champion, usage_frame(days=300, seed=7, noise=0.02), CUTOFF)
    drift = KIND.verdict(wider, policy)
    assert drift.verdict == "drift"
    assert drift.series.row(0, named=True)["due"]
    assert drift.findings[0]["members"] == [ALL]
    assert set(drift.series.columns) | set(same.columns) - {"window_start"} == set(KIND.drift_columns)
    moved = KIND.explain(KIND.dataset(usage_frame(days=300)), [ALL], CUTOFF, timedelta(days=7))
    assert moved.height == 5


def test_pictures_are_drawn(result: BacktestResult) -> None:
    features = usage_frame().lazy()
    drawn = KIND.pictures(result) | KIND.drift_pictures(pl.DataFrame(), features, DriftPolicy())
    assert set(drawn) == {"found", "calendar", "worst_days"}
    assert all(png.startswith(b"\x89PNG") for png in drawn.values())


def test_too_little_history_is_told() -> None:
    with pytest.raises(ValueError, match="a backtest needs 56 to learn from and 28"):
        KIND.backtest(KIND.dataset(usage_frame(days=60)), CANDIDATES, cutoff=datetime(2024, 3, 1, tzinfo=UTC))
