import pickle
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from lakehouse_assets.ml.deep import Deep, DeepFit
from lakehouse_assets.ml.estimators import Ridge
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets.ml.panel import DAY_US, Panel
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

pytest.importorskip("torch")
SMALL = Deep(width=32, epochs=10, batch=32, learning_rate=5e-3, patience=10)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return Panel.from_frame(feature_frame(*load_curves(6, 160)))


@pytest.fixture(scope="module")
def cutoff(panel: Panel) -> int:
    return int(panel.issued[-14])


@pytest.fixture(scope="module")
def fit(panel: Panel, cutoff: int) -> DeepFit:
    return SMALL.fit(panel, [cutoff], 1)[0]  # type: ignore[return-value]


def mae(forecast: np.ndarray, panel: Panel) -> np.ndarray:
    """By series, relative to its size."""
    return np.abs(forecast - panel.target).mean(axis=(1, 2)) / panel.target.mean(axis=(1, 2))


def test_it_corrects_what_is_published_and_forecasts_where_nothing_is(panel: Panel, cutoff: int, fit: DeepFit) -> None:
    weeks = panel.between(cutoff, cutoff + 14 * DAY_US)
    forecast = fit.predict(weeks)
    assert (mae(forecast, weeks) < 0.7 * mae(weeks.full("published_forecast"), weeks)).all()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fit)).predict(weeks), forecast)
    np.testing.assert_array_equal(fit.predict(weeks.take(slice(2, 4), slice(3, 4))), forecast[2:4, 3:4])

    silent = replace(weeks, columns={**weeks.columns, "published_forecast": np.full(weeks.shape, np.nan, np.float32)})
    assert (mae(fit.predict(silent), weeks) < 0.2).all()
    bare = Panel.from_frame(feature_frame(load_curves(6, 160)[0]))
    (alone,) = SMALL.fit(bare, [cutoff], 1)
    weeks = bare.between(cutoff, cutoff + 14 * DAY_US)
    assert (mae(alone.predict(weeks), weeks) < mae(weeks.full("lag_168h"), weeks)).all()


def test_a_fit_knows_nothing_that_came_after_its_cutoff(panel: Panel, cutoff: int, fit: DeepFit) -> None:
    later = panel.issued >= cutoff
    target = np.where((panel.known_at > cutoff), panel.target * 3 + 1, panel.target)
    columns = {
        name: np.where(later[:, None] if column.ndim == 3 else later, column * 2, column).astype(np.float32)
        for name, column in panel.columns.items()
    }
    other = SMALL.fit(replace(panel, target=target, columns=columns), [cutoff, int(panel.issued[-1])], 1)[0]
    past = panel.between(cutoff - 14 * DAY_US, cutoff)
    np.testing.assert_array_equal(other.predict(past), fit.predict(past))


def test_a_fit_serves_for_a_while_but_never_before_its_time(panel: Panel) -> None:
    recipe = replace(SMALL, refit_days=14, epochs=1)
    fits = recipe.fit(panel, [int(panel.issued[i]) for i in (60, 67, 74, 81, 88)], 0)
    first = [next(i for i, other in enumerate(fits) if other is found) for found in fits]
    assert first == [0, 0, 2, 2, 4]


def test_samples_of_shards_make_one_fit_with_bounded_rows(panel: Panel, cutoff: int) -> None:
    recipe = replace(SMALL, rows=120, epochs=2)
    shards = [panel.take(slice(0, 4)), panel.take(slice(4, 6))]
    samples = [recipe.sample(shard, [cutoff], 0, len(shard.series) / 6) for shard in shards]
    assert [[len(rows) for rows in sample.members] for sample in samples] == [[80], [40]]
    (found,) = recipe.fit_samples([pickle.loads(pickle.dumps(sample)) for sample in samples], [cutoff], 0)
    assert sorted(found.members) == [f"S{i}" for i in range(6)]  # type: ignore[attr-defined]
    assert np.isfinite(found.predict(panel)).all()


def test_a_series_that_nobody_has_seen_is_forecast(panel: Panel, cutoff: int) -> None:
    (found,) = SMALL.fit(panel.take(slice(0, 4)), [cutoff], 1)
    new = panel.between(cutoff, cutoff + 14 * DAY_US).take(slice(4, 6))
    assert (mae(found.predict(new), new) < 0.05).all()


def test_other_features_are_an_error_and_no_history_is_none(panel: Panel, cutoff: int, fit: DeepFit) -> None:
    fewer = replace(panel, columns={n: c for n, c in panel.columns.items() if n != "lag_24h"})
    with pytest.raises(ValueError, match="differ in lag_24h"):
        fit.predict(fewer)
    (none,) = SMALL.fit(panel, [int(panel.issued[0])], 0)
    assert np.isnan(none.predict(panel)).all()


def test_it_competes_and_its_curve_is_told_and_drawn(panel: Panel, cutoff: int) -> None:
    kind = Forecast(spread=1, recent=1)
    candidates = {"ridge_on_published": Ridge(on_published=True), "deep": replace(SMALL, epochs=4)}
    at = datetime.fromtimestamp(cutoff / 1e6, UTC)
    result = kind.backtest(panel, candidates, cutoff=at, seed=1)
    assert {"deep", "ridge_on_published"} <= set(result.summary())
    assert set(result.curves) == {"deep"}
    assert [set(epoch) for epoch in result.curves["deep"]] == [{"training_loss", "validation_loss"}] * 4
    drawn = kind.pictures(result)
    assert drawn["training_deep"].startswith(b"\x89PNG")
    week = panel.between(cutoff, cutoff + 7 * DAY_US)
    (fresh,) = candidates["deep"].fit(panel, [cutoff], 1)  # type: ignore[attr-defined]
    np.testing.assert_allclose(result.fitted["deep"].forecast(week), fresh.predict(week))  # type: ignore[attr-defined]
