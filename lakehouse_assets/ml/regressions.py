"""The ridge's relatives: the same design and the same Gram matrices, solved with another penalty."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lakehouse_assets.ml.estimators import CHUNK_BYTES, Array, Ridge
from lakehouse_assets.ml.linear import Grams, solve_elastic_net, solve_least_squares


@dataclass(frozen=True)
class Linear(Ridge):
    """Ordinary least squares for each series and step where its rows suffice; the ridge where they do not."""

    def solve(self, grams: Sequence[Grams]) -> Sequence[Array]:
        """See :func:`lakehouse_assets.ml.linear.solve_least_squares`."""
        return [solve_least_squares(one, self.strength) for one in grams]


@dataclass(frozen=True)
class ElasticNet(Ridge):
    """An elastic net for each series and step: ``strength`` is scikit-learn's alpha, of errors relative to the level.

    The lasso's share of the penalty, ``l1_ratio``, leaves out the inputs that a series has no use for.
    """

    strength: float = 3e-5
    l1_ratio: float = 0.5

    chunk_bytes: ClassVar[int] = 4 * CHUNK_BYTES
    """Coordinate descent takes many regressions in one step: the more at once, the less each costs."""

    def solve(self, grams: Sequence[Grams]) -> Sequence[Array]:
        """See :func:`lakehouse_assets.ml.linear.solve_elastic_net`."""
        solved = solve_elastic_net(np.concatenate([one.whole() for one in grams]), self.strength, self.l1_ratio)
        return np.split(solved, len(grams))
