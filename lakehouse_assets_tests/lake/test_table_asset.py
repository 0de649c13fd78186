"""Test tables that are no part of the demand domain."""

import sys
from datetime import date
from pathlib import Path

import dagster as dg
import dataframely as dy
import polars as pl
import pytest

from lakehouse_assets.lake import table_asset
from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.io_manager import DeltaIOManager
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import (
    column_schema,
    contract_check,
    delta_asset,
    extended,
    lineage,
    personal_columns,
    rows_of_run,
    table_key,
    table_spec,
)

MONTHS = dg.MonthlyPartitionsDefinition(start_date="2020-01-01")


class Meters(dy.Schema):
    """A reading of a meter."""

    meter = dy.String(primary_key=True, description="Number of the meter.")
    reading = dy.Float64(nullable=True, min=0, description="Reading (kWh).")
    month = dy.Date(primary_key=True, description="Month of the reading.")

    @dy.rule()
    def not_absurd(cls) -> pl.Expr:
        return pl.col("reading") < 1000


def _rows(*rows: tuple[str, float | None, int]) -> pl.DataFrame:
    columns = {"meter": pl.String, "reading": pl.Float64, "month": pl.Int32}
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(month=pl.date(2020, "month", 1))


def _run(folder: Path, assets: list, first: str, last: str) -> dg.ExecuteInProcessResult:
    resources = {"io_manager": DeltaIOManager(root_uri=str(folder)), "lake": LakeResource(root_uri=str(folder))}
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return dg.materialize(assets, resources=resources, tags=tags, raise_on_error=False)


def _asset(rows: pl.DataFrame) -> dg.AssetsDefinition:
    @delta_asset(Meters, partitions_def=MONTHS)
    def meters(context: dg.AssetExecutionContext) -> pl.LazyFrame:
        keys = context.partition_key_range
        return rows.lazy().filter(pl.col("month").cast(pl.String).is_between(pl.lit(keys.start), pl.lit(keys.end)))

    return meters


def test_an_asset_says_what_its_file_says() -> None:
    (spec,) = _asset(_rows()).specs
    assert spec.key == table_key(__name__) == dg.AssetKey(["lake", "test_table_asset"])
    assert spec.description == "Test tables that are no part of the demand domain."
    assert spec.group_name == "lake"
    assert {"delta", "polars"} <= spec.kinds
    assert spec.tags["layer"] == "lake"
    assert spec.owners
    assert len(spec.code_version or "") == 12
    assert spec.metadata["partition_expr"] == "month"
    columns = {column.name: column for column in spec.metadata["dagster/column_schema"].columns}
    assert columns["reading"].description == "Reading (kWh)."
    assert (columns["reading"].type, columns["reading"].constraints.nullable) == ("Float64", True)
    assert "min" in columns["reading"].constraints.other
    assert "primary key" in columns["meter"].constraints.other
    assert not columns["meter"].constraints.unique  # only together with the month


@pytest.mark.parametrize("at_a_time", [8_000_000, 1])
def test_the_contract_is_checked_on_what_was_just_written(
    at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_asset, "ROWS_AT_A_TIME", at_a_time)
    rows = _rows(("a", -1.0, 1), ("a", 5000.0, 2), ("b", 1.0, 2), ("b", 2.0, 2), ("c", None, 3))
    meters = _asset(rows)
    contract = contract_check(meters, Meters)

    def check(first: str, last: str) -> tuple[bool, bool, dict, int]:
        run = _run(tmp_path, [meters, contract], first, last)
        (evaluation,) = run.get_asset_check_evaluations()
        metadata = {name: value.value for name, value in evaluation.metadata.items()}
        return run.success, evaluation.passed, metadata["broken_rules"], metadata["rows"]

    assert check("2020-03-01", "2020-03-01") == (True, True, {}, 1)
    broken = {"reading|min": 1, "not_absurd": 1, "primary_key": 2}
    assert check("2020-01-01", "2020-02-01") == (False, False, broken, 4)  # the run fails: the check blocks
    assert check("2020-03-01", "2020-03-01") == (True, True, {}, 1)  # though the others are still there


def test_a_table_of_another_shape_breaks_its_contract(tmp_path: Path) -> None:
    @dg.asset(key=["lake", "plain"])  # Dagster's own decorator does as well
    def plain() -> pl.DataFrame:
        return pl.DataFrame({"meter": ["a"], "reading": ["text"]})

    resources = {"io_manager": DeltaIOManager(root_uri=str(tmp_path)), "lake": LakeResource(root_uri=str(tmp_path))}
    run = dg.materialize([plain, contract_check(plain, Meters)], resources=resources, raise_on_error=False)
    (evaluation,) = run.get_asset_check_evaluations()
    assert set(evaluation.metadata["broken_rules"].value) == {"reading|type", "month|exists"}


