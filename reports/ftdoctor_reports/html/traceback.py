"""Tracebacks on the page of a run: frames of libraries dimmed, the culprit's marked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ftdoctor_reports.elements import h
from ftdoctor_reports.html.text import block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree import ElementTree as ET

    from ftdoctor.results import Culprit

_FRAME = re.compile(r'\s*(?:[|+]\s*)*File "(?P<file>[^"\n]*)", line (?P<line>\d+)')
_LIBRARY = re.compile(r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\]python\d|^<frozen |^<string>")


def traceback(text: str, culprit: Culprit | None) -> ET.Element:
    """Return a traceback; the last frame at the culprit's line says that it is, in words too."""
    parts = list(_parts(block(text)))
    own = [i for i, (place, _) in enumerate(parts) if place and _is_culprit(place, culprit)][-1:]
    shown = h("pre", class_="traceback")
    for i, (place, lines) in enumerate(parts):
        if i in own:
            mark = h("strong", "  ◀ culprit's line")
            first, _, rest = lines.partition("\n")
            shown.append(h("span", first, mark, "\n", rest, class_="frame culprit"))
        elif place:
            shown.append(h("span", lines, class_="frame library" if _LIBRARY.search(place[0]) else "frame"))
        else:
            shown.append(h("span", lines, class_="message"))
    return shown


def _parts(text: str) -> Iterator[tuple[tuple[str, int] | None, str]]:
    """Yield each frame with its file and line, and what stands between frames with none."""
    place: tuple[str, int] | None = None
    lines: list[str] = []
    depth = 0
    for line in text.split("\n"):
        found = _FRAME.match(line)
        indent = len(line) - len(line.lstrip())
        if found or (place and indent <= depth) or (not place and not lines):
            if lines:
                yield place, "\n".join(lines) + "\n"
            lines, depth = [], indent
            place = (found["file"], int(found["line"])) if found else None
        lines.append(line)
    yield place, "\n".join(lines)


def _is_culprit(place: tuple[str, int], culprit: Culprit | None) -> bool:
    """Say whether a frame is at the culprit's line; its file is told from the folder of its distribution on."""
    if culprit is None or place[1] != culprit.line:
        return False
    file, own = place[0].replace("\\", "/"), culprit.file.replace("\\", "/")
    return file == own or file.endswith(f"/{own}")
