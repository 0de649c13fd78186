"""Pictures of models of entities: how well they rank, how true their probabilities are, what acting on them gains.

All are drawn from the out-of-sample predictions of a backtest, or from rows of the monitoring tables.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.definition import BacktestResult, DriftPolicy
from lakehouse_assets.ml.entity_metrics import THRESHOLDS, Action
from lakehouse_assets.ml.pictures import ACCENT, INK, PALE, figure_of, png_of, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]
_DRAWN_DEPTH = 3
"""Levels of a tree that are drawn."""
_BINS = 10


def classification_pictures(result: BacktestResult, reference: str, action: Action) -> dict[str, bytes]:
    """leaderboard, roc, precision_recall, calibration, lift, value, importance, and tree where a tree competed."""
    losses = result.losses.collect()
    y = losses["y"].to_numpy() > 0
    names = [name for name in result.summary() if name != reference]
    said = {name: losses[name].to_numpy() for name in names}
    return {
        "leaderboard": _leaderboard(result, "area under the ROC curve, with its 95 % interval (higher is better)"),
        "roc": _roc(y, said, result.best),
        "precision_recall": _precision_recall(y, said, result.best),
        "calibration": _calibration(y, said, result.best),
        "lift": _lift(y, said, result.best),
        "value": _value(y, said[result.best], action, result.best),
        **_importance(result),
        **_tree(result),
    }


def regression_pictures(result: BacktestResult, reference: str) -> dict[str, bytes]:
    """leaderboard, actual, residuals, importance, and tree where a tree competed."""
    losses = result.losses.collect()
    y, said = losses["y"].to_numpy(), losses[result.best].to_numpy()
    return {
        "leaderboard": _leaderboard(result, "mean absolute error, with its 95 % interval (lower is better)"),
        "actual": _actual(y, said, result.best),
        "residuals": _residuals(y, said, result.best),
        **_importance(result),
        **_tree(result),
    }


# --- backtest ---------------------------------------------------------------------------------------------------------


def _leaderboard(result: BacktestResult, label: str) -> bytes:
    """The primary metric of every candidate with its interval, the best on top."""
    rows = [(name, metrics) for name, metrics in result.summary().items() if metrics[result.primary] is not None]
    figure, (ax,) = figure_of(6.4, 0.9 + 0.34 * len(rows))
    for place, (name, metrics) in enumerate(rows[::-1]):
        middle = metrics[result.primary]
        ends = [metrics[f"{result.primary}_{end}"] for end in ("low", "high")]
        ends = [middle if end is None else end for end in ends]
        colour = ACCENT if name == result.best else PALE
        ax.plot(ends, [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        ax.plot(middle, place, "o", color=colour)
        ax.annotate(f"{middle:.4g}", (ends[1], place), (4, -3), textcoords="offset points", fontsize=8)
    ax.set_yticks(range(len(rows)), [readable(name) for name, _ in rows[::-1]])
    ax.set_xlabel(label, fontsize=8)
    ax.margins(x=0.12)
    return png_of(figure)


def _curves(ax: "Axes", drawn: Mapping[str, tuple[Array, Array]], best: str) -> None:
    """A line for each candidate, the best on top of the others."""
    for name, (x, y) in sorted(drawn.items(), key=lambda one: one[0] == best):
        first = name == best
        ax.plot(
            x, y, color=ACCENT if first else None, linewidth=2 if first else 0.8, alpha=1 if first else 0.7, label=name
        )
    ax.legend(fontsize=7, frameon=False)


def _counts(y: npt.NDArray[np.bool_], p: Array) -> tuple[Array, Array]:
    """(T,) the events, and the others, among the rows of the highest probabilities, a step for each that differs."""
    order = np.argsort(-p, kind="stable")
    y, p = y[order], p[order]
    last = np.flatnonzero(np.append(p[1:] != p[:-1], True))
    return np.append(0.0, np.cumsum(y)[last]), np.append(0.0, np.cumsum(~y)[last])


def _roc(y: npt.NDArray[np.bool_], said: Mapping[str, Array], best: str) -> bytes:
    """Share of the events that are found, against that of the others that are taken for events."""
    figure, (ax,) = figure_of(4.6, 4.4)
    drawn = {name: _counts(y, p) for name, p in said.items()}
    _curves(
        ax,
        {name: (others / max(1, (~y).sum()), found / max(1, y.sum())) for name, (found, others) in drawn.items()},
        best,
    )
    ax.plot([0, 1], [0, 1], color=PALE, linewidth=0.8, linestyle="--")
    ax.set_xlabel("share of the others taken for events")
    ax.set_ylabel("share of the events found")
    return png_of(figure)


def _precision_recall(y: npt.NDArray[np.bool_], said: Mapping[str, Array], best: str) -> bytes:
    """Share of events among those taken for events, against the share of the events found."""
    figure, (ax,) = figure_of(4.6, 4.4)
    drawn = {}
    for name, p in said.items():
        found, others = (values[1:] for values in _counts(y, p))
        drawn[name] = (found / max(1, y.sum()), found / (found + others))
    _curves(ax, drawn, best)
    ax.axhline(y.mean(), color=PALE, linewidth=0.8, linestyle="--")
    ax.set_xlabel("share of the events found (recall)")
    ax.set_ylabel("share of events among those (precision)")
    ax.set_ylim(0, 1)
    return png_of(figure)


def _binned(y: Array, p: Array) -> tuple[Array, Array]:
    """Means of predictions and of what came, by tenths of the rows in order of the predictions."""
    parts = np.array_split(np.argsort(p, kind="stable"), _BINS)
    parts = [part for part in parts if len(part)]
    return np.array([p[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])


def _calibration(y: npt.NDArray[np.bool_], said: Mapping[str, Array], best: str) -> bytes:
    """How often the event came where a probability was given."""
    figure, (ax,) = figure_of(4.6, 4.4)
    drawn = {name: _binned(y.astype(float), p) for name, p in said.items()}
    _curves(ax, drawn, best)
    end = max(max(x.max(), z.max()) for x, z in drawn.values())
    ax.plot([0, end], [0, end], color=INK, linewidth=0.8, linestyle="--")
    ax.set_xlabel("probability (mean of a tenth of the rows)")
    ax.set_ylabel("share of events that came")
    return png_of(figure)


def _lift(y: npt.NDArray[np.bool_], said: Mapping[str, Array], best: str) -> bytes:
    """How many times as many events as among all, in the part with the highest probabilities."""
    figure, (ax,) = figure_of(5.4, 3.6)
    drawn = {}
    for name, p in said.items():
        found, others = (values[1:] for values in _counts(y, p))
        share = (found + others) / len(y)
        seen = share >= 0.01
        drawn[name] = (share[seen] * 100, (found / (found + others))[seen] / max(y.mean(), 1e-12))
    _curves(ax, drawn, best)
    ax.axhline(1, color=PALE, linewidth=0.8, linestyle="--")
    ax.set_xlabel("part with the highest probabilities, %")
    ax.set_ylabel("lift")
    return png_of(figure)


def _value(y: npt.NDArray[np.bool_], p: Array, action: Action, best: str) -> bytes:
    """Above, what acting gains by threshold; below, what that means for events and others."""
    figure, (value, confusion) = figure_of(6.4, 5.2, 2)
    gains = action.curve(y.astype(float), p) * 1000
    value.plot(THRESHOLDS, gains, color=ACCENT)
    at = THRESHOLDS[int(np.argmax(gains))]
    value.axvline(at, color=INK, linewidth=0.8, linestyle="--")
    value.axhline(0, color=PALE, linewidth=0.8)
    value.set_title(f"{readable(best)}: acting from {at:.2f} on gains most", fontsize=9, loc="left")
    value.set_ylabel("gain by 1,000 entities")
    value.set_ylim(bottom=max(gains.min(), -1.2 * max(gains.max(), 1.0)))
    acted = p[None, :] >= THRESHOLDS[:, None] if p.size <= 50_000 else p[None, ::10] >= THRESHOLDS[:, None]
    event = y if p.size <= 50_000 else y[::10]
    parts = {
        "event, acted on": (acted & event).mean(axis=1),
        "event, missed": (~acted & event).mean(axis=1),
        "no event, acted on": (acted & ~event).mean(axis=1),
        "no event, left alone": (~acted & ~event).mean(axis=1),
    }
    colours = [ACCENT, "#e8a3ab", PALE, "#dfe5e9"]
    confusion.stackplot(THRESHOLDS, *[100 * part for part in parts.values()], labels=list(parts), colors=colours)
    confusion.set_xlabel("threshold")
    confusion.set_ylabel("entities, %")
    confusion.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return png_of(figure)


def _importance(result: BacktestResult, most: int = 20) -> dict[str, bytes]:
    """By how much the best candidate's primary metric gets worse when an input is shuffled."""
    rows = result.metrics.filter(pl.col("slice") == "permuted", pl.col(result.primary).is_not_null())
    whole = rows.filter(key="")
    if not whole.height or rows.height < 2:
        return {}
    sign = -1 if result.higher_is_better else 1
    lost = sign * (pl.col(result.primary) - whole[result.primary][0])
    ranked = rows.filter(pl.col("key") != "").with_columns(lost=lost).sort(["lost", "key"], descending=[True, False])
    shown = ranked.head(most).reverse()
    figure, (ax,) = figure_of(6.4, 0.9 + 0.22 * shown.height)
    ax.barh([readable(name) for name in shown["key"]], shown["lost"].to_list(), color=PALE)
    ax.set_xlabel(f"{result.primary} that {result.best} loses when the input is shuffled (last fold)", fontsize=8)
    ax.tick_params(labelsize=7)
    return {"importance": png_of(figure)}


