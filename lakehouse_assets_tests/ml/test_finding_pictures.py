"""Pictures of a finding are drawn whatever its members are called, and of what there is."""

from datetime import timedelta

import polars as pl

from lakehouse_assets.ml.finding_pictures import finding_pictures
from lakehouse_assets_tests.ml.frames import feature_frame, load_curves
from lakehouse_assets_tests.ml.test_pictures import START, is_png

WEEKS = [START + timedelta(weeks=i) for i in range(8)]


def test_a_finding_is_drawn_against_the_fleet_whatever_its_members_are_called() -> None:
    ids = ["$a_$^{", "b<script>", *(f"S{i}" for i in range(10))]
    rows = [(one, week, 1.0 + 0.02 * i, 1.0) for i, one in enumerate(ids) for week in WEEKS]
    schema = ["series_id", "week", "champion_loss", "fresh_loss"]
    history = pl.DataFrame(rows, schema=schema, orient="row")
    features = feature_frame(*load_curves(2, 60)).with_columns(
        pl.col("series_id").replace({"S0": ids[0], "S1": ids[1]}),
        issued_at=pl.col("issued_at") + (START - pl.col("issued_at").min()),
    )
    for members in (ids[:1], ids):
        drawn = finding_pictures(history, members, WEEKS[4], features.lazy(), "value")
        assert set(drawn) == {"week_by_week", "before_and_after", "shape_of_the_day"}
        assert all(is_png(picture) for picture in drawn.values())
    for since in (WEEKS[0], None):
        drawn = finding_pictures(history, ids[:1], since, features.lazy(), "value")
        assert set(drawn) == {"week_by_week", "shape_of_the_day"}, "there is no before"
    unjudged = finding_pictures(history, ["unknown"], WEEKS[4], features.lazy(), "value")
    assert set(unjudged) == {"shape_of_the_day"}
    assert finding_pictures(history.clear(), ["unknown"], None, features.lazy(), "value") == {}
