"""What the tests of the customers' tables share: the simulated declaration, landed rows, and tables in memory."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import polars as pl

from lakehouse_assets.bronze import customers as bronze
from lakehouse_assets.bronze.bills import BronzeBills
from lakehouse_assets.bronze.contacts import BronzeContacts
from lakehouse_assets.bronze.usage import BronzeUsage
from lakehouse_assets.features import customer as features
from lakehouse_assets.features import load_shape
from lakehouse_assets.gold import customer_month
from lakehouse_assets.lake.landed import record_batch
from lakehouse_assets.lake.records import edge_of
from lakehouse_assets.silver import bills, contacts, customers, usage
from lakehouse_assets.sources.customers import Customers
from lakehouse_assets.sources.declaration import SIMULATED, load_source
from lakehouse_assets.sources.landing import land_records


@cache
def declared() -> Customers:
    """The customers that the simulator declares."""
    found = load_source(SIMULATED).customers
    assert found is not None
    return found


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


NOW = utc(2030, 1, 1)
CONTRACTS = {"contacts": BronzeContacts, "bills": BronzeBills, "usage": BronzeUsage}
SILVER = {"customers": customers, "contacts": contacts, "bills": bills, "usage": usage}


def landed(folder: Path, source: Customers, until: datetime | None = None) -> dict[str, pl.DataFrame]:
    """The bronze tables of the files in a folder."""
    found = {}
    for table in source.tables:
        layout = source.layout(table)
        frame = land_records(layout, folder, None, until, NOW, folder / "aside").frame
        assert frame is not None
        contract = CONTRACTS.get(table) or bronze.contract(source)
        found[table] = record_batch(frame.lazy(), contract, "test", layout.start, "one", NOW).collect()
    return found


def refined(bronze_tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The silver tables and their quarantines (`bills_quarantine`), in memory."""
    made = {}
    for table, rows in bronze_tables.items():
        made[table], made[f"{table}_quarantine"] = (part.collect() for part in SILVER[table].transform(rows.lazy()))
    return made


def snapshots(
    silver: dict[str, pl.DataFrame], times: list[datetime], segments: pl.DataFrame | None = None
) -> pl.DataFrame:
    """features/customer at some times, from silver tables of the simulated declaration, and predicted segments."""
    lazy = {name: table.lazy() for name, table in silver.items()}
    first, last = times[0].date(), silver["bills"]["month"].max()
    months = customer_month.transform(lazy["customers"], lazy["bills"], lazy["contacts"], first, last, declared())
    read = [lazy[name] for name in ("customers", "bills", "contacts")]
    edge = edge_of(*read)
    assert edge is not None
    predicted = None if segments is None else segments.lazy()
    made = features.transform(times, *read, months, edge, declared(), predicted)
    return made.collect()


def shapes(silver: dict[str, pl.DataFrame], times: list[datetime]) -> pl.DataFrame:
    """features/load_shape at some times."""
    return load_shape.transform(times, silver["usage"].lazy()).collect()
