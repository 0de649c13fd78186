from datetime import UTC, datetime

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.ml.labels import inherit, name, names, settle
from lakehouse_assets_tests.ml.shapes import DAY, EVEN, EVENING, NIGHT, bump

CUTOFF = datetime(2026, 3, 1, tzinfo=UTC)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.permutations(range(5)),
    st.permutations([1, 2, 7, 250601, 250602]),
)
def test_clusters_in_another_order_change_no_label(members: list[int], order: list[int], numbers: list[int]) -> None:
    earlier = np.array(numbers)[members]
    labels = np.array(order)[members]
    given_numbers = inherit(labels, earlier, numbers, CUTOFF, 5)
    assert len(set(given_numbers)) == 5
    np.testing.assert_array_equal(np.array(given_numbers)[labels], earlier)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=80))
def test_a_number_goes_on_only_with_most_of_its_members(members: list[tuple[int, int]]) -> None:
    labels, earlier = (np.array(side) for side in zip(*members, strict=True))
    numbers = inherit(labels, earlier + 1, [1, 2, 3, 4], CUTOFF, 6)
    assert len(set(numbers)) == 6
    for cluster, number in enumerate(numbers):
        ours, theirs = set(np.flatnonzero(labels == cluster)), set(np.flatnonzero(earlier + 1 == number))
        if number <= 4:
            assert len(ours & theirs) >= 0.5 * len(ours | theirs)
        else:
            assert number > 260300


def test_first_clusters_count_from_one_later_ones_tell_their_month() -> None:
    nobody = np.zeros(4, np.int64)
    assert inherit(np.array([0, 0, 1, 1]), nobody, (), CUTOFF, 2) == (1, 2)
    # Of 1 two thirds are left, the rest is new; 2 was dissolved and its number does not come back.
    labels = np.array([0] * 6 + [1] * 3 + [1] * 3 + [2] * 3)
    earlier = np.array([1] * 9 + [2] * 6)
    assert inherit(labels, earlier, (1, 2), CUTOFF, 3) == (1, 260301, 2)
    labels = np.array([0] * 5 + [1] * 5 + [2] * 5)
    earlier = np.array([1] * 15)
    assert inherit(labels, earlier, (1, 260301), CUTOFF, 3) == (260302, 260303, 260304)


def test_a_shape_has_a_name_in_words_and_no_two_segments_the_same() -> None:
    def said(shape: np.ndarray) -> str:
        return name(shape / shape.reshape(2, 24).sum(axis=1).repeat(24))

    assert [said(shape) for shape in (DAY, NIGHT, EVEN)] == ["by day", "night", "even"]
    assert said(EVENING).startswith("evening")
    both = np.tile(1 + bump(7, 1.5, 2) + bump(19, 2, 2), 2)
    assert said(both) in ("evening and morning peak", "morning and evening peak")
    solar = np.tile(1.5 + bump(19, 2, 2) - bump(13, 3, 1.4), 2)
    assert said(solar) == "evening peak, little by day"
    early, late = (np.tile(1 + bump(hour, 1, 5), 2) / 24 for hour in (18, 20))
    assert names(np.stack([early, late]), (1, 2), {}) == ("evening peak", "evening peak, most at 20 h")
    office = np.concatenate([late[:24], EVEN[24:] / 24])
    assert names(np.stack([early, office]), (1, 2), {})[1] == "evening peak on working days"
    assert names(np.stack([late, early]), (2, 9), {2: "late"}) == ("late", "evening peak"), "a number keeps its name"


def predictions(at: datetime, *rows: tuple[str, int | None, int | None, float | None]) -> pl.DataFrame:
    """customer, nearest, second, margin."""
    columns = {
        "as_of": [at] * len(rows),
        "customer_id": [row[0] for row in rows],
        "segment": [row[1] for row in rows],
        "segment_name": [None if row[1] is None else f"s{row[1]}" for row in rows],
        "distance": [None if row[3] is None else 1 - row[3] for row in rows],
        "margin": [row[3] for row in rows],
        "runner_up": [row[2] for row in rows],
        "runner_up_distance": [None if row[3] is None else 1.0 for row in rows],
        "reason": [None if row[1] is not None else "no complete load shape" for row in rows],
    }
    types = {"as_of": pl.Datetime("us", "UTC"), "segment": pl.Int64, "runner_up": pl.Int64}
    floats = dict.fromkeys(("distance", "margin", "runner_up_distance"), pl.Float64)
    text = dict.fromkeys(("segment_name", "reason"), pl.String)
    return pl.DataFrame(columns, schema_overrides={**types, **floats, **text})


def test_who_lies_between_two_segments_keeps_his_until_the_other_is_clearly_nearer() -> None:
    first, second, third = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3))
    past = predictions(first, ("a", 1, 2, 0.5), ("b", 1, 2, 0.5), ("c", 1, 2, 0.5), ("d", 1, 2, 0.5))
    months = pl.concat(
        [
            predictions(third, ("a", 2, 1, 0.05), ("d", 2, 1, 0.05)),
            predictions(second, ("a", 2, 1, 0.05), ("b", 2, 1, 0.4), ("c", 2, 3, 0.05), ("d", None, None, None)),
            predictions(second, ("new", 2, 1, 0.01)),
        ]
    )
    settled = settle(months, past, 0.1)
    assert settled.select("as_of", "customer_id").equals(months.select("as_of", "customer_id"))
    found = {(at.month, who): s for at, who, s in settled.select("as_of", "customer_id", "segment").iter_rows()}
    assert found[2, "a"] == found[3, "a"] == 1
    assert found[2, "b"] == 2, "clearly nearer"
    assert found[2, "c"] == 2, "his is not even the second nearest"
    assert found[2, "new"] == 2
    assert found[2, "d"] is None
    assert found[3, "d"] == 1, "a month without a segment is not forgotten over"
    at_once = settle(pl.concat([past, months]), past.clear(), 0.1)
    assert at_once.filter(pl.col("as_of") > first).equals(settled), "all months at once are as one after the other"
    held = settled.row(0, named=True)
    assert (held["segment_name"], held["runner_up"]) == ("s1", 2)
    assert held["margin"] < 0 < held["distance"] - held["runner_up_distance"]
    assert held["reason"] == "kept: s2 is nearer by less than 10%"
    again = settle(months, pl.concat([past, settled]), 0.1)
    assert again.equals(settled), "made again, they are the same"
