import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.metrics import forecast_metrics, mean_test


def test_metrics_by_hand() -> None:
    losses = pl.DataFrame(
        {
            "fold": [0, 0, 0, 0],
            "series_id": ["a", "a", "b", "b"],
            "horizon": [0, 1, 0, 1],
            "y": [10.0, 20.0, 100.0, 200.0],
            "mase_scale": [2.0, 2.0, 20.0, 20.0],
            "reference": [12.0, 18.0, 140.0, 160.0],
            "model": [11.0, 19.0, 110.0, 210.0],
        }
    )
    table = forecast_metrics(losses, ["model"])
    overall = table.row(by_predicate=pl.col("slice") == "overall", named=True)
    assert overall["mae"] == pytest.approx(5.5)
    assert overall["mape"] == pytest.approx(100 * (0.1 + 0.05 + 0.1 + 0.05) / 4)
    assert overall["rmse"] == pytest.approx(np.sqrt((1 + 1 + 100 + 100) / 4))
    assert overall["mase"] == pytest.approx(0.5)
    assert overall["bias"] == pytest.approx(5.0)
    assert overall["relative_mae"] == pytest.approx(np.sqrt(0.5 * 0.25))
    assert table.filter(slice="series")["key"].to_list() == ["a", "b"]
    assert table.filter(slice="horizon", key="1")["mae"].item() == pytest.approx(5.5)


def _autocorrelated(rng: np.random.Generator, n: int, rho: float) -> np.ndarray:
    x = np.empty(n)
    x[0] = rng.normal() / np.sqrt(1 - rho**2)
    for i, e in enumerate(rng.normal(size=n - 1), 1):
        x[i] = rho * x[i - 1] + e
    return x


def test_equal_models_are_rarely_told_apart_although_their_errors_are_autocorrelated() -> None:
    rng = np.random.default_rng(3)
    p = [mean_test(_autocorrelated(rng, 672, 0.9)).p_value for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) <= 0.07


def test_a_true_gain_is_seen() -> None:
    rng = np.random.default_rng(4)
    p = [mean_test(_autocorrelated(rng, 2016, 0.9) + 2.0).p_value for _ in range(50)]
    assert np.mean(np.array(p) < 0.05) > 0.9


def test_hours_of_different_stretches_are_no_neighbours() -> None:
    rng = np.random.default_rng(5)
    x = np.concatenate([_autocorrelated(rng, 168, 0.9) for _ in range(6)])
    apart = mean_test(x, np.repeat(np.arange(6), 168))
    assert apart.statistic != mean_test(x).statistic
    assert mean_test(np.zeros(100)).p_value == 0.5
