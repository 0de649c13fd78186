import time
from dataclasses import dataclass
from typing import Any

import pytest

from lakehouse_assets.ml.definition import Search, Trial
from lakehouse_assets.ml.search import Range, Space, best_by_family, run_search


@dataclass(frozen=True)
class Toy:
    """A candidate whose loss is how far it is from 3, and its handicap."""

    x: float = 10.0
    whole: int = 5
    kind: str = "a"
    handicap: float = 0.0

    def parameters(self) -> dict[str, Any]:
        return {"x": self.x}


SPACES = {
    "good": Space(Toy(), {"x": Range(0.1, 100.0), "whole": Range(1, 10), "kind": ("a", "b")}),
    "bad": Space(Toy(handicap=100.0), {"x": Range(0.0, 20.0, even=True)}),
}


def far(candidate: Any, fold: int) -> float:
    return abs(candidate.x - 3.0) + candidate.handicap + 0.01 * fold


def test_a_search_finds_what_is_good_and_gives_up_what_is_not() -> None:
    reported: list[Trial] = []
    trials = run_search(SPACES, far, 4, Search(trials=40), 0, reported.append)
    assert reported == trials
    assert [t.number for t in trials] == list(range(40))
    best = best_by_family(trials)
    assert next(iter(best)) == "good"
    assert abs(best["good"].candidate.x - 3.0) < 0.5  # type: ignore[attr-defined]
    pruned = [t for t in trials if t.state == "pruned"]
    assert pruned
    assert all(len(t.losses) < 4 for t in pruned)
    late = [t for t in trials[10:] if t.family == "bad"]
    assert all(t.state == "pruned" for t in late)
    assert all(1 <= t.candidate.whole <= 10 for t in trials)  # type: ignore[attr-defined]


def test_every_family_begins_with_its_own_values() -> None:
    first = run_search(SPACES, far, 2, Search(trials=2), 0)
    assert [t.candidate for t in first] == [Toy(), Toy(handicap=100.0)]
    assert first[0].losses == pytest.approx((7.0, 7.005))


def test_the_same_seed_tries_the_same() -> None:
    def tried(seed: int) -> list[Any]:
        return [(t.candidate, t.state, t.losses) for t in run_search(SPACES, far, 3, Search(trials=25), seed)]

    assert tried(1) == tried(1)
    assert tried(1) != tried(2)


def test_a_failure_is_a_trial_and_not_the_end() -> None:
    def loss(candidate: Any, fold: int) -> float:
        if candidate.handicap:
            raise RuntimeError("singular")
        return float("nan") if candidate.kind == "b" else far(candidate, fold)

    trials = run_search(SPACES, loss, 2, Search(trials=20), 0)
    assert len(trials) == 20
    assert {t.reason for t in trials if t.family == "bad"} == {"RuntimeError: singular"}
    broken = [t for t in trials if t.family == "good" and t.candidate.kind == "b"]  # type: ignore[attr-defined]
    assert broken
    assert {t.state for t in broken} == {"failed"}
    assert best_by_family(trials)["good"].candidate.kind == "a"  # type: ignore[attr-defined]


def test_minutes_are_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def loss(candidate: Any, fold: int) -> float:
        nonlocal now
        now += 10.0
        return far(candidate, fold)

    monkeypatch.setattr(time, "monotonic", lambda: now)
    trials = run_search({"good": SPACES["good"]}, loss, 1, Search(trials=100, minutes=1.0), 0)
    assert len(trials) == 6
    assert trials[0].seconds == 10.0
