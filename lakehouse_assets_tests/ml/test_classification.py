import pickle
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.metrics import f1_score, precision_score, roc_auc_score

from lakehouse_assets.ml.classification import Classification
from lakehouse_assets.ml.definition import ALL, CHAMPION, BacktestResult, GatePolicy
from lakehouse_assets.ml.recipes import Boosting, DecisionTree, Logistic
from lakehouse_assets.ml.window import TrainingWindow
from lakehouse_assets_tests.ml.customers import months, snapshots

KIND = Classification(outcomes=("margin_12m",), origins=4, resamples=60)
CANDIDATES = {"logistic": Logistic(), "tree": DecisionTree()}
FRAME = snapshots(14, 200)


@cache
def _backtest() -> BacktestResult:
    return KIND.backtest(FRAME, CANDIDATES, seed=1)


def _is_png(picture: bytes) -> bool:
    return picture.startswith(b"\x89PNG") and 1_000 < len(picture) < 200_000


def test_a_backtest_scores_every_candidate_on_the_same_rows() -> None:
    result = _backtest()
    losses = result.losses.collect()
    assert result.best == "logistic"
    assert next(iter(result.summary())) == "logistic"
    assert list(result.summary())[-1] == "base_rate"
    assert losses.select("fold", "customer_id").is_duplicated().sum() == 0
    assert losses["customer_id"].is_sorted()
    fold = losses.filter(fold=2)
    row = result.metrics.filter(candidate="logistic", slice="fold", key="2").row(0, named=True)
    assert row["roc_auc"] == pytest.approx(roc_auc_score(fold["y"], fold["logistic"]))
    acted = fold["logistic"] >= result.folds.filter(fold=2)["threshold_logistic"][0]
    assert row["f1"] == pytest.approx(f1_score(fold["y"], acted))
    assert row["precision"] == pytest.approx(precision_score(fold["y"], acted))
    gained = (acted.cast(pl.Float64) * (fold["y"] * 125 - 25)).mean()
    assert row["action_value"] == pytest.approx(gained)
    overall = result.summary()["logistic"]
    assert overall["roc_auc_low"] < overall["roc_auc"] < overall["roc_auc_high"]
    permuted = result.metrics.filter(slice="permuted")
    lost = dict(zip(permuted["key"], permuted["roc_auc"], strict=True))
    assert min(lost, key=lambda name: lost[name]) == "price_change_3m"
    assert set(result.costs["candidate"]) == set(CANDIDATES)


def test_the_same_seed_gives_the_same_backtest() -> None:
    again = KIND.backtest(FRAME.sample(fraction=1.0, shuffle=True, seed=3), CANDIDATES, seed=1)
    assert_frame_equal(again.losses.collect(), _backtest().losses.collect())
    assert_frame_equal(again.metrics, _backtest().metrics)


def test_what_comes_later_changes_nothing_that_was_said_before() -> None:
    """Targets that come after an origin, and rows after it, are made up; what was said at the origin stays."""
    losses = _backtest().losses.collect()
    origin: datetime = losses["origin"].unique().sort()[1]
    late = pl.col("as_of") + timedelta(days=90) > origin
    corrupted = FRAME.with_columns(
        pl.when(late & pl.col("churned").is_not_null()).then(~pl.col("churned")).otherwise("churned").alias("churned"),
        pl.when(pl.col("as_of") > origin).then(-9.0).otherwise("price_change_3m").alias("price_change_3m"),
    )
    other = KIND.backtest(corrupted, CANDIDATES, seed=1).losses.collect()
    then = pl.col("origin") <= origin
    said = ["fold", "as_of", "customer_id", "base_rate", *CANDIDATES]
    assert_frame_equal(other.filter(then).select(said), losses.filter(then).select(said))
    assert not other.select(said).equals(losses.select(said))


def test_a_single_snapshot_is_scored_by_a_repeated_k_fold() -> None:
    kind = Classification(outcomes=("margin_12m",), splits=4, repeats=2, resamples=40)
    one = snapshots(1, 300, known=0, base=-1.0)
    result = kind.backtest(one, {"logistic": Logistic()}, seed=0, cutoff=months(1)[0])
    losses = result.losses.collect()
    assert losses.group_by("customer_id").len()["len"].to_list() == [2] * 300
    assert result.folds["repeat"].to_list() == [0] * 4 + [1] * 4
    assert result.folds["origin"].null_count() == 8
    mean = np.mean([roc_auc_score(rows["y"], rows["logistic"]) for rows in losses.partition_by("fold")])
    assert result.summary()["logistic"]["roc_auc"] == pytest.approx(mean, abs=0.01)
    assert result.fitted["logistic"].trained_at == months(1)[0]


def test_probabilities_are_calibrated_out_of_sample() -> None:
    """Of a recipe that is much too sure: with calibration it is believed less."""
    kind = Classification(outcomes=("margin_12m",), origins=4, resamples=20)
    sure = {"boosting": Boosting(iterations=120, learning_rate=0.3, leaf=5, penalty=0.0)}
    result = kind.backtest(FRAME, sure, seed=0)
    model = result.fitted["boosting"]
    assert model.calibration.slope < 0.8
    later = FRAME.filter(pl.col("as_of") == months(14)[-1])
    assert model.predict(later)["probability"].mean() == pytest.approx(model.past.quantiles.mean(), abs=0.05)


