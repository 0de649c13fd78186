"""Segments of customers by the shape of their day: preparation, recipes, and the model that they make.

A shape is 48 shares: of a working day's energy by hour (h00 to h23), then of a day off (w00 to w23); each 24 sum to
one. A recipe prepares them, reduces them to principal components, and parts them; the number of parts is found. What a
part is called, and that it keeps its number, is the affair of :mod:`lakehouse_assets.ml.labels`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.clusters import silhouette
from lakehouse_assets.ml.definition import ALL, TooLittleHistory

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
HOURS = 24
SHAPE = tuple(f"{day}{hour:02d}" for day in "hw" for hour in range(HOURS))
"""The columns of a shape: working days, then days off."""
LEAST_CUSTOMERS = 20
"""With fewer there is nothing to part."""
AS_CLEAR = 0.02
"""Numbers of segments whose silhouettes differ by no more are equally good; then the elbow decides."""
_LEAST_SHARE = 0.1 / HOURS
"""Smaller shares are taken as this one before their logarithm: nobody's nights differ by what a clock uses."""
_FAR = 3.0
"""So many times as far from all centres as 99 of 100 customers are, a shape belongs to no segment."""
_STARTS = 4

Preparation = Literal["shares", "log_shares"]


def complete(shapes: Array) -> npt.NDArray[np.bool_]:
    """(N,) which of the shapes (N, 48) have all their hours."""
    return np.asarray(np.isfinite(shapes).all(axis=1))


def prepared(shapes: Array, preparation: Preparation) -> Array:
    """Shapes (N, 48) as what distances are taken of: relative to an even day; or centred logarithms of that.

    The second is the centred log ratio of compositions (Aitchison, 1986), of working days and days off each.
    """
    if preparation == "shares":
        return shapes * HOURS
    logs = np.log(np.maximum(shapes, _LEAST_SHARE)).reshape(len(shapes), 2, HOURS)
    return (logs - logs.mean(axis=2, keepdims=True)).reshape(len(shapes), 2 * HOURS)


@dataclass(frozen=True)
class Parts:
    """A partition of the space of the principal components.

    mean (48,), components (q, 48): of the prepared shapes. centres (k, q). variances (k, q), offsets (k,): of a
    mixture, whose distances they scale and shift; ones and zeros otherwise.
    """

    preparation: Preparation
    mean: Array
    components: Array
    centres: Array
    variances: Array
    offsets: Array

    def scores(self, shapes: Array) -> Array:
        """(N, q) the principal components of shapes (N, 48)."""
        # Not by BLAS, so that a shape's scores do not depend on which others are with it.
        return np.einsum("nf,qf->nq", prepared(shapes, self.preparation) - self.mean, self.components)

    def distances(self, shapes: Array) -> Array:
        """(N, k) how far shapes (N, 48) are from each centre.

        Euclidean; of a mixture the root of twice the negative logarithm of weight times density, above the least that
        there can be: the smallest is of the likeliest part.
        """
        apart = self.scores(shapes)[:, None, :] - self.centres
        return np.sqrt((apart**2 / self.variances).sum(axis=2) + self.offsets)

    def strangeness(self, shapes: Array) -> Array:
        """(N,) the Euclidean distance of prepared shapes (N, 48) from the nearest centre, in all their directions."""
        scores = self.scores(shapes)
        near = ((scores[:, None, :] - self.centres) ** 2).sum(axis=2).min(axis=1)
        whole = ((prepared(shapes, self.preparation) - self.mean) ** 2).sum(axis=1)
        return np.asarray(np.sqrt(near + np.maximum(whole - (scores**2).sum(axis=1), 0.0)))

    def of(self, order: Labels) -> "Parts":
        """The parts in another order."""
        return Parts(
            self.preparation,
            self.mean,
            self.components,
            self.centres[order],
            self.variances[order],
            self.offsets[order],
        )


@dataclass(frozen=True)
class Curve:
    """What each number of segments that was tried is worth: silhouettes, and the sum of squares within (inertia)."""

    numbers: list[int]
    silhouettes: list[float]
    inertias: list[float]

    @property
    def elbow(self) -> int:
        """The number from which on more segments help least: farthest below the chord of the curve of inertia.

        Satopää et al. (2011), Finding a "kneedle" in a haystack.
        """
        x, y = (np.asarray(v, float) for v in (self.numbers, self.inertias))
        spans = np.ptp(x) or 1.0, np.ptp(y) or 1.0
        below = 1 - (x - x[0]) / spans[0] - (y - y[-1]) / spans[1]
        return self.numbers[int(below.argmax())]

    @property
    def chosen(self) -> int:
        """Of the numbers that are as clear as the clearest by silhouette, the nearest to the elbow."""
        best = max(self.silhouettes)
        clear = [n for n, s in zip(self.numbers, self.silhouettes, strict=True) if s >= best - AS_CLEAR]
        return min(clear, key=lambda n: (abs(n - self.elbow), n))


