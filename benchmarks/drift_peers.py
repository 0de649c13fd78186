"""Alarms of other libraries on the same weeks; runs in an environment of its own (see drift.py and peers_drift.txt).

    python drift_peers.py READ WRITTEN

READ: an npz file with y, champion, fresh (S, W, D, H) and the inputs (`input_...`) of series, weeks, issue times and
hours. The reference of a series is the year before its champion: inputs, and errors of weekly fits. WRITTEN: for each
method an array (S, W, parameters) of alarms, and the seconds that each took. `speed` as the only argument: the seconds
of NannyML's Wasserstein on 1M + 1M rows of ten columns.
"""

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

WEEKS = 52
ADWIN_DELTAS = (0.002, 1e-4, 1e-6, 1e-9)
PAGE_HINKLEY_THRESHOLDS = (2.0, 5.0, 10.0, 20.0, 50.0)
SHARES = (0.01, 0.25, 0.5, 0.75)
"""Shares of the columns that must drift before a series has drifted."""


def weekly(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Alarms (S, W, parameters) by method, and `seconds_<method>`."""
    y, champion, fresh = (found[name].astype(np.float64) for name in ("y", "champion", "fresh"))
    columns = {n.removeprefix("input_"): found[n] for n in found if n.startswith("input_")}
    there = np.isfinite(champion).any(axis=(2, 3))
    methods: dict[str, tuple[int, Callable[..., Any]]] = {
        "evidently": (len(SHARES), evidently),
        "nannyml_jensen_shannon": (len(SHARES), nannyml_jensen_shannon),
        "nannyml_performance": (1, nannyml_performance),
        "river_adwin": (len(ADWIN_DELTAS), adwin),
        "river_page_hinkley": (len(PAGE_HINKLEY_THRESHOLDS), page_hinkley),
    }
    out = {name: np.zeros((*y.shape[:2], count), bool) for name, (count, _) in methods.items()}
    seconds = dict.fromkeys(methods, 0.0)
    for s in range(len(y)):
        if not there[s].any():
            continue
        start = int(there[s].argmax())
        reference, current = slice(max(0, start - WEEKS), start), slice(start, None)
        if start == 0 or not np.isfinite(fresh[s, reference]).any():
            continue
        for name, (_, method) in methods.items():
            began = time.perf_counter()
            out[name][s, current] = method(
                {n: (c[s, reference], c[s, current]) for n, c in columns.items()},
                (y[s, reference], fresh[s, reference]),
                (y[s, current], champion[s, current]),
            )
            seconds[name] += time.perf_counter() - began
    return out | {f"seconds_{name}": np.array(value) for name, value in seconds.items()}


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
    if sys.argv[1:] == ["speed"]:
        print(speed())
    else:
        np.savez(sys.argv[2], **weekly(dict(np.load(sys.argv[1]))))
