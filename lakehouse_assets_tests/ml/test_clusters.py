import numpy as np

from lakehouse_assets.ml.clusters import learn_clusters, load_shapes, mean_shapes
from lakehouse_assets.ml.panel import Panel
from lakehouse_assets_tests.ml.frames import feature_frame

HOURS = np.arange(24)


def shapes_of(*centres: np.ndarray, each: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([centre + rng.normal(0, 0.02, (each, 24)) for centre in centres])


def test_the_number_of_clusters_is_found() -> None:
    office = 1 + 0.5 * ((HOURS > 8) & (HOURS < 18))
    evening = 1 + 0.5 * (HOURS > 18)
    night = 1 + 0.5 * (HOURS < 5)
    shapes = shapes_of(office, evening, night)
    clusters = learn_clusters(shapes, 0)
    assert len(clusters.centres) == 3
    labels = clusters.assign(shapes).reshape(3, -1)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0])) == 3
    np.testing.assert_array_equal(learn_clusters(shapes, 0).centres, clusters.centres)


def test_alike_few_or_unknown_series_are_one_cluster() -> None:
    flat = np.ones((20, 24))
    assert len(learn_clusters(flat, 0).centres) == 1
    assert len(learn_clusters(shapes_of(np.ones(24), each=4), 0).centres) == 1
    unknown = np.full((20, 24), np.nan)
    assert learn_clusters(unknown, 0).assign(unknown).tolist() == [0] * 20


def test_a_shape_is_that_of_the_local_day_whatever_the_size() -> None:
    day = np.tile(100 + 50 * (HOURS == 18), 60)
    panel = Panel.from_frame(feature_frame(np.stack([day, 7.0 * day, np.full(day.size, np.nan)])))
    shapes = mean_shapes(load_shapes(panel))
    np.testing.assert_allclose(shapes[0], shapes[1], rtol=1e-6)
    assert shapes[0].argmax() == 18
    assert np.isnan(shapes[2]).all()
    panel.columns["hour"] = (panel.full("hour") + 3) % 24
    assert mean_shapes(load_shapes(panel))[0].argmax() == 21
