"""Tensors of a model as evidence: copies of what is trained, and their names in a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN = 3


def some(names: Iterable[str]) -> str:
    """Return how many names there are and the first three in alphabetical order, or `none`."""
    found = sorted(names)
    return f"{len(found)}: {', '.join(found[:SHOWN])}" if found else "none"


def trained_copy(model: Any) -> dict[str, Any]:
    """Return name to a copy of each parameter that is trained."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
