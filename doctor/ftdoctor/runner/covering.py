"""Covering arrays: few rows in which every possible combination of the values of n axes occurs.

allpairspy leaves triples out (measured: strength 3 over five axes), so the rows are made here: greedily, each row
starting from a combination that no row has yet, and completed by the values that cover most.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Row = dict[str, str]
    Combination = tuple[tuple[str, str], ...]


def covering(values: Mapping[str, Sequence[str]], strength: int, possible: Callable[[Row], bool]) -> Iterator[Row]:
    """Yield rows, the row of first values first, the same ones for the same question.

    Args:
        values: axis to its values, the default first.
        strength: size of the combinations that must occur.
        possible: says whether a row, or a part of one, is a combination that exists.
    """
    strength = min(strength, len(values))
    open_: dict[Combination, None] = dict.fromkeys(
        tuple(zip(axes, chosen, strict=True))
        for axes in itertools.combinations(values, strength)
        for chosen in itertools.product(*(values[a] for a in axes))
    )
    first = {axis: options[0] for axis, options in values.items()}
    row: Row | None = first if possible(first) else None
    while True:
        if row is not None:
            yield row
            for seen in itertools.combinations(row.items(), strength):
                open_.pop(seen, None)
        if not open_:
            return
        start = next(iter(open_))
        del open_[start]
        row = _complete(dict(start), values, strength, possible, open_)


def _complete(
    start: Row,
    values: Mapping[str, Sequence[str]],
    strength: int,
    possible: Callable[[Row], bool],
    open_: Mapping[Combination, None],
) -> Row | None:
    """Return a whole possible row that holds `start`, or None where there is none."""
    if not possible(start):
        return None
    axis = next((a for a in values if a not in start), None)
    if axis is None:
        return {a: start[a] for a in values}

    def gain(value: str) -> int:
        known = {**start, axis: value}
        ordered = [(a, known[a]) for a in values if a in known]
        return sum(c in open_ for c in itertools.combinations(ordered, strength))

    for value in sorted(values[axis], key=gain, reverse=True):
        found = _complete({**start, axis: value}, values, strength, possible, open_)
        if found is not None:
            return found
    return None
