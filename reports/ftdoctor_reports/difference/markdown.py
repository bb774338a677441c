"""Two runs compared, as Markdown for a ticket: the verdict and the findings first, the rest folded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftdoctor_reports.difference.findings import in_both
from ftdoctor_reports.difference.sections import MARKS, sections
from ftdoctor_reports.markdown import LIMIT, NOT_REDACTED
from ftdoctor_reports.markdown.fit import Part, Shorter, fit
from ftdoctor_reports.markdown.text import CELL, ROWS, bullets, code, details, fence, labelled, prose, table

if TYPE_CHECKING:
    from ftdoctor_reports.difference.compare import Difference, Side
    from ftdoctor_reports.difference.findings import FindingChange
    from ftdoctor_reports.difference.sections import Section

OPEN = ("became-red", "versions")
"""Sections that are not folded, as far as they are short."""
FEW = 12
CODE = ("probe", "cell", "why", "name", "A", "B")
"""Columns of what stands in the runs; the other ones are words of ours."""


def render(difference: Difference, limit: int = LIMIT) -> str:
    """Return what differs in at most `limit` bytes of UTF-8."""
    shown = [change for change in difference.findings if change.kind != "unchanged"]
    parts = [Part(_head(difference)), *(_finding(change) for change in shown)]
    same = in_both(difference.findings)
    parts += [Part(prose(same))] if same else []
    return fit([*parts, *(_section(section, at) for at, section in enumerate(sections(difference)))], limit)


def _head(difference: Difference) -> str:
    lines = [f"## {MARKS[difference.verdict]} {prose(difference.told)}"]
    lines += [] if difference.redacted else [NOT_REDACTED]
    return "\n\n".join([*lines, bullets(_side(mark, s) for mark, s in (("A", difference.a), ("B", difference.b)))])


def _side(mark: str, side: Side) -> str:
    about = f"{prose(side.machine)} · profile {prose(side.profile, 40)} · {code(side.started, 40)}"
    return f"**{mark}** {code(side.name, CELL)}: {side.verdict} · {about}"


def _finding(change: FindingChange) -> Part:
    """Return a finding, which becomes a line, then nothing, where there is no room."""
    found = change.finding
    rows = [
        ("Changed", "; ".join(prose(text) for text in change.changes)),
        ("Accepted", prose(found.accepted)),
        ("Culprit", code(str(found.culprit)) if found.culprit else "unknown"),
        ("Depends on", prose(found.dependence) if change.b else ""),
        ("Cure", prose(found.cure, 1500) if change.b else ""),
    ]
    title = f"### {change.told}: {code(found.probe, CELL)}"
    again = f"Shown again by\n\n{fence(found.again, 'sh')}" if change.b and found.again else ""
    body = "\n\n".join(text for text in (title, code(found.summary), labelled(rows), again) if text)
    line = f"- {change.told}: {code(found.probe, CELL)}: {prose(found.summary, CELL)}"
    importance = 60 if change.is_worse else 30
    return Part(body, (Shorter(importance, "all but the summary of {}", line), Shorter(importance + 5, "{}")))


def _section(section: Section, at: int) -> Part:
    heads = section.heads
    rows = [[_cell(head, text) for head, text in zip(heads, row.texts, strict=True)] for row in section.rows[:ROWS]]
    shown = bullets(row[0] for row in rows) if len(heads) == 1 else table(heads, rows)
    if section.rows[ROWS:]:
        shown += f"\n\n{len(section.rows) - ROWS} more are in the JSON and the HTML form."
    is_open = section.id in OPEN and len(section.rows) <= FEW
    text = f"### {section.title}\n\n{shown}" if is_open else details(section.title, shown)
    return Part(text, (Shorter(50 - at, section.title.partition(":")[0].lower()),))


def _cell(head: str, text: str) -> str:
    return code(text, CELL) if head in CODE and text else prose(text, 2 * CELL)
