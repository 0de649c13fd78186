"""Day-ahead demand by series and hour: everything known at the issue time, corrected for what is published."""

from lakehouse_assets.features import demand
from lakehouse_assets.ml.definition import DriftPolicy, GatePolicy, ModelDefinition, RetrainPolicy
from lakehouse_assets.ml.estimators import Blend, Boosting, Ridge, SeasonalNaive
from lakehouse_assets.ml.forecast import Forecast

demand_forecast = ModelDefinition(
    name="demand_forecast",
    description=__doc__,
    features="features/demand",
    target="value",
    kind=Forecast(),
    candidates={
        "seasonal_naive": SeasonalNaive(),
        "ridge": Ridge(),
        "ridge_on_published": Ridge(on_published=True, clip=(-0.25, 0.25)),
        "boosting": Boosting(),
        "blend": Blend(("ridge", "ridge_on_published", "boosting")),
    },
    gate=GatePolicy(minimum_gain=0.005, significance=0.05, group_tolerance=0.05),
    drift=DriftPolicy(weeks=3, minimum_effect=0.08, false_discovery_rate=0.05, fleet_share=0.1),
    retrain=RetrainPolicy(cooldown_days=14, maximum_attempts=3),
    schedules=demand.SCHEDULES,
    group="series_group",
)
