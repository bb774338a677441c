"""The report as one self-contained HTML file: no script, no network, readable in source order.

The page is built as an element tree, so that everything that came from outside (an exception's text, a warning,
what a cell printed) is escaped by construction.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from ftdoctor.machine import describe, headline
from ftdoctor.results import CellResult, CheckRecord, Finding, Level, Outcome, Run
from ftdoctor.wording import count, printable, seconds, shorten
from ftdoctor_reports import tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(run: Run) -> str:
    """Return the run as an HTML page."""
    main = h("main", _head(run), _findings(run), _matrix(run), _compared(run), _skipped(run), _stack(run), _cells(run))
    return page(f"ftdoctor: {tally.verdict(run)}", main)


def page(title: str, main: ET.Element, style: str = "", script: str = "") -> str:
    """Return a whole page that loads nothing, and runs nothing but the script that it is given, at its end."""
    style = files(__package__).joinpath("report.css").read_text(encoding="utf-8") + style
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}" if script else POLICY
    made = h(
        "html",
        h(
            "head",
            h("meta", charset="utf-8"),
            h("meta", name="viewport", content="width=device-width, initial-scale=1"),
            h("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
            h("title", title),
            h("style", style),
        ),
        h("body", main, h("script", script) if script else None),
        lang="en",
    )
    return "<!doctype html>\n" + ET.tostring(made, encoding="unicode", method="html") + "\n"


def _hash(text: str) -> str:
    """Return the source of a policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def h(tag: str, *children: Any, **attributes: str) -> ET.Element:
    """Make an element; a mapping among the children adds attributes whose names are no Python names."""
    element = ET.Element(tag)
    for name, value in attributes.items():
        element.set(name.rstrip("_"), value)
    last: ET.Element | None = None
    for child in children:
        if isinstance(child, dict):
            for name, value in child.items():
                element.set(name, value)
        elif isinstance(child, ET.Element):
            element.append(child)
            last = child
        elif child is not None:
            text = printable(str(child))
            if last is None:
                element.text = (element.text or "") + text
            else:
                last.tail = (last.tail or "") + text
    return element


def _head(run: Run) -> ET.Element:
    return h(
        "header",
        h("h1", "ftdoctor ", run.ftdoctor),
        h("p", tally.verdict(run), class_=f"verdict {run.outcome}"),
        h("p", headline(run.machine)),
        h("p", " · ".join(f"{name} {version}" for name, version in run.stack.items())),
        h(
            "p",
            f"{run.started} · profile {run.profile} · {run.isolation.mode}"
            + (f" · model {run.model}" if run.model else ""),
        ),
    )


def _findings(run: Run) -> ET.Element:
    section = h("section", h("h2", "Findings"))
    for finding in run.findings:
        section.append(_finding(finding, run))
    if not run.findings:
        section.append(h("p", "No promise was found broken."))
    for result, text in tally.warned(run):
        section.append(h("p", h("strong", f"! {result.probe} "), text, class_="warned"))
    return section


def _finding(finding: Finding, run: Run) -> ET.Element:
    first = next(r for r in run.results if r.probe == finding.probe and r.cell == finding.cells[0])
    rows = [
        ("culprit", str(finding.culprit) if finding.culprit else "unknown: no line of a library raised it"),
        ("depends on", finding.dependence),
        ("cure", finding.cure),
        ("again", h("code", finding.again)),
        ("also ends", ", ".join(finding.also)),
        ("accepted", finding.accepted),
    ]
    return h(
        "article",
        h("h3", h("span", tally.MARKS[first.outcome], class_=first.outcome.value), f" {finding.probe}"),
        h("p", finding.summary),
        definitions(rows),
        _checks(first),
        _folded("traceback", first.raised.traceback if first.raised else ""),
        _folded("output", first.output),
        _folded(count(len(finding.cells), "cell"), "\n".join(str(c) for c in finding.cells)),
        class_="finding accepted" if finding.accepted else "finding",
    )


def definitions(rows: Iterable[tuple[str, Any]]) -> ET.Element:
    """Return labels and what they stand for; those that stand for nothing are left out."""
    listed = h("dl")
    for label, value in rows:
        if value not in ("", None):
            listed.append(h("dt", label))
            listed.append(h("dd", value))
    return listed


