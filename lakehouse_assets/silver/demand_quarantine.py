"""Rejected rows of demand: each as it was landed, with the names of the rules that it broke.

Written together with silver/demand; the rules are in its file.
"""

import dataframely as dy

from lakehouse_assets.bronze.demand import contract as bronze_contract
from lakehouse_assets.lake.table_asset import ContractClass, extended
from lakehouse_assets.sources.declaration import Declaration


def contract(declaration: Declaration | None = None) -> ContractClass:
    """The contract for what is declared (by default the declaration in force): bronze's columns, and the rules."""
    rules = dy.List(dy.String(), min_length=1, description="Names of the broken rules.")
    rejected = extended(bronze_contract(declaration), {"rules": rules})
    rejected.__name__ = "SilverDemandQuarantine"
    return rejected
