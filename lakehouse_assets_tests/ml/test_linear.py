import numpy as np
import pytest
from sklearn.linear_model import Ridge

from lakehouse_assets.ml.linear import decayed_grams, in_season, solve_ridge


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(1.0, 0.3, (6, 120, 9))
    y = x @ rng.normal(size=9) + rng.normal(0, 0.1, (6, 120)) + 2
    y[2, 30:40] = np.nan
    return x, y, np.arange(120.0)


def test_a_batch_equals_scikit_learn_with_sample_weights(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, day = problem
    (gram,) = decayed_grams(x, y, day, np.zeros(y.shape, int), np.array([120.0]), half_life=30.0)
    ours = solve_ridge(gram[0], 0.7)
    for b in range(len(x)):
        rows = np.isfinite(y[b])
        weights = 0.5 ** ((120.0 - day[rows]) / 30.0)
        theirs = Ridge(alpha=0.7).fit(x[b][rows], y[b][rows], sample_weight=weights)
        np.testing.assert_allclose(ours[b], [theirs.intercept_, *theirs.coef_], atol=1e-6)


def test_recursion_over_cutoffs_equals_a_direct_fit(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, day = problem
    cutoffs = np.array([40.0, 47.0, 90.0])
    known = np.broadcast_to(day + 1, y.shape).copy()
    known[:, 35] = 80.0  # one day that became known late
    block = np.searchsorted(cutoffs, known)
    for gram, cutoff in zip(decayed_grams(x, y, day, block, cutoffs, 60.0), cutoffs, strict=True):
        (direct,) = decayed_grams(x, y, day, np.searchsorted([cutoff], known), np.array([cutoff]), 60.0)
        np.testing.assert_allclose(solve_ridge(gram[0], 0.1), solve_ridge(direct[0], 0.1), rtol=1e-9, atol=1e-10)


def test_no_rows_no_coefficients() -> None:
    (gram,) = decayed_grams(
        np.ones((1, 4, 2)), np.full((1, 4), np.nan), np.arange(4.0), np.zeros((1, 4), int), np.array([4.0]), 9.0
    )
    assert np.isnan(solve_ridge(gram[0], 1.0)).all()


def test_the_season_of_a_row_counts(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, _ = problem
    day = np.arange(120.0) * 5
    cutoffs = np.array([300.0, 600.0])
    block = np.broadcast_to(np.searchsorted(cutoffs, day + 1), y.shape)
    *_, grams = decayed_grams(x, y, day, block, cutoffs, 500.0, seasonal=True)
    ours = solve_ridge(in_season(grams, 700.0, 0.9), 0.7)
    weights = 0.5 ** ((600.0 - day) / 500.0) * (1 + 0.9 * np.cos(2 * np.pi * (700.0 - day) / 365.25))
    rows = np.isfinite(y[2])
    theirs = Ridge(alpha=0.7).fit(x[2][rows], y[2][rows], sample_weight=weights[rows])
    np.testing.assert_allclose(ours[2], [theirs.intercept_, *theirs.coef_], atol=1e-6)
