"""Running one of the project's jobs in this process, on the home's instance, at a time of the clock's choosing."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lakehouse_assets.operation.errors import RunFailed
from lakehouse_assets.registry.liveness import process_tags

Reporter = Callable[[str], None]


class Operator:
    """Runs the jobs of a set of definitions on an instance.

    Args:
        definitions: the project's definitions.
        instance: where runs, events and ticks are kept.
        report: receives a line when a step begins, for a progress display.
    """

    def __init__(
        self, definitions: dg.Definitions, instance: dg.DagsterInstance, report: Reporter | None = None
    ) -> None:
        self.definitions = definitions
        self.instance = instance
        self.report = report or (lambda _: None)

    def run(
        self,
        job: str,
        *,
        at: datetime | None = None,
        tags: Mapping[str, str] | None = None,
        run_config: Mapping[str, object] | None = None,
        only: Sequence[dg.AssetKey] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run a job to its end.

        Args:
            job: the job's name.
            at: the time that the clock shows during the run; None for the real time.
            tags: tags of the run; a partition range is given by Dagster's own tags.
            run_config: configuration of the run's ops.
            only: these of the job's assets; by default all.

        Raises:
            RunFailed: a step failed, or a blocking check did.
        """
        config: dict = dict(run_config or {})
        if at is not None:
            config = {
                **config,
                "resources": {**config.get("resources", {}), "clock": {"config": {"at": at.isoformat()}}},
            }
        self.report(job)
        with _progress_of_steps(self.report):
            result = self.definitions.resolve_job_def(job).execute_in_process(
                instance=self.instance,
                run_config={**config, "loggers": {"progress": {}}},
                asset_selection=only,
                tags={**process_tags(), **(tags or {})},
                raise_on_error=False,
            )
        if not result.success:
            raise RunFailed(_describe_failure(job, result), result.run_id)
        return result


def _describe_failure(job: str, result: dg.ExecuteInProcessResult) -> str:
    lines = []
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            lines.append(f"step {event.step_key}: {error.message.strip() if error else 'failed'}")
    return f"run {result.run_id} of job {job!r} failed; " + ("; ".join(lines) or "see the run in `lakehouse ui`")


_listener: list[Reporter] = []


@contextmanager
def _progress_of_steps(report: Reporter) -> Iterator[None]:
    _listener.append(report)
    try:
        yield
    finally:
        _listener.pop()


@dg.logger
def progress_logger(_: dg.InitLoggerContext) -> logging.Logger:
    """A logger without a console: the command line shows one line of progress instead of Dagster's event log."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            meta = getattr(record, "dagster_meta", None) or {}
            event = meta.get("dagster_event")
            if not _listener:
                return
            if event is None and record.levelno >= logging.INFO:
                _listener[-1](f"{(meta.get('step_key') or '').replace('__', '/')}: {meta.get('orig_message', '')}")
            elif event is not None and event.event_type_value == "STEP_START":
                _listener[-1](str(event.step_key).replace("__", "/"))

    logger = logging.getLogger("lakehouse_assets.progress")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.handlers = [Handler()]
    return logger


@contextmanager
def progress_bar(
    console: Console, title: str, total: int | None = None
) -> Iterator[tuple[Reporter, Callable[[], None]]]:
    """A progress bar: yields a function that shows what is going on, and one that advances the bar by one."""
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, TextColumn("[dim]{task.fields[now]}"), console=console, transient=True) as progress:
        task = progress.add_task(title, total=total, now="")
        yield (lambda line: progress.update(task, now=line[:90])), (lambda: progress.advance(task))
