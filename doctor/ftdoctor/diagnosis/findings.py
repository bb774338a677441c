"""From red cells to findings: cells with one cause are one finding, with its culprit, dependence and cure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ftdoctor.diagnosis.dependence import dependence
from ftdoctor.diagnosis.owner import culprit_of, frames_of_dump
from ftdoctor.results import CellResult, Culprit, Finding, Outcome
from ftdoctor_matrix import axes

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping, Sequence

    from ftdoctor.cells import Cell
    from ftdoctor.config import Accepted
    from ftdoctor.probe import Probe


def findings(
    results: Sequence[CellResult],
    probes: Mapping[str, Probe],
    accepted: Sequence[Accepted],
    today: datetime.date,
    model: str = "",
) -> tuple[Finding, ...]:
    """Merge red results into findings, in the order of the results; accepted ones come last.

    Results of several probes that were ended by the same line of a library are one finding of the first of them.
    """
    groups: dict[tuple[tuple[str, ...], str], list[CellResult]] = {}
    for result in results:
        if result.outcome.is_red:
            reason = acceptance(result, accepted, today)
            groups.setdefault((cause(result), reason), []).append(result)
    found = [_finding(group, results, probes, reason, model) for (_, reason), group in groups.items()]
    return tuple(sorted(found, key=lambda f: bool(f.accepted)))


def failures(result: CellResult) -> tuple[str, ...]:
    """Return the names of what failed in a cell: checks, `raises X`, or `crashes`."""
    named = [check.name for check in result.failed_checks]
    if result.raised is not None:
        named.append(f"raises {result.raised.type}")
    if result.outcome is Outcome.CRASHED:
        named.append("crashes")
    return tuple(named)


def cause(result: CellResult) -> tuple[str, ...]:
    """Return what results share when they have one cause: the raising line, or the first check that failed.

    What fails after it in the same cell is taken for its consequence. Only a line of a library is a cause that
    several probes can share.
    """
    line = culprit(result)
    if result.raised is not None:
        return ("raised", str(line)) if line else (result.probe, result.raised.type, result.raised.message)
    if result.outcome is Outcome.CRASHED:
        return ("crashes", result.reason, str(line or result.probe))
    return (result.probe, *(failures(result)[:1] or (result.reason,)), str(line))


def acceptance(result: CellResult, accepted: Sequence[Accepted], today: datetime.date) -> str:
    """Return the reason for which a red result is accepted, or an empty string."""
    for entry in accepted:
        if entry.covers(result.probe, result.cell, failures(result), today):
            return entry.reason
    return ""


def culprit(result: CellResult) -> Culprit | None:
    """Name whose line it is: the frame that raised or crashed, or the code that a failed check holds to its promise."""
    if result.raised is not None:
        return culprit_of(result.raised.frames)
    if result.outcome is Outcome.CRASHED:
        return culprit_of(frames_of_dump(result.output))
    for check in result.failed_checks:
        if check.owner is not None and check.owner.distribution:
            owner = check.owner
            return Culprit(owner.distribution, owner.version, owner.file, owner.line)
    return None


def summary(result: CellResult) -> str:
    """Say in a line what failed."""
    if result.raised is not None:
        outer = f"{result.raised.type}: {result.raised.message}"
        return f"{result.raised.origin}, seen as {outer}" if result.raised.origin else outer
    if result.outcome is Outcome.CRASHED:
        return result.reason
    if not result.failed_checks:
        return result.reason
    first = result.failed_checks[0]
    return f"{first.name}: measured {first.measured}, expected {first.expected}"


def _finding(
    group: Sequence[CellResult],
    results: Sequence[CellResult],
    probes: Mapping[str, Probe],
    accepted: str,
    model: str,
) -> Finding:
    # A probe of imports says best what a library that cannot be imported breaks.
    probe = probes[min(group, key=lambda r: not probes[r.probe].fresh).probe]
    own = [r for r in group if r.probe == probe.name]
    passing = [r.cell for r in results if r.probe == probe.name and r.outcome in (Outcome.PASSED, Outcome.WARNED)]
    depends = dependence([r.cell for r in own], passing)
    return Finding(
        probe=probe.name,
        summary=summary(own[0]),
        cells=tuple(r.cell for r in own),
        culprit=culprit(own[0]),
        depends_on=depends.on,
        dependence=depends.words,
        cure=probe.section("Cure"),
        again=_again(probe, own[0].cell, model),
        also=tuple(dict.fromkeys(r.probe for r in group if r.probe != probe.name)),
        accepted=accepted,
    )


def _again(probe: Probe, cell: Cell, model: str) -> str:
    """Return the command that examines one red cell again, the defaults left out."""
    words = ["ftdoctor", "check", "--profile", "quick", "--probe", probe.name]
    for axis, value in _not_default(probe, cell).items():
        words += ["--cell", f"{axis}={value}"]
    if model:
        words += ["--model", model]
    return shlex.join(words)


def _not_default(probe: Probe, cell: Cell) -> dict[str, str]:
    return {a: cell[a] for a in cell if cell[a] != probe.default(axes()[a]) or a == "device"}
