"""Simulated customers of an energy company, whose leaving has causes: landing files, with the truth beside them.

Whether a customer gives notice in a month follows from price, bill shock, service (outages, slow answers, complaints)
and tenure, by the coefficients in `Causes`. Each has a load profile of one of four segments. Once a month the company
sends extracts of its records, contacts, bills and profiles, with the dirt of real life. Everything follows from the
seed.
"""

import gzip
import io
import json
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

Array = NDArray[np.float64]

SEGMENTS = ("evening_family", "home_by_day", "night_storage", "small_business")
TARIFFS = ("basic", "flex", "green", "fixed")
SHOCKED = ("basic", "flex")
"""Tariffs whose prices a `TariffShock` raises."""
REGIONS = ("north", "east", "south", "west")
PAYMENTS = ("direct_debit", "transfer", "card")
CHANNELS = ("online", "shop", "phone")
_HORIZON_MONTHS = 3

_FIRST = "Ada Ben Clara David Emma Felix Greta Hugo Ida Jonas Klara Leon Mia Noah Olga Paul Rosa Simon Tilda Viktor"
_LAST = "Ahrens Brandt Clausen Dietz Ebert Fischer Gruber Hansen Imhof Jansen Keller Lorenz Maurer Nolte Ott Pohl Roth"
_STREETS = (
    "Ahornweg Birkenallee Dorfstrasse Eichenring Feldgasse Gartenweg Hafenstrasse Lindenplatz Mühlenweg Seestrasse"
)


@dataclass(frozen=True)
class TariffShock:
    """From a date (taken to be the first of its month) on, prices of `SHOCKED` tariffs are up by 15 % times `size`.

    Customers have then learnt to compare: the weight of the price in the causes of leaving grows by 150 % times `size`,
    and who had stayed for long out of habit is no longer safe: the weight of `newness` falls by as much. A model that
    was trained before is wrong then, not only faced with other inputs.
    """

    date: date
    size: float = 1.0


@dataclass(frozen=True)
class Causes:
    """Coefficients of the logistic model of giving notice in a month; the terms are those of the truth's columns."""

    intercept: float = -5.7
    price: float = 5.0  # price over the market's, as a share
    price_change: float = 3.0  # rise of the price over three months, as a share
    bill_shock: float = 2.4  # last bill over what the season lets expect, as a share, at most 1
    outages: float = 0.35  # hours without supply in the last three months, at most 12
    complaints: float = 1.3  # complaints in the last three months, at most 3
    response: float = 0.16  # mean days until an answer in the last three months, at most 15
    newness: float = 2.2  # exp(-tenure / 18 months)


@dataclass(frozen=True)
class SimulatedCustomers:
    """What `simulate_customers` has written."""

    files: list[Path]
    truth: Path
    causes: Path
    rows: int


@dataclass
class _Company:
    """Arrays over all customers that there ever are (N), in the state of the month that is being simulated."""

    rng: np.random.Generator
    segment: NDArray[np.int64]
    size: Array  # kWh of a mean month
    tariff: NDArray[np.int64]
    region: NDArray[np.int64]
    payment: NDArray[np.int64]
    channel: NDArray[np.int64]
    paperless: NDArray[np.bool_]
    moves: NDArray[np.int64]  # addresses and mailboxes change with these numbers
    signed_on: NDArray[np.int64]  # days since 1970
    left_on: NDArray[np.int64]  # days since 1970; a far one: not known to leave
    outages: Array = field(default_factory=lambda: np.zeros(0))  # (N, 3) hours of the last months
    complaints: Array = field(default_factory=lambda: np.zeros(0))  # (N, 3)
    response: Array = field(default_factory=lambda: np.zeros(0))  # (N, 3, 2) sum of days, number of answers
    prices: Array = field(default_factory=lambda: np.zeros(0))  # (N, 4)
    shock: Array = field(default_factory=lambda: np.zeros(0))  # (N,) of the last bill, fading


_NEVER = 10**6


