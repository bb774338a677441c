"""Two runs compared: before and after an upgrade, or two machines.

`compare` judges; the forms beside it (`terminal`, `markdown`, `page`) only show.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftdoctor.machine import headline
from ftdoctor.wording import count
from ftdoctor_reports import tally
from ftdoctor_reports.difference.cells import Lost, paired
from ftdoctor_reports.difference.facts import facts, unrecorded
from ftdoctor_reports.difference.findings import matched
from ftdoctor_reports.difference.values import drifts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ftdoctor.cells import Cell
    from ftdoctor.results import Run
    from ftdoctor_reports.difference.cells import CellChange, Pairs, Slower
    from ftdoctor_reports.difference.facts import Fact
    from ftdoctor_reports.difference.findings import FindingChange
    from ftdoctor_reports.difference.values import Drift

SCHEMA = "ftdoctor.difference/1"


@dataclass(frozen=True)
class Side:
    """What is said of one of the two runs."""

    name: str
    verdict: str
    machine: str
    started: str
    profile: str
    interrupted: bool
    redacted: bool


@dataclass(frozen=True)
class Difference:
    """How run B differs from run A."""

    schema: str
    a: Side
    b: Side
    verdict: str
    """What B is beside A: `better`, `same`, `worse` or `not comparable`."""
    reasons: tuple[str, ...]
    """Why; those of `worse` first."""
    common: int
    """Cells that both planned."""
    facts: tuple[Fact, ...]
    """Versions, machine, environment and what was asked, where they differ."""
    findings: tuple[FindingChange, ...]
    cells: tuple[CellChange, ...]
    drifts: tuple[Drift, ...]
    slower: tuple[Slower, ...]
    only_a: Mapping[str, int]
    """Probe to the number of its cells that only A planned."""
    only_b: Mapping[str, int]
    notes: tuple[str, ...] = ()
    """What could not be compared."""

    @property
    def told(self) -> str:
        """The verdict in a line."""
        what = {"not comparable": "A and B cannot be compared", "same": "B is like A"}
        alone = self.common and (self.only_a or self.only_b)
        where = f" in the {count(self.common, 'cell')} that both planned" if alone else ""
        reasons = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return what.get(self.verdict, f"B is {self.verdict}") + where + reasons

    @property
    def redacted(self) -> bool:
        """Whether secrets and names were taken out of both."""
        return self.a.redacted and self.b.redacted


def compare(a: Run, b: Run, names: tuple[str, str] = ("A", "B")) -> Difference:
    """Compare run B with run A.

    B is *worse* where it has a finding that is not accepted and that A had not (or had accepted), where a cell that was
    green is red and not accepted, where cells that A examined could not be examined (a GPU or a library is missing, or
    the run was interrupted), and is *better* where nothing of this holds, and a finding is gone that B looked for, a
    red cell is green, or more was examined. What only one of them planned, as with another profile, makes neither
    better nor worse. Runs that planned no cell in common cannot be compared.

    Args:
        a: the run that the other one is held against.
        b: the run that is judged.
        names: what the two are called.
    """
    pairs = paired(a, b)
    findings = matched(a, b, pairs)
    values, notes = drifts(a, b, pairs)
    verdict, reasons = _judged(a, b, pairs, findings)
    return Difference(
        schema=SCHEMA,
        a=_side(a, names[0]),
        b=_side(b, names[1]),
        verdict=verdict,
        reasons=reasons,
        common=pairs.common,
        facts=tuple(facts(a, b)),
        findings=findings,
        cells=pairs.changes,
        drifts=values,
        slower=pairs.slower,
        only_a=Counter(probe for probe, _ in pairs.only_a),
        only_b=Counter(probe for probe, _ in pairs.only_b),
        notes=(*unrecorded(a, b), *notes),
    )


def _judged(a: Run, b: Run, pairs: Pairs, findings: tuple[FindingChange, ...]) -> tuple[str, tuple[str, ...]]:
    """Return what B is beside A, and why."""
    if not pairs.common:
        return "not comparable", ("the two runs planned no cell in common",)
    worse, better = tuple(_worse(a, b, pairs, findings)), tuple(_better(pairs, findings))
    if worse or better:
        return "worse" if worse else "better", (*worse, *better)
    if not pairs.examined:
        return "not comparable", ("neither of them examined a cell that both planned",)
    return "same", ()


def _side(run: Run, name: str) -> Side:
    return Side(
        name, tally.verdict(run), headline(run.machine), run.started, run.profile, run.interrupted, run.redaction.done
    )


def _worse(a: Run, b: Run, pairs: Pairs, findings: tuple[FindingChange, ...]) -> Iterator[str]:
    """Yield each way in which B is worse."""
    kinds = Counter(change.kind for change in findings if change.is_worse)
    if kinds["new"]:
        yield count(kinds["new"], "new finding")
    if kinds["accepted no longer"]:
        yield f"{count(kinds['accepted no longer'], 'finding')} accepted no longer"
    red = [_is_accepted(b, c.probe, c.cell) for c in pairs.changes if c.kind == "became red"]
    if not all(red):
        yield f"{count(red.count(False), 'cell')} became red" + (f" (and {sum(red)} accepted)" if any(red) else "")
    lost = Counter(c.lost for c in pairs.changes)
    if lost[Lost.MISSING]:
        yield f"{count(lost[Lost.MISSING], 'cell')} could not be examined any more"
    if lost[Lost.INTERRUPTED] or (b.interrupted and not a.interrupted):
        before = f" before {count(lost[Lost.INTERRUPTED], 'cell')}" if lost[Lost.INTERRUPTED] else ""
        yield f"B was interrupted{before}"


def _is_accepted(run: Run, probe: str, cell: Cell) -> bool:
    """Say whether a red cell belongs to a finding that is accepted.

    A finding names the cells of its own probe only; of another probe that it ends as well all are taken for its own,
    unless a finding that is not accepted ends that probe too.
    """
    if any(f.accepted and f.probe == probe and cell in f.cells for f in run.findings):
        return True
    ends = [bool(f.accepted) for f in run.findings if probe in f.also or (probe == f.probe and not f.accepted)]
    return bool(ends) and all(ends)


def _better(pairs: Pairs, findings: tuple[FindingChange, ...]) -> Iterator[str]:
    """Yield each way in which B is better."""
    kinds = Counter(change.kind for change in findings)
    if kinds["gone"]:
        yield count(kinds["gone"], "finding gone", "findings gone")
    cells = Counter(c.kind for c in pairs.changes if not c.b.is_red)
    if cells["became green"]:
        yield f"{count(cells['became green'], 'cell')} became green"
    if cells["newly examined"]:
        yield f"{count(cells['newly examined'], 'cell')} more examined"
