"""Which findings of two runs are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftdoctor.results import Outcome
from ftdoctor.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ftdoctor.cells import Cell
    from ftdoctor.results import CellResult, Finding, Frame, Run
    from ftdoctor_reports.difference.cells import Pairs

KINDS = {
    "new": "new",
    "accepted no longer": "accepted in A, not in B",
    "only B looked": "in cells that only B planned",
    "changed": "changed",
    "gone": "gone",
    "not looked for": "not seen in B, which did not examine its cells",
    "unchanged": "in both",
}
"""What can become of a finding, in the order in which it is shown, with what that means."""


@dataclass(frozen=True)
class FindingChange:
    """A finding of A, of B or of both."""

    kind: str
    """One of `KINDS`."""
    a: Finding | None
    b: Finding | None
    changes: tuple[str, ...] = ()
    """What changed of it, in words."""

    @property
    def is_worse(self) -> bool:
        """Whether it makes B worse."""
        return self.kind in ("new", "accepted no longer") and not self.finding.accepted

    @property
    def told(self) -> str:
        """What became of it, as a title."""
        meaning = KINDS[self.kind]
        return meaning[:1].upper() + meaning[1:] + (", accepted" if self.finding.accepted else "")

    @property
    def finding(self) -> Finding:
        """The finding as B has it, else as A has it."""
        found = self.b or self.a
        assert found is not None, "a change is of a finding"
        return found


def in_both(changes: Sequence[FindingChange]) -> str:
    """Return a line on the findings that are the same in both runs, or nothing."""
    same = [change.finding.probe for change in changes if change.kind == "unchanged"]
    return f"{count(len(same), 'finding')} in both: {', '.join(dict.fromkeys(same))}" if same else ""


@dataclass(frozen=True)
class Mark:
    """What a finding is known by in another run; versions and lines move with each upgrade and are not in it."""

    probes: frozenset[str]
    place: tuple[str, str]
    """Distribution and file of the culprit, empty where it is unknown."""
    function: str
    failure: str
    """The first check that failed, or what was raised."""
    cells: frozenset[tuple[str, Cell]]


def matched(a: Run, b: Run, pairs: Pairs) -> tuple[FindingChange, ...]:
    """Put the findings of two runs beside each other.

    The best match comes first, and each finding has one partner. One that is left over and that a finding of the other
    run matches as well is a part of that one: it was split or merged, and is neither new nor gone.
    """
    ones, others = [mark(a, f) for f in a.findings], [mark(b, f) for f in b.findings]
    scores = {
        (i, j): score for i, x in enumerate(ones) for j, y in enumerate(others) if (score := alike(x, y)) is not None
    }
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for i, j in sorted(scores, key=lambda pair: scores[pair], reverse=True):
        if i not in taken and j not in partner:
            partner[j] = i
            taken.add(i)
    found = []
    for j, finding in enumerate(b.findings):
        near = [partner[j]] if j in partner else [i for i in range(len(ones)) if (i, j) in scores]
        if near:
            split = () if j in partner else ("a part of a finding of A",)
            found.append(_both(a.findings[near[0]], finding, (*split, *_changes(ones[near[0]], others[j], pairs))))
        else:
            planned = not others[j].cells.isdisjoint(pairs.planned)
            found.append(FindingChange("new" if planned else "only B looked", None, finding))
    for i, finding in enumerate(a.findings):
        if i not in taken:
            near = [j for j in range(len(others)) if (i, j) in scores]
            found.append(_merged(finding, b.findings[near[0]]) if near else _gone(finding, ones[i], pairs))
    order = list(KINDS)
    return tuple(sorted(found, key=lambda change: (order.index(change.kind), bool(change.finding.accepted))))


def mark(run: Run, found: Finding) -> Mark:
    """Return what a finding is known by."""
    first = next((r for r in run.results if r.probe == found.probe and r.cell in found.cells), None)
    culprit = found.culprit
    return Mark(
        probes=frozenset((found.probe, *found.also)),
        place=(culprit.distribution, culprit.file) if culprit else ("", ""),
        function=_function(first, culprit.file, culprit.line) if first and culprit else "",
        failure=_failure(first) if first else "",
        cells=frozenset((found.probe, cell) for cell in found.cells),
    )


def alike(a: Mark, b: Mark) -> tuple[bool, int, int] | None:
    """Return how much speaks for two findings being the same, None where it is too little.

    Of place, failure and cells two must agree, for a probe that they share: files move between releases, checks are
    renamed and profiles have other cells, but seldom two of them at a time. What raises the same exception at the same
    place is the same for all probes.
    """
    place = a.place == b.place and (a.function == b.function or "" in (a.function, b.function))
    failure, cells = a.failure == b.failure, len(a.cells & b.cells)
    shared = not a.probes.isdisjoint(b.probes)
    raised = place and failure and bool(a.place[1]) and a.failure.startswith("raises ")
    agreeing = place + failure + bool(cells)
    return (shared, agreeing, cells) if raised or (shared and agreeing >= 2) else None


def _function(result: CellResult, file: str, line: int) -> str:
    """Return the name of the function of a line that stands in a result, or nothing."""
    frames: list[Frame] = [*result.raised.frames] if result.raised else []
    frames += [check.owner for check in result.failed_checks if check.owner]
    return next((frame.function for frame in frames if (frame.file, frame.line) == (file, line)), "")


def _failure(result: CellResult) -> str:
    if result.outcome is Outcome.CRASHED:
        return "crashes"
    if result.raised is not None:
        return f"raises {result.raised.type}"
    return result.failed_checks[0].name if result.failed_checks else result.reason


def _both(a: Finding, b: Finding, changes: tuple[str, ...]) -> FindingChange:
    if a.accepted and not b.accepted:
        return FindingChange("accepted no longer", a, b, changes)
    if b.accepted and not a.accepted:
        changes = ("accepted now", *changes)
    return FindingChange("changed" if changes else "unchanged", a, b, changes)


def _changes(a: Mark, b: Mark, pairs: Pairs) -> Iterator[str]:
    """Yield in what two findings that are the same differ, as far as both runs looked."""
    if a.place != b.place:
        yield f"the culprit was {' '.join(a.place).strip() or 'unknown'}"
    if a.failure != b.failure:
        yield f"it was: {a.failure}"
    if {probe for probe, _ in a.cells} != {probe for probe, _ in b.cells}:  # the cells of another one of its probes
        return
    more, fewer = len((b.cells - a.cells) & pairs.examined), len((a.cells - b.cells) & pairs.examined)
    if more:
        yield f"in {count(more, 'more cell')}"
    if fewer:
        yield f"in {count(fewer, 'cell')} fewer"


def _merged(a: Finding, b: Finding) -> FindingChange:
    return FindingChange("changed", a, b, ("two findings of A are one",))


def _gone(finding: Finding, known: Mark, pairs: Pairs) -> FindingChange:
    """Tell what is gone from what was not looked for."""
    looked = len(known.cells & pairs.examined)
    if not looked:
        return FindingChange("not looked for", finding, None)
    rest = len(known.cells) - looked
    return FindingChange("gone", finding, None, (f"{count(rest, 'cell')} of it not examined in B",) if rest else ())
