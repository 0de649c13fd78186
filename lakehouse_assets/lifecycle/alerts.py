"""Alerts: what a drift report found, and what came of it, told once to a webhook and by mail.

The sensor reads the event log, keeps what was done in the report's pages, and asks for a run for each message and
channel: a run can wait for a slow server, be seen when it fails, and be repeated, and nothing else waits for it. A
message's key is in its run key, so that it is asked for once, and in the message, for those that come twice.

A report that was made in a replay is about the past: its messages are recorded as runs that send nothing.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse_assets.lake.clock import Clock
from lakehouse_assets.lifecycle.delivery import NotDeliveredError, channels, deliver
from lakehouse_assets.lifecycle.names import ALERT_TAG, ATTEMPT_TAG, CHANNEL_TAG, REPLAYED_TAG, REQUESTED_AT_TAG, Names
from lakehouse_assets.lifecycle.outcome import FINAL, Outcome, outcome_of
from lakehouse_assets.lifecycle.reports import Reports, ReportsResource
from lakehouse_assets.ml import findings as words
from lakehouse_assets.ml.definition import ModelDefinition
from lakehouse_assets.settings import Settings, get_settings

REPEAT_WEEKS = 8
"""A finding that goes on is told of again after so many weeks."""
MAX_ATTEMPTS = 6
BACKOFF = timedelta(minutes=2)
"""Before the second attempt; four times as long before each further one: half a day in all."""
_MEMBERS, _FINDINGS = 20, 20
"""So many members and findings are in a message; the pages have all."""
_LATEST = 50
"""So many runs are looked through for what was not taken."""


@dataclass(frozen=True)
class Message:
    """What is sent: a mail's subject and text, a webhook's payload, and the key that all attempts share."""

    key: str
    subject: str
    text: str
    payload: Mapping[str, Any]


@dataclass
class Told:
    """The sensor's cursor.

    findings: id -> the report in which it was told of last. awaited: report -> its verdict, until its outcome is known.
    seen: the latest report. replayed: whether that was made in a replay, so that in truth nobody was told.
    """

    findings: dict[str, str] = field(default_factory=dict)
    awaited: dict[str, str] = field(default_factory=dict)
    seen: str | None = None
    replayed: bool = False

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "Told":
        """What a cursor says; none, or one that is not ours, says nothing."""
        try:
            return cls(**json.loads(cursor or "{}"))
        except (ValueError, TypeError):
            return cls()

    def to_cursor(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    def follow(self, report: str, verdict: str, outcomes: Mapping[str, Outcome]) -> list[str]:
        """Await the outcome of the latest report too; the awaited reports whose outcome has come, awaited no more."""
        if report != self.seen:
            # Whatever else is asked for, the newer report asks for.
            going_on = {one for one, outcome in outcomes.items() if outcome.state == "under_way" or outcome.is_final}
            self.awaited = {one: said for one, said in self.awaited.items() if one in going_on}
            if not outcomes[report].is_final:
                self.awaited[report] = verdict
            self.seen = report
        ended = [one for one in self.awaited if outcomes[one].is_final]
        self.awaited = {one: said for one, said in self.awaited.items() if one not in ended}
        return ended

    def news(self, findings: Sequence[Mapping[str, Any]], report: str) -> list[Mapping[str, Any]]:
        """The findings that nobody was told of, or long ago."""
        return [
            one
            for one in findings
            if one["id"] not in self.findings or words.weeks_between(self.findings[one["id"]], report) >= REPEAT_WEEKS
        ]

    def tell(self, findings: Sequence[Mapping[str, Any]], report: str) -> None:
        """Remember that these were told of; forget those of long ago."""
        self.findings |= {one["id"]: report for one in findings}
        self.findings = {
            name: told for name, told in self.findings.items() if words.weeks_between(told, report) <= REPEAT_WEEKS
        }


def findings_message(
    definition: ModelDefinition,
    settings: Settings,
    reports: Reports,
    about: Mapping[str, Any],
    news: Sequence[Mapping[str, Any]],
    outcome: Outcome,
) -> Message:
    """What a report found that nobody was told of, all of it in one message. about: the report's metadata."""
    report, zone = str(about["report"]), definition.schedules.time_zone
    listed = news[:_FINDINGS]
    known = len(about["findings"]) - len(news)

    def lines(quote: words.Quote) -> list[str]:
        out = [f"- {words.headline(one, zone, quote)}{_gain(one)}" for one in listed]
        if len(news) > len(listed):
            out.append(f"- and {len(news) - len(listed):,} more")
        if known:
            out.append(f"{known:,} told of before {'goes' if known == 1 else 'go'} on.")
        return [*out, outcome.sentence]

    count = f"{len(news):,} new {'finding' if len(news) == 1 else 'findings'}"
    file = reports.page(definition.name, report, listed[0]["id"]) if len(news) == 1 else reports.index(definition.name)
    return _message(
        definition,
        settings,
        "findings",
        report,
        f"{definition.name}: {count} in the report of {report}",
        lines,
        _link(settings, reports, file),
        {
            "verdict": about["verdict"],
            "champion_version": about["champion_version"],
            "findings": [_told(settings, reports, definition, report, one) for one in listed],
            "findings_new": len(news),
            "findings_known": known,
            "outcome": asdict(outcome),
        },
    )


