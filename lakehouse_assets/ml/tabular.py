"""Regressors of any family on one table of features: trees, forests, neighbours, support vectors, perceptrons.

A row is a series, an issue time and a step; its features and its target are relative to the level of the series, so
that one model may learn from all of them. What a family brings is its parameters and a regressor. ``scope`` says who
learns together: all series (``global``), each cluster of series with a like day (``cluster``), or each by itself
(``series``). Costs are bounded: a model learns from at most ``rows`` rows of the latest ``window_days``; a cutoff
within ``refit_days`` of the latest fit uses that one (never a newer one), except that the last always has its own.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.clusters import Clusters, learn_clusters, load_shapes, mean_shapes
from lakehouse_assets.ml.estimators import (
    CHUNK_BYTES,
    MINIMUM_ROWS,
    PUBLISHED,
    Array,
    Boosting,
    _boosting_base,
    _Parameters,
    check_names,
    own_cutoffs,
)
from lakehouse_assets.ml.panel import DAY_US, Panel

Rows = npt.NDArray[np.float32]
Scope = Literal["global", "cluster", "series"]
CLIP = (-0.7, 1.5)
"""Bounds of a target and of a forecast, relative to the level: one slip of the decimal point must not rule a fit."""


class Regressor(Protocol):
    """What a family brings."""

    def fit(self, x: Rows, y: Rows) -> Any:
        """Learn from rows (N, p) and their targets (N,)."""
        ...

    def predict(self, x: Rows) -> np.ndarray:
        """(N,) targets of rows (N, p)."""
        ...


@dataclass(frozen=True)
class Sample:
    """What some series contribute to a pooled fit.

    names: of the features. x: (N, p) rows; y: (N,) targets; code: (N,) places of their series among ``series``.
    members: for each cutoff that has its own fit, the rows that it learns from. shapes: for each of them the load
    shapes (S, 24), where clusters ask for them. on_published: whether y is the error of the published forecast.
    """

    names: list[str]
    x: Rows
    y: Rows
    code: npt.NDArray[np.int32]
    series: list[str]
    members: list[npt.NDArray[np.int64]]
    shapes: list[Array]
    on_published: bool


def design(panel: Panel, scaled: bool) -> tuple[list[str], Rows]:
    """The features' names and the matrix (S, D, H, p): relative to the level, within a million, or NaN.

    scaled: hours as a circle and weekdays one by one, for those who take their distances for what they are.
    """
    names, x = Boosting().design(panel)
    x[~np.isfinite(x)] = np.nan
    np.clip(x, -1e6, 1e6, out=x)
    if scaled:
        more: list[tuple[str, np.ndarray]] = []
        if "hour" in names:
            angle = 2 * np.pi / 24 * x[..., names.index("hour")]
            more += [("hour_sin", np.sin(angle)), ("hour_cos", np.cos(angle))]
        if "day_of_week" in names:
            more += [(f"day_of_week={k}", x[..., names.index("day_of_week")] == k) for k in range(1, 8)]
        kept = [j for j, name in enumerate(names) if name not in ("hour", "day_of_week")]
        x = np.concatenate([x[..., kept], np.stack([part for _, part in more], axis=-1).astype(np.float32)], axis=-1)
        names = [*(names[j] for j in kept), *(name for name, _ in more)]
    return names, x


@dataclass(frozen=True)
class Tabular(_Parameters):
    """A family of regressors; see the module."""

    scope: Scope = "global"
    rows: int = 30_000
    window_days: int = 730
    refit_days: int = 45

    scaled: ClassVar[bool] = False
    """Whether the regressor wants finite inputs of one size; trees do not."""

    def regressor(self, seed: int) -> Regressor:
        """A regressor that has learned nothing yet."""
        raise NotImplementedError

    @property
    def pooled(self) -> bool:
        """Whether series learn from each other."""
        return self.scope != "series"

    @property
    def minimum_rows(self) -> int:  # type: ignore[override]
        """Only a series that learns alone needs much of its own."""
        return 0 if self.pooled else MINIMUM_ROWS

    def fit(self, panel: Panel, cutoffs: Sequence[int], seed: int, standing: bool = True) -> "list[TabularFit]":
        """One fit for each cutoff; of the scope ``series`` one series after the other, whoever else is there."""
        if self.pooled:
            return self.fit_samples([self.sample(panel, cutoffs, seed, 1.0)], cutoffs, seed)
        each = []
        for i, name in enumerate(panel.series.tolist()):
            own = (seed + zlib.crc32(name.encode())) % 2**32  # that of the series, in whatever company
            each.append(self.fit_samples([self.sample(panel.take(slice(i, i + 1)), cutoffs, own, 1.0)], cutoffs, own))
        return [
            TabularFit(
                self,
                names=next((fit.names for fit in fits if fit.names), []),
                models={series: model for fit in fits for series, model in fit.models.items()},
                groups={series: group for fit in fits for series, group in fit.groups.items()},
                clusters=None,
            )
            for fits in (zip(*each, strict=True) if each else [()] * len(cutoffs))
        ]

    def sample(self, panel: Panel, cutoffs: Sequence[int], seed: int, share: float) -> Sample:
        """The rows that some series contribute; share: theirs of all series, and so of the rows of a model."""
        own, _ = own_cutoffs(cutoffs, self.refit_days)
        on_published = panel.has(PUBLISHED)
        past = panel.between(own[0] - self.window_days * DAY_US, own[-1])
        base, size = _boosting_base(past, on_published)
        with np.errstate(over="ignore", invalid="ignore"):
            y = (past.target - base) / size[:, :, None]
        usable = np.isfinite(y)
        # One order of the cells for all cutoffs: their rows are largely the same, and are made once.
        order = np.random.default_rng([seed, *(zlib.crc32(s.encode()) for s in past.series[:1].tolist())])
        rank = order.random(y.size, np.float32)
        most = max(1, round(self.rows * share))
        chosen, shapes = [], []
        for cutoff in own:
            within = past.issued >= cutoff - self.window_days * DAY_US
            mine = np.flatnonzero(usable & (past.known_at <= cutoff) & within[:, None])
            if len(mine) > most:
                mine = np.sort(mine[np.argpartition(rank[mine], most)[:most]])
            chosen.append(mine)
            if self.scope == "cluster":
                shapes.append(mean_shapes(load_shapes(past.between(cutoff - 364 * DAY_US, cutoff))))
        union = np.unique(np.concatenate(chosen))
        names, x = self._rows(past, union)
        return Sample(
            names=names,
            x=x,
            y=np.clip(y.ravel()[union], *CLIP).astype(np.float32),
            code=(union // max(1, y.shape[1] * y.shape[2])).astype(np.int32),
            series=past.series.tolist(),
            members=[np.searchsorted(union, mine) for mine in chosen],
            shapes=shapes,
            on_published=on_published,
        )

    def _rows(self, panel: Panel, cells: npt.NDArray[np.int64]) -> tuple[list[str], Rows]:
        """The design of some cells of the flattened panel, series by series for the sake of memory."""
        each = panel.shape[1] * panel.shape[2]
        names, x = design(panel.take(slice(0, 0)), self.scaled)
        out = [x.reshape(0, len(names))]
        for i in range(len(panel.series)):
            a, b = np.searchsorted(cells, [i * each, (i + 1) * each])
            if b > a:
                _, x = design(panel.take(slice(i, i + 1)), self.scaled)
                out.append(x.reshape(each, -1)[cells[a:b] - i * each])
        return names, np.concatenate(out)

    def fit_samples(self, samples: Sequence[Sample], cutoffs: Sequence[int], seed: int) -> "list[TabularFit]":
        """One fit for each cutoff from the samples of all series."""
        own, serving = own_cutoffs(cutoffs, self.refit_days)
        fits = [self._fit(samples, k, seed) for k in range(len(own))]
        return [fits[k] for k in serving]

    def _fit(self, samples: Sequence[Sample], k: int, seed: int) -> "TabularFit":
        from threadpoolctl import threadpool_limits

        series = [s for sample in samples for s in sample.series]
        groups = dict.fromkeys(series, _ALL) if self.scope == "global" else {s: s for s in series}
        clusters = None
        if self.scope == "cluster":
            shapes = np.concatenate([sample.shapes[k] for sample in samples])
            clusters = learn_clusters(shapes, seed)
            groups = dict(zip(series, map(str, clusters.assign(shapes).tolist()), strict=True))
        parts: dict[str, list[tuple[bool, Rows, Rows]]] = {}
        for sample in samples:
            mine = sample.members[k]
            of = np.array([groups[s] for s in sample.series], object)[sample.code[mine]]
            for group in sorted(set(of.tolist())):
                rows = mine[of == group]
                parts.setdefault(group, []).append((sample.on_published, sample.x[rows], sample.y[rows]))
        models = {}
        # One thread: those of OpenMP spin when they share the machine, which costs far more than it gains.
        with threadpool_limits(1):
            for group, found in sorted(parts.items()):
                on_published = any(flag for flag, _, _ in found)
                x = np.concatenate([x for flag, x, _ in found if flag == on_published])
                y = np.concatenate([y for flag, _, y in found if flag == on_published])
                scale = Scale.learn(x) if self.scaled else None
                regressor = self.regressor(seed)
                regressor.fit(scale.apply(x) if scale else _some(x), y)
                models[group] = Model(regressor, scale, on_published)
        return TabularFit(self, samples[0].names if samples else [], models, groups, clusters)


_ALL = "all"
"""The group of the scope ``global``."""


def _some(x: Rows) -> Rows:
    """Rows in which no column is unknown throughout: scikit-learn's trees cannot bin such a one."""
    x[:, np.isnan(x).all(axis=0)] = 0.0
    return x


