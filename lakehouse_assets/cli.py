"""The `lakehouse` command: reads arguments, calls `operation`, prints; exit code 0, 1 (a run failed) or 2 (usage)."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column
from rich.table import Table as Grid

from lakehouse_assets.settings import Settings, SettingsError, read_settings

if TYPE_CHECKING:
    import dagster as dg

    from lakehouse_assets.lake.table import Lake
    from lakehouse_assets.lifecycle.fleet import Change
    from lakehouse_assets.ml.definition import ModelDefinition
    from lakehouse_assets.operation.execution import Operator
    from lakehouse_assets.operation.fleet import Act
    from lakehouse_assets.registry.tracking import Registry
    from lakehouse_assets.sources import simulated_customers, simulator

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=(
        "An open lakehouse for forecasting and machine learning on Dagster.\n\n"
        "Start with `lakehouse quickstart`, then look at what it made with `lakehouse ui`. "
        "For your own data write a declaration as in examples/ and `lakehouse run --config FILE`. "
        "All state lies in LAKEHOUSE_HOME; deleting that folder is a full reset."
    ),
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")]
ModelName = Annotated[str, typer.Argument(help="The registered model, such as demand_forecast.")]
OneSeries = Annotated[str | None, typer.Option("--series", help="One series alone.")]
OneGroup = Annotated[str | None, typer.Option("--group", help="The series of one group alone.")]


class UsageError(Exception):
    """The command line or the configuration is wrong; ends with exit code 2."""


def _settings() -> Settings:
    try:
        return read_settings()
    except SettingsError as error:
        raise UsageError(str(error)) from None


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time; write 2019-07-02 or 2019-07-02T06:00 (UTC unless it says)") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _step(text: str) -> timedelta:
    units = {"h": timedelta(hours=1), "d": timedelta(days=1)}
    if not (text[:-1].isdigit() and int(text[:-1]) > 0 and text[-1] in units):
        raise UsageError(f"{text!r} is no step; write 7d, 1d or 12h")
    return int(text[:-1]) * units[text[-1]]


@contextmanager
def _operator(settings: Settings) -> Iterator["Operator"]:
    """Definitions and instance of the home. Loaded late: a declaration must be in force before the tables load."""
    from lakehouse_assets.operation.execution import Operator
    from lakehouse_assets.operation.home import open_instance

    with open_instance(settings) as instance:
        from lakehouse_assets.definitions import defs

        yield Operator(defs, instance)


def _models() -> list[str]:
    from lakehouse_assets.definitions import models

    return [model.name for model in models()]


@app.command()
def quickstart() -> None:
    """Run the whole story on a simulated energy company, and tell it.

    A simulated world is landed and refined, a model is trained, promoted and put to work; then the world changes, the
    drift sensor notices, retrains, and the gate promotes the better model. Takes a few minutes; `make demo` runs this.
    """
    from lakehouse_assets.operation.quickstart import quickstart as tell

    tell(_settings(), out, _operator, _models)


@app.command()
def run(
    config: Annotated[Path, typer.Option("--config", "-c", help="Source declaration, as examples/eia930.yaml.")],
    until: Annotated[
        str | None, typer.Option(help="Use only rows that were known before this time (ISO, UTC); default: now.")
    ] = None,
) -> None:
    """Materialise everything once: land, refine, train, decide, predict, watch.

    Repeating the command does only what is new, and completes what was interrupted.
    """
    settings = _settings()
    at = _time(until) if until else datetime.now(UTC)
    _install(settings, config)
    from lakehouse_assets.operation.execution import progress_bar
    from lakehouse_assets.operation.run import STAGES, run_everything

    with _operator(settings) as operator:
        with progress_bar(out, "lakehouse run", total=len(STAGES)) as (report, advance):
            operator.report = report
            for number, stage in enumerate(run_everything(operator, _models(), at)):
                report(stage)
                if number:
                    advance()
        _print_status(operator.instance, settings)
        _print_conservation(settings)


@app.command()
def replay(
    start: Annotated[str, typer.Option(help="Beginning of the stretch (ISO, UTC).")],
    end: Annotated[str, typer.Option(help="End of the stretch (ISO, UTC).")],
    step: Annotated[str, typer.Option(help="How far the clock moves at a time: 1d, 7d, 12h.")] = "7d",
) -> None:
    """Operate a stretch of history as if it were live.

    The project's own schedules and sensors are ticked by a clock that moves through the stretch: rows are landed as
    they became known, every day is predicted and compared, drift is watched for, and models are retrained and promoted
    when the sensor, the schedule and the gate say so. Alerts are recorded, and sent to nobody.
    """
    settings = _settings()
    first, last, width = _time(start), _time(end), _step(step)
    if first >= last:
        raise UsageError(f"--start {start} does not lie before --end {end}")
    if not settings.declaration_path.exists():
        raise UsageError(f"{settings.home} holds no source yet: `lakehouse run --config FILE --until {start}` first")
    from lakehouse_assets.operation.execution import progress_bar
    from lakehouse_assets.operation.replay import replay as operate
    from lakehouse_assets.operation.replay import unsent

    if notice := unsent(settings):
        out.print(notice)
    with _operator(settings) as operator:
        with progress_bar(out, "lakehouse replay", total=-(-(last - first) // width)) as (report, advance):
            operator.report = report
            steps = operate(operator, first, last, width, after_step=lambda _: advance())
        failed = [run for one in steps for run in one.runs if not run.success]
        out.print(f"{len(steps)} steps, {sum(len(one.runs) for one in steps)} runs, {len(failed)} failed")
        for failure in failed:
            err.print(f"[red]{failure.asked_by}[/]: {failure.reason}")
        _print_status(operator.instance, settings)
    if failed:
        raise typer.Exit(1)


@app.command()
def status(
    as_json: AsJson = False,
) -> None:
    """Tables, models, drift and retrainings."""
    settings = _settings()
    from lakehouse_assets.operation.home import open_instance

    with open_instance(settings) as instance:
        if as_json:
            sys.stdout.write(json.dumps(_status(instance, settings), indent=2) + "\n")
        else:
            _print_status(instance, settings)


models_app = typer.Typer(
    help="What is in force: each model's champion, and each series' own.", rich_markup_mode="markdown"
)
app.add_typer(models_app, name="models")


@models_app.callback(invoke_without_command=True)
def list_models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models: champion, previous, challenger, series by version, pins, the last decision.

    `lakehouse models show MODEL` tells the history of its champions.
    """
    if context.invoked_subcommand is not None:
        return
    settings = _settings()
    from lakehouse_assets.operation.fleet import list_models as read
    from lakehouse_assets.operation.home import open_instance

    with open_instance(settings):
        found = read(*_stores(settings), _models())
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    grid = Grid("model", "champion", "previous", "challenger", "series by version", "pinned", "last decision", box=None)
    for name, model in found.items():
        aliases = (str(model[alias] or "-") for alias in ("champion", "previous", "challenger"))
        served = ", ".join(f"v{version}: {count:,}" for version, count in model["series"]["by_version"].items())
        last = model["last_decision"]
        said = f"{last['decided_at'][:10]} version {last['version']}: {last['reason']}" if last else "none yet"
        grid.add_row(name, *aliases, served or "-", str(model["series"]["pinned"]), said)
    out.print(grid)