def _tree(result: BacktestResult) -> dict[str, bytes]:
    """The decision tree among the fitted candidates: its upper levels."""
    from lakehouse_assets.ml.recipes import DecisionTree

    trees = [fit for fit in result.fitted.values() if isinstance(getattr(fit, "recipe", None), DecisionTree)]
    pipeline = trees[0].learned.pipeline if trees else None  # type: ignore[attr-defined]
    if pipeline is None:
        return {}
    from sklearn.tree import plot_tree

    names = [name.partition("__")[2] for name in pipeline[:-1].get_feature_names_out()]
    figure, (ax,) = figure_of(14, 5)
    plot_tree(
        pipeline[-1],
        max_depth=_DRAWN_DEPTH,
        feature_names=[readable(name) for name in names],
        filled=True,
        impurity=False,
        proportion=True,
        rounded=True,
        precision=3,
        fontsize=6,
        ax=ax,
    )
    return {"tree": png_of(figure)}


def _actual(y: Array, said: Array, best: str) -> bytes:
    """Predicted against actual."""
    figure, (ax,) = figure_of(5, 4.6)
    ax.hexbin(said, y, gridsize=40, mincnt=1, cmap="Greys", bins="log", linewidths=0)
    x, mean = _binned(y, said)
    ax.plot(x, mean, color=ACCENT, marker=".", label="mean of a tenth of the rows")
    low, high = np.quantile(np.concatenate([y, said]), [0.001, 0.999])
    ax.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle="--")
    ax.set_xlabel(f"predicted by {readable(best)}")
    ax.set_ylabel("actual")
    ax.legend(fontsize=7, frameon=False)
    return png_of(figure)


