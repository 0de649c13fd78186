"""The whole story on a simulated energy company: built, operated, changed, mended; and told to a newcomer."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.panel import Panel

from lakehouse_assets.lake.table import Lake
from lakehouse_assets.lifecycle.evidence import load_backtest
from lakehouse_assets.ml.definition import CHAMPION
from lakehouse_assets.operation.conservation import rows_accounted_for
from lakehouse_assets.operation.errors import RunFailed
from lakehouse_assets.operation.execution import Operator, progress_bar
from lakehouse_assets.operation.home import install_declaration, prepare_home
from lakehouse_assets.operation.replay import Step, Ticked, replay, replayed_until, unsent
from lakehouse_assets.operation.run import STAGES, run_everything
from lakehouse_assets.registry.tracking import Registry
from lakehouse_assets.settings import Settings
from lakehouse_assets.sources.simulated_customers import TariffShock
from lakehouse_assets.sources.simulator import Change, simulate

MODEL = "demand_forecast"
SERIES = 12
START, GO_LIVE, CHANGE, END = date(2024, 1, 1), date(2025, 3, 17), date(2025, 4, 7), date(2025, 5, 26)
CUSTOMERS = 1000
# Late enough that a model trained at go-live has hardly seen it, early enough that its churn is known by the end.
SHOCK = TariffShock(date(2024, 12, 1))
CHANGES = (Change("operator_model", CHANGE, 2.0), Change("tariff", CHANGE, 1.0))


def quickstart(
    settings: Settings,
    out: Console,
    operator_of: Callable[[Settings], AbstractContextManager[Operator]],
    models: Callable[[], list[str]],
) -> None:
    """Simulate a world, build the lakehouse on it, operate it through a change, and tell what happened.

    Repeating it goes on where it was interrupted, and tells the story again when it has ended.

    Raises:
        RunFailed: a run failed on the way; the others went on.

    Args:
        settings: the home.
        out: where the story is told.
        operator_of: opens the definitions and the instance of a home, once its declaration is in force.
        models: names the models that there are then.
    """
    prepare_home(settings)
    world = settings.landing / "simulated"
    if not (world / "source.yaml").exists():
        with out.status("simulating an energy company"):
            simulate(
                world,
                start=START,
                end=END,
                series=SERIES,
                seed=settings.seed,
                scenarios=CHANGES,
                customers=CUSTOMERS,
                shock=SHOCK,
            )
    install_declaration(settings, world / "source.yaml")
    out.print(
        f"A simulated energy company: {SERIES} districts, {START} to {END}, with an operator's day-ahead forecast, "
        f"{CUSTOMERS:,} customers, and the dirt of real life.\n"
        f"On {CHANGE} its world changes: the operator changes its forecasting habits, "
        "and a new tariff moves load to the night."
    )
    with operator_of(settings) as operator:
        live = _utc(GO_LIVE)
        if replayed_until(operator.instance) is None:
            with progress_bar(out, "build", total=len(STAGES)) as (report, advance):
                operator.report = report
                for number, stage in enumerate(run_everything(operator, models(), live)):
                    report(stage)
                    if number:
                        advance()
        out.print(f"[bold]Built[/] as of {GO_LIVE}: landed, refined, trained, promoted, forecast.")
        if notice := unsent(settings):
            out.print(notice)
        weeks = (END - GO_LIVE) // timedelta(weeks=1)
        failed: list[Ticked] = []
        with progress_bar(out, "operate", total=weeks) as (report, advance):
            operator.report = report

            def tell(step: Step) -> None:
                advance()
                for run in step.runs:
                    if not run.success:
                        failed.append(run)
                        out.print(f"{step.at:%Y-%m-%d}  [red]{run.asked_by}[/]: {run.reason}")
                    elif run.job.endswith("_retrain"):
                        out.print(f"{step.at:%Y-%m-%d}  {run.asked_by} asked for a training")

            replay(operator, live, _utc(END), timedelta(weeks=1), after_step=tell)
    _tell(settings, out, models())
    if failed:
        raise RunFailed(f"{len(failed)} runs failed, as told above", str(failed[0].run_id))


def _champion(registry: Registry, model: str) -> str:
    champion = registry.get(model, "champion")
    if champion is None:
        return f"{model}: no champion yet"
    said = f"champion of {model}: version {champion.version} ({champion.tags['candidate']}"
    primary = champion.tags.get("primary")
    return f"{said}; {primary} {champion.metrics[primary]:.4g} in its backtest)" if primary else f"{said})"


def _mended(lake: Lake, registry: Registry, model: str) -> list[str]:
    """What drift had trained anew and the gate promoted: old and new on the same rows, out of sample."""
    table = lake.table(f"registry/{model}")
    if not table.exists():
        return []
    rows = table.scan().filter(pl.col("trigger") == "drift", pl.col("decision") == "promoted").collect()
    said = []
    for row in rows.sort("version").iter_rows(named=True):
        with load_backtest(registry, row["mlflow_run_id"]) as backtest:
            summary, primary, best = backtest.result.summary(), backtest.result.primary, backtest.result.best
        old, new = summary[CHAMPION][primary], summary[best][primary]
        said.append(
            f"{model}: drifted, trained anew and promoted on {row['decided_at']:%Y-%m-%d}; "
            f"{primary} {old:.3f} before, {new:.3f} after"
        )
    return said


def _utc(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _tell(settings: Settings, out: Console, models: list[str]) -> None:
    lake = Lake.from_settings(settings)
    registry = Registry(settings.mlflow_tracking_uri, settings.mlflow_artifact_root)
    decisions = lake.table(f"registry/{MODEL}").scan().collect().sort("version")
    lines = [rows_accounted_for(lake), ""]
    for row in decisions.iter_rows(named=True):
        lines.append(
            f"{MODEL} version {row['version']}: trained {row['requested_at']:%Y-%m-%d}, "
            f"asked for by {row['trigger']}: {row['reason']}"
        )
    after = pl.col("decided_at") > _utc(CHANGE)
    mended = decisions.filter(after & (pl.col("trigger") == "drift") & (pl.col("decision") == "promoted"))
    if mended.height:
        lines += ["", *_old_and_new(lake, registry, mended.row(0, named=True))]
    lines += ["", *(_champion(registry, name) for name in models)]
    lines += [line for name in models if name != MODEL for line in _mended(lake, registry, name)]
    lines += [
        "",
        "Look at it:     make ui          the asset graph, its runs, checks and pictures; MLflow beside it",
        "Undo:           .venv/bin/lakehouse rollback demand_forecast",
        "Your own data:  .venv/bin/lakehouse run --config your.yaml   (another LAKEHOUSE_HOME; see examples/)",
        f"Reset:          delete {_short(settings.home)}",
    ]
    out.print(Panel("\n".join(lines), title="What happened", expand=False))


def _old_and_new(lake: Lake, registry: Registry, decision: dict) -> list[str]:
    """Both champions on the same hours, all of them after the newer one was trained."""
    since = decision["decided_at"]
    features = lake.table("features/demand").scan().filter(pl.col("issued_at") >= since).collect()
    actual = features.select("issued_at", "series_id", "ts", "value").filter(pl.col("value").is_not_null())
    said = []
    for name, version in (("old", decision["champion_before"]), ("new", decision["version"])):
        predicted = registry.load(MODEL, version).predict(features)
        both = predicted.join(actual, on=["issued_at", "series_id", "ts"])
        error = (pl.col("yhat") - pl.col("value")).abs()
        mae, mape = both.select(mae=error.mean(), mape=(error / pl.col("value")).mean()).row(0)
        said.append(f"  {name} champion (version {version}): mean absolute error {mae:.2f} MW, MAPE {mape:.2%}")
    return [f"After the change, on the same hours since {since:%Y-%m-%d}:", *said]


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
