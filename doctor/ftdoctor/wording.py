"""Small helpers for sentences: the nearest known name, counts with their noun, short values."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and line feed
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\u2028\u2029\u2800\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff"  # separators, fillers, marks, no characters at all
    "\ud800-\udfff"  # halves of pairs
    "]+"
)
"""Runs of characters that steer a terminal, turn or break the text around them, or are not seen at all.

The middle two lines are Unicode's Default_Ignorable_Code_Point.
"""

_JOINED = re.compile("[\u0600-\u0dff\u1000-\u109f\u1780-\u17ff\u2190-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff\ufe0f]")
"""Scripts and pictures that are written with joiners (and selectors), which are theirs and not hidden."""


NEAR = 4096
"""Characters beside a cut in which the rest of what it goes through is looked for."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'x'?`-like text for the nearest known name, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def count(number: int, noun: str, plural: str = "") -> str:
    """Return `1 cell`, `2 cells`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def shorten(text: str, limit: int, scrub: Callable[[str], str] = str) -> str:
    """Cut a text in its middle so that it has at most `limit` characters.

    `scrub` goes through what is kept, and `NEAR` characters more, before the cut: it takes out secrets, and could not
    tell half of one.
    """
    near = limit + NEAR
    front, back = (text[:near], text[-near:]) if len(text) > 2 * near else (text, "")
    front, back = scrub(front), scrub(back) if back else ""
    if not back and len(front) <= limit:
        return front
    head, end = (limit - 3) // 2, back or front
    return f"{front[:head]}...{end[len(end) - (limit - 3 - head) :]}"


def visible(text: str) -> str:
    """Show what is hidden, such as control characters and bidirectional marks, as Python writes it: `\\x1b`, `\\u202e`.

    Tabs and line feeds stay. The result can be encoded, steers no terminal and turns no other text around.
    """
    return "".join(shown for _, shown in pieces(text))


def pieces(text: str) -> Iterable[tuple[str, str]]:
    """Cut a text into runs that are shown as they are, `(run, run)`, and hidden ones, `(run, how it is shown)`.

    The first parts together are the text.
    """
    end = 0
    for found in HIDDEN.finditer(text):
        if _joins(text, found):
            continue
        if run := text[end : found.start()]:
            yield run, run
        yield found[0], "".join(map(_shown, found[0]))
        end = found.end()
    if run := text[end:]:
        yield run, run


def _joins(text: str, found: re.Match[str]) -> bool:
    """Say whether this is a joiner or selector of an emoji or of a script that is written with them."""
    belongs = found[0] in ("\u200c", "\u200d", "\ufe0f", "\ufe0f\u200d")
    return belongs and found.start() > 0 and _JOINED.match(text[found.start() - 1]) is not None


def _shown(character: str) -> str:
    number = ord(character)
    if character == "\r":
        return "\\r"
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def seconds(value: float) -> str:
    """Return a duration as a person would say it: `0.4 s`, `31 s`, `2 min 5 s`."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 100:
        return f"{value:.0f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"
