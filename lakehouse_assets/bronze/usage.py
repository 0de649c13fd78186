"""Monthly load profiles of customers as they were landed: the text of each field, where it was read, and when.

A row has the mean energy of each hour of the day over a month, of its working days or of its days off.
"""

import dagster as dg
import dataframely as dy

from lakehouse_assets.bronze.records import land_table
from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.landed import LandedRecord, files_set_aside, last_batch
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import contract_check, delta_asset, table_key

KEY = table_key(__name__)


class BronzeUsage(LandedRecord):
    """A landed load profile: a month of a customer, and a kind of day."""

    customer_id = dy.String(nullable=True, description="Customer, as written.")
    period = dy.String(nullable=True, description="A day of the month that the profile is of, as written.")
    day = dy.String(nullable=True, description="Kind of day, as written: working or off.")
    published_at = dy.String(nullable=True, description="When the row was sent, as written.")
    h00 = dy.String(nullable=True, description="Mean energy of the hour from 00:00 (kWh), as written.")
    h01 = dy.String(nullable=True, description="Mean energy of the hour from 01:00 (kWh), as written.")
    h02 = dy.String(nullable=True, description="Mean energy of the hour from 02:00 (kWh), as written.")
    h03 = dy.String(nullable=True, description="Mean energy of the hour from 03:00 (kWh), as written.")
    h04 = dy.String(nullable=True, description="Mean energy of the hour from 04:00 (kWh), as written.")
    h05 = dy.String(nullable=True, description="Mean energy of the hour from 05:00 (kWh), as written.")
    h06 = dy.String(nullable=True, description="Mean energy of the hour from 06:00 (kWh), as written.")
    h07 = dy.String(nullable=True, description="Mean energy of the hour from 07:00 (kWh), as written.")
    h08 = dy.String(nullable=True, description="Mean energy of the hour from 08:00 (kWh), as written.")
    h09 = dy.String(nullable=True, description="Mean energy of the hour from 09:00 (kWh), as written.")
    h10 = dy.String(nullable=True, description="Mean energy of the hour from 10:00 (kWh), as written.")
    h11 = dy.String(nullable=True, description="Mean energy of the hour from 11:00 (kWh), as written.")
    h12 = dy.String(nullable=True, description="Mean energy of the hour from 12:00 (kWh), as written.")
    h13 = dy.String(nullable=True, description="Mean energy of the hour from 13:00 (kWh), as written.")
    h14 = dy.String(nullable=True, description="Mean energy of the hour from 14:00 (kWh), as written.")
    h15 = dy.String(nullable=True, description="Mean energy of the hour from 15:00 (kWh), as written.")
    h16 = dy.String(nullable=True, description="Mean energy of the hour from 16:00 (kWh), as written.")
    h17 = dy.String(nullable=True, description="Mean energy of the hour from 17:00 (kWh), as written.")
    h18 = dy.String(nullable=True, description="Mean energy of the hour from 18:00 (kWh), as written.")
    h19 = dy.String(nullable=True, description="Mean energy of the hour from 19:00 (kWh), as written.")
    h20 = dy.String(nullable=True, description="Mean energy of the hour from 20:00 (kWh), as written.")
    h21 = dy.String(nullable=True, description="Mean energy of the hour from 21:00 (kWh), as written.")
    h22 = dy.String(nullable=True, description="Mean energy of the hour from 22:00 (kWh), as written.")
    h23 = dy.String(nullable=True, description="Mean energy of the hour from 23:00 (kWh), as written.")


@delta_asset(BronzeUsage, check_specs=[files_set_aside(KEY)], domain="customers")
def usage(context: dg.AssetExecutionContext, lake: LakeResource, clock: Clock) -> dg.MaterializeResult:
    """Land what is new and known by now, on the run's clock."""
    return land_table(context, lake, clock, BronzeUsage)


contract_of_usage = contract_check(usage, BronzeUsage, written=last_batch(KEY))
