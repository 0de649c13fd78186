"""Rejected rows of bills: each as it was landed, with the names of the rules that it broke.

Written together with silver/bills; the rules are in its file.
"""

from lakehouse_assets.bronze.bills import BronzeBills
from lakehouse_assets.lake.records import rejected

SilverBillsQuarantine = rejected(BronzeBills, "SilverBillsQuarantine")
