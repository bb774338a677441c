"""Texts of models as elements of a page: whole, harmless, and with everything visible that they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftdoctor.wording import pieces, visible
from ftdoctor_reports.elements import h
from ftdoctor_reports.predictions.changes import changes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree import ElementTree as ET

    from ftdoctor_reports.predictions.changes import Part

LONG, LINES = 1500, 24
"""A text with more characters or lines than these is folded."""
ELIDED = 1200
"""A piece with more characters than these, which stands whole elsewhere on the page, is shortened in its middle."""
RUNS = 20_000
"""A text with more changes between hidden and other characters than these is marked as one."""
TAGS = {"gone": "del", "new": "ins"}
BOUNDED = "Too long to be compared word by word: all between the common beginning and end counts as changed."


def text(written: str) -> ET.Element:
    """Return a text as it is, folded if it is long; an empty one is said to be empty."""
    return _folded(written, h("div", *_shown(written), class_="text", dir="auto"))


def changed(before: str, after: str, *, whole: bool) -> ET.Element:
    """Return `after` with the changes since `before`.

    Args:
        before: the text that it is compared with.
        after: the text that is shown.
        whole: show all of `after`; long pieces of `before` are shortened in any case.
    """
    found = changes(before, after)
    children: list[ET.Element | str] = []
    for part in found.parts:
        inside = list(_shown(part.text) if whole and part.kind != "gone" else _elided(part))
        children += [h(TAGS[part.kind], *inside)] if part.kind in TAGS else inside
    shown = h("div", *children, class_="text", dir="auto")
    note = h("p", BOUNDED, class_="note") if found.bounded else None
    return _folded(after, h("div", note, shown) if note is not None else shown)


def _shown(written: str) -> Iterator[ET.Element | str]:
    """Yield runs of a text; hidden characters are marked and keep what they are in `data-code`."""
    runs = list(pieces(written))
    if len(runs) > RUNS:
        runs = [(written, "".join(seen for _, seen in runs))]
    for run, seen in runs:
        if run is seen:
            yield run
        else:
            yield h("span", seen, {"data-code": " ".join(f"{ord(c):x}" for c in run)}, class_="code")


def _elided(part: Part) -> Iterator[ET.Element | str]:
    if len(part.text) <= ELIDED:
        yield from _shown(part.text)
        return
    half = ELIDED // 3
    yield from _shown(part.text[:half])
    yield h("small", f" … {len(part.text) - 2 * half:,} characters left out … ", class_="note")
    yield from _shown(part.text[-half:])


def _folded(written: str, shown: ET.Element) -> ET.Element:
    """Fold what is long; say what cannot be seen otherwise."""
    if not written.strip():
        told = "empty" if not written else f"only white space, {len(written):,} characters"
        shown = h("div", h("p", told, class_="note"), shown)
    lines = written.count("\n") + 1
    if len(written) <= LONG and lines <= LINES:
        return shown
    size = f"{len(written):,} characters" + (f" in {lines:,} lines" if lines > 1 else "")
    begin = visible(" ".join(written[:400].split()))[:120] or "white space"
    return h("details", h("summary", h("bdi", begin, " …"), " ", h("small", size, class_="note")), shown, class_="long")
