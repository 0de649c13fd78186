"""Pages about findings: one file of HTML a finding, which needs nothing else, and an index of each model's.

    <folder>/<model>/index.html
    <folder>/<model>/<report>/<finding>.html     to be read
    <folder>/<model>/<report>/report.json        what the pages are made from; pictures beside it
Pages of earlier reports stay. The lines of a page are written from report.json, so that what was done about a finding
can be told in it later.
"""

import base64
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from pydantic import Field

from lakehouse_assets.lifecycle.names import Names
from lakehouse_assets.ml import findings as words
from lakehouse_assets.ml.definition import DriftVerdict, ModelDefinition

if TYPE_CHECKING:
    from jinja2 import Environment

NOTHING_YET = "No training has been asked for yet."
Pictures = Mapping[str, Mapping[str, bytes]]
"""PNG pictures by the id of a finding and their name."""


@dataclass(frozen=True)
class Report:
    """What the pages of one report say.

    name: the report's, the local date at which its week ended. findings: with the ids of
    :func:`lakehouse_assets.ml.findings.identified`. moved: statistics of the inputs, a row each. done: what was done
    about them, in a sentence. zone: of the days that are named (IANA).
    """

    model: str
    name: str
    champion: int
    verdict: str
    findings: Sequence[Mapping[str, Any]]
    moved: Sequence[Mapping[str, Any]]
    done: str
    zone: str


@lru_cache(maxsize=1)
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Everything that is not a template is escaped: names of series are what somebody else wrote.
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)


def page(
    report: Report, finding: Mapping[str, Any], pictures: Mapping[str, bytes], earlier: Mapping[str, str] | None = None
) -> str:
    """The page about a finding: HTML that needs no other file. earlier: addresses of pages that told of it before."""
    shown = [(_title(name), base64.b64encode(png).decode()) for name, png in pictures.items()]
    return (
        _templates()
        .get_template("finding.html")
        .render(
            report=report,
            kind=words.kind_of(finding),
            headline=words.headline(finding, report.zone),
            sentences=words.sentences(finding, report.zone),
            facts=words.facts(finding, report.zone),
            pictures=shown,
            moves=words.moves(report.moved, finding["members"]),
            further=words.further(finding),
            members=", ".join(finding["members"]),
            earlier=list((earlier or {}).items()),
        )
    )


def index(model: str, reports: Sequence[Report]) -> str:
    """The page that lists a model's findings, report after report."""
    listed = [
        (
            report,
            [
                (
                    words.headline(finding, report.zone),
                    f"{report.name}/{finding['id']}.html",
                    finding["first_report"] if finding["first_report"] != report.name else None,
                )
                for finding in report.findings
            ],
        )
        for report in reports
    ]
    return _templates().get_template("index.html").render(model=model, reports=listed)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


