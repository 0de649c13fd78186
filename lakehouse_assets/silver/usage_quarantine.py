"""Rejected rows of usage: each as it was landed, with the names of the rules that it broke.

Written together with silver/usage; the rules are in its file.
"""

from lakehouse_assets.bronze.usage import BronzeUsage
from lakehouse_assets.lake.records import rejected

SilverUsageQuarantine = rejected(BronzeUsage, "SilverUsageQuarantine")
