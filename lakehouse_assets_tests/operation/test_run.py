"""`lakehouse run`: everything once, and then only what is new."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from lakehouse_assets_tests.operation.conftest import KEYS, REFINED, House, assert_nothing_lost

FIRST, LATER = "2024-05-02", "2024-05-09T06:00"


def test_run(house: House) -> None:
    """One story, in one test: each check goes on with what the one before left, and a home is built once."""
    ended = house.run(FIRST)
    assert ended.code == 0, ended.err
    assert "nothing lost" in ended.out
    the_first_run_makes_every_table_and_a_champion(house)
    status_has_the_agreed_shape(house)
    again_it_does_nothing_anew(house)
    what_is_in_force_is_told_and_changed_by_hand(house)
    one_series_is_trained_by_hand(house)
    new_rows_and_files_refine_the_touched_months_and_broken_files_are_set_aside(house)


def the_first_run_makes_every_table_and_a_champion(built: House) -> None:
    made = set(built.lake.tables())
    assert set(KEYS) - made == {"monitoring/demand_forecast_drift"}  # no week has passed since the training
    built.assert_sound()
    features, predictions = built.frame("features/demand"), built.frame("predictions/demand_forecast")
    assert predictions["issued_at"].unique().to_list() == [features["issued_at"].max()]
    assert predictions["series_id"].n_unique() == 2
    assert predictions["yhat"].is_finite().all()
    known = built.frame("bronze/demand").filter(~pl.col("pending"))["known_at"].max()
    assert known <= pl.Series([FIRST]).str.to_datetime(time_zone="UTC").item()


def status_has_the_agreed_shape(built: House) -> None:
    status = built.status()
    assert set(status) == {"tables", "models"}
    assert set(status["tables"]) == set(built.lake.tables())
    for key, table in status["tables"].items():
        assert set(table) == {"version", "rows", "updated_at"}
        assert table["rows"] == built.frame(key).height
        assert table["version"] == built.lake.table(key).version()
    model = status["models"]["demand_forecast"]
    assert set(model) == {"champion", "challenger", "previous", "series", "last_week", "drift", "retrains"}
    assert model["series"] == {"by_version": {"1": 2}, "pinned": 0}
    assert {"version", "run_id", "trained_at", "pins", "metrics"} <= set(model["champion"])
    assert model["champion"]["version"] == 1
    assert set(model["champion"]["pins"]) == {"features/demand"}
    assert {"mae", "mape", "mase"} <= set(model["champion"]["metrics"])
    best, primary = model["champion"]["candidate"], model["champion"]["primary"]
    assert next(iter(model["champion"]["candidates"])) in (best, "champion")
    assert model["champion"]["candidates"][best][primary] == pytest.approx(model["champion"]["metrics"][primary], 1e-4)
    assert model["challenger"] is None
    assert model["previous"] is None
    assert set(model["drift"]) == {"verdict", "window_end", "series_drifted", "series_tested", "pages"}
    assert model["drift"]["verdict"] == "insufficient_data"
    (retrain,) = model["retrains"]
    assert set(retrain) == {"requested_at", "trigger", "run_id", "decision"}
    assert (retrain["trigger"], retrain["decision"]) == ("manual", "promoted")


def again_it_does_nothing_anew(built: House) -> None:
    before = {key: built.frame(key) for key in built.lake.tables()}
    versions = built.versions()
    trained = built.mlflow_runs()
    assert built.run(FIRST).code == 0
    assert built.mlflow_runs() == trained
    for key in ("bronze/demand", *REFINED, "predictions/demand_forecast", "registry/demand_forecast"):
        assert built.lake.table(key).version() == versions[key], key
    errors = KEYS["monitoring/demand_forecast_errors"]
    assert (
        built.frame("monitoring/demand_forecast_errors")
        .sort(errors)
        .equals(before["monitoring/demand_forecast_errors"].sort(errors))
    )


def what_is_in_force_is_told_and_changed_by_hand(built: House) -> None:
    one = built.frame("registry/demand_forecast_series")["series_id"].min()
    listed = built("models")
    assert listed.code == 0, listed.err
    assert "v1: 2" in listed.out
    assert "first model" in listed.out
    models = json.loads(built("models", "--json").out)
    assert models["demand_forecast"]["champion"] == 1
    assert models["demand_forecast"]["series"] == {"by_version": {"1": 2}, "pinned": 0}
    of_series = ("demand_forecast", "--series", one)
    group = built.frame("features/demand").filter(series_id=one)["series_group"][0]
    for arguments, code, said in (
        (("models", "show", "demand_forecast"), 0, "demand_forecast: version 1 is in force"),
        (("models", "show", *of_series), 0, f"series {one} of demand_forecast: version 1 is in force"),
        (("models", "show", "demand_forecast", "--series", "nowhere"), 2, "demand_forecast has no series 'nowhere'"),
        (("rollback", "demand_forecast"), 2, "no champion before version 1"),
        (("rollback", *of_series), 2, f"'{one}' of demand_forecast has had no version but the one in force"),
        (("rollback", "demand_forecast", "--group", "none"), 2, "has no group 'none'; there are: "),
        (("rollback", *of_series, "--group", group), 2, "--series or --group, not both"),
        (("unpin", *of_series), 2, f"'{one}' of demand_forecast is pinned"),
        (("pin", *of_series, "--version", "9"), 2, "demand_forecast has no version 9; it has: 1."),
        (("pin", *of_series), 0, "1 series pinned"),
        (("models", "show", *of_series), 0, "(pinned)"),
        (("rollback", *of_series), 2, f"'{one}' is pinned"),
        (("unpin", "demand_forecast", "--group", group), 0, "1 series unpinned; 0 are pinned still"),
    ):
        ended = built(*arguments)
        assert ended.code == code, (arguments, ended)
        message = " ".join((ended.out + ended.err).split())
        assert said in message, message
        assert "Traceback" not in message
    history = json.loads(built("models", "show", *of_series, "--json").out)["history"]
    assert [row["decision"] for row in history] == ["promoted", "pinned", "unpinned"]


def one_series_is_trained_by_hand(built: House) -> None:
    one = built.frame("registry/demand_forecast_series")["series_id"].min()
    ended = built("retrain", "demand_forecast", "--series", one)
    assert ended.code == 0, ended.err
    assert f"of 1 series promoted; {one} kept: " in " ".join(ended.out.split())
    (decision,) = built.frame("registry/demand_forecast").filter(version=2).iter_rows(named=True)
    assert (decision["decision"], decision["champion_after"]) == ("kept", 1)
    ended = built("retrain", "demand_forecast", "--series", "nowhere")
    assert ended.code == 1
    assert "features/demand has no rows of 'nowhere'" in " ".join(ended.err.split())
    assert "Traceback" not in ended.err


def new_rows_and_files_refine_the_touched_months_and_broken_files_are_set_aside(built: House) -> None:
    before = {key: built.frame(key) for key in REFINED}
    landed = built.frame("bronze/demand").height
    late = _revision(built.world / "demand_2024-03.csv.gz", "2024-03-13", built.world / "demand_revised.csv.gz")
    (built.world / "demand_2024-99.csv.gz").write_bytes(b"this is no gzip")
    ended = built.run(LATER)
    assert ended.code == 0, ended.err
    built.assert_sound()

    bronze, silver = built.frame("bronze/demand"), built.frame("silver/demand")
    assert bronze.height > landed
    quarantine = built.frame("silver/demand_quarantine")
    duplicates = assert_nothing_lost(bronze, silver, quarantine)
    assert duplicates > 0
    assert (
        f"{bronze.height:,} rows landed = {silver.height:,} in silver + {quarantine.height:,} in quarantine "
        f"+ {duplicates:,} duplicates removed"
    ) in " ".join(ended.out.split())
    assert bronze.filter(pl.col("file").str.contains("revised")).height == late
    (aside,) = (built.home / "landing" / "set_aside").glob("*.json")
    assert "demand_2024-99" in aside.read_text()
    assert not bronze["file"].str.contains("2024-99").any()
    assert silver["ts"].max() > before["silver/demand"]["ts"].max()
    # What lies before the first touched month is as it was, to the bit.
    columns = KEYS["gold/demand_hourly"]
    for key in ("silver/demand", "gold/demand_hourly"):
        old, new = (
            frame.filter(pl.col("month") < pl.date(2024, 3, 1)).sort(columns)
            for frame in (before[key], built.frame(key))
        )
        assert new.equals(old), key
    assert silver.filter(pl.col("file").str.contains("revised")).height == late
    assert built.frame("features/demand")["issued_at"].max() > before["features/demand"]["issued_at"].max()


def _revision(source: Path, day: str, target: Path) -> int:
    """Write the rows of a day of a file once more, as published at the end of April with other values."""
    rows = pl.read_csv(gzip.decompress(source.read_bytes()), infer_schema=False)
    revised = (
        rows.filter(pl.col("local_time").str.starts_with(day))
        .unique(["district", "local_time"])
        .with_columns(
            published_at=pl.lit("2024-05-05T00:00:00Z"),
            demand_mw=(pl.col("demand_mw").cast(pl.Float64) * 1.01).round(2).cast(pl.String),
        )
    )
    target.write_bytes(gzip.compress(revised.write_csv().encode()))
    return revised.height
