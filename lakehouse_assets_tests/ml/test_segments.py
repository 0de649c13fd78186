import pickle
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.clustering import Clustering
from lakehouse_assets.ml.segments import SHAPE, Curve, FittedSegments, KMeansSegments, MixtureSegments, Segments
from lakehouse_assets_tests.ml.shapes import FOUR, kinds_of, snapshots

KIND = Clustering(months=2)
ROWS = snapshots(kinds_of(2, 90))
RECIPES = (KMeansSegments(most=5), KMeansSegments("log_shares", most=5), MixtureSegments(most=5))


def fitted(recipe: Segments) -> FittedSegments:
    found = KIND.backtest(KIND.dataset(ROWS), {"recipe": recipe}).fitted["recipe"]
    assert isinstance(found, FittedSegments)
    return found


@pytest.fixture(scope="module", params=RECIPES, ids=lambda recipe: f"{type(recipe).__name__}-{recipe.preparation}")
def model(request: pytest.FixtureRequest) -> FittedSegments:
    return fitted(request.param)


def test_every_recipe_finds_the_four_segments_and_pickles(model: FittedSegments) -> None:
    from sklearn.metrics import adjusted_rand_score

    predicted = model.predict(ROWS)
    assert adjusted_rand_score(kinds_of(2, 90).ravel(), predicted["segment"]) > 0.95
    assert set(model.names) >= {"by day", "night", "even"}
    assert model.profile.sizes == sorted(model.profile.sizes, reverse=True)
    assert pickle.loads(pickle.dumps(model)).predict(ROWS).equals(predicted)
    assert predicted["margin"].is_between(0, 1).all()
    names = dict(predicted.select("segment", "segment_name").unique().iter_rows())
    assert names == model.called


def test_rows_without_a_shape_or_unlike_all_others_are_told_not_lost(model: FittedSegments) -> None:
    odd = ROWS.head(4).with_columns(
        h03=pl.when(pl.col("customer_id") == "C0001").then(None).otherwise("h03"),
        w05=pl.when(pl.col("customer_id") == "C0002").then(float("nan")).otherwise("w05"),
    )
    spike = {name: 1.0 if name in ("h04", "w04") else 0.0 for name in SHAPE}
    odd = odd.with_columns(
        pl.when(pl.col("customer_id") == "C0003").then(v).otherwise(n).alias(n) for n, v in spike.items()
    )
    predicted = model.predict(odd)
    assert predicted["customer_id"].to_list() == odd["customer_id"].to_list()
    assert predicted["segment"].is_null().to_list() == [False, True, True, True]
    assert predicted["reason"].str.slice(0, 13).to_list() == [None, "no complete l", "no complete l", "unlike any se"]
    assert "47 of 48 hours" in predicted["reason"][1]
    assert predicted["distance"].is_null().to_list() == [False, True, True, False]
    assert predicted.head(1).equals(model.predict(ROWS.head(1))), "a row does not depend on those beside it"


def test_silhouette_decides_and_among_equals_the_elbow() -> None:
    clear = Curve([2, 3, 4, 5], [0.5, 0.8, 0.6, 0.3], [100.0, 40.0, 20.0, 15.0])
    assert (clear.chosen, clear.elbow) == (3, 3)
    equal = Curve([2, 3, 4, 5], [0.79, 0.5, 0.8, 0.3], [100.0, 80.0, 20.0, 15.0])
    assert (equal.chosen, equal.elbow) == (4, 4)
    assert replace(equal, inertias=[100.0, 30.0, 25.0, 20.0]).chosen == 2, "3 is the elbow; 2 and 4 are as near to it"


def test_nothing_to_part_is_said() -> None:
    shapes = np.tile(FOUR[0] / 48, (30, 1))
    with pytest.raises(ValueError, match="all 30 customers are the same"):
        KMeansSegments().learn(shapes, 0)
    with pytest.raises(ValueError, match="12 customers have a complete load shape"):
        KMeansSegments().learn(shapes[:12], 0)
    with pytest.raises(ValueError, match="1 snapshots are known"):
        KIND.backtest(KIND.dataset(ROWS), {}, cutoff=datetime(2025, 1, 1, tzinfo=UTC))
