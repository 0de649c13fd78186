import numpy as np
import polars as pl
import pytest

from lakehouse_assets.ml.definition import CHAMPION, BacktestResult, GateDecision, GatePolicy
from lakehouse_assets.ml.entity_gate import decide
from lakehouse_assets.ml.entity_metrics import absolute_loss, ranking_loss
from lakehouse_assets.ml.gate import OWN

POLICY = GatePolicy()


def _losses(
    seed: int, ours: float, theirs: float, *, entities: int = 250, folds: int = 3, shared: float = 0.7
) -> pl.DataFrame:
    """Events, and two scores that know of them, the more the larger; an entity's rows are alike from fold to fold."""
    rng = np.random.default_rng(seed)

    def alike() -> np.ndarray:
        own = rng.normal(size=entities)[None]
        return shared * own + np.sqrt(1 - shared**2) * rng.normal(size=(folds, entities))

    y = (alike() > 0.8).astype(float)
    common = alike()
    said = {"new": ours * y + 0.7 * common + 0.7 * alike(), CHAMPION: theirs * y + 0.7 * common + 0.7 * alike()}
    return pl.DataFrame(
        {
            "fold": pl.Series(np.repeat(np.arange(folds), entities), dtype=pl.Int32),
            "customer_id": [f"c{i:04}" for i in range(entities)] * folds,
            "y": y.ravel(),
            "base_rate": y.mean(),
            OWN: False,
            **{name: values.ravel() for name, values in said.items()},
        }
    )


def _decide(
    losses: pl.DataFrame,
    policy: GatePolicy = POLICY,
    groups: dict[str, str | None] | None = None,
    has_champion: bool = True,
    resampled: int = 400,
) -> GateDecision:
    result = BacktestResult("new", "roc_auc", pl.DataFrame(), pl.DataFrame({"fold": [0]}), losses.lazy(), {})
    return decide(
        result,
        "new",
        policy,
        groups or {},
        has_champion,
        entity="customer_id",
        reference="base_rate",
        loss=ranking_loss,
        enough=lambda y: min(y.sum(), len(y) - y.sum()) >= 10,
        resampled=resampled,
    )


def test_a_better_challenger_is_promoted_and_one_that_is_worse_is_not() -> None:
    better = _decide(_losses(0, 1.5, 0.8))
    assert better.promote, better.reason
    assert better.evidence["gain_low"] < better.evidence["gain"] < better.evidence["gain_high"]
    assert better.evidence["p_value"] < 0.05
    worse = _decide(_losses(0, 0.8, 1.5))
    assert not worse.promote
    assert "below the minimum" in worse.reason


def test_one_that_is_no_better_is_hardly_ever_promoted() -> None:
    policy = GatePolicy(minimum_gain=0.0)  # the level is that of the test alone
    promoted = [_decide(_losses(seed, 1.0, 1.0), policy, resampled=200).promote for seed in range(120)]
    assert np.mean(promoted) <= 0.10  # 5 % and three standard errors less than that again
    gains = [_decide(_losses(seed, 1.3, 0.9), policy, resampled=200).promote for seed in range(20)]
    assert np.mean(gains) >= 0.8


def test_an_entity_in_many_snapshots_is_one_piece_of_evidence() -> None:
    once = _losses(3, 1.05, 1.0, folds=1)
    often = pl.concat([once.with_columns(fold=pl.lit(k, pl.Int32)) for k in range(8)])
    assert _decide(often).evidence["p_value"] == pytest.approx(_decide(once).evidence["p_value"], abs=0.05)


def test_no_group_may_be_harmed() -> None:
    good, bad = _losses(2, 2.2, 0.9), _losses(21, 0.3, 1.2, entities=80)
    both = pl.concat([good, bad.with_columns(pl.col("customer_id").str.replace("c", "d"))])
    groups: dict[str, str | None] = {name: "south" if name[0] == "d" else "north" for name in both["customer_id"]}
    decision = _decide(both, groups=groups)
    assert not decision.promote
    assert "worse by more than 5% in south" in decision.reason
    assert _decide(both).promote


def test_the_first_model_must_beat_the_constant() -> None:
    assert _decide(_losses(0, 1.0, 0.0), has_champion=False).reason.startswith("first model: +")
    chance = _decide(_losses(0, 0.0, 0.0), has_champion=False)
    assert not chance.promote
    assert chance.reason.startswith("no model yet")


def test_where_the_stored_champion_was_out_of_sample_it_alone_counts() -> None:
    losses = _losses(0, 1.5, 0.8).with_columns((pl.col("fold") == 2).alias(OWN))
    decision = _decide(losses)
    assert decision.evidence["folds_used"] == [2]
    assert decision.evidence["champion_own_fit"]


def test_values_are_judged_by_their_absolute_errors() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=400)
    losses = pl.DataFrame(
        {
            "fold": pl.Series([0] * 400, dtype=pl.Int32),
            "customer_id": [str(i) for i in range(400)],
            "y": y,
            "median": 0.0,
            OWN: False,
            "new": y + 0.3 * rng.normal(size=400),
            CHAMPION: y + 0.6 * rng.normal(size=400),
        }
    )
    result = BacktestResult("new", "mae", pl.DataFrame(), pl.DataFrame({"fold": [0]}), losses.lazy(), {})
    decision = decide(
        result,
        "new",
        GatePolicy(),
        {},
        True,
        entity="customer_id",
        reference="median",
        loss=absolute_loss,
        enough=lambda y: len(y) > 30,
        resampled=400,
    )
    assert decision.promote
    ours, theirs = (float((losses[name] - losses["y"]).abs().mean()) for name in ("new", CHAMPION))  # type: ignore[arg-type]
    assert decision.evidence["gain"] == pytest.approx(1 - ours / theirs)
