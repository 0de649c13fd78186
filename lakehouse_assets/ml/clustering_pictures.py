"""Pictures of segments: their days, how many there are and why, where customers lie, who moves, and drift by month."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from lakehouse_assets.ml.definition import CHAMPION, BacktestResult, DriftPolicy
from lakehouse_assets.ml.pictures import ACCENT, INK, PALE, figure_of, png_of
from lakehouse_assets.ml.segments import HOURS, SHAPE, FittedSegments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#22577a", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#2e86ab", "#a23b72", "#6c757d", "#bc6c25", "#38a3a5")
"""Of the segments, in order of their numbers."""


def backtest_pictures(result: BacktestResult) -> dict[str, bytes]:
    """leaderboard, segments, number, map, and, where there is a champion, moves: PNG by name."""
    best = result.fitted[result.best]
    assert isinstance(best, FittedSegments)
    drawn = {
        "leaderboard": _leaderboard(result),
        "segments": segments_picture(best),
        "number": number_picture(best),
        "map": map_picture(best),
    }
    if CHAMPION in result.losses.collect_schema():
        drawn["moves"] = moves_picture(result, best)
    return drawn


def _leaderboard(result: BacktestResult) -> bytes:
    """Silhouette and stability of every candidate, the best on top."""
    scores = {name: metrics for name, metrics in result.summary().items() if metrics["silhouette"] is not None}
    names = list(scores)[::-1]
    figure, axes = figure_of(8, 1.1 + 0.34 * len(names), 1, 2)
    for ax, measure, label in zip(
        axes, ("silhouette", "stability"), ("silhouette, months ahead", "agreement of resampled fits"), strict=True
    ):
        values = [scores[name][measure] for name in names]
        colors = [ACCENT if name == result.best else PALE for name in names]
        bars = ax.barh(names, [0.0 if value is None else value for value in values], color=colors)
        ax.bar_label(bars, ["" if value is None else f" {value:.3f}" for value in values], fontsize=8)
        ax.set_xlabel(f"{label} (higher is better)", fontsize=8)
        ax.margins(x=0.18)
        ax.tick_params(labelsize=8)
    axes[1].tick_params(labelleft=False)
    return png_of(figure)


def _color(model: FittedSegments, part: int) -> str:
    return COLORS[sorted(model.numbers).index(model.numbers[part]) % len(COLORS)]


def segments_picture(model: FittedSegments) -> bytes:
    """The mean day of each segment, working days with the middle 80 of 100 customers, and days off."""
    profile, count = model.profile, len(model.numbers)
    across = 2 if count in (2, 4) else 3
    down = -(-count // across)
    figure, axes = figure_of(3.0 * across + 0.4, 2.2 * down + 0.5, down, across)
    hours, total = np.arange(HOURS), sum(profile.sizes)
    # The days of all on one scale; a band may be cut.
    top = 1.25 * 100 * float(np.nanmax(profile.mean))
    for place, part in enumerate(sorted(range(count), key=lambda k: model.numbers[k])):
        ax, color = axes[place], _color(model, part)
        mean, low, high = (100 * values[part] for values in (profile.mean, profile.low, profile.high))
        ax.axhline(100 / HOURS, color="#c9d1d6", linewidth=0.8)
        ax.fill_between(hours, low[:HOURS], high[:HOURS], color=color, alpha=0.22, linewidth=0)
        ax.plot(hours, mean[:HOURS], color=color, linewidth=1.8, label="working days")
        ax.plot(hours, mean[HOURS:], color=color, linewidth=1.2, linestyle="--", label="days off")
        share = profile.sizes[part] / total
        ax.set_title(f"{model.numbers[part]}  {model.names[part]}", fontsize=9, loc="left", color=INK)
        ax.text(
            0.02,
            0.96,
            f"{profile.sizes[part]:,} customers, {share:.0%}",
            fontsize=7,
            va="top",
            color=INK,
            transform=ax.transAxes,
        )
        ax.set_ylim(0, top)
        ax.set_xticks(range(0, 25, 6))
        ax.tick_params(labelsize=7)
        if place % across == 0:
            ax.set_ylabel("% of the day in the hour", fontsize=7)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, frameon=False, ncols=2, loc="outside upper right")
    for ax in axes[count:]:
        ax.set_visible(False)
    figure.supxlabel("hour of the local day; band: the middle 80 of 100 customers; grey: an even day", fontsize=7)
    return png_of(figure)


def number_picture(model: FittedSegments) -> bytes:
    """Silhouette and inertia by number of segments, the one that was chosen marked."""
    curve, chosen = model.curve, len(model.numbers)
    figure, (clear, within) = figure_of(7.2, 2.7, 1, 2)
    for ax, values, label in (
        (clear, curve.silhouettes, "silhouette (higher is clearer)"),
        (within, curve.inertias, "inertia: sum of squares within"),
    ):
        ax.axvline(chosen, color=ACCENT, linewidth=1, linestyle=":")
        ax.plot(curve.numbers, values, color=INK, marker=".", linewidth=1)
        ax.plot([chosen], [values[curve.numbers.index(chosen)]], "o", color=ACCENT)
        ax.set_title(label, fontsize=9, loc="left")
        ax.set_xlabel("number of segments", fontsize=8)
        ax.set_xticks(curve.numbers)
        ax.tick_params(labelsize=7)
    within.set_ylim(bottom=0)
    if len(curve.numbers) > 1:
        ends = [0, -1]
        within.plot([curve.numbers[i] for i in ends], [curve.inertias[i] for i in ends], color=PALE, linewidth=0.8)
        within.annotate(
            f"elbow: {curve.elbow}",
            (curve.elbow, curve.inertias[curve.numbers.index(curve.elbow)]),
            xytext=(18, 18),
            textcoords="offset points",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": PALE},
        )
    return png_of(figure)


def map_picture(model: FittedSegments) -> bytes:
    """Customers by the two first principal components of their shapes, and the centres with their numbers."""
    figure, (ax,) = figure_of(6.4, 4.2)
    wide = model.sample.shape[1] > 1
    for part in sorted(range(len(model.numbers)), key=lambda k: model.numbers[k]):
        mine = model.sample[model.sample_labels == part]
        across = mine[:, 1] if wide else np.zeros(len(mine))
        label = f"{model.numbers[part]}  {model.names[part]}"
        ax.scatter(mine[:, 0], across, s=6, color=_color(model, part), alpha=0.5, linewidths=0, label=label)
        centre = model.parts.centres[part]
        ax.text(
            centre[0],
            centre[1] if wide else 0.0,
            str(model.numbers[part]),
            fontsize=10,
            ha="center",
            va="center",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": _color(model, part)},
        )
    ax.set_xlabel("first principal component of the shape", fontsize=8)
    ax.set_ylabel("second", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7, frameon=False, markerscale=2.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return png_of(figure)


def moves_picture(result: BacktestResult, best: FittedSegments) -> bytes:
    """How many customers of each of the champion's segments the challenger puts where, in the latest snapshot."""
    present = result.losses.filter(pl.col("fold") == pl.col("fold").max()).select(result.best, CHAMPION).collect()
    called = {number: f"{number}  {name}" for number, name in best.called.items()}
    rows, columns = (sorted(present[name].unique(), key=_nobody_last) for name in (CHAMPION, result.best))
    table = np.array(
        [
            [((present[CHAMPION].eq_missing(r)) & present[result.best].eq_missing(c)).sum() for c in columns]
            for r in rows
        ]
    )
    figure, (ax,) = figure_of(2.6 + 0.8 * len(columns), 1.9 + 0.36 * len(rows))
    ax.imshow(table / np.maximum(table.sum(axis=1, keepdims=True), 1), cmap="Greys", vmin=0, vmax=4, aspect="auto")
    for i, j in np.ndindex(table.shape):
        if table[i, j]:
            ax.text(j, i, f"{table[i, j]:,}", ha="center", va="center", fontsize=8, color=INK)
    ax.set_yticks(range(len(rows)), ["none" if r is None else called.get(r, str(r)) for r in rows], fontsize=8)
    ax.set_xticks(range(len(columns)), ["none" if c is None else str(c) for c in columns], fontsize=8)
    ax.set_xlabel(f"segment by {result.best}", fontsize=8)
    ax.set_ylabel("by the champion", fontsize=8)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return png_of(figure)


