"""Bills of customers as they were landed: the text of each field, where it was read, and when.

A bill that was wrong is sent again; both rows are here.
"""

import dagster as dg
import dataframely as dy

from lakehouse_assets.bronze.records import land_table
from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.landed import LandedRecord, files_set_aside, last_batch
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import contract_check, delta_asset, table_key

KEY = table_key(__name__)


class BronzeBills(LandedRecord):
    """A landed bill: a month of a customer."""

    customer_id = dy.String(nullable=True, description="Customer, as written.")
    period = dy.String(nullable=True, description="A day of the month that the bill is for, as written.")
    amount = dy.String(nullable=True, description="What the customer has to pay, as written.")
    consumption = dy.String(nullable=True, description="Energy (kWh), as written.")
    price = dy.String(nullable=True, description="Price of a kWh, as written.")
    supply_cost = dy.String(nullable=True, description="What the supply cost the company, as written.")
    outage_hours = dy.String(nullable=True, description="Hours without supply in the month, as written.")
    published_at = dy.String(nullable=True, description="When the row was sent, as written.")


@delta_asset(BronzeBills, check_specs=[files_set_aside(KEY)], domain="customers")
def bills(context: dg.AssetExecutionContext, lake: LakeResource, clock: Clock) -> dg.MaterializeResult:
    """Land what is new and known by now, on the run's clock."""
    return land_table(context, lake, clock, BronzeBills)


contract_of_bills = contract_check(bills, BronzeBills, written=last_batch(KEY))
