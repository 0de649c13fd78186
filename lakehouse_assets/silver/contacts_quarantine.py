"""Rejected rows of contacts: each as it was landed, with the names of the rules that it broke.

Written together with silver/contacts; the rules are in its file.
"""

from lakehouse_assets.bronze.contacts import BronzeContacts
from lakehouse_assets.lake.records import rejected

SilverContactsQuarantine = rejected(BronzeContacts, "SilverContactsQuarantine")
