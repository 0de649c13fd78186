from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.clustering import Clustering
from lakehouse_assets.ml.definition import CHAMPION, BacktestResult, DriftPolicy, GatePolicy
from lakehouse_assets.ml.segments import FittedSegments, KMeansSegments
from lakehouse_assets_tests.ml.shapes import DAY, FOUR, NIGHT, kinds_of, snapshot_times, snapshots

KIND = Clustering(months=8, scored=2)
CANDIDATES = {"k_means": KMeansSegments(most=5)}
GATE = GatePolicy(minimum_gain=0.05)
DRIFT = DriftPolicy(channels=("input",), minimum_effect=0.05)
MONTHS, CUSTOMERS = 14, 120
TRUTH = kinds_of(MONTHS, CUSTOMERS)


def moved(kinds: np.ndarray, share: float, month: int) -> np.ndarray:
    """The kinds, of which a share of the first kind's customers are of the third from a month on."""
    out = kinds.copy()
    some = np.flatnonzero(kinds[0] == 0)
    out[month:, some[: int(share * len(kinds[0]))]] = 2
    return out


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """Fuzzy segments; in month 10 one customer in ten becomes of another kind."""
    return snapshots(moved(TRUTH, 0.1, 10), own=0.3, noise=0.3)


def trained(rows: pl.DataFrame, month: int, champion: FittedSegments | None = None) -> BacktestResult:
    dataset = KIND.dataset(rows)
    return KIND.backtest(dataset, CANDIDATES, cutoff=snapshot_times(month)[-1], champion=champion, seed=month)


@pytest.fixture(scope="module")
def first(rows: pl.DataFrame) -> FittedSegments:
    return trained(rows, 9).fitted["k_means"]  # type: ignore[return-value]


def test_labels_stay_over_three_retrainings_and_follow_who_changes(rows: pl.DataFrame, first: FittedSegments) -> None:
    from sklearn.metrics import adjusted_rand_score

    champion, table = first, pl.DataFrame()
    for month in range(9, 14):
        at = snapshot_times(month)[-1]
        if month in (11, 12, 13):
            result = trained(rows, month, champion)
            decision = KIND.gate(result, result.best, GATE, has_champion=True)
            assert decision.promote, decision.reason
            assert decision.evidence["churn"] <= 0.01
            champion = result.fitted[result.best]  # type: ignore[assignment]
        predicted = champion.predict(rows.filter(pl.col("as_of") == at))
        earlier = predicted.clear() if table.is_empty() else table
        table = pl.concat([earlier, KIND.calibrate(predicted, earlier.lazy(), rows.lazy())])
    labels = table.sort("as_of", "customer_id")["segment"].to_numpy().reshape(5, CUSTOMERS)
    truth = moved(TRUTH, 0.1, 10)[8:13]
    assert adjusted_rand_score(truth[-1], labels[-1]) > 0.9
    changed = (labels[1:] != labels[:-1]).any(axis=0)
    still = (truth == truth[0]).all(axis=0)
    assert changed[still].mean() <= 0.02
    assert changed[~still].all()
    assert champion.called == first.called


def test_the_gate_keeps_the_champion_from_what_is_not_stable(rows: pl.DataFrame, first: FittedSegments) -> None:
    result = trained(rows, 12, first)
    assert result.higher_is_better
    assert set(result.summary()) == {"k_means", CHAMPION}
    assert result.metrics.filter(slice="fold")["key"].unique().sort().to_list() == ["0", "1"]
    present = result.losses.collect().filter(pl.col("fold") == 2)
    gone = present.filter(~pl.col("unchanged"))["customer_id"].to_list()
    left = {f"C{i:04d}" for i in np.flatnonzero((moved(TRUTH, 0.1, 10) != TRUTH).any(axis=0))}
    assert set(gone) >= left
    assert len(gone) <= len(left) + 3, "a noisy month"

    def decided(result: BacktestResult) -> str:
        decision = KIND.gate(result, "k_means", GATE, has_champion=True)
        assert decision.promote == decision.reason.startswith("promoted")
        return decision.reason

    assert decided(result).startswith("promoted: ")
    unstable = result.metrics.with_columns(stability=pl.lit(0.5))
    assert "resampled customers agree by 0.50" in decided(replace(result, metrics=unstable))
    number = pl.int_range(pl.len())
    last = (pl.col("fold") == 2) & pl.col("unchanged")
    renamed = pl.when(last & (number % 20 == 0)).then(99).otherwise("k_means")
    assert "would change their label" in decided(replace(result, losses=result.losses.with_columns(k_means=renamed)))
    shuffled = pl.when(last & (number % 3 == 0)).then(99).otherwise("k_means")
    other = result.losses.with_columns(k_means=shuffled)
    assert "agree with the champion's by" in decided(replace(result, losses=other))
    worse = result.losses.with_columns(pl.col("k_means_silhouette") - 0.1)
    assert "worse is not ruled out" in decided(replace(result, losses=worse))
    better = other.with_columns(pl.col("k_means_silhouette") + 0.1)
    assert decided(replace(result, losses=better)).startswith("promoted: ")


