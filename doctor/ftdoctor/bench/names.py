"""Names of tensors as evidence: how many there are, and the first of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN = 3


def some(names: Iterable[str]) -> str:
    """Return how many names there are and the first three in alphabetical order, or `none`."""
    found = sorted(names)
    return f"{len(found)}: {', '.join(found[:SHOWN])}" if found else "none"
