"""Which cells of two runs are the same, and what became of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftdoctor.results import Outcome
from ftdoctor.wording import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ftdoctor.cells import Cell
    from ftdoctor.results import CellResult, Run

    Key = tuple[str, Cell]

FACTOR, LEAST = 2.0, 1.0
"""A cell is slower that takes more than this many times as long, and this many seconds longer."""
WHY = 300
GROUPS = (
    "became red",
    "became green",
    "red otherwise",
    "newly skipped",
    "newly examined",
    "now warns",
    "warns no longer",
)
"""Kinds of changes, in the order in which they are shown."""


class Lost(str, enum.Enum):
    """Why a cell that A examined was not examined by B."""

    NOT = ""
    MISSING = "missing"
    """A device or a library is not there: less can be said than before."""
    INTERRUPTED = "interrupted"
    BY_PROBE = "by the probe"
    """The probe found that its promise cannot be put to the test, as where a library no longer makes it."""


@dataclass(frozen=True)
class CellChange:
    """A cell with another outcome in B than in A."""

    kind: str
    """One of `GROUPS`."""
    probe: str
    cell: Cell
    a: Outcome
    b: Outcome
    why: str
    """What says so: the reason of a skip or crash, the exception, or the checks that do not hold."""
    lost: Lost = Lost.NOT


@dataclass(frozen=True)
class Slower:
    """A cell that took much longer; a note, for the time depends on what else the machine did."""

    probe: str
    cell: Cell
    a: float
    b: float


@dataclass(frozen=True)
class State:
    """What became of a cell, or why nothing did."""

    outcome: Outcome
    reason: str
    result: CellResult | None = None


@dataclass(frozen=True)
class Pairs:
    """The cells of two runs, put beside each other."""

    both: tuple[tuple[Key, State, State], ...]
    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]
    changes: tuple[CellChange, ...] = ()
    slower: tuple[Slower, ...] = ()

    @property
    def common(self) -> int:
        """The number of cells that both planned."""
        return len(self.both)

    @property
    def planned(self) -> set[Key]:
        """The cells that both planned."""
        return {key for key, _, _ in self.both}

    @property
    def examined(self) -> set[Key]:
        """The cells that both examined."""
        return {key for key, a, b in self.both if a.outcome.is_examined and b.outcome.is_examined}


def paired(a: Run, b: Run) -> Pairs:
    """Put the cells of two runs beside each other.

    Where a device or a value is missing, the plan holds one cell with that value alone (`device=cuda`) instead of all
    the cells that would have had it: it stands beside each of them.
    """
    one, other = _states(a), _states(b)
    in_a, in_b = _finder(one), _finder(other)
    both: list[tuple[Key, State, State]] = []
    met: set[tuple[str, Key]] = set()
    for key in dict.fromkeys([*one, *other]):
        first, second = in_a(key), in_b(key)
        if first and second:
            both.append((key, one[first], other[second]))
            met |= {("a", first), ("b", second)}
    return Pairs(
        both=tuple(both),
        only_a=tuple(key for key in one if ("a", key) not in met),
        only_b=tuple(key for key in other if ("b", key) not in met),
        changes=tuple(sorted((c for pair in both for c in _change(*pair)), key=lambda c: GROUPS.index(c.kind))),
        slower=tuple(s for pair in both for s in _slower(*pair)),
    )


def _states(run: Run) -> dict[Key, State]:
    """Return what became of each planned cell."""
    states = {(s.probe, s.cell): State(Outcome.SKIPPED, s.reason) for s in run.skipped}
    return {**states, **{(r.probe, r.cell): State(r.outcome, _why(r), r) for r in run.results}}


def _finder(states: dict[Key, State]) -> Callable[[Key], Key | None]:
    """Return a function that finds a cell, or the skipped one that stands for it."""
    skipped: dict[str, list[tuple[set[tuple[str, str]], Cell]]] = {}
    for (probe, cell), state in states.items():
        if not state.outcome.is_examined:
            skipped.setdefault(probe, []).append((set(cell.items), cell))

    def find(key: Key) -> Key | None:
        probe, cell = key
        if key in states:
            return key
        values = set(cell.items)
        return next(((probe, part) for fixed, part in skipped.get(probe, ()) if values > fixed), None)

    return find


def _why(result: CellResult) -> str:
    """Say what is wrong with a cell, or why it was not examined."""
    if result.reason:
        return shorten(result.reason, WHY)
    if result.raised:
        return shorten(f"{result.raised.type}: {result.raised.message}", WHY)
    told = (f"{c.name}: measured {c.measured}, expected {c.expected}" for c in result.broken_checks)
    return shorten("; ".join(told), WHY)


def _change(key: Key, a: State, b: State) -> Iterator[CellChange]:
    """Yield what changed in a cell, if its outcome did."""
    kind = _kind(a.outcome, b.outcome)
    if kind:
        told = a if kind in ("became green", "newly examined", "warns no longer") else b
        yield CellChange(
            kind, *key, a.outcome, b.outcome, told.reason, _lost(b) if kind == "newly skipped" else Lost.NOT
        )


def _kind(a: Outcome, b: Outcome) -> str:
    if a is b:
        return ""
    if not b.is_examined:
        return "newly skipped"
    if not a.is_examined:
        return "newly examined"
    if a.is_red and b.is_red:
        return "red otherwise"
    if a.is_red or b.is_red:
        return "became red" if b.is_red else "became green"
    return "now warns" if b is Outcome.WARNED else "warns no longer"


def _lost(state: State) -> Lost:
    """Say why a cell was not examined: what the plan skips took no time, what was not reached has no result."""
    if state.result is None:
        return Lost.INTERRUPTED
    return Lost.BY_PROBE if state.result.seconds else Lost.MISSING


def _slower(key: Key, a: State, b: State) -> Iterator[Slower]:
    if a.result and b.result and a.outcome.is_examined and b.outcome.is_examined:
        before, after = a.result.seconds, b.result.seconds
        if after > FACTOR * before and after - before > LEAST:
            yield Slower(*key, before, after)
