"""Pages about findings: whole, safe whatever series are called, linked, and told what was done."""

import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.lifecycle.names import Names
from lakehouse_assets.lifecycle.reports import Report, Reports, index, page
from lakehouse_assets.ml.findings import identified
from lakehouse_assets_tests.lifecycle.conftest import House

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cf50"
    "0f0003860180f58d32b20000000049454e44ae426082"
)


def report(name: str = "2020-03-30", *groups: list[str], **further: Any) -> Report:
    found = [
        {
            "kind": "drift",
            "scope": "series",
            "members": members,
            "since": "2020-03-09T00:00:00+00:00",
            "regret": 0.12,
            "expected_gain": 0.09,
            "hours": "6 to 11 of the horizon",
            **further,
        }
        for members in groups or [["A"]]
    ]
    return Report("toy", name, 3, "drift", identified(found, [], name), [], "No training yet.", "UTC")


class Outline(HTMLParser):
    """The tags of a page, their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_needs_no_other_file_and_says_it_all() -> None:
    moved = [{"series_id": "A", "column": "temperature", "reference_mean": 4.0, "current_mean": 9.5}]
    known = replace(report(), moved=moved)
    shown = page(known, known.findings[0], {"regret": PNG, "before_and_after": PNG}, {"2020-03-23": "../x.html"})
    outline = Outline(shown)
    text = " ".join(" ".join(outline.text).split())
    for said in (
        "Drift in A since 2020-03-09: errors 12 % above a fresh fit's",
        "Most of it lies in the hours 6 to 11 of the horizon.",
        "No training yet.",
        "What moved with it",
        "temperature",
        "Told of before",
        "champion version 3",
    ):
        assert said in text
    sources = [value for name, value in outline.attributes if name == "src"]
    assert len(sources) == 2
    assert all(str(source).startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?:|@import|url\(|<script", shown)
    assert "default-src 'none'" in shown
    assert "prefers-color-scheme: dark" in shown
    assert "@media print" in shown


names = st.lists(
    st.text() | st.sampled_from(["<script>alert(1)</script>", '"><img src=x>', "{{ 7 * 7 }}", "&amp;", "</title>"]),
    min_size=1,
    max_size=4,
    unique=True,
)


@settings(deadline=None)
@given(names, st.text())
def test_whatever_series_are_called_a_page_has_the_same_tags(ids: list[str], word: str) -> None:
    moved = [{"series_id": one, "column": word} for one in ids]
    plain = [{"series_id": f"S{i}", "column": "x"} for i in range(len(ids))]
    outlines = [
        Outline(page(replace(known, moved=rows, done=done), known.findings[0], {}, {}))
        for known, rows, done in (
            (report("2020-03-30", ids, note=f"x{word}"), moved, word),
            (report("2020-03-30", [f"S{i}" for i in range(len(ids))], note="x"), plain, "x"),
        )
    ]
    assert outlines[0].tags == outlines[1].tags
    assert outlines[0].attributes == outlines[1].attributes
    assert ", ".join(ids) in "".join(outlines[0].text)
    listed = Outline(index("toy", [report("2020-03-30", ids)]))
    assert "script" not in listed.tags


def test_pages_are_written_linked_and_kept(tmp_path: Path) -> None:
    pages = Reports(tmp_path / "reports")
    first = report("2020-03-30", ["A"], ["B", "C"])
    ids = [one["id"] for one in first.findings]
    pages.write(first, {ids[0]: {"regret": PNG}})
    second = replace(
        first, name="2020-04-06", findings=identified([first.findings[0]], list(first.findings), "2020-04-06")
    )
    pages.write(second, {})
    assert all(pages.page("toy", "2020-03-30", one).exists() for one in ids)
    later = pages.page("toy", "2020-04-06", ids[0])
    assert f'href="../2020-03-30/{ids[0]}.html"' in later.read_text()
    assert (later.parent / f"../2020-03-30/{ids[0]}.html").resolve().exists()
    listed = pages.index("toy").read_text()
    assert listed.index("Report of 2020-04-06") < listed.index("Report of 2020-03-30")
    assert "first told of 2020-03-30" in listed
    for address in re.findall(r'href="([^"]*)"', listed):
        assert (pages.index("toy").parent / address).exists()
    assert not list(tmp_path.rglob("*.new"))


def test_what_was_done_is_told_later_and_pictures_and_statistics_stay(tmp_path: Path) -> None:
    pages = Reports(tmp_path)
    known = replace(report(), moved=[{"series_id": "A", "column": "temperature"}])
    (one,) = known.findings
    pages.write(known, {one["id"]: {"regret": PNG}})
    pages.tell("toy", known.name, "A training was asked for; version 4 was promoted.")
    shown = pages.page("toy", known.name, one["id"]).read_text()
    assert "version 4 was promoted" in shown
    assert "No training yet" not in shown
    assert "data:image/png" in shown
    # made anew by a run that computed no statistics
    pages.write(replace(known, moved=[]), {})
    shown = pages.page("toy", known.name, one["id"]).read_text()
    assert "temperature" in shown
    assert "data:image/png" in shown
    pages.tell("toy", "2019-01-01", "nothing is there")
    assert [report.name for report in pages.reports("toy")] == [known.name]


def test_a_drift_report_has_pages_and_lasts_without_them(house: House) -> None:
    assert house.run("toy_retrain", house.know(120)).success
    late = house.know(169)
    assert house.run("toy_monitor", late).success
    found, pages = _metadata(house)
    assert found
    assert pages == str(house.folder / "reports" / "toy" / "index.html")
    (name,) = {file.parent.name for file in (house.folder / "reports" / "toy").glob("*/*.html")}
    for one in found:
        assert one["first_report"] == name
        shown = (house.folder / "reports" / "toy" / name / f"{one['id']}.html").read_text()
        assert "data:image/png" in shown
        assert "What moved with it" in shown

    # told again a week later: the same findings go on, and the page of before is linked
    later = house.know(176)
    assert house.run("toy_monitor", later).success
    again, _ = _metadata(house)
    assert {one["id"] for one in again} & {one["id"] for one in found}
    assert any("Told of before" in file.read_text() for file in (house.folder / "reports").rglob("*.html"))

    # a folder that cannot be written costs the pages alone
    folder = house.folder / "reports"
    os.rename(folder, house.folder / "elsewhere")
    folder.write_text("not a folder")
    assert house.run("toy_monitor", house.know(183)).success
    unwritten, pages = _metadata(house)
    assert unwritten
    assert pages is None


def _metadata(house: House) -> tuple[list[dict[str, Any]], str | None]:
    event = house.instance.get_latest_materialization_event(Names("toy").drift)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    pages = metadata["pages"].value if "pages" in metadata else None
    return metadata["findings"].value, pages  # type: ignore[return-value]


@pytest.mark.parametrize("broken", ["{", '{"model": "toy"}'])
def test_a_damaged_report_is_left_out(tmp_path: Path, broken: str) -> None:
    pages = Reports(tmp_path)
    (tmp_path / "toy" / "2020-03-23").mkdir(parents=True)
    (tmp_path / "toy" / "2020-03-23" / "report.json").write_text(broken)
    pages.write(report(), {})
    assert [one.name for one in pages.reports("toy")] == ["2020-03-30"]
