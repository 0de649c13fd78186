"""The ladder: who speaks for a series where its champion cannot, and why.

Rungs, from the top: the champion's own recipe; what stands in for it in the same version (the ridge, then a model
across series, which knows every newcomer); the version in force before; the seasonal naive; the last level known.
A forecast that is far from all that its series has shown lately counts as unsaid, whoever made it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml import estimators
from lakehouse_assets.ml.definition import Candidate
from lakehouse_assets.ml.estimators import Blend
from lakehouse_assets.ml.intervals import LEVELS
from lakehouse_assets.ml.panel import Panel

Array = npt.NDArray[np.float64]

RUNGS = ("champion", "stand_in", "previous", "seasonal_naive", "last_level", "none")
CHAMPION, STAND_IN, PREVIOUS, NAIVE, LAST, NONE = range(len(RUNGS))

REACH = 5.0
"""How many widths (see :class:`Reach`) a forecast may be away from the middle of its series.

In two and a half years of 54 regions (EIA-930, 1.2 million hours) no value was further away than 1.5 widths, and no
published forecast than 2.1.
"""
_ENOUGH = 24
"""Known hours without which nothing is said about what is plausible."""


@dataclass(frozen=True)
class Reach:
    """What is plausible of a series at an issue time, from its same-hour lags: two weeks where all are there.

    middle: (S, D) their median, NaN where none is known. width: (S, D) the larger of the median's size and the distance
    from the first to the last decile, NaN where too few are known or all are zero. Up to a tenth of the hours may be
    outliers of any size on either side.
    """

    middle: Array
    width: Array

    @classmethod
    def of(cls, panel: Panel) -> "Reach":
        """The reach of every series at every issue time of a panel."""
        lags = [lag for _, lag in estimators.day_lags(panel)]
        if not lags or not panel.target.size:
            nothing = np.full(panel.shape[:2], np.nan)
            return cls(nothing, nothing)
        values = np.concatenate(lags, axis=2)
        values[~np.isfinite(values)] = np.nan
        values.sort(axis=2)  # NaN last
        count = np.isfinite(values).sum(axis=2)

        def quantile(share: float) -> Array:
            place = np.maximum(np.floor(share * (count - 1)), 0).astype(np.int64)
            return np.take_along_axis(values, place[:, :, None], axis=2)[:, :, 0].astype(np.float64)

        middle = quantile(0.5)
        width = np.maximum(np.abs(middle), quantile(0.9) - quantile(0.1))
        return cls(middle, np.where((count >= _ENOUGH) & (width > 0), width, np.nan))

    def excess(self, forecast: Array) -> npt.NDArray[np.bool_]:
        """(S, D, H) where a forecast is not plausible."""
        with np.errstate(invalid="ignore", over="ignore"):
            away = np.abs(forecast - self.middle[:, :, None]) > REACH * self.width[:, :, None]
        found: npt.NDArray[np.bool_] = away | np.isinf(forecast)
        return found

    def take(self, series: npt.NDArray[np.int64]) -> "Reach":
        """The reach of some series."""
        return Reach(self.middle[series], self.width[series])


@dataclass(frozen=True)
class Spoken:
    """A forecast and who made it.

    forecast: (S, D, H), NaN where there is nothing to say. rung: (S, D, H), places in ``RUNGS``. reason: (S, D) why the
    champion did not say all of it, None where it did. quantiles: (S, D, H) by column; without any: unknown.
    """

    forecast: Array
    rung: npt.NDArray[np.int8]
    reason: npt.NDArray[np.object_]
    quantiles: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> "Spoken":
        """Nothing said yet, to :meth:`put` parts into."""
        quantiles = {name: np.full(shape, np.nan, np.float32) for name in LEVELS}
        return cls(np.full(shape, np.nan), np.full(shape, NONE, np.int8), np.full(shape[:2], None, object), quantiles)

    def put(self, series: npt.NDArray[np.int64], part: "Spoken") -> None:
        """Take over what was said of some series."""
        self.forecast[series], self.rung[series], self.reason[series] = part.forecast, part.rung, part.reason
        for name, values in part.quantiles.items():
            self.quantiles[name][series] = values

    def columns(self, present: npt.NDArray[np.bool_]) -> dict[str, pl.Series]:
        """The columns yhat, quantiles, rung and reason of the rows of a panel, see :meth:`Panel.frame`."""
        mask = np.broadcast_to(present[:, :, None], self.forecast.shape).ravel()
        rung = self.rung.ravel()[mask]
        columns = {
            "yhat": pl.Series(self.forecast.ravel()[mask], nan_to_null=True),
            **{
                name: pl.Series(self.quantiles[name].ravel()[mask], nan_to_null=True)
                if name in self.quantiles
                else pl.repeat(None, len(rung), dtype=pl.Float32, eager=True)
                for name in LEVELS
            },
            "rung": pl.Series(RUNGS).gather(pl.Series(rung).cast(pl.UInt32)),
        }
        texts = sorted({text for text in self.reason[present] if text is not None})
        code = {text: i for i, text in enumerate([None, *texts])}
        codes = np.array([code[text] for text in self.reason.ravel()], np.uint32).reshape(self.reason.shape)
        codes = np.broadcast_to(codes[:, :, None], self.forecast.shape).ravel()[mask]
        said = pl.Series([None, *texts], dtype=pl.String)
        return columns | {"reason": said.gather(pl.Series(np.where(rung > CHAMPION, codes, 0)).cast(pl.UInt32))}


def members(recipe: Candidate, name: str) -> list[str]:
    """The names of the fits that a candidate's own forecast needs."""
    return list(recipe.members) if isinstance(recipe, Blend) else [name]