@dataclass(frozen=True)
class Segments(ABC):
    """A recipe: how shapes are prepared, reduced and parted; most: segments at most."""

    preparation: Preparation = "shares"
    most: int = 10

    def parameters(self) -> dict[str, Any]:
        """JSON-able parameters."""
        return {"recipe": type(self).__name__, **asdict(self)}

    def learn(self, shapes: Array, seed: int, number: int | None = None) -> tuple[Parts, Curve]:
        """Part complete shapes (N, 48), the largest part first; number: of parts, found where none is given.

        Raises TooLittleHistory with fewer than ``LEAST_CUSTOMERS``, ValueError where all shapes are alike.
        """
        from threadpoolctl import threadpool_limits

        if len(shapes) < LEAST_CUSTOMERS:
            raise TooLittleHistory(
                f"{len(shapes)} customers have a complete load shape; segments take {LEAST_CUSTOMERS}: land more "
                "customers, or more of their months"
            )
        x = prepared(shapes, self.preparation)
        if np.ptp(x, axis=0).max() < 1e-9:
            raise ValueError(f"the load shapes of all {len(shapes)} customers are the same: there is nothing to part")
        with threadpool_limits(1):
            mean, kept = components(x, seed)
            scores = (x - mean) @ kept.T
            distinct = len(np.unique(scores.round(9), axis=0))
            numbers = [number] if number else list(range(2, max(2, min(self.most, distinct - 1)) + 1))
            tried = {n: self._part(scores, n, seed) for n in numbers}
            labels = {n: _nearest(scores, *parts) for n, parts in tried.items()}
            curve = Curve(
                numbers,
                [silhouette(scores, labels[n], seed) for n in numbers],
                [_inertia(scores, labels[n]) for n in numbers],
            )
        chosen = number or curve.chosen
        parts = Parts(self.preparation, mean, kept, *tried[chosen])
        sizes = np.bincount(labels[chosen], minlength=chosen)
        return parts.of(np.argsort(-sizes, kind="stable")), curve

    @abstractmethod
    def _part(self, scores: Array, number: int, seed: int) -> tuple[Array, Array, Array]:
        """Centres, variances and offsets of so many parts."""


@dataclass(frozen=True)
class KMeansSegments(Segments):
    """k-means on the principal components."""

    def _part(self, scores: Array, number: int, seed: int) -> tuple[Array, Array, Array]:
        from sklearn.cluster import KMeans

        centres = KMeans(number, n_init=_STARTS, random_state=seed).fit(scores).cluster_centers_
        return centres, np.ones_like(centres), np.zeros(number)


@dataclass(frozen=True)
class MixtureSegments(Segments):
    """A mixture of Gaussians on the principal components, each with a variance of its own in each of them."""

    def _part(self, scores: Array, number: int, seed: int) -> tuple[Array, Array, Array]:
        from sklearn.mixture import GaussianMixture

        # No part narrower than a hundredth of the whole: else a few that are alike would be one.
        least = 0.01 * float(scores.var(axis=0).mean())
        found = GaussianMixture(number, covariance_type="diag", reg_covar=least, max_iter=200, random_state=seed).fit(
            scores
        )
        offsets = np.log(found.covariances_).sum(axis=1) - 2 * np.log(found.weights_)
        return found.means_, found.covariances_, offsets - offsets.min()


def components(x: Array, seed: int) -> tuple[Array, Array]:
    """Mean (48,) and principal components (q, 48) of prepared shapes (N, 48): by parallel analysis (Horn, 1965).

    Kept are those with more variance than the same of a sample in which every column is permuted by itself, two at
    least. The others are chance, in which what customers have in common would drown.
    """
    from sklearn.decomposition import PCA

    pca = PCA(svd_solver="full").fit(x)
    by_chance = PCA(svd_solver="full").fit(np.random.default_rng(seed).permuted(x, axis=0)).explained_variance_
    telling = max(2, int(np.append(pca.explained_variance_ > by_chance, False).argmin()))
    return pca.mean_, np.ascontiguousarray(pca.components_[:telling])


def _nearest(scores: Array, centres: Array, variances: Array, offsets: Array) -> Labels:
    apart = ((scores[:, None, :] - centres) ** 2 / variances).sum(axis=2) + offsets
    return apart.argmin(axis=1)


def _inertia(points: Array, labels: Labels) -> float:
    """Sum of squared distances of points to the mean of their part."""
    return float(sum(((points[labels == one] - points[labels == one].mean(axis=0)) ** 2).sum() for one in set(labels)))


# --- the fitted model -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """What a model learned from, part by part: sizes (k,); mean, low and high shapes (k, 48), the middle 80 of 100."""

    sizes: list[int]
    mean: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, shapes: Array, labels: Labels, number: int) -> "Profile":
        """Of shapes (N, 48) with labels (N,); a part without any is NaN."""
        mean, low, high = (np.full((number, shapes.shape[1]), np.nan) for _ in range(3))
        for k in set(labels.tolist()):
            mine = shapes[labels == k]
            mean[k] = mine.mean(axis=0)
            low[k], high[k] = np.quantile(mine, [0.1, 0.9], axis=0)
        return cls(np.bincount(labels, minlength=number).tolist(), mean, low, high)


