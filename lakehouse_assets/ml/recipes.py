"""Candidates of models of entities: families of estimators, each one pipeline from the rows of a feature table.

A recipe is a frozen dataclass of parameters. What it makes is a scikit-learn pipeline that begins with a
ColumnTransformer: missing values, categories and scaling are learned with the estimator and saved with it. Trees take
missing numbers for what they are; the others take the median, and a flag that says so. A category that was not seen in
training, or hardly, is one of the infrequent; a column that was unknown throughout is left out.

A recipe learns from at most ``rows`` rows, a seeded sample: what costs the square of them must not meet a million.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.entities import Rows, Snapshots, inputs_of

Array = npt.NDArray[np.float64]
Task = Literal["classification", "regression"]
MOST_CATEGORIES = 30
"""Categories of a column that have a number of their own; the rest are one."""
LEAST_ROWS = 10
"""Rows that a category needs for that."""
QUANTILES, KNOTS = 100, 6
"""Of a number as a curve: its place among so many quantiles, and the knots of a spline on that."""


class Estimator(Protocol):
    """What scikit-learn calls an estimator."""

    def fit(self, x: Any, y: Array) -> Any:
        """Learn from rows (N, p) and their targets (N,)."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A family with its parameters; rows: it learns from at most so many."""

    rows: int = 50_000

    scaled: ClassVar[bool] = False
    """Whether the estimator wants finite inputs of one size; trees do not."""
    curved: ClassVar[bool] = False
    """Whether numbers also come as splines, for an estimator that is linear."""

    def parameters(self) -> dict[str, Any]:
        """The dataclass's fields, with the family's name."""
        return {"estimator": type(self).__name__} | asdict(self)

    def usable(self) -> bool:
        """Whether what it needs is installed."""
        return True

    def classifier(self, seed: int) -> Estimator:
        """An estimator with ``predict_proba`` that has learned nothing yet."""
        raise TypeError(f"{type(self).__name__} is no candidate of a classification: take it out of the candidates")

    def regressor(self, seed: int) -> Estimator:
        """An estimator with ``predict`` that has learned nothing yet."""
        raise TypeError(f"{type(self).__name__} is no candidate of a regression: take it out of the candidates")

    def learn(self, task: Task, data: Snapshots, rows: Rows, seed: int) -> "Learned":
        """A pipeline fitted on some rows, whose targets are known."""
        from threadpoolctl import threadpool_limits

        if len(rows) > self.rows:
            rows = np.sort(np.random.default_rng(seed).choice(rows, self.rows, replace=False))
        x, y = inputs_of(data.frame[rows], data.numbers, data.categories), data.y[rows]
        known = [name for name in x.columns if x[name].null_count() < len(x)]
        numbers = [name for name in data.numbers if name in known]
        categories = [name for name in data.categories if name in known]
        if not known or np.ptp(y) == 0:
            return Learned(task, None, float(y.mean()), (), ())
        estimator = self.classifier(seed) if task == "classification" else self.regressor(seed)
        pipeline = _pipeline(numbers, categories, estimator, self.scaled, self.curved, len(rows))
        # One thread: those of OpenMP spin when they share the machine, which costs far more than it gains.
        with threadpool_limits(1, "openmp"):
            pipeline.fit(x, y.astype(np.int64) if task == "classification" else y)
        return Learned(task, pipeline, float(y.mean()), tuple(numbers), tuple(categories))


