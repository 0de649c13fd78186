"""Nothing is lost: every landed row is in silver, in its quarantine, or a removed duplicate."""

from lakehouse_assets.lake.table import Lake


def rows_accounted_for(lake: Lake) -> str:
    """One line a bronze table with a quarantine: rows landed, kept, quarantined and removed as duplicates.

    A duplicate is counted from the rows themselves: same series and time as another row that satisfies the rules.
    """
    lines = []
    for key in lake.tables():
        room, name = key.split("/", 1)
        quarantine_key = f"silver/{name}_quarantine"
        if room != "bronze" or not lake.table(quarantine_key).exists():
            continue
        row = ["file", "fingerprint", "row_number", "pending"]
        landed = lake.table(key).scan().select(*row, "series_id", "ts_utc")
        rejected = lake.table(quarantine_key).scan().select(row).collect()
        kept = landed.join(rejected.lazy(), on=row, how="anti").select("series_id", "ts_utc").collect()
        distinct = kept.n_unique()
        silver = lake.table(f"silver/{name}").row_count()
        total = lake.table(key).row_count()
        duplicates = kept.height - distinct
        verdict = "nothing lost" if total == silver + rejected.height + duplicates else "ROWS ARE MISSING"
        lines.append(
            f"{key}: {total:,} rows landed = {silver:,} in silver + {rejected.height:,} in quarantine "
            f"+ {duplicates:,} duplicates removed: {verdict}"
        )
    return "\n".join(lines)