def _checks(result: CellResult) -> ET.Element | None:
    if not result.checks:
        return None
    rows = [
        h(
            "tr",
            _judged(c),
            *(h("td", text) for text in (c.name, c.measured, c.expected, c.tolerance, c.why)),
        )
        for c in result.checks
    ]
    return table(("", "check", "measured", "expected", "tolerance", "why"), rows)


def _judged(check: CheckRecord) -> ET.Element:
    if check.level is Level.NOTE:
        return h("td", "·", {"aria-label": "noted"})
    if check.ok:
        return h("td", "✓", {"aria-label": "holds"}, class_="passed")
    warned = check.level is Level.WARN
    return h("td", "!" if warned else "✗", {"aria-label": "does not hold"}, class_="warned" if warned else "failed")


def table(heads: Sequence[str], rows: Iterable[ET.Element]) -> ET.Element:
    """Return a table that scrolls by itself where the page is too narrow for it."""
    return h(
        "div",
        h("table", h("thead", h("tr", *(h("th", head, scope="col") for head in heads))), h("tbody", *rows)),
        class_="wide",
    )


def _folded(label: str, text: str) -> ET.Element | None:
    return h("details", h("summary", label), h("pre", text)) if text else None


def _matrix(run: Run) -> ET.Element:
    rows = []
    for area, results in tally.by_area(run).items():
        for probe in dict.fromkeys(r.probe for r in results):
            marks = [_mark(r) for r in results if r.probe == probe]
            rows.append(h("tr", h("td", area), h("th", probe, scope="row"), h("td", *marks)))
    return h("section", h("h2", "Probes and cells"), table(("area", "probe", "cells"), rows))


def _mark(result: CellResult) -> ET.Element:
    label = f"{result.outcome.value}: {result.cell or 'no axes'}"
    return h(
        "span",
        tally.MARKS[result.outcome],
        {"aria-label": label},
        class_=result.outcome.value,
        title=label,
        role="img",
    )


def _compared(run: Run) -> ET.Element | None:
    """Return the promises of the components: the cells in which the naive script, the library and ours keep them."""
    promises = tally.compared(run)
    if not promises:
        return None
    rows = []
    for promise in promises:
        shares = [_share(promise, way) for way in tally.WAYS]
        rows.append(h("tr", h("th", promise.probe, scope="row"), h("td", promise.check), *shares))
    told = h("p", "In how many cells each way of doing the same thing keeps the promise, and what it measured.")
    return h("section", h("h2", "Components"), told, table(("probe", "promise", *tally.WAYS.values()), rows))


def _share(promise: tally.Compared, way: str) -> ET.Element:
    if not promise.share(way):
        return h("td", "not tried")
    whole = promise.holds[way] == promise.measured[way]
    told = h("small", shorten(promise.example[way], 120))
    return h("td", h("span", promise.share(way), class_="passed" if whole else "failed"), h("br"), told)


def _skipped(run: Run) -> ET.Element | None:
    if not run.skipped and not run.notes:
        return h("section", h("h2", "Skipped"), h("p", "Every planned cell was examined."))
    items = [h("li", f"{count(number, 'cell')}: {reason}") for reason, number in tally.skips(run)]
    items += [h("li", note) for note in run.notes]
    return h("section", h("h2", "Skipped and noted"), h("ul", *items))


def _stack(run: Run) -> ET.Element:
    rows = [*run.stack.items(), *describe(run.machine)]
    return h("section", h("h2", "Versions and machine"), definitions(rows))


def _cells(run: Run) -> ET.Element:
    rows = [
        h(
            "tr",
            h("td", tally.MARKS[r.outcome], " ", r.outcome.value, class_=r.outcome.value),
            h("td", r.probe),
            h("td", str(r.cell)),
            h("td", r.reason or (f"{r.raised.type}: {r.raised.message}" if r.raised else _told(r))),
            h("td", seconds(r.seconds) if r.outcome is not Outcome.SKIPPED else ""),
        )
        for r in run.results
    ]
    return h("section", h("h2", "Every cell"), table(("outcome", "probe", "cell", "what", "time"), rows))


def _told(result: CellResult) -> str:
    bad = [c.name for c in result.checks if not c.ok]
    return f"does not hold: {', '.join(bad)}" if bad else count(len(result.checks), "check")