def outcome_message(
    definition: ModelDefinition, settings: Settings, reports: Reports, report: str, verdict: str, outcome: Outcome
) -> Message:
    """What came of a report: a promotion, a challenger that lost, or trainings that failed for good."""
    return _message(
        definition,
        settings,
        "outcome",
        report,
        f"{definition.name}: {FINAL[outcome.state]}, after the report of {report}",
        lambda _: [outcome.sentence],
        _link(settings, reports, reports.index(definition.name)),
        {"verdict": verdict, "outcome": asdict(outcome)},
    )


def _message(
    definition: ModelDefinition,
    settings: Settings,
    event: str,
    report: str,
    title: str,
    lines: Callable[[words.Quote], list[str]],
    page: str,
    further: Mapping[str, Any],
) -> Message:
    key = f"{definition.name}:{report}:{event}"
    links = {
        "report": page,
        "asset": f"{settings.dagster_address}/assets/{'/'.join(Names(definition.name).drift.path)}",
    }
    where = [f"Report: {links['report']}", f"Dagster: {links['asset']}"]
    plain, chat = (
        "\n".join([title, *lines(quote), *where]) for quote in (_one_line, lambda name: f"`{_one_line(name)}`")
    )
    payload = {
        "text": _for_chat(chat),
        "id": key,
        "event": event,
        "model": definition.name,
        "report": report,
        **further,
        "links": links,
    }
    return Message(key, f"[lakehouse] {title}", plain, payload)


def _gain(finding: Mapping[str, Any]) -> str:
    gain = words.percent(finding.get("expected_gain"))
    return f"; a training is expected to save {gain}" if gain else ""


def _told(
    settings: Settings, reports: Reports, definition: ModelDefinition, report: str, finding: Mapping[str, Any]
) -> dict[str, Any]:
    members = finding["members"]
    return {
        **finding,
        "headline": words.headline(finding, definition.schedules.time_zone, _one_line),
        "members": members[:_MEMBERS],
        "members_total": len(members),
        "page": _link(settings, reports, reports.page(definition.name, report, finding["id"])),
    }


def _link(settings: Settings, reports: Reports, file: Path) -> str:
    if settings.reports_url is None:
        return str(file)
    return f"{settings.reports_url}/{file.relative_to(reports.folder).as_posix()}"


