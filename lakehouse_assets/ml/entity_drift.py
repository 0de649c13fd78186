"""Drift of models of entities: labels come months late, so inputs and predictions are watched; losses when they come.

A window is a snapshot. Each input of it is compared with the snapshots that the champion learned from last: numbers by
the Wasserstein distance, in standard deviations; categories, and whether a number is known, by the Jensen-Shannon
distance. A distance says little by itself: inputs have trends and seasons, and most moves cost a model nothing. So it
counts against what the history before the training had: how far each snapshot was from those that lay as long before
it; or, with two years and more, from those of its season a year before. Logarithms of distances
are judged by Student's t, with a spread that is drawn towards that of all inputs (Smyth 2004: Linear models and
empirical Bayes methods), and all inputs together keep the false-alarm rate (Sidak). What moved less than
``LEAST_MOVE`` is no drift, however rare.

Predictions are compared with those of the backtest, which were out of sample, too; the loss of the latest snapshot
whose labels have come, and from which the champion did not learn, with the losses of the folds of its backtest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.definition import ALL, DriftPolicy
from lakehouse_assets.ml.entities import Snapshots
from lakehouse_assets.ml.fitted import microseconds, moment
from lakehouse_assets.ml.inputs import binned, compared
from lakehouse_assets.ml.panel import DAY_US

if TYPE_CHECKING:
    from lakehouse_assets.ml.entity_kind import EntityKind, FittedEntities

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
CHANNELS = ("input", "error")
"""The channels of the policy that these kinds have."""
LEAST_REFERENCE, LEAST_HISTORY = 2, 5
"""Snapshots that one is compared with at least, and comparisons of the history that a distance counts against."""
MOST_REFERENCE = 12
"""Snapshots that one is compared with at most: a year."""
LEAST_SCORES = 3
"""The same comparisons of predictions: a backtest has few origins."""
LEAST_MOVE = 0.1
"""The least distance that is worth a word: a tenth of a standard deviation, or a share that goes from 50 to 62 %."""
FLOOR = 0.02
"""Added to distances before their logarithm is taken: what is smaller is nothing."""
PRIOR_FREEDOM, PRIOR_SPREAD = 6.0, 0.3
"""What the spread of all inputs counts for beside an input's own, in comparisons; and the least that it may be."""
SEASON_DAYS = 46
"""So far apart from the day a year before snapshots are of the same season."""
CELLS = 512
_YEAR_DAYS = 365.25
_TIME = pl.Datetime("us", "UTC")

COLUMNS: dict[str, tuple[pl.DataType, str]] = {
    "population": (pl.String(), "Everybody: one model serves all."),
    "rows": (pl.Int64(), "Entities in the snapshot."),
    "inputs": (pl.List(pl.String()), "The inputs that were compared, the most unusual first."),
    "distances": (
        pl.List(pl.Float64()),
        "How far each is from what the champion learned from: Wasserstein, in standard deviations, of numbers; "
        "Jensen-Shannon (0 to 1) of categories and of what is unknown.",
    ),
    "usual_distances": (pl.List(pl.Float64()), "What the champion's own history had, typically."),
    "input_p_values": (pl.List(pl.Float64()), "Of each, that it would be as far by chance."),
    "reference_means": (pl.List(pl.Float64()), "Mean of each in what the champion learned from; null of categories."),
    "current_means": (pl.List(pl.Float64()), "Mean of each in the snapshot; null of categories."),
    "input_p_value": (pl.Float64(), "That any of them would be as far by chance."),
    "score_distance": (pl.Float64(), "How far the predictions are from those of the backtest, in their spread."),
    "score_usual_distance": (pl.Float64(), "How far those of the backtest are from each other, typically."),
    "score_p_value": (pl.Float64(), "That the predictions would be as far by chance."),
    "labelled_as_of": (_TIME, "The latest snapshot whose labels have come and that the champion did not learn from."),
    "labelled_rows": (pl.Int64(), "Entities in it."),
    "champion_loss": (pl.Float64(), "Mean loss of the champion on it."),
    "expected_loss": (pl.Float64(), "Mean loss of the champion in its backtest: the reference."),
    "error_p_value": (pl.Float64(), "That the loss would be as large by chance, by the folds of the backtest."),
    "verdict": (pl.String(), "ok, drift or insufficient_data."),
    "windows": (pl.Int64(), "Snapshots that the champion has been watched in."),
    "channel": (pl.String(), "The channel that calls the drift: input or error; null without a drift."),
    "since": (_TIME, "The first snapshot of the drift; null without one."),
    "expected_gain": (pl.Float64(), "Null: nobody knows what a training saves before the labels have come."),
    "due": (pl.Boolean(), "Whether a training pays: there is a drift, and labels to learn it from and to show it."),
    "error_change": (pl.Float64(), "Relative change of the loss against the backtest's."),
}
_OF_WINDOW = list(COLUMNS)[: list(COLUMNS).index("verdict")]


