"""Anomaly detectors of one stream of values: a score for each row, from the rows up to it and none after.

The higher a score, the less the row is as expected; an alarm is a score at or above a threshold. What a row should have
been is forecast from the rows before it, and by how much it missed is told in units of the largest miss of the weeks
before: many streams are spiky by habit, so that a distance in standard deviations alarms of what happens every day.
``windowed_gaussian`` and ``last_value`` are there to compare with.
"""

import numpy as np
import numpy.typing as npt
import polars as pl

Array = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
"""Microseconds since the epoch, ascending."""

DAY_US = 86_400_000_000
PROBATION, LONGEST_PROBATION = 0.15, 750
"""The share of its rows, and the rows at most, for which a stream is watched before it may alarm, as in NAB."""
MEMORY, STEP = 6400, 100
"""Rows that are remembered, and those after which a full memory of the windowed Gaussian moves on, as in NAB."""
LATEST, LEVEL = 1.0, 100.0
"""Half-lives in rows of the two moving means that forecast a row: of what was just now, and of the level."""
DAYS = 7
"""Days whose same time of day forecasts a row, by their median."""
LEAST_MISS = 0.01
"""A miss counts for nothing beside this share of the range seen so far: the noise of a constant."""
LEAST_ROWS = 20
"""Misses that must be known before one is compared with them."""
WINDOW = 12
"""Rows of which an isolation forest sees the mean and the spread."""
FIRST_FIT, GROWTH, TREES = 0.1, 1.5, 50
"""An isolation forest is fitted on this share of the stream, and again when the rows have grown by this factor."""


def probation(rows: int) -> int:
    """Rows at the beginning of a stream of so many in which nothing alarms."""
    return min(int(PROBATION * rows), LONGEST_PROBATION)


# --- baselines --------------------------------------------------------------------------------------------------------


def windowed_gaussian(values: Array) -> Array:
    """(T,) standard deviations from the mean of the rows remembered.

    NAB's detector of this name (Lavin and Ahmad, 2015, "Evaluating real-time anomaly detection algorithms") scores one
    minus the Gaussian tail beyond: the same order, but told apart where that is one in double precision.
    """
    mean, spread = _moments(values)
    return np.abs(values - mean) / spread


def last_value(values: Array) -> Array:
    """(T,) how far each value is from the last one, in root mean squares of such steps among the rows remembered."""
    steps = np.diff(values, prepend=values[:1])
    mean, spread = _moments(steps)
    return np.abs(steps) / np.hypot(mean, spread)


def _moments(values: Array) -> tuple[Array, Array]:
    """(T,) mean and standard deviation of the rows before, of the last ``MEMORY``, which move on by ``STEP``."""
    t = np.arange(len(values))
    end = np.where(t < MEMORY, t, MEMORY + (t - MEMORY) // STEP * STEP)
    start = np.maximum(end - MEMORY, 0)
    origin = values[0] if len(values) else 0.0
    first, second = (np.concatenate([[0.0], np.cumsum(x)]) for x in (values - origin, (values - origin) ** 2))
    count = np.maximum(end - start, 1)
    mean = (first[end] - first[start]) / count
    spread = np.sqrt(np.maximum((second[end] - second[start]) / count - mean**2, 0.0))
    least = 1e-6 * np.maximum.accumulate(np.maximum(np.abs(values), 1e-6))
    return mean + origin, np.maximum(spread, least)


# --- forecast residuals -----------------------------------------------------------------------------------------------


def forecasts(times: Times, values: Array) -> dict[str, Array]:
    """(T,) what each row should have been, by the rows before it: ``latest``, ``level`` and ``time_of_day``.

    time_of_day: the median of the same time on the last seven days; where there is none yet, the level. Rows a day are
    counted from the spacing in the probation.
    """
    series = pl.Series(values)

    def moving(half_life: float) -> Array:
        mean = series.ewm_mean(half_life=half_life, ignore_nulls=True).to_numpy()
        return np.concatenate([values[:1], mean[:-1]])

    level = moving(LEVEL)
    spacing = float(np.median(np.diff(times[: max(2, probation(len(times)))]))) if len(times) > 1 else DAY_US
    day = max(1, round(DAY_US / max(spacing, 1.0)))
    lags = [day * k for k in range(1, DAYS + 1) if day * k < len(values)]
    same = np.full((max(1, len(lags)), len(values)), np.nan)
    for row, lag in zip(same, lags, strict=False):
        row[lag:] = values[:-lag]
    seasonal = level.copy()
    known = np.isfinite(same[0])
    seasonal[known] = np.nanmedian(same[:, known], axis=0)
    return {"latest": moving(LATEST), "level": level, "time_of_day": seasonal}


def relative_to_record(misses: Array, values: Array) -> Array:
    """(T,) each miss in units of the largest of the ``MEMORY`` rows before it: above one, it is a record.

    misses: (T,) zero or positive. values: (T,) of which the range so far says what is too little to count.
    """
    seen = pl.Series(values)
    reach = (seen.cum_max() - seen.cum_min()).shift(1).fill_null(0.0).to_numpy()
    record = pl.Series(misses).rolling_max(MEMORY, min_samples=LEAST_ROWS).shift(1).fill_null(0.0).to_numpy()
    unit = np.maximum(record, LEAST_MISS * reach)
    # Of a stream that has never moved any move is news, however small: it has no unit.
    return np.where(unit > 0, misses / np.where(unit > 0, unit, 1.0), np.where(misses > 0, NEWS, 0.0))


NEWS = 10.0
"""The score of the first move of a stream that was constant."""


def residuals(times: Times, values: Array) -> Array:
    """(T,) by how much each row missed its forecasts, relative to their records: the mean of :func:`forecasts`.

    What is unusual by one forecast alone (a level that has moved a while ago, an evening peak) counts for a third.
    """
    missed = [relative_to_record(np.abs(values - expected), values) for expected in forecasts(times, values).values()]
    return np.asarray(np.minimum(np.mean(missed, axis=0), NEWS))


# --- isolation forest -------------------------------------------------------------------------------------------------


def isolation_forest(times: Times, values: Array, *, seed: int = 0) -> Array:
    """(T,) how isolated the window of each row is among those of the rows before it, relative to the record of that.

    Liu, Ting and Zhou, 2008, "Isolation forest". A window is told by what its row missed each forecast by, relative to
    the records, and by the mean and the spread of its last ``WINDOW`` rows. The forest is fitted on rows that have
    passed, and again as they grow; isolation counts from the median of those.
    """
    from sklearn.ensemble import IsolationForest

    rows, series = len(values), pl.Series(values)
    expected = forecasts(times, values)
    missed = [relative_to_record(np.abs(values - forecast), values) for forecast in expected.values()]
    spread = series.rolling_std(WINDOW, min_samples=2).fill_null(0.0).to_numpy()
    mean = series.rolling_mean(WINDOW, min_samples=1).to_numpy()
    windows = np.stack([*missed, values - expected["latest"], mean - expected["level"], spread], axis=1)
    isolation = np.zeros(rows)
    start = max(LEAST_ROWS, int(FIRST_FIT * rows))
    while start < rows:
        end = min(rows, int(GROWTH * start) + 1)
        rng = np.random.default_rng(seed)
        forest = IsolationForest(n_estimators=TREES, random_state=seed).fit(windows[:start])
        usual = np.median(forest.score_samples(windows[rng.integers(0, start, 256)]))
        isolation[start:end] = np.maximum(usual - forest.score_samples(windows[start:end]), 0.0)
        start = end
    return np.asarray(np.minimum(relative_to_record(isolation, isolation), NEWS))
