"""What other libraries say of the same weeks; runs in an environment of its own (see drift.py and peers_drift.txt).

    python drift_peers.py TASK WRITTEN [READ ...]

Tasks, each of which writes an npz file:
    weekly WRITTEN WEEKS: for each method an array (S, W, parameters) of flags, and the seconds that each took. WEEKS is
        an npz file with y, champion, fresh (S, W, D, H) and the inputs (`input_...`) of series, weeks, issue times and
        hours. The reference of a series is the year before its champion: inputs, and errors of weekly fits.
    replay WRITTEN WEEKS FORECASTS ROWS METHOD=PARAMETER...: for each method the fit in force (S, W) in the last W weeks
        of WEEKS when a flag trains the series anew. `forecast` in FORECASTS has what each fit says in each week, by
        series, of which WEEKS has those that the npy file ROWS numbers. Each new champion is judged like the first: a
        reference of the year before it, and its own errors since.
    generate WRITTEN: rows of river's generators, by stream.
    streams WRITTEN ERRORS: for each stream and detector the fit in force (parameters, blocks); ERRORS has, by stream,
        whether each fit is wrong in each row: (blocks, blocks, rows).
    speed WRITTEN: the seconds of NannyML's Wasserstein on 1M + 1M rows of ten columns.
"""

import sys
import time
import warnings
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

WEEKS = 52
COOLDOWN = 2
"""Weeks, or blocks of a stream, after a training in which no other is asked for: the product's own."""
ADWIN_DELTAS = (0.002, 1e-4, 1e-6, 1e-9)
PAGE_HINKLEY_THRESHOLDS = (2.0, 5.0, 10.0, 20.0, 50.0)
SHARES = (0.01, 0.25, 0.5, 0.75)
"""Shares of the columns that must drift before a series has drifted."""
STREAM_DELTAS = (0.002, 1e-3, 1e-4, 1e-6)
STREAM_THRESHOLDS = (10.0, 20.0, 50.0, 100.0)
"""Of ADWIN and Page-Hinkley on the single errors of a stream; river's own are 0.002 and 50."""
BLOCK, BLOCKS, CHANGE = 500, 60, 30
"""Rows of a block of a generated stream, its blocks, and the block before which the concept changes."""
WIDTHS = {"abrupt": 0, "gradual": 8}
"""Blocks over which it changes; the change of a gradual one is half done at CHANGE."""
SEEDS = 4


Pair = tuple[np.ndarray, np.ndarray]
Method = Callable[[dict[str, Pair], Pair, Pair], np.ndarray]


def methods() -> dict[str, tuple[int, Method]]:
    """By name: how many parameters it has, and flags (W, parameters) from columns, reference, and current weeks."""
    return {
        "evidently": (len(SHARES), evidently),
        "nannyml_jensen_shannon": (len(SHARES), nannyml_jensen_shannon),
        "nannyml_performance": (1, nannyml_performance),
        "river_adwin": (len(ADWIN_DELTAS), adwin),
        "river_page_hinkley": (len(PAGE_HINKLEY_THRESHOLDS), page_hinkley),
    }


