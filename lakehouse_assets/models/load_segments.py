"""Segments of customers by the shape of their day, working days and days off, with labels that last.

Customers are parted by the usual shape of the last year; each month's shape then has a segment. The recipes differ in
what they take distances of: shares of the day, or the centred logarithms of them, in which the quiet hours count too.
"""

from lakehouse_assets.ml.clustering import Clustering
from lakehouse_assets.ml.definition import DriftPolicy, GatePolicy, ModelDefinition, RetrainPolicy, Schedules
from lakehouse_assets.ml.segments import KMeansSegments, MixtureSegments

load_segments = ModelDefinition(
    name="load_segments",
    description=__doc__,
    features="features/load_shape",
    target=None,
    kind=Clustering(),
    candidates={
        "k_means": KMeansSegments(),
        "k_means_on_logs": KMeansSegments("log_shares"),
        "mixture": MixtureSegments(),
    },
    gate=GatePolicy(minimum_gain=0.05, significance=0.05),
    drift=DriftPolicy(channels=("input",), minimum_effect=0.05, false_alarm_rate=0.01),
    retrain=RetrainPolicy(cooldown_days=28, maximum_attempts=3),
    # After the snapshots of the month, which are made on its first day.
    schedules=Schedules(predict="45 1 1 * *", monitor="0 3 1 * *", retrain="15 2 1 1,4,7,10 *"),
)
