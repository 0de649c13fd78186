"""Whether a forecast gains by the segment of its series as an input: the regions of EIA, a year, boosting.

    python benchmarks/series_segments.py [--json FILE]

Boosting is the candidate that learns from all series at once, so the one that a segment could tell something. Series
are parted by the shape of their day, working days and days off, in the year before the first training (k-means on
centred logarithms, as in models/load_segments.py). Then it is fitted every eight weeks of a year without it, with it,
with what it is made of (principal components of the shapes), and with the number of the series itself, which says all
that any label can; with and without the published forecast; on all series, and on those of one half by a fit of the
other half. Errors are mean absolute ones over the mean load, the geometric mean over series, each relative to the fits
without a further input; the spread is that between seeds of the latter.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from drift_data import EIA, halves, landed, refined
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from lakehouse_assets.ml.estimators import Boosting
from lakehouse_assets.ml.fitted import microseconds
from lakehouse_assets.ml.panel import DAY_US, Panel

Array = npt.NDArray[np.float64]
SINCE, UNTIL = datetime(2018, 7, 1, tzinfo=UTC), datetime(2019, 7, 1, tzinfo=UTC)
SEEDS, SEGMENTS, COMPONENTS = range(3), 5, 4
STEP = 56 * DAY_US
COMPARED = {"all series": False, "series that it never saw": True}


def main() -> None:
    """Shapes, fits, a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    rows, declaration = landed(EIA)
    panel, _ = refined(rows.lazy(), declaration, UNTIL)
    found: dict[str, dict[str, list[float]]] = {}
    for name, columns in inputs(panel).items():
        found[name] = {}
        for published in (True, False):
            given = with_inputs(panel, columns, published)
            for what, unseen in COMPARED.items():
                print(f"{name}, {what}", file=sys.stderr, flush=True)
                told = f"{what}, {'with' if published else 'without'} the published forecast"
                found[name][told] = [error(given, seed, unseen) for seed in SEEDS]
    without = found["nothing further"]
    for told, errors in without.items():
        base, spread = np.mean(errors), np.ptp(errors)
        print(f"\n{told}: {base:.3%} of the load, spread {spread / base:.2%}")
        for name, of in found.items():
            print(f"  {name:34} {np.mean(of[told]) / base - 1:+.2%}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def inputs(panel: Panel) -> dict[str, dict[str, Array]]:
    """What is tried: columns (S,) by name."""
    past = panel.between(microseconds(SINCE) - 365 * DAY_US, microseconds(SINCE))
    hour, off = past.full("hour").astype(int), past.full("day_of_week") >= 6
    days = []
    for kind in (False, True):
        counted = [np.where((off == kind) & (hour == h), past.target, np.nan) for h in range(24)]
        day = np.stack([np.nanmean(values, axis=(1, 2)) for values in counted], axis=1)
        days.append(np.log(day / day.sum(axis=1, keepdims=True)))
    shapes = np.concatenate([day - day.mean(axis=1, keepdims=True) for day in days], axis=1)
    segment = KMeans(SEGMENTS, n_init=20, random_state=0).fit_predict(shapes)
    components = PCA(COMPONENTS).fit_transform(shapes)
    # Ordered by shape, so that neighbours are alike and a tree parts them where it likes.
    number = np.argsort(np.argsort(components[:, 0]))
    return {
        "nothing further": {},
        f"{SEGMENTS} segments": {f"is_segment_{k}": (segment == k).astype(float) for k in range(SEGMENTS)},
        f"{COMPONENTS} components of the shape": {f"shape_{k}": components[:, k] for k in range(COMPONENTS)},
        "the number of the series": {"number": number.astype(float)},
    }


def with_inputs(panel: Panel, columns: Mapping[str, Array], published: bool) -> Panel:
    """The panel with further columns, and without what is known of a published forecast if that is wanted."""
    kept = {n: c for n, c in panel.columns.items() if published or not ("published" in n or "error" in n)}
    kept = kept if published else {n: c for n, c in kept.items() if not n.startswith("forecast_")}
    days = panel.shape[1]
    more = {n: np.repeat(values.astype(np.float32)[:, None], days, axis=1) for n, values in columns.items()}
    return replace(panel, columns=kept | more)


def error(panel: Panel, seed: int, unseen: bool) -> float:
    """The geometric mean over series of the year's relative error."""
    cutoffs = list(range(microseconds(SINCE), microseconds(UNTIL), STEP))
    parts = list(halves(panel.series)) if unseen else [np.ones(len(panel.series), bool)]
    relative = []
    for part in parts:
        learned = panel.take(np.flatnonzero(~part if unseen else part))
        scored = panel.take(np.flatnonzero(part))
        wrong, load = np.zeros(len(scored.series)), np.zeros(len(scored.series))
        for cutoff, fit in zip(cutoffs, Boosting().fit(learned, cutoffs, seed), strict=True):
            ahead = scored.between(cutoff, min(cutoff + STEP, microseconds(UNTIL)))
            apart = np.abs(fit.predict(ahead) - ahead.target)
            known = np.isfinite(apart)
            wrong += np.where(known, apart, 0.0).sum(axis=(1, 2))
            load += np.where(known, np.abs(ahead.target), 0.0).sum(axis=(1, 2))
        relative.append(wrong[load > 0] / load[load > 0])
    return float(np.exp(np.log(np.concatenate(relative)).mean()))


if __name__ == "__main__":
    main()
