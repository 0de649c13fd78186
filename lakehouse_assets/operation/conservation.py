"""Nothing is lost: every landed row is in silver, in its quarantine, or a removed duplicate."""

import polars as pl

from lakehouse_assets.lake.table import Lake


def rows_accounted_for(lake: Lake) -> str:
    """One line a bronze table with a quarantine: rows landed, kept, quarantined and removed as duplicates.

    A duplicate of demand is counted from the rows themselves: same series and time as another row that satisfies the
    rules. Silver tables of records count for each row how many landed ones say it.
    """
    lines = []
    for key in lake.tables():
        room, name = key.split("/", 1)
        quarantine_key = f"silver/{name}_quarantine"
        if room != "bronze" or not lake.table(quarantine_key).exists():
            continue
        total, silver = lake.table(key).row_count(), lake.table(f"silver/{name}").row_count()
        rejected_rows = lake.table(quarantine_key).row_count()
        if "landed_rows" in lake.table(f"silver/{name}").schema():
            said = lake.table(f"silver/{name}").scan().select(pl.col("landed_rows").sum()).collect().item()
            lines.append(_line(key, total, silver, rejected_rows, said - silver))
            continue
        row = ["file", "fingerprint", "row_number", "pending"]
        landed = lake.table(key).scan().select(*row, "series_id", "ts_utc")
        rejected = lake.table(quarantine_key).scan().select(row).collect()
        kept = landed.join(rejected.lazy(), on=row, how="anti").select("series_id", "ts_utc").collect()
        distinct = kept.n_unique()
        lines.append(_line(key, total, silver, rejected_rows, kept.height - distinct))
    return "\n".join(lines)


def _line(key: str, total: int, silver: int, rejected: int, duplicates: int) -> str:
    verdict = "nothing lost" if total == silver + rejected + duplicates else "ROWS ARE MISSING"
    return (
        f"{key}: {total:,} rows landed = {silver:,} in silver + {rejected:,} in quarantine "
        f"+ {duplicates:,} duplicates removed: {verdict}"
    )