@dataclass(frozen=True)
class Scale:
    """Place (p,) and width (p,) of the columns: median and interquartile range, which outliers do not move."""

    place: Rows
    width: Rows

    @classmethod
    def learn(cls, x: Rows) -> "Scale":
        """From rows (N, p)."""
        x = _some(x)
        low, place, high = np.nanquantile(x, [0.25, 0.5, 0.75], axis=0)
        width = (high - low) / 1.349  # that of a normal distribution with standard deviation one
        rare = np.nanstd(np.clip(x - place, -3.0, 3.0), axis=0)  # flags: the quartiles see nothing of them
        width = np.where(width > 1e-9, width, np.where(rare > 1e-9, rare, 1.0))
        return cls(place.astype(np.float32), width.astype(np.float32))

    def apply(self, x: Rows) -> Rows:
        """The rows in these units, within five of them; what is unknown is taken as usual (zero)."""
        return np.nan_to_num(np.clip((x - self.place) / self.width, -5.0, 5.0))


@dataclass(frozen=True)
class Model:
    """A fitted regressor, with what its inputs are scaled by; on_published: whether it corrects what is published."""

    regressor: Regressor
    scale: Scale | None
    on_published: bool

    def predict(self, x: Rows) -> Array:
        """(N,) relative forecasts of rows (N, p)."""
        return np.clip(self.regressor.predict(self.scale.apply(x) if self.scale else x), *CLIP).astype(np.float64)