@models_app.command()
def show(model: ModelName, series: OneSeries = None, as_json: AsJson = False) -> None:
    """The history of a model's champions with reasons; with --series, that of one series."""
    settings = _settings()
    from lakehouse_assets.operation.fleet import show as read
    from lakehouse_assets.operation.home import open_instance

    with open_instance(settings):
        found = read(*_stores(settings), _definition(model), series)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    of = f"series {series} of {model}" if series else model
    pinned = " (pinned)" if found.get("pinned") else ""
    out.print(f"{of}: version {found['champion']}{pinned} is in force")
    grid = Grid("decided", "decision", "version", "before", "reason", box=None)
    for row in found["history"]:
        before = str(row["previous_version"] or "-")
        grid.add_row(row["decided_at"][:19], row["decision"], str(row["version"]), before, row["reason"])
    out.print(grid)


new_app = typer.Typer(help="Write the file of a new model or table.", rich_markup_mode="markdown", no_args_is_help=True)
app.add_typer(new_app, name="new")


@new_app.command("model")
def new_model(
    name: Annotated[str, typer.Argument(help="Its name: of the file, the registered model and all its assets.")],
    kind: Annotated[str, typer.Option(help="What kind of model; a wrong one lists them.")],
) -> None:
    """Write a model's one file, which works at once on the demo's data; docs/your-own-model.md explains it.

    Deleting the file removes the model from the graph.
    """
    from lakehouse_assets.operation.new import new_model as write

    out.print(f"{write(name, kind)}: edit it, then `lakehouse retrain {name}`")


