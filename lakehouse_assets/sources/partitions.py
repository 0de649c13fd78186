"""The monthly partitions that every time-partitioned table shares, from the declared start of history."""

import dagster as dg

from lakehouse_assets.sources.declaration import active_declaration

# Made once, at import: all tables must share one object, or Dagster would see differing partitions between them.
# The end offset keeps the month in progress a partition: its rows are landed while it goes on.
MONTHS = dg.MonthlyPartitionsDefinition(
    start_date=active_declaration().start.replace(day=1).isoformat(),
    end_offset=1,
)
