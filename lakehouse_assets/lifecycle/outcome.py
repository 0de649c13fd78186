"""What came of a drift report: whether a training was asked for, and how it ended, as the event log has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg

from lakehouse_assets.lifecycle.names import REPORT_TAG, REQUESTED_AT_TAG, Names
from lakehouse_assets.lifecycle.retraining import consider
from lakehouse_assets.ml.definition import ModelDefinition

FINAL = {
    "promoted": "a new champion",
    "promoted_in_part": "a new version for some series",
    "kept": "the champion stays",
    "failed": "the training failed",
}
"""The states after which nothing more comes of a report, in words."""


@dataclass(frozen=True)
class Outcome:
    """What was done about a report, in a sentence.

    state: ``none`` (no training), ``under_way``, ``to_repeat`` (one failed), ``promoted``, ``promoted_in_part`` (for
    some members), ``kept`` or ``failed`` (none is left to try).
    """

    state: str
    sentence: str

    @property
    def is_final(self) -> bool:
        """Whether nothing more will come of the report."""
        return self.state in FINAL


def outcome_of(instance: dg.DagsterInstance, definition: ModelDefinition, report: str, now: datetime) -> Outcome:
    """What has been done about a report so far; of the latest, why nothing."""
    names = Names(definition.name)
    runs = instance.get_runs(dg.RunsFilter(job_name=names.retrain_job, tags={REPORT_TAG: report}))
    if not runs:
        why = consider(instance, definition, now).refusal
        return Outcome("none", f"No training has been asked for: {why}." if why else "A training will be asked for.")
    asked = f"A training was asked for{_on(runs)}"
    for run in runs:
        decided = _decision(instance, names, run.run_id)
        if "decision" in decided:
            return _decided(asked, decided)
    if any(not run.is_finished for run in runs):
        return Outcome("under_way", f"{asked}; it is under way.")
    failed = sum(not run.is_success for run in runs)
    if failed >= definition.retrain.maximum_attempts:
        return Outcome("failed", f"{asked}; {_times(failed)}. Mend the cause, then run job {names.retrain_job}.")
    return Outcome("to_repeat", f"{asked}; {_times(failed)}, and it will be asked for again.")


def _decided(asked: str, decided: Mapping[str, Any]) -> Outcome:
    """What the gate said of the version that was trained."""
    reason = decided.get("reason", "")
    if decided["decision"] == "promoted":
        return Outcome("promoted", f"{asked}: version {decided['version']} was promoted. {reason}")
    if decided.get("series_moved"):
        version, moved = decided["version"], decided["series_moved"]
        said = f"{asked}: version {version} came into force for {moved:,} series. {reason}"
        return Outcome("promoted_in_part", said)
    if decided["decision"] == "not_trained":
        return Outcome("kept", f"{asked}, and nobody was trained: {reason}")
    return Outcome("kept", f"{asked}: the champion stays. {reason}")


def _times(failed: int) -> str:
    if not failed:
        return "it gave way to another"
    return "it failed" if failed == 1 else f"it failed {failed} times"


def _on(runs: Sequence[dg.DagsterRun]) -> str:
    """When the first was asked for."""
    days = [run.tags[REQUESTED_AT_TAG][:10] for run in runs if REQUESTED_AT_TAG in run.tags]
    return f" on {min(days)}" if days else ""


def _decision(instance: dg.DagsterInstance, names: Names, run_id: str) -> Mapping[str, Any]:
    """The metadata of the gate's decision in a run."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        made = entry.asset_materialization
        if made is not None and made.asset_key == names.promotion:
            return {name: value.value for name, value in made.metadata.items()}
    return {}