@new_app.command("table")
def new_table(key: Annotated[str, typer.Argument(help="ROOM/NAME, as gold/demand_weekly.")]) -> None:
    """Write a table's one file: contract, transform, asset and check. Deleting the file removes the table."""
    from lakehouse_assets.operation.new import new_table as write

    out.print(f"{write(key)}: edit it; `make ui` shows it in the graph")


@app.command()
def retrain(
    model: ModelName,
    series: Annotated[list[str] | None, typer.Option(help="Only this series; may be repeated.")] = None,
) -> None:
    """Train a challenger now, let the gate decide, and predict anew.

    With --series only these are trained, and decided about one by one; the fleet's champion stays.
    """
    settings = _settings()
    name = _definition(model).name
    from lakehouse_assets.operation.errors import RunFailed
    from lakehouse_assets.operation.execution import progress_bar
    from lakehouse_assets.operation.fleet import list_models as read
    from lakehouse_assets.operation.fleet import training_of, why_not_trained

    with _operator(settings) as operator:
        with progress_bar(out, "lakehouse retrain") as (report, _):
            operator.report = report
            result = operator.run(**training_of(name, series or ()))
        if why := why_not_trained(result, name):
            raise RunFailed(f"{name} was not trained: {why}", result.run_id)
        last = read(*_stores(settings), [name])[name]["last_decision"]
    out.print(f"{name}: version {last['version']}: {last['reason']}")


@app.command()
def rollback(model: ModelName, series: OneSeries = None, group: OneGroup = None) -> None:
    """Put the champion before in force again: of the whole fleet, of a group, or of one series.

    For the fleet this undoes the last promotion: what it moved moves back. Rolling back twice is coming back.
    """
    from lakehouse_assets.lifecycle.fleet import FleetRegistry

    before, done = _by_hand(model, series, group, FleetRegistry.roll_back)
    if series or group:
        out.print(f"{model}: {_counted(done.moved)} rolled back; {series or group}")
    else:
        moved = f"{_counted(done.moved)} moved, {done.stayed:,} stayed"
        out.print(f"{model}: version {before} is out of force, version {done.champion} is champion again ({moved})")


@app.command()
def pin(
    model: ModelName,
    series: OneSeries = None,
    group: OneGroup = None,
    version: Annotated[int | None, typer.Option(help="The version to pin to; default: the one in force.")] = None,
) -> None:
    """Hold the fleet, a group or one series at a version: the gate moves it no more until `lakehouse unpin`."""
    from functools import partial

    from lakehouse_assets.lifecycle.fleet import FleetRegistry

    _, done = _by_hand(model, series, group, partial(FleetRegistry.pin, version=version))
    out.print(f"{model}: {_counted(done.told)} pinned, {done.moved:,} of them moved; {done.pinned:,} are pinned in all")


