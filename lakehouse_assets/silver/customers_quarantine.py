"""Rejected records of customers: each as it was landed, with the names of the rules that it broke. Holds personal data.

Written together with silver/customers; the rules are in its file.
"""

from lakehouse_assets.bronze.customers import contract as bronze_contract
from lakehouse_assets.lake.records import rejected
from lakehouse_assets.lake.table_asset import ContractClass


def contract() -> ContractClass:
    """The contract for what is declared: bronze's columns, and the rules."""
    return rejected(bronze_contract(), "SilverCustomersQuarantine")
