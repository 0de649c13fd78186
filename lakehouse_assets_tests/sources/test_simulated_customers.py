"""The simulated customers leave for the causes that are written down, and their files say what is true."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.sources.simulated_customers import SEGMENTS, SimulatedCustomers, TariffShock, simulate_customers

START, SHOCK, END = date(2023, 1, 1), date(2024, 4, 1), date(2024, 12, 1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimulatedCustomers:
    folder = tmp_path_factory.mktemp("company")
    return simulate_customers(folder, start=START, end=END, customers=1500, seed=5, shock=TariffShock(SHOCK))


def _fitted(truth: pl.DataFrame, terms: list[str]) -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e6, max_iter=1000).fit(truth.select(terms).to_numpy(), truth["notice"].to_numpy())
    return dict(zip(terms, model.coef_[0], strict=True))


def test_the_causes_are_those_that_are_written_down(world: SimulatedCustomers) -> None:
    truth = pl.read_parquet(world.truth)
    causes = json.loads(world.causes.read_text())
    before, after = causes["coefficients"], causes["after_shock"]["coefficients"]
    terms = [name for name in before if name != "intercept"]
    calm = _fitted(truth.filter(pl.col("month") <= SHOCK), terms)
    for name in ("bill_shock", "outages", "complaints", "response", "newness"):
        assert calm[name] == pytest.approx(before[name], rel=0.5), name
    shaken = _fitted(truth.filter(pl.col("month") > SHOCK), terms)
    assert abs(shaken["price"] - after["price"]) < abs(shaken["price"] - before["price"])
    assert shaken["newness"] < calm["newness"] / 2
    # The truth's probability is that of what happens.
    assert truth["notice"].mean() == pytest.approx(truth["probability"].mean(), rel=0.1)
    logit = sum(truth[name] * before[name] for name in terms) + before["intercept"]
    told = truth.with_columns(said=1 / (1 + (-logit).exp())).filter(pl.col("month") <= SHOCK)
    assert told.select((pl.col("said") - pl.col("probability")).abs().max()).item() < 1e-9


def test_prices_of_some_tariffs_rise_with_the_shock(world: SimulatedCustomers) -> None:
    bills = pl.concat([pl.read_csv(path) for path in world.files if path.name.startswith("bills_")])
    bills = bills.with_columns(month=pl.col("month").str.to_date(strict=False)).drop_nulls("month")
    price = {
        month: bills.filter(pl.col("month") == month).group_by("customer").agg(pl.col("price_per_kwh").last())
        for month in (date(2024, 3, 1), SHOCK)
    }
    both = price[date(2024, 3, 1)].join(price[SHOCK], on="customer")
    raised = both.select((pl.col("price_per_kwh_right") / pl.col("price_per_kwh") > 1.1).mean()).item()
    assert 0.2 < raised < 0.8


def test_same_seed_same_bytes_and_clean_is_clean(tmp_path: Path) -> None:
    def content(folder: str, seed: int) -> dict[str, bytes]:
        made = tmp_path / folder
        simulate_customers(made, start=START, end=date(2023, 4, 1), customers=50, seed=seed)
        return {path.name: path.read_bytes() for path in made.iterdir()}

    first = content("a", 1)
    assert content("b", 1) == first
    assert content("a", 2) != first
    clean = simulate_customers(tmp_path / "c", start=START, end=END, customers=50, seed=1, clean=True)
    bills = pl.concat([pl.read_csv(path) for path in clean.files if path.name.startswith("bills_")])
    assert not bills.select("customer", "month").is_duplicated().any()
    assert bills.null_count().sum_horizontal().item() == 0


def test_a_known_few_change_their_segment(world: SimulatedCustomers) -> None:
    truth = pl.read_parquet(world.truth)
    assert set(truth["segment"]) == set(SEGMENTS)
    changed = truth.group_by("customer_id").agg(pl.col("segment").n_unique())["segment"]
    assert 0 < (changed > 1).mean() < 0.02  # type: ignore[operator]
    assert changed.max() == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start": date(2023, 1, 2)}, "first of a month"),
        ({"end": date(2023, 1, 5)}, "two months"),
        ({"customers": 0}, "one"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, wrong: dict, said: str) -> None:
    arguments = {"start": START, "end": END, "customers": 5, "seed": 1, **wrong}
    with pytest.raises(ValueError, match=said):
        simulate_customers(tmp_path, **arguments)


def test_profiles_add_up_to_what_is_billed(tmp_path: Path) -> None:
    world = simulate_customers(tmp_path, start=START, end=date(2023, 5, 1), customers=40, seed=1, clean=True)

    def rows(name: str) -> pl.DataFrame:
        return pl.concat([pl.read_csv(path) for path in world.files if path.name.startswith(name)])

    daily = (
        rows("usage")
        .with_columns(kwh=pl.sum_horizontal(pl.col("^h..$")))
        .pivot("day", index=["customer", "month"], values="kwh")
    )
    both = daily.join(rows("bills"), on=["customer", "month"])
    days = both["month"].str.to_date().dt.days_in_month()
    billed, used = both["kwh"].to_numpy(), ((5 * both["working"] + 2 * both["off"]) / 7 * days).to_numpy()
    assert np.abs(used / billed - 1).max() < 0.01