@app.command()
def unpin(model: ModelName, series: OneSeries = None, group: OneGroup = None) -> None:
    """Let the gate decide again about the fleet, a group or one series; what is in force stays until it does."""
    from lakehouse_assets.lifecycle.fleet import FleetRegistry

    _, done = _by_hand(model, series, group, FleetRegistry.unpin)
    out.print(f"{model}: {_counted(done.told)} unpinned; {done.pinned:,} are pinned still")


def _counted(series: int) -> str:
    return "1 series" if series == 1 else f"{series:,} series"


def _by_hand(model: str, series: str | None, group: str | None, act: "Act") -> "tuple[int, Change]":
    if series is not None and group is not None:
        raise UsageError("give --series or --group, not both")
    settings = _settings()
    from lakehouse_assets.operation.fleet import by_hand
    from lakehouse_assets.operation.home import open_instance

    with open_instance(settings) as instance:
        return by_hand(*_stores(settings), _definition(model), instance, act, series=series, group=group)


def _stores(settings: Settings) -> "tuple[Lake, Registry]":
    from lakehouse_assets.lake.table import Lake
    from lakehouse_assets.registry.tracking import Registry

    return Lake.from_settings(settings), Registry(settings.mlflow_tracking_uri, settings.mlflow_artifact_root)


def _definition(model: str) -> "ModelDefinition":
    from lakehouse_assets.definitions import models

    found = next((one for one in models() if one.name == model), None)
    if found is None:
        raise UsageError(f"there is no model {model!r}; there are: {', '.join(_models())}")
    return found


