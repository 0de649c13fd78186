import json
import signal
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sklearn.linear_model import Ridge

from lakehouse_assets.ml.definition import GatePolicy
from lakehouse_assets.registry.archive import ModelNotReadable, PyfuncModel
from lakehouse_assets.registry.tracking import (
    ChampionChanged,
    Registry,
    UnknownVersion,
    signature_of,
)
from lakehouse_assets_tests.registry import killed
from lakehouse_assets_tests.registry.conftest import registry_in

FEATURES = pl.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 0.0, 1.0, 0.0]})


def fitted() -> Ridge:
    model = Ridge(alpha=0.1).fit(FEATURES.to_numpy(), [1.0, 2.0, 4.0, 5.0])
    model.policy = GatePolicy()  # a class of `lakehouse_assets.ml`, as every real model has
    return model


def register(registry: Registry, name: str = "demand", **kwargs: Any) -> int:
    with registry.run(name, "training", dagster_run_id="d1") as run:
        return registry.register(run, name, fitted(), **kwargs)


def in_force(registry: Registry, name: str = "demand") -> dict[str, int]:
    """Aliases as the registry says and as MLflow shows them, which must agree."""
    said = {alias: found.version for alias in killed.ALIASES if (found := registry.get(name, alias))}
    shown = registry.client.get_registered_model(name).aliases
    assert said == {alias: int(version) for alias, version in shown.items()}
    return said


def test_a_version_says_what_it_was_made_of(registry: Registry) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    version = register(
        registry,
        pins={"silver/demand": 3, "features/demand": 7},
        metrics={"mae": 1.5, "mase": None},
        tags={"seed": 42, "code_version": "abc"},
    )
    found = registry.get("demand", "challenger")
    assert found is not None
    assert (found.name, found.version, found.aliases) == ("demand", version, ("challenger",))
    assert found.pins == {"silver/demand": 3, "features/demand": 7}
    assert found.metrics == {"mae": 1.5}
    assert found.tags == {"seed": "42", "code_version": "abc", "dagster_run_id": "d1"}
    assert before < found.created_at < datetime.now(UTC)
    assert registry.client.get_run(found.run_id).data.metrics == {"mae": 1.5}
    assert registry.versions("demand") == [found]
    assert registry.get("demand", "champion") is None
    assert registry.get("unheard_of", "champion") is None
    assert registry.versions("unheard_of") == []


def test_the_model_comes_back_from_one_archive(registry: Registry, tmp_path: Path) -> None:
    version = register(registry, pins={"gold/demand_hourly": 2})
    model = registry_in(tmp_path).load("demand", version)
    assert model.predict(FEATURES.to_numpy()).tolist() == fitted().predict(FEATURES.to_numpy()).tolist()
    assert registry.load("demand", version) is model
    (archive,) = tmp_path.rglob("model.zip")
    about = json.loads(zipfile.ZipFile(archive).read("about.json"))
    assert json.loads(about["pins"]) == {"gold/demand_hourly": 2}
    assert set(about["packages"]) >= {"numpy", "polars", "scikit-learn"}


def test_an_unreadable_model_says_which_packages_changed(registry: Registry, tmp_path: Path) -> None:
    version = register(registry)
    (archive,) = tmp_path.rglob("model.zip")
    with zipfile.ZipFile(archive) as old:
        about = json.loads(old.read("about.json"))
    about["packages"]["numpy"] = "1.0"
    with zipfile.ZipFile(archive, "w") as new:
        new.writestr("about.json", json.dumps(about))
        new.writestr("model.pkl", b"\x80\x05cnumpy.gone\nThing\n.")
    with pytest.raises(ModelNotReadable, match=r"numpy 1\.0 -> "):
        registry.load("demand", version)


def test_mlflow_alone_can_serve_a_version(registry: Registry, tmp_path: Path) -> None:
    signature = signature_of({"a": pl.Float32(), "b": pl.Int16()}, {"yhat": pl.Float64()})
    register(registry, signature=signature, pip_requirements=["scikit-learn==1.9.1"])
    (folder,) = {file.parent for file in tmp_path.rglob("MLmodel")}
    assert "scikit-learn==1.9.1" in (folder / "requirements.txt").read_text().splitlines()
    # a process that finds our package nowhere but beside the model
    code = f"""
import mlflow, pandas as pd
mlflow.set_tracking_uri({registry.store.tracking_uri!r})
model = mlflow.pyfunc.load_model("models:/demand@challenger")
import lakehouse_assets
assert lakehouse_assets.__path__[0].startswith({str(folder)!r}), lakehouse_assets.__path__
print(model.predict(pd.DataFrame({{"a": [0.0, 3.0], "b": [1, 0]}}))["yhat"].tolist())
"""
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == pytest.approx(fitted().predict(FEATURES.to_numpy())[[0, 3]].tolist())


