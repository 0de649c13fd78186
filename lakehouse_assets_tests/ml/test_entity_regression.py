from functools import cache

import polars as pl
import pytest
from sklearn.metrics import mean_absolute_error, r2_score

from lakehouse_assets.ml.definition import BacktestResult, GatePolicy
from lakehouse_assets.ml.entity_regression import Regression
from lakehouse_assets.ml.recipes import Boosting, DecisionTree, Linear
from lakehouse_assets_tests.ml.customers import months, snapshots

KIND = Regression(outcomes=("churned",), label_days=90, origins=3, resamples=60)
FRAME = snapshots(12, 150)


@cache
def _backtest() -> BacktestResult:
    return KIND.backtest(FRAME, {"linear": Linear(), "tree": DecisionTree()}, seed=0)


def test_candidates_are_ranked_by_their_absolute_error() -> None:
    result = _backtest()
    losses = result.losses.collect()
    found = result.summary()
    assert list(found) == ["linear", "tree", "median"]
    assert found["linear"]["mae"] == pytest.approx(mean_absolute_error(losses["y"], losses["linear"]))
    assert found["linear"]["r2"] == pytest.approx(r2_score(losses["y"], losses["linear"]))
    assert found["linear"]["bias"] == pytest.approx((losses["linear"] - losses["y"]).mean())
    assert found["linear"]["mae_low"] < found["linear"]["mae"] < found["linear"]["mae_high"]
    assert "churned" not in result.fitted["linear"].feature_names


def test_the_gate_lets_a_better_one_pass() -> None:
    first = KIND.gate(_backtest(), "linear", GatePolicy(), groups=None, has_champion=False)
    assert first.promote
    tree = _backtest().fitted["tree"]
    result = KIND.backtest(FRAME, {"linear": Linear()}, champion=tree, seed=0)
    decision = KIND.gate(result, "linear", GatePolicy(), groups=None, has_champion=True)
    assert decision.promote, decision.reason
    back = KIND.backtest(FRAME, {"tree": DecisionTree()}, champion=_backtest().fitted["linear"], seed=0)
    assert not KIND.gate(back, "tree", GatePolicy(), groups=None, has_champion=True).promote


def test_predictions_errors_and_pictures() -> None:
    model = _backtest().fitted["linear"]
    rows = FRAME.filter(pl.col("as_of") == months(12)[6])
    predicted = model.predict(rows.lazy())
    assert list(predicted.columns) == list(KIND.prediction_columns)
    errors = KIND.errors(predicted, FRAME)
    assert set(KIND.error_columns) <= set(errors.columns)
    assert KIND.scores(errors)["mae"] == pytest.approx(mean_absolute_error(rows["margin_12m"], predicted["predicted"]))
    assert set(KIND.pictures(_backtest())) == {"leaderboard", "actual", "residuals", "importance", "tree"}


def test_a_single_snapshot_is_enough() -> None:
    kind = Regression(outcomes=("churned",), splits=3, repeats=1, resamples=20)
    result = kind.backtest(snapshots(1, 150, known=0), {"boosting": Boosting(iterations=30, leaf=5)}, seed=0)
    assert result.summary()["boosting"]["mae"] < result.summary()["median"]["mae"]
