from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet, LinearRegression, Ridge

from lakehouse_assets.ml.linear import (
    Grams,
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


def grams_of(
    x: np.ndarray,
    y: np.ndarray,
    known: np.ndarray,
    day: np.ndarray,
    cutoffs: list[float],
    half_life: float,
    **named: bool,
) -> Iterator[Grams]:
    """The Gram matrices at each cutoff; rows are known when `known` says, or never, where there is no target.

    Where the first of the regressions' features are the same for all, they are shared.
    """
    same = int((x == x[:1]).all(axis=(0, 1)).sum())
    shared = np.concatenate([np.ones((x.shape[1], 1)), x[0, :, :same]], axis=1).T
    own = np.concatenate([x[:, :, same:], np.nan_to_num(y)[:, :, None]], axis=2).transpose(0, 2, 1)
    block = np.where(np.isfinite(y), np.searchsorted(cutoffs, known), 99)
    return decayed_grams(shared, own, day, block, np.array(cutoffs), half_life, **named)


def scikit_learn(x: np.ndarray, y: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """Coefficients of one regression, the intercept first."""
    there = np.isfinite(y)
    model = Ridge(alpha=alpha).fit(x[there], y[there], sample_weight=weights[there])
    return np.array([model.intercept_, *model.coef_])


@pytest.mark.parametrize("shared", [0, 4, 9])
@pytest.mark.parametrize("penalty", [0.7, np.array([[0.1], [0.3], [0.7], [1.0], [2.0], [3.0]])])
def test_a_batch_equals_scikit_learn_with_sample_weights(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray], shared: int, penalty: float | np.ndarray
) -> None:
    x, y, day = problem
    x[:, :, :shared] = x[0, :, :shared]
    (grams,) = grams_of(x, y, day, day, [120.0], 30.0)
    assert grams.shared.shape == (1, 2, shared + 1, shared + 1)  # one of the regressions lacks some rows
    ours = solve_ridge(in_season(grams, 0.0, 0.0), penalty)
    for b, alpha in enumerate(np.broadcast_to(penalty, (len(x), 1))[:, 0]):
        theirs = scikit_learn(x[b], y[b], 0.5 ** ((120.0 - day) / 30.0), alpha)
        np.testing.assert_allclose(ours[b], theirs, atol=1e-6)


def test_a_feature_may_have_a_penalty_of_its_own(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, day = problem
    x[:, :, :4] = x[0, :, :4]
    width = np.linspace(0.5, 2.0, 9)
    ours, theirs = (
        solve_ridge(in_season(next(grams_of(f, y, day, day, [120.0], 30.0)), 0.0, 0.0), penalty)
        for f, penalty in ((x, 0.7 * width**2), (x / width, 0.7))
    )
    np.testing.assert_allclose(ours[:, 1:], theirs[:, 1:] / width, rtol=1e-9)


def test_recursion_over_cutoffs_equals_a_direct_fit(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, day = problem
    x[:, :, :5] = x[0, :, :5]
    cutoffs = [40.0, 47.0, 90.0]
    known = np.broadcast_to(day + 1, y.shape).copy()
    known[:, 35] = 80.0  # one day that became known late
    known[3, 60:80] = 90.0  # of one regression some more
    for grams, cutoff in zip(grams_of(x, y, known, day, cutoffs, 60.0), cutoffs, strict=True):
        (direct,) = grams_of(x, y, known, day, [cutoff], 60.0)
        ours, theirs = (solve_ridge(in_season(g, 0.0, 0.0), 0.1) for g in (grams, direct))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def test_no_rows_no_coefficients() -> None:
    y = np.array([np.full(4, np.nan), np.arange(4.0)])
    (grams,) = grams_of(np.ones((2, 4, 2)), y, np.zeros(4), np.arange(4.0), [4.0], 9.0)
    ours = solve_ridge(in_season(grams, 0.0, 0.0), 1.0)
    assert np.isnan(ours[0]).all()
    assert np.isfinite(ours[1]).all()


def test_the_season_of_a_row_counts(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, _ = problem
    x[:, :, :5] = x[0, :, :5]
    day = np.arange(120.0) * 5
    *_, grams = grams_of(x, y, day + 1, day, [300.0, 600.0], 500.0, seasonal=True)
    ours = solve_ridge(in_season(grams, 700.0, 0.9), 0.7)
    weights = 0.5 ** ((600.0 - day) / 500.0) * (1 + 0.9 * np.cos(2 * np.pi * (700.0 - day) / 365.25))
    for b in range(len(x)):
        np.testing.assert_allclose(ours[b], scikit_learn(x[b], y[b], weights, 0.7), atol=1e-6)


def test_blocks_are_those_of_the_whole_matrix(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, day = problem
    x[:, :, :5] = x[0, :, :5]
    (grams,) = grams_of(x, y, day, day, [120.0], np.inf)
    found = in_season(grams, 0.0, 0.0)
    for b, whole in enumerate(found.whole()):
        there = np.isfinite(y[b])
        np.testing.assert_allclose(whole, gram_of(x[b : b + 1, there], y[b : b + 1, there])[0])
        assert found.variance()[b] == pytest.approx(y[b][there].var())


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
    day = np.arange(90.0)
    (full,) = (in_season(g, 0.0, 0.0) for g in grams_of(x, y, day, day, [90.0], np.inf))
    (short,) = (in_season(g, 0.0, 0.0) for g in grams_of(x[:, :12], y[:, :12], day[:12], day[:12], [90.0], np.inf))
    ours = solve_least_squares(full, 5.0)
    theirs = LinearRegression().fit(x[0], y[0])
    np.testing.assert_allclose(ours[0, 0] + x[0] @ ours[0, 1:], theirs.predict(x[0]), atol=1e-6)
    np.testing.assert_allclose(solve_least_squares(short, 5.0), solve_ridge(short, 5.0), rtol=1e-9)
