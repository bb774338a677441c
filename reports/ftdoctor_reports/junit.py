"""The report as JUnit XML, as GitHub's actions, GitLab and Jenkins read it: a suite an area, a test case a cell.

It keeps to what the schemas of Jenkins (junit-10.xsd) and of Ant have in common: no attribute of `testsuites`, and what
a cell measured in the text of its failure. A finding that is accepted is skipped, with the reason; a cell that crashed
is an error. A cell that warns is a success, and what it measured stands in the output of its suite.
"""

from __future__ import annotations

import datetime
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from ftdoctor.machine import headline
from ftdoctor.results import CellResult, CheckRecord, Level, Outcome
from ftdoctor.wording import shorten, visible
from ftdoctor_reports import tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ftdoctor.cells import Cell
    from ftdoctor.results import Finding, Run, Skipped

LINE = 1_000
"""Characters of an attribute."""
BLOCK = 20_000
"""Characters of a traceback, or of what a cell printed."""
SUITE = 400_000
"""Characters of the output of a suite."""
FAILURES = 5_000_000
"""Characters of all failures, which share them: GitLab reads files of 30 MB, and each `&` takes five bytes of them."""
NOT_REDACTED = "not redacted: look through it before you attach it anywhere"


def render(run: Run) -> str:
    """Return the run as JUnit XML."""
    root = ET.Element("testsuites")
    areas: dict[str, list[CellResult | Skipped]] = {}
    every: list[CellResult | Skipped] = [*run.results, *_unreached(run)]
    for result in every:
        areas.setdefault(run.areas.get(result.probe, "other"), []).append(result)
    for number, (area, cells) in enumerate(areas.items()):
        root.append(_suite(run, number, area, cells))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _unreached(run: Run) -> Iterator[Skipped]:
    """Yield what was planned and has no result: the run was interrupted before."""
    known = {(r.probe, r.cell) for r in run.results}
    yield from (s for s in run.skipped if (s.probe, s.cell) not in known)


