"""The deep candidate: one small neural network across all series, a whole day at a time.

A row is a series at an issue time: the curves of everything that is known then, relative to the level of the series,
and the day that follows as its target: the error of the published forecast where there is a plausible one, else of the
same hour a week before. Needs the extra ``deep`` to learn, and nothing to forecast.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.estimators import (
    AROUND,
    HOLIDAYS,
    PUBLISHED,
    Array,
    Fit,
    Pooled,
    check_names,
    covariates,
    hours_back,
    level,
    naive_from,
    own_cutoffs,
    published,
)
from lakehouse_assets.ml.network import ResidualNetwork
from lakehouse_assets.ml.panel import DAY_US, Panel
from lakehouse_assets.ml.tabular import CLIP, Rows, extra

LAGS = (24, 48, 168, 336)
"""The days back, in hours, whose whole curves are inputs; of the others the hours say little more."""
PART = 4
"""Hours of the horizon for one of which a flag stands: holidays, and whether a forecast is published."""
_CURVE = re.compile(r"(forecast_|error_)?lag_\d+h|[a-z]+_(last_day|published_forecast)")
"""Features that go along with the horizon; the others of those that are known here are as of the issue time."""
LARGEST = 3.0
"""Bound of an input, relative to the level."""


@dataclass(frozen=True)
class Sample:
    """What some series contribute: rows (N, p), targets (N, H) with NaN, and of each row the place of its series, its
    issue time and when the last of its targets became known (microseconds since the epoch).

    members: for each cutoff that has its own fit, the rows that are known by then.
    """

    names: list[str]
    x: Rows
    y: Rows
    place: npt.NDArray[np.int64]
    issued: npt.NDArray[np.int64]
    series: list[str]
    members: list[npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Deep(Pooled):
    """A residual network over all series, see :class:`lakehouse_assets.ml.network.ResidualNetwork`.

    Costs are bounded: at most ``rows`` rows (days of series) of the latest ``window_days``; a cutoff within
    ``refit_days`` of the latest fit uses that one (never a newer one), except that the last always has its own. The
    last ``validation_days`` before a cutoff (a fifth of the history, where that is less) say when to stop.
    """

    width: int = 128
    blocks: int = 2
    traits: int = 16
    epochs: int = 12
    patience: int = 3
    learning_rate: float = 2e-3
    penalty: float = 1e-4
    batch: int = 512
    rows: int = 80_000
    window_days: int = 1461
    refit_days: int = 100
    validation_days: int = 28

    def network(self, seed: int) -> ResidualNetwork:
        """The network that has learned nothing yet."""
        return ResidualNetwork(
            width=self.width,
            blocks=self.blocks,
            traits=self.traits,
            epochs=self.epochs,
            patience=self.patience,
            learning_rate=self.learning_rate,
            penalty=self.penalty,
            batch=self.batch,
            seed=seed,
        )

    def sample(self, panel: Panel, cutoffs: Sequence[int], seed: int, share: float) -> Sample:
        """The days that some series contribute; share: theirs of all series, and so of the rows."""
        extra("torch", "deep")  # told here, before anything else is fitted
        own, _ = own_cutoffs(cutoffs, self.refit_days)
        past = panel.between(own[0] - self.window_days * DAY_US, own[-1])
        base, size = base_of(past)
        with np.errstate(over="ignore", invalid="ignore"):
            y = (past.target - base) / size[:, :, None]
        known = np.where(np.isfinite(y), past.known_at, 0).max(axis=2, initial=0)
        # One order of the days for all cutoffs: their rows are largely the same, and are made once.
        order = np.random.default_rng([seed, *(zlib.crc32(s.encode()) for s in past.series[:1].tolist())])
        rank = order.random(known.size, np.float32)
        most = max(1, round(self.rows * share))
        chosen = []
        for cutoff in own:
            within = past.issued >= cutoff - self.window_days * DAY_US
            mine = np.flatnonzero((known > 0) & (known <= cutoff) & within)
            if len(mine) > most:
                mine = np.sort(mine[np.argpartition(rank[mine], most)[:most]])
            chosen.append(mine)
        union = np.unique(np.concatenate(chosen))
        place, day = np.divmod(union, max(1, len(past.issued)))
        names = design(past.take(slice(0, 0)))[0]
        x = np.empty((len(union), len(names)), np.float32)
        for i in np.unique(place):  # series by series for the sake of memory
            x[place == i] = design(past.take(slice(i, i + 1)))[1][0, day[place == i]]
        return Sample(
            names=names,
            x=x,
            y=np.clip(y[place, day], *CLIP).astype(np.float32),
            place=place,
            issued=past.issued[day],
            series=past.series.tolist(),
            members=[np.searchsorted(union, mine) for mine in chosen],
        )

    def fit_samples(self, samples: Sequence[Sample], cutoffs: Sequence[int], seed: int) -> "Sequence[Fit]":
        """One network for each cutoff that asks for its own, from the samples of all series, two at a time."""
        own, serving = own_cutoffs(cutoffs, self.refit_days)
        with ThreadPoolExecutor(max_workers=2) as pool:
            fits = list(pool.map(lambda k: self._learn(samples, k, own[k], seed), range(len(own))))
        return [fits[k] for k in serving]

    def _learn(self, samples: Sequence[Sample], k: int, cutoff: int, seed: int) -> "DeepFit":
        first = np.cumsum([0, *(len(sample.series) for sample in samples)])
        x = np.concatenate([sample.x[sample.members[k]] for sample in samples])
        y = np.concatenate([sample.y[sample.members[k]] for sample in samples])
        issued = np.concatenate([sample.issued[sample.members[k]] for sample in samples])
        place = np.concatenate([s.place[s.members[k]] + start for s, start in zip(samples, first, strict=False)])
        series = [name for sample in samples for name in sample.series]
        if not len(x):
            return DeepFit(samples[0].names if samples else [], {}, None)
        tail = min(self.validation_days * DAY_US, (cutoff - int(issued.min())) // 5)
        # Only who can be learned from has traits of its own.
        heard, member = np.unique(place[issued < cutoff - tail], return_inverse=False), np.full(len(series), -1)
        member[heard] = np.arange(len(heard))
        network = self.network(seed).fit(x, y, member[place], issued >= cutoff - tail)
        return DeepFit(samples[0].names, {series[i]: n for n, i in enumerate(heard.tolist())}, network)


@dataclass(frozen=True)
class DeepFit:
    """A fitted network, and the number of each series that it has learned from; None: there was nothing to learn."""

    names: list[str]
    members: Mapping[str, int]
    network: ResidualNetwork | None = field(repr=False)

    @property
    def curve(self) -> Sequence[Mapping[str, float]]:
        """The losses of each epoch."""
        return self.network.curve_ if self.network else ()

    def predict(self, panel: Panel) -> Array:
        """See :class:`lakehouse_assets.ml.estimators.Fit`; also of series that it has never seen."""
        s, d, h = panel.shape
        if self.network is None or not panel.target.size:
            return np.full(panel.shape, np.nan)
        names, x = design(panel)
        check_names(self.names, names)
        members = np.repeat([self.members.get(name, -1) for name in panel.series.tolist()], d)
        relative = self.network.predict(x.reshape(s * d, -1), members).reshape(s, d, h)
        base, size = base_of(panel)
        return base + size[:, :, None] * np.clip(relative, *CLIP)


def base_of(panel: Panel) -> tuple[Array, Array]:
    """What is corrected, (S, D, H), and the unit of the correction, (S, D)."""
    naive = naive_from(panel, (168, 24))
    if PUBLISHED in panel.columns:
        curve = published(panel)
        naive = np.where(np.isfinite(curve), curve, naive)
    return naive, level(panel)


def design(panel: Panel) -> tuple[list[str], Rows]:
    """The inputs' names and the matrix (S, D, p): the curves of a day and what stands for it, NaN where unknown."""
    size = level(panel)[:, :, None]
    base, _ = base_of(panel)
    others = {name for hours, name in hours_back(panel, r"lag_(\d+)h") if hours not in LAGS}
    outside = {*covariates(panel)}
    parts: dict[str, np.ndarray] = {"base": base / size - 1.0}
    if PUBLISHED in panel.columns:
        parts["is_published"] = np.isfinite(published(panel))[:, :, ::PART]
    for name in panel.columns:
        # By name: how a panel stores a feature depends on which rows it holds.
        values = panel.full(name) if name in outside or _CURVE.fullmatch(name) else panel.once(name)[:, :, None]
        if name in others or name == PUBLISHED:
            continue
        if name == "hour":
            angle = 2 * np.pi / 24 * values
            parts |= {"hour_sin": np.sin(angle), "hour_cos": np.cos(angle)}
        elif name == "day_of_week":
            ends = panel.full(name)[:, :, [0, -1]]
            parts |= {f"day_of_week={k}": ends == k for k in range(1, 8)}
        elif name.startswith("season_"):
            parts[name] = values
        elif name in HOLIDAYS:
            parts[name] = panel.full(name)[:, :, ::PART]
        elif name in outside:
            parts[name] = values
        elif AROUND.fullmatch(name):
            parts[name] = values[:, :, ::PART]
        else:
            relative = values / size
            parts[name] = np.clip(
                relative if name.startswith(("std_", "error_")) else relative - 1.0, -LARGEST, LARGEST
            )
    names = [f"{name}@{j}" for name, part in parts.items() for j in range(part.shape[2])]
    x = np.empty((*panel.shape[:2], len(names)), np.float32)
    start = 0
    for part in parts.values():
        x[..., start : start + part.shape[2]] = part
        start += part.shape[2]
    x[~np.isfinite(x)] = np.nan
    return names, x
