"""Churn: the probability that a customer's contract ends within 90 days, and whom it pays to make an offer to."""

from lakehouse_assets.features.customer import LABEL_DAYS
from lakehouse_assets.ml.classification import Classification
from lakehouse_assets.ml.definition import DriftPolicy, GatePolicy, ModelDefinition, RetrainPolicy, Schedules
from lakehouse_assets.ml.recipes import (
    Boosting,
    DecisionTree,
    Logistic,
    NearestNeighbours,
    Perceptron,
    RandomForest,
    SupportVectors,
    installed_extras,
)

customer_churn = ModelDefinition(
    name="customer_churn",
    description=__doc__,
    features="features/customer",
    target="churned",
    kind=Classification(
        target="churned",
        label_days=LABEL_DAYS,
        origins=4,
        outcomes=("margin_12m",),
        # An offer costs 25, keeps every fourth who would leave, and who stays is worth 500.
        saved_value=500.0,
        action_cost=25.0,
        success_rate=0.25,
    ),
    candidates={
        "logistic": Logistic(),
        "decision_tree": DecisionTree(),
        "random_forest": RandomForest(trees=100, rows=10_000),
        "boosting": Boosting(),
        "support_vectors": SupportVectors(rows=10_000),
        "nearest_neighbours": NearestNeighbours(),
        "perceptron": Perceptron(),
        **installed_extras(),
    },
    gate=GatePolicy(minimum_gain=0.005, significance=0.05, group_tolerance=0.05),
    drift=DriftPolicy(channels=("input", "error"), false_alarm_rate=0.01),
    retrain=RetrainPolicy(cooldown_days=27),
    schedules=Schedules(predict="30 1 1 * *", monitor="0 2 1 * *", retrain="0 3 1 1,4,7,10 *"),
)
