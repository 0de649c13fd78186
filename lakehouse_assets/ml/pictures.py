"""Pictures that a person would rather see than a table: small PNGs, drawn without a display."""

import io
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from lakehouse_assets.ml.definition import BacktestResult, Trial
from lakehouse_assets.ml.intervals import BANDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, ACCENT, PALE = "#22303c", "#d1495b", "#8fa3b0"


def figure_of(width: float, height: float, rows: int = 1, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """A figure of so many inches, and its panels, row by row, in the style of all pictures here."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def png_of(figure: "Figure", dpi: int = 80) -> bytes:
    """A figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def backtest_pictures(result: BacktestResult) -> dict[str, bytes]:
    """leaderboard, forecast, hours, series, and training of what learns in epochs: PNG by name, from a backtest."""
    return {
        "leaderboard": _leaderboard(result),
        "forecast": _forecast(result),
        "hours": _hours(result),
        "series": _series(result),
        **{f"training_{name}": _curve(name, curve) for name, curve in result.curves.items()},
    }


def _curve(name: str, curve: Sequence[Mapping[str, float]]) -> bytes:
    """The measures of a candidate that learns in epochs, after each of them."""
    from matplotlib.ticker import MaxNLocator

    figure, (ax,) = figure_of(6.4, 3)
    measures = list(dict.fromkeys(measure for epoch in curve for measure in epoch))
    for measure, color in zip(measures, (PALE, ACCENT, INK), strict=False):
        values = [epoch.get(measure, np.nan) for epoch in curve]
        ax.plot(range(1, len(curve) + 1), values, color=color, marker=".", label=measure.replace("_", " "))
    ax.set_xlabel(f"epoch of {readable(name)}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize=7, frameon=False)
    return png_of(figure)


def _leaderboard(result: BacktestResult) -> bytes:
    """The primary metric of every candidate, the best on top."""
    scores = {name: metrics[result.primary] for name, metrics in result.summary().items()}
    scores = {name: value for name, value in scores.items() if value is not None}
    figure, (ax,) = figure_of(6.4, 0.9 + 0.34 * len(scores))
    names = list(scores)[::-1]
    bars = ax.barh(names, [scores[n] for n in names], color=[ACCENT if n == result.best else PALE for n in names])
    ax.bar_label(bars, fmt=" %.3f", fontsize=8)
    ax.set_xlabel("error relative to the seasonal naive forecast (lower is better)")
    ax.margins(x=0.12)
    return png_of(figure)


def search_picture(trials: Sequence[Trial]) -> bytes:
    """The best loss of every family, the best on top; below, all trials in order, and the best so far."""
    ended = [trial for trial in trials if trial.losses]
    complete = [trial for trial in ended if trial.state == "complete"]
    best = {f: min((t for t in ended if t.family == f), key=_rank) for f in {t.family for t in ended}}
    order = sorted(best, key=lambda family: _rank(best[family]), reverse=True)
    figure, (families, history) = figure_of(7, 3.2 + 0.3 * len(order), 2)
    colours = [ACCENT if family == (order or [""])[-1] else PALE for family in order]
    bars = families.barh(order, [best[f].losses[-1] for f in order], color=colours)
    labels = ["" if best[f].state == "complete" else " (given up early)" for f in order]
    families.bar_label(bars, [f" {best[f].losses[-1]:.3f}{label}" for f, label in zip(order, labels, strict=True)])
    families.set_title("best trial of each family", fontsize=9, loc="left")
    families.margins(x=0.25)
    for family in order[::-1]:
        mine = [trial for trial in ended if trial.family == family]
        history.plot([t.number for t in mine], [t.losses[-1] for t in mine], ".", markersize=8, label=family)
    given_up = [trial for trial in ended if trial.state != "complete"]
    history.plot([t.number for t in given_up], [t.losses[-1] for t in given_up], "x", color=INK, label="given up early")
    if complete:
        so_far = np.minimum.accumulate([t.losses[-1] for t in complete])
        history.step([t.number for t in complete], so_far, where="post", color=ACCENT, linewidth=1)
    history.set_xlabel("trial")
    history.set_ylabel("error relative to the seasonal naive")
    history.legend(fontsize=6, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return png_of(figure)


def _rank(trial: Trial) -> tuple[bool, float]:
    return trial.state != "complete", trial.losses[-1]


def _forecast(result: BacktestResult, panels: int = 3) -> bytes:
    """Forecast and actual over the last fold, for the largest series."""
    last = result.losses.filter(pl.col("fold") == pl.col("fold").max())
    size = last.group_by("series_id").agg(pl.col("y").abs().mean()).sort(["y", "series_id"], descending=[True, False])
    chosen = size.head(panels).collect(engine="streaming")["series_id"].to_list()
    shown = last.filter(pl.col("series_id").is_in(chosen)).sort("ts").collect()
    figure, axes = figure_of(8, 1.8 * len(chosen), len(chosen))
    for ax, series in zip(axes, chosen, strict=True):
        rows = shown.filter(series_id=series)
        ax.plot(rows["ts"], rows["y"], color=INK, linewidth=1, label="actual")
        ax.plot(rows["ts"], rows[result.best], color=ACCENT, linewidth=1, label=result.best)
        ax.set_title(series, fontsize=9, loc="left")
        ax.tick_params(labelsize=7)
    axes[0].legend(fontsize=7, frameon=False, ncols=2, loc="upper right")
    return png_of(figure)


def _hours(result: BacktestResult) -> bytes:
    """MAPE by hour of the horizon."""
    figure, (ax,) = figure_of(6.4, 3)
    hours = result.metrics.filter(slice="horizon").with_columns(pl.col("key").cast(pl.Int32)).sort("key")
    for (name,), rows in hours.group_by("candidate", maintain_order=True):
        best = name == result.best
        ax.plot(rows["key"], rows["mase"], color=ACCENT if best else None, linewidth=2 if best else 1, label=str(name))
    ax.set_xlabel("hours after the issue time")
    ax.set_ylabel("scaled error (MASE)")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=7, frameon=False)
    return png_of(figure)


def _series(result: BacktestResult, most: int = 15) -> bytes:
    """The series with the largest errors, in percent."""
    rows = result.metrics.filter(slice="series", candidate=result.best).filter(pl.col("mape").is_not_null())
    rows = rows.sort(["mape", "key"], descending=[True, False]).head(most).reverse()
    figure, (ax,) = figure_of(6.4, 0.9 + 0.22 * rows.height)
    ax.barh(rows["key"].to_list(), rows["mape"].to_list(), color=PALE)
    ax.set_xlabel(f"mean absolute percentage error of {result.best}: worst series")
    ax.tick_params(labelsize=7)
    return png_of(figure)


def error_pictures(errors: pl.LazyFrame) -> dict[str, bytes]:
    """coverage: by week and interval against its nominal; band: the latest week with its intervals. PNG by name."""
    if not errors.select("pinball").drop_nulls().head(1).collect().height:
        return {}
    return {"coverage": _coverage(errors), "band": _band(errors)}


def _coverage(errors: pl.LazyFrame) -> bytes:
    """Share of the values inside their interval, week by week, over all series."""
    shares = [pl.col(f"covered_{band}").mean() * 100 for band in BANDS]
    weekly = errors.group_by(pl.col("issued_at").dt.truncate("1w").alias("week")).agg(shares).sort("week")
    rows = weekly.collect(engine="streaming")
    figure, (ax,) = figure_of(6.4, 3)
    for band, color in zip(BANDS, (ACCENT, INK), strict=True):
        ax.axhline(float(band), color=color, linewidth=0.8, linestyle="--")
        ax.plot(rows["week"], rows[f"covered_{band}"], color=color, marker=".", label=f"{band} % interval")
    ax.set_ylabel("values inside, %")
    ax.set_ylim(top=100)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7, frameon=False, loc="lower left")
    return png_of(figure)


def _band(errors: pl.LazyFrame, panels: int = 3) -> bytes:
    """Forecasts with their intervals and what came, over the latest week, for the largest series."""
    week = errors.filter(pl.col("issued_at") > pl.col("issued_at").max() - timedelta(days=7))
    size = week.group_by("series_id").agg(pl.col("value").abs().mean())
    chosen = size.sort(["value", "series_id"], descending=[True, False]).head(panels).collect()["series_id"].to_list()
    shown = week.filter(pl.col("series_id").is_in(chosen)).sort("ts").collect()
    figure, axes = figure_of(8, 1.8 * len(chosen), len(chosen))
    for ax, series in zip(axes, chosen, strict=True):
        rows = shown.filter(series_id=series)
        for (band, (lower, upper)), alpha in zip(BANDS.items(), (0.35, 0.2), strict=True):
            ax.fill_between(
                rows["ts"], rows[lower], rows[upper], color=ACCENT, alpha=alpha, linewidth=0, label=f"{band} %"
            )
        ax.plot(rows["ts"], rows["yhat"], color=ACCENT, linewidth=1, label="forecast")
        ax.plot(rows["ts"], rows["value"], color=INK, linewidth=1, label="actual")
        ax.set_title(series, fontsize=9, loc="left")
        ax.tick_params(labelsize=7)
    axes[0].legend(fontsize=7, frameon=False, ncols=4, loc="upper right")
    return png_of(figure)


def readable(name: str) -> str:
    """A name as text: matplotlib takes what stands between dollars for a formula."""
    return name.replace("$", r"\$")


def costs_picture(ledger: pl.DataFrame) -> bytes:
    """What the fleet costs: minutes by asset and week on the clock, and CPU minutes by candidate and week.

    ledger: at, asset, candidate, cpu_seconds, wall_seconds.
    """
    figure, axes = figure_of(7.2, 5.6, rows=2)
    weekly = ledger.with_columns(week=pl.col("at").dt.truncate("1w").dt.strftime("%Y-%m-%d"))
    for ax, rows, by, column, label in (
        (axes[0], weekly.filter(candidate=""), "asset", "wall_seconds", "minutes on the clock, by asset"),
        (axes[1], weekly.filter(pl.col("candidate") != ""), "candidate", "cpu_seconds", "CPU minutes, by candidate"),
    ):
        weeks = sorted(set(weekly["week"]))
        order = rows.group_by(by).agg(pl.col(column).sum()).sort([column, by], descending=[True, False])[by].to_list()
        bottom = np.zeros(len(weeks))
        for i, name in enumerate(order[:9]):
            mine = dict(rows.filter(pl.col(by) == name).group_by("week").agg(pl.col(column).sum() / 60).iter_rows())
            heights = np.array([mine.get(week) or 0.0 for week in weeks])
            ax.bar(weeks, heights, bottom=bottom, label=name, color=f"C{i}")
            bottom += heights
        ax.set_ylabel(label)
        ax.tick_params(axis="x", rotation=45, labelsize=7)
        if order:
            ax.legend(fontsize=7, frameon=False)
    return png_of(figure)
