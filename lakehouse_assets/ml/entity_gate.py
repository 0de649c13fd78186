"""The gate of models of entities: challenger against champion by a paired bootstrap of entities.

Both are scored on the same rows, out of sample; a resample draws entities with all their rows (see
:mod:`lakehouse_assets.ml.entity_metrics`), so that a customer in several snapshots, or in the repeats of a k-fold, is
one piece of evidence.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml.definition import CHAMPION, BacktestResult, GateDecision, GatePolicy
from lakehouse_assets.ml.entity_metrics import Counts, Scored, interval, resamples
from lakehouse_assets.ml.gate import OWN

Array = npt.NDArray[np.float64]
Loss = Callable[[Scored, str, Counts], Array]
"""(B,) the primary loss of a prediction in each resample; lower is better."""
Enough = Callable[[Array], bool]
RESAMPLES = 2_000


def scored_of(losses: pl.DataFrame, entity: str, names: list[str]) -> Scored:
    """The rows of a backtest's losses, for their measures."""
    number = losses[entity].cast(pl.String).rank("dense").cast(pl.Int64).to_numpy() - 1
    predicted = {name: losses[name].cast(pl.Float64).to_numpy() for name in names}
    return Scored(losses["fold"].cast(pl.Int64).to_numpy(), number, losses["y"].cast(pl.Float64).to_numpy(), predicted)


def decide(
    result: BacktestResult,
    challenger: str,
    policy: GatePolicy,
    groups: Mapping[str, str | None],
    has_champion: bool,
    *,
    entity: str,
    reference: str,
    loss: Loss,
    enough: Enough,
    resampled: int = RESAMPLES,
) -> GateDecision:
    """Promote by evidence.

    The challenger must be better than the constant ``reference``, significantly; and, where there is a champion, its
    loss must be lower by more than the share ``minimum_gain``, significantly, and that of no group may be larger by
    more than ``group_tolerance``, significantly. ``enough``: whether the targets of a group, or of the folds in which
    the champion's own stored fit was out of sample, suffice; those folds alone count where they do.
    """
    names = [reference, challenger, *([CHAMPION] if has_champion else [])]
    columns = ["fold", entity, "y", *dict.fromkeys(names), *([OWN] if has_champion else [])]
    losses = result.losses.select(columns).collect()
    base_gain, base_p, _ = _compare(losses, entity, challenger, reference, 0.0, loss, resampled)
    evidence: dict[str, Any] = {"challenger": challenger, "folds_scored": result.folds.height}
    evidence[f"against_{reference}"] = {"gain": base_gain, "p_value": base_p}
    better = base_gain > 0 and base_p < policy.significance
    against_base = f"{base_gain:+.1%} gain on the {reference.replace('_', ' ')} (p = {base_p:.4f})"
    if not has_champion:
        evidence |= {"gain": base_gain, "p_value": base_p}
        return GateDecision(better, f"{'first model' if better else 'no model yet'}: {against_base}", evidence)
    own = losses.filter(OWN)
    used = own if enough(own["y"].cast(pl.Float64).to_numpy()) else losses
    gain, p_value, bounds = _compare(used, entity, challenger, CHAMPION, policy.minimum_gain, loss, resampled)
    evidence |= {"gain": gain, "gain_low": bounds[0], "gain_high": bounds[1], "p_value": p_value}
    evidence |= {"minimum_gain": policy.minimum_gain, "significance": policy.significance}
    evidence |= {"entities": used[entity].n_unique(), "rows": used.height, "champion_own_fit": used is own}
    evidence["folds_used"] = sorted(used["fold"].unique().to_list())
    table, harmed = [], []
    of = used.with_columns(group=pl.col(entity).replace_strict(dict(groups), default=None, return_dtype=pl.String))
    for (group,), rows in sorted(of.drop_nulls("group").partition_by("group", as_dict=True).items()):
        if not enough(rows["y"].cast(pl.Float64).to_numpy()):
            continue
        change, p_worse, _ = _compare(rows, entity, CHAMPION, challenger, 0.0, loss, resampled)
        table.append({"group": group, "loss_change": _reversed(change), "p_worse": p_worse})
        if _reversed(change) > policy.group_tolerance and p_worse < policy.significance:
            harmed.append(str(group))
    evidence["groups"] = table
    promote = False
    if not better:
        reason = f"kept: the challenger is not shown to beat the constant: {against_base}"
    elif gain < policy.minimum_gain:
        reason = f"kept: gain of {gain:+.2%} is below the minimum of {policy.minimum_gain:.2%}"
    elif p_value >= policy.significance:
        reason = f"kept: gain of {gain:+.2%} is not significantly above {policy.minimum_gain:.2%} (p = {p_value:.3f})"
    elif harmed:
        reason = (
            f"kept: gain of {gain:+.2%}, but worse by more than {policy.group_tolerance:.0%} in {', '.join(harmed)}"
        )
    else:
        promote = True
        reason = f"promoted: gain of {gain:+.2%} over {evidence['entities']:,} entities (p = {p_value:.4f})"
    return GateDecision(promote, reason, evidence)


def _compare(
    losses: pl.DataFrame, entity: str, ours: str, theirs: str, least: float, loss: Loss, resampled: int
) -> tuple[float, float, tuple[float, float]]:
    """The relative gain of one prediction on another, its one-sided p-value against ``least``, and its interval.

    The share of the resamples in which the gain is not more than ``least``, the sample itself counting as one of them.
    """
    scored = scored_of(losses, entity, [ours, theirs])
    size = int(scored.entity.max(initial=-1)) + 1
    counts = resamples(size, resampled, seed=0)
    counts[0] = 1.0
    mine, other = (loss(scored, name, counts) for name in (ours, theirs))
    if not (np.isfinite(mine[0]) and other[0] > 0):
        return 0.0, 1.0, (float("nan"), float("nan"))
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = 1 - mine / other
    drawn = np.isfinite(gains[1:])
    not_more = ~((1 - least) * other[1:][drawn] - mine[1:][drawn] > 0)
    return float(gains[0]), float((1 + not_more.sum()) / (1 + drawn.sum())), interval(gains[1:][drawn])


def _reversed(gain: float) -> float:
    """The relative change of the loss, from theirs to ours, of a gain that theirs has on ours."""
    return 1 / (1 - gain) - 1 if gain < 1 else float("inf")
