"""Counts that several formats show: the share that was examined, skips by reason, results by area."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from ftdoctor.results import CellResult, CheckRecord, Level, Outcome, Run
from ftdoctor.wording import count, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ftdoctor.cells import Cell
    from ftdoctor.results import Trial

WAYS = {"naive": "naive script", "library": "installed library", "ours": "ftdoctor"}
"""The ways of doing the same thing that stand beside each other, with their heads."""

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


def place(probe: str, cell: Cell) -> str:
    """Return the id under which a cell stands in every page, the same in each run: `probe:axis=value,axis=value`.

    What no plain name holds is percent-encoded, so that the parts can be told apart and a link is the id.
    """
    return f"{_part(probe)}:{','.join(f'{_part(axis)}={_part(value)}' for axis, value in cell.items)}"


def _part(name: str) -> str:
    return quote(name, safe="", errors="replace").replace("~", "%7E")  # which tells cells of one name apart


def examined(run: Run) -> int:
    """Return the number of cells whose promise was put to the test."""
    return sum(r.outcome.is_examined for r in run.results)


def skips(run: Run) -> list[tuple[str, int]]:
    """Return each reason for which cells were skipped with their number, most frequent first."""
    return Counter(s.reason for s in run.skipped).most_common()


def apart(run: Run) -> list[str]:
    """Return notes on how the cells of a run were kept apart, where that is not as usual."""
    told = []
    if run.isolation.mode == "fresh interpreters":
        told.append(f"each cell ran in a fresh interpreter: {run.isolation.reason}")
    if not run.isolation.memory_limit_enforced:
        told.append("memory limits could not be kept on this platform")
    return told


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


def selftest(trials: Iterable[Trial]) -> str:
    """Return what became of the faults that were put into the stack, in a line."""
    counted = Counter(t.verdict for t in trials)
    caught = f"{counted['caught']} of {count(counted['caught'] + counted['missed'], 'fault')} caught"
    red = count(counted["red without a fault"], "probe")
    return f"{caught}, {red} red without a fault, {counted['skipped']} skipped"


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


@dataclass(frozen=True)
class Compared:
    """One promise of a component over the cells in which it was measured: how often each way keeps it."""

    probe: str
    check: str
    cells: int
    holds: Mapping[str, int]
    """Way to the number of cells in which it holds."""
    measured: Mapping[str, int]
    """Way to the number of cells in which it was tried."""
    example: Mapping[str, str]
    """Way to what it measured in the first cell in which it does not hold, else in the first cell."""

    def share(self, way: str) -> str:
        """Return `3 of 4`, or nothing where this way was not tried."""
        tried = self.measured.get(way, 0)
        return f"{self.holds.get(way, 0)} of {tried}" if tried else ""


def compared(run: Run) -> list[Compared]:
    """Return the checks that measured other ways beside ours, in the order of the run."""
    found: dict[tuple[str, str], list[CheckRecord]] = {}
    for result in run.results:
        for check in result.checks:
            if check.beside:
                found.setdefault((result.probe, check.name), []).append(check)
    return [_compared(probe, name, checks) for (probe, name), checks in found.items()]


def _compared(probe: str, name: str, checks: list[CheckRecord]) -> Compared:
    ways: dict[str, list[tuple[bool, str]]] = {}
    for check in checks:
        for other in check.beside:
            ways.setdefault(other.way, []).append((other.ok, other.measured))
        ways.setdefault("ours", []).append((check.ok, check.measured))
    return Compared(
        probe=probe,
        check=name,
        cells=len(checks),
        holds={way: sum(ok for ok, _ in tried) for way, tried in ways.items()},
        measured={way: len(tried) for way, tried in ways.items()},
        example={way: min(tried, key=lambda t: t[0])[1] for way, tried in ways.items()},
    )
