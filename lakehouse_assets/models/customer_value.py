"""Value: the margin that a customer will bring over the next twelve months."""

from lakehouse_assets.ml.definition import DriftPolicy, GatePolicy, ModelDefinition, RetrainPolicy, Schedules
from lakehouse_assets.ml.entity_regression import Regression
from lakehouse_assets.ml.recipes import Boosting, ElasticNet, Linear, RandomForest

customer_value = ModelDefinition(
    name="customer_value",
    description=__doc__,
    features="features/customer",
    target="margin_12m",
    # Twelve months from a snapshot on, and the days until the last of them is billed.
    kind=Regression(target="margin_12m", label_days=375, outcomes=("churned",)),
    candidates={
        "linear": Linear(),
        "elastic_net": ElasticNet(),
        "random_forest": RandomForest(),
        "boosting": Boosting(),
    },
    gate=GatePolicy(minimum_gain=0.005, significance=0.05, group_tolerance=0.05),
    drift=DriftPolicy(channels=("input", "error"), false_alarm_rate=0.01),
    retrain=RetrainPolicy(cooldown_days=27),
    schedules=Schedules(predict="40 1 1 * *", monitor="10 2 1 * *", retrain="20 3 1 1,4,7,10 *"),
)
