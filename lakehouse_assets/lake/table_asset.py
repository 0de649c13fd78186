"""What turns a table's file (its docstring, its contract, its transform) into a Dagster asset with a blocking check.

A table's file is named as the table is, and everything that Dagster shows of it is said there once:

    \"\"\"One sentence on what the table holds: its description in the UI.\"\"\"

    class Contract(dy.Schema):
        series_id = dy.String(primary_key=True, description="...")

    @delta_asset(Contract, lineage=lineage(Contract, {"bronze/demand": Bronze}), partitions_def=MONTHS)
    def demand(...) -> pl.LazyFrame: ...

    contract = contract_check(demand, Contract)

A file that uses Dagster's own `@asset` is as good; it then says the rest itself.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.partitions import partition_predicate
from lakehouse_assets.lake.predicate import parse_predicate
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table import Table

ContractClass: TypeAlias = type[dy.Schema]
# Columns may depend on what is declared (covariates); then the contract of a moment is asked for.
Contract: TypeAlias = ContractClass | Callable[[], ContractClass]

OWNERS = ("team:lakehouse",)
_PERSONAL_LAYERS = ("bronze", "silver")
# dataframely's names of rules that say what is forbidden, as what is demanded.
_PLAIN = {"inf": "no infinity", "nan": "no NaN", "inner_inf": "no infinity", "inner_nan": "no NaN"}


def resolve(contract: Contract) -> ContractClass:
    """The contract's schema as of now."""
    return contract if isinstance(contract, type) else contract()


def extended(contract: ContractClass, columns: Mapping[str, dy.Column]) -> ContractClass:
    """A contract with further columns."""
    namespace = {"__doc__": contract.__doc__, "__module__": contract.__module__, **columns}
    schema_class: Any = type(dy.Schema)
    return schema_class(contract.__name__, (contract,), namespace)


def personal_columns(contract: ContractClass) -> dict[str, str]:
    """The columns that tell who somebody is, and what they tell: name, address, email or phone.

    They are classified in the contract, `dy.String(metadata={"personal": "email"})`, and belong in bronze and silver.
    """
    found = {name: (column.metadata or {}).get("personal") for name, column in contract.columns().items()}
    return {name: str(kind) for name, kind in found.items() if kind is not None}


def column_schema(contract: ContractClass) -> dg.TableSchema:
    """Names, types, descriptions and constraints of a contract's columns, as the Dagster UI shows them."""
    key = contract.primary_key()
    columns, personal = [], personal_columns(contract)
    for name, column in contract.columns().items():
        rules = [_PLAIN.get(r, r) for r in column.validation_rules(pl.col(name)) if r not in ("nullability", "unique")]
        columns.append(
            dg.TableColumn(
                name,
                type=str(column.dtype),
                description=column.description,
                constraints=dg.TableColumnConstraints(
                    nullable=column.nullable,
                    unique=column.unique or key == [name],
                    other=(["primary key"] if name in key else []) + rules,
                ),
                tags={"personal": personal[name]} if name in personal else None,
            )
        )
    return dg.TableSchema(columns=columns)


def lineage(
    contract: ContractClass,
    upstream: Mapping[str, ContractClass],
    explicit: Mapping[str, Sequence[str]] | None = None,
) -> dg.TableColumnLineage:
    """From which upstream columns each column is made.

    Args:
        contract: the table's contract.
        upstream: key of an upstream table (`"bronze/demand"`) -> its contract. A column comes from the columns of its
            own name, unless `explicit` says otherwise.
        explicit: column -> upstream columns as `"bronze/demand:value"`; an empty list: from none.

    Raises:
        ValueError: a column is named that a contract does not have.
    """
    explicit = explicit or {}
    known = {f"{key}:{name}" for key, table in upstream.items() for name in table.column_names()}
    if unknown := sorted({source for sources in explicit.values() for source in sources} - known):
        raise ValueError(f"{contract.__name__}: the lineage names the upstream columns {unknown}, which do not exist.")
    if unknown := sorted(set(explicit) - set(contract.column_names())):
        raise ValueError(
            f"{contract.__name__}: the lineage names the columns {unknown}, which are not in the contract."
        )
    deps = {}
    for name in contract.column_names():
        sources = explicit.get(name, [f"{key}:{name}" for key in upstream if f"{key}:{name}" in known])
        if sources:
            deps[name] = [_column_dep(source) for source in sources]
    return dg.TableColumnLineage(deps_by_column=deps)