@dataclass(frozen=True)
class TabularFit:
    """Models by group, and the group of each series.

    A series that is new has the group of the nearest cluster at each issue time, or that of all; with the scope
    ``series`` it has none, and no forecast.
    """

    recipe: Tabular
    names: list[str]
    models: Mapping[str, Model]
    groups: Mapping[str, str]
    clusters: Clusters | None

    def predict(self, panel: Panel) -> Array:
        """See :class:`lakehouse_assets.ml.estimators.Fit`."""
        from threadpoolctl import threadpool_limits

        out = np.full(panel.shape, np.nan)
        s, d, h = panel.shape
        if not self.models or not out.size:
            return out
        groups = self._groups(panel)
        block = max(1, CHUNK_BYTES // (4 * d * h * len(self.names)))
        with threadpool_limits(1):
            for start in range(0, s, block):
                part = panel.take(slice(start, start + block))
                names, x = design(part, self.recipe.scaled)
                check_names(self.names, names)
                of = groups[start : start + block]
                for group in sorted(set(of.ravel().tolist()) & set(self.models)):
                    model, cells = self.models[group], of == group
                    base, size = _boosting_base(part, model.on_published)
                    relative = model.predict(x[cells].reshape(-1, len(names))).reshape(-1, h)
                    out[start : start + block][cells] = base[cells] + size[cells][:, None] * relative
        return out

    def _groups(self, panel: Panel) -> npt.NDArray[np.object_]:
        """(S, D) the group of each series at each issue time."""
        default = _ALL if self.recipe.scope == "global" else ""
        groups = np.array([self.groups.get(name, default) for name in panel.series], object)[:, None]
        groups = np.repeat(groups, panel.shape[1], axis=1)
        new = np.flatnonzero(groups[:, 0] == "") if len(panel.issued) else np.zeros(0, int)
        if self.clusters and len(new):
            shapes = load_shapes(panel.take(new))
            groups[new] = self.clusters.assign(shapes).astype(str).astype(object)
        return groups


# --- families ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecisionTree(Tabular):
    """One regression tree (CART)."""

    depth: int = 10
    leaf: int = 20

    def regressor(self, seed: int) -> Regressor:
        """See :class:`Tabular`."""
        from sklearn.tree import DecisionTreeRegressor

        return DecisionTreeRegressor(max_depth=self.depth, min_samples_leaf=self.leaf, random_state=seed)


@dataclass(frozen=True)
class RandomForest(Tabular):
    """A random forest (Breiman 2001); share: of the features that a split may choose from."""

    rows: int = 10_000
    trees: int = 50
    leaf: int = 5
    share: float = 0.2

    def regressor(self, seed: int) -> Regressor:
        """See :class:`Tabular`."""
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(
            self.trees, min_samples_leaf=self.leaf, max_features=self.share, random_state=seed, n_jobs=1
        )


@dataclass(frozen=True)
class SupportVectors(Tabular):
    """Support vector regression with a Gaussian kernel, of which Nystroem's method takes ``components`` landmarks.

    An exact kernel machine costs the square of its rows (Williams and Seeger 2001: Using the Nystroem method to speed
    up kernel machines). gamma: of the kernel, times the number of features. cost: C. tube: the error that is free,
    relative to the level.
    """

    rows: int = 10_000
    components: int = 300
    gamma: float = 0.3
    cost: float = 1.0
    tube: float = 0.005
    scaled: ClassVar[bool] = True

    def regressor(self, seed: int) -> Regressor:
        """See :class:`Tabular`."""
        return _SupportVectors(self, seed)


class _SupportVectors:
    def __init__(self, recipe: SupportVectors, seed: int) -> None:
        self.recipe, self.seed = recipe, seed

    def fit(self, x: Rows, y: Rows) -> "_SupportVectors":
        from sklearn.kernel_approximation import Nystroem
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import LinearSVR

        r = self.recipe
        self.pipeline = make_pipeline(
            Nystroem(gamma=r.gamma / x.shape[1], n_components=min(r.components, len(x)), random_state=self.seed),
            LinearSVR(
                epsilon=r.tube,
                C=r.cost,
                loss="squared_epsilon_insensitive",
                dual=False,
                random_state=self.seed,
                max_iter=200,
            ),
        )
        self.pipeline.fit(x, y)
        return self

    def predict(self, x: Rows) -> np.ndarray:
        return self.pipeline.predict(x)


@dataclass(frozen=True)
class NearestNeighbours(Tabular):
    """The mean of the most similar rows, the nearer the more."""

    rows: int = 10_000
    neighbours: int = 20
    scaled: ClassVar[bool] = True

    def regressor(self, seed: int) -> Regressor:
        """See :class:`Tabular`."""
        return _NearestNeighbours(self.neighbours)


class _NearestNeighbours:
    """scikit-learn's, which refuses to learn from fewer rows than neighbours."""

    def __init__(self, neighbours: int) -> None:
        self.neighbours = neighbours

    def fit(self, x: Rows, y: Rows) -> "_NearestNeighbours":
        from sklearn.neighbors import KNeighborsRegressor

        self.model = KNeighborsRegressor(min(self.neighbours, len(x)), weights="distance", algorithm="brute")
        self.model.fit(x, y)
        return self

    def predict(self, x: Rows) -> np.ndarray:
        return self.model.predict(x)


@dataclass(frozen=True)
class Perceptron(Tabular):
    """A multi-layer perceptron with two hidden layers; penalty: of the squared weights. Needs scaled inputs."""

    layers: tuple[int, ...] = (64, 32)
    penalty: float = 1e-3
    learning_rate: float = 2e-3
    epochs: int = 30
    scaled: ClassVar[bool] = True

    def regressor(self, seed: int) -> Regressor:
        """See :class:`Tabular`."""
        return _Perceptron(self, seed)


class _Perceptron:
    """scikit-learn's, on targets of unit size: they are small numbers, which its steps would not see."""

    def __init__(self, recipe: Perceptron, seed: int) -> None:
        self.recipe, self.seed = recipe, seed

    def fit(self, x: Rows, y: Rows) -> "_Perceptron":
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        r = self.recipe
        self.place, self.width = float(y.mean()), float(y.std()) or 1.0
        self.model = MLPRegressor(
            hidden_layer_sizes=r.layers,
            alpha=r.penalty,
            learning_rate_init=r.learning_rate,
            max_iter=r.epochs,
            batch_size=min(256, len(x)),
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # so many epochs, and no more
            self.model.fit(x, (y - self.place) / self.width)
        return self

    def predict(self, x: Rows) -> np.ndarray:
        return self.model.predict(x) * self.width + self.place


def extra(module: str, name: str | None = None) -> Any:
    """A module that an extra of this package brings; name: the extra's, where it is not that of the module.

    Raises ModuleNotFoundError, which says what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        told = f"{module} is not installed: pip install 'lakehouse-assets[{name or module}]'"
        raise ModuleNotFoundError(told) from None


@dataclass(frozen=True)
class XGBoost(Tabular):
    """Gradient boosting by XGBoost, on the absolute error; needs the extra ``xgboost``."""

    rows: int = 60_000
    iterations: int = 150
    depth: int = 6
    learning_rate: float = 0.1

    def regressor(self, seed: int) -> Regressor:
        """See :class:`Tabular`."""
        return _XGBoost(self, seed)


class _XGBoost:
    def __init__(self, recipe: XGBoost, seed: int) -> None:
        self.recipe, self.seed = recipe, seed

    def fit(self, x: Rows, y: Rows) -> "_XGBoost":
        xgboost = extra("xgboost")
        settings = {
            "objective": "reg:absoluteerror",
            "tree_method": "hist",
            "max_depth": self.recipe.depth,
            "eta": self.recipe.learning_rate,
            "seed": self.seed % 2**31,
            "nthread": 1,
        }
        self.booster = xgboost.train(settings, xgboost.DMatrix(x, y, nthread=1), self.recipe.iterations)
        return self

    def predict(self, x: Rows) -> np.ndarray:
        return self.booster.predict(extra("xgboost").DMatrix(x, nthread=1))


@dataclass(frozen=True)
class LightGBM(Tabular):
    """Gradient boosting by LightGBM, on the absolute error; needs the extra ``lightgbm``."""

    rows: int = 60_000
    iterations: int = 150
    leaves: int = 31
    learning_rate: float = 0.1

    def regressor(self, seed: int) -> Regressor:
        """See :class:`Tabular`."""
        return _LightGBM(self, seed)


class _LightGBM:
    def __init__(self, recipe: LightGBM, seed: int) -> None:
        self.recipe, self.seed = recipe, seed

    def fit(self, x: Rows, y: Rows) -> "_LightGBM":
        lightgbm = extra("lightgbm")
        settings = {
            "objective": "l1",
            "num_leaves": self.recipe.leaves,
            "learning_rate": self.recipe.learning_rate,
            "seed": self.seed % 2**31,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        self.booster = lightgbm.train(settings, lightgbm.Dataset(x, y), self.recipe.iterations)
        return self

    def predict(self, x: Rows) -> np.ndarray:
        return self.booster.predict(x, num_threads=1)