def simulate_customers(
    folder: Path,
    *,
    start: date,
    end: date,
    customers: int,
    seed: int,
    shock: TariffShock | None = None,
    movers: float = 0.015,
    clean: bool = False,
) -> SimulatedCustomers:
    """Write landing files of simulated customers and their truth; files of an earlier simulation there are replaced.

    Args:
        folder: where to write.
        start: first day of history, the first of a month: all customers' records are sent then.
        end: extracts are sent at the first of each month up to this day.
        customers: how many there are at a time; who leaves is replaced.
        seed: same arguments and seed, same bytes.
        shock: a rise of prices.
        movers: share of the customers whose load changes to another segment, once.
        clean: without dirt.

    Returns:
        What was written. `customers_truth.parquet` has for each customer and month under contract, before notice was
        given: customer_id, month, segment (that of the load profile), probability (that notice is given in the month),
        the terms of `Causes` that it is made of, notice (whether it was given) and churned (whether the contract ends
        within 90 days after the month's first). `customers_causes.json` has the coefficients, before and after a shock.

    Raises:
        ValueError: an argument is out of its range.
    """
    if start.day != 1:
        raise ValueError(f"start {start} must be the first of a month")
    months = [start]
    while (following := _next_month(months[-1])) <= end:
        months.append(following)
    sent, months = months[1:], months[:-1]
    if len(months) < 2:
        raise ValueError(f"end {end} must be two months after start {start} at least")
    if customers < 1:
        raise ValueError("there must be one customer at least")
    rng = np.random.default_rng([seed, 2])
    causes, calm = Causes(), np.full(len(months), True)
    market, prices = _prices(rng, months)
    if shock is not None:
        calm = np.array([month < shock.date.replace(day=1) for month in months])
        raised = [TARIFFS.index(name) for name in SHOCKED]
        prices[np.outer(~calm, np.isin(np.arange(len(TARIFFS)), raised))] *= 1 + 0.15 * shock.size
    pool = int(customers * (1.6 + 0.06 * len(months))) + 50
    company, count = _found(rng, pool, customers, months[0]), customers
    moves_at = np.where(rng.random(pool) < movers, rng.integers(0, len(months), pool), -1)
    moves_to = (company.segment + rng.integers(1, len(SEGMENTS), pool)) % len(SEGMENTS)

    base = np.arange(count)
    records, truth = [_record(company, base, _day(start), _day(start))], []
    contacts, bills, usage = [], [], []
    for t, month in enumerate(months):
        first, last = _day(month), _day(sent[t])
        moved = np.flatnonzero(moves_at == t)
        company.segment[moved] = moves_to[moved]
        here = np.flatnonzero((company.signed_on[:count] < last) & (company.left_on[:count] > first))
        records += _changes(company, here, first, last)
        # What has happened until the month's first decides who gives notice in it.
        staying = here[(company.left_on[here] == _NEVER) & (company.signed_on[here] < first)]
        notices = _notices(
            company, staying, first, market[t - 1], causes, 0.0 if calm[t - 1] or shock is None else shock.size
        )
        if t == 0:
            notices = notices.with_columns(notice=pl.lit(False))
        else:
            truth.append(notices.with_columns(month=pl.lit(month), segment=pl.Series(company.segment[staying])))
        leaving = staying[notices["notice"].to_numpy()]
        given = last - 1 - rng.integers(0, 8, len(leaving))
        company.left_on[leaving] = given + rng.integers(10, 32, len(leaving))
        records.append(_record(company, leaving, given, last))
        used, billed, shocks = _operate(company, here, month, prices[t], market[t])
        contacts += _contacts(company, here, first, last, shocks)
        bills.append(billed.with_columns(month=pl.lit(month), sent=pl.lit(sent[t])))
        usage.append(used.with_columns(month=pl.lit(month), sent=pl.lit(sent[t])))
        # As many come as go.
        new = np.arange(count, min(pool, count + rng.poisson(len(leaving))))
        count += len(new)
        company.signed_on[new] = first + rng.integers(0, last - first, len(new))
        records.append(_record(company, new, company.signed_on[new], last))
    tables = {
        "customers": pl.concat(records).pipe(_described),
        "contacts": pl.concat(contacts),
        "bills": pl.concat(bills),
        "usage": pl.concat(usage),
    }
    if not clean:
        tables = {name: _dirty(rng, name, table) for name, table in tables.items()}
    tables = {name: table.filter(pl.col("sent") <= sent[-1]) for name, table in tables.items()}
    files, rows = _write(folder, tables)
    told = pl.concat(truth) if truth else pl.DataFrame()
    _write_truth(folder, told, company, causes, shock, sent[-1])
    return SimulatedCustomers(files, folder / "customers_truth.parquet", folder / "customers_causes.json", rows)