def speak(recipe: Candidate, name: str, panel: Panel, forecasts: Mapping[str, Array]) -> Array:
    """A candidate's own forecast from the forecasts of the fits that it needs."""
    if isinstance(recipe, Blend):
        return recipe.combine(panel.series.tolist(), np.stack([forecasts[m] for m in recipe.members]))
    return forecasts[name]


def counted(recipe: Candidate, forecast: Array, reach: Reach, rows: npt.NDArray[np.int64]) -> Array:
    """What counts of a fit's forecast: what is plausible, of series with enough history for a fit of this recipe.

    rows: (S,) the issue times with known targets that the fit could learn from.
    """
    silent: npt.NDArray[np.bool_] = reach.excess(forecast)
    silent |= np.less(rows, minimum_rows(recipe))[:, None, None]
    return np.where(silent, np.nan, forecast) if silent.any() else forecast


def minimum_rows(recipe: Candidate) -> int:
    """The issue times with known targets that a recipe asks of each series."""
    return int(getattr(recipe, "minimum_rows", 0))


def rows_known(panel: Panel, cutoffs: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """For each cutoff (S,): the issue times of a series of which some target was known by then."""
    never = np.iinfo(np.int64).max
    first = np.where(np.isfinite(panel.target), panel.known_at, never).min(axis=2, initial=never)
    return [(first <= cutoff).sum(axis=1) for cutoff in cutoffs]


def descend(
    forecast: Array, stand_ins: Iterable[Array], panel: Panel, reach: Reach
) -> tuple[Array, npt.NDArray[np.int8]]:
    """Fill what a forecast lacks from the rungs below it; also returns the rung of each hour.

    stand_ins: the forecasts of the same version, as they :func:`count <counted>`, in order; none is asked for that is
    not needed.
    """
    rung = np.where(np.isfinite(forecast), CHAMPION, NONE).astype(np.int8)

    def fill(voice: Array, by: int) -> None:
        nonlocal forecast
        better = ~np.isfinite(forecast) & np.isfinite(voice)
        forecast = np.where(better, voice, forecast)
        rung[better] = by

    for voice in stand_ins:
        fill(voice, STAND_IN)
        if np.isfinite(forecast[panel.present]).all():
            return forecast, rung
    if not np.isfinite(forecast[panel.present]).all():
        naive = estimators.naive_from(panel)
        fill(np.where(reach.excess(naive), np.nan, naive), NAIVE)
        fill(np.broadcast_to(reach.middle[:, :, None], panel.shape), LAST)
    return forecast, rung


def reasons(
    name: str,
    panel: Panel,
    raw: Mapping[str, tuple[Candidate, Array]],
    reach: Reach,
    rows: npt.NDArray[np.int64],
    known: Iterable[str],
) -> npt.NDArray[np.object_]:
    """(S, D) why a candidate has nothing to say, in one phrase, the first that is true.

    raw: its members' recipes and forecasts as they came. rows: as of :func:`counted`. known: the series of the model.
    """
    shape = panel.shape[:2]
    said = np.full(shape, f"{name} has nothing to say: inputs are missing", object)
    # From the least to the most telling: what is written last stays.
    needs = [r for r, _ in raw.values() if getattr(r, "on_published", False)]
    if needs and len(needs) == len(raw):
        given, usable = _given(panel)
        said[given & ~usable] = "the published forecast is not plausible"
        said[~given] = "the published forecast is missing"
    young = np.all([rows < minimum_rows(r) for r, _ in raw.values()], axis=0)
    for i in np.flatnonzero(young):
        said[i] = f"too little history when it was trained: {rows[i]} issue times"
    said[~np.isin(panel.series, list(known))] = "the champion does not know this series"
    if any(n.startswith("mean_") for n in panel.columns):
        level = estimators.level(panel)
        means = [panel.once(n) for n in panel.columns if n.startswith("mean_")]
        heard = np.isfinite(np.stack(means)).any(axis=0)
        said[np.isnan(level) & heard] = "no level: nothing but zeros lately"
        said[~heard] = "no level known: no value in the last 28 days"
    for _, forecast in raw.values():
        wild = reach.excess(forecast)
        for i, d in zip(*np.nonzero(wild.any(axis=2)), strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                times = np.abs(forecast[i, d][wild[i, d]]).max() / reach.width[i, d]
            said[i, d] = f"its forecast was not plausible: {times:.3g} times the series' level"
    return said


def _given(panel: Panel) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(S, D) whether the whole published forecast is there, and whether it is plausible."""
    if estimators.PUBLISHED not in panel.columns:
        return np.zeros(panel.shape[:2], bool), np.zeros(panel.shape[:2], bool)
    given = np.isfinite(panel.full(estimators.PUBLISHED)).all(axis=2)
    return np.asarray(given), np.asarray(np.isfinite(estimators.published(panel)).all(axis=2))


def below_stand_ins() -> pl.Expr:
    """Where a version has nothing to say but what anybody could: the rungs on which the version before is better."""
    return ~pl.col("rung").is_in([RUNGS[CHAMPION], RUNGS[STAND_IN]])


def step_down(predicted: pl.DataFrame, previous: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Predictions in which the version before speaks where the one in force does not; the reason stays.

    Both hold the same columns, and all of the version before comes with its prediction.
    """
    lacking = predicted.filter(below_stand_ins()).select(*keys, "reason")
    better = (
        previous.filter(~below_stand_ins())
        .drop("reason")
        .join(lacking, on=list(keys))
        .with_columns(rung=pl.lit(RUNGS[PREVIOUS]))
        .select(predicted.columns)
    )
    return pl.concat([predicted.join(better, on=list(keys), how="anti"), better]).sort(keys)


def rungs_of(predictions: pl.LazyFrame, time: str, member: str) -> pl.LazyFrame:
    """The members below the champion: time, member, rung, reason, rows, model_version; sorted.

    A member that has no prediction at a time, but one at the time before, is there once more, with the rung none: it
    has left, and nothing tells of it any longer.
    """
    below = (
        predictions.filter(pl.col("rung") != RUNGS[CHAMPION])
        .group_by(time, member, "rung")
        .agg(pl.col("reason").first(), rows=pl.len().cast(pl.Int64), model_version=pl.col("model_version").max())
    )
    times = predictions.select(pl.col(time).unique().sort()).with_columns(following=pl.col(time).shift(-1))
    present = predictions.select(time, member, "model_version").unique([time, member])
    left = (
        present.join(times.drop_nulls(), on=time)
        .join(present.select(member, following=time), on=[member, "following"], how="anti")
        .select(
            pl.col("following").alias(time),
            member,
            rung=pl.lit(RUNGS[NONE]),
            reason=pl.lit("it has left: there are no features of it, for nothing was reported lately"),
            rows=pl.lit(0, pl.Int64),
            model_version="model_version",
        )
    )
    return pl.concat([below, left]).sort(time, member, "rung")
