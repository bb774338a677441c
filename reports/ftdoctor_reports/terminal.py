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
from ftdoctor.results import Finding, Outcome, Run, Trial
from ftdoctor.wording import count, shorten, visible
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
LINE = 1000
"""Characters of a line that came from outside."""
SHORT = 300


def head(
    machine: Mapping[str, Any], stack: Mapping[str, str], model: str, version: str = __version__
) -> RenderableType:
    """Return the first lines: what is examined, and whether a GPU is among it."""
    lines = [
        f"ftdoctor {version} · {headline(machine)}",
        " · ".join(f"{name} {version}" for name, version in stack.items())
        or "no library of the fine-tuning stack is installed",
    ]
    if model:
        lines.append(f"model {model}")
    return Group(*(Text(_text(line, 2 * LINE)) for line in lines))


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
        parts += [*_compared(run), *_selftest(run), *_rest(run, marks)]
    return Group(*parts)


def trial(made: Trial) -> Text:
    """Return what became of a fault that was put into the stack, in a line."""
    style = {"caught": "green", "clean": "green", "skipped": "dim"}.get(made.verdict, "bold red")
    detail = f": {_text(made.detail, LINE)}" if made.detail and made.verdict not in ("caught", "clean") else ""
    return Text.assemble((f"{made.verdict:<8}", style), f" {_text(made.probe)}  {_text(made.fault)}{detail}")


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
        table.add_row(Text(f"  {_text(area)}"), line)
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
        table.add_row(Text(_text(f"{promise.probe}: {promise.check}")), *shares)
    return [Text(), Padding(table, (0, 0, 0, 2))]


def _selftest(run: Run) -> list[RenderableType]:
    if not run.selftest:
        return []
    told = tally.selftest(run.selftest)
    return [Text(), Text(told, "" if all(t.ok for t in run.selftest) else "bold red")]


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
            table.add_row(f"  {label}", Text(_text(text, 4 * LINE)))
    title = Text.assemble((f"{marks[Outcome.FAILED]} {_text(finding.probe)}", "bold red"), "  ", _text(finding.summary))
    return Group(title, table)


def _text(text: str, limit: int = SHORT) -> str:
    """Return a text from outside so that it neither steers the terminal nor fills it."""
    return visible(shorten(text, limit))


def _rest(run: Run, marks: Mapping[Outcome, str]) -> list[RenderableType]:
    lines = [
        Text(f"{marks[Outcome.WARNED]} {_text(result.probe)}  {_text(text)}", "yellow")
        for result, text in tally.warned(run)
    ]
    told = [
        ("accepted", f"{f.probe} ({count(len(f.cells), 'cell')}): {f.accepted}") for f in run.findings if f.accepted
    ]
    told += [("skipped", f"{count(number, 'cell')}: {reason}") for reason, number in tally.skips(run)]
    told += [("note", note) for note in (*run.notes, *tally.apart(run))]
    lines += [Text(f"{label:<9} {_text(text, LINE)}", "dim") for label, text in told]
    return [Text(), *lines] if lines else []
