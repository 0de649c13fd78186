"""What silver tables of landed records share: typed rows and a quarantine, versions, and the count that loses nothing.

A record, a contact or a bill may be sent again when more is known, or when it was wrong. Every version is kept, with
from when until when it was what was known: `known_at` and `known_until` (null: still). So the table can tell what was
so, as known now (`known_until` is null), and what was known at any time before.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import (
    Contract,
    ContractClass,
    contract_check,
    extended,
    lineage,
    resolve,
    rows_of_run,
    table_key,
    table_spec,
)

_ROW = ["file", "fingerprint", "row_number"]


class Record(dy.Schema):
    """Columns of a version in silver."""

    known_at = dy.Datetime(primary_key=True, time_zone="UTC", description="When this version was known (UTC).")
    known_until = dy.Datetime(
        nullable=True, time_zone="UTC", description="When a later version of the same took its place (UTC); null: none."
    )
    source = dy.String(description="Name of the declaration that the row was landed by.")
    file = dy.String(description="File that the row is from.")
    row_number = dy.Int64(description="Position of the row in its file, from 1.")
    ingested_at = dy.Datetime(time_zone="UTC", description="When the row was landed (UTC).")
    landed_rows = dy.Int64(min=1, description="How many landed rows say this: more than one where it was sent twice.")
    month = dy.Date(description="First day of the UTC month that the row is about: the partition.")


KEPT = ("known_at", "source", "file", "row_number", "ingested_at", "month")
"""Columns of bronze that silver keeps as they are."""


def rejected(contract: ContractClass, name: str) -> ContractClass:
    """The contract of a quarantine: bronze's columns, and the rules."""
    rules = dy.List(dy.String(), min_length=1, description="Names of the broken rules.")
    found = extended(contract, {"rules": rules})
    found.__name__ = name
    return found


def split(rows: pl.LazyFrame, rules: Mapping[str, pl.Expr]) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Landed rows as (those that satisfy every rule, the others with `rules`: the names of those that they break)."""
    broken = [pl.when(~rule.fill_null(False)).then(pl.lit(name)) for name, rule in rules.items()]
    judged = rows.with_columns(rules=pl.concat_list(broken).list.drop_nulls())
    fine = pl.col("rules").list.len() == 0
    return judged.filter(fine).drop("rules"), judged.filter(~fine)


def versions(rows: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """One row for each version of what the keys name, with `known_until` and `landed_rows`.

    Of rows with the same keys and the same `known_at` the last one counts: landed last, in the order of files and rows.
    """
    distinct = (
        rows.sort(*keys, "known_at", "ingested_at", "file", "row_number")
        .group_by(*keys, "known_at", maintain_order=True)
        .agg(pl.all().last(), landed_rows=pl.len().cast(pl.Int64))
    )
    return distinct.with_columns(known_until=pl.col("known_at").shift(-1).over(keys, order_by="known_at"))


def as_known_at(rows: pl.LazyFrame, time: Any) -> pl.LazyFrame:
    """The versions that were what was known at a time (a datetime or an expression)."""
    time = pl.lit(time) if not isinstance(time, pl.Expr) else time
    return rows.filter(pl.col("known_at") <= time, pl.col("known_until").is_null() | (pl.col("known_until") > time))


def as_known_now(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The versions that nothing has taken the place of."""
    return rows.filter(pl.col("known_until").is_null())


def edge_of(*tables: pl.LazyFrame | None) -> datetime | None:
    """Until when things are known: when the latest row of any of the tables became known; None: there are no rows.

    A company whose records have not changed for a month still sends bills.
    """
    latest = pl.collect_all([table.select(pl.col("known_at").max()) for table in tables if table is not None])
    return max((found for frame in latest if (found := frame.item()) is not None), default=None)


Transform = Callable[[pl.LazyFrame], tuple[pl.LazyFrame, pl.LazyFrame]]


