"""The report as Markdown for a ticket: short first, the rest folded, never longer than GitHub takes.

Everything that came from outside goes through `text`. What does not fit gives way by its importance and is
named at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftdoctor.machine import headline
from ftdoctor.results import Outcome
from ftdoctor.wording import count
from ftdoctor_reports import tally
from ftdoctor_reports.markdown.fit import Part, Shorter, fit
from ftdoctor_reports.markdown.sections import about, checked, more, sections
from ftdoctor_reports.markdown.text import CELL, ROWS, bullets, code, details, fence, labelled, prose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftdoctor.results import CellResult, CheckRecord, Finding, Run

LIMIT = 65_000
"""Bytes of UTF-8; GitHub takes 65,536 characters."""
CHECKS = 5
"""Checks that do not hold and are shown before anything folded."""
FIRST, FEW = 3, 10
"""Findings that keep longest what is folded of them, and that keep longest more than a line."""
NOT_REDACTED = (
    "> **Not redacted:** this text may hold names, paths and secrets. Look through it before you attach it anywhere."
)
INTERRUPTED = "> **Interrupted:** not every planned cell was reached."


def render(run: Run, limit: int = LIMIT) -> str:
    """Return a whole run in at most `limit` bytes of UTF-8, of which the first lines need some thousand."""
    found = [_whole(run, one, number) for number, one in enumerate(run.findings, 1)]
    found = found or [Part("No promise was found broken.")]
    return fit([Part(_head(run, tally.verdict(run))), *found, Part("### The run"), *sections(run)], limit)


def finding(run: Run, found: Finding, limit: int = LIMIT) -> str:
    """Return one finding as a ticket of its own, with machine and versions."""
    title = f"{code(found.probe, CELL)}: {prose(found.summary, CELL)}"
    first = _first(run, found)
    return fit([Part(_head(run, title)), Part(_body(run, found, first)), *_folds(found, first), *about(run)], limit)


def _head(run: Run, title: str) -> str:
    """Return title, warnings about the report itself, machine and versions."""
    versions = [f"{prose(name, 40)} {code(version, 40)}" for name, version in list(run.stack.items())[:24]]
    how = [f"Python {code(str(run.machine.get('python', '?')), 40)}", f"profile {prose(run.profile, 40)}"]
    how += [prose(run.isolation.mode, 40), code(run.started, 40)]
    how += [f"model {code(run.model, CELL)}"] if run.model else []
    lines = [
        f"## ftdoctor {prose(run.ftdoctor, 40)}: {title}",
        "" if run.redaction.done else NOT_REDACTED,
        INTERRUPTED if run.interrupted else "",
        prose(headline(run.machine)),
        " · ".join(versions) or "No library of the fine-tuning stack is installed.",
        " · ".join(how),
    ]
    return "\n\n".join(line for line in lines if line)


def _whole(run: Run, found: Finding, number: int) -> Part:
    """Return a finding, which becomes first what is not folded of it, then a line, then nothing."""
    first = _first(run, found)
    mark = tally.MARKS[first.outcome if first else Outcome.FAILED]
    accepted = f"**Accepted:** {prose(found.accepted)}\n\n" if found.accepted else ""
    short = f"### {number}. {mark} {code(found.probe, CELL)}\n\n{accepted}{_body(run, found, first)}"
    line = f"- {code(found.probe, CELL)}: {prose(found.summary, CELL)}"
    folded, body, all_of_it = (62, 64, 66) if number <= FIRST else (45, 64, 66) if number <= FEW else (20, 28, 44)
    steps = (
        Shorter(folded, "what is folded of {}", short),
        Shorter(body, "all but the summary of {}", line),
        Shorter(all_of_it, "{}"),
    )
    return Part("\n\n".join([short, *(part.text for part in _folds(found, first))]), steps)


def _first(run: Run, found: Finding) -> CellResult | None:
    """Return the result of the first cell of a finding."""
    return next((r for r in run.results if r.probe == found.probe and r.cell in found.cells), None)


def _body(run: Run, found: Finding, first: CellResult | None) -> str:
    """Return what a finding says before anything folded."""
    broken = first.broken_checks if first else ()
    rows = [
        ("Promise", prose(run.promises.get(found.probe, ""))),
        ("Culprit", code(str(found.culprit)) if found.culprit else "unknown: no line of a library raised it"),
        ("Depends on", prose(found.dependence)),
        ("Cell", "" if found.dependence else ", ".join(code(str(cell), CELL) for cell in found.cells[:1])),
        ("Advisories", ", ".join(code(advisory, 80) for advisory in found.advisories[:12])),
        ("Cure", prose(found.cure, 1500)),
        ("Also ends", ", ".join(code(probe, 80) for probe in found.also[:12])),
    ]
    again = f"Shown again by\n\n{fence(found.again, 'sh')}" if found.again else ""
    parts = [code(found.summary), labelled(rows), _evidence(broken), again]
    return "\n\n".join(part for part in parts if part)


def _evidence(broken: Sequence[CheckRecord]) -> str:
    if not broken:
        return ""
    rest = f"\n\nAnd {count(len(broken) - CHECKS, 'more check')} of this cell." if broken[CHECKS:] else ""
    return checked(broken[:CHECKS], why=False) + rest


def _folds(found: Finding, first: CellResult | None) -> list[Part]:
    """Return what is folded under a finding."""
    folds = []
    if len(found.cells) > 1:
        listed = bullets(code(str(cell), CELL) or "no axes" for cell in found.cells[:ROWS])
        folds.append((30, "the cells", count(len(found.cells), "cell"), listed + more(found.cells)))
    if first is not None:
        where = f"In {code(str(first.cell), CELL)}\n\n" if first.cell.items else ""
        if first.checks:
            title = f"Evidence ({count(len(first.checks), 'check')})"
            folds.append((40, "the evidence", title, where + checked(first.checks)))
        if first.raised and first.raised.traceback:
            folds.append((50, "the traceback", "Traceback", where + fence(first.raised.traceback, "python")))
        if first.output:
            folds.append((20, "the output", "Output", where + fence(first.output)))
    return [Part(details(title, inside), (Shorter(rank, what),)) for rank, what, title, inside in folds]