@dataclass(frozen=True)
class Moves:
    """How far columns (F) are from a reference, and how unusual that is; NaN where nothing can be said.

    usual: the median distance in the history. p: (F,). family: that any would be as far by chance; NaN: not judged.
    """

    names: list[str]
    distance: Array
    usual: Array
    p: Array
    family: float
    before: Array
    now: Array

    def order(self) -> list[int]:
        """The columns, the most unusual first."""
        return np.argsort(np.where(np.isfinite(self.p), self.p, 2.0), kind="stable").tolist()


def window_row(
    kind: "EntityKind", model: "FittedEntities", data: Snapshots, start: datetime, end: datetime
) -> pl.DataFrame:
    """What a window says of a model: the columns of ``COLUMNS`` up to the verdict; no row without a snapshot in it."""
    begin, stop, trained = microseconds(start), microseconds(end), microseconds(model.trained_at)
    current = (data.as_of >= begin) & (data.as_of < stop)
    schema = {name: COLUMNS[name][0] for name in _OF_WINDOW}
    if not current.any():
        return pl.DataFrame(schema=schema)
    row: dict[str, Any] = {"population": ALL, "rows": int(current.sum()), "expected_loss": model.expected_loss}
    moves = input_moves(data, begin, stop, trained, model.feature_names)
    order = moves.order()
    row |= {
        "inputs": [moves.names[i] for i in order],
        **{
            name: [_known(float(values[i])) for i in order]
            for name, values in (
                ("distances", moves.distance),
                ("usual_distances", moves.usual),
                ("input_p_values", moves.p),
                ("reference_means", moves.before),
                ("current_means", moves.now),
            )
        },
        "input_p_value": _known(moves.family),
    }
    scores = score_moves(model, data.frame.filter(pl.Series(current)), begin)
    row |= {
        "score_distance": _known(scores[0]),
        "score_usual_distance": _known(scores[1]),
        "score_p_value": _known(scores[2]),
    }
    row |= _labelled(kind, model, data, begin, trained)
    return pl.DataFrame([row], schema=schema)


# --- inputs and predictions -------------------------------------------------------------------------------------------


def input_moves(data: Snapshots, begin: int, stop: int, trained: int, names: Sequence[str]) -> Moves:
    """How far the inputs of the snapshot in [begin, stop) are from what was known at ``trained``, microseconds."""
    past = data.times[data.times < begin]
    rows = (data.as_of < begin) | (data.as_of < stop)
    window = np.minimum(np.searchsorted(past, data.as_of[rows]), len(past))
    # From the last snapshot that it learned from to this one.
    learned = past[past + data.label_days * DAY_US <= trained]
    gap = len(past) - int(np.searchsorted(past, learned[-1])) if len(learned) else len(past)
    return _moves(
        data.frame.filter(pl.Series(rows)),
        [n for n in data.numbers if n in names],
        [n for n in data.categories if n in names],
        window,
        len(past) + 1,
        _pairs(np.append(past, begin), gap, int((past <= trained).sum()), LEAST_HISTORY),
    )


