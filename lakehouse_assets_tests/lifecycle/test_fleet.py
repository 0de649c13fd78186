"""The two levels of what is in force: their rules, and that they change together or not at all."""

import shutil
import signal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.lifecycle.fleet import (
    FleetRegistry,
    NoChampion,
    NothingToRollBack,
    NotPinned,
    Pinned,
    UnknownMember,
    summary,
)
from lakehouse_assets.registry.tracking import UnknownVersion
from lakehouse_assets_tests.lifecycle import fleets
from lakehouse_assets_tests.lifecycle.fleets import KIND, NOW, SERIES, findings, fleet_in, train
from lakehouse_assets_tests.registry.conftest import processes

__all__ = ["processes"]


@pytest.fixture
def fleet(tmp_path: Path, migrated_store: Path) -> FleetRegistry:
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    return fleet_in(tmp_path)


def promote(fleet: FleetRegistry, version: int, **verdicts: str) -> Any:
    series = findings(**verdicts) if verdicts else None
    return fleet.promote(KIND, version, whole=True, reason="better", now=NOW, series=series)


def keep(fleet: FleetRegistry, version: int, **verdicts: str) -> Any:
    return fleet.promote(KIND, version, whole=False, reason="no better", now=NOW, series=findings(**verdicts))


def served(fleet: FleetRegistry) -> dict[str, int]:
    return dict(fleet.rows().select("series_id", "version").iter_rows())


def assert_levels_agree(fleet: FleetRegistry) -> None:
    """One row a series, the fleet's champion is MLflow's, and the history ends with what is in force."""
    rows, champion = fleet.rows(), fleet.store.get(fleet.name, "champion")
    if rows.is_empty():
        assert champion is None
        return
    assert rows["series_id"].is_unique().all()
    assert champion is not None
    assert rows["fleet_version"].unique().to_list() == [champion.version]
    assert fleet.store.change(fleet.name) == rows["change"].max()
    shown = fleet.store.client.get_registered_model(fleet.name).aliases
    assert int(shown["champion"]) == champion.version
    history = fleet.history()
    assert not history.select("series_id", "change").is_duplicated().any()
    last = history.unique("series_id", keep="last").sort("series_id")
    # the fleet's champion may have changed since without a decision about a series
    told = [name for name in rows.columns if not name.startswith("fleet_")]
    assert last.select(told).equals(rows.sort("series_id").select(told))


def test_the_fleet_moves_but_for_what_is_harmed_or_pinned(fleet: FleetRegistry) -> None:
    first, second = train(fleet.store), train(fleet.store)
    entered = promote(fleet, first)
    assert (entered.number, entered.champion, entered.moved) == (1, first, 4)
    assert served(fleet) == dict.fromkeys(SERIES, first)
    assert fleet.rows()["previous_version"].to_list() == [None] * 4
    fleet.pin(KIND, ["B"], NOW)
    done = promote(fleet, second, A="harmed", C="promote")
    assert (done.champion, done.moved, done.stayed, done.pinned, done.harmed) == (second, 2, 2, 1, 1)
    assert served(fleet) == {"A": first, "B": first, "C": second, "D": second}
    rows = {row["series_id"]: row for row in fleet.rows().iter_rows(named=True)}
    assert [rows[s]["decision"] for s in SERIES] == ["kept", "kept", "promoted", "promoted"]
    assert rows["A"]["reason"] == "the gate says so of A"
    assert rows["B"]["reason"] == "kept: pinned to version 1"
    assert rows["C"]["reason"] == "the gate says so of C"
    assert rows["C"]["evidence"] == '{"gain":0.1,"p_value":0.01}'
    assert rows["D"]["reason"] == "better"
    assert rows["C"]["previous_version"] == first
    assert_levels_agree(fleet)
    # asked again, as by a run that was killed before it told: nothing changes
    assert promote(fleet, second, A="harmed", C="promote").number is None
    assert summary(fleet.rows()) == {"by_version": {"1": 2, "2": 2}, "pinned": 1}


def test_where_the_fleet_keeps_single_series_move(fleet: FleetRegistry) -> None:
    first, second = train(fleet.store), train(fleet.store)
    promote(fleet, first)
    fleet.pin(KIND, ["B"], NOW)
    done = keep(fleet, second, A="promote", B="promote", C="harmed", D="")
    assert (done.champion, done.moved) == (first, 1)
    assert served(fleet) == {"A": second, "B": first, "C": first, "D": first}
    assert fleet.store.get("demand", "champion").version == first
    assert keep(fleet, second, A="promote").number is None
    # then the fleet follows; a series that is there already is not moved again
    assert promote(fleet, second).moved == 2
    assert served(fleet) == {"A": second, "B": first, "C": second, "D": second}
    # and where nobody may move, nothing does
    third = train(fleet.store)
    fleet.pin(KIND, None, NOW)
    assert promote(fleet, third).number is None
    assert fleet.store.get("demand", "champion").version == second
    assert_levels_agree(fleet)


