"""What of the history a training learns from where the world has changed: all of it, or less of what came before.

A break is when a member's world changed, as a drift finding dates it. While too little is known since then a fit learns
from everything, later less from the days before the break, or nothing. Regressions of each series alone heed it; what
learns across series, what smooths and what repeats a day adapt by themselves. A fitted model keeps its window, and so
does a fresh fit of its recipe: otherwise a champion would be judged by the history that it left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.panel import DAY_US, Panel

Window = Literal["all", "since_break", "weighted"]

BEFORE: Mapping[Window, float] = {"since_break": 0.0, "weighted": 0.3}
"""What a day before the break counts."""
LEAST_DAYS: Mapping[Window, int] = {"since_break": 182, "weighted": 28}
"""With fewer days since a break nothing is left out for it; both as benchmarks/drift_window.py found them."""


@dataclass(frozen=True)
class TrainingWindow:
    """breaks: member -> when its world changed (the others': not at all). before: what a day before counts.

    least_days: so many must be known since the break.
    """

    breaks: Mapping[str, datetime]
    before: float
    least_days: int

    def weights(self, panel: Panel) -> npt.NDArray[np.float64]:
        """(S, D) what each issue time of a panel counts."""
        return np.where(panel.issued < self._breaks(panel.series.tolist())[:, None], self.before, 1.0)

    def heeded(self, panel: Panel, cutoff: int) -> Panel:
        """A panel with these weights, for fits at a cutoff (microseconds since the epoch)."""
        held = self.holds(panel.series.tolist(), cutoff)
        return replace(panel, weight=np.where(held[:, None], self.weights(panel), 1.0))

    def holds(self, series: Sequence[str], cutoff: int) -> npt.NDArray[np.bool_]:
        """(S,) whether enough is known of each series since its break for a fit at a cutoff, microseconds."""
        held: npt.NDArray[np.bool_] = self._breaks(series) + self.least_days * DAY_US <= cutoff
        return held

    def _breaks(self, series: Sequence[str]) -> npt.NDArray[np.int64]:
        return np.array([int(self.breaks[s].timestamp() * 1e6) if s in self.breaks else 0 for s in series], np.int64)


def training_window(
    window: Window, breaks: Mapping[str, datetime], cutoff: datetime
) -> tuple[TrainingWindow | None, str]:
    """The window of a training at a cutoff, None for all history; and what it is, in words."""
    if window == "all":
        return None, "all history"
    least = LEAST_DAYS[window]
    used = {member: since for member, since in breaks.items() if since + timedelta(days=least) <= cutoff}
    weight = "none" if window == "since_break" else f"{BEFORE[window]:.0%}"
    said = []
    if used:
        said.append(f"{weight} of what came before the break for {len(used)} members")
    if len(used) < len(breaks):
        said.append(f"all history for {len(breaks) - len(used)} whose break is less than {least} days old")
    if not breaks:
        said.append("all history: no break is known")
    return (TrainingWindow(used, BEFORE[window], least) if used else None), "; ".join(said)