class Echo:
    """A model that returns what it was asked about."""

    def predict(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select("series_id", "ts", yhat=pl.col("a") * 2)


def test_times_without_a_zone_reach_the_model_as_utc() -> None:
    times = ["2024-01-01 00:00", "2024-07-01 12:00"]
    naive = pd.DataFrame({"series_id": ["x", "y"], "ts": pd.to_datetime(times), "a": [1.0, None]})
    forecast = PyfuncModel(Echo()).predict(naive)
    assert forecast["ts"].tolist() == [pd.Timestamp(time, tz="UTC") for time in times]
    assert forecast["yhat"][0] == 2.0
    assert pd.isna(forecast["yhat"][1])
    local = naive.assign(ts=naive["ts"].dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin"))
    pd.testing.assert_frame_equal(PyfuncModel(Echo()).predict(local), forecast)


def test_promotion_and_rollback(registry: Registry) -> None:
    first, second, third = (register(registry) for _ in range(3))
    registry.promote("demand", first, None)
    assert in_force(registry) == {"champion": first, "challenger": third}
    with pytest.raises(ChampionChanged, match=r"version 3 was compared with no champion, but .* is version 1"):
        registry.promote("demand", third, None)
    registry.promote("demand", third, first)
    assert in_force(registry) == {"champion": third, "previous": first}
    registry.promote("demand", third, third)
    registry.promote("demand", first, third)
    assert in_force(registry) == {"champion": first, "previous": third}
    with pytest.raises(UnknownVersion, match="no version 9; it has: 1, 2, 3"):
        registry.promote("demand", 9, first)
    registry.client.delete_model_version("demand", str(third))
    assert registry.change("demand") is None
    registry.promote("demand", second, first, change=7)
    assert in_force(registry) == {"champion": second, "previous": first}
    registry.promote("demand", second, second, change=8)
    assert in_force(registry) == {"champion": second, "previous": first}
    assert registry.change("demand") == 8


def test_a_promotion_killed_at_any_write_is_whole_or_not_at_all(
    registry: Registry, processes: Any, tmp_path: Path
) -> None:
    for nth in range(5):
        name = "demand"
        new = register(registry, name)
        aliases = in_force(registry, name)
        old = aliases.get("champion")
        process = processes.Process(target=killed.promote_and_die, args=(tmp_path, new, old, nth))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        # whoever reads sees either state whole, at once and without a repair
        after = {alias: found.version for alias in killed.ALIASES if (found := registry.get(name, alias))}
        promoted = {"champion": new, **({"previous": old} if old else {})}
        assert after == (aliases if nth == 0 else promoted)
        assert registry.repair(name) == (nth > 0)
        assert not registry.repair(name)
        assert in_force(registry, name) == after


def test_of_two_promotions_at_once_one_wins(registry: Registry, processes: Any, tmp_path: Path) -> None:
    champion = register(registry)
    registry.promote("demand", champion, None)
    for _ in range(3):
        contenders = [register(registry), register(registry)]
        barrier, outcome = processes.Barrier(2), processes.Queue()
        both = [
            processes.Process(target=killed.promote_at_once, args=(tmp_path, version, champion, barrier, outcome))
            for version in contenders
        ]
        for process in both:
            process.start()
        results = dict(outcome.get(timeout=60) for _ in both)
        for process in both:
            process.join()
        assert sorted(results.values()) == ["changed", "promoted"]
        (winner,) = (version for version, result in results.items() if result == "promoted")
        assert in_force(registry)["champion"] == winner
        assert in_force(registry)["previous"] == champion
        champion = winner


def test_aliases_follow_a_simple_model(registry: Registry) -> None:
    names = iter(range(10_000))

    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    class Aliases(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.name = f"model_{next(names)}"
            registry.client.create_registered_model(self.name)
            self.versions = 0
            self.aliases: dict[str, int] = {}

        @rule()
        def train(self) -> None:
            with registry.run("demand", "training") as run:
                version = registry.register(run, self.name, 0)
            self.versions += 1
            assert version == self.versions
            self.aliases["challenger"] = version

        @precondition(lambda self: self.versions)
        @rule(data=st.data(), interrupted=st.none() | st.integers(0, 5))
        def promote(self, data: st.DataObject, interrupted: int | None) -> None:
            version = data.draw(st.integers(1, self.versions))
            expected = data.draw(st.sampled_from([self.aliases.get("champion"), None, 1]))
            done = interrupted != 0
            unwritten = dict(vars(registry.client))
            if interrupted is not None:
                registry.repair(self.name)  # so that what is counted are the writes of this promotion
                killed.stop_before(registry.client, interrupted, stop)
            try:
                registry.promote(self.name, version, expected)
                done = True
            except ChampionChanged:
                assert expected != self.aliases.get("champion")
                return
            except Stop:
                pass
            finally:
                vars(registry.client).clear()
                vars(registry.client).update(unwritten)
            champion = self.aliases.get("champion")
            assert expected == champion
            if done and version != champion:
                self.aliases = {
                    alias: known for alias, known in self.aliases.items() if (alias, known) != ("challenger", version)
                }
                self.aliases["champion"] = version
                self.aliases.pop("previous", None)
                if champion:
                    self.aliases["previous"] = champion

        @invariant()
        def says_what_is_in_force(self) -> None:
            said = {alias: found.version for alias in killed.ALIASES if (found := registry.get(self.name, alias))}
            assert said == self.aliases

        def teardown(self) -> None:
            registry.repair(self.name)
            assert in_force(registry, self.name) == self.aliases

    run_state_machine_as_test(
        Aliases,
        # without shrinking: each step writes to a database, and a failure is short enough to read
        settings=settings(
            max_examples=8,
            stateful_step_count=10,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