def score_moves(model: "FittedEntities", rows: pl.DataFrame, begin: int) -> tuple[float, float, float]:
    """Distance of the predictions of some rows from those of the backtest, the usual one, and the p-value."""
    before = model.past.times < begin
    quantiles = model.past.quantiles[before]
    pairs = _pairs(np.append(model.past.times[before], begin), 1, len(quantiles), LEAST_SCORES)
    score = model.score(rows)
    window = np.repeat(np.arange(len(quantiles) + 1), [quantiles.shape[1]] * len(quantiles) + [len(score)])
    frame = pl.DataFrame({"score": np.concatenate([quantiles.ravel(), score])})
    moves = _moves(frame, ["score"], [], window, len(quantiles) + 1, pairs)
    return float(moves.distance[0]), float(moves.usual[0]), float(moves.p[0])


def _pairs(times: npt.NDArray[np.int64], gap: int, usual: int, least: int) -> list[tuple[int, Places]]:
    """(snapshot, those that it is compared with), the last being the one that is judged; times: (M,) ascending.

    usual: so many of the first snapshots are known to be as they should. All are compared with the same: the snapshots
    that lie ``gap`` and a few more before, so that trends and seasons move them alike; or, where the history has
    enough of it, those of their season a year before. A gap that is longer than the history can tell about is
    taken to be as long as it can. Empty where there are fewer than ``least`` comparisons to count with.
    """
    last = len(times) - 1
    gap = max(1, min(gap, usual - LEAST_REFERENCE - least + 1))
    length = max(LEAST_REFERENCE, min(MOST_REFERENCE, (usual - gap) // 2, usual - gap - least + 1))
    lagged = {i: np.arange(max(0, i - gap - length + 1), max(0, i - gap + 1)) for i in range(len(times))}
    days = (times[:, None] - times) / DAY_US
    near = {i: np.flatnonzero(np.abs(days[i] - _YEAR_DAYS) <= SEASON_DAYS) for i in range(len(times))}
    for references, number in ((near, LEAST_REFERENCE), (lagged, length)):
        history = [i for i in range(usual) if len(references[i]) >= number]
        if len(history) >= least and len(references[last]) >= number:
            return [(i, references[i]) for i in [*history, last]]
    return []


def _moves(
    frame: pl.DataFrame,
    numbers: Sequence[str],
    categories: Sequence[str],
    window: npt.NDArray[np.int64],
    windows: int,
    pairs: Sequence[tuple[int, Places]],
) -> Moves:
    """Moves of the last of the pairs; frame: rows, each of one of the windows, the last of which is judged."""
    names, apart, before, now = [], [], [], []
    weights = np.zeros((max(1, len(pairs)), windows))
    for row, (_, others) in enumerate(pairs):
        weights[row, others] = 1.0
    if not pairs:  # nothing to judge by: the distance from all before, all the same
        weights[0, :-1] = 1.0
    places = [i for i, _ in pairs] or [windows - 1]
    for name in numbers:
        values = frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        values = np.where(np.isfinite(values), values, np.nan)
        reference = values[weights[-1][window] > 0]
        known = reference[np.isfinite(reference)]
        spread = max(float(known.std()), 1e-9) if len(known) else 1.0
        low, high = np.quantile(known, [0.001, 0.999]) if len(known) else (0.0, 1.0)
        width = max(high - low, spread, 1e-6 * max(abs(low), 1.0))
        cells = binned(values[None], window, windows, np.array([low - width]), np.array([3 * width]), CELLS)
        single = np.zeros((len(places), windows))
        single[np.arange(len(places)), places] = 1.0
        widths = np.full((1, 1), 3 * width)
        found = compared(cells.mixed(weights), cells.mixed(single), widths, np.full((1, 1), spread))
        names.append(name)
        apart.append(found["wasserstein"][0])
        before.append(float(known.mean()) if len(known) else np.nan)
        latest = values[window == windows - 1]
        now.append(float(np.nanmean(latest)) if np.isfinite(latest).any() else np.nan)
        if np.isnan(values).any() and len(known):
            names.append(f"{name} (known or not)")
            apart.append(_shares_apart(np.isnan(values).astype(np.int64), window, windows, weights, places))
            before.append(float(np.isfinite(reference).mean()))
            now.append(float(np.isfinite(latest).mean()))
    for name in categories:
        codes = frame[name].cast(pl.String).fill_null("").rank("dense").cast(pl.Int64).to_numpy() - 1
        names.append(name)
        apart.append(_shares_apart(codes, window, windows, weights, places))
        before.append(np.nan)
        now.append(np.nan)
    distances = np.array(apart).reshape(len(names), len(places))
    history, distance = distances[:, :-1], np.minimum(distances[:, -1], 1e6) if names else np.zeros(0)
    p = _p_values(history, distance) if pairs else np.full(len(names), np.nan)
    usual = np.array([np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in history])
    judged = np.isfinite(p)
    worth = np.where(distance >= LEAST_MOVE, p, 1.0)[judged]
    family = float(-np.expm1(judged.sum() * np.log1p(-min(worth.min(), 1 - 1e-12)))) if judged.any() else np.nan
    return Moves(names, distance, usual, p, family, np.array(before), np.array(now))


def _shares_apart(
    codes: npt.NDArray[np.int64], window: npt.NDArray[np.int64], windows: int, weights: Array, places: Sequence[int]
) -> Array:
    """(P,) Jensen-Shannon distances of the categories of some windows from weighted others."""
    size = int(codes.max(initial=0)) + 1
    counts = np.bincount(window * size + codes, minlength=windows * size).reshape(windows, size).astype(float)
    a, b = weights @ counts, counts[list(places)]
    a, b = (x / np.maximum(x.sum(axis=1, keepdims=True), 1) for x in (a, b))
    middle = (a + b) / 2

    def divergence(x: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(x > 0, x * np.log2(x / middle), 0.0).sum(axis=1))

    return np.asarray(np.sqrt(np.maximum(divergence(a) + divergence(b), 0.0) / 2))


def _p_values(history: Array, distance: Array) -> Array:
    """(F,) that a distance would be as large by chance; history: (F, K) distances that were no drift."""
    from scipy.stats import t as student

    logs, now = np.log(np.minimum(history, 1e6) + FLOOR), np.log(distance + FLOOR)
    known = np.isfinite(logs)
    number = known.sum(axis=1)
    count = np.maximum(number, 1)
    mean = np.where(known, logs, 0.0).sum(axis=1) / count
    squares = (np.where(known, logs - mean[:, None], 0.0) ** 2).sum(axis=1)
    freedom = np.maximum(number - 1, 0)
    each = (squares / np.maximum(freedom, 1))[freedom > 0]
    common = max(float(np.median(each)) if len(each) else 0.0, PRIOR_SPREAD**2)
    variance = (PRIOR_FREEDOM * common + squares) / (PRIOR_FREEDOM + freedom)
    # Comparisons that lie side by side share most of what they compare: they count as half as many.
    statistic = (now - mean) / np.sqrt(variance * (1 + 2 / count))
    p = student.sf(statistic, PRIOR_FREEDOM + freedom)
    return np.where((number > 0) & np.isfinite(now), p, np.nan)


def widest_moves(data: Snapshots, start: datetime, most: int = 10) -> pl.DataFrame:
    """population, column, wasserstein, usual, reference_mean, current_mean of the inputs of the snapshot at a time.

    Against all snapshots before; the most unusual first. ``wasserstein`` of categories is the Jensen-Shannon distance.
    """
    begin = microseconds(start)
    at = data.times[data.times >= begin]
    earlier = data.times[data.times < begin]
    if not len(at) or not len(earlier):
        return pl.DataFrame()
    moves = input_moves(data, begin, int(at[0]) + 1, int(earlier[-1]), [*data.numbers, *data.categories])
    rows = [
        {
            "population": ALL,
            "column": moves.names[i],
            "wasserstein": _known(float(moves.distance[i])),
            "usual": _known(float(moves.usual[i])),
            "reference_mean": _known(float(moves.before[i])),
            "current_mean": _known(float(moves.now[i])),
        }
        for i in moves.order()[:most]
    ]
    numbers = dict.fromkeys(("wasserstein", "usual", "reference_mean", "current_mean"), pl.Float64)
    return pl.DataFrame(rows, schema={"population": pl.String, "column": pl.String, **numbers})


# --- losses, once labels have come ------------------------------------------------------------------------------------


def _labelled(kind: "EntityKind", model: "FittedEntities", data: Snapshots, begin: int, trained: int) -> dict[str, Any]:
    lag = data.label_days * DAY_US
    times = data.times[(data.times + lag > trained) & (data.times + lag <= begin)]
    for time in times[::-1]:
        rows = (data.as_of == time) & (data.known_at <= begin)
        if not kind.enough(data.y[rows]):
            continue
        losses = kind.losses_of(data.y[rows], model.score(data.frame.filter(pl.Series(rows))))
        return {
            "labelled_as_of": moment(int(time)),
            "labelled_rows": int(rows.sum()),
            "champion_loss": float(losses.mean()),
            "error_p_value": _known(_loss_p_value(losses, model.past.losses)),
        }
    return {}


def _loss_p_value(losses: Array, past: Array) -> float:
    """That a mean loss would be as large by chance: Student's t against the mean losses of the folds."""
    from scipy.stats import t as student

    if len(past) < LEAST_SCORES:
        return float("nan")
    variance = max(float(past.var(ddof=1)), float(losses.var()) / len(losses))
    statistic = (losses.mean() - past.mean()) / np.sqrt(variance * (1 + 1 / len(past)) + 1e-300)
    return float(student.sf(statistic, len(past) - 1))


# --- the verdict ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What the windows so far say of a model: see :class:`lakehouse_assets.ml.definition.DriftVerdict`.

    series: one row, of everybody.
    """

    verdict: str
    window_start: datetime | None
    window_end: datetime | None
    series: pl.DataFrame
    summary: dict[str, Any]
    findings: list[dict[str, Any]] = field(default_factory=list)


def verdict(history: pl.DataFrame, policy: DriftPolicy, label_days: int) -> Verdict:
    """Judge the latest window of one champion.

    A drift is called by the inputs and predictions (channel ``input``) or by the loss (``error``), whichever of the
    policy's channels is the first to find one, at its ``false_alarm_rate`` a channel and window. Of moved inputs a
    training is due once labels from since the drift began have been there to learn from, and those of later ones are
    there to show what was learned: after twice ``label_days``. Before that no gate could let it pass.

    Raises:
        ValueError: the policy has none of these channels.
    """
    channels = [name for name in policy.channels if name in CHANNELS]
    if not channels:
        raise ValueError(
            f"labels come {label_days} days late: give the model a DriftPolicy(channels={CHANNELS}); it has "
            f"{policy.channels}"
        )
    statistics = {name: COLUMNS[name][0] for name in ["population", *list(COLUMNS)[len(_OF_WINDOW) :]]}
    if history.is_empty():
        return Verdict("insufficient_data", None, None, pl.DataFrame(schema=statistics), _summary({}, 0, 0, 0))
    rows = history.sort("window_start").to_dicts()
    last = rows[-1]
    start: datetime = last["window_start"]
    found = {name: _called(name, rows, policy) for name in channels}
    tested = any(call is not None for call in found.values())
    channel = next((name for name in channels if found[name]), None)
    since = found[channel] if channel else None
    due = channel == "error" or (isinstance(since, datetime) and since + timedelta(days=2 * label_days) <= start)
    change = None
    if last["champion_loss"] is not None and last["expected_loss"]:
        change = last["champion_loss"] / last["expected_loss"] - 1
    said = "insufficient_data" if not tested else "drift" if channel else "ok"
    row = {
        "population": ALL,
        "verdict": said,
        "windows": len(rows),
        "channel": channel,
        "since": since or None,
        "expected_gain": None,
        "due": bool(due),
        "error_change": change,
    }
    end = pl.select(pl.lit(start).dt.offset_by("1mo")).item()
    findings = [_finding(channel, last, since, due, change, policy, label_days)] if channel and since else []
    return Verdict(
        said,
        rows[0]["window_start"],
        end,
        pl.DataFrame([row], schema=statistics),
        _summary(last, int(tested), int(channel is not None), int(due)),
        findings,
    )


def _called(channel: str, rows: Sequence[dict[str, Any]], policy: DriftPolicy) -> datetime | Literal[False] | None:
    """Since when a channel calls a drift in the last row; False: it calls none. None: it cannot say."""
    if channel == "error":
        p_values = [row["error_p_value"] for row in rows]
        if p_values[-1] is None:
            return None
        if p_values[-1] > policy.false_alarm_rate:
            return False
        return _first(rows, p_values, "labelled_as_of")
    p_values = [_input_p_value(row) for row in rows]
    if p_values[-1] is None:
        return None
    if p_values[-1] > policy.false_alarm_rate:
        return False
    name = _widest(rows[-1])
    return _first(rows, [_p_value_of(row, name) for row in rows], "window_start")


_GOES_ON = 0.05
"""A drift has begun with the first of the latest windows in which what moved was as unusual as this."""


def _first(rows: Sequence[dict[str, Any]], p_values: Sequence[float | None], time: str) -> datetime:
    i = len(rows) - 1
    while i and p_values[i - 1] is not None and p_values[i - 1] <= _GOES_ON:  # type: ignore[operator]
        i -= 1
    began: datetime = rows[i][time]
    return began


def _input_p_value(row: dict[str, Any]) -> float | None:
    """Of inputs and predictions together."""
    p, known = row["input_p_value"], [row["input_p_value"]]
    score, distance = row["score_p_value"], row["score_distance"]
    known.append(1.0 if score is not None and distance < LEAST_MOVE else score)
    known = [value for value in known if value is not None]
    return None if p is None and not known else min(1.0, min(known) * len(known))


def _widest(row: dict[str, Any]) -> str:
    """The input that moved most unusually and is worth a word; ``score``: the predictions."""
    worth = [n for n, d in zip(row["inputs"], row["distances"], strict=True) if d is not None and d >= LEAST_MOVE]
    first = worth[0] if worth else None
    score = row["score_p_value"]
    if first is None or (score is not None and score < (_p_value_of(row, first) or 0.0)):
        return SCORE
    return first


SCORE = "predictions"


def _p_value_of(row: dict[str, Any], name: str) -> float | None:
    if name == SCORE:
        value: float | None = row["score_p_value"]
        return value
    return dict(zip(row["inputs"], row["input_p_values"], strict=True)).get(name)


def _summary(last: dict[str, Any], tested: int, drifted: int, due: int) -> dict[str, Any]:
    told = {name: last.get(name) for name in ("input_p_value", "score_p_value", "error_p_value", "champion_loss")}
    shares = {"share_drifted": float(drifted), "members_due": due}
    return {
        "series_tested": tested,
        "series_drifted": drifted,
        **shares,
        **told,
        "expected_loss": last.get("expected_loss"),
    }


def _finding(
    channel: str,
    row: dict[str, Any],
    since: Any,
    due: bool,
    change: float | None,
    policy: DriftPolicy,
    label_days: int,
) -> dict[str, Any]:
    out: dict[str, Any] = {
        "kind": "drift" if channel == "error" else "input",
        "channel": channel,
        "scope": "fleet",
        "members": [ALL],
        "since": since.isoformat(),
        "expected_gain": None,
    }
    if channel == "error":
        return {**out, "error_change": change, "says": f"loss {change:+.0%} against the backtest's"}
    moved = [
        said
        for name, p in zip(row["inputs"], row["input_p_values"], strict=True)
        if p is not None and p <= policy.false_alarm_rate and (said := _move(row, name))
    ]
    if row["score_p_value"] is not None and row["score_p_value"] <= policy.false_alarm_rate and _move(row, SCORE):
        moved.append(_move(row, SCORE))
    widest = _widest(row)
    says = "; ".join(dict.fromkeys([_move(row, widest), *moved[:3]]))
    if not due:
        says += (
            f"; a training can show that it has learned it from {since + timedelta(days=2 * label_days):%Y-%m-%d} on"
        )
    return {**out, "input": widest, "says": says}


def _move(row: dict[str, Any], name: str) -> str:
    """A move in words; "" where it is none to speak of."""
    if name == SCORE:
        far, usual, means = row["score_distance"], row["score_usual_distance"], (None, None)
    else:
        i = row["inputs"].index(name)
        far, usual = row["distances"][i], row["usual_distances"][i]
        means = row["reference_means"][i], row["current_means"][i]
    if far is None or far < LEAST_MOVE:
        return ""
    said = f"{name} moved by {far:.2f}"
    if usual is not None:
        said += f", usually {usual:.2f}"
    if means[0] is not None and means[1] is not None:
        said += f" (mean {means[0]:.4g} before, {means[1]:.4g} now)"
    return said


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
