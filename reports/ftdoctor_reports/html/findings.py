"""The findings of a run: what is broken, whose line it is, what was measured, and what cures it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.results import CellResult, CheckRecord, Finding, Level, Outcome, Run
from ftdoctor.wording import count
from ftdoctor_reports import tally
from ftdoctor_reports.elements import definitions, h, table
from ftdoctor_reports.html.text import LINE, SHORT, block, cut, sentence
from ftdoctor_reports.html.traceback import traceback

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from xml.etree import ElementTree as ET

    from ftdoctor_reports.html.places import Places

LISTED = 200
"""Cells of a finding that are named."""
FEW = 3
"""More cells than these are folded; more findings than these are listed before the first of them."""
MARKDOWN = 150_000
"""Characters of Markdown on the page for single findings; later ones have only the report's."""


def section(run: Run, found: Places) -> ET.Element:
    """Return the open findings, then what warns, then what was accepted, folded."""
    copies = _copies(run)
    shown = [(_finding(i, finding, run, found, copies), finding.accepted) for i, finding in enumerate(run.findings, 1)]
    unsettled = [article for article, accepted in shown if not accepted]
    accepted = [article for article, accepted in shown if accepted]
    made = h("section", h("h2", "Findings"), _listed(run, unsettled), *unsettled, id="findings")
    if not unsettled:
        made.append(h("p", _none(run, bool(accepted))))
    if warned := [_warning(result, text, found) for result, text in tally.warned(run)]:
        made.append(h("h3", "Warnings"))
        made.append(h("ul", *warned, class_="warnings"))
    if accepted:
        made.append(h("details", h("summary", count(len(accepted), "accepted finding")), *accepted))
    return made


def _listed(run: Run, shown: Sequence[ET.Element]) -> ET.Element | None:
    """Return the open findings in a line each, where they are too many to be seen at once."""
    if len(shown) <= FEW:
        return None
    listed = [_line(i, finding) for i, finding in enumerate(run.findings, 1) if not finding.accepted]
    return h("nav", h("ol", *listed), {"aria-label": "Open findings"}, class_="listed")


