"""On which factors a failure depends, as far as the cells that ran can tell."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ftdoctor.wording import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ftdoctor.cells import Cell

SHOWN = 3
"""Explanations that are named where the cells cannot tell."""


@dataclass(frozen=True)
class Dependence:
    """The smallest set of factors that tells failing cells from passing ones, and the same in words."""

    on: Mapping[str, str] = field(default_factory=dict)
    """Axis to the failing values, joined by `|`; empty where the cells cannot tell."""
    words: str = ""


def dependence(failing: Sequence[Cell], passing: Sequence[Cell]) -> Dependence:
    """Compare failing with passing cells of one probe.

    An explanation is a group of up to three factors of whose failing values, taken together, no cell passes, and of
    which no smaller part explains as much. Where several fit the cells, none is chosen: a wrong dependence is worse
    than none.
    """
    if not failing[0].items:
        return Dependence()
    if not passing and len(failing) == 1:
        return Dependence(words="unknown: no other cell was examined")
    if not passing:
        return Dependence(words=f"fails in all {count(len(failing), 'examined cell')}")
    axes = [axis for axis in failing[0] if len({c[axis] for c in (*failing, *passing) if axis in c}) > 1]
    explanations = _explanations(axes, failing, passing)
    if len(explanations) == 1:
        return _explained(explanations[0], axes, failing, passing)
    if explanations:
        named = " or ".join(" and ".join(f"{a}={_failing(a, failing)}" for a in g) for g in explanations[:SHOWN])
        more = f", or {len(explanations) - SHOWN} more" if len(explanations) > SHOWN else ""
        return Dependence(words=f"the cells that ran cannot tell whether it is {named}{more}")
    return Dependence(words=f"fails in {len(failing)} of {len(failing) + len(passing)} cells, no factor explains it")


def _explanations(axes: Sequence[str], failing: Sequence[Cell], passing: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Return every group of up to three axes that tells failing from passing, and of which no part does."""
    found: list[tuple[str, ...]] = []
    for size in (1, 2, 3):
        found += [
            group
            for group in itertools.combinations(axes, size)
            if not any(set(part) <= set(group) for part in found) and _separates(group, failing, passing)
        ]
    return found


def _separates(group: tuple[str, ...], failing: Sequence[Cell], passing: Sequence[Cell]) -> bool:
    """Say whether the failing values of a group of axes, in every combination, occur in no passing cell."""
    bad = {axis: {c[axis] for c in failing} for axis in group}
    narrows = all({c[axis] for c in (*failing, *passing)} != bad[axis] for axis in group)
    return narrows and not any(all(c[axis] in bad[axis] for axis in group) for c in passing)


def _explained(group: tuple[str, ...], axes: list[str], failing: Sequence[Cell], passing: Sequence[Cell]) -> Dependence:
    on = {axis: _failing(axis, failing) for axis in group}
    told = " and ".join(f"{axis}={values}" for axis, values in on.items())
    contrast = {axis: sorted({c[axis] for c in passing} - {c[axis] for c in failing}, key=str) for axis in group}
    passes = "; ".join(
        f"passes at {', '.join(values)}" if len(group) == 1 else f"{axis}: passes at {', '.join(values)}"
        for axis, values in contrast.items()
    )
    free = [
        axis
        for axis in axes
        if axis not in group and {c[axis] for c in failing} == {c[axis] for c in (*failing, *passing)}
    ]
    narrow = [f"{axis}={_failing(axis, failing)}" for axis in axes if axis not in group and axis not in free]
    words = f"{told} ({passes})" + (f"; not on {' or '.join(free)}" if free else "")
    return Dependence(on, words + (f"; seen only at {', '.join(narrow)}" if narrow else ""))


def _failing(axis: str, failing: Sequence[Cell]) -> str:
    return "|".join(dict.fromkeys(c[axis] for c in sorted(failing)))
