"""Which measured values of two runs lie further apart than their tolerance allows.

Whether a value holds is judged in its own run; here stands what moved, also where both hold.

- A number that is compared with another one has a tolerance: how far rounding may take it from what was expected.
  Two runs that both meet their expectation may differ by that much for no reason. The larger tolerance of the two
  counts, because either run may have rounded less well. Of several values the largest difference from what was
  expected is compared in the same way: where that moves by more than the tolerance, at least one of the values did.
- What was expected may be computed anew in each run and move as well, as the reference loss does under another
  initialization. Then the value drifted *with what was expected*: something else was measured, not measured worse.
- A bound (`at most`, `at least`) allows everything on its side, so there is no drift but across it.
- An exact value has no tolerance: any other text is drift. Conditions (`Check.that`) are told only where they do not
  hold, for what they show as measured need not stay the same, such as the memory that is free.
- Notes are never judged.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftdoctor.results import Level
from ftdoctor.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ftdoctor.cells import Cell
    from ftdoctor.results import CheckRecord, Run
    from ftdoctor_reports.difference.cells import Pairs

_NUMBER = r"[-+]?\d[\d.]*(?:e[-+]?\d+)?"
_PLAIN = re.compile(_NUMBER)
_LARGEST = re.compile(rf"largest difference ({_NUMBER}) of \d+ values.*", re.DOTALL)
_TOLERANCE = re.compile(rf"atol=({_NUMBER}) rtol=({_NUMBER})")
DIGITS = 5
"""Decimal places behind the first digit of a number that is shown."""


@dataclass(frozen=True)
class Drift:
    """A check whose measured value in B is not that of A."""

    probe: str
    check: str
    cell: Cell
    a: str
    b: str
    expected_a: str
    expected_b: str
    ok_a: bool
    ok_b: bool
    with_expected: bool
    """Whether both hold, and what was expected moved as well, by half as much at least."""
    apart: float | None = None
    """How far the two lie from each other, None where they are no numbers."""
    allowed: float | None = None
    """The larger tolerance of the two."""

    @property
    def worse(self) -> bool:
        """Whether it held in A and does not in B."""
        return self.ok_a and not self.ok_b

    @property
    def times(self) -> float:
        """By how many tolerances they lie apart; infinite where there is none."""
        return self.apart / self.allowed if self.apart is not None and self.allowed else math.inf


@dataclass(frozen=True)
class _Number:
    value: float
    allowed: float
    shown: bool
    """Whether it was read from what is shown, in six digits."""

    @property
    def rounding(self) -> float:
        """How far the number may lie from the one that is shown."""
        return 0.5 * 10.0 ** (math.floor(math.log10(abs(self.value))) - DIGITS) if self.shown and self.value else 0.0


def drifts(a: Run, b: Run, pairs: Pairs) -> tuple[tuple[Drift, ...], tuple[str, ...]]:
    """Return what drifted, furthest first, and notes on what could not be judged."""
    if a.model != b.model:
        return (), ("The two runs examined different models, so their values were not compared.",)
    found: list[Drift] = []
    unmatched = 0
    for (probe, cell), one, other in pairs.both:
        if one.result and other.result and one.outcome.is_examined and other.outcome.is_examined:
            before, after = _named(one.result.checks), _named(other.result.checks)
            found += [d for name in before if name in after for d in _drift(probe, cell, before[name], after[name])]
            if one.result.raised is None and other.result.raised is None:
                unmatched += len(before.keys() ^ after.keys())
    notes = (
        (f"{count(unmatched, 'check')} of cells that both examined stood in one of them only.",) if unmatched else ()
    )
    return tuple(sorted(found, key=lambda d: (not d.worse, d.with_expected, -d.times))), notes


def grouped(found: Sequence[Drift]) -> list[tuple[Drift, int]]:
    """Return the drift of each check of a probe once, where it is furthest, with the number of its cells."""
    groups: dict[tuple[str, str], list[Drift]] = {}
    for drift in found:
        groups.setdefault((drift.probe, drift.check), []).append(drift)
    return [(group[0], len(group)) for group in groups.values()]


def _named(checks: Sequence[CheckRecord]) -> dict[str, CheckRecord]:
    return {check.name: check for check in checks if check.level is not Level.NOTE}


def _drift(probe: str, cell: Cell, a: CheckRecord, b: CheckRecord) -> Iterator[Drift]:
    one, other = _number(a), _number(b)
    apart = allowed = None
    if one and other:
        apart = abs(one.value - other.value)
        allowed = max(one.allowed, other.allowed) + one.rounding + other.rounding
        moved = apart > allowed
    else:
        moved = a.ok != b.ok or (a.measured != b.measured and _is_exact(a) and _is_exact(b))
    if moved:
        followed = a.ok and b.ok and _follows(a, b, apart)
        yield Drift(
            probe, a.name, cell, a.measured, b.measured, a.expected, b.expected, a.ok, b.ok, followed, apart, allowed
        )


def _follows(a: CheckRecord, b: CheckRecord, apart: float | None) -> bool:
    """Say whether what was expected moved about as far as what was measured."""
    if apart is None or not (_PLAIN.fullmatch(a.expected) and _PLAIN.fullmatch(b.expected)):
        return a.expected != b.expected
    return abs(float(a.expected) - float(b.expected)) >= apart / 2


def _is_exact(check: CheckRecord) -> bool:
    """Say whether any other value would be another result: equality that holds, or whatever does not hold."""
    if check.value is not None or check.tolerance or check.expected.startswith(("at most ", "at least ")):
        return False
    return check.measured == check.expected if check.ok else True


def _number(check: CheckRecord) -> _Number | None:
    """Return the value of a check and its tolerance, read from the text where a document does not hold them."""
    if check.value is not None and check.allowed is not None:
        return _Number(check.value, check.allowed, shown=False)
    tolerance = _TOLERANCE.fullmatch(check.tolerance)
    if tolerance is None:
        return None
    atol, rtol = float(tolerance[1]), float(tolerance[2])
    if _PLAIN.fullmatch(check.measured) and _PLAIN.fullmatch(check.expected):
        return _Number(float(check.measured), atol + rtol * abs(float(check.expected)), shown=True)
    largest = _LARGEST.fullmatch(check.measured)
    return _Number(float(largest[1]), atol, shown=True) if largest and not rtol else None
