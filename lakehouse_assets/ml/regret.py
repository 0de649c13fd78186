"""The challenger channel: has a champion fallen behind a weekly fresh fit of its own recipe? For all series and weeks.

Arrays are series x weeks (S, W). The regret of a week is the log ratio of the champion's loss to the fresh fit's on the
week after that fit. It is noisy: a week of a drifted champion may well look better than the fresh fit. Two things tell
drift from noise early:

- the stake, what the champion's disagreement with the fresh fit would cost it if the fresh fit were right. It needs
  no luck: it is known from the forecasts and the usual size of the errors, and varies a third as much as the regret;
- the realised regret, which says who is right: of the latest weeks, and more slowly of the latest two months.

Evidence is an e-process (Ramdas, Grünwald, Vovk and Shafer, 2023, "Game-theoretic statistics and safe anytime-valid
inference", Statistical Science 38), run as an e-detector (Shin, Ramdas and Rinaldo, 2024, "E-detectors", New England
Journal of Statistics in Data Science 2): each week bets on the regret by the stake, which is known before the errors
are, and the bets of the weeks since the best start are multiplied. Whatever the dependence between weeks, a series
whose expected regret never exceeds ``quiet_effect`` crosses 1/a in 1/a weeks or more on average, as far as the noise of
a week is no wilder than normal. Across series the false discovery rate is that of Benjamini and Hochberg on the mean of
the latest weeks. The rate and the delay on real champions are measured by benchmarks/drift.py.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.metrics import benjamini_hochberg

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Chosen with the defaults of DriftPolicy on one half of the series of EIA-930 and PJM, the other in sight, see
# benchmarks/drift.py. What is asked for before a flag trades delay for false flags.
PRIOR_WEEKS = 15.0
"""How many week-to-week differences the fleet's spread counts for beside a series' own."""
LEAST_SPREAD = 0.02
"""A week's regret is never known better than that."""
LOSS_WEEKS, STAKE_WEEKS, LASTING_WEEKS = 8, 4, 8
"""Weeks over which the size of the errors, the stake, and a regret that lasts are averaged."""
STAKE_SHARE = 0.3
"""What the stake counts in a regret that lasts, beside what was realised."""
SOON_WEEKS, SOON_SHARE = 2, 0.6
"""The regret of the next weeks is expected to be so much of the stake of the latest two, and the rest of what was lost.
In least squares on the weekly fits of EIA the first share comes out alike on both halves, the second does not."""
PLAYERS = ((0.75, 0.5, 0.3), (0.25, 1.0, 2.0))
"""A careful one and a bold one: their weight, the share of the stake beyond the quiet effect that they bet, and the
highest bet, in spreads. The careful one finds champions that fall behind slowly, the bold one those that break."""
WILD = 2.5
"""A week counts at most so many spreads."""
LASTING = 20.0
"""The highest that an e-value gets: evidence of long ago does not outweigh weeks in which the regret is gone."""


@dataclass(frozen=True)
class Judged:
    """What each week says of each series, from that week and those before it; all (S, W), NaN where nothing is known.

    mean: regret over the latest weeks, outliers bounded. lasting: over the latest two months, with the stake. t, p, q:
    of the test of these months against zero, q across series. stake: over the latest weeks. e: the e-value. since:
    (S, W) the week in which the evidence begins, an index. gain: the share of the champion's loss that a training is
    expected to save. tested, drifted, due: whether a series is judged, has drifted, and whether a training of it pays.
    """

    mean: Array
    lasting: Array
    t: Array
    p: Array
    q: Array
    stake: Array
    e: Array
    since: npt.NDArray[np.int64]
    gain: Array
    tested: Mask
    drifted: Mask
    due: Mask


def judge(regret: Array, disagreement: Array, policy: DriftPolicy) -> Judged:
    """Judge every series in every week, by what was known at the end of the week.

    regret: (S, W) log ratios of weekly losses, NaN where unknown. disagreement: (S, W) root mean square of the
    difference between the two forecasts in the week, in units of the fresh fit's mean loss (see :func:`relative`).
    A series has drifted when its lasting regret is at least ``minimum_effect``, the realised one is more than chance
    across the fleet, and stake and evidence say that it will last. What breaks shows sooner: in two weeks, one after
    the other, of which each loses that much and more than the noise, with as much at stake and half of the evidence.
    """
    from scipy.stats import t as student

    noise, freedom = spread(regret)
    bounded = np.clip(regret, -WILD * noise, WILD * noise)
    mean, slow = latest_mean(bounded, policy.weeks), latest_mean(bounded, LASTING_WEEKS, policy.weeks - 1)
    known = np.isfinite(regret)
    count = np.cumsum(known, axis=1)
    tested = np.isfinite(mean) & (count >= policy.weeks) & known
    count[:, LASTING_WEEKS:] -= count[:, :-LASTING_WEEKS].copy()
    t = slow / (noise / np.sqrt(np.maximum(count, 1)))
    p = np.where(tested, student.sf(t, freedom), np.nan)
    q = np.stack([benjamini_hochberg(column) for column in p.T], axis=1) if p.size else p
    stakes = stake(disagreement)
    at_stake = latest_mean(stakes, STAKE_WEEKS)
    lasting = np.where(np.isfinite(at_stake), (1 - STAKE_SHARE) * slow + STAKE_SHARE * at_stake, slow)
    e, since = evidence(regret, stakes, noise, policy.quiet_effect)
    effect = np.log1p(policy.minimum_effect)
    slowly = (lasting >= effect) & (q <= policy.false_discovery_rate) & (e >= policy.evidence)
    now = latest_mean(stakes, SOON_WEEKS, 1)
    before = np.full(regret.shape, np.nan)
    before[:, 1:] = regret[:, :-1]
    both = np.minimum(before, regret) >= np.maximum(noise, effect)
    suddenly = both & (now >= effect) & (e >= policy.evidence / 2)
    drifted = tested & (slowly | suddenly) & (at_stake >= np.log1p(policy.minimum_stake))
    lost = latest_mean(regret, policy.weeks, 1)
    soon = np.where(np.isfinite(now), SOON_SHARE * now + (1 - SOON_SHARE) * lost, lost)
    gain = np.where(known, 1 - np.exp(-np.maximum(soon, 0.0)), np.nan)
    due = gain >= policy.cost
    if policy.retrain_on == "drift":
        due &= drifted
    mean, lasting, t = (np.where(tested, values, np.nan) for values in (mean, lasting, t))
    return Judged(mean, lasting, t, p, q, at_stake, e, since, gain, tested, drifted, due)


