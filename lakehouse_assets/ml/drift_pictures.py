"""Pictures of drift: regret by series and week, the day of the worst series before and after, the alarm budget used."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.pictures import ACCENT, INK, PALE, figure_of, png_of, readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WEEKS = 52
"""So many weeks are shown."""
SERIES = 40
"""So many series have a row in the heat map: those that lose most."""
_WORST = 3
_LATEST, _BEFORE = timedelta(weeks=4), timedelta(weeks=8)
_YEAR = timedelta(weeks=52)


def drift_pictures(history: pl.DataFrame, features: pl.LazyFrame, target: str, policy: DriftPolicy) -> dict[str, bytes]:
    """regret, alarms, and day (of the worst series, where there are rows of it): PNG by name.

    history: weekly verdicts, of all versions. features: the feature table, of which the worst series' rows are read.
    """
    latest: Any = history["week"].max()
    shown = history.filter(pl.col("week") > latest - timedelta(weeks=WEEKS))
    # A series that changed its champion may have been judged under both.
    shown = shown.sort("model_version").unique(["series_id", "week"], keep="last", maintain_order=True)
    shown = shown.with_columns(weekly=(pl.col("champion_loss") / pl.col("fresh_loss")).log())
    shown = shown.with_columns(pl.when(pl.col("weekly").is_finite()).then("weekly").alias("weekly"))
    order = _worst_first(shown, policy.weeks)
    drawn = {"regret": _heat_map(shown, order), "alarms": _alarms(shown, policy)}
    last = shown.filter(pl.col("week") == latest, pl.col("series_id").is_in(order[:_WORST]))
    day = day_picture(last, order[:_WORST], features, target)
    return drawn | ({"day": day} if day else {})


def _worst_first(history: pl.DataFrame, weeks: int) -> list[str]:
    """All series: those that have drifted now first, then by the mean regret of the latest weeks."""
    by = (
        history.sort("week")
        .group_by("series_id")
        .agg(drifted=pl.col("verdict").last() == "drift", mean=pl.col("weekly").tail(weeks).mean())
    )
    by = by.sort(["drifted", "mean", "series_id"], descending=[True, True, False], nulls_last=True)
    return by["series_id"].to_list()


def _heat_map(history: pl.DataFrame, order: list[str]) -> bytes:
    """The weekly log ratio of the champion's loss to a fresh fit's, the worst series on top, drift with a dot."""
    weeks = history["week"].unique().sort().to_list()
    rows = order[:SERIES]
    at = history.filter(pl.col("series_id").is_in(rows))
    place = [
        at[name].replace_strict(known, list(range(len(known))), return_dtype=pl.Int64).to_numpy()
        for name, known in (("series_id", rows), ("week", weeks))
    ]
    values = np.full((len(rows), len(weeks)), np.nan)
    values[place[0], place[1]] = at["weekly"].fill_null(np.nan).to_numpy()
    figure, (ax,) = figure_of(max(5.0, 2.6 + 0.2 * len(weeks)), max(2.2, 1.2 + 0.16 * len(rows)))
    image = ax.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-0.3, vmax=0.3, interpolation="nearest")
    ax.set_facecolor("#eceff1")
    drifted = (at["verdict"] == "drift").fill_null(False).to_numpy()
    ax.plot(place[1][drifted], place[0][drifted], ".", color=INK, markersize=3)
    first = at.group_by("model_version").agg(pl.col("week").min()).sort("week")
    for version, week in list(first.iter_rows())[1:]:
        ax.axvline(weeks.index(week) - 0.5, color=INK, linewidth=0.8)
        ax.text(weeks.index(week) - 0.4, -0.6, f"v{version}", fontsize=6, va="bottom")
    _week_ticks(ax, weeks)
    ax.set_yticks(range(len(rows)), [readable(one) for one in rows], fontsize=6)
    if len(order) > len(rows):
        ax.set_xlabel(f"the worst {len(rows)} of {len(order):,} series", fontsize=8)
    figure.colorbar(image, ax=ax, label="regret (log ratio to a fresh fit); dot: drift", shrink=0.9, extend="both")
    return png_of(figure)


def _alarms(history: pl.DataFrame, policy: DriftPolicy) -> bytes:
    """Flags by week, new and lasting, and how many the stated rate of false ones allows; below, both summed up."""
    flag = (pl.col("verdict") == "drift").fill_null(False)
    before = flag.shift(1, fill_value=False).over("series_id", order_by="week")
    by_week = (
        history.with_columns(new=flag & ~before, lasting=flag & before)
        .group_by("week")
        .agg(
            pl.col("new", "lasting").sum(),
            allowed=pl.col("verdict").is_in(["ok", "drift"]).sum() * policy.alarm_budget,
        )
        .sort("week")
    )
    weeks, new, lasting = (by_week[name].to_list() for name in ("week", "new", "lasting"))
    width = max(5.0, 2.2 + 0.18 * len(weeks))
    figure, (ax, total) = figure_of(width, 4.6, 2)
    _margins(figure, left=0.5 / width, right=1 - 0.2 / width, bottom=0.16, top=0.98, hspace=0.12)
    places = range(len(weeks))
    ax.bar(places, lasting, color=PALE, label="flagged the week before, too")
    ax.bar(places, new, bottom=lasting, color=ACCENT, label="new")
    ax.plot(places, by_week["allowed"], color=INK, linewidth=1, linestyle="--", label="allowed")
    ax.set_ylabel("series flagged", fontsize=8)
    ax.legend(fontsize=7, frameon=False, loc="upper left")
    used, allowed = by_week.select(
        used=(pl.col("new") + pl.col("lasting")).cum_sum(), allowed=pl.col("allowed").cum_sum()
    )
    total.plot(places, used, color=ACCENT, label=f"raised: {used[-1]:,}, {_share(used[-1], allowed[-1])}")
    said = f"allowed: {allowed[-1]:,.1f}, {1000 * policy.alarm_budget:g} of 1,000 quiet series-weeks"
    total.plot(places, allowed, color=INK, linewidth=1, linestyle="--", label=said)
    total.set_ylabel("flags so far", fontsize=8)
    total.legend(fontsize=7, frameon=False, loc="upper left")
    for one in (ax, total):
        one.tick_params(labelsize=7)
        one.set_xlim(-0.6, len(weeks) - 0.4)
        one.set_ylim(bottom=0, top=1.35 * max(1.0, one.get_ylim()[1]))
        _week_ticks(one, weeks)
    ax.tick_params(labelbottom=False)
    return png_of(figure)


def day_picture(
    last: pl.DataFrame,
    worst: Sequence[str],
    features: pl.LazyFrame,
    target: str,
    *,
    width: float = 2.9,
    dpi: int = 80,
) -> bytes | None:
    """The mean day of the worst series at the same season before and now; below, who errs by how much in which hour.

    last: their rows of the latest week. width: of one of them, in inches.
    """
    end = last["week"].max()
    if end is None:
        return None
    end = end + timedelta(weeks=1)  # type: ignore[operator]
    schema = features.collect_schema()
    hour = pl.col("hour").cast(pl.Int64) if "hour" in schema else pl.col("ts").dt.hour().cast(pl.Int64)
    # A year before, two weeks more on either side; where there is no such time, the weeks before the latest.
    season = (end - _YEAR - _LATEST - _LATEST / 2, end - _YEAR + _LATEST / 2)
    before = (end - _LATEST - _BEFORE, end - _LATEST)
    issued = pl.col("issued_at")
    rows = (
        features.filter(pl.col("series_id").is_in(worst), issued >= season[0], issued < end, pl.col(target).is_finite())
        .select("series_id", "issued_at", hour=hour, value=pl.col(target))
        .collect(engine="streaming")
    )
    by_hour = {
        (row["series_id"], name): row[name]
        for row in last.filter(pl.col("series_id").is_in(worst)).iter_rows(named=True)
        for name in ("champion_by_hour", "fresh_by_hour")
        if row.get(name)
    }
    # Verdicts of an earlier release do not tell the hours.
    lines = 2 if by_hour else 1
    total, height = width * len(worst) + 0.6, 0.4 + 1.9 * lines
    figure, axes = figure_of(total, height, lines, len(worst))
    below, above = 0.42 / height, 1 - 0.25 / height
    _margins(figure, left=0.75 / total, right=1 - 0.1 / total, bottom=below, top=above, wspace=0.2, hspace=0.16)
    for column, series in enumerate(worst):
        load = axes[column]
        mine = rows.filter(series_id=series)
        reference = mine.filter(issued >= season[0], issued < season[1])
        name = "a year before"
        if reference["issued_at"].n_unique() < _LATEST.days:
            reference, name = mine.filter(issued >= before[0], issued < before[1]), "8 weeks before"
        for part, color, label in (
            (reference, PALE, name),
            (mine.filter(issued >= end - _LATEST), ACCENT, "latest 4 weeks"),
        ):
            day = part.group_by("hour").agg(pl.col("value").mean()).sort("hour")
            load.plot(day["hour"], day["value"], color=color, label=label)
        load.set_title(readable(series), fontsize=9, loc="left")
        load.legend(fontsize=6, frameon=False)
        load.set_xticks(range(0, 25, 6))
        load.tick_params(labelsize=6)
    axes[0].set_ylabel("mean day", fontsize=7)
    for series, error in zip(worst, axes[len(worst) :], strict=False):
        for name, color, label in (("champion_by_hour", ACCENT, "champion"), ("fresh_by_hour", PALE, "fresh fit")):
            values = by_hour.get((series, name), [])
            if values:
                error.plot(range(len(values)), values, color=color, label=label, drawstyle="steps-mid")
        error.set_ylim(bottom=0)
        error.set_xlabel("hour of the day", fontsize=7)
        if error.lines:
            error.legend(fontsize=6, frameon=False)
        error.set_xticks(range(0, 25, 6))
        error.tick_params(labelsize=6)
    if by_hour:
        axes[len(worst)].set_ylabel("mean absolute error,\nlatest week", fontsize=7)
    return png_of(figure, dpi)


def _margins(figure: "Figure", **margins: float) -> None:
    """Margins as shares of the figure: to find them by layout takes as long as to draw."""
    figure.set_layout_engine(None)
    figure.subplots_adjust(**margins)


def _share(used: float, allowed: float) -> str:
    return f"{used / allowed:.0%} of the budget" if allowed else "before there is a budget"


def _week_ticks(ax: Any, weeks: list[Any]) -> None:
    shown = np.unique(np.linspace(0, len(weeks) - 1, min(len(weeks), 8)).astype(int))
    ax.set_xticks(shown, [f"{weeks[i]:%Y-%m-%d}" for i in shown], rotation=45, ha="right", fontsize=7)
