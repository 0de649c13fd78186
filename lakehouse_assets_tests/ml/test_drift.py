from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.drift import HISTORY_SCHEMA, verdict, worst_hour

WEEK = datetime(2024, 1, 1, tzinfo=UTC)


def history(series: int, weeks: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [
        (f"S{s:02}", WEEK + timedelta(days=7 * w), 168, float(np.exp(rng.normal(0, 0.04))), 1.0, 0.2, 1.0, 0.0, 6)
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


def test_a_finding_says_since_when_how_much_and_which_hours() -> None:
    found = verdict(worsen(history(30, 12), ["S03"], 1.3, 4), DriftPolicy())
    (finding,) = found.findings
    assert finding["members"] == ["S03"]
    assert finding["scope"] == "series"
    since = datetime.fromisoformat(finding["since"])
    assert abs(since - (WEEK + timedelta(days=7 * 8))) <= timedelta(days=7)
    assert 0.2 < finding["regret"] < 0.4
    assert 0.15 < finding["expected_gain"] < 0.3
    assert finding["hours"] == "6 to 11 of the horizon"
    assert found.series.filter(series_id="S03")["since"].item() == since
    assert found.series.filter(verdict="ok")["since"].null_count() == 29
    assert verdict(history(30, 12), DriftPolicy()).findings == []


def test_a_change_across_the_fleet_is_one_finding_with_its_members() -> None:
    many = [f"S{i:02}" for i in range(10, 20)]
    frame = worsen(worsen(history(30, 16), many, 1.3, 4), ["S25"], 1.5, 10)
    fleet, one = verdict(frame, DriftPolicy()).findings
    assert fleet["scope"] == "fleet"
    assert fleet["members"] == many
    assert (one["scope"], one["members"]) == ("series", ["S25"])
    assert one["since"] < fleet["since"]


def test_the_worst_hours_are_those_that_lose_most() -> None:
    lost = np.zeros((2, 7, 24))
    lost[0, :, 13], lost[1, 2, 23] = 1.0, 5.0
    assert worst_hour(lost).tolist() == [12, 18]
    assert worst_hour(np.ones((1, 7, 15))).tolist() == [0]


def test_a_training_is_due_where_it_saves_more_than_it_costs() -> None:
    frame = worsen(worsen(history(30, 12), ["S03"], 1.5, 6), ["S17"], 1.2, 6)

    def due(cost: float) -> list[str]:
        found = verdict(frame, DriftPolicy(cost=cost))
        told = found.series.filter("due")["series_id"].to_list()
        assert found.summary["members_due"] == len(told)
        assert found.series.filter(verdict="drift")["series_id"].to_list() == ["S03", "S17"]
        return told

    assert due(0.02) == ["S03", "S17"]
    assert due(0.25) == ["S03"]
    assert due(0.6) == []
