"""Training: a challenger from the feature table at one pinned version, with its backtest, in MLflow.

All candidates and the champion are scored on the same folds; the best becomes the challenger. One MLflow run a
training, with a nested run for each candidate. Of the members that are trained (see `scope`) alone the rows are read;
where they are not all, what competes learns from each by itself, and the version is a partial one.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
from pydantic import Field

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lake.resource import LakeResource
from lakehouse_assets.lifecycle.engine import engine
from lakehouse_assets.lifecycle.evidence import save_backtest
from lakehouse_assets.lifecycle.fleet import ASKED_TAG, PARTIAL, SCOPE_TAG, SINCE_CHANGE_TAG, FleetRegistry, say
from lakehouse_assets.lifecycle.names import REPORT_TAG, REQUESTED_AT_TAG, TRIGGER_TAG, Names
from lakehouse_assets.lifecycle.pictures import picture_metadata
from lakehouse_assets.lifecycle.promotion import not_trained
from lakehouse_assets.lifecycle.retraining import begins
from lakehouse_assets.lifecycle.scope import scope_of
from lakehouse_assets.ml.definition import (
    BacktestResult,
    Choosing,
    FittedModel,
    ModelDefinition,
    Search,
    Searching,
    TooLittleHistory,
    Trial,
)
from lakehouse_assets.ml.window import training_window
from lakehouse_assets.registry.resource import RegistryResource
from lakehouse_assets.registry.training_run import TrainingRun
from lakehouse_assets.settings import get_settings

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


class TrainingConfig(dg.Config):
    """What a person may ask of a training."""

    members: list[str] = Field(
        default=[], description="Train these alone; without any: all, or those for whom a drift report says it pays."
    )


def training_asset(definition: ModelDefinition) -> dg.AssetsDefinition:
    """The asset `models/<name>`; a run in which no training pays makes nothing, and says why."""
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
        output_required=False,
    )
    def train(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        lake: LakeResource,
        registry: RegistryResource,
        clock: Clock,
    ) -> Iterator[dg.MaterializeResult]:
        if not begins(context.instance, names, context.run):
            context.log.warning("another training was asked for at the same time; this one gives way to it")
            return
        kind, store, settings = definition.kind, registry.registry(), get_settings()
        table = lake.lake().table(definition.features)
        pins = {definition.features: table.version()}
        rows = table.scan(pins[definition.features])
        cutoff: datetime | None = rows.select(pl.col(kind.time_column).max()).collect().item()
        if cutoff is None:
            raise dg.Failure(f"{definition.features} has no rows yet: there is too little history to train on.")
        fleet = FleetRegistry(definition.name, store, lake.lake())
        in_force = fleet.assignment()
        scope = scope_of(definition, lake.lake(), in_force, context.run.tags.get(REPORT_TAG), config.members)
        if scope.members == ():
            context.log.info(f"not trained: {scope.reason}")
            told = not_trained(definition, fleet, lake.lake(), context.run, scope.reason, clock.now())
            context.log_event(dg.AssetObservation(names.training, metadata=told))
            context.instance.report_runless_asset_event(dg.AssetMaterialization(names.promotion, metadata=told))
            return
        if scope.members is not None:
            rows = _of_members(definition, rows, scope.members)
        groups = member_groups(definition, rows)
        count = table.row_count(pins[definition.features])
        context.log.info(f"{count:,} rows of {definition.features}, version {pins[definition.features]}")
        context.log.info(f"trained: {'all' if scope.members is None else say(scope.members)}; {scope.reason}")
        window, learned_from = training_window(definition.retrain.window, scope.breaks, cutoff)
        dataset = kind.dataset(rows)
        fitted_champion = fleet.load(kind, in_force, scope.members)
        champion = store.get(definition.name, "champion")
        tags = {
            "trigger": context.run.tags.get(TRIGGER_TAG, "manual"),
            "code_version": code_version(definition),
            "champion_version": champion.version if champion else "",
            SINCE_CHANGE_TAG: in_force.change if in_force else 0,
            SCOPE_TAG: "whole" if scope.members is None else PARTIAL,
            ASKED_TAG: scope.reason,
            "learned_from": learned_from,
        }
        with (
            TemporaryDirectory(prefix="lakehouse_training_") as workspace,
            store.run(
                definition.name, f"training of {cutoff:%Y-%m-%d}", tags=tags, dagster_run_id=context.run_id
            ) as run,
        ):
            run.params({"seed": settings.seed, "cutoff": cutoff.isoformat(), "pins": json.dumps(pins)})
            can_search = isinstance(kind, Searching)
            candidates = "auto" if settings.candidates == "auto" and can_search else definition.candidates
            searched = None
            if settings.candidates == "deep" and isinstance(candidates, Mapping):
                candidates = {**candidates, **definition.deep}
            if scope.members is not None and isinstance(kind, Choosing):
                candidates = kind.candidates_of_some(candidates, fitted_champion)
            if not isinstance(candidates, Mapping):
                if not isinstance(kind, Searching):
                    raise dg.Failure(f"{kind.name} has no search for candidates: name those of {definition.name}.")
                search = candidates if isinstance(candidates, Search) else Search()
                report = _reporter(context, run)
                searched = kind.search(dataset, search, cutoff=cutoff, seed=settings.seed, report=report)
                candidates = searched.candidates
            try:
                with engine(settings):
                    result = kind.backtest(
                        dataset,
                        candidates,
                        cutoff=cutoff,
                        champion=fitted_champion,
                        window=window,
                        seed=settings.seed,
                        workspace=Path(workspace),
                        progress=context.log.info,
                    )
            except TooLittleHistory as reason:
                context.log.warning(f"not trained: {reason}")
                run.tags({"not_trained": str(reason)})
                told = {"decision": "not_trained", "reason": str(reason)}
                context.log_event(dg.AssetObservation(names.training, metadata=told))
                return
            summary = result.summary()
            for name, metrics in summary.items():
                with run.child(name) as child:
                    if name in result.fitted:
                        child.params(result.fitted[name].parameters())
                    by_epoch = enumerate(result.curves.get(name, ()), start=1)
                    child.curve([(0, metrics), *_metrics_by_fold(result, name), *by_epoch])
            pictures = {**(searched.pictures if searched else {}), **kind.pictures(result)}
            for name, png in pictures.items():
                run.artifact_bytes(f"pictures/{name}.png", png)
            save_backtest(run, result, groups, champion.version if champion else None)
            challenger = result.fitted[result.best]
            trained = {"members_trained": len(challenger.series_ids)}
            run.tags(trained)
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
                    **trained,
                    "candidate": result.best,
                    "primary": result.primary,
                    "leaderboard": json.dumps(standing(summary, result.primary)),
                    "seed": settings.seed,
                    "trained_at": clock.now().isoformat(),
                    "cutoff": cutoff.isoformat(),
                    "requested_at": context.run.tags.get(REQUESTED_AT_TAG, clock.now().isoformat()),
                },
            )
        yield dg.MaterializeResult(
            metadata={
                "version": version,
                SCOPE_TAG: tags[SCOPE_TAG],
                ASKED_TAG: scope.reason,
                "learned_from": learned_from,
                **trained,
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


def _of_members(definition: ModelDefinition, rows: pl.LazyFrame, members: tuple[str, ...]) -> pl.LazyFrame:
    """The rows of some members; the range beside the list lets the reader skip files and groups of rows."""
    member = pl.col(definition.kind.member)
    mine = rows.filter(member.is_between(pl.lit(members[0]), pl.lit(members[-1])), member.is_in(members))
    found = mine.select(member.unique()).collect(engine="streaming").to_series()
    if missing := sorted(set(members) - set(found)):
        raise dg.Failure(f"{definition.features} has no rows of {say(missing)}: nothing of them can be trained.")
    return mine


def _reporter(context: dg.AssetExecutionContext, run: TrainingRun) -> Callable[[Trial], None]:
    """Each trial of a search as a nested MLflow run, as it ends."""

    def report(trial: Trial) -> None:
        said = f"{trial.losses[-1]:.4f}" if trial.losses else trial.reason
        context.log.info(f"trial {trial.number} {trial.family}: {trial.state}, {said} ({trial.seconds:.1f} s)")
        tags = {"trial": trial.number, "family": trial.family, "state": trial.state, "reason": trial.reason}
        with run.child(f"trial {trial.number} {trial.family}", tags) as child:
            child.params(trial.candidate.parameters())
            child.metrics({"seconds": trial.seconds})
            child.curve((step, {"loss": loss}) for step, loss in enumerate(trial.losses))

    return report


def code_version(definition: ModelDefinition) -> str:
    """A hash of the source of the model's kind and of the room that it lies in: it changes when the recipe may."""
    folder = Path(str(sys.modules[type(definition.kind).__module__].__file__)).parent
    digest = hashlib.sha256(repr(definition).encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def member_groups(definition: ModelDefinition, rows: pl.LazyFrame) -> dict[str, str | None] | None:
    """Whom a prediction is of (the second key) -> group, from the feature table; None when the model has no groups."""
    if definition.group is None or definition.group not in rows.collect_schema():
        return None
    entity, group = definition.kind.keys[1], pl.col(definition.group)
    latest = rows.group_by(entity).agg(group.sort_by(definition.kind.time_column).last()).sort(entity)
    return dict(latest.collect(engine="streaming").iter_rows())


def standing(summary: Mapping[str, Mapping[str, float]], primary: str) -> dict[str, dict[str, float]]:
    """The primary metric of each candidate, and its interval where the kind has one; the best first, ten at most."""
    names = [primary, f"{primary}_low", f"{primary}_high"]
    return {
        candidate: {
            name: round(value, 6) for name in names if (value := metrics.get(name)) is not None and math.isfinite(value)
        }
        for candidate, metrics in list(summary.items())[:10]
    }


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
