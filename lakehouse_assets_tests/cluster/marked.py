"""A ridge that leaves a mark when a fit begins and when it ends; a module of its own, for the workers to load."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lakehouse_assets.ml.estimators import Ridge, RidgeFit
from lakehouse_assets.ml.panel import Panel


@dataclass(frozen=True)
class Marked(Ridge):
    """Takes a second, so that there is a middle in which a machine can be killed."""

    folder: str = ""

    def fit(self, panel: Panel, cutoffs: Sequence[int], seed: int, standing: bool = True) -> Sequence[RidgeFit]:
        mark = Path(self.folder, f"{panel.series[0]}-{os.getpid()}")
        mark.with_suffix(".begun").touch()
        time.sleep(1)
        found = super().fit(panel, cutoffs, seed, standing)
        mark.with_suffix(".ended").touch()
        return found


def unfinished(folder: Path) -> list[tuple[str, int]]:
    """Series and process of each fit that has begun and not ended."""
    begun, ended = ({file.stem for file in folder.glob(f"*.{end}")} for end in ("begun", "ended"))
    return [(series, int(pid)) for series, pid in (stem.split("-") for stem in sorted(begun - ended))]
