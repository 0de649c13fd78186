"""Demand by series and hour: everything known at the issue time, corrected for what is published.

Series of some weeks (a declared `warm_up` of less than four) have a recipe of their own: no season of the year, origins
of a day, and regressions that are drawn more.
"""

from lakehouse_assets.features import demand
from lakehouse_assets.ml.daily import DailyRidge
from lakehouse_assets.ml.deep import Deep
from lakehouse_assets.ml.definition import Candidate, DriftPolicy, GatePolicy, ModelDefinition, RetrainPolicy
from lakehouse_assets.ml.estimators import Blend, Boosting, Ridge, SeasonalNaive
from lakehouse_assets.ml.forecast import Forecast

CLIP = (-1.2, 0.9)
"""Bounds of the logarithm of a value relative to its level: from 0.3 to 2.5 times."""

LONG: dict[str, Candidate] = {
    "seasonal_naive": SeasonalNaive(),
    "ridge": Ridge(log=True, clip=CLIP, robustness=1.0),
    "ridge_on_published": Ridge(on_published=True, clip=(-0.25, 0.25)),
    "daily": DailyRidge(log=True, strength=2.0, clip=CLIP, robustness=1.5, waves=300),
    "daily_on_published": DailyRidge(on_published=True, strength=30.0, clip=(-0.25, 0.25)),
    "boosting": Boosting(),
    "blend": Blend(("ridge", "ridge_on_published", "daily", "daily_on_published", "boosting")),
}
SHORT: dict[str, Candidate] = {
    "seasonal_naive": SeasonalNaive(),
    "ridge": Ridge(log=True, scaled=True, hours=True, season=0.0, strength=3.0, clip=(-5.0, 3.0)),
    "boosting": Boosting(by_spread=True, iterations=200, rows=200_000, refit_days=3),
    "blend": Blend(("seasonal_naive", "ridge", "boosting"), prior_days=7.0, unrelated=0.0),
}

demand_forecast = ModelDefinition(
    name="demand_forecast",
    description=__doc__,
    features="features/demand",
    target="value",
    kind=Forecast(minimum_training_days=7, fold_days=1, spread=0) if demand.SHORT_SERIES else Forecast(),
    candidates=SHORT if demand.SHORT_SERIES else LONG,
    gate=GatePolicy(minimum_gain=0.005, significance=0.05, group_tolerance=0.05),
    drift=DriftPolicy(minimum_effect=0.055, false_discovery_rate=0.1, fleet_share=0.1),
    retrain=RetrainPolicy(cooldown_days=14, maximum_attempts=3),
    schedules=demand.SCHEDULES,
    group="series_group",
    deep={"deep": Deep()},
)
