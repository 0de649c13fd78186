"""Records of customers as they were landed: the text of each field, where it was read, and when. Holds personal data.

A record is sent whole each time that something of it changes.
"""

import dagster as dg
import dataframely as dy

from lakehouse_assets.bronze.records import land_table
from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.landed import LandedRecord, files_set_aside, last_batch
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lake.table_asset import ContractClass, contract_check, delta_asset, extended, table_key
from lakehouse_assets.sources.customers import Customers
from lakehouse_assets.sources.declaration import active_customers

KEY = table_key(__name__)


class BronzeCustomers(LandedRecord):
    """A landed record of a customer; the declared attributes and personal columns come on top, as text."""

    customer_id = dy.String(nullable=True, description="Customer, as written.")
    updated_at = dy.String(nullable=True, description="From when the record is valid, as written.")
    published_at = dy.String(nullable=True, description="When the record was sent, as written.")
    signed_on = dy.String(nullable=True, description="Day on which the contract began, as written.")
    left_on = dy.String(nullable=True, description="Day on which the contract ends, as written; null: none is known.")


def contract(customers: Customers | None = None) -> ContractClass:
    """The contract for what is declared (by default the declaration in force)."""
    customers = customers or active_customers()
    columns: dict[str, dy.Column] = {
        name: dy.String(nullable=True, description=f"Attribute `{attribute.column}`, as written.")
        for name, attribute in customers.attributes.items()
    }
    for name, personal in customers.personal.items():
        columns[name] = dy.String(
            nullable=True,
            description=f"Personal ({personal.kind}): `{personal.column}`, as written.",
            metadata={"personal": personal.kind},
        )
    if customers.churned is not None:
        said = f"`{customers.churned.column}`, as written: {customers.churned.yes} where the customer left."
        columns["churned"] = dy.String(nullable=True, description=said)
    return extended(BronzeCustomers, columns)


@delta_asset(contract, check_specs=[files_set_aside(KEY)], domain="customers")
def customers(context: dg.AssetExecutionContext, lake: LakeResource, clock: Clock) -> dg.MaterializeResult:
    """Land what is new and known by now, on the run's clock."""
    return land_table(context, lake, clock, contract)


contract_of_customers = contract_check(customers, contract, written=last_batch(KEY))
