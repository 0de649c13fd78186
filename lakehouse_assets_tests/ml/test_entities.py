from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.ml.classification import Classification
from lakehouse_assets.ml.entities import Snapshots, inputs_of, repeated_folds, rolling_origins
from lakehouse_assets.ml.fitted import microseconds
from lakehouse_assets.ml.panel import DAY_US
from lakehouse_assets_tests.ml.customers import months, snapshots

KEYS = ("as_of", "customer_id")


def _data(frame: pl.DataFrame, label_days: int = 90) -> Snapshots:
    return Snapshots.of(frame, KEYS, "churned", label_days, ("margin_12m",))


def test_keys_and_what_is_known_afterwards_are_no_inputs() -> None:
    data = _data(snapshots(2, 20))
    assert set(data.numbers) == {"tenure_months", "price_change_3m", "consumption_last_month", "never_known"}
    assert set(data.categories) == {"tariff", "region"}
    with pytest.raises(ValueError, match="lacks churned"):
        _data(snapshots(2, 20).drop("churned"))


def test_inputs_are_finite_numbers_and_text() -> None:
    frame = pl.DataFrame({"a": [1.0, float("inf"), float("nan")], "flag": [True, None, False], "c": ["x", None, "y"]})
    found = inputs_of(frame.with_columns(pl.col("c").cast(pl.Categorical)), ["a", "flag"], ["c"])
    assert found.rows() == [(1.0, 1.0, "x"), (None, None, None), (None, 0.0, "y")]
    with pytest.raises(ValueError, match="needs the inputs b"):
        inputs_of(frame, ["a", "b"], [])


@settings(max_examples=15, deadline=None)
@given(
    number=st.integers(2, 18),
    label_days=st.integers(1, 200),
    known=st.integers(0, 5),
    cutoff=st.integers(0, 30),
    count=st.integers(1, 8),
    data=st.data(),
)
def test_an_origin_learns_only_from_what_was_known_by_then(
    number: int, label_days: int, known: int, cutoff: int, count: int, data: st.DataObject
) -> None:
    frame = snapshots(number, 12, data.draw(st.integers(0, 9)), known=known, base=0.0)
    frame = frame.sample(fraction=0.9, seed=1, shuffle=True)  # customers come and go, rows lie anyhow
    table = _data(frame, label_days)
    end = microseconds(months(number)[0] + timedelta(days=31 * cutoff))
    folds = rolling_origins(table, end, count, lambda y: len(y) > 5)
    for fold in folds:
        assert fold.origin is not None
        assert np.isfinite(table.y[fold.learned]).all()
        assert (table.as_of[fold.learned] + label_days * DAY_US <= fold.origin).all()
        assert (table.as_of[fold.scored] == fold.origin).all()
        assert (table.as_of[fold.scored] + label_days * DAY_US <= end).all()
    assert len(folds) <= count + 2
    assert [fold.number for fold in folds] == sorted(fold.number for fold in folds)
    assert sum(fold.number >= 0 for fold in folds) >= min(len(folds), 1)


def test_long_histories_are_scored_over_the_year() -> None:
    table = _data(snapshots(40, 30, base=0.0))
    origins = [fold.origin for fold in rolling_origins(table, table.known_until, 6, lambda y: len(y) > 5)]
    apart = np.diff(np.array(origins)) / DAY_US
    assert apart.min() > 88
    assert len(origins) == 8


@settings(max_examples=20, deadline=None)
@given(number=st.integers(1, 3), seed=st.integers(0, 5), stratified=st.booleans())
def test_an_entity_is_never_on_both_sides(number: int, seed: int, stratified: bool) -> None:
    table = _data(snapshots(number, 40, seed, known=0, base=0.0))
    folds = repeated_folds(table, table.known_until, 4, 2, seed, stratified=stratified)
    assert [fold.repeat for fold in folds] == [0] * 4 + [1] * 4
    for fold in folds:
        assert not set(table.entities[fold.learned]) & set(table.entities[fold.scored])
    for repeat in (0, 1):
        scored = np.concatenate([fold.scored for fold in folds if fold.repeat == repeat])
        assert sorted(scored) == list(range(len(table)))
    again = repeated_folds(table, table.known_until, 4, 2, seed, stratified=stratified)
    assert all((a.scored == b.scored).all() for a, b in zip(folds, again, strict=True))


def test_a_single_snapshot_is_known_at_once_and_several_are_not() -> None:
    one, two = _data(snapshots(1, 50, known=0)), _data(snapshots(2, 50, known=0))
    assert (one.known_at == one.as_of).all()
    assert (two.known_at == two.as_of + 90 * DAY_US).all()


def test_too_little_is_told() -> None:
    kind = Classification(outcomes=("margin_12m",))
    data = kind.dataset(snapshots(3, 40, known=3))
    with pytest.raises(ValueError, match="0 rows with a known churned are too few"):
        kind.folds(data, microseconds(datetime(2022, 3, 1, tzinfo=UTC)), 0)
