"""Distances of samples: against what they are by definition, and what moves first."""

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, wasserstein_distance

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.inputs import CELLS, MEASURES, decided, distances, input_drift, surprises
from lakehouse_assets.ml.panel import DAY_US, NEVER, Panel
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves


@settings(max_examples=20, deadline=None)
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
    edges = np.quantile(a, np.linspace(0, 1, 11)[1:-1])
    # Where a sharp end of the sample meets the edge of a bin, which side it is on hangs on a cell's width.
    cell = 3 * np.ptp(np.quantile(a, [0.001, 0.999])) / CELLS
    assume(min(np.abs(edges - end).min() for end in (b.min(), b.max())) > cell)
    found = distances(a, b)
    np.testing.assert_allclose(found["wasserstein"], wasserstein_distance(a, b) / a.std(), rtol=0.03, atol=0.01)
    np.testing.assert_allclose(found["kolmogorov_smirnov"], ks_2samp(a, b).statistic, atol=0.01)
    # The edge of a bin is that of a cell: what is found is what the definition says of edges within a cell of them.
    nearby = [_by_definition(a, b, edges + off) for off in (-cell, 0.0, cell)]
    for name, (relative, absolute) in {
        "jensen_shannon": (0, 0.02),
        "psi": (0.1, 0.02),
        "chi_squared": (0.1, 0.02),
    }.items():
        low, high = (bound(values[name] for values in nearby) for bound in (min, max))
        assert low * (1 - relative) - absolute <= found[name] <= high * (1 + relative) + absolute, name


def _by_definition(a: np.ndarray, b: np.ndarray, edges: np.ndarray) -> dict[str, float]:
    p, q = (np.bincount(np.searchsorted(edges, x, side="right"), minlength=10) + 0.5 for x in (a, b))
    p, q = p / p.sum(), q / q.sum()
    psi, chi_squared = ((q - p) * np.log(q / p)).sum(), ((q - p) ** 2 / p).sum()
    return {"jensen_shannon": jensenshannon(p, q, base=2), "psi": psi, "chi_squared": chi_squared}


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


def panel_of(series: int, days: int, seed: int, move: bool = False) -> Panel:
    """Inputs of some weeks' memory around a yearly season; with a move, one doubles its spread in the last weeks."""
    rng = np.random.default_rng(seed)
    noise = np.zeros((series, days, 24))
    for day in range(1, days):
        noise[:, day] = 0.8 * noise[:, day - 1] + rng.normal(0, 1, (series, 1)) + rng.normal(0, 0.3, (series, 24))
    season = 5 * np.sin(2 * np.pi * np.arange(days) / 365.25)[None, :, None]
    mean = (season + noise)[:, :, :1] + rng.normal(0, 1, (series, days, 1))
    inputs = {"temperature": season + noise, "mean_24h": mean}
    if move:
        inputs["temperature"][2, -35:, 12:18] += 9.0
    issued = (np.arange(days) + 19_000) * DAY_US
    columns = {n: (v if v.shape[2] > 1 else v[:, :, 0]).astype(np.float32) for n, v in inputs.items()}
    known = np.full((series, days, 24), NEVER)
    target = np.full((series, days, 24), np.nan)
    return Panel(np.array([f"S{i}" for i in range(series)]), issued, target, known, known[:, :, 0] > 0, columns)


def test_a_move_of_an_input_is_found_with_its_column_and_hours_though_no_label_has_come() -> None:
    panel = panel_of(12, 750, 0, move=True)
    policy = DriftPolicy()
    found = decided(surprises(panel, int(panel.issued[-1]) + DAY_US), policy)
    (row,) = found.filter("moved").iter_rows(named=True)
    assert (row["series_id"], row["column"], row["slice"]) == ("S2", "temperature", "12 to 17 of the horizon")
    assert row["measure"] in MEASURES
    assert row["wasserstein"] > 0.5
    short = surprises(panel.take(days=slice(700, 750)), int(panel.issued[-1]) + DAY_US)
    assert short["p_value"].null_count() == 12


def test_inputs_that_go_with_the_season_move_as_rarely_as_stated() -> None:
    panel = panel_of(60, 900, 1)
    ends = [int(panel.issued[-1 - back]) + DAY_US for back in (0, 60, 120, 180)]
    rare = pl.concat(surprises(panel, end)["p_value"] <= 0.02 for end in ends)
    assert rare.sum() <= 0.03 * len(rare)