@contextmanager
def unconverged() -> Iterator[None]:
    """So many iterations, and no more: nobody is warned. For the main thread, as filters are those of all threads."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@dataclass(frozen=True)
class Learned:
    """A fitted pipeline and the inputs that it reads; without one, where nothing was to be told apart, the mean."""

    task: Task
    pipeline: Any
    mean: float
    numbers: tuple[str, ...]
    categories: tuple[str, ...]

    def predict(self, frame: pl.DataFrame) -> Array:
        """(N,) probabilities of the event, or values, of rows of a feature table."""
        from threadpoolctl import threadpool_limits

        if self.pipeline is None or frame.is_empty():
            return np.full(frame.height, self.mean)
        x = inputs_of(frame, self.numbers, self.categories)
        with threadpool_limits(1, "openmp"):
            if self.task == "classification":
                return np.asarray(self.pipeline.predict_proba(x)[:, 1], float)
            return np.asarray(self.pipeline.predict(x), float)


def _pipeline(
    numbers: Sequence[str], categories: Sequence[str], estimator: Estimator, scaled: bool, curved: bool, rows: int
) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, QuantileTransformer, SplineTransformer, StandardScaler

    encoder = OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        min_frequency=min(LEAST_ROWS, max(1, rows // 100)),
        max_categories=MOST_CATEGORIES,
        sparse_output=False,
    )
    parts: list[tuple[str, Any, Sequence[str]]] = [("categories", encoder, categories)]
    if not scaled:
        parts.append(("numbers", "passthrough", numbers))
    elif numbers:
        median = partial(SimpleImputer, strategy="median", keep_empty_features=True)
        parts += [
            ("numbers", make_pipeline(median(), StandardScaler(), _bounded_step()), numbers),
            ("unknown", MissingIndicator(features="missing-only", error_on_new=False, sparse=False), numbers),
        ]
        if curved:
            # Knots at equal distances among the quantiles: neither outliers nor a value that repeats moves them.
            knots = np.tile(np.linspace(0.0, 1.0, KNOTS)[:, None], (1, len(numbers)))
            places = QuantileTransformer(n_quantiles=min(QUANTILES, rows), subsample=None)
            spline = SplineTransformer(degree=3, knots=knots, include_bias=False)
            parts.append(("curves", make_pipeline(median(), places, spline, StandardScaler()), numbers))
    return make_pipeline(ColumnTransformer([part for part in parts if len(part[2])]), estimator)


BOUND = 5.0
"""Standard deviations at which a scaled number ends: one slip of the decimal point must not rule a prediction."""


def _bounded(x: Array) -> Array:
    return np.clip(x, -BOUND, BOUND)


def _bounded_step() -> Any:
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(_bounded, feature_names_out="one-to-one")


# --- families ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Logistic(Recipe):
    """Logistic regression on numbers and their splines; strength: C, the inverse of the penalty."""

    strength: float = 0.1
    scaled: ClassVar[bool] = True
    curved: ClassVar[bool] = True

    def classifier(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=self.strength, max_iter=300)


@dataclass(frozen=True)
class Linear(Recipe):
    """Least squares on numbers and their splines, hardly drawn to zero (ridge): penalty, of the squared weights."""

    penalty: float = 1.0
    scaled: ClassVar[bool] = True
    curved: ClassVar[bool] = True

    def regressor(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.linear_model import Ridge

        return Ridge(self.penalty)


@dataclass(frozen=True)
class ElasticNet(Recipe):
    """Least squares, drawn to zero by both penalties, on targets of unit size; share: of the penalty of the sums."""

    penalty: float = 0.01
    share: float = 0.5
    scaled: ClassVar[bool] = True
    curved: ClassVar[bool] = True

    def regressor(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.compose import TransformedTargetRegressor
        from sklearn.linear_model import ElasticNet as Net
        from sklearn.preprocessing import StandardScaler

        return TransformedTargetRegressor(Net(self.penalty, l1_ratio=self.share), transformer=StandardScaler())


@dataclass(frozen=True)
class DecisionTree(Recipe):
    """One tree (CART) of bounded depth, which can be drawn."""

    depth: int = 5
    leaf: int = 40

    def classifier(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.tree import DecisionTreeClassifier

        return DecisionTreeClassifier(max_depth=self.depth, min_samples_leaf=self.leaf, random_state=seed)

    def regressor(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.tree import DecisionTreeRegressor

        return DecisionTreeRegressor(max_depth=self.depth, min_samples_leaf=self.leaf, random_state=seed)


@dataclass(frozen=True)
class RandomForest(Recipe):
    """A random forest (Breiman 2001). sample: the share of the rows that a tree sees."""

    rows: int = 20_000
    trees: int = 200
    leaf: int = 10
    sample: float = 0.4

    def classifier(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(
            self.trees, min_samples_leaf=self.leaf, max_samples=self.sample, random_state=seed, n_jobs=1
        )

    def regressor(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(
            self.trees,
            min_samples_leaf=self.leaf,
            max_samples=self.sample,
            max_features=0.3,
            random_state=seed,
            n_jobs=1,
        )


@dataclass(frozen=True)
class Boosting(Recipe):
    """Gradient boosting of small trees, by histograms (scikit-learn); of values, on the absolute error."""

    iterations: int = 150
    learning_rate: float = 0.06
    leaves: int = 6
    leaf: int = 40
    penalty: float = 5.0

    def classifier(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(**self._settings(seed))

    def regressor(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        return HistGradientBoostingRegressor(loss="absolute_error", **self._settings(seed))

    def _settings(self, seed: int) -> dict[str, Any]:
        return {
            "max_iter": self.iterations,
            "learning_rate": self.learning_rate,
            "max_leaf_nodes": self.leaves,
            "min_samples_leaf": self.leaf,
            "l2_regularization": self.penalty,
            "early_stopping": False,
            "random_state": seed,
        }


@dataclass(frozen=True)
class SupportVectors(Recipe):
    """A support vector machine with a Gaussian kernel, of which Nystroem's method takes ``components`` landmarks.

    An exact kernel machine costs the square of its rows (Williams and Seeger 2001: Using the Nystroem method to speed
    up kernel machines). gamma: of the kernel. cost: C. Its margins become probabilities by Platt's sigmoid, learned by
    cross-validation.
    """

    rows: int = 20_000
    components: int = 150
    gamma: float = 0.01
    cost: float = 0.1
    scaled: ClassVar[bool] = True

    def classifier(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.kernel_approximation import Nystroem
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import LinearSVC

        margins = CalibratedClassifierCV(LinearSVC(C=self.cost, dual=False), ensemble=False, cv=3)
        kernel = Nystroem(gamma=self.gamma, n_components=self.components, random_state=seed)
        return make_pipeline(kernel, margins)


@dataclass(frozen=True)
class NearestNeighbours(Recipe):
    """The share of events among the most similar rows, or their mean."""

    rows: int = 20_000
    neighbours: int = 100
    scaled: ClassVar[bool] = True

    def classifier(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.neighbors import KNeighborsClassifier

        return _Neighbours(self.neighbours, KNeighborsClassifier)

    def regressor(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.neighbors import KNeighborsRegressor

        return _Neighbours(self.neighbours, KNeighborsRegressor)


class _Own:
    """What a pipeline of scikit-learn asks of an estimator that is not its own; asked, so that it is not imported."""

    def __sklearn_tags__(self) -> Any:
        from sklearn.base import BaseEstimator

        return BaseEstimator.__sklearn_tags__(self)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model")


class _Neighbours(_Own):
    """scikit-learn's, which refuses to learn from fewer rows than neighbours; of few, a fifth at most."""

    def __init__(self, neighbours: int, family: Callable[..., Any]) -> None:
        self.neighbours, self.family = neighbours, family

    def fit(self, x: Array, y: Array) -> "_Neighbours":
        self.model = self.family(max(1, min(self.neighbours, len(x) // 5)), algorithm="brute")
        self.model.fit(x, y)
        return self

    def predict(self, x: Array) -> Array:
        return np.asarray(self.model.predict(x))

    def predict_proba(self, x: Array) -> Array:
        return np.asarray(self.model.predict_proba(x))


@dataclass(frozen=True)
class Perceptron(Recipe):
    """A multi-layer perceptron with one hidden layer; penalty: of the squared weights."""

    rows: int = 20_000
    layers: tuple[int, ...] = (16,)
    penalty: float = 3.0
    learning_rate: float = 3e-3
    epochs: int = 20
    scaled: ClassVar[bool] = True

    def classifier(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier(
            hidden_layer_sizes=self.layers,
            alpha=self.penalty,
            learning_rate_init=self.learning_rate,
            max_iter=self.epochs,
            random_state=seed,
        )


# --- families of extras -----------------------------------------------------------------------------------------------


def installed_extras() -> Mapping[str, Recipe]:
    """The candidates of the extras ``xgboost`` and ``lightgbm`` that are installed."""
    return {name: recipe for name, recipe in {"xgboost": XGBoost(), "lightgbm": LightGBM()}.items() if recipe.usable()}


@dataclass(frozen=True)
class XGBoost(Recipe):
    """Gradient boosting by XGBoost; of values, on the absolute error; needs the extra ``xgboost``."""

    iterations: int = 150
    depth: int = 3
    learning_rate: float = 0.06
    penalty: float = 5.0

    def usable(self) -> bool:
        """See :class:`Recipe`."""
        return find_spec("xgboost") is not None

    def classifier(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        return _XGBoost(self, "binary:logistic", seed)

    def regressor(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        return _XGBoost(self, "reg:absoluteerror", seed)


def _extra(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{name} is not installed: pip install 'lakehouse-assets[{name}]'") from None


class _Booster(_Own):
    """A booster of a native interface as an estimator: its predictions are probabilities, or values."""

    def predict(self, x: Array) -> Array:
        raise NotImplementedError

    def predict_proba(self, x: Array) -> Array:
        event = self.predict(x)
        return np.stack([1 - event, event], axis=1)


class _XGBoost(_Booster):
    def __init__(self, recipe: XGBoost, objective: str, seed: int) -> None:
        self.recipe, self.objective, self.seed = recipe, objective, seed

    def fit(self, x: Array, y: Array) -> "_XGBoost":
        xgboost = _extra("xgboost")
        settings = {
            "objective": self.objective,
            "tree_method": "hist",
            "max_depth": self.recipe.depth,
            "eta": self.recipe.learning_rate,
            "lambda": self.recipe.penalty,
            "seed": self.seed % 2**31,
            "nthread": 1,
        }
        self.model = xgboost.train(settings, xgboost.DMatrix(x, y, nthread=1), self.recipe.iterations)
        return self

    def predict(self, x: Array) -> Array:
        xgboost = _extra("xgboost")
        return np.asarray(self.model.predict(xgboost.DMatrix(x, nthread=1)), float)


@dataclass(frozen=True)
class LightGBM(Recipe):
    """Gradient boosting by LightGBM; of values, on the absolute error; needs the extra ``lightgbm``.

    By its native interface: the wrapper of version 4.7 does not go with scikit-learn 1.9.
    """

    iterations: int = 150
    leaves: int = 6
    leaf: int = 40
    learning_rate: float = 0.06
    penalty: float = 5.0

    def usable(self) -> bool:
        """See :class:`Recipe`."""
        return find_spec("lightgbm") is not None

    def classifier(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        return _LightGBM(self, "binary", seed)

    def regressor(self, seed: int) -> Estimator:
        """See :class:`Recipe`."""
        return _LightGBM(self, "l1", seed)


class _LightGBM(_Booster):
    def __init__(self, recipe: LightGBM, objective: str, seed: int) -> None:
        self.recipe, self.objective, self.seed = recipe, objective, seed

    def fit(self, x: Array, y: Array) -> "_LightGBM":
        lightgbm = _extra("lightgbm")
        settings = {
            "objective": self.objective,
            "num_leaves": self.recipe.leaves,
            "min_data_in_leaf": self.recipe.leaf,
            "learning_rate": self.recipe.learning_rate,
            "lambda_l2": self.recipe.penalty,
            "seed": self.seed % 2**31,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        self.model = lightgbm.train(settings, lightgbm.Dataset(x, y), self.recipe.iterations)
        return self

    def predict(self, x: Array) -> Array:
        return np.asarray(self.model.predict(x, num_threads=1), float)
