"""Which channels may call a drift, and what their findings say."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml import inputs
from lakehouse_assets.ml.channels import Evidence
from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.drift import Verdict, verdict, weekly_losses
from lakehouse_assets.ml.errors import Past, weekly
from lakehouse_assets_tests.ml.test_errors import made

START = datetime(2024, 1, 1, tzinfo=UTC)
PAST, WEEKS, SERIES = 40, 8, 20
IDS = np.array([f"S{i:02}" for i in range(SERIES)])
BY_ERROR = DriftPolicy(channels=("error",))


def microseconds(time: datetime) -> int:
    return int(time.timestamp()) * 1_000_000


@pytest.fixture(scope="module")
def errors() -> tuple[np.ndarray, np.ndarray, Past]:
    y, forecast = made(SERIES, weeks=PAST + WEEKS)
    starts = np.array([microseconds(START) + (w - PAST) * 7 * 86_400_000_000 for w in range(PAST)])
    past = weekly(y[:, :PAST], forecast[:, :PAST], starts, {"holidays": None})
    return y[:, PAST:], forecast[:, PAST:], Past(tuple(IDS.tolist()), past)


def rows(y: np.ndarray, forecast: np.ndarray, faulty: str | None = None) -> pl.DataFrame:
    """What a history of weeks without a fresh fit holds."""
    told = [("stuck_meter", START) if s == faulty else None for s in IDS.tolist()]
    return pl.concat(
        weekly_losses(IDS, START + timedelta(days=7 * w), y[:, w], forecast[:, w], None, {}, faults=told)
        for w in range(y.shape[1])
    )


def judged(history: pl.DataFrame, policy: DriftPolicy, past: Past | None) -> Verdict:
    return verdict(history, policy, Evidence(week=START + timedelta(days=7 * (WEEKS - 1)), past=past))


def test_channels_are_checked_with_a_sentence() -> None:
    for wrong in (("errors",), (), "error"):
        with pytest.raises(ValueError, match="one or more of challenger, error, input"):
            DriftPolicy(channels=wrong)  # type: ignore[arg-type]


def test_the_error_channel_calls_a_drift_without_any_fresh_fit(errors: tuple) -> None:
    y, forecast, past = errors
    biased = forecast.copy()
    biased[4, 4:, :, 6:12] += 3 * np.abs(forecast - y).mean()
    history = rows(y, biased)
    assert history["fresh_loss"].null_count() == history.height == SERIES * WEEKS
    found = judged(history, BY_ERROR, past)
    assert found.series.filter(verdict="drift")["series_id"].to_list() == ["S04"]
    assert found.series.filter(series_id="S04")["channel"].item() == "error"
    assert found.summary["series_tested"] == SERIES
    (finding,) = found.findings
    assert (finding["kind"], finding["channel"], finding["members"]) == ("drift", "error", ["S04"])
    assert finding["hours"] == "6 to 11 of the horizon"
    assert finding["bias"] > 0
    assert finding["expected_gain"] > 0.1
    assert abs(datetime.fromisoformat(finding["since"]) - START - timedelta(days=28)) <= timedelta(days=7)
    assert found.series["due"].sum() == 1


def test_a_channel_that_may_not_call_or_has_nothing_to_compare_with_is_silent(errors: tuple) -> None:
    y, forecast, past = errors
    biased = forecast.copy()
    biased[4, 4:, :, 6:12] += 3 * np.abs(forecast - y).mean()
    history = rows(y, biased)
    alone = judged(history, DriftPolicy(), past)
    assert (alone.verdict, alone.findings) == ("insufficient_data", [])
    assert alone.series["error_p_value"].null_count() == SERIES
    assert judged(history, BY_ERROR, None).verdict == "insufficient_data"
    both = judged(history, DriftPolicy(channels=("challenger", "error")), past)
    assert both.series.filter(verdict="drift")["channel"].to_list() == ["error"]


def test_a_fault_of_the_meter_is_told_as_such_and_its_hours_are_no_errors(errors: tuple) -> None:
    y, forecast, past = errors
    stuck = y.copy()
    stuck[7, 5:] = np.nan
    found = judged(rows(stuck, forecast, "S07"), BY_ERROR, past)
    assert [(f["kind"], f["fault"], f["members"]) for f in found.findings] == [("quality", "stuck_meter", ["S07"])]
    assert found.summary["series_drifted"] == 0


def test_the_input_channel_calls_where_labels_have_not_come() -> None:
    surprises = pl.DataFrame(
        {
            "series_id": IDS.tolist(),
            "column": ["mean_24h"] * SERIES,
            "slice": ["weekends"] * SERIES,
            "measure": ["wasserstein"] * SERIES,
            "distance": [0.9] * SERIES,
            "wasserstein": [0.9] * SERIES,
            "p_value": [0.0001, 0.0002, *np.linspace(0.1, 1, SERIES - 2)],
        },
        schema=inputs.SURPRISES,
    )
    policy = DriftPolicy(channels=("challenger", "input"))
    evidence = Evidence(week=START, inputs=inputs.decided(surprises, policy))
    nothing = rows(np.full((SERIES, 1, 7, 24), np.nan), np.ones((SERIES, 1, 7, 24)))
    assert nothing.is_empty()
    found = verdict(nothing, policy, evidence)
    assert found.series.filter(verdict="drift")["series_id"].to_list() == ["S00", "S01"]
    assert found.verdict == "drift"
    assert [(f["kind"], f["members"], f["input"]) for f in found.findings] == [
        ("input", ["S00"], "mean_24h"),
        ("input", ["S01"], "mean_24h"),
    ]
    assert found.findings[0]["expected_gain"] is None
    assert found.series.filter(verdict="drift")["due"].all(), "what a training gains is not known: it is tried"
