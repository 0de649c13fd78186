from datetime import UTC, datetime

import numpy as np
import pytest

from lakehouse_assets.ml.auto import EXTRAS, SPACES, candidates_from, relative_loss, spaces_of
from lakehouse_assets.ml.definition import Search, Trial
from lakehouse_assets.ml.estimators import Blend, Ridge, SeasonalNaive
from lakehouse_assets.ml.forecast import Forecast
from lakehouse_assets.ml.panel import Panel
from lakehouse_assets.ml.shards import Shards
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves

KIND = Forecast(spread=2, recent=2)
CUTOFF = datetime(2023, 5, 29, tzinfo=UTC)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return Panel.from_frame(feature_frame(*load_curves(6, 170)))


def test_a_search_brings_candidates_that_compete(panel: Panel) -> None:
    trials: list[Trial] = []
    search = Search(trials=5, members=4, families=("ridge_on_published", "nearest_neighbours", "linear"), keep=2)
    found = KIND.search(panel, search, cutoff=CUTOFF, seed=3, report=trials.append)
    assert len(trials) == len(found.trials) == 5
    assert {t.family for t in trials[:3]} == set(search.families)
    assert isinstance(found.candidates["ridge_on_published"], Ridge)
    assert "ridge" in found.candidates, "what the ladder stands on"
    blend = found.candidates["blend"]
    assert isinstance(blend, Blend)
    assert {*blend.members, "blend"} == set(found.candidates)
    assert found.pictures["search"].startswith(b"\x89PNG")
    again = KIND.search(panel, search, cutoff=CUTOFF, seed=3)
    assert [(t.candidate, t.losses) for t in again.trials] == [(t.candidate, t.losses) for t in trials]
    result = KIND.backtest(panel, found.candidates, cutoff=CUTOFF)
    assert {"seasonal_naive", "exponential_smoothing", *found.candidates} == set(result.summary())
    assert result.summary()["exponential_smoothing"]["relative_mae"] < 1


def test_a_search_looks_at_a_sample_of_the_series(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[str, ...]] = set()
    of_series = Shards.of_series
    monkeypatch.setattr(Shards, "of_series", lambda self, series: seen.add(tuple(series)) or of_series(self, series))
    for seed in (0, 0, 1):
        KIND.search(panel, Search(trials=1, members=2, families=("linear",)), cutoff=CUTOFF, seed=seed)
    assert len(seen) == 2
    assert {len(series) for series in seen} == {2}


def test_a_search_is_judged_on_weeks_that_the_backtest_does_not_score(panel: Panel) -> None:
    cutoff = int(panel.known_at.max())
    scored = {day for f in KIND.folds(panel, cutoff) if f.number >= 0 for day in range(f.start, f.stop)}
    weeks = KIND.trial_folds(panel, cutoff)
    assert len(weeks) == 4
    assert all(f.stop - f.start == 7 for f in weeks)
    assert not scored & {day for f in weeks for day in range(f.start, f.stop)}
    short = panel.take(days=slice(0, 63 + 7))  # no other weeks: better the same than none
    assert len(KIND.trial_folds(short, int(short.known_at.max()))) == 2


def test_the_loss_of_a_trial_is_relative_to_the_naive_and_knows_no_future(panel: Panel) -> None:
    end = int(panel.known_at.max())
    assert relative_loss(panel, 100, 107, end, 0, SeasonalNaive()) == pytest.approx(1.0)
    good = relative_loss(panel, 100, 107, end, 0, SPACES["ridge"].start)
    assert good < 0.9
    later = np.arange(panel.shape[1]) >= 107
    panel = Panel.from_frame(feature_frame(*load_curves(6, 170)))
    panel.target[:, later] = 1e9
    assert relative_loss(panel, 100, 107, end, 0, SPACES["ridge"].start) == good


def test_families_that_the_data_cannot_feed_are_left_out(panel: Panel) -> None:
    bare = Panel.from_frame(feature_frame(load_curves(2, 60)[0]))
    assert "ridge_on_published" in spaces_of((), panel)
    assert "ridge_on_published" not in spaces_of((), bare)
    assert not set(EXTRAS) & set(spaces_of((), panel))
    assert set(spaces_of(("xgboost",), panel)) == {"xgboost"}
    with pytest.raises(ValueError, match="no such family: prophet; there are ridge"):
        spaces_of(("prophet",), panel)


@pytest.mark.parametrize("family", [*SPACES, *EXTRAS])
def test_a_family_starts_within_its_ranges(family: str) -> None:
    space = {**SPACES, **EXTRAS}[family]
    for name, values in space.vary.items():
        start = getattr(space.start, name)
        assert start in values if isinstance(values, tuple) else values.low <= start <= values.high


def test_a_search_without_a_candidate_says_why() -> None:
    failed = Trial(0, "linear", SPACES["linear"].start, (), "failed", "LinAlgError: singular", 1.0)
    with pytest.raises(ValueError, match="linear: LinAlgError: singular"):
        candidates_from([failed], 3, ("ridge",))
    with pytest.raises(ValueError, match="its budget was spent before"):
        candidates_from([], 3, ("ridge",))
