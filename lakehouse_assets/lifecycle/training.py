"""Training: a challenger from the feature table at one pinned version, with its backtest, in MLflow.

All candidates and the champion are scored on the same folds; the best becomes the challenger. One MLflow run a
training, with a nested run for each candidate.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lifecycle.engine import engine
from lakehouse_assets.lifecycle.evidence import save_backtest
from lakehouse_assets.lifecycle.fleet import SINCE_CHANGE_TAG, FleetRegistry
from lakehouse_assets.lifecycle.names import REQUESTED_AT_TAG, TRIGGER_TAG, Names
from lakehouse_assets.lifecycle.pictures import picture_metadata
from lakehouse_assets.ml.definition import BacktestResult, FittedModel, ModelDefinition, Search, Trial
from lakehouse_assets.registry.resource import RegistryResource
from lakehouse_assets.registry.training_run import TrainingRun
from lakehouse_assets.settings import get_settings

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def training_asset(definition: ModelDefinition) -> dg.AssetsDefinition:
    """The asset `models/<name>`."""
    names = Names(definition.name)

    @dg.asset(
        key=names.training,
        deps=[dg.AssetKey(definition.features.split("/"))],
        group_name="models",
        description=f"{definition.description}\n\nThe trained challenger and its backtest, a version in MLflow.",
        kinds={"mlflow", "scikitlearn"},
        owners=["team:lakehouse"],
        tags={"model": definition.name, "layer": "models"},
        code_version=code_version(definition),
        pool=names.pool,
    )
    def train(
        context: dg.AssetExecutionContext, lake: LakeResource, registry: RegistryResource, clock: Clock
    ) -> dg.MaterializeResult:
        kind, store, settings = definition.kind, registry.registry(), get_settings()
        table = lake.lake().table(definition.features)
        pins = {definition.features: table.version()}
        rows = table.scan(pins[definition.features])
        cutoff: datetime | None = rows.select(pl.col(kind.time_column).max()).collect().item()
        if cutoff is None:
            raise dg.Failure(f"{definition.features} has no rows yet: there is too little history to train on.")
        groups = member_groups(definition, rows)
        count = table.row_count(pins[definition.features])
        context.log.info(f"{count:,} rows of {definition.features}, version {pins[definition.features]}")
        dataset = kind.dataset(rows)

        fleet = FleetRegistry(definition.name, store, lake.lake())
        in_force = fleet.assignment()
        fitted_champion = fleet.load(kind, in_force)
        champion = store.get(definition.name, "champion")
        tags = {
            "trigger": context.run.tags.get(TRIGGER_TAG, "manual"),
            "code_version": code_version(definition),
            "champion_version": champion.version if champion else "",
            SINCE_CHANGE_TAG: in_force.change if in_force else 0,
        }
        with (
            TemporaryDirectory(prefix="lakehouse_training_") as workspace,
            store.run(
                definition.name, f"training of {cutoff:%Y-%m-%d}", tags=tags, dagster_run_id=context.run_id
            ) as run,
        ):
            run.params({"seed": settings.seed, "cutoff": cutoff.isoformat(), "pins": json.dumps(pins)})
            candidates = "auto" if settings.candidates == "auto" else definition.candidates
            searched = None
            if not isinstance(candidates, Mapping):
                search = candidates if isinstance(candidates, Search) else Search()
                report = _reporter(context, run)
                searched = kind.search(dataset, search, cutoff=cutoff, seed=settings.seed, report=report)
                candidates = searched.candidates
            with engine(settings):
                result = kind.backtest(
                    dataset,
                    candidates,
                    cutoff=cutoff,
                    champion=fitted_champion,
                    seed=settings.seed,
                    workspace=Path(workspace),
                    progress=context.log.info,
                )
            summary = result.summary()
            for name, metrics in summary.items():
                with run.child(name) as child:
                    if name in result.fitted:
                        child.params(result.fitted[name].parameters())
                    child.metrics(metrics)
                    for step, fold in _metrics_by_fold(result, name):
                        child.metrics(fold, step=step)
            pictures = {**(searched.pictures if searched else {}), **kind.pictures(result)}
            for name, png in pictures.items():
                run.artifact_bytes(f"pictures/{name}.png", png)
            save_backtest(run, result, groups, champion.version if champion else None)
            challenger = result.fitted[result.best]
            run.metrics(summary[result.best])
            run.params({"best": result.best, **{f"best.{k}": v for k, v in challenger.parameters().items()}})
            version = store.register(
                run,
                definition.name,
                challenger,
                signature=_signature(challenger, rows.head(1).collect()),
                pins=pins,
                metrics=summary[result.best],
                tags={
                    **tags,
                    "candidate": result.best,
                    "seed": settings.seed,
                    "trained_at": clock.now().isoformat(),
                    "cutoff": cutoff.isoformat(),
                    "requested_at": context.run.tags.get(REQUESTED_AT_TAG, clock.now().isoformat()),
                },
            )
        return dg.MaterializeResult(
            metadata={
                "version": version,
                "candidate": result.best,
                "champion_version": champion.version if champion else 0,
                "mlflow_run": run.run_id,
                "cutoff": cutoff.isoformat(),
                "pins": dg.MetadataValue.json(pins),
                "unscored": dg.MetadataValue.json(_count(result.unscored)),
                "leaderboard": dg.MetadataValue.md(leaderboard(summary, result.primary)),
                **{name: float(value) for name, value in summary[result.best].items() if value is not None},
                **picture_metadata(pictures),
            },
            data_version=dg.DataVersion(str(version)),
        )

    return train


def _reporter(context: dg.AssetExecutionContext, run: TrainingRun) -> Callable[[Trial], None]:
    """Each trial of a search as a nested MLflow run, as it ends."""

    def report(trial: Trial) -> None:
        said = f"{trial.losses[-1]:.4f}" if trial.losses else trial.reason
        context.log.info(f"trial {trial.number} {trial.family}: {trial.state}, {said} ({trial.seconds:.1f} s)")
        tags = {"trial": trial.number, "family": trial.family, "state": trial.state, "reason": trial.reason}
        with run.child(f"trial {trial.number} {trial.family}", tags) as child:
            child.params(trial.candidate.parameters())
            child.metrics({"seconds": trial.seconds})
            for step, loss in enumerate(trial.losses):
                child.metrics({"loss": loss}, step=step)

    return report


def code_version(definition: ModelDefinition) -> str:
    """A hash of the source of the model's kind and of the room that it lies in: it changes when the recipe may."""
    folder = Path(str(sys.modules[type(definition.kind).__module__].__file__)).parent
    digest = hashlib.sha256(repr(definition).encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def member_groups(definition: ModelDefinition, rows: pl.LazyFrame) -> dict[str, str | None] | None:
    """Member (second key of the kind) -> group, from the feature table; None when the model has no groups."""
    if definition.group is None or definition.group not in rows.collect_schema():
        return None
    member, group = definition.kind.keys[1], pl.col(definition.group)
    latest = rows.group_by(member).agg(group.sort_by(definition.kind.time_column).last()).sort(member)
    return dict(latest.collect(engine="streaming").iter_rows())


def leaderboard(summary: Mapping[str, Mapping[str, float]], primary: str) -> str:
    """The candidates' overall metrics as a Markdown table, the best first."""
    columns = list(next(iter(summary.values())))
    columns = [primary, *(name for name in columns if name != primary)]
    lines = ["| candidate | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for name, metrics in summary.items():
        cells = ["" if metrics[column] is None else f"{metrics[column]:.4g}" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _count(unscored: pl.DataFrame) -> dict[str, int]:
    """Reason -> how many members; their names are in the run's artifact `backtest/unscored.parquet`."""
    return {} if unscored.is_empty() else dict(unscored["reason"].value_counts().sort("reason").iter_rows())


def _metrics_by_fold(result: BacktestResult, candidate: str) -> list[tuple[int, dict[str, float]]]:
    rows = result.metrics.filter(slice="fold", candidate=candidate)
    names = [name for name in rows.columns if name not in ("candidate", "slice", "key")]
    return [(int(row["key"]), {f"fold_{name}": row[name] for name in names}) for row in rows.iter_rows(named=True)]


def _signature(model: FittedModel, frame: pl.DataFrame) -> "ModelSignature":
    from lakehouse_assets.registry.tracking import signature_of

    outputs = model.predict(frame).schema
    wanted = {**{name: frame.schema[name] for name in outputs if name in frame.schema}}
    wanted |= {name: frame.schema[name] for name in model.feature_names if name in frame.schema}
    return signature_of(wanted, dict(outputs))
