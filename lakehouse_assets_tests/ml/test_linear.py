import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet, LinearRegression, Ridge

from lakehouse_assets.ml.linear import (
    decayed_grams,
    in_season,
    solve_elastic_net,
    solve_least_squares,
    solve_ridge,
)


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(1.0, 0.3, (6, 120, 9))
    y = x @ rng.normal(size=9) + rng.normal(0, 0.1, (6, 120)) + 2
    y[2, 30:40] = np.nan
    return x, y, np.arange(120.0)


def stacked(x: np.ndarray, y: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of [1, x, y], and when they are known: never, where there is no target."""
    rows = np.concatenate([np.ones((*y.shape, 1)), x, np.nan_to_num(y)[:, :, None]], axis=2)
    return rows.transpose(0, 2, 1), np.where(np.isfinite(y), block, 99)


def test_a_batch_equals_scikit_learn_with_sample_weights(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, day = problem
    rows, block = stacked(x, y, np.zeros(y.shape, int))
    (gram,) = decayed_grams(rows, day, block, np.array([120.0]), half_life=30.0)
    ours = solve_ridge(gram[:, 0], 0.7)
    for b in range(len(x)):
        there = np.isfinite(y[b])
        weights = 0.5 ** ((120.0 - day[there]) / 30.0)
        theirs = Ridge(alpha=0.7).fit(x[b][there], y[b][there], sample_weight=weights)
        np.testing.assert_allclose(ours[b], [theirs.intercept_, *theirs.coef_], atol=1e-6)


def test_recursion_over_cutoffs_equals_a_direct_fit(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, day = problem
    cutoffs = np.array([40.0, 47.0, 90.0])
    known = np.broadcast_to(day + 1, y.shape).copy()
    known[:, 35] = 80.0  # one day that became known late
    rows, block = stacked(x, y, np.searchsorted(cutoffs, known))
    for gram, cutoff in zip(decayed_grams(rows, day, block, cutoffs, 60.0), cutoffs, strict=True):
        _, by_then = stacked(x, y, np.searchsorted([cutoff], known))
        (direct,) = decayed_grams(rows, day, by_then, np.array([cutoff]), 60.0)
        np.testing.assert_allclose(solve_ridge(gram[:, 0], 0.1), solve_ridge(direct[:, 0], 0.1), rtol=1e-9, atol=1e-10)


def test_no_rows_no_coefficients() -> None:
    rows, block = stacked(np.ones((1, 4, 2)), np.full((1, 4), np.nan), np.zeros((1, 4), int))
    (gram,) = decayed_grams(rows, np.arange(4.0), block, np.array([4.0]), 9.0)
    assert np.isnan(solve_ridge(gram[:, 0], 1.0)).all()


def test_the_season_of_a_row_counts(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, _ = problem
    day = np.arange(120.0) * 5
    cutoffs = np.array([300.0, 600.0])
    rows, block = stacked(x, y, np.broadcast_to(np.searchsorted(cutoffs, day + 1), y.shape))
    *_, grams = decayed_grams(rows, day, block, cutoffs, 500.0, seasonal=True)
    ours = solve_ridge(in_season(grams, 700.0, 0.9), 0.7)
    weights = 0.5 ** ((600.0 - day) / 500.0) * (1 + 0.9 * np.cos(2 * np.pi * (700.0 - day) / 365.25))
    there = np.isfinite(y[2])
    theirs = Ridge(alpha=0.7).fit(x[2][there], y[2][there], sample_weight=weights[there])
    np.testing.assert_allclose(ours[2], [theirs.intercept_, *theirs.coef_], atol=1e-6)


def gram_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(B, p + 2, p + 2) of all rows alike."""
    rows = np.concatenate([np.ones((*y.shape, 1)), x, y[:, :, None]], axis=2)
    return rows.transpose(0, 2, 1) @ rows


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    penalty=st.floats(1e-4, 1.0),
    l1_ratio=st.floats(0.05, 1.0),
    regressions=st.integers(1, 9),
)
def test_the_elastic_net_equals_scikit_learn(seed: int, penalty: float, l1_ratio: float, regressions: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(0.5, 1.0, (regressions, 60, 7))
    x[:, :, 1] = 0.9 * x[:, :, 0] + 0.1 * x[:, :, 1]
    y = x @ (rng.normal(size=7) * (rng.random(7) < 0.5)) + rng.normal(0, 0.3, (regressions, 60)) + 1.0
    ours = solve_elastic_net(gram_of(x, y), penalty, l1_ratio, tolerance=1e-9, sweeps=5000)
    for b in range(regressions):
        theirs = ElasticNet(alpha=penalty, l1_ratio=l1_ratio, tol=1e-10, max_iter=100_000).fit(x[b], y[b])
        np.testing.assert_allclose(ours[b], [theirs.intercept_, *theirs.coef_], atol=1e-5)


def test_of_an_elastic_net_some_regressions_end_early_and_some_have_no_rows() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 80, 6))
    x[:20, :, 1:] = x[:20, :, :1] + 0.1 * x[:20, :, 1:]  # half of them are hard: inputs that are much alike
    y = x @ rng.normal(size=6) + rng.normal(0, 0.1, (40, 80))
    gram = gram_of(x, y)
    gram[5] = 0.0
    ours = solve_elastic_net(gram, 1e-3, 0.5, tolerance=1e-9, sweeps=20_000)
    assert np.isnan(ours[5]).all()
    for b in (0, 19, 20, 39):
        theirs = ElasticNet(alpha=1e-3, l1_ratio=0.5, tol=1e-10, max_iter=100_000).fit(x[b], y[b])
        np.testing.assert_allclose(ours[b, 1:], theirs.coef_, atol=1e-5)


def test_an_elastic_net_is_the_same_in_any_company() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(3, 50, 6))
    x[0, :, 1:] = x[0, :, :1] + 0.1 * x[0, :, 1:]  # takes many sweeps
    y = x @ rng.normal(size=6) + rng.normal(0, 0.1, (3, 50))
    gram = gram_of(x, y)
    together = solve_elastic_net(gram, 1e-4, 0.5)
    np.testing.assert_array_equal(together[2:], solve_elastic_net(gram[2:], 1e-4, 0.5))


def test_least_squares_where_the_rows_suffice_and_ridge_where_they_do_not() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 90, 5))
    x[:, :, 4] = 1.0 - x[:, :, 3]  # follows from another: no unique solution
    y = x @ rng.normal(size=5) + rng.normal(0, 0.1, (2, 90))
    full, short = gram_of(x, y), gram_of(x[:, :12], y[:, :12])
    ours = solve_least_squares(full, 5.0)
    theirs = LinearRegression().fit(x[0], y[0])
    np.testing.assert_allclose(ours[0, 0] + x[0] @ ours[0, 1:], theirs.predict(x[0]), atol=1e-6)
    np.testing.assert_array_equal(solve_least_squares(short, 5.0), solve_ridge(short, 5.0))
