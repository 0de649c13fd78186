from datetime import datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml import entity_drift
from lakehouse_assets.ml.classification import Classification
from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.entities import Snapshots
from lakehouse_assets.ml.entity_drift import Verdict, input_moves
from lakehouse_assets.ml.entity_kind import FittedEntities
from lakehouse_assets.ml.fitted import microseconds
from lakehouse_assets.ml.recipes import Logistic
from lakehouse_assets_tests.ml.customers import months, snapshots

KIND = Classification(outcomes=("margin_12m",), origins=6, resamples=10)
POLICY = DriftPolicy(channels=("input", "error"))
TRAINED = 15


@cache
def _champion() -> FittedEntities:
    frame = snapshots(24, 300, base=-1.0, shock=18)
    result = KIND.backtest(frame, {"logistic": Logistic()}, cutoff=months(24)[TRAINED], seed=0)
    return result.fitted["logistic"]


def _watched(frame: pl.DataFrame, windows: range, policy: DriftPolicy = POLICY) -> list[Verdict]:
    """The verdicts of one window after the other."""
    starts, rows, out = months(40), [], []
    for i in windows:
        row = KIND.window_losses(_champion(), frame, starts[i], starts[i + 1])
        stamp = pl.lit(starts[i], pl.Datetime("us", "UTC"))
        rows.append(row.with_columns(window_start=stamp, model_version=pl.lit(1, pl.Int64)))
        out.append(KIND.verdict(pl.concat(rows), policy))
    return out


def test_a_shock_is_told_when_it_comes_and_a_training_is_due_once_it_has_labels() -> None:
    frame = snapshots(26, 300, base=-1.0, shock=18)
    found = _watched(frame, range(TRAINED, 25))
    assert [one.verdict for one in found[:3]] == ["ok"] * 3
    first = found[3]
    assert first.verdict == "drift"
    assert first.window_end == months(24)[19]
    (finding,) = first.findings
    assert finding["input"] == "price_change_3m"
    assert "price_change_3m moved by" in finding["says"]
    assert "can show that it has learned it from" in finding["says"]
    assert first.series.row(0, named=True)["due"] is False
    # By then labels have come from since the shock, to learn from, and from three months later, to be scored on.
    assert found[8].series["due"].to_list() == [False]
    later = found[9].series.row(0, named=True)
    assert (later["verdict"], later["due"], later["since"]) == ("drift", True, months(24)[18])
    assert set(found[0].series.columns) | set(entity_drift.COLUMNS) == set(entity_drift.COLUMNS)


def test_the_loss_is_compared_once_labels_have_come() -> None:
    """The inputs stay as they are, and the world turns round: only labels can tell."""
    frame = snapshots(24, 300, base=-1.0)
    turned = frame.with_columns(
        pl.when(pl.col("as_of") >= months(24)[17]).then(~pl.col("churned")).otherwise("churned").alias("churned")
    )
    found = _watched(turned, range(18, 22))
    last = found[-1].series.row(0, named=True)
    assert (found[0].verdict, last["verdict"], last["channel"], last["due"]) == ("ok", "drift", "error", True)
    assert last["since"] == months(24)[17]
    assert last["error_change"] > 0.3
    assert found[-1].findings[0]["channel"] == "error"
    quiet = _watched(turned, range(18, 22), DriftPolicy(channels=("input",)))
    assert quiet[-1].verdict == "ok"


def _p_value(frame: pl.DataFrame, at: int, trained: int) -> float:
    data = Snapshots.of(frame, ("as_of", "customer_id"), "churned", 90, ("margin_12m",))
    begin, stop, then = (microseconds(months(60)[i]) for i in (at, at + 1, trained))
    return input_moves(data, begin, stop, then, [*data.numbers, *data.categories]).family


def test_false_alarms_are_as_rare_as_is_promised() -> None:
    """Seasons, a trend and customers who grow older are no drift."""
    found = []
    for seed in range(8):
        frame = snapshots(24, 80, seed, trend=0.03)
        found += [_p_value(frame, at, 15) for at in (16, 18, 20, 23)]
    assert np.isfinite(found).all()
    assert np.mean(np.array(found) <= 0.05) <= 0.06
    assert np.mean(np.array(found) <= 0.01) <= 0.03


