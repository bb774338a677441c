"""The report on a terminal: head, a line of marks an area, then each finding with culprit, dependence and cure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ftdoctor import __version__
from ftdoctor.machine import headline
from ftdoctor.results import Finding, Outcome, Run
from ftdoctor.wording import count, printable, shorten
from ftdoctor_reports import tally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

MARKS = tuple(tally.MARKS.values())
STYLES = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "bold red",
    Outcome.WARNED: "yellow",
    Outcome.SKIPPED: "dim",
    Outcome.CRASHED: "bold magenta",
}
MARKS_SHOWN = 48
"""An area with more results than this shows numbers instead of a mark for each."""


def head(machine: Mapping[str, Any], stack: Mapping[str, str], model: str) -> RenderableType:
    """Return the first lines: what is examined, and whether a GPU is among it."""
    lines = [
        f"ftdoctor {__version__} · {headline(machine)}",
        " · ".join(f"{name} {version}" for name, version in stack.items())
        or "no library of the fine-tuning stack is installed",
    ]
    if model:
        lines.append(f"model {model}")
    return Group(*(Text(line) for line in lines))


def body(run: Run, quiet: bool = False, ascii_only: bool = False) -> RenderableType:
    """Return the rest: areas, the verdict in a line, findings, what was accepted, skipped and noted."""
    marks = tally.ASCII_MARKS if ascii_only else tally.MARKS
    parts: list[RenderableType] = []
    if not quiet:
        parts += [_areas(run, marks), Text()]
    parts.append(Text(tally.verdict(run), style="bold " + ("green" if run.outcome == "healthy" else "red")))
    for finding in run.findings:
        if not finding.accepted:
            parts += [Text(), _finding(finding, marks)]
    if not quiet:
        parts += [*_compared(run), *_rest(run, marks)]
    return Group(*parts)


def _areas(run: Run, marks: Mapping[Outcome, str]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for area, results in tally.by_area(run).items():
        line = Text()
        if len(results) <= MARKS_SHOWN:
            for result in results:
                line.append(marks[result.outcome], STYLES[result.outcome])
        else:
            counted = Counter(r.outcome for r in results)
            for outcome in Outcome:
                if counted[outcome]:
                    line.append(f"{marks[outcome]} {counted[outcome]}  ", STYLES[outcome])
        table.add_row(f"  {area}", line)
    return table


def _compared(run: Run) -> list[RenderableType]:
    """Return the promises of the components with the cells in which each way keeps them."""
    promises = tally.compared(run)
    if not promises:
        return []
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    for _ in tally.WAYS:
        table.add_column(no_wrap=True)
    table.add_row(Text("cells in which it holds", "dim"), *(Text(head, "dim") for head in tally.WAYS.values()))
    for promise in promises:
        shares = []
        for way in tally.WAYS:
            whole = promise.holds.get(way, 0) == promise.measured.get(way, 0)
            shares.append(Text(promise.share(way) or "-", "" if whole else "red"))
        table.add_row(Text(f"{promise.probe}: {promise.check}"), *shares)
    return [Text(), Padding(table, (0, 0, 0, 2))]


def _finding(finding: Finding, marks: Mapping[Outcome, str]) -> RenderableType:
    rows = [
        ("culprit", str(finding.culprit) if finding.culprit else "unknown: no line of a library raised it"),
        ("depends on", finding.dependence),
        ("cells", "" if finding.dependence else str(finding.cells[0])),
        ("cure", finding.cure),
        ("again", finding.again),
        ("also ends", ", ".join(finding.also)),
    ]
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for label, text in rows:
        if text:
            table.add_row(f"  {label}", Text(printable(text)))
    title = Text.assemble((f"{marks[Outcome.FAILED]} {finding.probe}", "bold red"), "  ", _text(finding.summary))
    return Group(title, table)


def _text(text: str) -> Text:
    return Text(printable(shorten(text, 300)))


def _rest(run: Run, marks: Mapping[Outcome, str]) -> list[RenderableType]:
    lines = [
        Text(f"{marks[Outcome.WARNED]} {result.probe}  {_text(text)}", "yellow") for result, text in tally.warned(run)
    ]
    lines += [
        Text(f"accepted  {f.probe} ({count(len(f.cells), 'cell')}): {f.accepted}", "dim")
        for f in run.findings
        if f.accepted
    ]
    lines += [Text(f"skipped   {count(number, 'cell')}: {reason}", "dim") for reason, number in tally.skips(run)]
    lines += [Text(f"note      {note}", "dim") for note in run.notes]
    if run.isolation.mode != "fork server":
        lines.append(Text(f"note      each cell ran in a fresh interpreter: {run.isolation.reason}", "dim"))
    if not run.isolation.memory_limit_enforced:
        lines.append(Text("note      memory limits could not be kept on this platform", "dim"))
    return [Text(), *lines] if lines else []