def test_a_series_that_changed_hands_during_the_training_is_left_alone(fleet: FleetRegistry) -> None:
    first, second, third = (train(fleet.store) for _ in range(3))
    promote(fleet, first)
    promote(fleet, second)
    compared = fleet.assignment().change
    fleet.roll_back(KIND, ["A"], NOW)
    done = fleet.promote(KIND, third, whole=True, reason="better", now=NOW, since_change=compared)
    assert (done.moved, done.harmed) == (3, 1)
    assert served(fleet) == {"A": first, "B": third, "C": third, "D": third}
    assert "another version came into force" in fleet.rows()["reason"][0]


def test_new_series_are_served_by_the_champion_until_they_enter(fleet: FleetRegistry) -> None:
    first = train(fleet.store, ["A", "B"])
    promote(fleet, first)
    in_force = fleet.assignment()
    assert (in_force.version_of("A"), in_force.version_of("Z")) == (first, first)
    second = train(fleet.store, ["B", "Z"])
    promote(fleet, second)
    assert served(fleet) == {"A": first, "B": second, "Z": second}, "A is not known to the challenger"
    fleet.roll_back(KIND, None, NOW)
    assert served(fleet) == {"A": first, "B": first, "Z": first}


def test_who_takes_no_part_in_a_training_is_told_to_be_retired_once(fleet: FleetRegistry) -> None:
    first = train(fleet.store)
    promote(fleet, first)
    silent = pl.DataFrame({"series_id": ["A", "C", "Z"], "reason": ["retired: silent", "too short", "too new"]})
    left = {"whole": False, "reason": "no better", "now": NOW, "series": findings(B="neither"), "unscored": silent}
    second = train(fleet.store, ["B", "C", "D"])
    assert fleet.promote(KIND, second, **left).told == 1  # C is known to the version, and Z never had a row
    row = fleet.row(KIND, "A")
    assert (row["decision"], row["reason"], row["version"]) == ("retired", "retired: silent", first)
    assert served(fleet) == dict.fromkeys(SERIES, first)
    assert fleet.promote(KIND, second, **left).number is None, "nothing new to tell"
    assert_levels_agree(fleet)
    third = train(fleet.store)
    promote(fleet, third)
    assert (fleet.row(KIND, "A")["decision"], served(fleet)["A"]) == ("promoted", third)


def test_a_rollback_of_the_fleet_undoes_what_its_last_promotion_moved(fleet: FleetRegistry) -> None:
    with pytest.raises(NoChampion, match="demand has no champion: train"):
        fleet.roll_back(KIND, None, NOW)
    first, second, third = (train(fleet.store) for _ in range(3))
    promote(fleet, first)
    with pytest.raises(NothingToRollBack, match="no champion before version 1"):
        fleet.roll_back(KIND, None, NOW)
    with pytest.raises(NothingToRollBack, match="'A' of demand has had no version but"):
        fleet.roll_back(KIND, ["A"], NOW)
    promote(fleet, second, C="harmed")
    promote(fleet, third, A="harmed")
    before = {"A": second, "B": third, "C": third, "D": third}
    assert served(fleet) == before
    done = fleet.roll_back(KIND, None, NOW)
    assert (done.champion, done.moved, done.stayed) == (second, 3, 1)
    assert served(fleet) == {"A": second, "B": second, "C": first, "D": second}, "C was never at version 2"
    fleet.roll_back(KIND, None, NOW)
    assert served(fleet) == before, "to roll back twice is to come back"
    fleet.roll_back(KIND, ["B", "D"], NOW)
    assert served(fleet) == {**before, "B": second, "D": second}
    assert fleet.history("B")["decision"].to_list() == ["promoted"] * 3 + ["rolled_back"] * 3
    assert fleet.history("B")["version"].to_list() == [first, second, third, second, third, second]
    assert fleet.store.get("demand", "champion").version == third
    with pytest.raises(UnknownMember, match="no series 'Q', 'X'; there are: A, B, C, D"):
        fleet.roll_back(KIND, ["X", "A", "Q"], NOW)
    assert_levels_agree(fleet)


