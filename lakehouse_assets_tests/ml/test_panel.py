import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.panel import NEVER, Panel
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return feature_frame(*load_curves(2, 40))


def test_rows_of_any_order_come_back_as_they_were(frame: pl.DataFrame) -> None:
    panel = Panel.from_frame(frame.sample(fraction=1.0, shuffle=True, seed=1))
    assert panel.shape == (2, 12, 24)
    back = panel.frame(value=panel.target, lag_24h=panel.full("lag_24h"), mean_24h=panel.full("mean_24h"))
    columns = ["issued_at", "series_id", "ts", "horizon", "value", "lag_24h", "mean_24h"]
    assert back.equals(frame.select(columns).sort("series_id", "issued_at", "ts"))


def test_what_is_the_same_for_the_horizon_is_stored_once(frame: pl.DataFrame) -> None:
    panel = Panel.from_frame(frame)
    assert panel.columns["mean_168h"].ndim == 2
    assert panel.columns["lag_24h"].ndim == 3
    assert "known_at" not in panel.columns


def test_unknown_is_nan_and_never(frame: pl.DataFrame) -> None:
    gap = frame.filter(~((pl.col("series_id") == "S1") & (pl.col("issued_at") == frame["issued_at"].max())))
    gap = gap.with_columns(
        value=pl.when(pl.col("horizon") == 3).then(None).otherwise("value"),
        known_at=pl.when(pl.col("horizon") == 3).then(None).otherwise("known_at"),
    )
    panel = Panel.from_frame(gap, features=["lag_24h", "not_there"])
    assert np.isnan(panel.target[:, :, 3]).all()
    assert (panel.known_at[:, :, 3] == NEVER).all()
    assert np.isnan(panel.columns["not_there"]).all()
    assert not panel.present[1, -1]
    assert panel.frame(x=panel.target).height == gap.height


def test_an_infinite_value_is_none(frame: pl.DataFrame) -> None:
    third = pl.col("horizon") == 3
    broken = frame.with_columns(
        value=pl.when(third).then(-float("inf")).otherwise("value"),
        lag_24h=pl.when(third).then(1e300).otherwise(pl.col("lag_24h").cast(pl.Float64)),  # beyond single precision
    )
    panel = Panel.from_frame(broken)
    assert np.isnan(panel.target[:, :, 3]).all()
    assert np.isnan(panel.columns["lag_24h"][:, :, 3]).all()
    assert np.isfinite(panel.target[:, :, 4]).all()


def test_an_empty_frame_is_refused(frame: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Panel.from_frame(frame.clear())
