"""Two runs compared, as one page that loads nothing and runs nothing."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from ftdoctor.wording import shorten
from ftdoctor_reports.difference.findings import in_both
from ftdoctor_reports.difference.sections import MARKS, sections
from ftdoctor_reports.elements import definitions, h, not_redacted, page, table

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

    from ftdoctor_reports.difference.compare import Difference, Side
    from ftdoctor_reports.difference.findings import FindingChange
    from ftdoctor_reports.difference.sections import Row, Section

CLASSES = {"better": "healthy", "same": "healthy", "worse": "findings", "not comparable": "unexamined"}
TONES = {"good": ("✓", "passed"), "bad": ("✗", "failed"), "warn": ("!", "warned")}
TEXT = 400


def render(difference: Difference) -> str:
    """Return what differs as an HTML page."""
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    made = [_findings(difference), *(_section(section) for section in sections(difference))]
    main = h("main", _head(difference), _contents(made), *made)
    return page(f"ftdoctor: {difference.told}", main, style)


def _head(difference: Difference) -> ET.Element:
    return h(
        "header",
        h("h1", f"{MARKS[difference.verdict]} {difference.told}", class_=f"verdict {CLASSES[difference.verdict]}"),
        None if difference.redacted else not_redacted(),
        h("div", _side("A", difference.a), _side("B", difference.b), class_="sides"),
    )


def _side(mark: str, side: Side) -> ET.Element:
    rows = [("run", side.verdict), ("machine", side.machine), ("profile", side.profile), ("started", side.started)]
    told = definitions((label, shorten(text, TEXT)) for label, text in rows)
    return h("section", h("h2", f"{mark} ", h("small", shorten(side.name, TEXT))), told)


def _contents(made: list[ET.Element]) -> ET.Element:
    links = [h("li", h("a", section.findtext("h2"), href=f"#{section.get('id')}")) for section in made]
    return h("nav", h("ul", *links), {"aria-label": "Contents"})


def _findings(difference: Difference) -> ET.Element:
    shown = [change for change in difference.findings if change.kind != "unchanged"]
    same = in_both(difference.findings)
    section = h("section", h("h2", "Findings"), *map(_finding, shown), id="findings")
    if same or not shown:
        section.append(h("p", same or "Neither of them has a finding."))
    return section


def _finding(change: FindingChange) -> ET.Element:
    found = change.finding
    rows = [
        ("changed", "; ".join(change.changes)),
        ("accepted", found.accepted),
        ("culprit", str(found.culprit) if found.culprit else "unknown"),
        ("depends on", found.dependence if change.b else ""),
        ("cure", found.cure if change.b else ""),
        ("again", h("code", found.again) if change.b and found.again else ""),
    ]
    return h(
        "article",
        h("h3", f"{change.told}: {found.probe}"),
        h("p", shorten(found.summary, TEXT)),
        definitions([(label, shorten(text, 2000) if isinstance(text, str) else text) for label, text in rows]),
        class_="finding" if change.is_worse else "finding accepted",
    )


def _section(section: Section) -> ET.Element:
    if len(section.heads) == 1:
        shown = h("ul", *(h("li", shorten(text, TEXT)) for row in section.rows for text in row.texts))
    else:
        shown = table(section.heads, [_row(row) for row in section.rows], caption=section.title)
    return h("section", h("h2", section.title), shown, id=section.id)


def _row(row: Row) -> ET.Element:
    mark, class_ = TONES.get(row.tone, ("", ""))
    first = f"{mark} {row.texts[0]}" if mark else row.texts[0]
    return h(
        "tr",
        h("th", shorten(first, TEXT), scope="row", class_=class_),
        *(h("td", shorten(t, TEXT)) for t in row.texts[1:]),
    )