def _line(number: int, finding: Finding) -> ET.Element:
    link = h("a", cut(finding.probe, SHORT), href=f"#finding-{number}")
    whose = f"{finding.culprit.distribution} {finding.culprit.version}, " if finding.culprit else ""
    where = h("small", cut(whose, SHORT), count(len(finding.cells), "cell"))
    return h("li", link, " ", h("bdi", cut(finding.summary, LINE // 3)), " ", where)


def _none(run: Run, accepted: bool) -> str:
    if run.outcome == "unexamined":
        return "Nothing was examined, so nothing was found."
    return f"No promise was broken in what was examined{', but for what is accepted' if accepted else ''}."


def _copies(run: Run) -> dict[int, str]:
    """Return the number of each finding to its Markdown, as far as there is room for it."""
    from ftdoctor_reports import markdown

    made: dict[int, str] = {}
    room = MARKDOWN
    for i, finding in enumerate(run.findings, 1):
        text = markdown.finding(run, finding)
        room -= len(text)
        if room < 0:
            break
        made[i] = text
    return made


def _warning(result: CellResult, text: str, found: Places) -> ET.Element:
    link = h("a", cut(result.probe, SHORT), href=f"#{found.cells[result.probe, result.cell]}")
    return h("li", h("strong", "! ", class_="warned"), link, " ", h("bdi", cut(text)))


def _finding(number: int, finding: Finding, run: Run, found: Places, copies: Mapping[int, str]) -> ET.Element:
    cell = finding.cells[0] if finding.cells else None
    first = next((r for r in run.results if r.probe == finding.probe and r.cell == cell), None)
    outcome = first.outcome if first else Outcome.FAILED
    again = [h("code", cut(finding.again)), button("", "the command")] if finding.again else []
    rows: list[tuple[str, Any]] = [
        ("promise", sentence(run.promises.get(finding.probe, ""))),
        ("culprit", _culprit(finding)),
        ("depends on", cut(finding.dependence)),
        ("cure", sentence(finding.cure)),
        ("again", h("span", *again) if again else None),
        ("advisories", ", ".join(cut(a) for a in finding.advisories)),
        ("also ends", ", ".join(cut(a, SHORT) for a in finding.also)),
        ("accepted", cut(finding.accepted)),
    ]
    mark = h("span", tally.MARKS[outcome], {"aria-hidden": "true"}, class_=outcome.value)
    return h(
        "article",
        h("h3", mark, " ", h("a", cut(finding.probe, SHORT), href=f"#finding-{number}")),
        h("p", cut(finding.summary), class_="summary"),
        definitions(rows),
        *(_evidence(first, finding) if first else []),
        _cells(finding, found),
        *_copied(number, copies.get(number, "")),
        id=f"finding-{number}",
        class_="finding accepted" if finding.accepted else "finding",
    )


def button(target: str, what: str, label: str = "copy") -> ET.Element:
    """Return a button that copies the element of this id, or else what stands before it; a script brings it to life."""
    names = {"hidden": "", "data-copies": target, "data-what": what, "type": "button"}
    if label == "copy":
        names["aria-label"] = f"copy {what}"
    return h("button", label, names, class_="copy")


def _culprit(finding: Finding) -> ET.Element | str:
    if finding.culprit is None:
        return "unknown: no line of a library raised it"
    return h("span", h("code", cut(str(finding.culprit))), button("", "the culprit"))


def _evidence(first: CellResult, finding: Finding) -> list[ET.Element]:
    """Return what was measured in the first cell: what does not hold at once, the rest folded."""
    broken = first.broken_checks
    held = [c for c in first.checks if c not in broken]
    named = f"What was measured in {cut(str(first.cell), SHORT) or 'its only cell'}"
    parts = [_checks(broken, named)] if broken else []
    if held:
        label = f"{count(len(held), 'check')} that {'holds' if len(held) == 1 else 'hold'}"
        parts.append(h("details", h("summary", label), _checks(held, f"{named} and holds")))
    if first.raised and first.raised.traceback:
        parts.append(h("details", h("summary", "traceback"), traceback(first.raised.traceback, finding.culprit)))
    if first.warnings:
        parts.append(folded("warnings", "\n".join(first.warnings)))
    if first.output and first.outcome is Outcome.CRASHED:
        dump = traceback(first.output, finding.culprit)  # in which the interpreter leaves its last frames
        dump.set("class", "traceback dump")
        parts.append(h("details", h("summary", "output"), dump))
    elif first.output:
        parts.append(folded("output", first.output))
    return parts


def _checks(checks: Sequence[CheckRecord], caption: str) -> ET.Element:
    rows = [h("tr", _judged(c), h("th", cut(c.name), scope="row"), *_compared(c)) for c in checks]
    return table(("holds", "check", "measured", "expected", "tolerance, and why"), rows, caption)


def _compared(check: CheckRecord) -> list[ET.Element]:
    reason = "; ".join(text for text in (check.tolerance, check.why) if text)
    return [h("td", cut(text)) for text in (check.measured, check.expected, reason)]


def _judged(check: CheckRecord) -> ET.Element:
    if check.level is Level.NOTE:
        return h("td", "· noted")
    if check.ok:
        return h("td", "✓ yes", class_="passed")
    return h("td", "! no", class_="warned") if check.level is Level.WARN else h("td", "✗ no", class_="failed")


def folded(label: str, text: str) -> ET.Element:
    """Return a text of several lines, folded."""
    return h("details", h("summary", label), h("pre", block(text)))


def _cells(finding: Finding, found: Places) -> ET.Element:
    items = []
    for cell in finding.cells[:LISTED]:
        place = found.cells.get((finding.probe, cell))
        told = cut(str(cell), 2 * SHORT) or "the only cell of this probe"
        items.append(h("li", h("a", told, href=f"#{place}") if place else told))
    if len(finding.cells) > LISTED:
        items.append(h("li", f"{len(finding.cells) - LISTED} more"))
    listed = h("ul", *items)
    label = count(len(finding.cells), "cell")
    return h("details", h("summary", label), listed, {"open": ""} if len(items) <= FEW else {})


def _copied(number: int, text: str) -> list[ET.Element]:
    if not text:
        return []
    place = f"finding-{number}-markdown"
    return [
        button(place, "the finding", "Copy as Markdown"),
        h("details", h("summary", "as Markdown"), h("pre", text, id=place), class_="source"),
    ]