def _next_month(month: date) -> date:
    return (month + timedelta(days=31)).replace(day=1)


def _day(day: date) -> int:
    return (day - date(1970, 1, 1)).days


def _prices(rng: np.random.Generator, months: list[date]) -> tuple[Array, Array]:
    """The market's price of a kWh by month, and the tariffs' (months, tariffs); twice a year tariffs follow it."""
    market = 0.30 + np.cumsum(rng.normal(0, 0.003, len(months)))
    asked = [max(0, t - (month.month - 1) % 6) for t, month in enumerate(months)]
    level = np.array([1.08, 1.0, 1.04, 0.98])
    return market, market[asked][:, None] * level * (1 + rng.normal(0, 0.01, (1, len(TARIFFS))))


def _found(rng: np.random.Generator, pool: int, customers: int, start: date) -> _Company:
    segment = rng.choice(len(SEGMENTS), pool, p=[0.38, 0.27, 0.18, 0.17])
    signed_on = _day(start) - np.ceil(rng.exponential(900, pool)).astype(np.int64)
    signed_on[customers:] = _NEVER  # they come later
    return _Company(
        rng=rng,
        segment=segment,
        size=np.exp(rng.normal(np.log(np.array([290.0, 230.0, 480.0, 900.0]))[segment], 0.35)),
        tariff=rng.choice(len(TARIFFS), pool, p=[0.35, 0.25, 0.2, 0.2]),
        region=rng.integers(0, len(REGIONS), pool),
        payment=rng.choice(len(PAYMENTS), pool, p=[0.6, 0.25, 0.15]),
        channel=rng.choice(len(CHANNELS), pool, p=[0.5, 0.3, 0.2]),
        paperless=rng.random(pool) < 0.6,
        moves=np.zeros(pool, dtype=np.int64),
        signed_on=signed_on,
        left_on=np.full(pool, _NEVER),
        outages=np.zeros((pool, _HORIZON_MONTHS)),
        complaints=np.zeros((pool, _HORIZON_MONTHS)),
        response=np.zeros((pool, _HORIZON_MONTHS, 2)),
        prices=np.full((pool, _HORIZON_MONTHS + 1), np.nan),
        shock=np.zeros(pool),
    )