def test_the_champion_takes_part_with_its_stored_fit_where_it_was_out_of_sample() -> None:
    origins = _backtest().folds["origin"].to_list()
    old = KIND.backtest(FRAME, {"tree": DecisionTree()}, seed=1, cutoff=origins[2]).fitted["tree"]
    result = KIND.backtest(FRAME, {"logistic": Logistic()}, champion=KIND.compose({7: old}, {ALL: 7}, 7), seed=1)
    losses = result.losses.collect()
    by_fold = losses.group_by("fold").agg(pl.col("champion_own").all()).sort("fold")
    assert by_fold["champion_own"].to_list() == [False, False, True, True]
    last = losses.filter(fold=3)
    rows = FRAME.join(last.select("as_of", "customer_id"), on=["as_of", "customer_id"], maintain_order="right")
    np.testing.assert_allclose(old.predict(rows)["probability"], last[CHAMPION])
    assert set(result.summary()) == {"logistic", CHAMPION, "base_rate"}
    assert set(result.fitted) == {"logistic"}
    decision = KIND.gate(result, "logistic", GatePolicy(), groups={}, has_champion=True)
    assert decision.evidence["folds_used"] == [2, 3]


def test_a_champion_of_a_candidates_recipe_is_not_fitted_twice() -> None:
    model = _backtest().fitted["tree"]
    result = KIND.backtest(FRAME, CANDIDATES, champion=model, seed=1)
    losses = result.losses.collect()
    np.testing.assert_array_equal(losses[CHAMPION], losses["tree"])
    assert set(result.costs["candidate"]) == set(CANDIDATES)


def test_a_training_since_a_break_learns_from_what_came_after_it() -> None:
    break_at = months(14)[6]
    window = TrainingWindow({ALL: break_at}, before=0.0, least_days=28)
    result = KIND.backtest(FRAME, {"tree": DecisionTree()}, window=window, seed=1)
    learned = result.fitted["tree"].learned.pipeline[-1].tree_.n_node_samples[0]
    assert learned == FRAME.filter(pl.col("churned").is_not_null(), pl.col("as_of") >= break_at).height


def test_predictions_errors_and_scores() -> None:
    model = KIND.compose({3: pickle.loads(pickle.dumps(_backtest().fitted["logistic"]))}, {ALL: 3}, 3)
    rows = FRAME.filter(pl.col("as_of") == months(14)[10])
    predicted = model.predict(rows)
    assert list(predicted.columns) == [*KIND.prediction_columns, "model_version"]
    assert predicted.schema["as_of"] == KIND.prediction_columns["as_of"][0]
    threshold = _backtest().fitted["logistic"].threshold
    assert (predicted["act"] == (predicted["probability"] >= threshold)).all()
    errors = KIND.errors(predicted, FRAME.select("as_of", "customer_id", "churned"))
    assert set(KIND.error_columns) <= set(errors.columns)
    scores = KIND.scores(errors)
    assert scores["roc_auc"] == pytest.approx(roc_auc_score(errors["outcome"], errors["probability"]))
    assert scores["event_rate"] == pytest.approx(rows["churned"].mean())
    acted = errors.filter("act")
    assert acted["action_gain"].sum() == pytest.approx(125 * acted["outcome"].sum() - 25 * acted.height)
    unknown = model.predict(FRAME.filter(pl.col("as_of") == months(14)[13]))
    assert KIND.errors(unknown, FRAME).is_empty()
    assert KIND.scores(KIND.errors(unknown, FRAME)) == {}
    fresh = KIND.refit(model, FRAME, months(14)[8])
    assert fresh.trained_at == months(14)[8]
    assert fresh.calibration == model.calibration
    assert not np.allclose(fresh.predict(rows)["probability"], predicted["probability"])


def test_everything_is_drawn() -> None:
    drawn = KIND.pictures(_backtest())
    names = {"leaderboard", "roc", "precision_recall", "calibration", "lift", "value", "importance", "tree"}
    assert set(drawn) == names
    assert all(map(_is_png, drawn.values()))
    errors = KIND.errors(_backtest().fitted["tree"].predict(FRAME), FRAME)
    assert all(map(_is_png, KIND.error_pictures(errors.lazy()).values()))
    assert KIND.error_pictures(errors.head(0).lazy()) == {}


def test_mistakes_of_a_definition_are_told() -> None:
    with pytest.raises(ValueError, match="sigmoid or isotonic"):
        Classification(calibration="beta")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="success_rate"):
        Classification(success_rate=0.0)
    with pytest.raises(ValueError, match="is Boolean, or 0 and 1"):
        Classification(target="margin_12m").dataset(FRAME)
    with pytest.raises(TypeError, match=r"those of entities are in ml/recipes\.py"):
        KIND.backtest(FRAME, {"a": object()})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="too few to train on"):
        KIND.backtest(FRAME, CANDIDATES, cutoff=datetime(2022, 1, 15, tzinfo=UTC))