def relative(disagreement: Array, fresh_loss: Array) -> Array:
    """Disagreements (S, W) in units of the fresh fit's mean absolute error over the latest weeks."""
    usual = latest_mean(fresh_loss, LOSS_WEEKS, 1)
    return disagreement / np.where(usual > 0, usual, np.nan)


def stake(disagreement: Array) -> Array:
    """The expected regret, if the fresh fit is right, of champions that differ from it by so much (root mean square).

    disagreement: in units of the fresh fit's mean absolute error. With Laplace errors of mean size 1 a difference d
    costs d + exp(-d) - 1; with differences exponentially distributed about their mean m = rms / sqrt(2) that is
    m^2 / (1 + m) in the mean.
    """
    m = disagreement / np.sqrt(2)
    return np.log1p(m**2 / (1 + m))


def evidence(regret: Array, at_stake: Array, noise: Array, quiet_effect: float) -> tuple[Array, npt.NDArray[np.int64]]:
    """The e-values (S, W) of the latest weeks that together speak most for a regret above the quiet one; 1 is none.

    A week's factor is exp(l z - l^2 / 2), z its regret above the quiet effect in spreads, l the bet: its expectation is
    at most 1 when the expected regret is quiet and the noise normal. A week without a regret or a stake bets nothing.
    Also returns the first of these weeks, by the careful player.
    """
    z = np.clip((regret - quiet_effect) / noise, -WILD, WILD)
    total = np.zeros(regret.shape)
    since = np.zeros(regret.shape, np.int64)
    for weight, share, highest in reversed(PLAYERS):  # the careful one last: the weeks are its
        bets = np.clip(share * (at_stake - quiet_effect) / noise, 0.0, highest)
        gains = np.nan_to_num(bets * z - bets**2 / 2)
        log, first = np.zeros(len(regret)), np.zeros(len(regret), np.int64)
        for week in range(regret.shape[1]):
            first = np.where(log <= 0, week, first)
            log = np.minimum(np.maximum(log, 0.0) + gains[:, week], np.log(LASTING))
            total[:, week] += weight * np.exp(log)
            since[:, week] = first
    return total, since


def spread(values: Array) -> tuple[Array, Array]:
    """The noise of a week by what was known by then, (S, W), and its degrees of freedom; NaN before a difference.

    From a series' own week-to-week differences, which a lasting drift does not inflate, pooled with the fleet's median.
    """
    steps = np.full(values.shape, np.nan)
    steps[:, 1:] = np.diff(values, axis=1) ** 2 / 2
    known = np.isfinite(steps)
    count = np.cumsum(known, axis=1)
    own = np.cumsum(np.where(known, steps, 0.0), axis=1) / np.maximum(count, 1)
    fleet = np.full(values.shape[1], np.nan)
    for week in range(values.shape[1]):
        there = own[count[:, week] > 0, week]
        fleet[week] = np.median(there) if len(there) else np.nan
    # Successive differences carry 2/3 of the information of independent ones (von Neumann, 1941).
    freedom = count * 2 / 3
    pooled = (freedom * own + PRIOR_WEEKS * fleet) / (freedom + PRIOR_WEEKS)
    return np.maximum(np.sqrt(pooled), LEAST_SPREAD), freedom + PRIOR_WEEKS


def latest_mean(values: Array, weeks: int, least: int | None = None) -> Array:
    """The mean over the latest weeks up to each, (S, W); NaN where fewer than ``least`` (all but one) are known."""
    least = max(1, weeks - 1) if least is None else least
    known = np.isfinite(values)
    total = np.cumsum(np.where(known, values, 0.0), axis=1)
    count = np.cumsum(known, axis=1)
    total[:, weeks:] -= total[:, :-weeks].copy()
    count[:, weeks:] -= count[:, :-weeks].copy()
    return np.where(count >= least, total / np.maximum(count, 1), np.nan)