@app.command()
def simulate(
    folder: Annotated[
        Path, typer.Argument(help="Where the landing files, their declaration and the truth are written.")
    ],
    start: Annotated[str, typer.Option(help="First day.")] = "2024-01-01",
    end: Annotated[str, typer.Option(help="Day after the last.")] = "2025-07-01",
    series: Annotated[int, typer.Option(min=1, help="Number of series.")] = 12,
    interval: Annotated[int, typer.Option(help="Minutes of an interval.")] = 60,
    change: Annotated[
        list[str] | None,
        typer.Option(help="A change of the world as KIND:DATE[:SIZE], such as tariff:2025-03-01; may be repeated."),
    ] = None,
    customers: Annotated[int, typer.Option(min=0, help="Number of customers at a time; 0: demand alone.")] = 2000,
    shock: Annotated[
        str | None, typer.Option(help="A rise of tariffs for customers as DATE[:SIZE], such as 2024-12-01.")
    ] = None,
    clean: Annotated[bool, typer.Option(help="Without the dirt of real life.")] = False,
) -> None:
    """Write the landing files of a simulated energy company, with its truth beside them. Seeded by LAKEHOUSE_SEED."""
    settings = _settings()
    from lakehouse_assets.sources.simulator import simulate as write

    try:
        world = write(
            folder,
            start=_time(start).date(),
            end=_time(end).date(),
            series=series,
            seed=settings.seed,
            scenarios=[_change(text) for text in change or ()],
            interval_minutes=interval,
            clean=clean,
            customers=customers,
            shock=_shock(shock),
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    out.print(f"{world.rows:,} rows in {len(world.files)} files; declaration {world.declaration}; truth {world.truth}")


@app.command()
def settings() -> None:
    """Every setting: its environment variable, the value in force, the default, and what it means."""
    current = _settings()
    for name, field in Settings.model_fields.items():
        value, default = (("" if each is None else each) for each in (getattr(current, name), field.default))
        out.print(f"[bold]LAKEHOUSE_{name.upper()}[/]={value}  [dim](default: {default})[/]", soft_wrap=True)
        out.print(f"    {field.description}", soft_wrap=True)


@app.command()
def ui() -> None:
    """Serve Dagster and MLflow until interrupted; both on LAKEHOUSE_HOST, 127.0.0.1 by default."""
    settings = _settings()
    from lakehouse_assets.operation.ui import serve

    raise typer.Exit(serve(settings, out))


def _change(text: str) -> "simulator.Change":
    from lakehouse_assets.sources.simulator import Change

    kind, _, rest = text.partition(":")
    day, _, size = rest.partition(":")
    return Change(kind, _time(day).date(), float(size or 1))


def _shock(text: str | None) -> "simulated_customers.TariffShock | None":
    from lakehouse_assets.sources.simulated_customers import TariffShock

    day, _, size = (text or "").partition(":")
    return TariffShock(_time(day).date(), float(size or 1)) if text else None


def _install(settings: Settings, config: Path) -> None:
    from lakehouse_assets.operation.home import install_declaration, prepare_home

    if not config.is_file():
        raise UsageError(f"there is no file {config}")
    prepare_home(settings)
    install_declaration(settings, config)


def _status(instance: "dg.DagsterInstance", settings: Settings) -> dict:
    from lakehouse_assets.operation.status import status as read

    return read(*_stores(settings), instance, _models())


def _print_status(instance: "dg.DagsterInstance", settings: Settings) -> None:
    current = _status(instance, settings)
    grid = Grid(Column("table", no_wrap=True), "version", "rows", "updated", box=None)
    for key, table in current["tables"].items():
        grid.add_row(key, str(table["version"]), f"{table['rows']:,}", table["updated_at"][:19])
    out.print(grid)
    for name, model in current["models"].items():
        champion = model["champion"]
        if champion is None:
            out.print(f"{name}: no champion yet")
            continue
        metrics = ", ".join(f"{key} {value:.4g}" for key, value in champion["metrics"].items())
        out.print(f"{name}: champion version {champion['version']} ({champion['candidate']}), backtest {metrics}")
        for candidate, measured in champion["candidates"].items():
            out.print(f"  {_measured(candidate, measured, champion['primary'])}")
        drift = model["drift"]
        out.print(f"  drift: {drift['verdict']} ({drift['series_drifted']} of {drift['series_tested']} series)")
        if drift["pages"]:
            out.print(f"  findings: {drift['pages']}", soft_wrap=True)
        if len(model["series"]["by_version"]) > 1 or model["series"]["pinned"]:
            served = ", ".join(f"{count:,} by version {v}" for v, count in model["series"]["by_version"].items())
            out.print(f"  series: {served}; {model['series']['pinned']:,} pinned")
        for retrain in model["retrains"]:
            out.print(
                f"  trained {retrain['requested_at'][:10]}, asked for by {retrain['trigger']}: {retrain['decision']}"
            )


def _measured(candidate: str, measured: dict[str, float], primary: str) -> str:
    """A candidate with its primary metric, and the interval of that where there is one."""
    said = (
        f"{candidate}: {primary} {measured[primary]:.4g}" if primary in measured else f"{candidate}: {primary} unknown"
    )
    low, high = measured.get(f"{primary}_low"), measured.get(f"{primary}_high")
    return said if low is None or high is None else f"{said} (95 % interval {low:.4g} to {high:.4g})"


def _print_conservation(settings: Settings) -> None:
    from lakehouse_assets.lake.table import Lake
    from lakehouse_assets.operation.conservation import rows_accounted_for

    out.print(rows_accounted_for(Lake.from_settings(settings)))


def main() -> None:
    """Entry point of the `lakehouse` command."""
    warnings.filterwarnings("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("dagster").setLevel(logging.ERROR)
    from lakehouse_assets.operation.errors import HomeError, RunFailed, WrongRequest
    from lakehouse_assets.sources.declaration import DeclarationError

    try:
        app()
    except (UsageError, DeclarationError, HomeError, WrongRequest) as error:
        err.print(f"[red]error:[/] {error}")
        sys.exit(2)
    except RunFailed as error:
        err.print(f"[red]failed:[/] {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