def test_moves_of_half_a_standard_deviation_are_seen() -> None:
    seen = []
    for seed in range(5):
        moved = pl.col("price_change_3m") + pl.when(pl.col("as_of") >= months(24)[18]).then(0.5).otherwise(0.0)
        frame = snapshots(20, 200, seed).with_columns(price_change_3m=moved)
        seen.append(_p_value(frame, 18, 15) <= 0.01)
    assert np.mean(seen) >= 0.8


def test_categories_and_what_is_unknown_are_watched_too() -> None:
    at = pl.col("as_of") == months(20)[18]
    frame = snapshots(20, 300)
    assert _p_value(frame, 18, 15) > 0.01
    other = pl.when(at).then(pl.lit("new")).otherwise("tariff").alias("tariff")
    assert _p_value(frame.with_columns(other), 18, 15) <= 0.01
    lost = pl.when(~at).then("consumption_last_month").alias("consumption_last_month")
    assert _p_value(frame.with_columns(lost), 18, 15) <= 0.01


def test_a_category_that_nobody_knew_when_the_champion_was_trained_is_no_drift_when_it_comes() -> None:
    frame, since = snapshots(20, 300), pl.col("as_of") > months(20)[15]
    late = frame.with_columns(segment=pl.when(since).then("region"))
    data = KIND.dataset(late)
    learned = Logistic().learn("classification", data, np.flatnonzero(data.known_at <= microseconds(months(20)[15])), 0)
    names = [*learned.numbers, *learned.categories]
    assert "region" in names
    assert "segment" not in names
    times = [microseconds(months(20)[i]) for i in (18, 19, 15)]
    with_it, without = (input_moves(data, *times, chosen).family for chosen in ([*names, "segment"], names))
    assert with_it <= 0.01 < without, "what it did not learn is not held against it"


def test_a_short_history_says_nothing() -> None:
    frame = snapshots(6, 100)
    assert np.isnan(_p_value(frame, 5, 4))
    model = _champion()
    row = KIND.window_losses(model, frame, months(6)[5], months(7)[6])
    stamped = row.with_columns(window_start=pl.lit(months(6)[5]), model_version=1)
    no_scores = stamped.with_columns(score_p_value=pl.lit(None, pl.Float64))
    assert KIND.verdict(no_scores, POLICY).verdict == "insufficient_data"
    assert KIND.window_losses(model, frame, months(9)[8], months(10)[9]).is_empty()
    nothing = KIND.verdict(stamped.clear(), POLICY)
    assert (nothing.verdict, nothing.window_end) == ("insufficient_data", None)


def test_what_moved_is_listed_and_drawn() -> None:
    frame = snapshots(24, 300, base=-1.0, shock=18)
    moved = KIND.explain(frame, ["all"], months(24)[18], timedelta(days=31))
    assert moved["column"][0] == "price_change_3m"
    assert moved["current_mean"][0] > moved["reference_mean"][0] + 1
    rows = [
        KIND.window_losses(_champion(), frame, months(24)[i], months(24)[i + 1]).with_columns(
            window_start=pl.lit(months(24)[i], pl.Datetime("us", "UTC")), model_version=pl.lit(1, pl.Int64)
        )
        for i in range(TRAINED, 20)
    ]
    history = pl.concat(rows)
    assert set(KIND.drift_pictures(history, frame.lazy(), POLICY)) == {"inputs", "loss"}
    finding = KIND.verdict(history, POLICY).findings[0]
    assert set(KIND.finding_pictures(history, frame.lazy(), finding)) == {"input"}
    assert set(KIND.finding_pictures(history, frame.lazy(), {**finding, "input": "tariff"})) == {"input"}
    assert KIND.finding_pictures(history, frame.lazy(), {**finding, "input": "predictions"}) == {}


def test_a_policy_without_a_channel_of_these_kinds_is_refused() -> None:
    with pytest.raises(ValueError, match="labels come 90 days late"):
        KIND.verdict(pl.DataFrame({"window_start": [datetime(2024, 1, 1)]}), DriftPolicy())