def inputs_of(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The features among the arrays."""
    return {n.removeprefix("input_"): a for n, a in found.items() if n.startswith("input_")}


def weekly(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """See the task of that name."""
    y, champion, fresh = (found[name].astype(np.float64) for name in ("y", "champion", "fresh"))
    columns = inputs_of(found)
    there = np.isfinite(champion).any(axis=(2, 3))
    out = {name: np.zeros((*y.shape[:2], count), bool) for name, (count, _) in methods().items()}
    seconds = dict.fromkeys(out, 0.0)
    for s in range(len(y)):
        if not there[s].any():
            continue
        start = int(there[s].argmax())
        reference, current = slice(max(0, start - WEEKS), start), slice(start, None)
        if start == 0 or not np.isfinite(fresh[s, reference]).any():
            continue
        for name, (_, method) in methods().items():
            began = time.perf_counter()
            out[name][s, current] = method(
                {n: (c[s, reference], c[s, current]) for n, c in columns.items()},
                (y[s, reference], fresh[s, reference]),
                (y[s, current], champion[s, current]),
            )
            seconds[name] += time.perf_counter() - began
    return out | {f"seconds_{name}": np.array(value) for name, value in seconds.items()}


def replay(found: dict[str, np.ndarray], forecast: np.ndarray, parameters: dict[str, int]) -> dict[str, np.ndarray]:
    """See the task of that name."""
    y, fresh = (found[name].astype(np.float64) for name in ("y", "fresh"))
    columns = inputs_of(found)
    before = y.shape[1] - forecast.shape[1]
    out = {}
    for name, parameter in parameters.items():
        _, method = methods()[name]

        def flags(t: int, end: int, s: int, method: Method = method, parameter: int = parameter) -> np.ndarray:
            reference, current = slice(before + t - WEEKS, before + t), slice(before + t, before + end)
            values = y[s, current], forecast[s, t, t:end].astype(np.float64)
            if not (np.isfinite(values[0] - values[1]).any() and np.isfinite(fresh[s, reference]).any()):
                return np.zeros(end - t, bool)
            pairs = {n: (c[s, reference], c[s, current]) for n, c in columns.items()}
            return method(pairs, (y[s, reference], fresh[s, reference]), values)[:, parameter]

        weeks = forecast.shape[1]
        series = [in_force(lambda t, end, s=s, flags=flags: flags(t, end, s), weeks) for s in range(len(y))]
        out[name] = np.stack(series)
    return out


def in_force(flags: Callable[[int, int], np.ndarray], weeks: int) -> np.ndarray:
    """The fit in force (weeks,) when a flag trains anew, from the next week on, and not within the cooldown.

    flags(t, end): those of the fit made at the start of week t in the weeks t to end - 1.
    """
    out = np.zeros(weeks, int)
    t, ahead = 0, 2 * COOLDOWN
    while t + COOLDOWN < weeks:
        end = min(t + ahead, weeks)
        hits = np.flatnonzero(flags(t, end)[COOLDOWN - 1 :])
        if len(hits):
            t, ahead = t + int(hits[0]) + COOLDOWN, 2 * COOLDOWN
            out[t:] = t
        elif end == weeks:
            break
        else:
            ahead *= 2
    return out


def evidently(columns: Any, reference: Any, current: Any) -> np.ndarray:
    """Its default for numbers and more than 1,000 rows: the normed Wasserstein distance is at least 0.1."""
    from evidently.legacy.calculations.stattests import wasserstein_stat_test
    from evidently.legacy.core import ColumnType

    drifted = []
    for before, after in columns.values():
        old = pd.Series(before[np.isfinite(before)].astype(float))
        rows = []
        for week in after:
            new = pd.Series(week[np.isfinite(week)].astype(float))
            if len(new) < 24 or not len(old):
                rows.append(False)
                continue
            rows.append(wasserstein_stat_test(old, new, ColumnType.Numerical, 0.1).drifted)
        drifted.append(rows)
    share = np.mean(drifted, axis=0)
    return np.stack([share >= least for least in SHARES], axis=1)


def nannyml_jensen_shannon(columns: Any, reference: Any, current: Any) -> np.ndarray:
    """Jensen-Shannon distance by column against thresholds of three standard deviations over the reference's weeks."""
    import nannyml

    names = list(columns)
    frames = [frame({n: columns[n][k] for n in names}) for k in (0, 1)]
    size = int(np.prod(columns[names[0]][1].shape[1:]))
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=names, continuous_methods=["jensen_shannon"], chunk_size=size
    )
    found = calculator.fit(frames[0]).calculate(frames[1]).filter(period="analysis").to_df()
    alerts = np.stack([found[(n, "jensen_shannon", "alert")].to_numpy(bool) for n in names])
    share = alerts.mean(axis=0)
    return np.stack([share >= least for least in SHARES], axis=1)


def nannyml_performance(columns: Any, reference: Any, current: Any) -> np.ndarray:
    """Mean absolute error by week against thresholds of three standard deviations over the reference's weeks."""
    import nannyml

    frames = [frame({"y": part[0], "p": part[1]}) for part in (reference, current)]
    calculator = nannyml.PerformanceCalculator(
        y_pred="p",
        y_true="y",
        metrics=["mae"],
        problem_type="regression",
        chunk_size=int(np.prod(current[0].shape[1:])),
    )
    found = calculator.fit(frames[0]).calculate(frames[1]).filter(period="analysis").to_df()
    value, limit = found[("mae", "value")].to_numpy(float), found[("mae", "upper_threshold")].to_numpy(float)
    return (value > limit)[:, None]


