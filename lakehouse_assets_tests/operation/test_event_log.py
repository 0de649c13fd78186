from pathlib import Path

import dagster as dg
import pytest

from lakehouse_assets.operation.event_log import PooledSqliteEventLogStorage

OWN = {
    "event_log_storage": {
        "module": PooledSqliteEventLogStorage.__module__,
        "class": PooledSqliteEventLogStorage.__name__,
    }
}


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b", "c"]), backfill_policy=dg.BackfillPolicy.single_run())
def letters() -> None:
    pass


@dg.asset_check(asset=letters)
def spelt() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


def test_dagster_reads_what_it_wrote_and_the_other_way_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}
    seen = []
    for overrides, runs in ((None, 1), (OWN, 3), (None, 1)):
        with dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
            assert isinstance(instance.event_log_storage, PooledSqliteEventLogStorage) == (overrides is OWN)
            for _ in range(runs):  # each with a database of its own
                run = dg.materialize([letters, spelt], instance=instance, tags=tags)
                assert run.success
                stored = [record.dagster_event_type for record in instance.all_logs(run.run_id)]
                assert stored.count(dg.DagsterEventType.ASSET_MATERIALIZATION) == 3
                assert stored.count(dg.DagsterEventType.ASSET_CHECK_EVALUATION) == 1
            seen.append(len(instance.fetch_materializations(letters.key, limit=100).records))
            assert instance.get_materialized_partitions(letters.key) == {"a", "b", "c"}
    assert seen == [3, 12, 15]
