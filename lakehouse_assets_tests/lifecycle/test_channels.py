"""A model that is watched by its errors alone: no fresh fit is made, and the report says who drifted, and by which."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from lakehouse_assets.lifecycle.names import Names
from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets_tests.lifecycle.conftest import TOY, House, definitions_of
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves


@pytest.fixture
def watched(tmp_path: Path, house: House) -> House:
    demand, published = load_curves(series=4, days=252)
    late = np.arange(224 * 24, 252 * 24)
    published[1, late] *= 1 + 0.25 * ((late % 6) - 2.5) / 2.5  # no longer what it was, by the hour
    frame = feature_frame(demand, published)
    frame = frame.with_columns(series_group=pl.lit("a"), month=pl.col("issued_at").dt.date().dt.month_start())
    definition = replace(
        TOY,
        kind=Forecast(spread=4, recent=8),
        candidates={"ridge_on_published": TOY.candidates["ridge_on_published"]},  # type: ignore[index]
        drift=DriftPolicy(channels=("error",)),
    )
    return replace(house, definitions=definitions_of(definition, tmp_path), frame=frame)


def test_errors_alone_call_a_drift_and_the_finding_says_so(watched: House) -> None:
    assert watched.run("toy_retrain", watched.know(217)).success
    at = watched.know(246)
    for _ in range(2):  # the second time there is no new week, and the verdict is the same
        assert watched.run("toy_monitor", at).success
        event = watched.instance.get_latest_materialization_event(Names("toy").drift)
        assert event is not None
        assert isinstance(event.asset_materialization, dg.AssetMaterialization)
        metadata = event.asset_materialization.metadata
        assert metadata["verdict"].value == "drift"
        findings: Any = metadata["findings"].value
        assert {(f["kind"], f["channel"]) for f in findings} == {("drift", "error")}
        assert ["S1"] in [f["members"] for f in findings]
    judged = watched.table("monitoring/toy_drift").scan().collect()
    weeks = judged.filter(pl.col("champion_loss").is_not_null())
    assert weeks["week"].n_unique() == 4
    assert weeks["fresh_loss"].null_count() == weeks.height
    assert weeks["block_loss"].list.len().unique().to_list() == [4]
    assert set(weeks.filter(verdict="drift")["channel"]) == {"error"}
