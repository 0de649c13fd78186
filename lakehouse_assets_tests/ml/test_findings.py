"""Findings in words, and which of them are the same from one report to the next."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lakehouse_assets.ml.findings import (
    day_of,
    facts,
    further,
    headline,
    identified,
    kind_of,
    moves,
    named,
    percent,
    sentences,
)


def finding(*members: str, kind: str = "drift", **further: Any) -> dict[str, Any]:
    return {"kind": kind, "scope": "series", "members": list(members), **further}


DRIFT = finding(
    "A", since="2020-03-08T23:00:00+00:00", regret=0.1234, expected_gain=0.09, hours="6 to 11 of the horizon"
)


def test_a_drift_says_what_where_since_when_how_large_which_hours_and_what_a_training_gains() -> None:
    assert headline(DRIFT, "Europe/Vienna") == "Drift in A since 2020-03-09: errors 12 % above a fresh fit's"
    said = " ".join(sentences(DRIFT, "Europe/Vienna"))
    for part in ("For A the champion's errors are 12 % larger", "It began on 2020-03-09.", "hours 6 to 11 of", "9.0 %"):
        assert part in said
    assert facts(DRIFT, "Europe/Vienna")["since"] == "2020-03-09"
    assert further(DRIFT) == {}


def test_other_kinds_are_told_with_what_is_known_of_them() -> None:
    quality = finding("A", "B", kind="quality", fault="unit_error", since="2020-03-09T05:00:00", until=None)
    assert headline(quality) == "Fault of measurement (unit error) in A and B since 2020-03-09"
    assert "No training mends that" in " ".join(sentences(quality))
    assert "left what its season" in sentences(finding("A", kind="regime"))[0]
    assert "moved further" in sentences(finding("A", kind="input"))[0]
    unknown = finding(*"ABCDE", kind="new_kind", level_change=0.25, columns=["x", "y"])
    assert headline(unknown) == "New kind in 5 series (A, B, C, ...)"
    assert further(unknown) == {"level change": "0.25", "columns": "x, y"}


def test_each_channel_says_how_large_in_its_own_measure() -> None:
    error = finding("A", channel="error", bias=-0.031, error_change=0.21, expected_gain=None)
    assert headline(error).endswith(": errors 21 % above those of its own history, a bias of -3.1 % of the load")
    assert "fresh fit" not in " ".join([headline(error), *sentences(error)])
    regime = finding("A", kind="regime", what="level", says="level up by 12%", change=0.12)
    assert headline(regime) == "Change of regime in A: level up by 12%"
    assert facts(regime)["size"] == "level up by 12%"
    assert headline(finding("A", kind="input", input="air_temperature")).endswith(": air temperature")
    level, shape = identified([regime, {**regime, "what": "shape"}], [], "2020-03-30")
    assert level["id"] != shape["id"]
    assert further({**regime, "moved": [], "slice": None}) == {"change": "0.12"}


def test_a_fleet_that_drifts_together_is_told_so() -> None:
    many = {**finding(*(f"S{i}" for i in range(1200))), "scope": "fleet"}
    assert "It began in 1,200 series within a week of each other" in " ".join(sentences(many))


def test_a_finding_that_goes_on_keeps_its_id_and_one_that_changed_does_not() -> None:
    (first,) = identified([DRIFT], [], "2020-03-30")
    assert first["first_report"] == "2020-03-30"
    assert first["id"].startswith("drift-2020-03-30-")
    (second,) = identified([{**DRIFT, "since": "2020-03-16T00:00:00+00:00"}], [first], "2020-04-06")
    assert (second["id"], second["first_report"]) == (first["id"], "2020-03-30")
    later = {**DRIFT, "since": "2020-04-07T00:00:00+00:00"}
    (anew,) = identified([later], [second], "2020-04-27")
    assert (anew["id"] != first["id"], anew["first_report"]) == (True, "2020-04-27")
    others = [finding("B"), finding("A", kind="regime"), finding("A", channel="errors"), finding("A", "B", "C")]
    for other in others:
        (new,) = identified([other], [second], "2020-04-13")
        assert new["id"] != first["id"]
        assert new["first_report"] == "2020-04-13"
    assert len({one["id"] for one in identified(others, [second], "2020-04-13")}) == len(others)


def test_one_earlier_finding_goes_on_in_one() -> None:
    (whole,) = identified([finding(*"ABCD")], [], "2020-03-30")
    halves = identified([finding(*"AB"), finding(*"CD")], [whole], "2020-04-06")
    assert halves[0]["id"] == whole["id"]
    assert halves[1]["id"] != whole["id"]


members = st.lists(st.text(), min_size=1, max_size=6, unique=True)


@given(st.lists(members, max_size=6), members)
def test_ids_are_unique_stable_and_safe_in_a_path(groups: list[list[str]], another: list[str]) -> None:
    unlike = [group for i, group in enumerate(groups) if all(sorted(group) != sorted(one) for one in groups[:i])]
    first = identified([finding(*group) for group in unlike], [], "2020-03-30")
    ids = [one["id"] for one in first]
    assert len(set(ids)) == len(ids)
    assert all(c.isascii() and (c.isalnum() or c in "-_") for one in ids for c in one)
    again = identified([finding(*group) for group in unlike], first, "2020-04-06")
    assert [one["id"] for one in again] == ids
    for text in (headline(finding(*another)), *sentences(finding(*another)), named(another)):
        assert text


def test_numbers_and_days() -> None:
    assert [percent(v) for v in (0.5, 0.012, -0.2, None, float("nan"), "x", True)] == [
        *("50 %", "1.2 %", "-20 %", None, None, None, None)
    ]
    assert [day_of(t, "UTC") for t in ("2020-01-02T03:00:00", "some day", None, 5)] == [
        *("2020-01-02", "some day", None, None)
    ]
    assert kind_of(finding("A", kind="quality")) == "Fault of measurement"


def test_what_moved_is_of_the_members_and_in_words() -> None:
    moved = [
        {"series_id": s, "column": "temperature", "wasserstein": 1.234567, "usual": None, "psi": 0.3} for s in "AB"
    ]
    assert moves(moved, ["B"]) == [{"series": "B", "input": "temperature", "distance": "1.235", "usual distance": "-"}]