def _operate(
    company: _Company, here: NDArray[np.int64], month: date, prices: Array, market: float
) -> tuple[pl.DataFrame, pl.DataFrame, Array]:
    """A month of supply: load profiles, bills, and how far these are beyond what could be expected, as a share."""
    rng, n = company.rng, len(here)
    season = 1 + np.array([0.12, 0.10, 0.45, 0.05])[company.segment[here]] * np.cos(2 * np.pi * (month.month - 1) / 12)
    # Now and then a household uses far more than it is used to: a guest, a heater, a leak of heat.
    surprise = np.where(rng.random(n) < 0.05, rng.uniform(0.3, 1.2, n), rng.normal(0, 0.05, n))
    consumption = company.size[here] * season * (1 + surprise)
    price = prices[company.tariff[here]]
    company.prices = np.roll(company.prices, 1, axis=1)
    company.prices[:, 0] = np.nan
    company.prices[here, 0] = price
    amount = consumption * price + 11.0
    cost = consumption * (market * 0.82 + np.array([0.0, -0.004, -0.02, 0.01])[company.segment[here]]) + 5.0
    company.outages = np.roll(company.outages, 1, axis=1)
    down = rng.gamma(0.35, 1.6, len(REGIONS))[company.region[here]] * rng.gamma(0.8, 1.2, n)
    company.outages[here, 0] = np.where(rng.random(n) < 0.55, 0.0, down)
    days = (_next_month(month) - month).days
    profiles = _profiles(rng, company.segment[here], consumption / days)
    ids = np.repeat(here, 2)
    used = pl.DataFrame({"i": ids, "day": ["working", "off"] * n}).with_columns(
        pl.Series(f"h{hour:02d}", profiles[:, hour]) for hour in range(24)
    )
    bill = pl.DataFrame(
        {
            "i": here,
            "consumption": consumption,
            "amount": amount,
            "price": price,
            "supply_cost": cost,
            "outage_hours": company.outages[here, 0],
        }
    )
    shocks = np.where(surprise > 0.2, np.minimum(surprise, 1.0), 0.0)
    company.shock *= 0.6
    company.shock[here] = np.maximum(company.shock[here], shocks)
    return used, bill, shocks


def _shapes() -> Array:
    """(segments, 2, 24) share of the day's energy by hour, of working days and of days off."""
    hour = np.arange(24.0)

    def bell(centre: float, width: float) -> Array:
        return np.exp(-0.5 * (((hour - centre + 12) % 24 - 12) / width) ** 2)

    office = 1 / (1 + np.exp(-2 * (hour - 7.5))) / (1 + np.exp(2 * (hour - 18)))
    shapes = np.stack(
        [
            np.stack(
                [0.3 + 0.5 * bell(7, 1.2) + 1.6 * bell(19.5, 2.3), 0.35 + 0.7 * bell(11, 3) + 1.3 * bell(19.5, 2.6)]
            ),
            np.stack([0.35 + 1.1 * bell(10.5, 2.5) + 0.9 * bell(15, 3), 0.4 + 1.0 * bell(11, 3) + 0.7 * bell(17, 3)]),
            np.stack([0.2 + 2.2 * bell(2, 2.2) + 0.4 * bell(19, 2), 0.2 + 2.0 * bell(2.5, 2.5) + 0.5 * bell(18, 3)]),
            np.stack([0.15 + 1.6 * office, 0.5 + 0.2 * bell(12, 4)]),
        ]
    )
    return shapes / shapes.sum(axis=2, keepdims=True)


def _profiles(rng: np.random.Generator, segment: NDArray[np.int64], daily: Array) -> Array:
    """(2 N, 24) mean kWh by hour: a row for working days and one for days off, of each customer."""
    shapes = _shapes()[segment] * np.exp(rng.normal(0, 0.18, (len(segment), 1, 24)))
    shapes *= np.exp(rng.normal(0, 0.07, (len(segment), 2, 24)))
    level = np.stack([np.ones(len(segment)), np.where(segment == 3, 0.35, 1.08)], axis=1)
    level /= ((5 * level[:, 0] + 2 * level[:, 1]) / 7)[:, None]
    shapes /= shapes.sum(axis=2, keepdims=True)
    return np.asarray((shapes * (level * daily[:, None])[:, :, None]).reshape(-1, 24))