def test_pins(fleet: FleetRegistry) -> None:
    first, second = train(fleet.store), train(fleet.store, ["A", "B"])
    with pytest.raises(NoChampion):
        fleet.pin(KIND, None, NOW)
    promote(fleet, first)
    done = fleet.pin(KIND, ["A", "B"], NOW, version=second)
    assert (done.champion, done.told, done.moved, done.pinned) == (first, 2, 2, 2)
    with pytest.raises(UnknownMember, match="version 2 of demand was trained without 'C'"):
        fleet.pin(KIND, ["C"], NOW, version=second)
    with pytest.raises(UnknownVersion, match="no version 9; it has: 1, 2"):
        fleet.pin(KIND, ["A"], NOW, version=9)
    with pytest.raises(Pinned, match="'A' is pinned"):
        fleet.roll_back(KIND, ["A"], NOW)
    with pytest.raises(NotPinned, match="'C' of demand is pinned"):
        fleet.unpin(KIND, ["C"], NOW)
    assert fleet.unpin(KIND, None, NOW).told == 2
    assert served(fleet) == {"A": second, "B": second, "C": first, "D": first}
    fleet.roll_back(KIND, ["A"], NOW)
    assert served(fleet)["A"] == first
    done = fleet.pin(KIND, None, NOW, version=second)
    assert done.champion == second, "the whole fleet is pinned to it, and new series are served by it"
    assert served(fleet) == {"A": second, "B": second, "C": first, "D": first}
    assert_levels_agree(fleet)


def test_an_alias_that_was_moved_in_mlflow_is_followed(fleet: FleetRegistry) -> None:
    first, second = train(fleet.store), train(fleet.store)
    # as in a home from before there were rows
    fleet.store.promote("demand", first, None)
    assert fleet.assignment().members == {}
    fleet.pin(KIND, ["A"], NOW)
    assert served(fleet) == dict.fromkeys(SERIES, first)
    fleet.store.client.set_registered_model_alias("demand", "champion", str(second))
    in_force = fleet.assignment()
    assert in_force.champion == second
    assert in_force.members == {"A": first, "B": second, "C": second, "D": second}
    assert fleet.history("B")["decision"].to_list() == ["adopted", "adopted"]
    assert not fleet.repair()
    assert_levels_agree(fleet)


def test_a_version_of_some_members_never_is_the_fleets(fleet: FleetRegistry) -> None:
    first, second = train(fleet.store), train(fleet.store)
    promote(fleet, first)
    promote(fleet, second)
    some = train(fleet.store, ["A", "B", "C", "new"], partial=True)
    fleet.pin(KIND, ["C"], NOW)
    # Whatever the gate says of them together, each is decided about by itself, and told.
    done = promote(fleet, some, A="promote", B="neither", C="promote", new="neither")
    assert (done.champion, done.told, done.moved, done.harmed) == (second, 3, 1, 0)
    assert served(fleet) == {"A": some, "B": second, "C": second, "D": second}, "a newcomer that stays needs no row"
    rows = {row["series_id"]: row for row in fleet.rows().iter_rows(named=True)}
    assert [rows[s]["decision"] for s in SERIES] == ["promoted", "kept", "kept", "promoted"]
    assert rows["B"]["reason"] == "the gate says so of B"
    assert rows["C"]["reason"] == "kept: pinned to version 2"
    assert fleet.assignment().version_of("new") == second
    assert_levels_agree(fleet)
    assert promote(fleet, some, A="promote", B="neither", C="promote", new="neither").number is None, "told once"
    # A person may hold its members at it; the fleet's champion stays.
    fleet.unpin(KIND, None, NOW)
    assert fleet.pin(KIND, None, NOW, version=some).champion == second
    assert served(fleet) == {"A": some, "B": some, "C": some, "D": second}
    fleet.unpin(KIND, None, NOW)
    fleet.roll_back(KIND, ["A", "B", "C"], NOW)
    # And so it is where somebody moves the alias in MLflow.
    fleet.store.client.set_registered_model_alias("demand", "champion", str(some))
    assert fleet.repair()
    assert served(fleet) == {"A": some, "B": some, "C": some, "D": second}
    assert fleet.store.get("demand", "champion").version == second
    assert not fleet.repair()
    fleet.roll_back(KIND, None, NOW)
    assert served(fleet) == {"A": some, "B": some, "C": some, "D": first}
    assert fleet.store.get("demand", "champion").version == first
    assert_levels_agree(fleet)


def test_killed_between_any_two_writes_both_levels_agree_after_the_next_start(
    fleet: FleetRegistry, tmp_path: Path, processes: Any
) -> None:
    promote(fleet, train(fleet.store))
    outcomes = []
    for nth in range(9):
        new = train(fleet.store)
        before = served(fleet)
        killed = _die(processes, fleets.promote_and_die, tmp_path, new, nth)
        fleet.repair()
        assert_levels_agree(fleet)
        moved = {**before, **dict.fromkeys("BCD", new)}
        assert served(fleet) in (before, moved)
        outcomes.append((killed, served(fleet) == moved))
        assert not fleet.repair()
    # before the commit nothing has happened, after it all will have; the last one had no write left to die before
    assert outcomes == [(True, False), *[(True, True)] * 7, (False, True)]
    for members in (None, ["B"]):
        for nth in range(3):  # the two tables', and MLflow's first, which for one series is the only one
            before = served(fleet)
            assert _die(processes, fleets.roll_back_and_die, tmp_path, members, nth)
            fleet.repair()
            assert_levels_agree(fleet)
            assert (served(fleet) != before) == (nth > 0)


