"""Commands that are killed with SIGKILL, in each step and between a step's commit and its event, and then repeated."""

from datetime import datetime, timedelta

import polars as pl

from lakehouse_assets_tests.operation.commands import Kill
from lakehouse_assets_tests.operation.conftest import REFINED, House

TABLE = "lakehouse_assets.lake.table:Table"
REGISTRY = "lakehouse_assets.registry.tracking:Registry"
# In the order of the graph; each repetition goes past the place where the one before was killed.
KILLS = (
    Kill(line="bronze/demand$"),
    Kill(call=f"{TABLE}.append", table="bronze/demand"),
    Kill(line="silver_demand$", delay=0.05),
    Kill(call=f"{TABLE}.overwrite", table="silver/demand"),
    Kill(call=f"{TABLE}.overwrite", table="gold/demand_hourly"),
    Kill(line="features/demand$", delay=0.05),
    Kill(call=f"{TABLE}.overwrite", table="features/demand"),
    Kill(line="models/demand_forecast: backtest of", delay=0.05),
    Kill(call=f"{REGISTRY}.register"),
    Kill(call=f"{TABLE}.overwrite", table="registry/demand_forecast_series"),
    Kill(call=f"{REGISTRY}.promote"),
    Kill(call=f"{TABLE}.merge", table="predictions/demand_forecast"),
    Kill(call=f"{TABLE}.merge", table="monitoring/demand_forecast_errors"),
    Kill(call=f"{TABLE}.overwrite", table="monitoring/demand_forecast_profile"),
)
FIRST, LATER = "2024-05-06", "2024-05-15"


def test_killed_anywhere_and_repeated_it_completes(house: House) -> None:
    completes_after_kills(house)
    refines_what_a_killed_landing_committed(house)


def completes_after_kills(house: House) -> None:
    for kill in KILLS:
        ended = house.run(FIRST, kill)
        assert ended.code == -9, (kill, ended)
    ended = house.run(FIRST)
    assert ended.code == 0, ended.err
    assert "nothing lost" in ended.out
    house.assert_sound()
    status = house.status()["models"]["demand_forecast"]
    decisions = house.frame("registry/demand_forecast")
    # Two trainings were registered before the third was decided about; the one promoted in the killed run has its row.
    promoted = decisions.filter(decision="promoted")["version"].to_list()
    assert promoted[0] == min(decisions["version"])
    assert status["champion"]["version"] == promoted[-1]
    assert house.frame("predictions/demand_forecast").height == 2 * 24
    assert house.frame("features/demand")["issued_at"].max() == datetime.fromisoformat(f"{FIRST}T00:00+00:00") - (
        timedelta(hours=2)  # midnight of Berlin
    )
    before = house.versions()
    assert house.run(FIRST).code == 0
    assert house.versions(REFINED) == {key: before[key] for key in REFINED}


def refines_what_a_killed_landing_committed(house: House) -> None:
    landed = house.frame("bronze/demand").height
    ended = house.run(LATER, Kill(call=f"{TABLE}.append", table="bronze/demand"))
    assert ended.code == -9, ended
    committed = house.frame("bronze/demand")
    assert committed.height > landed
    refined = house.frame("silver/demand").filter(~pl.col("quality").eq("pending"))["ts"].max()

    for kill in (
        Kill(call=f"{TABLE}.merge", table="monitoring/demand_forecast_errors"),
        Kill(call=f"{TABLE}.overwrite", table="monitoring/demand_forecast_profile"),
        Kill(call=f"{TABLE}.overwrite", table="monitoring/demand_forecast_drift"),
        Kill(call=f"{TABLE}.merge", table="monitoring/demand_forecast_drift"),
    ):
        ended = house.run(LATER, kill)
        assert ended.code == -9, (kill, ended)
    assert house.run(LATER).code == 0
    house.assert_sound()
    assert house.frame("bronze/demand").height == committed.height
    silver = house.frame("silver/demand")
    assert silver.filter(~pl.col("quality").eq("pending"))["ts"].max() > refined + timedelta(days=8)
    assert house.frame("predictions/demand_forecast")["issued_at"].n_unique() == 10
    drift = house.frame("monitoring/demand_forecast_drift")
    assert drift["week"].drop_nulls().n_unique() == 1
    assert set(drift["comparison"]) == {"baseline", "challenger"}, "one week has none before it"