def _one_line(name: str) -> str:
    """A name as it may stand in a line: what somebody called a series must not look like lines of ours."""
    shown = "".join(c if c.isprintable() else " " for c in name).replace("`", "'")
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _for_chat(text: str) -> str:
    """Text that calls nobody: Slack's markup needs < and >, and the others' mentions a letter after the @."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@\u200b")


class AlertConfig(dg.Config):
    """A message, and the channel that it is sent by."""

    channel: str
    key: str
    subject: str
    text: str
    payload: dict[str, Any]


def alert_definitions(definition: ModelDefinition) -> dg.Definitions:
    """The job that sends a message, and the sensor that asks for it."""
    names = Names(definition.name)

    @dg.op(name=names.send, description="Send a message to a webhook or by mail.")
    def send(context: dg.OpExecutionContext, config: AlertConfig) -> None:
        if REPLAYED_TAG in context.run.tags:
            context.log.info(f"{config.channel}: not sent, since it is about a replay")
            return
        try:
            said = deliver(
                config.channel,
                get_settings(),
                key=config.key,
                subject=config.subject,
                text=config.text,
                payload=config.payload,
            )
        except NotDeliveredError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        context.log.info(said)

    @dg.job(
        name=names.alert_job,
        description="Tell a webhook or a mailbox what a drift report found, or what came of it.",
        executor_def=dg.in_process_executor,
        # A server that answers a byte at a time holds nobody for ever.
        tags={"dagster/max_runtime": "300"},
    )
    def alert() -> None:
        send()

    return dg.Definitions(jobs=[alert], sensors=[alert_sensor(definition, alert)])


def alert_sensor(definition: ModelDefinition, job: dg.JobDefinition) -> dg.SensorDefinition:
    """The sensor that tells what is new, and what came of it."""
    names = Names(definition.name)

    @dg.sensor(
        job=job,
        name=f"{definition.name}_alert_sensor",
        minimum_interval_seconds=60,
        default_status=get_settings().sensor_status("local", "production"),
        description=(
            "Keeps what was done about a drift report in its pages, and sends what is new to the channels that are set "
            "(LAKEHOUSE_ALERT_WEBHOOK, LAKEHOUSE_ALERT_EMAIL_TO). Runs in: local, production."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext, clock: Clock, reports: ReportsResource
    ) -> dg.SensorResult | dg.SkipReason:
        settings, pages, instance = get_settings(), reports.reports(), context.instance
        event = instance.get_latest_materialization_event(names.drift)
        made = event.asset_materialization if event else None
        about = {name: entry.value for name, entry in made.metadata.items()} if made else {}
        if "report" not in about:
            return dg.SkipReason("there is no drift report yet")
        report, verdict = str(about["report"]), str(about["verdict"])
        told = Told.from_cursor(context.cursor)
        made_by = instance.get_run_by_id(event.run_id) if event else None
        replayed = made_by is not None and REPLAYED_TAG in made_by.tags
        if told.replayed and not replayed:
            told.findings = {}  # nobody was told
        told.replayed = replayed
        followed = {**told.awaited, report: verdict}
        now = clock.now()
        outcomes = {one: outcome_of(instance, definition, one, now) for one in followed}
        for one, outcome in outcomes.items():
            try:
                pages.tell(definition.name, one, outcome.sentence)
            except OSError as error:
                context.log.warning(f"the pages of report {one} could not be written: {error}")
        ended = told.follow(report, verdict, outcomes)
        open_channels = channels(settings)
        if not open_channels:
            return dg.SensorResult(skip_reason="no channel is set to send alerts to", cursor=told.to_cursor())
        messages = [outcome_message(definition, settings, pages, one, followed[one], outcomes[one]) for one in ended]
        findings: Any = about.get("findings", ())
        news = told.news(findings, report)
        if news:
            messages.insert(0, findings_message(definition, settings, pages, about, news, outcomes[report]))
            told.tell(news, report)
        requests, waiting = ([], None) if replayed else _again(instance, names, open_channels, now)
        for message in messages:
            if not instance.get_runs(dg.RunsFilter(job_name=job.name, tags={ALERT_TAG: message.key}), limit=1):
                requests += [_request(names, message, channel, now, replayed) for channel in open_channels]
        if requests:
            return dg.SensorResult(run_requests=requests, cursor=told.to_cursor())
        return dg.SensorResult(skip_reason=waiting or f"all is told about report {report}", cursor=told.to_cursor())

    return sensor


def _request(names: Names, message: Message, channel: str, now: datetime, replayed: bool) -> dg.RunRequest:
    config = {"channel": channel, **asdict(message)}
    further = {REPLAYED_TAG: "true"} if replayed else {}
    return _attempt({"ops": {names.send: {"config": config}}}, message.key, channel, 1, now, further)


def _attempt(
    config: Mapping[str, Any], key: str, channel: str, attempt: int, now: datetime, further: Mapping[str, str] = {}
) -> dg.RunRequest:
    """further: tags besides those of every attempt."""
    return dg.RunRequest(
        run_key=f"{key}:{channel}:{attempt}",
        run_config=config,
        tags={
            ALERT_TAG: key,
            CHANNEL_TAG: channel,
            ATTEMPT_TAG: str(attempt),
            REQUESTED_AT_TAG: now.isoformat(),
            **further,
        },
    )


def _again(
    instance: dg.DagsterInstance, names: Names, open_channels: Sequence[str], now: datetime
) -> tuple[list[dg.RunRequest], str | None]:
    """Further attempts of messages that were not taken, each after a longer pause; and why there are none."""
    latest: dict[tuple[str, str], dg.DagsterRun] = {}
    for run in instance.get_runs(dg.RunsFilter(job_name=names.alert_job), limit=_LATEST):
        if ALERT_TAG in run.tags:
            # The latest first.
            latest.setdefault((run.tags[ALERT_TAG], run.tags[CHANNEL_TAG]), run)
    requests, waiting = [], []
    for (key, channel), run in latest.items():
        if not run.is_finished or run.is_success or channel not in open_channels:
            continue
        attempt = int(run.tags[ATTEMPT_TAG])
        if attempt >= MAX_ATTEMPTS:
            waiting.append(f"{key} could not be sent by {channel} in {attempt} attempts; see run {run.run_id}")
        elif now - datetime.fromisoformat(run.tags[REQUESTED_AT_TAG]) < BACKOFF * 4 ** (attempt - 1):
            waiting.append(f"{key} was not taken by {channel}; attempt {attempt + 1} comes later")
        else:
            # Without what else the run was given, such as a clock.
            requests.append(_attempt({"ops": run.run_config["ops"]}, key, channel, attempt + 1, now))
    return requests, "; ".join(waiting) or None