def _column_dep(source: str) -> dg.TableColumnDep:
    key, column = source.split(":")
    return dg.TableColumnDep(asset_key=dg.AssetKey(key.split("/")), column_name=column)


def table_key(module: str) -> dg.AssetKey:
    """The asset key of a table's module: `lakehouse_assets.silver.demand` -> `["silver", "demand"]`."""
    return dg.AssetKey(module.split(".")[-2:])


def table_spec(
    module: str,
    contract: Contract,
    *,
    lineage: dg.TableColumnLineage | None = None,
    partition_expr: str | None = "month",
    freshness: dg.FreshnessPolicy | None = None,
    metadata: Mapping[str, Any] | None = None,
    domain: str | None = None,
) -> dg.AssetSpec:
    """What Dagster shows of a table, read from its module.

    Args:
        module: the module's `__name__`; the last two words are the asset key.
        contract: the table's contract.
        lineage: see `lineage`.
        partition_expr: the column that tells the table's partitions apart; by it the Delta files are partitioned.
        freshness: when the table is too old.
        metadata: further metadata.
        domain: what the table is about, a tag; by default the first word of its name. Tables of a domain are refined
            together.

    Raises:
        ValueError: the contract has personal columns, and the table is neither in bronze nor in silver.
    """
    key = table_key(module)
    source = sys.modules[module]
    layer, table = key.path
    personal = personal_columns(resolve(contract))
    if personal and layer not in _PERSONAL_LAYERS:
        raise ValueError(
            f"{key.to_user_string()} has the personal columns {', '.join(sorted(personal))}; "
            f"such columns stay in {' and '.join(_PERSONAL_LAYERS)}."
        )
    shown: dict[str, Any] = {"dagster/column_schema": column_schema(resolve(contract)), **(metadata or {})}
    if lineage is not None:
        shown["dagster/column_lineage"] = lineage
    if partition_expr is not None:
        shown["partition_expr"] = partition_expr
    return dg.AssetSpec(
        key,
        description=inspect.getdoc(source),
        group_name=layer,
        kinds={"delta", "polars"},
        owners=list(OWNERS),
        tags={"domain": domain or table.split("_")[0], "layer": layer},
        code_version=code_version(module),
        metadata=shown,
        freshness_policy=freshness,
    )


