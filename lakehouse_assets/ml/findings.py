"""Findings in words: which are the same from one report to the next, and what each says in plain sentences.

A finding is a JSON-able mapping as :func:`lakehouse_assets.ml.drift.findings` makes it: ``kind`` (drift, regime, input,
quality), ``scope``, ``members``, ``since``, and what the kind knows of its size. What is not known here is shown as it
is, so that a new kind needs no change.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from zoneinfo import ZoneInfo

Finding = Mapping[str, Any]
Quote = Callable[[str], str]

SAME_MEMBERS = 0.5
"""Two findings of one kind are the same when they share at least this part of all members of either (Jaccard)."""
NAMED = 3
"""So many members are named in a sentence."""
# Said in sentences; all else that a finding holds is shown as it is.
_SAID = {
    *("id", "kind", "scope", "members", "since", "until", "regret", "expected_gain", "hours", "fault"),
    *("report", "first_report", "channel", "what", "says", "bias", "error_change", "input"),
}
_KINDS = {"drift": "Drift", "regime": "Change of regime", "input": "Changed input", "quality": "Fault of measurement"}
MOVED = {
    "series_id": "series",
    "column": "input",
    "reference_mean": "mean before",
    "current_mean": "mean now",
    "wasserstein": "distance",
    "usual": "usual distance",
}
"""What is shown of the statistics of the inputs, and what it is called."""


def identified(findings: Sequence[Finding], earlier: Sequence[Finding], report: str) -> list[dict[str, Any]]:
    """The findings of a report with ``report``, ``id`` and ``first_report``, of those of earlier reports that go on.

    earlier: identified findings of former reports, the latest first. One goes on in one of the same kind that shares
    most of its members and did not begin after it was told of.
    """
    places = defaultdict(list)
    for i, one in enumerate(earlier):
        for member in one["members"]:
            places[member].append(i)
    lent: set[str] = set()
    out = []
    for finding in findings:
        common = Counter(i for member in finding["members"] for i in places[member])
        part = {
            i: count / (len(finding["members"]) + len(earlier[i]["members"]) - count)
            for i, count in common.items()
            if earlier[i]["id"] not in lent
            and _sort(earlier[i]) == _sort(finding)
            and (day_of(finding.get("since"), "UTC") or "") <= earlier[i]["report"]
        }
        # Of those that share most, the latest.
        nearest = max(part, key=lambda i: (part[i], -i), default=None)
        if nearest is None or part[nearest] < SAME_MEMBERS:
            own = {"id": _name(finding, report), "first_report": report}
        else:
            own = {name: earlier[nearest][name] for name in ("id", "first_report")}
        lent.add(own["id"])
        out.append({**finding, **own, "report": report})
    return out


def _sort(finding: Finding) -> tuple[Any, ...]:
    """What findings have in common that can be the same."""
    return tuple(finding.get(name) for name in ("kind", "channel", "fault", "what"))


def _name(finding: Finding, report: str) -> str:
    """A name that is safe as that of a file, whatever the members are called."""
    content = repr((*_sort(finding), sorted(finding["members"])))
    return f"{_slug(str(finding['kind']))}-{_slug(report)}-{sha256(content.encode()).hexdigest()[:8]}"


def _slug(text: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in text)


def kind_of(finding: Finding) -> str:
    """The kind of a finding in words."""
    kind = str(finding["kind"])
    return _KINDS.get(kind, kind.replace("_", " ").capitalize())


def headline(finding: Finding, zone: str = "UTC", quote: Quote = str) -> str:
    """One line: what, where, since when, how large. quote: how the name of a member is written."""
    fault = f" ({_words(finding['fault'])})" if finding.get("fault") else ""
    line = f"{kind_of(finding)}{fault} in {named(finding['members'], quote)}"
    since = day_of(finding.get("since"), zone)
    if since:
        line += f" since {since}"
    size = _size(finding)
    return f"{line}: {size}" if size else line


def _size(finding: Finding) -> str | None:
    """How large, in a few words, by what the channel that found it measures."""
    if finding.get("says"):
        return str(finding["says"])
    said = []
    for name, words in (("regret", "above a fresh fit's"), ("error_change", "above those of its own history")):
        if _number(finding.get(name)) is not None:
            said.append(f"errors {percent(finding[name])} {words}")
    if _number(finding.get("bias")) is not None:
        said.append(f"a bias of {percent(finding['bias'])} of the load")
    if finding.get("input"):
        said.append(_words(finding["input"]))
    return ", ".join(said) or None


def sentences(finding: Finding, zone: str = "UTC") -> list[str]:
    """What a finding says: what happened, since when, how much, in which hours, and what a training would gain."""
    members, kind = finding["members"], finding["kind"]
    who, one = named(members), len(members) == 1
    out = []
    if kind == "drift":
        size = percent(finding.get("regret"))
        if finding.get("channel") == "error":
            out.append(f"For {who} the champion errs otherwise than its own history in comparable weeks lets expect.")
        else:
            worse = f"are {size} larger than" if size else "exceed"
            out.append(f"For {who} the champion's errors {worse} those of a fresh fit of its own recipe.")
    elif kind == "regime":
        left = "has left what its" if one else "have left what their"
        out.append(f"{who} {left} season lets expect, in level or in shape. Errors need not suffer.")
    elif kind == "input":
        out.append(f"What the model reads of {who} has moved further than it does by itself at this time of the year.")
    elif kind == "quality":
        fault = _words(finding["fault"]) if finding.get("fault") else "lasting fault"
        out.append(
            f"The values of {who} are wrong: {fault}. No training mends that, and one that learns from it does harm; "
            "mend the meter or the source."
        )
    else:
        out.append(f"{kind_of(finding)} in {who}.")
    since, until = (day_of(finding.get(name), zone) for name in ("since", "until"))
    if since:
        out.append(f"It began on {since}" + (f" and ended on {until}." if until else "."))
    if finding.get("scope") == "fleet" and len(members) > 1:
        out.append(f"It began in {len(members):,} series within a week of each other: one cause is likely.")
    if finding.get("hours"):
        out.append(f"Most of it lies in the hours {finding['hours']}.")
    gain = _number(finding.get("expected_gain"))
    if gain is not None:
        out.append(
            f"A training is expected to save {percent(gain)} of the error."
            if gain > 0
            else "A training is expected to save nothing."
        )
    return out


def facts(finding: Finding, zone: str = "UTC") -> dict[str, str]:
    """The same as short entries, by name."""
    hours = finding.get("hours")
    shown = {
        "size": _size(finding) if finding.get("regret") is None else None,
        "since": day_of(finding.get("since"), zone),
        "until": day_of(finding.get("until"), zone),
        "errors above a fresh fit's": percent(finding.get("regret")),
        "expected gain of a training": percent(finding.get("expected_gain")),
        "hours": str(hours) if hours else None,
        "series": f"{len(finding['members']):,}",
    }
    return {name: value for name, value in shown.items() if value}


def further(finding: Finding) -> dict[str, str]:
    """What a finding holds besides, as it is."""
    return {
        _words(name): _plain(value)
        for name, value in finding.items()
        if name not in _SAID and value not in (None, "", [])
    }


def named(members: Sequence[str], quote: Quote = str) -> str:
    """The members in words: all of them when they are few, else how many, and the first."""
    first = [quote(member) for member in members[:NAMED]]
    if len(members) > NAMED:
        return f"{len(members):,} series ({', '.join(first)}, ...)"
    return " and ".join([", ".join(first[:-1]), first[-1]] if len(first) > 1 else first) or "no series"


def day_of(time: Any, zone: str) -> str | None:
    """The local date of an ISO time; of one without a zone, its own; None where there is none."""
    if not isinstance(time, str):
        return None
    try:
        at = datetime.fromisoformat(time)
    except ValueError:
        return time
    return f"{at if at.tzinfo is None else at.astimezone(ZoneInfo(zone)):%Y-%m-%d}"


def weeks_between(report: str, later: str) -> float:
    """Weeks from one report to a later one, by the dates that name them."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(report)) / timedelta(weeks=1)


def percent(share: Any) -> str | None:
    """A share in percent; None where it is no number."""
    number = _number(share)
    return None if number is None else f"{100 * number:.{0 if abs(number) >= 0.1 else 1}f} %"


def moves(moved: Sequence[Mapping[str, Any]], members: Sequence[str], most: int = 60) -> list[dict[str, str]]:
    """Rows of the input statistics that are about these members, in words; the first ones, which moved most."""
    known = set(members)
    mine = [row for row in moved if row.get("series_id") in known][:most]
    return [{name: _plain(row[column]) for column, name in MOVED.items() if column in row} for row in mine]


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(name)} {_plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value)
    return "-" if value is None else str(value)
