"""Distances of samples: against what they are by definition, and what moves first."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, wasserstein_distance

from lakehouse_assets.ml.inputs import MEASURES, distances, input_drift
from lakehouse_assets.ml.panel import Panel
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(-2, 2),
    st.floats(0.2, 3),
    st.sampled_from(["normal", "exponential", "uniform"]),
    st.floats(1e-3, 1e6),
)
def test_distances_are_what_they_are_by_definition(
    seed: int, shift: float, scale: float, shape: str, unit: float
) -> None:
    rng = np.random.default_rng(seed)
    a, b = (getattr(rng, shape)(size=n) * unit for n in (4000, 3000))
    b = b * scale + shift * unit
    found = distances(a, b)
    np.testing.assert_allclose(found["wasserstein"], wasserstein_distance(a, b) / a.std(), rtol=0.03, atol=0.01)
    np.testing.assert_allclose(found["kolmogorov_smirnov"], ks_2samp(a, b).statistic, atol=0.01)
    edges = np.quantile(a, np.linspace(0, 1, 11)[1:-1])
    p, q = (np.bincount(np.searchsorted(edges, x, side="right"), minlength=10) + 0.5 for x in (a, b))
    p, q = p / p.sum(), q / q.sum()
    np.testing.assert_allclose(found["jensen_shannon"], jensenshannon(p, q, base=2), atol=0.02)
    np.testing.assert_allclose(found["psi"], ((q - p) * np.log(q / p)).sum(), rtol=0.1, atol=0.02)
    np.testing.assert_allclose(found["chi_squared"], ((q - p) ** 2 / p).sum(), rtol=0.1, atol=0.02)


def test_edges() -> None:
    nothing = distances(np.ones(3), np.array([np.nan]))
    assert set(nothing) == set(MEASURES)
    assert np.isnan(list(nothing.values())).all()
    same = distances(np.full(50, 7.0), np.full(20, 7.0))
    assert same["wasserstein"] == same["kolmogorov_smirnov"] == 0
    assert distances(np.full(50, 7.0), np.full(20, 8.0))["wasserstein"] == np.inf
    far = distances(np.random.default_rng(0).normal(size=1000), np.full(1000, 1e6))
    assert far["wasserstein"] == pytest.approx(1e6, rel=0.05)
    assert far["kolmogorov_smirnov"] == pytest.approx(1)


def test_inputs_that_moved_more_than_usual_come_first() -> None:
    demand, published = load_curves(2, 240)
    demand[1, 200 * 24 :] *= 1.3
    panel = Panel.from_frame(feature_frame(demand, published))  # from day 28 on
    moved = input_drift(panel.take(days=slice(0, 172)), panel.take(days=slice(180, 208)))
    times = moved.with_columns(times=pl.col("wasserstein") / pl.col("usual"))
    target = dict(times.filter(column="target").select("series_id", "times").iter_rows())
    assert target["S1"] > 5 > 2 > target["S0"]
    for series in ("S0", "S1"):
        assert times.filter(series_id=series)["times"].is_sorted(descending=True)
    assert not {"hour", "is_holiday", "lag_336h"} & set(moved["column"])
