import pickle
from collections.abc import Mapping

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.entities import Snapshots
from lakehouse_assets.ml.recipes import (
    Boosting,
    DecisionTree,
    ElasticNet,
    LightGBM,
    Linear,
    Logistic,
    NearestNeighbours,
    Perceptron,
    RandomForest,
    Recipe,
    SupportVectors,
    XGBoost,
)
from lakehouse_assets_tests.ml.customers import snapshots

CLASSIFIERS: Mapping[str, Recipe] = {
    "logistic": Logistic(),
    "tree": DecisionTree(),
    "forest": RandomForest(trees=10),
    "boosting": Boosting(iterations=20),
    "support_vectors": SupportVectors(components=40),
    "neighbours": NearestNeighbours(),
    "perceptron": Perceptron(epochs=80),
    "xgboost": XGBoost(iterations=20),
    "lightgbm": LightGBM(iterations=20),
}
REGRESSORS: Mapping[str, Recipe] = {
    "linear": Linear(),
    "net": ElasticNet(),
    **{name: CLASSIFIERS[name] for name in ("tree", "forest", "boosting", "neighbours", "xgboost", "lightgbm")},
}
FRAME = snapshots(3, 300, known=0, base=-1.0)
LAST = np.arange(600, 900)


def _data(target: str) -> Snapshots:
    return Snapshots.of(FRAME, ("as_of", "customer_id"), target, 90, ("churned", "margin_12m"))


def _usable(recipe: Recipe) -> Recipe:
    if not recipe.usable():
        pytest.skip(f"the extra of {type(recipe).__name__} is not installed")
    return recipe


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_predicts_whatever_the_rows_are_like(name: str) -> None:
    recipe, data = _usable(CLASSIFIERS[name]), _data("churned")
    learned = recipe.learn("classification", data, np.arange(600), seed=3)
    probability = learned.predict(data.frame[LAST])
    assert ((probability >= 0) & (probability <= 1)).all()
    y = data.y[LAST]
    assert probability[y > 0].mean() > probability[y == 0].mean() + 0.02
    assert "never_known" not in learned.numbers
    strange = data.frame[LAST].with_columns(
        tariff=pl.lit("never seen"),
        region=pl.lit(None, pl.String),
        price_change_3m=pl.lit(float("inf")),
        consumption_last_month=pl.lit(None, pl.Float64),
        tenure_months=pl.lit(10**9),
    )
    assert np.isfinite(learned.predict(strange)).all()
    kept = pickle.loads(pickle.dumps(learned))
    np.testing.assert_array_equal(kept.predict(data.frame[LAST]), probability)
    again = recipe.learn("classification", data, np.arange(600), seed=3)
    np.testing.assert_array_equal(again.predict(data.frame[LAST]), probability)


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_regressor_predicts_better_than_the_mean(name: str) -> None:
    recipe, data = _usable(REGRESSORS[name]), _data("margin_12m")
    learned = recipe.learn("regression", data, np.arange(600), seed=3)
    error = np.abs(learned.predict(data.frame[LAST]) - data.y[LAST]).mean()
    assert error < 0.75 * np.abs(data.y[LAST] - data.y[:600].mean()).mean()
    assert np.isfinite(pickle.loads(pickle.dumps(learned)).predict(data.frame[LAST])).all()


def test_a_recipe_learns_from_so_many_rows_at_most() -> None:
    data = _data("churned")
    few = DecisionTree(rows=100, leaf=10).learn("classification", data, np.arange(600), seed=0)
    assert few.pipeline[-1].tree_.n_node_samples[0] == 100


def test_without_anything_to_tell_apart_the_mean_is_predicted() -> None:
    data = _data("churned")
    same = np.flatnonzero(data.y == 0)
    np.testing.assert_array_equal(Logistic().learn("classification", data, same, 0).predict(data.frame[:5]), 0.0)


def test_a_recipe_of_the_other_task_says_so() -> None:
    with pytest.raises(TypeError, match="Logistic is no candidate of a regression"):
        Logistic().learn("regression", _data("margin_12m"), np.arange(600), 0)


def test_a_missing_input_is_named() -> None:
    data = _data("churned")
    learned = Logistic().learn("classification", data, np.arange(600), 0)
    with pytest.raises(ValueError, match="needs the inputs tariff"):
        learned.predict(data.frame.drop("tariff"))