class Reports:
    """The pages of all models in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def index(self, model: str) -> Path:
        """Where the list of a model's findings is."""
        return self.folder / model / "index.html"

    def page(self, model: str, report: str, finding: str) -> Path:
        """Where the page about a finding (its id) in a report is."""
        return self.folder / model / report / f"{finding}.html"

    def write(self, report: Report, pictures: Pictures) -> None:
        """Write the pages of a report, and the index anew.

        Written again, what the report says now holds; statistics that it does not have this time stay, as pictures do.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = self.folder / report.model / report.name
        folder.mkdir(parents=True, exist_ok=True)
        before = self.read(report.model, report.name)
        if before is not None and not report.moved:
            report = replace(report, moved=before.moved)
        for finding, drawn in pictures.items():
            for name, png in drawn.items():
                _replace(folder / f"{finding}.{name}.png", png)
        _replace(folder / "report.json", json.dumps(asdict(report), indent=1).encode())
        self._render(report)

    def tell(self, model: str, report: str, done: str) -> None:
        """Say in the pages of a report what was done about its findings; nothing, where there is no such report."""
        known = self.read(model, report)
        if known is not None and known.done != done:
            known = replace(known, done=done)
            _replace(self.folder / model / report / "report.json", json.dumps(asdict(known), indent=1).encode())
            self._render(known)

    def read(self, model: str, report: str) -> Report | None:
        """A report that was written; None where there is none, or a file that is none."""
        file = self.folder / model / report / "report.json"
        try:
            return Report(**json.loads(file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def reports(self, model: str) -> list[Report]:
        """All reports of a model that found something, the latest first."""
        names = sorted((file.parent.name for file in (self.folder / model).glob("*/report.json")), reverse=True)
        return [report for name in names if (report := self.read(model, name)) is not None]

    def _render(self, report: Report) -> None:
        folder, reports = self.folder / report.model / report.name, self.reports(report.model)
        told: dict[str, dict[str, str]] = defaultdict(dict)
        for one in reports:
            for finding in one.findings if one.name < report.name else ():
                told[finding["id"]][one.name] = f"../{one.name}/{finding['id']}.html"
        drawn: dict[str, list[Path]] = defaultdict(list)
        for file in sorted(folder.glob("*.png")):
            drawn[file.name.split(".")[0]].append(file)
        for finding in report.findings:
            pictures = {file.name.split(".")[1]: file.read_bytes() for file in drawn[finding["id"]]}
            written = page(report, finding, pictures, told[finding["id"]])
            _replace(self.page(report.model, report.name, finding["id"]), written.encode())
        _replace(self.index(report.model), index(report.model, reports).encode())


def _replace(file: Path, content: bytes) -> None:
    """Write a file as a whole: who reads it sees the old one or the new one."""
    with NamedTemporaryFile(dir=file.parent, prefix=".", suffix=".new", delete=False) as temporary:
        temporary.write(content)
    Path(temporary.name).chmod(0o644)
    Path(temporary.name).replace(file)


class ReportsResource(dg.ConfigurableResource):
    """The pages about findings."""

    folder: str = Field(description="Where they are written.")

    def reports(self) -> Reports:
        """The pages."""
        return Reports(Path(self.folder))


_REPORTS, _DRAWN = 8, 20
"""So many earlier reports a finding may go on from, and the largest of so many findings get pictures."""


def publish(
    context: dg.AssetExecutionContext,
    reports: Reports,
    definition: ModelDefinition,
    name: str,
    champion: int,
    verdict: DriftVerdict,
    moved: pl.DataFrame,
    history: pl.DataFrame,
    features: pl.LazyFrame,
) -> dict[str, dg.MetadataValue]:
    """Write the pages of a report, if it found anything; metadata: its findings with their ids, and the pages' index.

    A folder that cannot be written costs the pages, not the verdict. history: weekly losses, of whose features rows are
    drawn too.
    """
    found = words.identified(verdict.findings, _earlier(context.instance, Names(definition.name)), name)
    if not found:
        return {}
    report = Report(
        model=definition.name,
        name=name,
        champion=champion,
        verdict=verdict.verdict,
        findings=found,
        moved=json.loads(moved.write_json()),
        done=NOTHING_YET,
        zone=definition.schedules.time_zone,
    )
    drawn = {one["id"]: definition.kind.finding_pictures(history, features, one) for one in found[:_DRAWN]}
    shown: dict[str, dg.MetadataValue] = {"findings": dg.MetadataValue.json(found)}
    try:
        reports.write(report, drawn)
    except OSError as error:
        context.log.warning(
            f"the pages of report {name} could not be written: {error}; see to the folder, then run again"
        )
        return shown
    return {**shown, "pages": dg.MetadataValue.path(str(reports.index(definition.name)))}


def _earlier(instance: dg.DagsterInstance, names: Names) -> list[Mapping[str, Any]]:
    """The findings of the latest reports, the latest first, as the event log has them: pages may be elsewhere."""
    made = [record.asset_materialization for record in instance.fetch_materializations(names.drift, _REPORTS).records]
    told: list[Any] = [one.metadata["findings"].value for one in made if one is not None and "findings" in one.metadata]
    return [finding for findings in told for finding in findings if "report" in finding]