def _contacts(company: _Company, here: NDArray[np.int64], first: int, last: int, shock: Array) -> list[pl.DataFrame]:
    """Contacts of a month as they are sent: the answer comes with the extract after it was given."""
    rng = company.rng
    company.complaints = np.roll(company.complaints, 1, axis=1)
    company.response = np.roll(company.response, 1, axis=1)
    down = company.outages[here, 0]
    rate = 0.06 + 0.5 * shock + 0.05 * np.minimum(down, 8)
    who = np.repeat(here, rng.poisson(rate))
    near = np.repeat(np.arange(len(here)), np.diff(np.searchsorted(who, np.append(here, _NEVER))))
    n = len(who)
    topic = np.where(shock[near] > 0.2, "bill", np.where(down[near] > 2, "outage", "other"))
    complaint = rng.random(n) < np.where(topic == "other", 0.12, 0.55)
    slow = np.array([2.0, 3.0, 5.5, 2.5])[company.region[who]]
    days = np.round(rng.gamma(2.0, slow / 2), 1)
    total = len(company.size)
    company.complaints[:, 0] = np.bincount(who, complaint, total)
    company.response[:, 0] = np.stack([np.bincount(who, days, total), np.bincount(who, minlength=total)], axis=1)
    seconds = rng.integers(first * 86400, last * 86400, n)
    rows = pl.DataFrame(
        {
            "i": who,
            "at": seconds,
            "channel": np.array(CHANNELS)[rng.integers(0, len(CHANNELS), n)],
            "topic": topic,
            "complaint": complaint,
            "response_days": days,
        }
    )
    answered = pl.col("at") + pl.col("response_days") * 86400 <= last * 86400
    opened = rows.with_columns(response_days=pl.when(answered).then("response_days"), sent=pl.lit(_date(last)))
    later = rows.filter(~answered).with_columns(sent=pl.lit(_next_month(_date(last))))
    return [opened, later]


def _date(day: int) -> date:
    return date(1970, 1, 1) + timedelta(days=day)


def _record(company: _Company, who: NDArray[np.int64], updated: NDArray[np.int64] | int, known: int) -> pl.DataFrame:
    """Whole records, as of now, of some customers; days since 1970."""
    left_on = company.left_on[who]
    return pl.DataFrame(
        {
            "i": who,
            "tariff": company.tariff[who],
            "region": company.region[who],
            "payment": company.payment[who],
            "channel": company.channel[who],
            "paperless": company.paperless[who],
            "moves": company.moves[who],
            "signed_on": company.signed_on[who],
            "left_on": pl.Series(left_on, dtype=pl.Int64),
            "updated": np.broadcast_to(updated, len(who)),
            "sent": [_date(known)] * len(who),
        },
        schema_overrides={"sent": pl.Date},
    )


def _changes(company: _Company, here: NDArray[np.int64], first: int, last: int) -> list[pl.DataFrame]:
    """Records of those who move, pay in another way or choose another tariff in a month."""
    rng, made = company.rng, []
    for what, rate in (("moves", 0.004), ("payment", 0.005), ("tariff", 0.006), ("paperless", 0.004)):
        who = here[
            (rng.random(len(here)) < rate) & (company.left_on[here] == _NEVER) & (company.signed_on[here] < first)
        ]
        if what == "moves":
            company.moves[who] += 1
        elif what == "payment":
            company.payment[who] = (company.payment[who] + 1) % len(PAYMENTS)
        elif what == "tariff":
            company.tariff[who] = rng.integers(0, len(TARIFFS), len(who))
        else:
            company.paperless[who] = True
        # Before the days of the month in which notice is given.
        made.append(_record(company, who, first + rng.integers(0, last - first - 8, len(who)), last))
    return made


def _weights(causes: Causes, shock: float) -> dict[str, float]:
    """The coefficients while a shock of a size is in force; 0: none is."""
    weights = asdict(causes)
    return weights | {
        "price": causes.price * (1 + 1.5 * shock),
        "newness": causes.newness * (1 - 1.5 * shock),
    }


def _notices(
    company: _Company, who: NDArray[np.int64], first: int, market: float, causes: Causes, shock: float
) -> pl.DataFrame:
    """Who of some customers gives notice in the month that begins: i, the terms of `Causes`, probability, notice."""
    price, before = company.prices[who, 0], company.prices[who, -1]
    answers = company.response[who].sum(axis=1)
    terms = {
        "price": np.nan_to_num(price / market - 1),
        "price_change": np.maximum(0.0, np.nan_to_num(price / before - 1)),
        "bill_shock": company.shock[who],
        "outages": np.minimum(company.outages[who].sum(axis=1), 12),
        "complaints": np.minimum(company.complaints[who].sum(axis=1), 3),
        "response": np.minimum(answers[:, 0] / np.maximum(answers[:, 1], 1), 15),
        "newness": np.exp(-(first - company.signed_on[who]) / 30.4 / 18),
    }
    weights = _weights(causes, shock)
    logit = weights["intercept"] + sum(weights[name] * value for name, value in terms.items())
    probability = 1 / (1 + np.exp(-logit))
    notice = company.rng.random(len(who)) < probability
    return pl.DataFrame({"i": who, **terms, "probability": probability, "notice": notice})


