"""Churn through a tariff shock: what the model of before is worth after it, and what retraining by drift gives back.

    python benchmarks/churn.py [--json FILE] [--customers N]

A simulated company (only its customers) is built, then operated month by month through a rise of prices that also
teaches customers to compare, by the project's own commands, schedules and sensors. Printed are the reports and
decisions of `customer_churn` as they came, and the ROC AUC of the old and the new champion on the same snapshots: those
that the gate decided on, and those after the decision, which neither has seen. The ceiling is the AUC of the
simulator's own probabilities: better cannot be predicted.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import yaml

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.lifecycle.evidence import load_backtest
from lakehouse_assets.registry.tracking import Registry
from lakehouse_assets.sources.declaration import SIMULATED
from lakehouse_assets.sources.simulated_customers import TariffShock, simulate_customers

MODEL = "customer_churn"
START, LIVE, SHOCK, END = date(2022, 10, 1), date(2024, 6, 15), date(2024, 7, 1), date(2025, 5, 15)


def main() -> None:
    """Simulate, operate, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--customers", type=int, default=3000, help="customers at a time")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="churn_") as temporary:
        world, home = Path(temporary, "world"), Path(temporary, "home")
        made = simulate_customers(
            world, start=START, end=END, customers=arguments.customers, seed=1, shock=TariffShock(SHOCK)
        )
        source = world / "source.yaml"
        declared = yaml.load(SIMULATED.read_text(), Loader=yaml.BaseLoader)["customers"]
        source.write_text(yaml.safe_dump({"name": "company", "customers": declared}))
        lakehouse(home, "run", "--config", str(source), "--until", str(LIVE))
        lakehouse(home, "replay", "--start", str(LIVE), "--end", str(END), "--step", "30d")
        found = compared(home, made.truth)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    if "after" not in found:
        sys.exit("no training that drift asked for was promoted")


def lakehouse(home: Path, *words: str) -> None:
    """Run a command of the project in a home; ends the program where it fails."""
    print(f"lakehouse {' '.join(words[:1])} ...", file=sys.stderr, flush=True)
    ended = subprocess.run(
        [sys.executable, "-m", "lakehouse_assets.cli", *words],
        env={**os.environ, "LAKEHOUSE_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        sys.exit(f"lakehouse {' '.join(words)} failed:\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}")


def compared(home: Path, truth: Path) -> dict[str, object]:
    """What happened, printed, and the areas under the curves."""
    lake, registry = Lake(home / "lake"), Registry(f"sqlite:///{home / 'mlflow.db'}", home / "mlartifacts")
    drift = lake.table(f"monitoring/{MODEL}_drift").scan().filter(pl.col("comparison") == "challenger").collect()
    drift = drift.sort("window_start", "model_version")
    decisions = lake.table(f"registry/{MODEL}").scan().collect().sort("decided_at")
    print(f"{MODEL}; prices rise on {SHOCK}")
    for row in drift.iter_rows(named=True):
        print(f"  snapshot of {row['window_start']:%Y-%m-%d}, version {row['model_version']}: {row['verdict']}")
    for row in decisions.iter_rows(named=True):
        asked = f"version {row['version']}, asked for by {row['trigger']}"
        print(f"  {row['decided_at']:%Y-%m-%d} {asked}: {row['decision']}; {row['reason']}")
    after = pl.col("decided_at") > datetime(SHOCK.year, SHOCK.month, SHOCK.day, tzinfo=UTC)
    mended = decisions.filter(after, trigger="drift", decision="promoted")
    found: dict[str, object] = {"drifted": drift.filter(verdict="drift").height}
    if mended.is_empty():
        return found
    first = mended.row(0, named=True)
    with load_backtest(registry, first["mlflow_run_id"]) as backtest:
        losses = backtest.result.losses.collect()
        best = backtest.result.best
    since = losses.filter(pl.col("as_of") >= datetime(SHOCK.year, SHOCK.month, SHOCK.day, tzinfo=UTC))
    seen = {"old": auc(since["y"], since["champion"]), "new": auc(since["y"], since[best])}
    print(f"on the gate's snapshots since the shock, out of sample: old {seen['old']:.3f}, new {seen['new']:.3f}")
    features = lake.table("features/customer").scan().filter(pl.col("as_of") > first["decided_at"]).collect()
    later = features.filter(pl.col("churned").is_not_null())
    ceiling = later.join(
        pl.read_parquet(truth).select("customer_id", "month", "probability"), on=["customer_id", "month"]
    )
    figures = {"ceiling": auc(ceiling["churned"], ceiling["probability"])}
    for name, version in (("old", first["champion_before"]), ("new", first["version"])):
        predicted = registry.load(MODEL, version).predict(later)
        both = predicted.join(later.select("as_of", "customer_id", "churned"), on=["as_of", "customer_id"])
        figures[name] = auc(both["churned"], both["probability"])
    print(
        f"on {later.height:,} rows of {later['as_of'].n_unique()} snapshots after the decision: "
        f"old champion (version {first['champion_before']}) {figures['old']:.3f}, "
        f"new champion (version {first['version']}) {figures['new']:.3f}, ceiling {figures['ceiling']:.3f}"
    )
    return found | {"gate": seen, "after": figures, "promoted_at": first["decided_at"].isoformat()}


def auc(truth: pl.Series, scores: pl.Series) -> float:
    """The area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth.cast(pl.Int8).to_numpy(), scores.to_numpy()))


if __name__ == "__main__":
    main()
