"""A small neural network over the rows of many members, as a regressor with scikit-learn's interface.

Residual layers over everything that is known, as in TiDE (Das et al. 2023: Long-term Forecasting with TiDE), beside a
linear map that leads past them. What tells the members apart is learned as a few numbers each, which shift and scale
the layers (Perez et al. 2018: FiLM, visual reasoning with a general conditioning layer).

It is trained by PyTorch (the extra ``deep``), on CUDA where there is a device; what it has learned are numpy arrays,
and numpy predicts: a fitted network needs no PyTorch.
"""

import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.tabular import Rows, Scale, extra

Weights = Mapping[str, npt.NDArray[np.float32]]
THREADS = 1
"""Threads of a network that learns on a CPU: the order of sums, and so the last bits, must not depend on the machine,
and two threads wait for each other more than they gain on matrices as small as these."""
BLOCK = 1024
"""Rows that are predicted at once, which the caches of a processor hold."""
SCALED_FROM = 20_000
"""Rows from which the inputs' places and widths are learned: quantiles of all would cost as much as an epoch."""
FORGOTTEN = 0.02
"""The share of a batch's rows that are taken for those of an unknown member, which is how that one is learned."""
EPSILON = 1e-5
"""What keeps a layer's normalisation from dividing by zero."""


@dataclass
class ResidualNetwork:
    """A residual network on rows (N, p) with targets (N, h), on the absolute error in units of each member.

    width: numbers of a layer. blocks: residual blocks of two layers. traits: numbers by which members are told apart.
    epochs: at most; training ends after ``patience`` epochs in which the validation error does not fall, and the
    weights of the best epoch are kept. learning_rate: at its height; it rises for a tenth of the steps and falls to
    nothing along a cosine. penalty: decoupled weight decay (AdamW). batch: rows of a step.

    After ``fit``: ``curve_``, the mean training and validation loss of every epoch.
    """

    width: int = 128
    blocks: int = 2
    traits: int = 16
    epochs: int = 12
    patience: int = 3
    learning_rate: float = 2e-3
    penalty: float = 1e-4
    batch: int = 512
    seed: int = 0

    weights_: Weights = field(default_factory=dict, init=False, repr=False)
    scale_: Scale | None = field(default=None, init=False, repr=False)
    unit_: Rows = field(default_factory=lambda: np.ones(1, np.float32), init=False, repr=False)
    curve_: tuple[dict[str, float], ...] = field(default=(), init=False, repr=False)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name, as scikit-learn asks for them."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.init}

    def set_params(self, **params: Any) -> "ResidualNetwork":
        """Change parameters; raises ValueError for one that there is not."""
        if unknown := sorted(set(params) - set(self.get_params())):
            raise ValueError(f"no such parameter: {', '.join(unknown)}; there are {', '.join(self.get_params())}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def fit(
        self,
        x: Rows,
        y: Rows,
        members: npt.NDArray[np.integer] | None = None,
        validation: npt.NDArray[np.bool_] | None = None,
    ) -> "ResidualNetwork":
        """Learn from rows (N, p), of which some inputs may be unknown (NaN), and targets (N, h), NaN where not known.

        members: (N,) whose row it is, numbered from 0, or -1 for a member that is not to be told from other unknown
        ones; None: all are one member's. validation: (N,) the rows on which
        training is stopped, and from which nothing else is learned; without any the last epoch is kept. The same seed
        gives the same bits on the same machine.

        Raises:
            ModuleNotFoundError: PyTorch is not installed.
            ValueError: there is no row to learn from.
        """
        torch = extra("torch", "deep")
        members = np.zeros(len(x), np.int64) if members is None else members.astype(np.int64)
        count = int(members.max(initial=-1)) + 1
        members = np.where(members < 0, count, members)
        validation = np.zeros(len(x), bool) if validation is None else validation
        known = np.isfinite(y)
        learned = known.any(axis=1) & ~validation
        if not learned.any():
            raise ValueError("there is no row with a known target before the validation rows: nothing to learn from")
        self.scale_ = Scale.learn(x[learned][:: max(1, learned.sum() // SCALED_FROM)].copy())
        self.unit_ = _units(np.where(known & learned[:, None], y, np.nan), members, count)
        unit = self.unit_[members][:, None]
        rng = np.random.default_rng(self.seed)
        with _repeatable.device(torch) as device:

            def there(values: np.ndarray) -> Any:
                return torch.from_numpy(np.ascontiguousarray(values)).to(device)

            kept = self._start(x.shape[1], y.shape[1], count, rng)
            weights = {name: there(value.copy()) for name, value in kept.items()}
            for tensor in weights.values():
                tensor.requires_grad_(True)
            optimiser = torch.optim.AdamW(
                [
                    {"params": [t for t in weights.values() if t.ndim == 2], "weight_decay": self.penalty},
                    {"params": [t for t in weights.values() if t.ndim == 1], "weight_decay": 0.0},
                ],
                lr=self.learning_rate,
            )
            inputs = there(self.scale_.apply(x))
            targets, mask = there(np.where(known, y, 0.0).astype(np.float32) / unit), there(known.astype(np.float32))
            train, held = np.flatnonzero(learned), np.flatnonzero(validation & known.any(axis=1))

            def loss(rows: np.ndarray, whose: np.ndarray) -> tuple[Any, Any]:
                """The sum of the errors of some rows, and of how many hours."""
                at = there(rows)
                said = _forward(torch, weights, inputs[at], there(whose))
                return ((said - targets[at]).abs() * mask[at]).sum(), mask[at].sum()

            steps = -(-len(train) // self.batch)
            curve: list[dict[str, float]] = []
            best, stale = math.inf, 0
            for epoch in range(self.epochs):
                order = rng.permutation(train)
                total = hours = 0.0
                for step in range(steps):
                    rows = order[step * self.batch : (step + 1) * self.batch]
                    whose = np.where(rng.random(len(rows)) < FORGOTTEN, count, members[rows])
                    for group in optimiser.param_groups:
                        group["lr"] = self.learning_rate * _pace((epoch * steps + step) / (self.epochs * steps))
                    error, size = loss(rows, whose)
                    optimiser.zero_grad(set_to_none=True)
                    (error / size).backward()
                    optimiser.step()
                    total, hours = total + float(error.detach()), hours + float(size)
                curve.append({"training_loss": total / hours})
                with torch.no_grad():
                    parts = [loss(rows, members[rows]) for rows in np.array_split(held, -(-len(held) // 4096) or 1)]
                if len(held):
                    curve[-1]["validation_loss"] = sum(float(e) for e, _ in parts) / sum(float(s) for _, s in parts)
                judged = curve[-1].get("validation_loss", -epoch)
                if judged < best:
                    best, stale = judged, 0
                    kept = {name: tensor.detach().cpu().numpy().copy() for name, tensor in weights.items()}
                else:
                    stale += 1
                    if stale >= self.patience:
                        break
        self.weights_, self.curve_ = kept, tuple(curve)
        return self

    def predict(self, x: Rows, members: npt.NDArray[np.integer] | None = None) -> npt.NDArray[np.float32]:
        """(N, h) targets of rows (N, p), whose members may be unknown (-1); None: all are, if there is more than one.

        Raises ValueError before anything has been learned.
        """
        if self.scale_ is None:
            raise ValueError("this network has not been fitted")
        unknown = len(self.unit_) - 1
        whose = np.full(len(x), 0 if unknown == 1 else -1) if members is None else members
        whose = np.where((whose < 0) | (whose > unknown), unknown, whose)
        out = np.empty((len(x), self.weights_["out"].shape[1]), np.float32)
        for start in range(0, len(x), BLOCK):
            rows = slice(start, start + BLOCK)
            out[rows] = _said(self.weights_, self.scale_.apply(x[rows]), whose[rows]) * self.unit_[whose[rows], None]
        return out

    def _start(self, p: int, h: int, members: int, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
        """The weights before the first step: of matrices as He et al. (2015) have it, and what leads out is nothing."""

        def drawn(rows: int, columns: int, size: float = 1.0) -> npt.NDArray[np.float32]:
            return (rng.standard_normal((rows, columns)) * size / math.sqrt(rows)).astype(np.float32)

        def nothing(*shape: int) -> npt.NDArray[np.float32]:
            return np.zeros(shape, np.float32)

        w, k = self.width, self.traits
        weights = {
            "traits": drawn(members + 1, k, math.sqrt(members + 1)),
            "in": drawn(p, w),
            "in.bias": nothing(w),
            "in_shift": drawn(k, w, 0.1),
            "in_gain": nothing(k, w),
        }
        for i in range(self.blocks):
            weights |= {f"up_{i}": drawn(w, w, math.sqrt(2)), f"up_{i}.bias": nothing(w)}
            weights |= {f"down_{i}": drawn(w, w, 0.5), f"down_{i}.bias": nothing(w)}
        return weights | {
            "out": nothing(w, h),
            "out.bias": nothing(h),
            "out_gain": nothing(k, w),
            "out_shift": nothing(k, h),
            "past": nothing(p, h),
        }


def _pace(share: float) -> float:
    """The learning rate, as a share of its height, when so much of the training is done."""
    return share / 0.1 if share < 0.1 else 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))


def _units(y: Rows, members: npt.NDArray[np.integer], count: int) -> Rows:
    """(M + 1,) the mean size of each member's targets, so that all count alike; the last: their median, for others."""
    hours = np.isfinite(y)
    total = np.bincount(members, np.where(hours, np.abs(y), 0.0).sum(axis=1), count + 1)[:count]
    each = np.bincount(members, hours.sum(axis=1), count + 1)[:count]
    size = np.where(each > 0, total / np.maximum(each, 1), np.nan)
    usual = float(np.nanmedian(size)) if (each > 0).any() else 1.0
    usual = usual or 1.0
    # A member that never moves, or of whom nothing is known, is taken for a usual one.
    return np.append(np.where(size > usual * 1e-3, size, usual), usual).astype(np.float32)


class _Repeatable:
    """PyTorch's settings for the same bits each time, for as long as any network learns, in whatever thread."""

    def __init__(self) -> None:
        self.lock, self.learning = threading.Lock(), 0

    @contextmanager
    def device(self, torch: Any) -> Iterator[Any]:
        """The device to learn on."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its sums only with this
        with self.lock:
            if not self.learning:
                self.before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
            self.learning += 1
            torch.set_num_threads(THREADS)
            torch.use_deterministic_algorithms(True)
        try:
            yield device
        finally:
            with self.lock:
                self.learning -= 1
                if not self.learning:
                    torch.set_num_threads(self.before[0])
                    torch.use_deterministic_algorithms(self.before[1])


_repeatable = _Repeatable()


def _forward(torch: Any, weights: Mapping[str, Any], x: Any, members: Any) -> Any:
    """The network in PyTorch: (n, h) from inputs (n, p); :func:`_said` is the same in numpy."""
    traits = weights["traits"][members]
    z = (x @ weights["in"] + weights["in.bias"] + traits @ weights["in_shift"]) * (1 + traits @ weights["in_gain"])
    normal = torch.nn.functional.layer_norm
    width = (z.shape[1],)
    for i in range(_blocks(weights)):
        inner = torch.relu(normal(z, width, eps=EPSILON) @ weights[f"up_{i}"] + weights[f"up_{i}.bias"])
        z = z + inner @ weights[f"down_{i}"] + weights[f"down_{i}.bias"]
    last = torch.relu(normal(z, width, eps=EPSILON) * (1 + traits @ weights["out_gain"]))
    return last @ weights["out"] + weights["out.bias"] + traits @ weights["out_shift"] + x @ weights["past"]


def _said(weights: Weights, x: Rows, members: npt.NDArray[np.integer]) -> Rows:
    """The network in numpy."""
    traits = weights["traits"][members]

    def normal(z: Rows) -> Rows:
        centred = z - z.mean(axis=1, keepdims=True)
        return centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + np.float32(EPSILON))

    z = _times(x, weights["in"]) + weights["in.bias"] + _times(traits, weights["in_shift"])
    z = z * (1 + _times(traits, weights["in_gain"]))
    for i in range(_blocks(weights)):
        inner = np.maximum(_times(normal(z), weights[f"up_{i}"]) + weights[f"up_{i}.bias"], 0)
        z = z + _times(inner, weights[f"down_{i}"]) + weights[f"down_{i}.bias"]
    last = np.maximum(normal(z) * (1 + _times(traits, weights["out_gain"])), 0)
    out = _times(last, weights["out"]) + weights["out.bias"] + _times(traits, weights["out_shift"])
    return out + _times(x, weights["past"])


def _times(x: Rows, w: Rows) -> Rows:
    """``x @ w``, input by input: a row's forecast must not depend on how many rows are forecast with it."""
    out = np.zeros((len(x), w.shape[1]), np.float32)
    for column, row in zip(x.T, w, strict=True):
        out += column[:, None] * row
    return out


def _blocks(weights: Mapping[str, Any]) -> int:
    return sum(name.startswith("up_") and not name.endswith(".bias") for name in weights)