def _die(processes: Any, target: Any, *arguments: Any) -> bool:
    process = processes.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0)
    return process.exitcode != 0


def test_both_levels_agree_whatever_is_done(fleet: FleetRegistry, tmp_path: Path) -> None:
    names, lake = iter(range(10_000)), Lake(tmp_path / "lake")

    class Hands(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.fleet = FleetRegistry(f"model_{next(names)}", fleet.store, lake)
            self.versions = [self.train()]
            self.promote(set(), set(), True)

        def train(self) -> int:
            return train(self.fleet.store, name=self.fleet.name)

        @rule(harmed=st.sets(st.sampled_from(SERIES)), better=st.sets(st.sampled_from(SERIES)), whole=st.booleans())
        def promote(self, harmed: set[str], better: set[str], whole: bool) -> None:
            rows = self.fleet.rows()
            pinned = set() if rows.is_empty() else set(rows.filter("pinned")["series_id"])
            before = {} if rows.is_empty() else served(self.fleet)
            version = self.train()
            verdicts = {s: "promote" if s in better else "harmed" if s in harmed else "" for s in SERIES}
            self.fleet.promote(KIND, version, whole=whole, reason="", now=NOW, series=findings(**verdicts))
            movers = set(SERIES) - (harmed - better) if whole else better
            expected = {**before, **dict.fromkeys(movers - pinned, version)}
            assert served(self.fleet) == expected

        @rule(
            some=st.sets(st.sampled_from(SERIES), min_size=1),
            better=st.sets(st.sampled_from(SERIES)),
            whole=st.booleans(),
        )
        def train_some(self, some: set[str], better: set[str], whole: bool) -> None:
            rows, before = self.fleet.rows(), served(self.fleet)
            champion = self.fleet.store.get(self.fleet.name, "champion").version
            version = train(self.fleet.store, sorted(some), self.fleet.name, partial=True)
            verdicts = {s: "promote" if s in better else "" for s in some}
            self.fleet.promote(KIND, version, whole=whole, reason="", now=NOW, series=findings(**verdicts))
            movers = (some & better) - set(rows.filter("pinned")["series_id"])
            assert served(self.fleet) == {**before, **dict.fromkeys(movers, version)}
            assert self.fleet.store.get(self.fleet.name, "champion").version == champion

        @precondition(lambda self: self.fleet.store.get(self.fleet.name, "previous"))
        @rule()
        def there_and_back(self) -> None:
            before = served(self.fleet)
            try:
                self.fleet.roll_back(KIND, None, NOW)
                assert served(self.fleet) != before
                self.fleet.roll_back(KIND, None, NOW)
            except (Pinned, NothingToRollBack):
                pass
            assert served(self.fleet) == before

        @rule(one=st.sampled_from(SERIES))
        def roll_back(self, one: str) -> None:
            row = self.fleet.row(KIND, one)
            if row["pinned"] or row["previous_version"] is None:
                with pytest.raises((Pinned, NothingToRollBack)):
                    self.fleet.roll_back(KIND, [one], NOW)
            else:
                self.fleet.roll_back(KIND, [one], NOW)
                assert self.fleet.row(KIND, one)["version"] == row["previous_version"]

        @rule(some=st.none() | st.lists(st.sampled_from(SERIES), min_size=1, unique=True))
        def pin(self, some: list[str] | None) -> None:
            before = served(self.fleet)
            self.fleet.pin(KIND, some, NOW)
            assert served(self.fleet) == before
            assert self.fleet.rows().filter(pl.col("series_id").is_in(some or SERIES))["pinned"].all()

        @precondition(lambda self: self.fleet.rows()["pinned"].any())
        @rule()
        def unpin(self) -> None:
            self.fleet.unpin(KIND, None, NOW)
            assert not self.fleet.rows()["pinned"].any()

        @invariant()
        def levels_agree(self) -> None:
            assert_levels_agree(self.fleet)

        @invariant()
        def each_is_served_by_its_version(self) -> None:
            in_force = self.fleet.assignment()
            frame = pl.DataFrame({"series_id": [*SERIES, "new"]})
            said = self.fleet.load(KIND, in_force).predict(frame)
            rows = {**served(self.fleet), "new": in_force.champion}
            assert dict(said.select("series_id", "model_version").iter_rows()) == rows
            assert said["yhat"].is_not_null().all()

    run_state_machine_as_test(
        Hands,
        settings=settings(
            max_examples=3,
            stateful_step_count=8,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
