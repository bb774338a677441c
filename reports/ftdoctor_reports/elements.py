"""Self-contained HTML pages: no network, readable in source order with scripts off.

A page is built as an element tree, so that everything that came from outside (an exception's text, a warning,
what a cell printed) is escaped by construction, and shows what is hidden in it.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from ftdoctor.wording import HIDDEN, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def page(title: str, main: ET.Element, style: str = "", script: str = "", data: ET.Element | None = None) -> str:
    """Return a whole page that loads nothing, and runs nothing but the script that it is given, at its end.

    Args:
        title: shown by the browser, and by whoever lists the page.
        main: all that is seen.
        style: what comes after the style that all pages share.
        script: the only one that the page's policy allows.
        data: what machines read; it stands last, so that nobody waits for it.
    """
    style = files(__package__).joinpath("report.css").read_text(encoding="utf-8") + style
    made = h(
        "html",
        h(
            "head",
            h("meta", charset="utf-8"),
            h("meta", name="viewport", content="width=device-width, initial-scale=1"),
            h("meta", {"http-equiv": "Content-Security-Policy", "content": _policy(style, script)}),
            h("title", title),
            h("style", style),
        ),
        h("body", main, h("script", script) if script else None, data),
        lang="en",
    )
    return "<!doctype html>\n" + ET.tostring(made, encoding="unicode", method="html") + "\n"


def _policy(style: str, script: str) -> str:
    """Return a policy that allows this style and this script by their hashes, and nothing else."""
    scripts = f"; script-src {_hash(script)}" if script else ""
    return f"default-src 'none'; style-src {_hash(style)}{scripts}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    """Return the source of a policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def h(tag: str, *children: Any, **attributes: str) -> ET.Element:
    """Make an element; a mapping among the children adds attributes whose names are no Python names.

    What is hidden in a text or an attribute, such as a control character, is shown as Python writes it.
    """
    element = ET.Element(tag)
    for name, value in attributes.items():
        element.set(name.rstrip("_"), _seen(value))
    last: ET.Element | None = None
    for child in children:
        if isinstance(child, dict):
            for name, value in child.items():
                element.set(name, _seen(value))
        elif isinstance(child, ET.Element):
            element.append(child)
            last = child
        elif child is not None:
            text = _seen(str(child))
            if last is None:
                element.text = (element.text or "") + text
            else:
                last.tail = (last.tail or "") + text
    return element


def _seen(text: str) -> str:
    return visible(text) if HIDDEN.search(text) else text


def banner(head: str, text: str) -> ET.Element:
    """Return what a reader must know before anything else."""
    return h("p", h("strong", "! ", head), " ", text, class_="banner")


def not_redacted() -> ET.Element:
    """Return the warning that stands on what was not redacted."""
    return banner("Not redacted.", "Look through it before you attach it: names, paths and tokens may stand in it.")


def definitions(rows: Iterable[tuple[str, Any]]) -> ET.Element:
    """Return labels and what they stand for; those that stand for nothing are left out."""
    listed = h("dl")
    for label, value in rows:
        if value not in ("", None):
            listed.append(h("dt", label))
            listed.append(h("dd", value))
    return listed


def table(heads: Sequence[str], rows: Iterable[ET.Element], caption: str = "") -> ET.Element:
    """Return a table that scrolls by itself where the page is too narrow for it; with a caption by keyboard too."""
    made = h("table", h("caption", caption) if caption else None)
    made.append(h("thead", h("tr", *(h("th", head, scope="col") for head in heads))))
    made.append(h("tbody", *rows))
    reached = {"role": "region", "aria-label": caption, "tabindex": "0"} if caption else {}
    return h("div", made, reached, class_="wide")
