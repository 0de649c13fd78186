"""Days on which a series used other than expected: which hours, how far, against the forecast or the like weekdays."""

from lakehouse_assets.features import demand
from lakehouse_assets.ml.anomaly_detection import AnomalyDetection
from lakehouse_assets.ml.definition import DriftPolicy, GatePolicy, ModelDefinition, RetrainPolicy
from lakehouse_assets.ml.unusual_days import Blend, Forest, ResidualRule

usage_anomalies = ModelDefinition(
    name="usage_anomalies",
    description=__doc__,
    features="features/usage",
    target=None,
    kind=AnomalyDetection(alarm_budget=5.0),
    candidates={"residual_rule": ResidualRule(), "isolation_forest": Forest(), "blend": Blend()},
    gate=GatePolicy(minimum_gain=0.02, significance=0.05),
    drift=DriftPolicy(channels=("input",), weeks=3, false_alarm_rate=0.005),
    retrain=RetrainPolicy(cooldown_days=28),
    schedules=demand.SCHEDULES,
)
