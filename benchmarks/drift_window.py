"""What a training after a drift should learn from: all history, that since the break alone, or the time before it less.

    python benchmarks/drift_window.py

EIA-930, 2018-07 to 2020-06, the recipe and the weekly fits of drift.py (see drift_data.py). Each time that the verdict
of a series asks for a training, it is trained in each way, and the loss of the eight weeks that follow is compared with
that of a training on all history. The drift goes on as if it had been trained on all history.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from drift_data import EIA, Ages, ages, history, recipe_of
from threadpoolctl import threadpool_limits

from lakehouse_assets.ml.estimators import Ridge
from lakehouse_assets.ml.fitted import moment
from lakehouse_assets.ml.panel import DAY_US, Panel
from lakehouse_assets.ml.regret import judge, relative
from lakehouse_assets.ml.window import TrainingWindow
from lakehouse_assets.models.demand_forecast import demand_forecast

BEFORE = (1.0, 0.3, 0.1, 0.03, 0.0)
"""What a day before the break counts; 1: all history, 0: that since the break alone."""
LEAST_DAYS = (0, 28, 56, 112, 182)
"""Only breaks that are so old count; younger ones: all history."""
AHEAD_DAYS = 56


def trainings(found: Ages) -> Iterator[tuple[int, int, int]]:
    """Series, week and the week of the break of each training that the verdict asks for."""
    loss, apart = found.loss.astype(float), found.disagreement.astype(float)
    series, weeks, _ = loss.shape
    fresh = np.stack([loss[:, w, w] for w in range(weeks)], axis=1)
    trained, every = np.zeros(series, int), np.arange(series)
    cooldown = demand_forecast.retrain.cooldown_days // 7
    for week in range(weeks - AHEAD_DAYS // 7):
        regret = np.log(loss[every, trained] / fresh)[:, : week + 1]
        regret[np.arange(week + 1) < trained[:, None]] = np.nan
        stake = relative(apart[every, trained][:, : week + 1], fresh[:, : week + 1])
        judged = judge(regret, stake, demand_forecast.drift)
        again = judged.drifted[:, -1] & (week + 1 - trained >= cooldown)
        yield from ((int(s), week + 1, int(judged.since[s, -1])) for s in np.flatnonzero(again))
        trained[again] = week + 1


def loss_after(recipe: Ridge, panel: Panel, cutoff: int, window: TrainingWindow) -> float:
    """Mean absolute error of the weeks after a training of one series."""
    past = panel.between(0, cutoff)
    fit = recipe.fit(replace(past, weight=window.weights(past)), [cutoff], 0)[0]
    ahead = panel.between(cutoff, cutoff + AHEAD_DAYS * DAY_US)
    return float(np.nanmean(np.abs(fit.predict(ahead) - ahead.target)))


def main() -> None:
    found = ages(EIA)
    recipe = recipe_of(EIA)
    panel, _ = history(EIA)
    losses: list[list[float]] = []
    days: list[int] = []
    with threadpool_limits(1, "blas"):
        for series, week, since in trainings(found):
            name, cutoff, start = str(found.series[series]), int(found.weeks[week]), int(found.weeks[since])
            mine = panel.take(np.flatnonzero(panel.series == name))
            windows = [TrainingWindow({name: moment(start)}, before, 0) for before in BEFORE]
            losses.append([loss_after(recipe, mine, cutoff, window) for window in windows])
            days.append((cutoff - start) // DAY_US)
    report(np.array(losses), np.array(days))


def report(losses: npt.NDArray[np.float64], days: npt.NDArray[np.int64]) -> None:

    print(f"{len(losses)} trainings; the break is {np.median(days):.0f} days old in the median")
    print(f"{'a day before the break counts':32}" + "".join(f"{before:>12.0%}" for before in BEFORE[1:]))
    change = np.log(losses[:, 1:] / losses[:, :1])
    for least in LEAST_DAYS:
        used = np.where((days >= least)[:, None], change, 0.0)
        told = f"loss, breaks of {least} days or more" if least else "loss, every break"
        print(f"{told:32}" + "".join(f"{np.expm1(mean):>+12.1%}" for mean in np.nanmean(used, axis=0)))
        better = [(used[:, j] < 0).sum() / max((days >= least).sum(), 1) for j in range(used.shape[1])]
        print(f"{f'better in, of {(days >= least).sum()}':32}" + "".join(f"{share:>12.0%}" for share in better))


if __name__ == "__main__":
    main()