def _nobody_last(number: int | None) -> tuple[bool, int]:
    return number is None, number or 0


def drift_pictures(history: pl.DataFrame, policy: DriftPolicy) -> dict[str, bytes]:
    """shares (and distance) by month, drift marked: PNG by name. history: of all versions."""
    return {"shares": _months(history)} if history.height else {}


def _months(history: pl.DataFrame) -> bytes:
    """Shares of the segments by month; below, how far customers are from their centres; drift with a dot."""
    rows = history.sort("model_version").unique("window_start", keep="last").sort("window_start")
    months = [f"{at:%Y-%m}" for at in rows["window_start"]]
    figure, (shares, distance) = figure_of(max(5.0, 2.6 + 0.32 * len(months)), 4.4, 2)
    numbers = sorted({number for found in rows["segments"] for number in found})
    base = np.zeros(len(months))
    for place, number in enumerate(numbers):
        heights = np.array(
            [
                dict(zip(found, share, strict=True)).get(number, 0.0)
                for found, share in zip(rows["segments"], rows["shares"], strict=True)
            ]
        )
        shares.bar(months, 100 * heights, bottom=base, color=COLORS[place % len(COLORS)], label=str(number), width=0.9)
        base += 100 * heights
    shares.bar(months, 100 - base, bottom=base, color="#dfe4e7", label="none", width=0.9)
    shares.set_ylabel("customers, %", fontsize=8)
    shares.legend(
        fontsize=7, frameon=False, title="segment", title_fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    _mark(shares, rows, months, [102.0] * len(months))
    values = [100 * (value or 0.0) for value in rows["distance_change"]]
    distance.axhline(0, color=PALE, linewidth=0.8)
    distance.plot(months, values, color=INK, marker=".", linewidth=1)
    _mark(distance, rows, months, values)
    distance.set_ylabel("distance to the centre,\n% above training's", fontsize=8)
    for ax in (shares, distance):
        ax.tick_params(labelsize=7)
        ax.set_xlim(-0.6, len(months) - 0.4)
        ax.set_xticks(range(0, len(months), max(1, len(months) // 12)))
    return png_of(figure)


def _mark(ax: "Axes", rows: pl.DataFrame, months: list[str], heights: list[float]) -> None:
    """A dot where the verdict is drift."""
    hit = [i for i, said in enumerate(rows["verdict"]) if said == "drift"]
    if hit:
        ax.plot(hit, [heights[i] for i in hit], "o", color=ACCENT, markersize=4, label="drift", clip_on=False)


def finding_pictures(history: pl.DataFrame, features: pl.LazyFrame, since: str | None) -> dict[str, bytes]:
    """The mean day of all customers before and since a finding; shares by month: PNG by name."""
    drawn = {"shares": _months(history)} if history.height else {}
    if since is None:
        return drawn
    begun: Any = datetime.fromisoformat(since)
    side = (pl.col("as_of") >= begun).alias("later")
    means = features.group_by(side).agg(pl.col(SHAPE).cast(pl.Float64).mean()).collect()
    figure, (ax,) = figure_of(6.4, 2.8)
    for later, color, label in ((False, PALE, "before"), (True, ACCENT, "since")):
        day = means.filter(later=later).select(SHAPE).to_numpy()
        for values in day:
            ax.plot(range(HOURS), 100 * values[:HOURS], color=color, label=f"{label}, working days")
            ax.plot(range(HOURS), 100 * values[HOURS:], color=color, linestyle="--", label=f"{label}, days off")
    ax.set_xticks(range(0, 25, 6))
    ax.set_xlabel("hour of the local day", fontsize=8)
    ax.set_ylabel("% of the day in the hour", fontsize=8)
    ax.set_ylim(bottom=0)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7, frameon=False)
    return {"day": png_of(figure), **drawn}