def _residuals(y: Array, said: Array, best: str) -> bytes:
    """The errors: how they are spread, and their middle and outer parts by what was predicted."""
    figure, (spread, parts) = figure_of(7.2, 3.2, 1, 2)
    error = said - y
    low, high = np.quantile(error, [0.005, 0.995])
    spread.hist(np.clip(error, low, high), bins=40, color=PALE)
    spread.axvline(0, color=INK, linewidth=0.8)
    spread.set_xlabel(f"prediction of {readable(best)} less actual", fontsize=8)
    tenths = [part for part in np.array_split(np.argsort(said, kind="stable"), _BINS) if len(part)]
    x = [said[part].mean() for part in tenths]
    quantiles = np.array([np.quantile(error[part], [0.1, 0.5, 0.9]) for part in tenths])
    parts.fill_between(x, quantiles[:, 0], quantiles[:, 2], color=PALE, alpha=0.4, linewidth=0, label="80 %")
    parts.plot(x, quantiles[:, 1], color=ACCENT, marker=".", label="median")
    parts.axhline(0, color=INK, linewidth=0.8)
    parts.set_xlabel("predicted", fontsize=8)
    parts.legend(fontsize=7, frameon=False)
    return png_of(figure)


# --- monitoring -------------------------------------------------------------------------------------------------------


def outcome_pictures(errors: pl.LazyFrame, time: str, predicted: str, outcome: str) -> dict[str, bytes]:
    """outcomes: what was predicted and what came, snapshot by snapshot; and over all, by tenths of the predictions."""
    rows = errors.select(time, predicted, outcome).collect()
    if rows.is_empty():
        return {}
    by_time = rows.group_by(time).agg(pl.col(predicted).mean(), pl.col(outcome).mean()).sort(time)
    figure, (series, tenths) = figure_of(8.4, 3.4, 1, 2)
    series.plot(by_time[time], by_time[outcome], color=INK, marker=".", label="came")
    series.plot(by_time[time], by_time[predicted], color=ACCENT, marker=".", label="predicted")
    series.set_title("mean by snapshot", fontsize=9, loc="left")
    series.tick_params(labelsize=7)
    series.legend(fontsize=7, frameon=False)
    x, mean = _binned(rows[outcome].to_numpy(), rows[predicted].to_numpy())
    tenths.plot(x, mean, color=ACCENT, marker=".")
    ends = [min(x.min(), mean.min()), max(x.max(), mean.max())]
    tenths.plot(ends, ends, color=INK, linewidth=0.8, linestyle="--")
    tenths.set_title("by tenths of the predictions", fontsize=9, loc="left")
    tenths.set_xlabel("predicted", fontsize=8)
    tenths.set_ylabel("came", fontsize=8)
    return {"outcomes": png_of(figure)}


