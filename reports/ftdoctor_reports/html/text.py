"""Texts from outside on the page of a run: cut where they are long, with what was left out told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ftdoctor.wording import count
from ftdoctor_reports.elements import h

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

LINE = 600
"""Characters of a text that stands in a sentence or a table."""
SHORT = 120
"""Characters of a name, such as a model, an axis or a version."""
BLOCK = 12_000
"""Characters of a text that stands on its own, such as what a cell printed."""
LINES = 160
"""Lines of such a text."""
CODE = re.compile(r"`([^`\n]+)`")
"""What a sentence of ours sets apart as code."""
WORTH = 40
"""Fewer characters than these are not left out: saying so would take as many."""


def cut(text: str, limit: int = LINE) -> str:
    """Return a text with its middle left out where it has clearly more than `limit` characters."""
    if len(text) <= limit + WORTH:
        return text
    half = limit // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} characters left out … {text[-half:]}"


def sentence(text: str) -> ET.Element | None:
    """Return a sentence with what stands in backticks as code; of no sentence nothing."""
    parts = CODE.split(cut(text))
    return h("span", *(h("code", part) if i % 2 else part for i, part in enumerate(parts))) if text else None


def block(text: str) -> str:
    """Return a text of several lines; long lines, and the middle of many lines, are left out."""
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    if len(lines) > LINES:
        half = LINES // 2
        left = f"… {count(len(lines) - 2 * half, 'line')} left out …"
        lines = [*lines[:half], left, *lines[-half:]]
    return cut("\n".join(cut(line) for line in lines), BLOCK)
