import pickle
import sys
from functools import partial

import numpy as np
import pytest

from lakehouse_assets.ml import network
from lakehouse_assets.ml.network import ResidualNetwork

SMALL = partial(ResidualNetwork, width=16, traits=4, batch=64, epochs=12, learning_rate=1e-2)
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def torch() -> object:
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def data() -> Data:
    """Rows of three members who bend the same inputs each in their own way; the last fifth is for validation."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 5)).astype(np.float32)
    member = np.arange(1500) % 3
    bent = np.abs(x[:, 0]) * np.array([1.0, -1.0, 2.0])[member]
    y = (np.stack([bent, bent + x[:, 1]], axis=1) * np.array([1.0, 10.0, 100.0])[member, None]).astype(np.float32)
    x[rng.random(x.shape) < 0.02] = np.nan
    y[::50, 1] = np.nan
    return x, y, member, np.arange(1500) >= 1200


@pytest.fixture(scope="module")
def fitted(torch: object, data: Data) -> ResidualNetwork:
    return SMALL().fit(*data)


def error(said: np.ndarray, data: Data) -> np.ndarray:
    """Each member's absolute error in the validation rows, in units of its targets."""
    _, y, member, validation = data
    return np.array(
        [
            np.nanmean(np.abs(said - y)[m]) / np.nanmean(np.abs(y[m]))
            for m in (validation & (member == k) for k in range(3))
        ]
    )


def test_it_bends_and_tells_members_apart_whatever_their_size(fitted: ResidualNetwork, data: Data) -> None:
    x, _, member, _ = data
    assert (error(fitted.predict(x, member), data) < 0.25).all()
    assert error(fitted.predict(x, (member + 1) % 3), data).min() > 0.5


def test_the_weights_are_those_of_the_best_epoch(fitted: ResidualNetwork, data: Data) -> None:
    x, y, member, validation = data
    unit = fitted.unit_[member][:, None]
    loss = np.nanmean((np.abs(fitted.predict(x, member) - y) / unit)[validation])
    told = [epoch["validation_loss"] for epoch in fitted.curve_]
    assert loss == pytest.approx(min(told), rel=1e-4)
    assert fitted.curve_[-1]["training_loss"] < 0.5 * fitted.curve_[0]["training_loss"]


def test_training_stops_when_validation_does_not_gain(torch: object, data: Data) -> None:
    x, y, member, validation = data
    noise = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    stopped = SMALL(epochs=40, patience=2).fit(x, noise, member, validation)
    told = [epoch["validation_loss"] for epoch in stopped.curve_]
    assert len(told) == int(np.argmin(told)) + 1 + 2 < 40


def test_validation_rows_teach_nothing_but_when_to_stop(torch: object, data: Data) -> None:
    x, y, member, validation = data
    other = np.where(validation[:, None], y * 100 + 7, y)
    first, second = (SMALL(epochs=1).fit(x, targets, member, validation) for targets in (y, other))
    np.testing.assert_array_equal(first.predict(x, member), second.predict(x, member))


def test_the_same_seed_gives_the_same_bits_and_leaves_the_settings_alone(torch, fitted, data: Data) -> None:  # type: ignore[no-untyped-def]
    x, _, member, _ = data
    torch.set_num_threads(1)
    torch.manual_seed(5)
    again = SMALL().fit(*data)
    np.testing.assert_array_equal(again.predict(x, member), fitted.predict(x, member))
    assert not np.array_equal(SMALL(seed=1).fit(*data).predict(x, member), fitted.predict(x, member))
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()


def test_numpy_says_what_pytorch_says_row_by_row(torch, fitted: ResidualNetwork, data: Data) -> None:  # type: ignore[no-untyped-def]
    x, _, member, _ = data
    weights = {name: torch.from_numpy(value) for name, value in fitted.weights_.items()}
    inputs = torch.from_numpy(fitted.scale_.apply(x))
    said = network._forward(torch, weights, inputs, torch.from_numpy(member)).numpy() * fitted.unit_[member][:, None]
    whole = fitted.predict(x, member)
    np.testing.assert_allclose(whole, said, rtol=1e-3, atol=1e-3)
    for i in (0, 7, 1499):
        np.testing.assert_array_equal(fitted.predict(x[i : i + 1], member[i : i + 1]), whole[i : i + 1])


def test_an_unknown_member_is_an_average_one(fitted: ResidualNetwork, data: Data) -> None:
    x, _, member, _ = data
    said = fitted.predict(x, np.full(len(x), -1))
    assert np.isfinite(said).all()
    np.testing.assert_array_equal(said, fitted.predict(x, np.full(len(x), 99)))
    np.testing.assert_array_equal(said, fitted.predict(x))
    assert not np.array_equal(said, fitted.predict(x, member))


def test_without_pytorch_a_fitted_one_predicts_and_a_new_one_says_what_is_missing(
    fitted: ResidualNetwork, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, member, _ = data
    said = fitted.predict(x, member)
    monkeypatch.setitem(sys.modules, "torch", None)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(x, member), said)
    with pytest.raises(ModuleNotFoundError, match=r"torch is not installed: pip install 'lakehouse-assets\[deep\]'"):
        SMALL().fit(x, y)


def test_scikit_learn_takes_it_for_an_estimator() -> None:
    from sklearn.base import clone

    copied = clone(SMALL(seed=3))
    assert copied.get_params() == SMALL(seed=3).get_params()
    assert copied.set_params(width=8).width == 8
    with pytest.raises(ValueError, match="no such parameter: depth; there are width"):
        copied.set_params(depth=3)
    with pytest.raises(ValueError, match="not been fitted"):
        copied.predict(np.zeros((1, 2), np.float32))


def test_nothing_to_learn_from_is_said(torch: object, data: Data) -> None:
    x, y, _, _ = data
    with pytest.raises(ValueError, match="nothing to learn from"):
        SMALL().fit(x, np.full_like(y, np.nan))
