from datetime import datetime

from lakehouse_assets.sources.declaration import active_declaration
from lakehouse_assets.sources.partitions import MONTHS


def test_months_from_the_declared_start_to_the_month_in_progress() -> None:
    first = active_declaration().start.replace(day=1)
    months = MONTHS.get_partition_keys(current_time=datetime(first.year + 1, 3, 15))
    assert months[0] == first.isoformat()
    assert months[-1] == f"{first.year + 1}-03-01"
