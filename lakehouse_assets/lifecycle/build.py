"""From a model's definition to everything that Dagster needs to run its life."""

import dagster as dg

from lakehouse_assets.lifecycle.alerts import alert_definitions
from lakehouse_assets.lifecycle.contracts import has_ladder
from lakehouse_assets.lifecycle.monitoring import drift_asset, errors_asset
from lakehouse_assets.lifecycle.prediction import prediction_asset
from lakehouse_assets.lifecycle.profile import profile_asset
from lakehouse_assets.lifecycle.promotion import promotion_asset
from lakehouse_assets.lifecycle.retraining import retraining_definitions
from lakehouse_assets.lifecycle.rungs import rungs_asset
from lakehouse_assets.lifecycle.training import training_asset
from lakehouse_assets.ml.definition import ModelDefinition


def lifecycle(definition: ModelDefinition) -> dg.Definitions:
    """Assets, checks, jobs, schedules and sensors of one model."""
    promotion, contracts = promotion_asset(definition)
    stages = [prediction_asset(definition), profile_asset(definition), drift_asset(definition)]
    if has_ladder(definition.kind):
        stages.append(rungs_asset(definition))
    if definition.kind.error_columns:
        stages.append(errors_asset(definition))
    return dg.Definitions.merge(
        dg.Definitions(
            assets=[training_asset(definition), promotion, *(asset for asset, _ in stages)],
            asset_checks=[*contracts, *(check for _, check in stages)],
        ),
        retraining_definitions(definition),
        alert_definitions(definition),
    )
