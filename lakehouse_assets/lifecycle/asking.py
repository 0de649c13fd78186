"""Whether drift may ask for a training now: decided from a report and the trainings before, and from nothing else.

Pure, so that every history can be tried; :mod:`lakehouse_assets.lifecycle.retraining` reads both from the event log.
Nothing is remembered from one decision to the next: a finding that has to wait is found again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from lakehouse_assets.ml.definition import RetrainPolicy

MONTH = timedelta(days=30)
"""What `RetrainPolicy.maximum_a_month` means by a month."""


@dataclass(frozen=True)
class Report:
    """A drift report that could judge the champion in force.

    champion: the version that it is about. members_due: the members for which a training pays; None in a report that
    does not say. together: the members have drifted as one, whether or not any of them has by itself.
    """

    name: str
    champion: str
    verdict: str
    members_due: int | None
    together: bool

    @property
    def finding(self) -> str:
        """What a training for this report is for: the same report about another champion is another finding."""
        return f"v{self.champion}:{self.name}"

    @property
    def asks(self) -> bool:
        """Whether there is something that a training would mend."""
        if self.verdict == "drift" and (self.members_due is None or self.together):
            return True
        return bool(self.members_due)


@dataclass(frozen=True)
class Training:
    """A training that was launched, and did not give way to another.

    finding: of the report that asked for it; None: the calendar or a person asked. decided: the gate has spoken, even
    if the run failed afterwards. asked_at: on the clock of who asked, and not after the time at which it is looked at.
    """

    run_id: str
    finding: str | None
    finished: bool
    decided: bool
    asked_at: datetime


def refusal(report: Report, trainings: Sequence[Training], policy: RetrainPolicy, now: datetime) -> str | None:
    """Why no training is asked for now, in one sentence; None: one is asked for.

    trainings: the latest ones, of every trigger; of the last month and of the report all that drift asked for.
    """
    said = f"report {report.name}"
    if not report.asks:
        pays = "drift, but a training would gain less than it costs" if report.verdict == "drift" else report.verdict
        return f"{said}: {pays}"
    attempts = [training for training in trainings if training.finding == report.finding]
    if any(training.decided for training in attempts):
        return f"{said} has been decided"
    under_way = [training.run_id for training in trainings if not training.finished]
    if under_way:
        return f"{said} waits: a training is under way, run {under_way[0]}"
    if len(attempts) >= policy.maximum_attempts:
        return f"{said}: {len(attempts)} trainings for it failed; mend the cause, then run the retraining job by hand"
    last = max((training.asked_at for training in trainings if training.decided), default=None)
    if last is not None and now - last < timedelta(days=policy.cooldown_days):
        return (
            f"{said} waits: the last training was asked for at {last:%Y-%m-%d %H:%M}; "
            f"cooling down for {policy.cooldown_days} days"
        )
    month = [t for t in trainings if t.finding is not None and now - t.asked_at < MONTH]
    if len(month) >= policy.maximum_a_month:
        return (
            f"{said} waits: drift has asked for {len(month)} trainings within {MONTH.days} days, "
            f"the most is {policy.maximum_a_month}"
        )
    return None
