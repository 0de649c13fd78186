from datetime import timedelta

import polars as pl

from lakehouse_assets.ml.clustering import Clustering
from lakehouse_assets.ml.definition import DriftPolicy
from lakehouse_assets.ml.segments import KMeansSegments
from lakehouse_assets_tests.ml.shapes import kinds_of, snapshot_times, snapshots


def test_pictures_of_a_training_and_of_drift_are_drawn() -> None:
    kind, rows = Clustering(scored=1), snapshots(kinds_of(5, 60))
    candidates = {"k_means": KMeansSegments(most=5)}
    champion = kind.backtest(kind.dataset(rows), candidates, cutoff=snapshot_times(4)[-1]).fitted["k_means"]
    drawn = kind.pictures(kind.backtest(kind.dataset(rows), candidates, champion=champion))  # type: ignore[arg-type]
    assert set(drawn) == {"leaderboard", "segments", "number", "map", "moves"}
    at = snapshot_times(5)[-1]
    judged = kind.window_losses(champion, kind.dataset(rows), at, at + timedelta(days=30))  # type: ignore[arg-type]
    history = judged.with_columns(
        window_start=pl.lit(at, pl.Datetime("us", "UTC")), model_version=pl.lit(1), verdict=pl.lit("drift")
    )
    drawn |= kind.drift_pictures(history, rows.lazy(), DriftPolicy())
    drawn |= kind.finding_pictures(history, rows.lazy(), {"since": at.isoformat()})
    assert {"shares", "day"} <= set(drawn)
    assert all(png.startswith(b"\x89PNG") and len(png) > 2000 for png in drawn.values())
    assert kind.drift_pictures(history.clear(), rows.lazy(), DriftPolicy()) == {}
