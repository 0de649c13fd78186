"""Profiles against numpy, and distances between profiles against those between the samples."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_assets.ml.inputs import MEASURES, distances
from lakehouse_assets.ml.profile import LEVELS, STATISTICS, compared, profiled, united

VALUES = st.lists(st.one_of(st.none(), st.just(float("nan")), st.floats(-1e6, 1e6)), min_size=1, max_size=30)


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_profile_says_what_the_values_are_and_those_of_members_add_up(members: list[list[float | None]]) -> None:
    rows = pl.concat(
        pl.DataFrame({"member": [f"m{i}"] * len(values), "value": pl.Series(values, dtype=pl.Float64)})
        for i, values in enumerate(members)
    )
    by_member = profiled(rows, ["member"], ["value"], ["value"])
    assert by_member.columns == ["member", "column", *STATISTICS]
    for i, values in enumerate(members):
        check(by_member.filter(member=f"m{i}").row(0, named=True), values)
    together = united(by_member, [])
    everything = [value for values in members for value in values]
    check(together.row(0, named=True), everything, quantiles=len(members) == 1)


def check(row: dict, values: list[float | None], *, quantiles: bool = True) -> None:
    known = np.array([v for v in values if v is not None and np.isfinite(v)])
    assert (row["count"], row["nulls"], row["zeros"]) == (len(known), len(values) - len(known), (known == 0).sum())
    if not len(known):
        assert {row[name] for name in ("mean", "standard_deviation", "min", "max", "quantiles", "mae", "rmse")} == {
            None
        }
        return
    near = {"rel": 1e-6, "abs": 1e-6 * max(1.0, np.abs(known).max())}
    assert row["mean"] == row["bias"] == pytest.approx(known.mean(), **near)
    assert row["standard_deviation"] == pytest.approx(known.std(), **near)
    assert (row["min"], row["max"]) == (known.min(), known.max())
    assert row["mae"] == pytest.approx(np.abs(known).mean(), **near)
    assert row["rmse"] == pytest.approx(np.sqrt((known**2).mean()), **near)
    assert np.all(np.diff(row["quantiles"]) >= 0)
    if quantiles:
        np.testing.assert_allclose(row["quantiles"], np.quantile(known, LEVELS), rtol=1e-5, atol=near["abs"])


def test_an_error_alone_has_measures_of_error() -> None:
    rows = pl.DataFrame({"member": ["a", "a"], "value": [3.0, 5.0], "error": [1.0, -3.0]})
    made = profiled(rows, ["member"], ["value", "error"], ["error"])
    assert made.filter(column="value").select("mae", "rmse", "bias").row(0) == (None, None, None)
    assert made.filter(column="error").select("mae", "rmse", "bias").row(0) == pytest.approx((2.0, 5**0.5, -1.0))


def samples() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Before and after: the same, moved, wider, another form, mostly zeros as the sun at night, few after many."""
    rng = np.random.default_rng(0)
    normal, sun = rng.normal(100, 10, 8000), np.maximum(rng.normal(0, 1, 8000), 0.0)
    before = [normal, normal, normal, normal, sun, normal]
    week = rng.normal(0, 1, 168)
    after = [normal, normal + 5, 100 + 2 * (normal - 100), rng.gamma(2, 50, 8000), sun * (rng.random(8000) > 0.3)]
    return before, [*after, 112 + 6 * week]


def test_distances_between_profiles_are_nearly_those_between_samples() -> None:
    before, after = samples()

    def profile_of(values: list[np.ndarray]) -> pl.DataFrame:
        rows = pl.concat(pl.DataFrame({"member": [f"m{i}"] * len(v), "value": v}) for i, v in enumerate(values))
        return profiled(rows, ["member"], ["value"])

    found = compared(profile_of(after), profile_of(before), ["member", "column"]).sort("member")
    assert found["count_delta"].to_list() == [len(a) - len(b) for a, b in zip(after, before, strict=True)]
    for row, a, b in zip(found.iter_rows(named=True), before, after, strict=True):
        exact = distances(a, b)
        assert row["mean_delta"] == pytest.approx(b.mean() - a.mean(), abs=1e-9)
        for name in MEASURES:
            assert row[name] == pytest.approx(exact[name], rel=0.2, abs=0.03), (row["member"], name)


def test_members_pooled_have_nearly_the_quantiles_of_their_rows() -> None:
    rng = np.random.default_rng(1)
    member = np.repeat(np.arange(20), 20 + 20 * np.arange(20))  # those with more rows weigh more
    rows = pl.DataFrame({"member": [f"m{i}" for i in member], "value": rng.normal(0, 1, len(member)) + member})
    pooled = united(profiled(rows, ["member"], ["value"]), [])["quantiles"][0]
    apart = np.abs(pooled.to_numpy() - np.quantile(rows["value"].to_numpy(), LEVELS))
    assert apart.max() < 0.02 * rows["value"].to_numpy().std()


def test_nothing_to_compare_is_null_and_what_has_no_partner_is_left_out() -> None:
    rows = pl.DataFrame({"member": ["a", "b"], "value": [None, 1.0]}, schema_overrides={"value": pl.Float64})
    other = pl.DataFrame({"member": ["a", "c"], "value": [2.0, 1.0]})
    found = compared(*(profiled(r, ["member"], ["value"]) for r in (rows, other)), ["member", "column"])
    assert found["member"].to_list() == ["a"]
    assert found.select(*MEASURES, "mean_delta").row(0) == (None,) * 6
    assert found.select("count_delta", "null_share_delta").row(0) == (-1, 1.0)