def test_a_contract_may_depend_on_the_moment(tmp_path: Path) -> None:
    wanted = {"temperature": dy.Float64(nullable=False, description="Temperature (C).")}
    assert extended(Meters, wanted).column_names() == ["meter", "reading", "month", "temperature"]
    assert "not_absurd" in extended(Meters, wanted)._validation_rules(with_cast=False)
    meters = _asset(_rows(("a", 1.0, 1)))
    check = contract_check(meters, lambda: extended(Meters, wanted))
    run = _run(tmp_path, [meters, check], "2020-01-01", "2020-01-01")
    assert set(run.get_asset_check_evaluations()[0].metadata["broken_rules"].value) == {"temperature|exists"}
    wanted.clear()
    assert _run(tmp_path, [meters, check], "2020-01-01", "2020-01-01").success


def test_lineage_is_by_name_unless_it_is_told_and_names_what_exists() -> None:
    class Bills(dy.Schema):
        """A bill."""

        meter = dy.String()
        amount = dy.Float64()
        month = dy.Date()

    upstream = {"silver/meters": Meters}
    found = lineage(Bills, upstream, {"amount": ["silver/meters:reading"], "month": []}).deps_by_column
    assert {name: [dep.column_name for dep in deps] for name, deps in found.items()} == {
        "meter": ["meter"],
        "amount": ["reading"],
    }
    assert found["meter"][0].asset_key == dg.AssetKey(["silver", "meters"])
    with pytest.raises(ValueError, match="silver/meters:readings"):
        lineage(Bills, upstream, {"amount": ["silver/meters:readings"]})
    with pytest.raises(ValueError, match="total"):
        lineage(Bills, upstream, {"total": ["silver/meters:reading"]})


def test_the_rows_of_a_run() -> None:
    rows = _rows(("a", 1.0, 1), ("a", 1.0, 2), ("a", 1.0, 3), ("a", 1.0, 4))

    def months(tags: dict[str, str]) -> list[date]:
        only = rows_of_run(tags, MONTHS, "month")
        return (rows if only is None else rows.filter(only))["month"].dt.month().to_list()

    assert months({"dagster/partition": "2020-02-01"}) == [2]
    both = {"dagster/asset_partition_range_start": "2020-02-01", "dagster/asset_partition_range_end": "2020-03-01"}
    assert months(both) == [2, 3]
    assert months({}) == [1, 2, 3, 4]


def test_every_column_of_every_table_is_described() -> None:
    from lakehouse_assets.bronze import demand as bronze
    from lakehouse_assets.features import demand as features
    from lakehouse_assets.gold import demand_daily, demand_hourly
    from lakehouse_assets.silver import demand as silver
    from lakehouse_assets.silver import demand_quarantine

    contracts = [m.contract() for m in (bronze, silver, demand_quarantine, demand_hourly, features)]
    for contract in [*contracts, demand_daily.GoldDemandDaily]:
        bare = [column.name for column in column_schema(contract).columns if not column.description]
        assert not bare, contract


def test_the_clock() -> None:
    assert Clock(at="2020-05-01T12:00").now().isoformat() == "2020-05-01T12:00:00+00:00"
    assert Clock(at="2020-05-01T12:00+02:00").now().isoformat() == "2020-05-01T10:00:00+00:00"
    assert Clock().now().utcoffset().total_seconds() == 0
    with pytest.raises(ValueError, match="soon"):
        Clock(at="soon")


class WithMail(dy.Schema):
    customer_id = dy.String(primary_key=True, description="Customer.")
    mail = dy.String(nullable=True, description="Mailbox.", metadata={"personal": "email"})


def test_personal_columns_are_shown_as_such_and_refused_beyond_silver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert personal_columns(WithMail) == {"mail": "email"}
    assert [column.tags for column in column_schema(WithMail).columns] == [{}, {"personal": "email"}]
    for room, allowed in (("bronze", True), ("silver", True), ("gold", False), ("features", False)):
        module = f"house.{room}.customers"
        monkeypatch.setitem(sys.modules, module, sys.modules[__name__])
        if allowed:
            assert table_spec(module, WithMail).key.path == [room, "customers"]
        else:
            with pytest.raises(ValueError, match="personal columns mail; such columns stay in bronze and silver"):
                table_spec(module, WithMail)
