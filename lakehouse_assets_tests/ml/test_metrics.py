import numpy as np
import polars as pl
import pytest
from scipy.signal import lfilter
from scipy.stats import false_discovery_control

from lakehouse_assets.ml.metrics import benjamini_hochberg, forecast_metrics, mean_test, mean_tests


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


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_equal_models_are_rarely_told_apart_although_their_errors_are_autocorrelated(rho: float) -> None:
    rng = np.random.default_rng(3)
    p = mean_tests(_autocorrelated(rng, 3000, 672, rho)).p_value
    # Three standard errors of a rate of 5 %; from below, too: a test that never speaks holds its level trivially.
    assert abs(np.mean(p < 0.05) - 0.05) < 0.012
    assert abs(np.mean(p > 0.95) - 0.05) < 0.012


def test_a_true_gain_is_seen() -> None:
    p = mean_tests(_autocorrelated(np.random.default_rng(4), 200, 2016, 0.9) + 2.0).p_value
    assert np.mean(p < 0.05) > 0.9


def test_a_weekly_rhythm_is_neither_noise_nor_evidence() -> None:
    x = _autocorrelated(np.random.default_rng(5), 1, 2016, 0.5)
    rhythm = np.tile(np.sin(2 * np.pi * np.arange(168) / 168), 12)
    quiet, swinging = mean_test(x[0] + 0.2), mean_test(x[0] + 0.2 + 5 * rhythm)
    assert swinging.p_value == pytest.approx(quiet.p_value, rel=0.1)


def test_a_row_is_tested_as_if_alone_and_gaps_are_left_out() -> None:
    rng = np.random.default_rng(6)
    x = _autocorrelated(rng, 4, 800, 0.5) + 0.1
    gaps = np.where(rng.random(x.shape) < [[0.0], [0.3], [0.3], [0.995]], np.nan, x)
    together = mean_tests(gaps)
    for i, row in enumerate(gaps):
        alone = mean_test(row[np.isfinite(row)])
        assert alone.n == together.n[i] == np.isfinite(row).sum()
        assert alone.mean == pytest.approx(together.mean[i])
        assert together.p_value[i] == pytest.approx(alone.p_value) or alone.n < 8
    assert np.isnan(together.p_value[3])
    assert mean_test(gaps[3]).p_value == 0.5


def test_what_does_not_vary_is_certain() -> None:
    p = mean_tests(np.array([[0.0] * 100, [0.1] * 100, [-0.1] * 100])).p_value
    assert p.tolist() == [0.5, 0.0, 1.0]


def _autocorrelated(rng: np.random.Generator, rows: int, n: int, rho: float) -> np.ndarray:
    """Stationary AR(1) rows with innovations of variance one."""
    e = rng.normal(size=(rows, n))
    e[:, 0] /= np.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], e, axis=1)


def test_benjamini_hochberg_is_scipys() -> None:
    p = np.random.default_rng(0).uniform(size=50) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p))
    assert np.isnan(benjamini_hochberg(np.array([np.nan, 0.01]))[0])
