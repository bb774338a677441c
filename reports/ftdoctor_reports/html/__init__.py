"""The page of a run: one file that a maintainer opens from a ticket and understands in a minute.

Everything stands in the document in reading order; the script filters, aligns and copies it. The page loads nothing,
and its policy names its one script and its style by their hashes: whatever the run has met, none of it runs.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from ftdoctor.machine import headline
from ftdoctor_reports import embedded, tally
from ftdoctor_reports.elements import banner, definitions, h, not_redacted, page
from ftdoctor_reports.html import evidence, findings, matrix
from ftdoctor_reports.html import sections as other
from ftdoctor_reports.html.findings import button
from ftdoctor_reports.html.places import places
from ftdoctor_reports.html.text import SHORT, cut

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

    from ftdoctor.results import Run

MARKS = {"healthy": "✓", "findings": "✗", "unexamined": "–"}


def render(run: Run) -> str:
    """Return the run as an HTML page, with the run itself at its end."""
    found = places(run)
    sections = [
        findings.section(run, found),
        matrix.section(run, found),
        other.not_run(run),
        other.components(run),
        other.selftest(run),
        evidence.section(run, found),
        other.timings(run, found),
        other.versions(run),
        _markdown(run),
    ]
    shown = [section for section in sections if section is not None]
    main = h("main", _head(run), *_banners(run), _contents(shown), *shown)
    style, script = (files(__package__).joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    data = h("script", embedded.pack(run), type=embedded.TYPE, id=embedded.ID)
    return page(f"ftdoctor: {tally.verdict(run)}", main, style, script, data)


def _head(run: Run) -> ET.Element:
    """Return the verdict, and what it is about."""
    python = {"Python": str(run.machine.get("python", ""))} if run.stack else {}
    named = {name: version for name, version in {**python, **run.stack}.items() if version}
    stack = " · ".join(f"{cut(name, SHORT)} {cut(version, SHORT)}" for name, version in named.items())
    asked = [run.started, f"profile {run.profile}", f"ftdoctor {run.ftdoctor}"]
    rows = [
        ("machine", h("span", h("span", cut(headline(run.machine))), button("", "the machine"))),
        ("stack", h("span", h("span", stack), button("", "the stack")) if stack else "nothing of it is installed"),
        ("model", cut(run.model, 2 * SHORT)),
        ("run", " · ".join(cut(part, SHORT) for part in asked)),
    ]
    verdict = f"{MARKS.get(run.outcome, '')} {tally.verdict(run)}"
    return h(
        "header",
        h("h1", verdict, class_=f"verdict {run.outcome if run.outcome in MARKS else ''}"),
        matrix.chips(list(run.results)),
        definitions(rows),
        button("markdown-text", "the report", "Copy the report as Markdown"),
        h("p", {"role": "status"}, id="said", class_="unseen"),
    )


def _banners(run: Run) -> list[ET.Element]:
    """Return what a reader must know before anything else."""
    told = [] if run.redaction.done else [not_redacted()]
    if run.interrupted:
        text = "What had been examined until then is here; what is missing was not examined."
        told.append(banner("Interrupted.", text))
    return told


def _contents(sections: list[ET.Element]) -> ET.Element:
    items = [h("li", h("a", s.findtext("h2"), href=f"#{s.get('id')}")) for s in sections]
    return h("nav", h("ul", *items), {"aria-label": "Contents"})


def _markdown(run: Run) -> ET.Element:
    from ftdoctor_reports import markdown

    source = h("pre", markdown.render(run), id="markdown-text")
    told = h("summary", "The report for a ticket")
    return h("section", h("h2", "As Markdown"), h("details", told, source, class_="source"), id="markdown")
