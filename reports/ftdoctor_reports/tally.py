"""Counts that several formats show: the share that was examined, skips by reason, results by area."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ftdoctor.results import CellResult, CheckRecord, Level, Outcome, Run
from ftdoctor.wording import count, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKS = {
    Outcome.PASSED: "✓",
    Outcome.FAILED: "✗",
    Outcome.WARNED: "!",
    Outcome.SKIPPED: "–",
    Outcome.CRASHED: "☠",
}
ASCII_MARKS = {
    Outcome.PASSED: "+",
    Outcome.FAILED: "X",
    Outcome.WARNED: "!",
    Outcome.SKIPPED: "-",
    Outcome.CRASHED: "#",
}


def by_area(run: Run) -> dict[str, list[CellResult]]:
    """Return the results of each area, in the order of the run."""
    areas: dict[str, list[CellResult]] = {}
    for result in run.results:
        areas.setdefault(run.areas.get(result.probe, "other"), []).append(result)
    return areas


def examined(run: Run) -> int:
    """Return the number of cells whose promise was put to the test."""
    return sum(r.outcome.is_examined for r in run.results)


def skips(run: Run) -> list[tuple[str, int]]:
    """Return each reason for which cells were skipped with their number, most frequent first."""
    return Counter(s.reason for s in run.skipped).most_common()


def verdict(run: Run) -> str:
    """Return the whole run in a line."""
    open_findings = sum(not f.accepted for f in run.findings)
    accepted = len(run.findings) - open_findings
    share = f"{examined(run)} of {count(run.planned, 'planned cell')} examined in {seconds(run.seconds)}"
    if run.outcome == "unexamined":
        found = "nothing could be examined"
    elif open_findings:
        found = count(open_findings, "finding")
    else:
        found = "no finding" if accepted else "healthy"
    if accepted:
        found += f", {accepted} accepted"
    if run.interrupted:
        found = f"interrupted: {found}"
    return f"{found}; {share}"


def warned(run: Run) -> Iterator[tuple[CellResult, str]]:
    """Yield each check that warns once a probe: its first result, and what was measured in how many cells."""
    seen: dict[tuple[str, str], list[tuple[CellResult, CheckRecord]]] = {}
    for result in run.results:
        for check in result.checks:
            if not check.ok and check.level is Level.WARN:
                seen.setdefault((result.probe, check.name), []).append((result, check))
    for found in seen.values():
        result, check = found[0]
        cells = f" (and {count(len(found) - 1, 'more cell')})" if len(found) > 1 else ""
        yield result, f"{check.name}: measured {check.measured}, expected {check.expected}{cells}"
