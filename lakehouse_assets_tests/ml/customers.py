"""Simulated snapshots of customers, whose churn follows from what is known of them."""

from datetime import UTC, datetime

import numpy as np
import polars as pl


def months(number: int, first: datetime = datetime(2022, 1, 1, tzinfo=UTC)) -> list[datetime]:
    """The first of so many months."""
    start = first.year * 12 + first.month - 1
    return [datetime((start + i) // 12, (start + i) % 12 + 1, 1, tzinfo=UTC) for i in range(number)]


def snapshots(
    number: int = 12,
    customers: int = 300,
    seed: int = 0,
    *,
    known: int = 3,
    base: float = -2.0,
    shock: int | None = None,
    trend: float = 0.0,
    strength: float = 1.0,
) -> pl.DataFrame:
    """A row a customer and month. Targets of the last ``known`` months are not known yet.

    shock: from this month on prices change, and who is loyal for long leaves. trend: of the price by month, in its
    standard deviations. strength: of what churn depends on.
    """
    rng = np.random.default_rng(seed)
    tenure = rng.integers(1, 100, customers)
    place = rng.normal(size=customers)
    tariff = rng.choice(["basic", "green", "flex"], customers, p=[0.6, 0.3, 0.1])
    frames = []
    for i, as_of in enumerate(months(number)):
        moved = shock is not None and i >= shock
        price = place * 0.8 + rng.normal(0, 0.6, customers) + trend * i + (1.5 if moved else 0.0)
        season = np.cos(2 * np.pi * i / 12)
        consumption = 300 + 80 * season + 40 * rng.normal(size=customers)
        logit = base + strength * (0.9 * price + 0.8 * (tariff == "flex") - 0.015 * tenure * (-1 if moved else 1))
        churned = rng.random(customers) < 1 / (1 + np.exp(-logit))
        frames.append(
            pl.DataFrame(
                {
                    "customer_id": [f"c{j:05}" for j in range(customers)],
                    "as_of": as_of,
                    "month": as_of.date(),
                    "tenure_months": tenure + i,
                    "price_change_3m": price,
                    "consumption_last_month": np.where(rng.random(customers) < 0.05, np.nan, consumption),
                    "tariff": tariff,
                    "region": rng.choice(["north", "south"], customers),
                    "never_known": pl.Series([None] * customers, dtype=pl.Float64),
                    "margin_12m": 100 + 2.0 * tenure + 30 * price + rng.normal(0, 20, customers),
                    "churned": churned,
                },
                schema_overrides={"as_of": pl.Datetime("us", "UTC")},
            ).with_columns(pl.col("consumption_last_month").fill_nan(None))
        )
    last = months(number)[max(0, number - known) :] if known else []
    unknown = pl.col("as_of").is_in(last)
    return pl.concat(frames).with_columns(pl.when(~unknown).then(pl.col("churned", "margin_12m")).name.keep())