@dataclass(frozen=True)
class Reference:
    """The months that a model learned from, as it sees them: what drift is measured by.

    shares: (M, k + 1) of the customers by segment, the last of those in none. distance: (M,) mean, to the own centre.
    """

    months: list[datetime]
    shares: Array
    distance: Array


@dataclass(frozen=True)
class FittedSegments:
    """A fitted recipe: the segments with their numbers and names, and what they were learned from.

    limit: of the strangeness of a shape that belongs to a segment. sample: (n, q) principal components of some
    customers, and sample_labels their parts, for the map. model_version: told with the predictions, where it is known.
    """

    name: str
    recipe: Segments
    trained_at: datetime
    seed: int
    parts: Parts
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    limit: float
    curve: Curve = field(repr=False)
    profile: Profile = field(repr=False)
    reference: Reference = field(repr=False)
    sample: Array = field(repr=False)
    sample_labels: Labels = field(repr=False)
    model_version: int | None = None

    @property
    def series_ids(self) -> list[str]:
        """One model serves everybody."""
        return [ALL]

    @property
    def feature_names(self) -> list[str]:
        """The 48 shares."""
        return list(SHAPE)

    @property
    def called(self) -> Mapping[int, str]:
        """Number -> name."""
        return dict(zip(self.numbers, self.names, strict=True))

    def parameters(self) -> dict[str, Any]:
        """JSON-able parameters."""
        return {
            **self.recipe.parameters(),
            "segments": len(self.numbers),
            "names": ", ".join(f"{number}: {name}" for number, name in self.called.items()),
            "customers": sum(self.profile.sizes),
            "seed": self.seed,
        }

    def predict(self, data: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
        """The nearest segment of each row of the feature table, in the order of the rows; none where none is near.

        Returns as_of, customer_id, segment, segment_name, distance, margin, runner_up, runner_up_distance, reason.
        """
        rows = data.lazy().select("as_of", "customer_id", *SHAPE).collect()
        shapes = rows.select(SHAPE).cast(pl.Float64).fill_null(np.nan).to_numpy()
        there = complete(shapes)
        distances = np.full((len(shapes), len(self.numbers)), np.nan)
        distances[there] = self.parts.distances(shapes[there])
        strange = np.full(len(shapes), np.nan)
        strange[there] = self.parts.strangeness(shapes[there])
        order = np.argsort(distances, axis=1, kind="stable")[:, :2]
        near, second = np.take_along_axis(distances, order, axis=1).T
        inside = strange <= self.limit  # NaN is not
        known = [int(hours) for hours in np.isfinite(shapes).sum(axis=1)]
        reasons = [
            None
            if ok
            else f"no complete load shape: {hours} of {len(SHAPE)} hours are known"
            if hours < len(SHAPE)
            else f"unlike any segment: {far / self.limit * _FAR:.1f} times as far from one as 99 of 100 are"
            for ok, hours, far in zip(inside.tolist(), known, strange.tolist(), strict=True)
        ]
        numbers, mine = np.array(self.numbers, np.int64), pl.lit(pl.Series(inside))
        version = {} if self.model_version is None else {"model_version": pl.lit(self.model_version, pl.Int64)}
        return rows.select(
            "as_of",
            "customer_id",
            segment=pl.when(mine).then(pl.Series(numbers[order[:, 0]])),
            segment_name=pl.when(mine).then(pl.Series([self.names[k] for k in order[:, 0]], dtype=pl.String)),
            distance=pl.Series(near, nan_to_null=True),
            margin=pl.when(mine).then(pl.Series(1 - near / np.maximum(second, 1e-300), nan_to_null=True)),
            runner_up=pl.when(mine).then(pl.Series(numbers[order[:, 1]])),
            runner_up_distance=pl.Series(second, nan_to_null=True),
            reason=pl.Series(reasons, dtype=pl.String),
            **version,
        )


def _known(rows: pl.DataFrame) -> pl.DataFrame:
    shapes = rows.select("customer_id", pl.col(SHAPE).cast(pl.Float64))
    return shapes.filter(pl.all_horizontal(pl.col(SHAPE).is_finite()).fill_null(False))


def complete_shapes(rows: pl.DataFrame) -> Array:
    """The complete shapes (N, 48) of rows of the feature table."""
    return _known(rows).select(SHAPE).to_numpy()


def usual_shapes(rows: pl.DataFrame) -> tuple[list[str], Array]:
    """Customers, sorted, and the medians (N, 48) of the complete shapes in their rows; those without are left out.

    The mean of one who became another would be of neither.
    """
    usual = _known(rows).group_by("customer_id").agg(pl.col(SHAPE).median()).sort("customer_id")
    return usual["customer_id"].to_list(), usual.select(SHAPE).to_numpy()


def limit_of(parts: Parts, shapes: Array) -> float:
    """The limit of strangeness: ``_FAR`` times that which 99 of 100 of these shapes keep below."""
    return _FAR * float(np.quantile(parts.strangeness(shapes), 0.99))