def frame(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """(W, D, H) arrays as columns, gaps filled with the value before."""
    return pd.DataFrame({n: a.astype(float).ravel() for n, a in columns.items()}).ffill().bfill()


def daily(reference: Any, current: Any) -> tuple[np.ndarray, np.ndarray]:
    """Daily mean absolute errors in units of the reference's mean: (days,), (W, D)."""
    old, new = (np.abs(part[1] - part[0]) for part in (reference, current))
    unit = np.nanmean(old)
    return np.nanmean(old, axis=2).ravel() / unit, np.nanmean(new, axis=2) / unit


def stream(make: Callable[[float], Any], parameters: tuple[float, ...], reference: Any, current: Any) -> np.ndarray:
    """Weeks in which a detector fires that has seen the reference before."""
    old, new = daily(reference, current)
    out = np.zeros((len(new), len(parameters)), bool)
    for k, parameter in enumerate(parameters):
        detector = make(parameter)
        for value in old[np.isfinite(old)]:
            detector.update(value)
        for w, days in enumerate(new):
            for value in days[np.isfinite(days)]:
                detector.update(value)
                out[w, k] |= detector.drift_detected
    return out


def adwin(columns: Any, reference: Any, current: Any) -> np.ndarray:
    """ADWIN on the daily errors."""
    from river.drift import ADWIN

    return stream(lambda delta: ADWIN(delta=delta), ADWIN_DELTAS, reference, current)


def page_hinkley(columns: Any, reference: Any, current: Any) -> np.ndarray:
    """Page-Hinkley on the daily errors, upwards."""
    from river.drift import PageHinkley

    make: Callable[[float], Any] = lambda threshold: PageHinkley(threshold=threshold, mode="up")  # noqa: E731
    return stream(make, PAGE_HINKLEY_THRESHOLDS, reference, current)


def generate() -> dict[str, np.ndarray]:
    """Rows (BLOCK * BLOCKS, features + 1) of SEA and Agrawal by stream; the last column is the class."""
    from river.datasets import synth

    out = {}
    for seed in range(SEEDS):
        for kind, width in WIDTHS.items():
            for old, new in ((0, 1), (1, 2), (2, 3)):
                pairs = {
                    "SEA": [synth.SEA(variant=v, noise=0.1, seed=100 * seed + v) for v in (old, new)],
                    "Agrawal": [
                        synth.Agrawal(classification_function=f, perturbation=0.05, seed=100 * seed + f)
                        for f in (old, new)
                    ],
                }
                for family, (first, second) in pairs.items():
                    if width:
                        mixed = synth.ConceptDriftStream(
                            first, second, seed=seed, position=CHANGE * BLOCK, width=width * BLOCK
                        ).take(BLOCK * BLOCKS)
                    else:
                        mixed = chain(first.take(CHANGE * BLOCK), second.take((BLOCKS - CHANGE) * BLOCK))
                    rows = [[*x.values(), int(y)] for x, y in mixed]
                    out[f"{family}, {kind}, {old} to {new}, {seed}"] = np.array(rows, np.float32)
    return out


def streams(errors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """See the task of that name: `<detector>/<stream>`."""
    from river.drift import ADWIN, PageHinkley

    detectors: dict[str, list[Callable[[], Any]]] = {
        "river_adwin": [lambda d=d: ADWIN(delta=d) for d in STREAM_DELTAS],
        "river_page_hinkley": [lambda h=h: PageHinkley(threshold=h, mode="up") for h in STREAM_THRESHOLDS],
    }

    def flags(wrong: np.ndarray, make: Callable[[], Any]) -> np.ndarray:
        detector = make()
        out = np.zeros(len(wrong), bool)
        for block, rows in enumerate(wrong):
            for row in rows.tolist():
                detector.update(row)
                out[block] |= detector.drift_detected
        return out

    return {
        f"{name}/{stream}": np.stack([in_force(lambda t, end, m=m, w=w: flags(w[t, t:end], m), len(w)) for m in makes])
        for stream, w in errors.items()
        for name, makes in detectors.items()
    }


def speed() -> float:
    """Seconds of NannyML's Wasserstein on 1M + 1M rows of ten columns, in ten chunks."""
    import nannyml

    rng = np.random.default_rng(0)
    names = [f"c{k}" for k in range(10)]
    reference, current = (pd.DataFrame(rng.normal(size=(1_000_000, 10)), columns=names) for _ in range(2))
    began = time.perf_counter()
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=names, continuous_methods=["wasserstein"], chunk_number=10
    )
    calculator.fit(reference).calculate(current)
    return time.perf_counter() - began


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    task, written, *arguments = sys.argv[1:]
    if task == "weekly":
        found = weekly(dict(np.load(arguments[0])))
    elif task == "replay":
        weeks, forecasts, rows, *told = arguments
        chosen = {name: int(k) for name, k in (one.split("=") for one in told)}
        found = replay(dict(np.load(weeks)), np.load(forecasts)["forecast"][np.load(rows)], chosen)
    elif task == "generate":
        found = generate()
    elif task == "streams":
        found = streams(dict(np.load(arguments[0])))
    else:
        found = {"seconds": np.array(speed())}
    np.savez(written, **found)
