"""Clustering as a kind of model: customers parted by the shape of their day, with labels that last.

A feature table holds one row for each (as_of, customer_id), a snapshot of the month before as_of. A fit learns from
customers' usual shapes in the latest months; a prediction is the segment of one snapshot. There is no truth to compare
with: of a challenger it is asked that its segments are clear, that every sample gives the same, and that they are those
that customers know already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from time import process_time
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_assets.ml import labels
from lakehouse_assets.ml.definition import (
    ALL,
    CHAMPION,
    COSTS,
    BacktestResult,
    Columns,
    DriftPolicy,
    GateDecision,
    GatePolicy,
    Progress,
    TooLittleHistory,
)
from lakehouse_assets.ml.inputs import distances
from lakehouse_assets.ml.segments import (
    SHAPE,
    FittedSegments,
    Profile,
    Reference,
    Segments,
    complete_shapes,
    components,
    limit_of,
    prepared,
    usual_shapes,
)
from lakehouse_assets.ml.window import TrainingWindow

Array = npt.NDArray[np.float64]
UTC_TIME = pl.Datetime("us", "UTC")
_SAMPLE = 2000
"""Customers by which a month's silhouette is measured, and of whose resamples the stability is: both cost squares."""
_RESAMPLES, _BOOTSTRAP = 8, 200
_NOBODY = -1
"""The label of those in no segment, where partitions are compared."""


