"""Labels of clusters that last: numbers that never change their meaning, names in words, and who keeps which.

A clustering knows no order: what it calls 0 today it may call 2 tomorrow. Here a cluster inherits the number of the one
that shares most of its members (:func:`inherit`); and a member whose shape lies between two clusters keeps the one that
it had (:func:`settle`).
"""

from collections.abc import Collection, Mapping
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl

LEAST_COMMON = 0.5
"""A cluster is the same as before when it shares this part of all members of either (Jaccard index); with less it is
dissolved (Hennig, 2007, Cluster-wise assessment of cluster stability)."""
HOURS = 24
_TIMES: Mapping[str, range] = {
    "night": range(-2, 6),
    "morning": range(6, 9),
    "day": range(9, 17),
    "evening": range(17, 22),
}
_SAID = {"night": "night", "morning": "morning peak", "day": "by day", "evening": "evening peak"}
_HIGH, _LOW = 1.2, 0.6
"""A time of the day with so many times an even day's load is named; the middle of the day with less is, too."""


def inherit(
    labels: npt.NDArray[np.int64],
    earlier: npt.NDArray[np.int64],
    taken: Collection[int],
    cutoff: datetime,
    count: int,
) -> tuple[int, ...]:
    """The number of each cluster 0 .. count - 1 of labels (N,): that of the earlier one (numbers (N,)) that it goes on.

    Both are of the same members. Clusters are matched so that the matched share most altogether (Hungarian algorithm);
    of those that share less than ``LEAST_COMMON``, none goes on. Without a forerunner a cluster gets a new number: 1, 2
    ... where there is none at all; else one that begins with year and month of the cutoff (260301: the first of March
    2026), which needs no memory of all that were ever given to be none of them.

    taken: the numbers of the earlier clusters, those without members among them.
    """
    from scipy.optimize import linear_sum_assignment

    if not taken:
        return tuple(range(1, count + 1))
    numbers = np.array(sorted(taken))
    ours = labels[:, None] == np.arange(count)
    theirs = earlier[:, None] == numbers
    both = ours.T.astype(float) @ theirs
    common = both / np.maximum(ours.sum(axis=0)[:, None] + theirs.sum(axis=0) - both, 1)
    matched = linear_sum_assignment(np.where(common >= LEAST_COMMON, common, 0.0), maximize=True)
    given = {int(i): int(numbers[j]) for i, j in zip(*matched, strict=True) if common[i, j] >= LEAST_COMMON}
    first = int(f"{cutoff:%y%m}") * 100 + 1
    fresh = (number for number in range(first, first + 2 * count + len(taken)) if number not in taken)
    return tuple(given[k] if k in given else next(fresh) for k in range(count))


def name(shape: npt.NDArray[np.float64]) -> str:
    """A shape (48,) in words: when more is used than on an even day, two times of the day at most, the higher first."""
    day = _day(shape)
    level = {time: float(day[list(hours)].mean()) for time, hours in _TIMES.items()}
    high = sorted((time for time in level if level[time] >= _HIGH), key=lambda time: -level[time])[:2]
    if sorted(high) == ["evening", "morning"]:
        said = f"{' and '.join(high)} peak"
    else:
        said = " and ".join(_SAID[time] for time in high)
    # Who uses most at night has little left for the day.
    low = "little by day" if level["day"] < _LOW and "night" not in high else ""
    return ", ".join(filter(None, (said, low))) or "even"


def names(shapes: npt.NDArray[np.float64], numbers: Collection[int], earlier: Mapping[int, str]) -> tuple[str, ...]:
    """The name of each cluster with a mean shape (k, 48) and a number: what it was called, or :func:`name`.

    Two of one name are told apart by days off that are otherwise, by the hour of their peak, or else by their number.
    """
    out: list[str] = []
    for shape, number in zip(shapes, numbers, strict=True):
        said = earlier.get(number)
        others = {*out, *(earlier[n] for n in numbers if n in earlier)}
        if said is None:
            said = name(shape)
            further = [f"{said}, most at {int(_day(shape).argmax())} h", f"{said} ({number})"]
            if name(np.tile(shape[HOURS:], 2)) != said:
                further.insert(0, f"{said} on working days")
            said = next(one for one in (said, *further) if one not in others)
        out.append(said)
    return tuple(out)


def _day(shape: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean day (24,) of a shape (48,): five working days and two days off, relative to an even one."""
    return (5 * shape[:HOURS] + 2 * shape[HOURS:]) / 7 * HOURS


def settle(predicted: pl.DataFrame, earlier: pl.DataFrame, hysteresis: float) -> pl.DataFrame:
    """Predictions in which whoever lies between two segments keeps the one that he had.

    Where the second nearest is the segment of the latest earlier prediction, and the nearest is nearer by less than the
    share ``hysteresis``, the two change places, the margin becomes negative, and the reason says so. What is earlier is
    told by as_of, itself included: predictions that are made again give the same.

    predicted: columns of a prediction of segments, of one or more as_of. earlier: as_of, customer_id, segment,
    segment_name.
    """
    columns = ["customer_id", "as_of", "segment", "segment_name"]
    past = earlier.select(columns).filter(pl.col("segment").is_not_null())
    done: list[pl.DataFrame] = []
    for (at,), rows in sorted(predicted.with_row_index("row").group_by("as_of"), key=lambda group: group[0]):
        # Of two at the same time the settled one, which comes last.
        had = past.filter(pl.col("as_of") <= at).sort("as_of", maintain_order=True)
        had = had.unique("customer_id", keep="last", maintain_order=True).rename(
            {"segment": "had", "segment_name": "as"}
        )
        joined = rows.join(had.drop("as_of"), on="customer_id", how="left", maintain_order="left")
        held = (pl.col("had") == pl.col("runner_up")) & (pl.col("margin") < hysteresis)
        held = held.fill_null(False)
        why = pl.format("kept: {} is nearer by less than {}", "segment_name", pl.lit(f"{hysteresis:.0%}"))
        settled = joined.with_columns(
            segment=pl.when(held).then("runner_up").otherwise("segment"),
            segment_name=pl.when(held).then("as").otherwise("segment_name"),
            distance=pl.when(held).then("runner_up_distance").otherwise("distance"),
            margin=pl.when(held).then(1 - pl.col("runner_up_distance") / pl.col("distance")).otherwise("margin"),
            runner_up=pl.when(held).then("segment").otherwise("runner_up"),
            runner_up_distance=pl.when(held).then("distance").otherwise("runner_up_distance"),
            reason=pl.when(held).then(why).otherwise("reason"),
        ).select(rows.columns)
        done.append(settled)
        past = pl.concat([past, settled.select(columns).filter(pl.col("segment").is_not_null())])
    return pl.concat(done).sort("row").drop("row") if done else predicted