def test_where_there_are_no_segments_nothing_comes_into_force() -> None:
    blob = snapshots(np.zeros((3, CUSTOMERS), np.int64), own=0.3)
    result = trained(blob, 3)
    decision = KIND.gate(result, result.best, GATE, has_champion=False)
    assert not decision.promote
    assert "less than 0.8" in decision.reason


def verdicts(champion: FittedSegments, rows: pl.DataFrame, months: range) -> list:
    history, out = pl.DataFrame(), []
    for month in months:
        at = snapshot_times(month)[-1]
        new = KIND.window_losses(champion, KIND.dataset(rows), at, at + timedelta(days=28))
        new = new.with_columns(window_start=pl.lit(at, pl.Datetime("us", "UTC")), model_version=pl.lit(1))
        history = pl.concat([history, new])
        said = KIND.verdict(history, DRIFT, KIND.evidence(champion, KIND.dataset(rows), at, DRIFT))
        assert set(new.columns) & set(said.series.columns) == {"population"}
        assert {*new.columns, *said.series.columns} - {"window_start", "model_version"} == set(KIND.drift_columns)
        out.append(said)
    return out


def test_a_drift_is_told_when_customers_move_between_segments_or_away_from_them(first: FittedSegments) -> None:
    quiet = snapshots(TRUTH, own=0.3, noise=0.3, seed=0)
    assert [one.verdict for one in verdicts(first, quiet, range(10, 14))] == ["ok"] * 4
    told = verdicts(first, snapshots(moved(TRUTH, 0.2, 11), own=0.3, noise=0.3), range(10, 14))
    assert [one.verdict for one in told] == ["ok", "ok", "drift", "drift"]
    assert told[-1].series["due"].to_list() == [True]
    (finding,) = told[-1].findings
    assert finding["since"].startswith("2025-12-01")
    assert "segment" in finding["says"]
    away = snapshots(TRUTH, own=0.3, noise=0.3).with_columns(
        h03=pl.when(pl.col("as_of") == snapshot_times(12)[-1]).then(pl.col("h03") + 0.1).otherwise("h03")
    )
    (said,) = verdicts(first, away, range(12, 13))
    assert "farther from their segments" in said.findings[0]["says"]
    start = snapshot_times(12)[-1]
    moves = KIND.explain(KIND.dataset(away), ["all"], start, timedelta(days=31))
    assert moves["column"][0] == "h03"
    assert moves["wasserstein"][0] > moves["usual"][0]


def test_without_a_snapshot_or_with_few_months_nothing_is_judged(rows: pl.DataFrame, first: FittedSegments) -> None:
    later = snapshot_times(MONTHS)[-1] + timedelta(days=40)
    none = KIND.window_losses(first, KIND.dataset(rows), later, later + timedelta(days=30))
    assert none.is_empty()
    assert KIND.verdict(none.with_columns(window_start=pl.lit(later)), DRIFT).verdict == "insufficient_data"
    young = trained(rows, 2).fitted["k_means"]
    assert [one.verdict for one in verdicts(young, rows, range(3, 4))] == ["insufficient_data"]  # type: ignore[arg-type]


def test_a_new_segment_gets_a_new_number_and_the_old_ones_keep_theirs(first: FittedSegments) -> None:
    """From month 10 a fifth of the customers charge cars at noon of working days and at midnight of days off."""
    curves = np.vstack([FOUR, np.concatenate([2 * DAY[:24] ** 2, NIGHT[24:] ** 2])[None]])
    kinds = moved(TRUTH, 0.0, 10)
    kinds[10:, np.flatnonzero(TRUTH[0] == 0)[:24]] = 4
    rows = snapshots(kinds, own=0.3, noise=0.3, curves=curves)
    result = replace(KIND, months=3).backtest(KIND.dataset(rows), CANDIDATES, champion=first)
    model = result.fitted["k_means"]
    assert isinstance(model, FittedSegments)
    assert set(model.numbers) == {*first.numbers, 260201}
    assert {number: model.called[number] for number in first.numbers} == first.called
    assert KIND.compose({7: model}, {"all": 7}, 7).predict(rows)["model_version"].unique().to_list() == [7]
    fresh = KIND.refit(first, KIND.dataset(rows), snapshot_times(10)[-1])
    assert fresh.called == first.called