@dataclass(frozen=True)
class Verdict:
    """What the months so far say: see :class:`lakehouse_assets.ml.definition.DriftVerdict`."""

    verdict: str
    window_start: datetime | None
    window_end: datetime | None
    series: pl.DataFrame
    summary: dict[str, Any]
    findings: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Clustering:
    """Segments of customers by the shape of their day.

    months: a fit learns from so many of the latest snapshots: a year, so that no season makes the segments.
    scored: so many of the latest snapshots are scored by fits of before. minimum_stability: the least mean adjusted
    Rand index between fits of resamples of the customers. minimum_agreement: the least between champion and challenger,
    of customers whose shape has not changed. churn: the share of those who may change their label.
    silhouette_tolerance: by so much the silhouette may be worse. hysteresis: of
    :func:`lakehouse_assets.ml.labels.settle`.
    """

    months: int = 12
    scored: int = 3
    minimum_stability: float = 0.8
    minimum_agreement: float = 0.8
    churn: float = 0.01
    silhouette_tolerance: float = 0.02
    hysteresis: float = 0.1

    name = "clustering"
    keys = ("as_of", "customer_id")
    member = "population"
    window: ClassVar[Literal["week", "month"]] = "month"
    truth_after = timedelta(0)
    describes = True
    prediction_columns = MappingProxyType(
        {
            "as_of": (UTC_TIME, "The snapshot; only what was known before it was used."),
            "customer_id": (pl.String(), "The customer."),
            "segment": (pl.Int64(), "Number of the segment, which never means another; null where none is near."),
            "segment_name": (pl.String(), "The segment in words, by when its customers use most."),
            "distance": (
                pl.Float64(),
                "Distance of the customer's shape to the segment's centre, in the model's space.",
            ),
            "margin": (
                pl.Float64(),
                "How much nearer its centre is than the runner-up's (1: it lies on it); negative where the customer "
                "keeps the segment he had, though another is a little nearer.",
            ),
            "runner_up": (pl.Int64(), "The second nearest segment; the nearest, where the margin is negative."),
            "runner_up_distance": (pl.Float64(), "Distance to its centre."),
            "reason": (pl.String(), "Why there is no segment, or another than the nearest; null where it is that."),
        }
    )
    error_columns: ClassVar[Columns] = MappingProxyType({})
    drift_columns = MappingProxyType(
        {
            "population": (pl.String(), f"`{ALL}`: one model serves everybody."),
            "customers": (pl.Int64(), "Customers in the snapshot."),
            "unlabelled": (pl.Int64(), "Those of them without a segment."),
            "segments": (pl.List(pl.Int64()), "The segments, by number."),
            "shares": (pl.List(pl.Float64()), "The share of the customers in each; the rest is without one."),
            "share_distance": (
                pl.Float64(),
                "Share of the customers that would have to change segment for the shares to be those that the champion "
                "was trained on (total variation).",
            ),
            "usual_share_distance": (pl.Float64(), "The mean of that of each month that it was trained on."),
            "share_p_value": (pl.Float64(), "One-sided p-value of the distance among those of these months."),
            "distance": (pl.Float64(), "Mean distance to the own centre."),
            "distance_change": (pl.Float64(), "Relative change of it against the months that it was trained on."),
            "distance_p_value": (pl.Float64(), "One-sided p-value of the change among these months."),
            "p_value": (pl.Float64(), "The smaller of the two, times two (Bonferroni)."),
            "verdict": (pl.String(), "ok, drift or insufficient_data."),
            "due": (pl.Boolean(), "Whether a training is asked for."),
            "since": (UTC_TIME, "Start of the first of the latest months that are all drifted; null without a drift."),
            "expected_gain": (pl.Float64(), "Null: nobody knows what a training would gain."),
        }
    )
    time_column = "as_of"
    prediction_column = "segment"
    error_column = ""
    loss_column = "distance"
    look_back = timedelta(days=92)

    # --- data ---------------------------------------------------------------------------------------------------------

    def dataset(self, rows: pl.DataFrame | pl.LazyFrame) -> pl.LazyFrame:
        """as_of, customer_id and the shape, read when and where it is needed."""
        return rows.lazy().select(*self.keys, *SHAPE)

    def _snapshots(self, dataset: pl.LazyFrame, cutoff: datetime | None) -> list[datetime]:
        """The times of the snapshots by the cutoff, in order."""
        times: list[datetime] = dataset.select(pl.col("as_of").unique().sort()).collect()["as_of"].to_list()
        return [at for at in times if cutoff is None or at <= cutoff]

    # --- training -----------------------------------------------------------------------------------------------------

    def backtest(
        self,
        dataset: pl.LazyFrame,
        candidates: Mapping[str, Any],
        *,
        cutoff: datetime | None = None,
        champion: FittedSegments | None = None,
        window: TrainingWindow | None = None,
        seed: int = 0,
        workspace: Path | None = None,
        progress: Progress | None = None,
    ) -> BacktestResult:
        """Score candidates (:class:`lakehouse_assets.ml.segments.Segments`) and champion on the latest snapshots.

        A snapshot is scored by a fit of before it. Each candidate is fitted on all at the cutoff, too.

        The champion labels with what it is in force with. All are measured on the same customers and in one space,
        whatever the one in which they part: the principal components of the centred logarithms, as shares are parts of
        a whole (Aitchison, 1986), and in all 48 dimensions chance would hide the smaller differences. window: is not
        heeded; no fit learns from more than ``months``.

        ``metrics``: silhouette (the primary one), davies_bouldin, calinski_harabasz, inertia (mean squared distance to
        the segment's mean), and overall stability (mean adjusted Rand index between fits of resampled customers) and
        segments (how many). ``losses``: fold, as_of, customer_id, unchanged, and for each candidate and the champion
        the label and ``<name>_silhouette``. The last fold is the present: the latest snapshot as what was fitted now
        labels it, after :func:`lakehouse_assets.ml.labels.settle`; it is in no metric. unchanged: the shape is less
        than half as far from what it was when the champion was trained as the champion's nearest two segments are
        apart.
        """
        say = progress or (lambda _: None)
        times = self._snapshots(dataset, cutoff)
        if len(times) < 2:
            raise TooLittleHistory(
                f"{len(times)} snapshots are known; segments take two, one to learn from and one to be scored on"
            )
        origins = times[-self.scored - 1 : -1]
        scored = times[-len(origins) :]
        costs: list[dict[str, Any]] = []
        rows: list[pl.DataFrame] = []
        metrics: list[dict[str, Any]] = []
        say(f"backtest of {', '.join(candidates)}: {len(scored)} snapshots")

        def fit(name: str, until: datetime, number: int | None, stage: str) -> FittedSegments:
            begun = process_time()
            fitted = self._fit(name, candidates[name], dataset, times, until, seed, champion, number)
            spent = process_time() - begun
            costs.append({"shard": None, "candidate": name, "stage": stage, "cpu_seconds": spent, "bytes": None})
            return fitted

        # How many segments there are is asked once, and not of every fold again.
        fitted = {name: fit(name, times[-1], None, "final") for name in candidates}
        learned = usual_shapes(self._at(dataset, times[-self.months :]))[1]
        mean, kept = components(prepared(learned, "log_shares"), seed)
        for number, (origin, at) in enumerate(zip(origins, scored, strict=True)):
            snapshot = self._at(dataset, [at])
            models = {name: fit(name, origin, len(model.numbers), "fold") for name, model in fitted.items()}
            if champion:
                models[CHAMPION] = champion
            shapes = snapshot.select(pl.col(SHAPE).cast(pl.Float64)).fill_null(np.nan).to_numpy()
            points = (prepared(shapes, "log_shares") - mean) @ kept.T
            measured, found = _measured(snapshot, points, {n: m.predict(snapshot) for n, m in models.items()}, seed)
            rows.append(measured.with_columns(fold=pl.lit(number, pl.Int32)))
            metrics += [{"candidate": name, "slice": "fold", "key": str(number), **one} for name, one in found.items()]
        rows.append(self._present(dataset, times, fitted, champion).with_columns(fold=pl.lit(len(scored), pl.Int32)))
        for name in [*candidates, *([CHAMPION] if champion else [])]:
            folds = [one for one in metrics if one["candidate"] == name and one["slice"] == "fold"]
            measures = [m for m in folds[0] if m not in ("candidate", "slice", "key")]
            means = {m: float(np.mean([one[m] for one in folds])) for m in measures}
            model = champion if champion and name == CHAMPION else fitted[name]
            stability = None if name == CHAMPION else _stability(model, learned, seed)
            overall = {**means, "stability": stability, "segments": len(model.numbers)}
            metrics.append({"candidate": name, "slice": "overall", "key": "", **overall})
        table = pl.DataFrame(metrics, infer_schema_length=None).with_columns(
            pl.col("stability").cast(pl.Float64), pl.col("segments").cast(pl.Float64)
        )
        ranked = table.filter(pl.col("candidate") != CHAMPION, slice="overall").sort(
            "silhouette", descending=True, nulls_last=True, maintain_order=True
        )
        losses = pl.concat(rows, how="diagonal_relaxed")
        first = ["fold", "as_of", "customer_id", "unchanged"]
        folds = [
            {"fold": i, "origin": origin, "as_of": at}
            for i, (origin, at) in enumerate(zip([*origins, times[-1]], [*scored, times[-1]], strict=True))
        ]
        return BacktestResult(
            best=ranked["candidate"][0],
            primary="silhouette",
            metrics=table,
            folds=pl.DataFrame(folds, schema={"fold": pl.Int32, "origin": UTC_TIME, "as_of": UTC_TIME}),
            losses=losses.select(*first, *(c for c in losses.columns if c not in first)).lazy(),
            fitted=fitted,
            costs=pl.DataFrame(costs, schema=COSTS),
            unscored=pl.DataFrame(schema={self.member: pl.String, "reason": pl.String}),
            higher_is_better=True,
        )

    def refit(
        self, fitted: FittedSegments, dataset: pl.LazyFrame, cutoff: datetime, *, seed: int | None = None
    ) -> FittedSegments:
        """A fresh fit of a fitted model's own recipe on the snapshots by the cutoff, its labels matched to it."""
        seed = fitted.seed if seed is None else seed
        times = self._snapshots(dataset, cutoff)
        return self._fit(fitted.name, fitted.recipe, dataset, times, cutoff, seed, fitted)

    def compose(
        self, models: Mapping[int, FittedSegments], assignment: Mapping[str, int], champion: int
    ) -> FittedSegments:
        """The champion, whose predictions say its version: one model serves everybody."""
        return replace(models[champion], model_version=champion)

    def _at(self, dataset: pl.LazyFrame, times: Sequence[datetime]) -> pl.DataFrame:
        """The rows of some snapshots."""
        return dataset.filter(pl.col("as_of").is_in(list(times))).sort(self.keys).collect()

    def _fit(
        self,
        name: str,
        recipe: Segments,
        dataset: pl.LazyFrame,
        times: Sequence[datetime],
        until: datetime,
        seed: int,
        champion: FittedSegments | None,
        number: int | None = None,
    ) -> FittedSegments:
        """Learn from the latest snapshots until a time; numbers and names are the champion's, where they go on.

        number: of segments; found where none is given.
        """
        rows = self._at(dataset, [at for at in times if at <= until][-self.months :])
        shapes = usual_shapes(rows)[1]
        parts, curve = recipe.learn(shapes, seed, number)
        own = parts.distances(shapes).argmin(axis=1)
        earlier = champion.parts.distances(shapes).argmin(axis=1) if champion else np.zeros(len(own), np.int64)
        known = champion.numbers if champion else ()
        count = len(parts.centres)
        numbers = labels.inherit(own, np.array(known or (0,))[earlier], known, until, count)
        profile = Profile.of(shapes, own, count)
        sample = np.random.default_rng(seed).permutation(len(shapes))[:_SAMPLE]
        unmeasured = Reference([], np.zeros((0, 0)), np.zeros(0))
        fitted = FittedSegments(
            name=name,
            recipe=recipe,
            trained_at=until,
            seed=seed,
            parts=parts,
            numbers=numbers,
            names=labels.names(profile.mean, numbers, champion.called if champion else {}),
            limit=limit_of(parts, complete_shapes(rows)),
            curve=curve,
            profile=profile,
            reference=unmeasured,
            sample=parts.scores(shapes[sample]),
            sample_labels=own[sample],
        )
        months, shares, distance = [], [], []
        predicted = fitted.predict(rows)
        for (at,), month in sorted(predicted.group_by("as_of"), key=lambda group: group[0]):
            months.append(at)
            shares.append(_shares(month, numbers))
            distance.append(month["distance"].mean())
        return replace(fitted, reference=Reference(months, np.array(shares), np.array(distance, float)))

    def _present(
        self,
        dataset: pl.LazyFrame,
        times: Sequence[datetime],
        fitted: Mapping[str, FittedSegments],
        champion: FittedSegments | None,
    ) -> pl.DataFrame:
        """The latest snapshot as each model labels it, and whose shape is as it was when the champion was trained."""
        snapshot = self._at(dataset, times[-1:])
        out = snapshot.select(*self.keys, unchanged=pl.lit(None, pl.Boolean))
        had = snapshot.clear().select(*self.keys, segment=pl.lit(None, pl.Int64), segment_name=pl.lit(None, pl.String))
        if champion:
            had = champion.predict(snapshot)
            out = out.with_columns(had["segment"].alias(CHAMPION))
            before = self._at(dataset, [at for at in times if at <= champion.trained_at][-self.months :])
            customers, shapes = usual_shapes(before)
            now = usual_shapes(snapshot)
            both = sorted(set(customers) & set(now[0]))
            places = (np.searchsorted(known, both) for known in (now[0], customers))
            after, former = (champion.parts.scores(s[at]) for s, at in zip((now[1], shapes), places, strict=True))
            apart = min(float(np.linalg.norm(a - b)) for a, b in combinations(champion.parts.centres, 2))
            moved = np.linalg.norm(after - former, axis=1)
            still = pl.DataFrame({"customer_id": both, "unchanged": moved < apart / 2})
            out = out.drop("unchanged").join(still, on="customer_id", how="left", maintain_order="left")
        settled = {n: labels.settle(model.predict(snapshot), had, self.hysteresis) for n, model in fitted.items()}
        return out.with_columns(one["segment"].alias(name) for name, one in settled.items())

    # --- gate ---------------------------------------------------------------------------------------------------------

    def gate(
        self,
        result: BacktestResult,
        challenger: str,
        policy: GatePolicy,
        *,
        groups: Mapping[str, str | None] | None = None,
        has_champion: bool,
    ) -> GateDecision:
        """Promote what is stable: the same in every sample, as clear as the champion, and with the labels it gave.

        Promoted is a challenger whose fits of resampled customers agree (``minimum_stability``), if its silhouette on
        the snapshots that it was not fitted on is not worse by more than ``silhouette_tolerance``, and, among customers
        whose shape has not changed, it agrees with the champion (``minimum_agreement``) and not more than ``churn``
        change their label. Where it does not agree, its silhouette has to be better by ``policy.minimum_gain`` (a share
        of the champion's): then there are other segments than there were. Bounds are those of a paired bootstrap of the
        customers at the level ``policy.significance``.
        """
        stability = float(result.metrics.filter(slice="overall", candidate=challenger)["stability"].item())
        evidence: dict[str, Any] = {"stability": stability}
        unstable = stability < self.minimum_stability
        said = f"fits of resampled customers agree by {stability:.2f} (adjusted Rand index)"
        if not has_champion:
            verdict = f"kept: {said}, less than {self.minimum_stability:g}" if unstable else f"promoted: {said}"
            return GateDecision(not unstable, verdict, evidence)
        losses = result.losses.collect()
        present = losses["fold"].max()
        gains, base = _resampled_gain(losses.filter(pl.col("fold") < present), challenger)
        still = losses.filter(pl.col("fold") == present, "unchanged")
        ours, theirs = (still[name].fill_null(_NOBODY).to_numpy() for name in (challenger, CHAMPION))
        level = policy.significance
        difference = float(gains[0])
        worst, best = (float(np.quantile(gains[1:], q)) for q in (level, 1 - level))
        agreement = _resampled_agreement(ours, theirs)
        least = float(np.quantile(agreement[1:], level))
        churn = float((ours != theirs).mean()) if len(ours) else 0.0
        tolerance, wanted = self.silhouette_tolerance, policy.minimum_gain * base
        evidence |= {
            "gain": difference / base if base else None,
            "p_value": float((gains[1:] <= -tolerance).mean()),
            "silhouette_champion": base,
            "silhouette_difference": difference,
            "silhouette_difference_bounds": [worst, best],
            "agreement": float(agreement[0]),
            "agreement_bound": least,
            "churn": churn,
            "customers_unchanged": len(ours),
        }
        clearer = wanted > 0 and float(np.quantile(gains[1:], level)) > wanted
        silhouette = f"silhouette {difference:+.3f}"
        promote = False
        if unstable:
            reason = f"kept: {said}, less than {self.minimum_stability:g}"
        elif worst < -tolerance:
            reason = f"kept: {silhouette}, and {tolerance:g} worse is not ruled out"
        elif clearer:
            promote, reason = True, f"promoted: {silhouette}: clearer segments than the champion's"
        elif least < self.minimum_agreement:
            reason = (
                f"kept: labels of {len(ours):,} customers whose shape has not changed agree with the champion's by "
                f"{agreement[0]:.2f} (adjusted Rand index, at least {least:.2f}, not {self.minimum_agreement:g}); "
                f"the segments are no clearer ({silhouette})"
            )
        elif churn > self.churn:
            reason = f"kept: {churn:.1%} of the customers whose shape has not changed would change their label"
        else:
            promote = True
            reason = (
                f"promoted: {silhouette}; {churn:.1%} of {len(ours):,} customers whose shape has not changed change "
                "their label"
            )
        return GateDecision(promote, reason, evidence)

    # --- prediction ---------------------------------------------------------------------------------------------------

    def calibrate(self, predicted: pl.DataFrame, earlier: pl.LazyFrame, features: pl.LazyFrame) -> pl.DataFrame:
        """Labels that do not flap: see :func:`lakehouse_assets.ml.labels.settle`."""
        past = earlier.select("customer_id", "as_of", "segment", "segment_name").collect()
        return labels.settle(predicted, past, self.hysteresis)

    # --- monitoring ---------------------------------------------------------------------------------------------------

    def errors(self, predictions: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
        """None: there is nothing that comes true."""
        return predictions.clear()

    def scores(self, errors: pl.DataFrame) -> dict[str, float]:
        """None."""
        return {}

    def main_inputs(self, columns: Sequence[str]) -> list[str]:
        """The shape."""
        return [name for name in columns if name in SHAPE]

    def backtest_errors(self, result: BacktestResult) -> pl.LazyFrame:
        """customer_id, segment: of the snapshots that are scored, by the best candidate."""
        scored = pl.col("fold") < pl.col("fold").max()
        return result.losses.filter(scored).select("customer_id", segment=pl.col(result.best))

    def window_losses(
        self,
        champion: FittedSegments,
        dataset: pl.LazyFrame,
        start: datetime,
        end: datetime,
        *,
        fresh: FittedSegments | None = None,
        seed: int | None = None,
        shadow: bool = True,
    ) -> pl.DataFrame:
        """How the snapshot in a window differs from those that the champion learned from; no row without one.

        fresh, seed, shadow: are not heeded; a fresh fit has no truth to be nearer to.
        """
        rows = dataset.filter(pl.col("as_of").is_between(start, end, closed="left")).collect()
        found = _against_reference(champion, champion.predict(rows)) if rows.height else []
        schema = {name: dtype for name, (dtype, _) in self.drift_columns.items() if name in _MEASURED}
        return pl.DataFrame(found, schema=schema)

    def evidence(
        self,
        champion: FittedSegments,
        dataset: pl.LazyFrame,
        start: datetime,
        policy: DriftPolicy,
        moved: pl.DataFrame | None = None,
    ) -> Mapping[int, str]:
        """The champion's names: a finding says which segment grew."""
        return champion.called

    def verdict(self, history: pl.DataFrame, policy: DriftPolicy, evidence: Mapping[int, str] | None = None) -> Verdict:
        """Drift, when shares or distances of the latest month are so far from those of the months that were learned
        from as a month of these is at the rate ``policy.false_alarm_rate`` only, and by ``policy.minimum_effect``.
        """
        history = history.sort("window_start").with_columns(
            p_value=(2 * pl.min_horizontal("share_p_value", "distance_p_value")).clip(upper_bound=1.0)
        )
        shares = (pl.col("share_p_value") * 2 <= policy.false_alarm_rate) & (
            pl.col("share_distance") - pl.col("usual_share_distance") >= policy.minimum_effect
        )
        distance = (pl.col("distance_p_value") * 2 <= policy.false_alarm_rate) & (
            pl.col("distance_change") >= policy.minimum_effect
        )
        history = history.with_columns(by_shares=shares.fill_null(False), by_distance=distance.fill_null(False))
        hits = (history["by_shares"] | history["by_distance"]).to_list()
        last = history.row(-1, named=True) if history.height else None
        tested = last is not None and last["p_value"] is not None
        drifted = bool(tested and hits[-1])
        quiet = max((i for i, hit in enumerate(hits) if not hit), default=-1)
        since = history["window_start"][quiet + 1] if drifted else None
        said = ("drift" if drifted else "ok") if tested else "insufficient_data"
        row = {
            "population": [ALL],
            "p_value": [last["p_value"] if last else None],
            "verdict": [said],
            "due": [drifted],
            "since": [since],
            "expected_gain": [None],
        }
        schema = {name: self.drift_columns[name][0] for name in row}
        start = last["window_start"] if last else None
        return Verdict(
            said,
            start,
            _next_month(start) if start else None,
            pl.DataFrame(row, schema=schema),
            {
                "series_tested": int(tested),
                "series_drifted": int(drifted),
                "share_drifted": float(drifted),
                "members_due": int(drifted),
            },
            [_finding(history, since, evidence or {})] if drifted and since else [],
        )

    def explain(self, dataset: pl.LazyFrame, members: Sequence[str], start: datetime, span: timedelta) -> pl.DataFrame:
        """The hours whose shares have moved most, in standard deviations, against the year before; three at most.

        Columns as of :func:`lakehouse_assets.ml.inputs.input_drift`.
        """
        times = self._snapshots(dataset, start + span - timedelta(microseconds=1))
        before = self._at(dataset, [at for at in times if at < start][-self.months :])
        now = self._at(dataset, [at for at in times if at >= start])
        if before.is_empty() or now.is_empty():
            return pl.DataFrame()
        found = []
        months = before.partition_by("as_of")
        for column in SHAPE:
            reference = before[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
            current = now[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
            each = [distances(reference, m[column].cast(pl.Float64).fill_null(np.nan).to_numpy()) for m in months]
            found.append(
                {
                    "series_id": ALL,
                    "column": column,
                    **distances(reference, current),
                    "usual": max(one["wasserstein"] for one in each),
                    "reference_mean": float(np.nanmean(reference)),
                    "current_mean": float(np.nanmean(current)),
                }
            )
        return pl.DataFrame(found).sort("wasserstein", descending=True, nulls_last=True).head(3)

    # --- pictures -----------------------------------------------------------------------------------------------------

    def pictures(self, result: BacktestResult) -> dict[str, bytes]:
        """leaderboard, number of segments, the segments' days, their map, who moves: PNG by name."""
        from lakehouse_assets.ml.clustering_pictures import backtest_pictures

        return backtest_pictures(result)

    def error_pictures(self, errors: pl.LazyFrame) -> dict[str, bytes]:
        """None."""
        return {}

    def drift_pictures(self, history: pl.DataFrame, features: pl.LazyFrame, policy: DriftPolicy) -> dict[str, bytes]:
        """Shares and distances by month: PNG by name."""
        from lakehouse_assets.ml.clustering_pictures import drift_pictures

        return drift_pictures(history, policy)

    def finding_pictures(
        self, history: pl.DataFrame, features: pl.LazyFrame, finding: Mapping[str, Any]
    ) -> dict[str, bytes]:
        """The mean day before and since a finding, and the shares by month: PNG by name."""
        from lakehouse_assets.ml.clustering_pictures import finding_pictures

        return finding_pictures(history, features, finding.get("since"))


# --- measures ---------------------------------------------------------------------------------------------------------


def _measured(
    snapshot: pl.DataFrame, points: Array, predicted: Mapping[str, pl.DataFrame], seed: int
) -> tuple[pl.DataFrame, dict[str, dict[str, float]]]:
    """Labels and silhouettes of a snapshot by model, and the measures of each, of points (N, q) for its rows.

    Customers whom any model leaves without a segment are in no measure. A model with one segment has no silhouette: -1.
    """
    from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_samples
    from threadpoolctl import threadpool_limits

    out = snapshot.select("as_of", "customer_id").with_columns(p["segment"].alias(n) for n, p in predicted.items())
    everywhere = out.select(known=pl.all_horizontal(pl.col(name).is_not_null() for name in predicted))[
        "known"
    ].to_numpy()
    rows = np.flatnonzero(everywhere)
    sample = np.sort(np.random.default_rng(seed).permutation(rows)[:_SAMPLE])
    measures: dict[str, dict[str, float]] = {}
    for name in predicted:
        mine = out[name].fill_null(_NOBODY).to_numpy()
        apart = np.full(len(mine), np.nan)
        found = {"silhouette": -1.0, "davies_bouldin": float("nan"), "calinski_harabasz": float("nan")}
        with threadpool_limits(1):
            if 1 < len(set(mine[sample])) < len(sample):
                apart[sample] = silhouette_samples(points[sample], mine[sample])
                found = {
                    "silhouette": float(apart[sample].mean()),
                    "davies_bouldin": float(davies_bouldin_score(points[rows], mine[rows])),
                    "calinski_harabasz": float(calinski_harabasz_score(points[rows], mine[rows])),
                }
            else:
                apart[sample] = -1.0
        means = {one: points[rows][mine[rows] == one].mean(axis=0) for one in set(mine[rows])}
        squares = [((points[i] - means[mine[i]]) ** 2).sum() for i in rows]
        measures[name] = {**found, "inertia": float(np.mean(squares)) if squares else float("nan")}
        out = out.with_columns(pl.Series(f"{name}_silhouette", apart, nan_to_null=True))
    return out, measures


def _stability(model: FittedSegments, shapes: Array, seed: int) -> float:
    """Mean adjusted Rand index of all pairs of fits of resampled customers, with the model's number of segments.

    All fits label the same customers (Hubert and Arabie, 1985; Ben-Hur, Elisseeff and Guyon, 2002).
    """
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(seed)
    shapes = shapes[rng.permutation(len(shapes))[:_SAMPLE]]
    found = []
    for resample in range(_RESAMPLES):
        drawn = shapes[rng.integers(0, len(shapes), len(shapes))]
        parts, _ = model.recipe.learn(drawn, seed + resample, len(model.numbers))
        found.append(parts.distances(shapes).argmin(axis=1))
    return float(np.mean([adjusted_rand_score(a, b) for a, b in combinations(found, 2)]))


def _resampled_gain(losses: pl.DataFrame, challenger: str) -> tuple[Array, float]:
    """Difference of mean silhouettes, challenger less champion: as it is, then of resampled customers; the champion's.

    Customers are drawn with all their months, which are not independent.
    """
    names = [f"{name}_silhouette" for name in (challenger, CHAMPION)]
    known = losses.drop_nulls(names).group_by("customer_id").agg(pl.col(names).sum(), rows=pl.len()).sort("customer_id")
    if known.is_empty():
        raise ValueError("no customer is labelled by both champion and challenger: there is nothing to decide by")
    ours, theirs, rows = (known[name].to_numpy().astype(float) for name in (*names, "rows"))
    rng = np.random.default_rng(0)
    size = len(known)
    counts = [np.ones(size), *(np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(_BOOTSTRAP))]
    gains = np.array([(count @ (ours - theirs)) / (count @ rows) for count in counts])
    return gains, float(theirs.sum() / rows.sum())


def _resampled_agreement(ours: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]) -> Array:
    """Adjusted Rand index of two partitions of the same customers: as they are, then of resampled customers."""
    from sklearn.metrics import adjusted_rand_score

    size, rng = len(ours), np.random.default_rng(0)
    if not size:
        return np.zeros(2)  # nobody is known to be unchanged: nothing says that they agree
    drawn = [np.arange(size), *(rng.integers(0, size, size) for _ in range(_BOOTSTRAP))]
    return np.array([adjusted_rand_score(ours[rows], theirs[rows]) for rows in drawn])


# --- drift ------------------------------------------------------------------------------------------------------------

_MEASURED = (
    *("population", "customers", "unlabelled", "segments", "shares", "share_distance", "usual_share_distance"),
    *("share_p_value", "distance", "distance_change", "distance_p_value"),
)
_LEAST_MONTHS = 3
"""With fewer months to be measured by, no month is judged."""


def _shares(predicted: pl.DataFrame, numbers: Sequence[int]) -> list[float]:
    """The share of the rows in each segment, then of those in none."""
    counts = [int((predicted["segment"] == number).sum()) for number in numbers]
    return [count / predicted.height for count in (*counts, predicted["segment"].null_count())]


def _against_reference(champion: FittedSegments, predicted: pl.DataFrame) -> list[dict[str, Any]]:
    """The row of a snapshot: its shares and distances among those of the months that the champion learned from."""
    reference, shares = champion.reference, np.array(_shares(predicted, champion.numbers))
    distance: Any = predicted["distance"].mean()
    months = len(reference.months)
    others = (reference.shares.sum(axis=0) - reference.shares) / max(months - 1, 1)
    usual = np.abs(reference.shares - others).sum(axis=1) / 2
    apart = float(np.abs(shares - reference.shares.mean(axis=0)).sum() / 2)
    change = None if distance is None else float(np.log(distance / reference.distance.mean()))
    return [
        {
            "population": ALL,
            "customers": predicted.height,
            "unlabelled": predicted["segment"].null_count(),
            "segments": list(champion.numbers),
            "shares": shares[:-1].tolist(),
            "share_distance": apart,
            "usual_share_distance": float(usual.mean()) if months > 1 else None,
            "share_p_value": _p_value(apart, usual),
            "distance": distance,
            "distance_change": None if change is None else float(np.expm1(change)),
            "distance_p_value": None
            if distance is None
            else _p_value(float(np.log(distance)), np.log(reference.distance)),
        }
    ]


def _p_value(value: float, months: Array) -> float | None:
    """One-sided p-value that a further month is so high (Student's prediction interval); None with too few months."""
    from scipy.stats import t as student

    if len(months) < _LEAST_MONTHS:
        return None
    spread = max(float(months.std(ddof=1)), 1e-9) * np.sqrt(1 + 1 / len(months))
    return float(student.sf((value - months.mean()) / spread, len(months) - 1))


def _finding(history: pl.DataFrame, since: datetime, names: Mapping[int, str]) -> dict[str, Any]:
    """The drift in words: which segment grew or shrank most since before it, or how much farther customers are."""
    last = history.row(-1, named=True)
    said = []
    if last["by_shares"]:
        said.append(
            f"segments shared out otherwise: {last['share_distance']:.0%} of the customers would have to change"
        )
        before = history.filter(pl.col("window_start") < since)
        if before.height and before["segments"][-1].to_list() == last["segments"]:
            moved = np.subtract(last["shares"], before["shares"][-1].to_list())
            most = int(np.abs(moved).argmax())
            number = last["segments"][most]
            said.append(f"segment {number} ({names.get(number, '')}) {100 * moved[most]:+.0f} points")
    if last["by_distance"]:
        said.append(f"customers are {last['distance_change']:.0%} farther from their segments")
    return {
        "kind": "input",
        "channel": "input",
        "scope": "fleet",
        "members": [ALL],
        "since": since.isoformat(),
        "says": "; ".join(said),
        "hours": None,
        "expected_gain": None,
    }


def _next_month(start: datetime) -> datetime:
    return (start.astimezone(UTC).replace(day=1) + timedelta(days=32)).replace(day=1)
