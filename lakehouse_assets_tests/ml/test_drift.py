from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.drift import HISTORY_SCHEMA, verdict

WEEK = datetime(2024, 1, 1, tzinfo=UTC)


def history(series: int, weeks: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [
        (f"S{s:02}", WEEK + timedelta(days=7 * w), 168, float(np.exp(rng.normal(0, 0.04))), 1.0, 0.2, 1.0, 0.0)
        for s in range(series)
        for w in range(weeks)
    ]
    return pl.DataFrame(rows, schema=HISTORY_SCHEMA, orient="row")


def worsen(frame: pl.DataFrame, series: list[str], by: float, last: int) -> pl.DataFrame:
    since = frame["week"].unique().sort()[-last]
    hit = pl.col("series_id").is_in(series) & (pl.col("week") >= since)
    # A champion that loses by a share disagrees with the fresh fit accordingly: see regret.stake.
    apart = np.sqrt(2) * (by - 1 + np.sqrt((by - 1) ** 2 + 4 * (by - 1))) / 2
    return frame.with_columns(
        champion_loss=pl.when(hit).then(pl.col("champion_loss") * by).otherwise("champion_loss"),
        disagreement=pl.when(hit).then(pl.lit(apart)).otherwise("disagreement"),
    )


def test_a_quiet_fleet_is_ok_and_a_drifted_series_is_named() -> None:
    quiet = history(30, 8)
    assert verdict(quiet, DriftPolicy()).verdict == "ok"
    assert verdict(quiet, DriftPolicy()).summary["series_drifted"] == 0
    found = verdict(worsen(quiet, ["S03", "S17", "S21"], 1.25, 3), DriftPolicy())
    assert found.series.filter(verdict="drift")["series_id"].to_list() == ["S03", "S17", "S21"]
    assert found.verdict == "drift"  # 3 of 30 are the share of the policy
    one = verdict(worsen(quiet, ["S03"], 1.25, 3), DriftPolicy())
    assert one.summary["series_drifted"] == 1
    assert one.verdict == "ok"
    assert (one.window_start, one.window_end) == (WEEK + timedelta(days=35), WEEK + timedelta(days=56))


def test_small_or_new_effects_are_no_drift() -> None:
    quiet = history(30, 8)
    assert verdict(worsen(quiet, ["S03"], 1.05, 8), DriftPolicy()).summary["series_drifted"] == 0
    every = quiet["series_id"].unique().to_list()
    assert verdict(worsen(quiet, every, 1.12, 3), DriftPolicy()).verdict == "drift"


def test_too_few_weeks_are_insufficient_data() -> None:
    few = verdict(history(5, 2), DriftPolicy())
    assert few.verdict == "insufficient_data"
    assert set(few.series["verdict"]) == {"insufficient_data"}
    assert verdict(history(5, 0), DriftPolicy()).verdict == "insufficient_data"


def test_false_alarms_are_rare_on_series_without_drift() -> None:
    drifted = [verdict(history(40, 6, seed), DriftPolicy()).summary["series_drifted"] for seed in range(25)]
    assert sum(drifted) <= 2  # of 1,000 series-weeks