def code_version(module: str) -> str:
    """A hash of the module's source: it changes when the table's code does."""
    path = sys.modules[module].__file__
    assert path is not None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def delta_asset(
    contract: Contract,
    *,
    lineage: dg.TableColumnLineage | None = None,
    partition_expr: str | None = "month",
    partitions_def: dg.PartitionsDefinition | None = None,
    freshness: dg.FreshnessPolicy | None = None,
    metadata: Mapping[str, Any] | None = None,
    domain: str | None = None,
    **options: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Decorator: a function in a table's file becomes that table's asset.

    The function returns a polars frame for the IO manager, or writes the table itself and returns a
    `MaterializeResult`. A range of partitions is one run and one pass. Arguments as in `table_spec`; the rest (`deps`,
    `ins`, `automation_condition`, ...) goes to `dagster.asset`.
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        spec = table_spec(
            function.__module__,
            contract,
            lineage=lineage,
            partition_expr=partition_expr,
            freshness=freshness,
            metadata=metadata,
            domain=domain,
        )
        return dg.asset(
            key=spec.key,
            description=spec.description,
            group_name=spec.group_name,
            kinds=spec.kinds,
            owners=spec.owners,
            tags={name: value for name, value in spec.tags.items() if not name.startswith("dagster/kind/")},
            code_version=spec.code_version,
            metadata=spec.metadata,
            freshness_policy=spec.freshness_policy,
            partitions_def=partitions_def,
            backfill_policy=dg.BackfillPolicy.single_run() if partitions_def else None,
            **options,
        )(function)

    return decorate


def months_of_run(context: dg.AssetExecutionContext) -> tuple[date, date]:
    """The first and the last month of a run over monthly partitions, as first days."""
    keys = context.partition_key_range
    return date.fromisoformat(keys.start), date.fromisoformat(keys.end)


Written: TypeAlias = Callable[[dg.AssetCheckExecutionContext], pl.Expr | None]


def _parts(scan: pl.LazyFrame, by: str) -> list[pl.LazyFrame]:
    """The rows in parts of about `ROWS_AT_A_TIME`, each of whole partitions."""
    sizes = scan.group_by(by).len().sort(by).collect(engine="streaming")
    parts: list[list[Any]] = []
    rows = 0
    for value, count in sizes.iter_rows():
        if not parts or rows + count > ROWS_AT_A_TIME:
            parts.append([])
            rows = 0
        parts[-1].append(value)
        rows += count
    if len(parts) < 2:
        return [scan]
    return [scan.filter(pl.col(by).is_between(part[0], part[-1])) for part in parts]


def rows_of_run(tags: Mapping[str, str], partitions_def: dg.PartitionsDefinition, column: str) -> pl.Expr | None:
    """A filter on the rows of a run's partitions, from the run's tags; None if the run is for no partitions.

    Args:
        tags: tags of a Dagster run.
        partitions_def: the asset's partitions.
        column: the column of type Date that tells them apart.
    """
    first, last = tags.get("dagster/asset_partition_range_start"), tags.get("dagster/asset_partition_range_end")
    if first is not None and last is not None:
        keys = list(partitions_def.get_partition_keys_in_range(dg.PartitionKeyRange(first, last)))
    elif "dagster/partition" in tags:
        keys = [tags["dagster/partition"]]
    else:
        return None
    schema = pl.Schema({column: pl.Date()})
    return parse_predicate(partition_predicate(keys, partitions_def, {"": column}, schema), schema)[1]


def contract_check(
    asset: dg.AssetsDefinition, contract: Contract, *, key: dg.AssetKey | None = None, written: Written | None = None
) -> dg.AssetChecksDefinition:
    """A blocking check `contract`: the rows just written satisfy every rule of the contract.

    Args:
        asset: what makes the table.
        contract: the table's contract.
        key: which table, if the asset makes several.
        written: filters the rows just written; by default the run's partitions, or all rows if there are none.
    """
    key = key or asset.key
    partitions_def, column = asset.partitions_def, asset.metadata_by_key[key].get("partition_expr")

    @dg.asset_check(asset=key, name="contract", blocking=True, description="Every row satisfies the table's contract.")
    def check(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        only = None
        if written is not None:
            only = written(context)
        elif partitions_def is not None and column is not None:
            only = rows_of_run(context.run.tags, partitions_def, column)
        by = column if partitions_def is not None else None
        return evaluate(resolve(contract), lake.lake().table(key.path), only, by)

    return check


ROWS_AT_A_TIME = 8_000_000
"""Rows that a check looks at together: keys are unique within a partition, so that partitions can be checked apart."""


def evaluate(
    contract: ContractClass, table: Table, only: pl.Expr | None = None, by: str | None = None
) -> dg.AssetCheckResult:
    """Which rules of a contract the rows of a table break, and how many rows break each.

    Columns that are missing or of another type are broken rules too. Nothing but the columns that rules need is read.

    Args:
        contract: the contract.
        table: the table.
        only: filters the rows that are looked at.
        by: a partition column that is a function of the primary key: large tables are looked at in parts.
    """
    if not table.exists():
        return dg.AssetCheckResult(passed=True, description="Nothing has been written yet.", metadata={"rows": 0})
    scan = table.scan()
    schema = scan.collect_schema()
    broken: dict[str, Any] = {}
    for name, column in contract.columns().items():
        if name not in schema:
            broken[f"{name}|exists"] = "the column is missing"
        elif not column.validate_dtype(schema[name]):
            broken[f"{name}|type"] = f"{schema[name]}, not {column.dtype}"
    rules = {
        name: rule.expr
        for name, rule in contract._validation_rules(with_cast=False).items()
        if not any(
            f"{root}|{problem}" in broken for root in rule.expr.meta.root_names() for problem in ("exists", "type")
        )
    }
    scan = scan if only is None else scan.filter(only)
    broken_by = ((~rule.fill_null(True)).sum().cast(pl.Int64).alias(name) for name, rule in rules.items())
    query = [pl.len().cast(pl.Int64).alias("rows"), *broken_by]
    parts = _parts(scan, by) if by is not None and by in schema else [scan]
    counts = pl.concat([part.select(query).collect(engine="streaming") for part in parts]).sum().row(0, named=True)
    rows = counts.pop("rows")
    broken |= {name: count for name, count in counts.items() if count}
    return dg.AssetCheckResult(
        passed=not broken,
        severity=dg.AssetCheckSeverity.ERROR,
        description="" if not broken else "Broken: " + ", ".join(f"{name} ({what})" for name, what in broken.items()),
        metadata={"rows": rows, "broken_rules": broken, "rules": len(rules)},
    )