def _described(records: pl.DataFrame) -> pl.DataFrame:
    """Records with names and addresses, made from the customers' numbers, and words for codes."""

    def word(words: str, by: pl.Expr) -> pl.Expr:
        table = words.split()
        return pl.lit(pl.Series(table)).gather(by % len(table))

    i, moves = pl.col("i"), pl.col("moves")
    first, last = word(_FIRST, i * 7 + 3), word(_LAST, i * 11 + i // 17)
    street = word(_STREETS, i * 3 + moves * 5)
    mail = pl.concat_str(first.str.to_lowercase(), pl.lit("."), last.str.to_lowercase(), i, pl.lit("@mail.example"))
    names = {"tariff": TARIFFS, "region": REGIONS, "payment": PAYMENTS, "channel": CHANNELS}
    return records.with_columns(
        full_name=pl.concat_str(first, pl.lit(" "), last),
        address=pl.concat_str(street, pl.lit(" "), (i * 13 + moves * 7) % 98 + 1, pl.lit(", "), i % 90000 + 10000),
        email=mail,
        phone=pl.concat_str(pl.lit("+49 155 5"), (i * 7919 + moves + 1_000_003) % 10_000_000),
        **{name: pl.lit(pl.Series(words)).gather(pl.col(name)) for name, words in names.items()},
    )


def _dirty(rng: np.random.Generator, name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with the dirt of real life: sent twice, late, or wrong and put right; fields that are empty or mistyped."""
    n, following = rows.height, pl.col("sent").dt.offset_by("1mo")
    twice = rows.filter(pl.Series(rng.random(n) < 0.004))
    parts = [rows]
    if name == "customers":
        first = pl.col("sent").min()
        # A change that reached the extract a month late; and one that was wrong, and put right with the next.
        late = pl.lit(pl.Series(rng.random(n) < 0.02)) & (pl.col("sent") > first)
        rows = rows.with_columns(sent=pl.when(late).then(following).otherwise("sent"))
        wrong = pl.lit(pl.Series(rng.random(n) < 0.01)) & (pl.col("sent") > first)
        parts = [rows.filter(~wrong), rows.filter(wrong).with_columns(payment=pl.lit("invoice"))]
        parts.append(rows.filter(wrong).with_columns(sent=following))
    elif name == "bills":
        wrong = pl.lit(pl.Series(rng.random(n) < 0.01))
        factor = pl.Series(rng.choice([0.6, 1.7], n))
        estimated = rows.with_columns(pl.col("consumption", "amount") * factor).filter(wrong)
        parts = [rows.filter(~wrong), estimated, rows.filter(wrong).with_columns(sent=following)]
    dirty = pl.concat([*parts, twice])
    mistyped = pl.lit(pl.Series(rng.random(dirty.height) < 0.001)) & (pl.col("sent") > pl.col("sent").min())
    empty = {"customers": "channel", "contacts": "topic", "bills": "outage_hours", "usage": "h12"}[name]
    missing = pl.Series(rng.random(dirty.height) < 0.003)
    return dirty.with_columns(pl.when(~missing).then(empty).alias(empty), typo=mistyped)


def _write(folder: Path, tables: dict[str, pl.DataFrame]) -> tuple[list[Path], int]:
    """A gzipped csv for each table and month of sending."""
    folder.mkdir(parents=True, exist_ok=True)
    files, rows = [], 0
    for name, table in tables.items():
        for earlier in folder.glob(f"{name}_*.csv.gz"):
            earlier.unlink()
        typo = pl.col("typo") if "typo" in table.columns else pl.lit(False)

        def mistyped(day: pl.Expr, typo: pl.Expr = typo) -> pl.Expr:
            return pl.when(typo).then(day.dt.strftime("%Y-13-%d")).otherwise(day.dt.strftime("%Y-%m-%d"))

        table = table.sort("sent", "i", maintain_order=True).with_columns(
            customer=_number(pl.col("i")),
            sent_at=pl.col("sent").dt.strftime("%Y-%m-%dT00:00:00Z"),
        )
        if name == "customers":
            day = pl.Date()
            table = table.select(
                "sent_at", "customer", mistyped(pl.col("updated").cast(pl.Int32).cast(day)).alias("updated_at"),
                "full_name", "address", "email", "phone", "tariff", "payment", "channel", "region",
                pl.when("paperless").then(pl.lit("yes")).otherwise(pl.lit("no")).alias("paperless"),
                pl.col("signed_on").cast(pl.Int32).cast(day),
                pl.when(pl.col("left_on") < _NEVER).then(pl.col("left_on").cast(pl.Int32)).cast(day).alias("left_on"),
            )  # fmt: skip
        elif name == "contacts":
            at = pl.from_epoch("at", time_unit="s")
            clock = (
                pl.when(typo).then(at.dt.strftime("%Y-%m-%d 27:%M:%S")).otherwise(at.dt.strftime("%Y-%m-%d %H:%M:%S"))
            )
            answer = pl.when("complaint").then(pl.lit("yes")).otherwise(pl.lit("no"))
            table = table.select(
                "sent_at", "customer", clock.alias("ts"), "channel", "topic", answer.alias("complaint"), "response_days"
            )
        elif name == "bills":
            table = table.select(
                "sent_at", "customer", mistyped(pl.col("month")).alias("month"),
                pl.col("consumption").round(1).alias("kwh"), pl.col("amount").round(2),
                pl.col("price").round(4).alias("price_per_kwh"), pl.col("supply_cost").round(2),
                pl.col("outage_hours").round(1),
            )  # fmt: skip
        else:
            hours = pl.col("^h\\d\\d$").round(3)
            table = table.select("sent_at", "customer", mistyped(pl.col("month")).alias("month"), "day", hours)
        for (sent,), part in sorted(table.group_by(pl.col("sent_at").str.head(7), maintain_order=True)):
            path = folder / f"{name}_{sent}.csv.gz"
            text = io.BytesIO()
            part.write_csv(text)
            path.write_bytes(gzip.compress(text.getvalue(), compresslevel=1, mtime=0))
            files.append(path)
        rows += table.height
    return files, rows


def _write_truth(
    folder: Path, truth: pl.DataFrame, company: _Company, causes: Causes, shock: TariffShock | None, edge: date
) -> None:
    left_on = pl.Series(np.minimum(company.left_on, _NEVER)).cast(pl.Int32)
    days = pl.lit(left_on).gather("i") - pl.col("month").cast(pl.Int32)
    terms = [name for name in asdict(causes) if name != "intercept"]
    truth.select(
        "month",
        *terms,
        "probability",
        "notice",
        customer_id=_number(pl.col("i")),
        segment=pl.lit(pl.Series(SEGMENTS)).gather("segment"),
        churned=pl.when(pl.col("month").dt.offset_by("90d") <= edge).then(days.is_between(1, 90)),
    ).write_parquet(folder / "customers_truth.parquet")
    after = None
    if shock is not None:
        after = {"from": shock.date.replace(day=1).isoformat(), "coefficients": _weights(causes, shock.size)}
    text = json.dumps({"coefficients": asdict(causes), "after_shock": after}, indent=1)
    (folder / "customers_causes.json").write_text(text + "\n", encoding="utf-8")


def _number(i: pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.lit("C"), (i + 1).cast(pl.String).str.zfill(6))