def drift_pictures(history: pl.DataFrame, policy: DriftPolicy, most: int = 20) -> dict[str, bytes]:
    """inputs: how unusual each input and the predictions were, window by window; loss: the champion's, once known."""
    if history.is_empty():
        return {}
    rows = history.sort("window_start", "model_version").unique("window_start", keep="last", maintain_order=True)
    of_window = [_p_values(row) for row in rows.iter_rows(named=True)]
    least: dict[str, float] = {}
    for row in of_window:
        for name, p in row.items():
            least[name] = min(p, least.get(name, 1.0))
    names = sorted(least, key=lambda name: least[name])[:most]
    pictures = {}
    if names:
        shown = -np.log10(np.array([[max(row.get(name, np.nan), 1e-6) for row in of_window] for name in names]))
        figure, (ax,) = figure_of(2.5 + 0.5 * len(of_window), 1.0 + 0.24 * len(names))
        image = ax.imshow(shown, aspect="auto", cmap="Reds", vmin=0, vmax=6)
        ax.set_yticks(range(len(names)), [readable(name) for name in names], fontsize=7)
        _windows(ax, rows["window_start"])
        figure.colorbar(image, ax=ax, label="unusual (-log10 p)").ax.tick_params(labelsize=7)
        ax.set_title(f"false-alarm rate {policy.false_alarm_rate:.0%}", fontsize=8, loc="left")
        pictures["inputs"] = png_of(figure)
    known = rows.drop_nulls("champion_loss")
    if known.height:
        figure, (ax,) = figure_of(6.4, 3)
        ax.plot(known["labelled_as_of"], known["champion_loss"], color=ACCENT, marker=".", label="once labels came")
        ax.plot(known["labelled_as_of"], known["expected_loss"], color=INK, linestyle="--", label="in the backtest")
        ax.set_ylabel("mean loss")
        ax.tick_params(labelsize=7)
        ax.legend(fontsize=7, frameon=False)
        pictures["loss"] = png_of(figure)
    return pictures


def _p_values(row: Mapping[str, Any]) -> dict[str, float]:
    found = dict(zip(row["inputs"] or [], row["input_p_values"] or [], strict=True))
    return {name: p for name, p in {**found, "predictions": row["score_p_value"]}.items() if p is not None}


def _windows(ax: "Axes", starts: Sequence[Any] | pl.Series) -> None:
    """The windows below an axis whose places are theirs."""
    ax.set_xticks(range(len(starts)), [f"{start:%Y-%m-%d}" for start in starts], rotation=60, fontsize=7, ha="right")


def finding_pictures(features: pl.LazyFrame, finding: Mapping[str, Any], time: str) -> dict[str, bytes]:
    """input: of what moved, the middle and outer parts by snapshot; of a category, the shares of the commonest."""
    name = str(finding.get("input") or "").removesuffix(" (known or not)")
    schema = features.collect_schema()
    if name not in schema:
        return {}
    figure, (ax,) = figure_of(6.4, 3)
    column = pl.col(name)
    if schema[name].is_numeric() or schema[name] == pl.Boolean:
        value = column.cast(pl.Float64)
        parts = {str(q): value.filter(value.is_finite()).quantile(q) for q in (0.1, 0.5, 0.9)}
        rows = features.group_by(time).agg(**parts, mean=value.filter(value.is_finite()).mean()).sort(time).collect()
        ax.fill_between(rows[time], rows["0.1"], rows["0.9"], color=PALE, alpha=0.4, linewidth=0, label="80 %")
        ax.plot(rows[time], rows["0.5"], color=INK, label="median")
        ax.plot(rows[time], rows["mean"], color=ACCENT, marker=".", label="mean")
    else:
        counts = features.group_by(time, column.cast(pl.String)).len().collect()
        common = counts.group_by(name).agg(pl.col("len").sum()).sort("len", descending=True).head(6)[name].to_list()
        for one in common:
            mine = pl.col("len").filter(pl.col(name).eq_missing(pl.lit(one)))
            rows = counts.group_by(time).agg(share=100 * mine.sum() / pl.col("len").sum()).sort(time)
            ax.plot(rows[time], rows["share"], marker=".", label=readable(str(one)))
        ax.set_ylabel("entities, %")
    if finding.get("since"):
        from datetime import datetime

        ax.axvline(datetime.fromisoformat(str(finding["since"])), color=INK, linewidth=0.8, linestyle="--")  # type: ignore[arg-type]
    ax.set_title(readable(name), fontsize=9, loc="left")
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7, frameon=False)
    return {"input": png_of(figure)}
