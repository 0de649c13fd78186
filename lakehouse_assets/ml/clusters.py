"""Clusters of series by the shape of their day: k-means on principal components, the number by silhouette.

The shape of a series is its mean day of the latest week relative to its level, by hour of day. It is read off the
lags of an issue time alone, so that a series which nobody has seen before has one on its first day.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.estimators import Array, day_lags, level
from lakehouse_assets.ml.panel import Panel

HOURS = 24
_SILHOUETTE_SERIES = 1000
"""Series by which the number of clusters is chosen: the silhouette costs the square of them."""


def load_shapes(panel: Panel) -> Array:
    """(S, D, 24) the mean of the last seven days relative to the level, by local hour of day; NaN where unknown."""
    lags = [values for hours, values in day_lags(panel) if hours <= 168]
    s, d, h = panel.shape
    if not lags:
        return np.full((s, d, HOURS), np.nan)
    stacked = np.stack(lags)
    known = np.isfinite(stacked)
    mean = np.where(known, stacked, 0.0).sum(axis=0, dtype=np.float64) / np.where(
        known.any(axis=0), known.sum(0), np.nan
    )
    relative = np.clip(mean / level(panel)[:, :, None], -3.0, 5.0)
    hour = panel.full("hour") if "hour" in panel.columns else np.broadcast_to(np.arange(h) % HOURS, panel.shape)
    out = np.full((s, d, HOURS), np.nan)
    for k in range(HOURS):
        mine = (hour == k) & np.isfinite(relative)
        count = mine.sum(axis=2)
        out[:, :, k] = np.where(mine, relative, 0.0).sum(axis=2) / np.where(count > 0, count, np.nan)
    return out


def mean_shapes(shapes: Array) -> Array:
    """(S, 24) the mean of each series' shapes (S, D, 24) over its issue times; NaN where there is none."""
    known = np.isfinite(shapes)
    return np.where(known, shapes, 0.0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)


@dataclass(frozen=True)
class Clusters:
    """Centres (k, q) in the space of the components (q, 24) about the fleet's mean shape (24,)."""

    mean: Array
    components: Array
    centres: Array

    def assign(self, shapes: Array) -> npt.NDArray[np.int64]:
        """The nearest cluster of each shape (..., 24); an hour that is unknown is taken as the fleet's."""
        centred = np.where(np.isfinite(shapes), shapes - self.mean, 0.0)
        # Component by component, so that a shape's cluster does not depend on which others are assigned with it.
        scores = np.stack([(centred * component).sum(axis=-1) for component in self.components], axis=-1)
        return ((scores[..., None, :] - self.centres) ** 2).sum(axis=-1).argmin(axis=-1)


def silhouette(points: Array, labels: npt.NDArray[np.int64], seed: int) -> float:
    """Mean silhouette of points (N, q) with labels (N,), of a sample: how much nearer they are to their own cluster.

    From -1 to 1 (Rousseeuw, 1987); -1 where there is one cluster only, or a point each.
    """
    from sklearn.metrics import silhouette_score

    sample = np.random.default_rng(seed).permutation(len(points))[:_SILHOUETTE_SERIES]
    if not 1 < len(np.unique(labels[sample])) < len(sample):
        return -1.0
    return float(silhouette_score(points[sample], labels[sample]))


def learn_clusters(shapes: Array, seed: int, most: int = 8) -> Clusters:
    """Clusters of shapes (S, 24); their number, 1 to ``most``, is that of the best silhouette.

    Principal components first, as many as hold 95 % of the variance. One cluster for fewer than six series with a
    shape, or where all are alike.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    known = np.isfinite(shapes)
    some = known.any(axis=1)
    mean = np.where(known, shapes, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    x = np.where(known, shapes - mean, 0.0)[some]
    one = Clusters(mean, np.zeros((1, HOURS)), np.zeros((1, 1)))
    if len(x) < 6 or np.ptp(x, axis=0).max() < 1e-9:
        return one
    with threadpool_limits(1):
        pca = PCA(n_components=0.95, svd_solver="full").fit(x)
        scores = pca.transform(x)
        best, most_clear = None, 0.0
        for k in range(2, min(most, len(x) // 2, len(np.unique(scores.round(9), axis=0)) - 1) + 1):
            means = KMeans(k, n_init=4, random_state=seed).fit(scores)
            clear = silhouette(scores, means.labels_, seed)
            if clear > most_clear:
                best, most_clear = means, clear
    if best is None:
        return one
    return Clusters(mean + pca.mean_, pca.components_, best.cluster_centers_)
