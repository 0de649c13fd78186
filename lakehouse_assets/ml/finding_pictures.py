"""Pictures of one finding: its weeks against the fleet's, its errors before and after, its day before and now."""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from lakehouse_assets.ml.drift_pictures import day_picture
from lakehouse_assets.ml.pictures import ACCENT, INK, PALE, figure_of, png_of, readable

DAYS = 3
"""The day is drawn of so many members."""
_DPI = 120


def finding_pictures(
    history: pl.DataFrame, members: Sequence[str], since: datetime | None, features: pl.LazyFrame, target: str
) -> dict[str, bytes]:
    """week_by_week: regret against the fleet; before_and_after: errors; shape_of_the_day: before and now. PNG by name.

    history: rows of weekly losses. Weeks from ``since`` on count as after; without one there is no before_and_after.
    features: the feature table, of which the first members' rows are read.
    """
    known = history.filter((pl.col("champion_loss") > 0) & (pl.col("fresh_loss") > 0)).with_columns(
        regret=100 * (pl.col("champion_loss") / pl.col("fresh_loss") - 1)
    )
    mine = known.filter(pl.col("series_id").is_in(members))
    pictures = {}
    if not mine.is_empty():
        pictures["week_by_week"] = _regret_by_week(known, mine, members, since)
        if since is not None and mine["week"].min() < since <= mine["week"].max():  # type: ignore[operator]
            pictures["before_and_after"] = _before_and_after(mine, since)
    shown = members[:DAYS]
    latest = history.filter(pl.col("week") == pl.col("week").max())
    day = day_picture(latest, shown, features, target, width=6.4 / len(shown), dpi=_DPI)
    return pictures | ({"shape_of_the_day": day} if day else {})


def _regret_by_week(known: pl.DataFrame, mine: pl.DataFrame, members: Sequence[str], since: datetime | None) -> bytes:
    """The weekly regret of the members, each when they are few, over the middle 80 % of the fleet's."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    low, middle, high = (pl.col("regret").quantile(q).alias(f"q{q}") for q in (0.1, 0.5, 0.9))
    fleet = known.group_by("week").agg(low, middle, high).sort("week")
    figure, (ax,) = figure_of(7, 3)
    ax.axhline(0, color=INK, linewidth=0.6)
    if known["series_id"].n_unique() > 1:
        ax.fill_between(fleet["week"], fleet["q0.1"], fleet["q0.9"], color=PALE, alpha=0.35, linewidth=0)
        ax.plot(fleet["week"], fleet["q0.5"], color=PALE, label="all series: median and middle 80 %")
    if len(members) > 1:
        mean = mine.group_by("week").agg(pl.col("regret").mean()).sort("week")
        for (_,), rows in mine.filter(pl.col("series_id").is_in(members[:8])).sort("week").group_by("series_id"):
            ax.plot(rows["week"], rows["regret"], color=ACCENT, linewidth=0.7, alpha=0.4)
        ax.plot(mean["week"], mean["regret"], color=ACCENT, marker=".", label=f"mean of the {len(members):,} series")
    else:
        mine = mine.sort("week")
        ax.plot(mine["week"], mine["regret"], color=ACCENT, marker=".", label=" " + readable(members[0]))
    if since is not None:
        ax.axvline(since, color=INK, linewidth=0.8, linestyle="--")  # type: ignore[arg-type]
    locator = AutoDateLocator()
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    ax.xaxis.get_offset_text().set_fontsize(7)
    ax.set_ylabel("errors above a fresh fit's, %", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7, frameon=False, loc="upper left")
    return png_of(figure, dpi=_DPI)


def _before_and_after(mine: pl.DataFrame, since: datetime) -> bytes:
    """Errors of the champion and of a fresh fit before and after, relative to the champion's before."""
    parts = mine.group_by(after=pl.col("week") >= since).agg(pl.col("champion_loss", "fresh_loss").mean()).sort("after")
    unit = parts["champion_loss"][0]
    figure, (ax,) = figure_of(7, 2)
    for offset, column, color, label in (
        (-0.18, "champion_loss", ACCENT, "champion"),
        (0.18, "fresh_loss", PALE, "fresh fit"),
    ):
        values = [100 * value / unit for value in parts[column]]
        bars = ax.barh([1 - offset, 0 - offset], values, height=0.34, color=color, label=label)
        ax.bar_label(bars, fmt=" %.0f", fontsize=8)
    ax.set_yticks([1, 0], ["before", "since then"])
    ax.set_xlabel("mean absolute error, the champion's before = 100", fontsize=8)
    ax.margins(x=0.1)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return png_of(figure, dpi=_DPI)
