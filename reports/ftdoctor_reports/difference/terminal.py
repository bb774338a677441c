"""Two runs compared on a terminal: the verdict, then what speaks for it, then everything else that differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ftdoctor.wording import shorten, visible
from ftdoctor_reports.difference.findings import in_both
from ftdoctor_reports.difference.sections import sections

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ftdoctor_reports.difference.compare import Difference, Side
    from ftdoctor_reports.difference.findings import FindingChange
    from ftdoctor_reports.difference.sections import Row, Section

ROWS = 20
"""Rows of a section; the other ones are counted."""
TEXT = 300
WHOLE = 1500
"""Characters of what is to be done, which must not be cut."""
SHORT = 40
"""Texts up to this length share a line."""
STYLES = {"good": "green", "bad": "red", "warn": "yellow"}
VERDICTS = {"better": "bold green", "same": "bold green", "worse": "bold red", "not comparable": "bold yellow"}
FINDINGS = {"new": "bold red", "accepted no longer": "bold red", "gone": "green", "not looked for": "yellow"}
UNICODE = "→–·"
ASCII = str.maketrans({"→": "->", "–": "-", "·": "|"})
"""What stands for these characters of ours where the output cannot show them."""


@dataclass(frozen=True)
class Look:
    """What the terminal can show."""

    width: int
    ascii_only: bool = False

    def text(self, text: str, style: str = "", limit: int = TEXT) -> Text:
        """Return a text in which nothing is hidden, shortened."""
        shown = visible(shorten(text, limit)).replace("\n", "\\n")
        return Text(shown.translate(ASCII) if self.ascii_only else shown, style)


def render(difference: Difference, look: Look, *, quiet: bool = False) -> RenderableType:
    """Return what differs; if quiet, only the verdict and the findings that make B worse."""
    worse = [change for change in difference.findings if change.is_worse]
    told = look.text(difference.told, VERDICTS[difference.verdict])
    if quiet:
        return Group(told, *(part for change in worse for part in (Text(), _finding(change, look))))
    parts: list[RenderableType] = [_sides(difference, look), Text(), told]
    for change in difference.findings:
        if change.kind != "unchanged":
            parts += [Text(), _finding(change, look)]
    same = in_both(difference.findings)
    parts += [Text(), look.text(same, "dim")] if same else []
    for section in sections(difference):
        parts += [Text(), *_section(section, look)]
    return Group(*parts)


def _sides(difference: Difference, look: Look) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for mark, side in (("A", difference.a), ("B", difference.b)):
        table.add_row(mark, look.text(f"{side.name}: {side.verdict}"))
        table.add_row("", look.text(_about(side), "dim"))
    return table


def _about(side: Side) -> str:
    return f"{side.machine} · profile {side.profile} · {side.started}"


def _finding(change: FindingChange, look: Look) -> RenderableType:
    finding = change.finding
    shown = [("summary", finding.summary), ("changed", "; ".join(change.changes)), ("accepted", finding.accepted)]
    shown += [("culprit", str(finding.culprit) if finding.culprit else "unknown")]
    if change.b is not None:
        shown += [("depends on", finding.dependence), ("cure", finding.cure), ("again", finding.again)]
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for label, text in shown:
        if text:
            table.add_row(f"  {label}", look.text(text, limit=WHOLE if label in ("cure", "again") else TEXT))
    title = look.text(f"{change.told}: {finding.probe}", FINDINGS.get(change.kind, "bold"))
    return Group(title, table)


def _section(section: Section, look: Look) -> list[RenderableType]:
    """Return a section as a table where the terminal is wide enough for it, else as lines."""
    rows = section.rows[:ROWS]
    texts = [section.heads, *(row.texts for row in rows)]
    needed = sum(max(len(line[i]) for line in texts) + 2 for i in range(len(section.heads)))
    shown = _table(section, rows, look) if needed <= look.width else Group(*(_lines(section, r, look) for r in rows))
    more = [look.text(f"  and {len(section.rows) - ROWS} more", "dim")] if section.rows[ROWS:] else []
    return [look.text(section.title, "bold"), Padding(shown, (0, 0, 0, 2)), *more]


def _table(section: Section, rows: tuple[Row, ...], look: Look) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    if len(section.heads) > 1:
        table.add_row(*(look.text(head, "dim") for head in section.heads))
    for row in rows:
        table.add_row(*(look.text(text, STYLES.get(row.tone, "")) for text in row.texts))
    return table


def _lines(section: Section, row: Row, look: Look) -> RenderableType:
    """Return a row as what it is about, and below that the rest with its heads."""
    first = look.text("  ".join(text for text in row.texts[:2] if text), STYLES.get(row.tone, ""))
    rest = [f"{head}: {text}" for head, text in list(zip(section.heads, row.texts, strict=True))[2:] if text]
    short = " · ".join(text for text in rest if len(text) <= SHORT)
    lines = [short, *(text for text in rest if len(text) > SHORT)]
    return Group(first, *(Padding(look.text(line), (0, 0, 0, 2)) for line in lines if line))
