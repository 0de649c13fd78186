"""Pictures of anomaly detection: what candidates find, a calendar of days against expectation, the worst days."""

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from lakehouse_assets.ml.definition import BacktestResult
from lakehouse_assets.ml.pictures import ACCENT, INK, PALE, figure_of, png_of, readable
from lakehouse_assets.ml.unusual_days import EXPECTED, RESIDUALS

DAYS, ENTITIES, WORST = 182, 40, 3
"""Days and entities of the calendar, and days drawn hour by hour."""


def backtest_pictures(result: BacktestResult) -> dict[str, bytes]:
    """found: the share of each planted anomaly that candidates find at the same alarm budget."""
    rows = result.metrics.filter(slice="injected")
    kinds, names = rows["key"].unique().sort().to_list(), list(result.summary())
    figure, (ax,) = figure_of(6.4, 1.2 + 0.3 * len(names) * max(1, len(kinds)))
    height = 0.8 / max(1, len(names))
    for k, name in enumerate(names):
        mine = rows.filter(candidate=name).sort("key")
        bars = ax.barh(
            np.arange(mine.height) - k * height,
            mine["found"].to_numpy(),
            height,
            color=ACCENT if name == result.best else PALE,
            edgecolor="white",
            label=readable(name),
        )
        ax.bar_label(bars, [f" {readable(name)} {x:.2f}" for x in mine["found"]], fontsize=7)
    ax.set_yticks(np.arange(len(kinds)) - 0.4 + height / 2, [readable(kind) for kind in kinds])
    ax.set_xlim(0, 1.25)
    ax.set_xlabel("share of planted anomalies found, at the same alarm budget")
    return {"found": png_of(figure)}


def day_pictures(features: pl.LazyFrame, entity: str) -> dict[str, bytes]:
    """calendar: the largest miss of each day by entity; worst_days: the farthest days hour by hour. PNG by name."""
    latest: Any = features.select(pl.col("as_of").max()).collect().item()
    if latest is None:
        return {}
    since = latest - timedelta(days=DAYS)
    near = (pl.col("as_of") > since) & (pl.col("month") >= since.date().replace(day=1))
    rows = features.filter(near).select(entity, "as_of", "day", "level", *RESIDUALS, *EXPECTED).collect()
    farthest = pl.max_horizontal(pl.col(name).abs() for name in RESIDUALS)
    # In units of what is usual for the entity: else the smallest ones would fill the picture.
    rows = rows.with_columns(miss=farthest).with_columns(unusual=pl.col("miss") / pl.col("miss").median().over(entity))
    return {"calendar": _calendar(rows, entity), "worst_days": _worst(rows, entity)}


def _calendar(rows: pl.DataFrame, entity: str) -> bytes:
    order = rows.group_by(entity).agg(pl.col("unusual").max()).sort("unusual", entity, descending=[True, False])
    names = order[entity].head(ENTITIES).to_list()
    days = rows["day"].unique().sort()
    shown = rows.filter(pl.col(entity).is_in(names))
    grid = np.full((len(names), len(days)), np.nan)
    place = {name: k for k, name in enumerate(names)}
    grid[[place[name] for name in shown[entity]], days.search_sorted(shown["day"])] = shown["unusual"].to_numpy()
    figure, (ax,) = figure_of(9.6, 1.2 + 0.22 * len(names))
    drawn = ax.imshow(grid, aspect="auto", cmap="magma_r", vmin=1, vmax=8, interpolation="nearest")
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ticks = np.linspace(0, len(days) - 1, min(8, len(days))).astype(int)
    ax.set_xticks(ticks, [f"{days[int(k)]:%d %b}" for k in ticks], fontsize=7)
    figure.colorbar(drawn, ax=ax, label="farthest hour, in units of a usual day's")
    return png_of(figure)


def _worst(rows: pl.DataFrame, entity: str) -> bytes:
    worst = rows.sort("unusual", descending=True, nulls_last=True).head(WORST)
    figure, axes = figure_of(9.6, 2.6, 1, WORST)
    for ax, row in zip(axes, worst.iter_rows(named=True), strict=False):
        expected = np.array([row[n] for n in EXPECTED], float) * row["level"]
        actual = expected + np.array([row[n] for n in RESIDUALS], float) * row["level"]
        ax.plot(expected, color=PALE, label="expected")
        ax.plot(actual, color=ACCENT, label="actual")
        ax.set_title(f"{row[entity]}, {row['day']:%d %b %Y}", fontsize=8, color=INK)
        ax.set_xlabel("hour", fontsize=7)
    axes[0].set_ylabel("MW")
    axes[0].legend(fontsize=7, frameon=False)
    return png_of(figure)
