"""A text of parts that must not be longer than allowed: the least important ones give way first, and are named."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ftdoctor.wording import count

NOTE = 1000
"""Bytes kept for the line that names what was left out."""


@dataclass(frozen=True)
class Shorter:
    """What a part becomes where there is too little room."""

    importance: int
    """The least important gives way first; among equals the last one."""
    what: str
    """What is then missing, in words of ours; `{}` stands for the number of findings of which it is."""
    text: str = ""


@dataclass(frozen=True)
class Part:
    """A piece of the text, and what it may become, step by step; one without steps always stays."""

    text: str
    steps: tuple[Shorter, ...] = ()


def fit(parts: list[Part], limit: int) -> str:
    """Return the parts as one text of at most `limit` bytes of UTF-8, what always stays and a note aside."""
    texts = [part.text for part in parts]
    left_out: dict[int, str] = {}
    steps = sorted(
        ((step.importance, -at, step) for at, part in enumerate(parts) for step in part.steps), key=lambda s: s[:2]
    )
    size = sum(map(_size, texts))
    for _, at, step in steps:
        if size <= limit - (NOTE if left_out else 0):
            break
        size += _size(step.text) - _size(texts[-at])
        texts[-at], left_out[-at] = step.text, step.what
    told = _told(left_out)
    return "\n\n".join(text for text in (*texts, told) if text) + "\n"


def _size(text: str) -> int:
    return len(text.encode()) + 2


def _told(left_out: dict[int, str]) -> str:
    if not left_out:
        return ""
    counted = Counter(left_out[at] for at in sorted(left_out))
    named = ", ".join(what.format(count(number, "finding")) for what, number in counted.items())
    return f"> **Left out for length:** {named}. All of it is in the JSON and the HTML report."
