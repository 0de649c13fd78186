"""Contacts of customers as they were landed: the text of each field, where it was read, and when.

A contact may be sent again when more is known of it: the days until it was answered.
"""

import dagster as dg
import dataframely as dy

from lakehouse_assets.bronze.records import land_table
from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.landed import LandedRecord, files_set_aside, last_batch
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import contract_check, delta_asset, table_key

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
    return land_table(context, lake, clock, BronzeContacts)


contract_of_contacts = contract_check(contacts, BronzeContacts, written=last_batch(KEY))
