"""How records of customers are landed: what the bronze tables of customers share. No table of its own.

A run lands what is new in the declared files and known by the time on its clock, in one Delta commit; running again
adds nothing.
"""

import dagster as dg
import polars as pl

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.landed import append_batch, record_batch
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import Contract, resolve
from lakehouse_assets.settings import get_settings
from lakehouse_assets.sources.declaration import active_customers, active_source
from lakehouse_assets.sources.landing import land_records, months_touched_by_records


def land_table(
    context: dg.AssetExecutionContext, lake: LakeResource, clock: Clock, contract: Contract
) -> dg.MaterializeResult:
    """Land the new records of the table that a run is about; its name is that of the declared layout."""
    declared, settings, now = active_customers(), get_settings(), clock.now()
    resolved = resolve(contract)
    table = lake.lake().table(context.asset_key.path)
    landed = table.scan() if table.exists() else None
    last = None if landed is None else landed.select(pl.col("known_at").max()).collect().item()
    layout = declared.layout(context.asset_key.path[-1])
    landing = land_records(layout, settings.data, landed, now, now, settings.landing / "set_aside")
    rows, months = None, []
    if landing.frame is not None:
        batch = landing.frame.lazy()
        rows = record_batch(batch, resolved, active_source().name, layout.start, context.run_id, now).collect()
        months = months_touched_by_records(rows, layout.start, last)
    return append_batch(
        context,
        table,
        rows,
        months,
        empty=resolved.create_empty,
        files=[file.name for file in landing.files],
        set_aside={item.name: item.reason for item in landing.set_aside},
        now=now,
    )
