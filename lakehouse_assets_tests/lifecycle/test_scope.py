"""Who is trained: the members for whom it pays, as a report says; all of them; or nobody, with the reason."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from lakehouse_assets.lake.table_asset import evaluate
from lakehouse_assets.lifecycle.fleet import FleetRegistry, series_contract
from lakehouse_assets.lifecycle.names import REPORT_TAG, TRIGGER_TAG, Names
from lakehouse_assets.lifecycle.promotion import Decisions
from lakehouse_assets.lifecycle.scope import Scope, scope_of_report
from lakehouse_assets.ml.definition import DriftPolicy, RetrainPolicy
from lakehouse_assets.ml.estimators import Ridge, SeasonalNaive
from lakehouse_assets.operation.fleet import by_hand, list_models, show, training_of
from lakehouse_assets.operation.status import status
from lakehouse_assets_tests.lifecycle.conftest import TOY, House, curves, definitions_of

NAMES = Names("toy")
SINCE = datetime(2023, 5, 29, tzinfo=UTC)
# A recipe that grows old slowly: what does not change does not drift.
STEADY = replace(
    TOY,
    candidates={
        "seasonal_naive": SeasonalNaive(),
        "ridge_on_published": Ridge(on_published=True, half_life=60.0, strength=10.0, season=0.0),
    },
    retrain=RetrainPolicy(window="weighted"),
)


def report(verdicts: str, gain: float = 0.1, fleet: str = "drift") -> pl.DataFrame:
    """Rows of a report: a letter each, of drifted and due, drifted and not due, ok, insufficient data."""
    said = {
        "D": ("drift", True, SINCE),
        "d": ("drift", False, SINCE),
        "o": ("ok", False, None),
        "-": ("insufficient_data", None, None),
    }
    rows = [(f"S{i}", *said[letter], gain, fleet, True) for i, letter in enumerate(verdicts)]
    names = ["series_id", "verdict", "due", "since", "expected_gain", "fleet_verdict", "in_force"]
    return pl.DataFrame(
        rows, schema=names, orient="row", schema_overrides={"due": pl.Boolean, "since": pl.Datetime("us", "UTC")}
    )


@pytest.mark.parametrize(
    ("rows", "members", "reason"),
    [
        (report("ooDooDooooo-"), ("S2", "S5"), "a training pays for 2 of 11 by report R: 'S2', 'S5'"),
        (report("ooDDDooooo"), None, "a training pays for 3 of 10 by report R"),
        (report("oooooooooD" * 2 + "o" * 10, fleet="ok"), ("S19", "S9"), "a training pays for 2 of 30"),
        (report("oooooooooD" * 2 + "o" * 10), None, "the fleet as a whole has drifted by report R"),
        (report("oooo"), None, "the fleet as a whole has drifted by report R"),
        (report("dooo", 0.07), (), "none of 4 by report R: 1 drifted, where 7.0% is expected at most, and a training"),
        (report("oooo", fleet="ok"), (), "a training pays for none of 4 by report R: 0 drifted, and a training costs"),
        (report("----"), (), "report R judges nobody whose version is in force"),
    ],
)
def test_who_is_trained_by_a_report(rows: pl.DataFrame, members: tuple[str, ...] | None, reason: str) -> None:
    policies = {"drift": DriftPolicy(cost=0.08), "retrain": RetrainPolicy(whole_fleet_share=0.3)}
    scope = scope_of_report(rows, replace(TOY, **policies), "R")
    assert scope.members == members
    assert reason in scope.reason


def test_since_when_they_drifted_goes_along() -> None:
    assert scope_of_report(report("oDodoDoooo"), TOY, "R").breaks == {"S1": SINCE, "S5": SINCE}, "of those trained"
    assert scope_of_report(report("oDdD"), TOY, "R").breaks == dict.fromkeys(("S1", "S2", "S3"), SINCE)


def test_what_came_into_force_since_is_not_trained_again() -> None:
    rows = report("ooDooDoooo").with_columns(in_force=pl.col("series_id") != "S2")
    assert scope_of_report(rows, TOY, "R").members == ("S5",)
    rows = rows.with_columns(in_force=pl.col("verdict") != "drift")
    mended = "a training pays for none of 10 any more by report R: 2 drifted and have another version by now"
    assert scope_of_report(rows, TOY, "R") == Scope((), mended)
    rows = rows.with_columns(in_force=pl.lit(False))
    assert scope_of_report(rows, TOY, "R") == Scope((), "report R judges nobody whose version is in force")


def metadata(house: House, key: Any) -> dict[str, Any]:
    event = house.instance.get_latest_materialization_event(key)
    return {name: entry.value for name, entry in event.asset_materialization.metadata.items()}


def versions_at(house: House, at: Any) -> dict[str, int]:
    rows = house.table("predictions/toy").scan().filter(pl.col("issued_at") == at).collect()
    assert rows["yhat"].is_finite().all()
    return dict(rows.group_by("series_id").agg(pl.col("model_version").unique().first()).sort("series_id").iter_rows())


def test_who_gains_is_trained_and_everybody_else_keeps_its_version(house: House) -> None:
    frame = curves(changed=slice(1, 2)).drop("season_sin", "season_cos")
    house = replace(house, frame=frame, definitions=definitions_of(STEADY, house.folder))
    assert house.run("toy_retrain", house.know(120)).success
    at = house.know(175)
    assert house.run("toy_monitor", at).success
    found = metadata(house, NAMES.drift)
    assert (found["verdict"], found["members_due"]) == ("drift", 1)

    asked = {TRIGGER_TAG: "drift", REPORT_TAG: found["report"]}
    assert house.run("toy_retrain", at, **asked).success
    told = metadata(house, NAMES.training)
    why = f"a training pays for 1 of 4 by report {found['report']}: 'S1'"
    assert (told["scope"], told["asked"], told["members_trained"]) == ("partial", why, 1)
    assert told["learned_from"] == "30% of what came before the break for 1 members"
    fitted = house.registry.load("toy", 2)
    everything = replace(fitted, window=None)
    anew = TOY.kind.refit(everything, TOY.kind.dataset(house.table("features/toy").scan()).of_series(["S1"]), at)
    day = house.table("features/toy").scan().filter(pl.col("issued_at") == at, series_id="S1").collect()
    change = fitted.predict(day)["yhat"] / anew.predict(day)["yhat"] - 1
    assert change.abs().max() > 0.001, "all history makes another fit"
    trained = house.registry.version("toy", 2)
    assert (trained.tags["scope"], trained.tags["members_trained"]) == ("partial", "1")
    assert house.registry.client.get_run(trained.run_id).data.tags["members_trained"] == "1"
    assert house.registry.load("toy", 2).series_ids == ["S1"]
    decision = house.table("registry/toy").scan().filter(version=2).collect().row(0, named=True)
    assert decision["decision"] == "promoted_in_part"
    assert decision["reason"] == f"1 of 1 series promoted ({why})"
    assert (decision["champion_before"], decision["champion_after"]) == (1, 1)
    assert decision["gain"] > 0.1
    assert versions_at(house, at) == {"S0": 1, "S1": 2, "S2": 1, "S3": 1}
    listed = list_models(house.lake, house.registry, ["toy"])["toy"]
    assert (listed["champion"], listed["challenger"]) == (1, 2)
    assert listed["series"]["by_version"] == {"1": 3, "2": 1}

    # The same report again: what it found has been mended, and nothing is trained.
    for hours in (1, 2):
        assert house.run("toy_retrain", at + timedelta(hours=hours), **asked).success
    assert [version.version for version in house.registry.versions("toy")] == [1, 2]
    decisions = house.table("registry/toy").scan().sort("decided_at").collect()
    assert decisions["decision"].to_list() == ["promoted", "promoted_in_part", "not_trained"]
    since = "1 drifted and have another version by now"
    none = f"a training pays for none of 4 any more by report {found['report']}: {since}"
    assert decisions["reason"][2] == none
    assert show(house.lake, house.registry, TOY, None)["history"][-1]["reason"] == none
    assert metadata(house, NAMES.promotion)["reason"] == none

    # Two by hand, to whom it makes no difference: each is told why it stays.
    assert house.run("toy_retrain", at, config=training_of("toy", ["S3", "S0"])["run_config"]).success
    kept = house.table("registry/toy").scan().filter(version=3).collect().row(0, named=True)
    assert kept["decision"] == "kept"
    assert kept["reason"].startswith("0 of 2 series promoted; S0 kept: gain of ")
    assert kept["reason"].endswith("(asked for by hand: 'S0', 'S3')")
    shown = show(house.lake, house.registry, TOY, "S3")
    assert (shown["champion"], shown["history"][-1]["decision"]) == (1, "kept")
    assert "gain of" in shown["history"][-1]["reason"]
    retrains = status(house.lake, house.registry, house.instance, ["toy"])["models"]["toy"]["retrains"]
    assert sorted(row["decision"] for row in retrains) == ["kept", "promoted", "promoted_in_part"]
    unknown = house.run("toy_retrain", at, config=training_of("toy", ["S3", "Q"])["run_config"])
    assert not unknown.success
    assert "features/toy has no rows of 'Q'" in str(unknown.get_step_failure_events()[0].step_failure_data.error)

    # A newcomer is served by the fleet's champion, a rollback undoes the part, and all are trained by the calendar.
    newcomer = house.frame.filter(pl.col("series_id") == "S0").with_columns(series_id=pl.lit("S9"))
    house.frame = pl.concat([house.frame, newcomer.filter(pl.col("issued_at") > at - timedelta(days=3))])
    later = house.know(178)
    assert house.run("toy_predict", later).success
    assert versions_at(house, later) == {"S0": 1, "S1": 2, "S2": 1, "S3": 1, "S9": 1}
    assert house.run("toy_monitor", later).success
    by_hand(house.lake, house.registry, TOY, house.instance, FleetRegistry.roll_back, series="S1")
    assert house.run("toy_retrain", later, **{TRIGGER_TAG: "schedule"}).success
    assert metadata(house, NAMES.training)["scope"] == "whole"
    last = house.table("registry/toy").scan().filter(version=4).collect().row(0, named=True)
    assert last["decision"] in ("promoted", "kept")
    assert versions_at(house, later)["S1"] == 4, "whoever gains moves"
    assert evaluate(series_contract(TOY.kind), house.table("registry/toy_series")).passed
    assert evaluate(Decisions, house.table("registry/toy")).passed