def record_assets(
    module: str,
    transform: Transform,
    contract: Contract,
    *,
    quarantine: str,
    rejected_contract: Contract,
    bronze: Contract,
    explicit: Mapping[str, Sequence[str]],
    domain: str,
    partitions_def: dg.PartitionsDefinition | None = None,
) -> dg.AssetsDefinition:
    """The asset of a silver table of records and of its quarantine, which are written together.

    Args:
        module: the table's module; its key is `silver/<table>`, and that of its rows `bronze/<table>`.
        transform: landed rows -> (silver rows, rejected rows).
        contract: the table's contract.
        quarantine: the quarantine's module.
        rejected_contract: the quarantine's contract.
        bronze: the contract of the landed rows.
        explicit: from which columns of bronze a column is made, see `lineage`.
        domain: see `table_spec`.
        partitions_def: months; None: the table is made as a whole.
    """
    key, other = table_key(module), table_key(quarantine)
    source = dg.AssetKey(["bronze", key.path[-1]])
    upstream = {source.to_user_string(): resolve(bronze)}
    sources = {name: [f"{source.to_user_string()}:{column}" for column in found] for name, found in explicit.items()}
    options: dict[str, Any] = {"domain": domain, "metadata": {"schema_mode": "merge"}}
    if partitions_def is None:
        options["partition_expr"] = None
    spec = table_spec(module, contract, lineage=lineage(resolve(contract), upstream, sources), **options)
    rejects = table_spec(
        quarantine, rejected_contract, lineage=lineage(resolve(rejected_contract), upstream), **options
    )
    table, aside = key.path[-1], other.path[-1]

    @dg.multi_asset(
        name=f"silver_{table}",
        outs={table: dg.AssetOut.from_spec(spec), aside: dg.AssetOut.from_spec(rejects)},
        deps=[source],
        partitions_def=partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run() if partitions_def else None,
    )
    def refine(context: dg.AssetExecutionContext, lake: LakeResource) -> Any:
        rows = _of_run(context.run.tags, partitions_def, lake.lake().table(source.path).scan())
        silver, quarantined = (part.collect() for part in transform(rows))
        counts = {
            "bronze_rows": int(rows.select(pl.len()).collect().item()),
            "silver_rows": silver.height,
            "quarantined_rows": quarantined.height,
            "removed_duplicates": int(silver["landed_rows"].sum()) - silver.height,
        }
        broken = dict(quarantined.select(pl.col("rules").explode()).to_series().drop_nulls().value_counts().iter_rows())
        yield dg.Output(silver, table, metadata=counts)
        yield dg.Output(quarantined, aside, metadata={**counts, "broken_rules": dg.MetadataValue.json(broken)})

    return refine


def record_checks(
    asset: dg.AssetsDefinition, module: str, contract: Contract, quarantine: str, rejected_contract: Contract
) -> list[dg.AssetChecksDefinition]:
    """The blocking checks of a silver table of records: both contracts, and that no landed row is lost."""
    key, other = table_key(module), table_key(quarantine)
    source = dg.AssetKey(["bronze", key.path[-1]])

    @dg.asset_check(
        asset=key,
        name="nothing_lost",
        additional_deps=[other],
        blocking=True,
        description="Every landed row is here, in the quarantine, or says the same as a row that is here.",
    )
    def nothing_lost(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        def rows(table: dg.AssetKey) -> pl.LazyFrame:
            return _of_run(context.run.tags, asset.partitions_def, lake.lake().table(table.path).scan())

        landed = rows(source).select(_ROW).collect()
        rejects = rows(other).select(_ROW).collect()
        silver, said = rows(key).select(pl.len(), pl.col("landed_rows").sum()).collect().row(0)
        kept = landed.join(rejects, on=_ROW, how="anti").height
        return dg.AssetCheckResult(
            passed=kept == said and landed.height == kept + rejects.height,
            metadata={
                "bronze_rows": landed.height,
                "silver_rows": silver,
                "quarantined_rows": rejects.height,
                "removed_duplicates": kept - silver,
            },
        )

    return [
        contract_check(asset, contract, key=key),
        contract_check(asset, rejected_contract, key=other),
        nothing_lost,
    ]


def _of_run(
    tags: Mapping[str, str], partitions_def: dg.PartitionsDefinition | None, rows: pl.LazyFrame
) -> pl.LazyFrame:
    """The rows of the run's months; all of them where there are none."""
    only = None if partitions_def is None else rows_of_run(tags, partitions_def, "month")
    return rows if only is None else rows.filter(only)
