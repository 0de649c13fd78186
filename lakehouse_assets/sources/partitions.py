"""The monthly partitions that the tables of a domain share, from the declared start of its history."""

import dagster as dg

from lakehouse_assets.sources.declaration import active_customers, active_declaration

# Made once, at import: tables of a domain must share an object, or Dagster would see differing partitions between them.
# The end offset keeps the month in progress a partition: its rows are landed while it goes on.
MONTHS = dg.MonthlyPartitionsDefinition(
    start_date=active_declaration().start.replace(day=1).isoformat(),
    end_offset=1,
)

CUSTOMER_MONTHS = dg.MonthlyPartitionsDefinition(
    start_date=active_customers().first_month.isoformat(),
    end_offset=1,
)
