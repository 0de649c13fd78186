import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from lakehouse_assets.ml.entity_metrics import (
    THRESHOLDS,
    Action,
    Calibration,
    Scored,
    absolute_loss,
    average_precision,
    lift,
    log_losses,
    ranking_loss,
    resamples,
)


def _drawn(seed: int, rows: int = 60, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(rows) < 0.3).astype(float)
    y[:2] = 0.0, 1.0
    p = np.clip(0.3 * y + 0.7 * rng.random(rows), 0, 1)
    return y, np.round(p, 1) if ties else p


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_measures_are_those_of_scikit_learn(seed: int, ties: bool) -> None:
    y, p = _drawn(seed, ties=ties)
    counts = np.random.default_rng(seed).poisson(1.0, (3, len(y)))
    counts[:, :2] = 1
    scored = Scored(np.zeros(len(y), np.int64), np.arange(len(y)), y, {"p": p})
    found = 1 - ranking_loss(scored, "p", counts.astype(np.float32))
    expected = [roc_auc_score(np.repeat(y, c), np.repeat(p, c)) for c in counts]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert average_precision(y, p) == pytest.approx(average_precision_score(y, p))
    assert log_losses(y, p).mean() == pytest.approx(log_loss(y, np.clip(p, 1e-6, 1 - 1e-6)))


def test_ranks_are_compared_within_folds() -> None:
    y, p = _drawn(0, 80)
    fold = np.repeat([0, 1], 40)
    one = np.ones((1, 80), np.float32)
    plain = ranking_loss(Scored(fold, np.arange(80), y, {"p": p}), "p", one)
    other_scale = ranking_loss(Scored(fold, np.arange(80), y, {"p": p + 5.0 * fold}), "p", one)
    np.testing.assert_allclose(plain, other_scale)


def test_entities_are_drawn_with_all_their_rows() -> None:
    y, p = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 7.0])
    scored = Scored(np.zeros(3, np.int64), np.array([0, 0, 1]), y, {"p": p})
    counts = np.array([[1, 1], [2, 0], [0, 3]], np.float32)
    np.testing.assert_allclose(absolute_loss(scored, "p", counts), [5 / 3, 0.5, 4.0])
    assert resamples(4, 3, 0).shape == (3, 4)


def test_lift_of_the_top_decile() -> None:
    y = np.zeros(100)
    y[:10] = 1.0
    assert lift(y, np.linspace(1, 0, 100)) == pytest.approx(10.0)
    assert lift(y, np.full(100, 0.5)) == pytest.approx(1.0)


def test_acting_pays_from_the_break_even_on() -> None:
    action = Action(saved_value=100.0, cost=10.0, success=0.5)
    assert action.break_even == pytest.approx(0.2)
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    y = (rng.random(200_000) < p).astype(float)
    assert action.best_threshold(y, p) == pytest.approx(0.2, abs=0.03)
    at = np.flatnonzero(THRESHOLDS == 0.5)[0]
    expected = np.where(p >= 0.5, y * 50 - 10, 0).mean()
    assert action.curve(y, p)[at] == pytest.approx(expected)
    assert action.best_threshold(np.zeros(0), np.zeros(0)) == action.break_even
    # Where nobody leaves, nobody is acted on.
    assert action.best_threshold(np.zeros(500), rng.random(500) * 0.9) > 0.85


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_calibration_sets_probabilities_right_and_keeps_their_order(method: str) -> None:
    rng = np.random.default_rng(0)
    truth = rng.beta(2, 5, 20_000)
    y = (rng.random(20_000) < truth).astype(float)
    odds = np.log(truth / (1 - truth))
    said = 1 / (1 + np.exp(-(2 * odds + 1)))  # too sure, and too high
    calibration = Calibration.learn(method, said, y)
    right = calibration.apply(said)
    assert log_losses(y, right).mean() < log_losses(y, said).mean() - 0.04
    assert np.abs(right - truth).mean() < 0.02
    assert (np.diff(right[np.argsort(said)]) >= 0).all()


def test_without_events_probabilities_are_left_as_they_are() -> None:
    p = np.array([0.1, 0.2, 0.3])
    np.testing.assert_array_equal(Calibration.learn("sigmoid", p, np.zeros(3)).apply(p), p)
