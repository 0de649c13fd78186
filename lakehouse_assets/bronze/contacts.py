"""Contacts of customers as they were landed: the text of each field, where it was read, and when.

A contact may be sent again when more is known of it: the days until it was answered.
"""

import dagster as dg
import dataframely as dy
import polars as pl

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.landed import LandedRecord, append_batch, files_set_aside, last_batch, record_batch
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import contract_check, delta_asset, table_key
from lakehouse_assets.settings import get_settings
from lakehouse_assets.sources.declaration import active_customers, active_source
from lakehouse_assets.sources.landing import land_records, months_touched_by_records

KEY = table_key(__name__)


class BronzeContacts(LandedRecord):
    """A landed contact of a customer."""

    customer_id = dy.String(nullable=True, description="Customer, as written.")
    ts = dy.String(nullable=True, description="When it was, as written.")
    channel = dy.String(nullable=True, description="How the customer got in touch, as written.")
    topic = dy.String(nullable=True, description="What it was about, as written.")
    complaint = dy.String(nullable=True, description="Whether it was a complaint, as written.")
    response_days = dy.String(nullable=True, description="Days until it was answered, as written; null: not yet.")
    published_at = dy.String(nullable=True, description="When the row was sent, as written.")


@delta_asset(BronzeContacts, check_specs=[files_set_aside(KEY)], domain="customers")
def contacts(context: dg.AssetExecutionContext, lake: LakeResource, clock: Clock) -> dg.MaterializeResult:
    """Land what is new and known by now, on the run's clock."""
    declared, settings, now = active_customers(), get_settings(), clock.now()
    table = lake.lake().table(KEY.path)
    landed = table.scan() if table.exists() else None
    last = None if landed is None else landed.select(pl.col("known_at").max()).collect().item()
    layout = declared.layout("contacts")
    landing = land_records(layout, settings.data, landed, now, now, settings.landing / "set_aside")
    rows, months = None, []
    if landing.frame is not None:
        batch = landing.frame.lazy()
        rows = record_batch(batch, BronzeContacts, active_source().name, layout.start, context.run_id, now).collect()
        months = months_touched_by_records(rows, layout.start, last)
    return append_batch(
        context,
        table,
        rows,
        months,
        empty=BronzeContacts.create_empty,
        files=[file.name for file in landing.files],
        set_aside={item.name: item.reason for item in landing.set_aside},
        now=now,
    )


contract_of_contacts = contract_check(contacts, BronzeContacts, written=last_batch(KEY))
