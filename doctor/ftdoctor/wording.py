"""Small helpers for sentences: the nearest known name, counts with their noun, short values."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'x'?`-like text for the nearest known name, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def count(number: int, noun: str, plural: str = "") -> str:
    """Return `1 cell`, `2 cells`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def shorten(text: str, limit: int) -> str:
    """Cut a text in its middle so that it has at most `limit` characters."""
    if len(text) <= limit:
        return text
    head = (limit - 3) // 2
    return f"{text[:head]}...{text[len(text) - (limit - 3 - head) :]}"


def printable(text: str) -> str:
    """Replace control characters, which could steer a terminal and which no page may hold."""
    return "".join(c if c in "\n\t" or (ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0) else "\ufffd" for c in text)


def seconds(value: float) -> str:
    """Return a duration as a person would say it: `0.4 s`, `31 s`, `2 min 5 s`."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 100:
        return f"{value:.0f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"