def _suite(run: Run, number: int, area: str, cells: Sequence[CellResult | Skipped]) -> ET.Element:
    room = FAILURES // max(1, sum(r.outcome.is_red for r in run.results))
    cases = [_case(run, area, cell, room) for cell in cells]
    seconds = sum(c.seconds for c in cells if isinstance(c, CellResult))
    suite = ET.Element(
        "testsuite",
        name=_name(area),
        package="ftdoctor",
        id=str(number),
        timestamp=_timestamp(run.started),
        hostname="localhost",  # whose machine it was is nobody's business
        tests=str(len(cases)),
        failures=str(sum(c.find("failure") is not None for c in cases)),
        errors=str(sum(c.find("error") is not None for c in cases)),
        skipped=str(sum(c.find("skipped") is not None for c in cases)),
        time=f"{seconds:.3f}",
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(run):
        ET.SubElement(properties, "property", name=_name(name), value=_line(value))
    suite.extend(cases)
    examined = [c for c in cells if isinstance(c, CellResult) and c.outcome.is_examined]
    ET.SubElement(suite, "system-out").text = _text(_within(_measured(examined)))
    ET.SubElement(suite, "system-err").text = "" if run.redaction.done else NOT_REDACTED
    return suite


def _properties(run: Run) -> Iterator[tuple[str, str]]:
    yield "ftdoctor", run.ftdoctor
    yield "verdict", tally.verdict(run)
    yield "profile", run.profile
    if run.model:
        yield "model", run.model
    yield "machine", headline(run.machine)
    yield "python", str(run.machine.get("python", ""))
    yield from run.stack.items()
    yield "redacted", "yes" if run.redaction.done else NOT_REDACTED


def _case(run: Run, area: str, result: CellResult | Skipped, room: int) -> ET.Element:
    class_ = _name(f"{area}.{result.probe}")  # Jenkins takes what stands before the last dot for a package
    case = ET.Element("testcase", classname=class_, name=_name(str(result.cell) or "everywhere"))
    case.set("time", f"{result.seconds:.3f}" if isinstance(result, CellResult) else "0.000")
    if not isinstance(result, CellResult) or result.outcome is Outcome.SKIPPED:
        ET.SubElement(case, "skipped", message=_line(result.reason))
        return case
    if not result.outcome.is_red:
        return case
    found = _findings(run, result.probe, result.cell)
    if found and all(f.accepted for f in found):
        ET.SubElement(case, "skipped", message=_line(f"accepted: {found[0].accepted}"))
        return case
    crashed = result.outcome is Outcome.CRASHED
    kind = "crashed" if crashed else result.raised.type if result.raised else "check"
    bad = ET.SubElement(case, "error" if crashed else "failure", type=_name(kind), message=_line(_summary(result)))
    told = shorten("\n".join(_evidence(result, found)), room)
    bad.text = shorten(_text(told), room)  # what was hidden takes more room when it is shown
    return case


def _findings(run: Run, probe: str, cell: Cell) -> list[Finding]:
    """Return what was found in a cell; where another probe speaks for this one, what that one found."""
    own = [f for f in run.findings if f.probe == probe and cell in f.cells]
    return own or [f for f in run.findings if probe in f.also]


def _summary(result: CellResult) -> str:
    """Say in a line what failed."""
    if result.raised is not None:
        return f"{result.raised.type}: {result.raised.message}"
    if result.outcome is Outcome.CRASHED or not result.failed_checks:
        return result.reason
    return _told(result.failed_checks[0])


def _told(check: CheckRecord) -> str:
    """Return a check in a line: what was measured, against what."""
    against = f", expected {check.expected}" if check.expected else ""
    tolerance = f" ({check.tolerance})" if check.tolerance else ""
    return f"{check.name}: measured {check.measured}{against}{tolerance}"


def _evidence(result: CellResult, found: Sequence[Finding]) -> Iterator[str]:
    """Yield the lines that a person needs who sees only this test case."""
    for finding in found:
        rows = (
            ("culprit", str(finding.culprit or "unknown: no line of a library raised it")),
            ("depends on", finding.dependence),
            ("cure", finding.cure),
            ("again", finding.again),
        )
        yield from (f"{label:<11}{text}" for label, text in rows if text)
    for check in result.checks:
        if not check.ok and check.level is not Level.NOTE:
            yield f"{check.level.value:<11}{_told(check)}" + (f": {check.why}" if check.why else "")
    if result.reason:
        yield f"reason     {result.reason}"
    if result.raised is not None:
        yield f"\n{shorten(result.raised.traceback, BLOCK)}"
    for warning in result.warnings:
        yield f"warning    {warning}"
    if result.output:
        yield f"\nprinted:\n{shorten(result.output, BLOCK)}"


def _measured(results: Iterable[CellResult]) -> Iterator[str]:
    """Yield a line for each measured comparison: the evidence of what passed, too."""
    for result in results:
        for check in result.checks:
            yield f"{result.probe} {result.cell} [{'ok' if check.ok else check.level.value}] {_told(check)}"


def _within(lines: Iterable[str]) -> str:
    """Return as many lines as a suite may hold, and say how many were left out."""
    kept, left_out, room = [], 0, SUITE
    for line in lines:
        room -= len(line) + 1
        if room > 0:
            kept.append(line)
        else:
            left_out += 1
    return "\n".join([*kept, *([f"[... {left_out} lines left out ...]"] if left_out else [])])


def _timestamp(started: str) -> str:
    """Return the beginning of the run in UTC, without its zone: Ant's schema takes none."""
    try:
        moment = datetime.datetime.fromisoformat(started)
    except ValueError:
        moment = datetime.datetime.fromtimestamp(0, datetime.timezone.utc)
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def _text(text: str) -> str:
    """Return what XML can hold: hidden characters as Python writes them."""
    return visible(text)


def _line(text: str) -> str:
    return _text(shorten(" ".join(text.split()), LINE))


def _name(text: str) -> str:
    """Return a name, which is never empty and begins and ends with no space."""
    return re.sub(r"\s+", " ", _line(text)).strip() or "unnamed"
