"""What a difference says as titled tables of plain text, which every form shows in its own way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftdoctor.wording import count, seconds
from ftdoctor_reports.difference.cells import GROUPS
from ftdoctor_reports.difference.facts import KINDS
from ftdoctor_reports.difference.values import grouped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftdoctor_reports.difference.cells import CellChange
    from ftdoctor_reports.difference.compare import Difference
    from ftdoctor_reports.difference.values import Drift

MARKS = {"better": "✓", "same": "✓", "worse": "✗", "not comparable": "–"}
"""Verdicts to their marks."""
TONES = {"became red": "bad", "became green": "good", "newly skipped": "warn", "now warns": "warn"}
"""Kinds of changes that are better or worse; the other ones are neither."""


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    texts: tuple[str, ...]
    tone: str = ""
    """`good`, `bad` or `warn` where it is one of these."""


@dataclass(frozen=True)
class Section:
    """A table with its title."""

    id: str
    title: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]


def sections(difference: Difference) -> list[Section]:
    """Return all but verdict and findings, the most important first; what is empty is left out."""
    made = [
        _facts(difference),
        *(_group(kind, [c for c in difference.cells if c.kind == kind]) for kind in GROUPS),
        _drifts(difference),
        _slower(difference),
        _alone(difference),
        Section("notes", "Not compared", ("note",), tuple(Row((note,)) for note in difference.notes)),
    ]
    return [section for section in made if section.rows]


def _group(kind: str, changes: Sequence[CellChange]) -> Section:
    """Return the cells with one kind of change; those that were not examined are told by their reason."""
    title = f"{kind[:1].upper()}{kind[1:]}: {count(len(changes), 'cell')}"
    tone = TONES.get(kind, "")
    if kind not in ("newly skipped", "newly examined"):
        rows = [Row((c.probe, str(c.cell) or "no axes", f"{c.a.value} → {c.b.value}", c.why), tone) for c in changes]
        return Section(kind.replace(" ", "-"), title, ("probe", "cell", "outcome", "why"), tuple(rows))
    reasons: dict[str, list[CellChange]] = {}
    for change in changes:
        reasons.setdefault(change.why, []).append(change)
    rows = [Row((count(len(cells), "cell"), _probes(cells), why), tone) for why, cells in reasons.items()]
    head = "why" if kind == "newly skipped" else "why not in A"
    return Section(kind.replace(" ", "-"), title, ("cells", "probes", head), tuple(rows))


def _probes(changes: Sequence[CellChange]) -> str:
    counted = Counter(c.probe for c in changes)
    return ", ".join(f"{probe} ({number})" if number > 1 else probe for probe, number in counted.items())


def _facts(difference: Difference) -> Section:
    rows = [Row((KINDS[f.kind], f.name, f.a or "–", f.b or "–")) for f in difference.facts]
    return Section("versions", f"What differs: {count(len(rows), 'fact')}", ("kind", "name", "A", "B"), tuple(rows))


def _drifts(difference: Difference) -> Section:
    rows = [_drift(drift, cells) for drift, cells in grouped(difference.drifts)]
    title = f"Drifted beyond the tolerance: {count(len(difference.drifts), 'value')}"
    heads = ("probe", "check", "cell", "A", "B", "apart", "tolerance", "what it means")
    return Section("drift", title, heads, tuple(rows))


def _drift(drift: Drift, cells: int) -> Row:
    where = str(drift.cell) + (f" and {count(cells - 1, 'more cell')}" if cells > 1 else "")
    numbers = ["" if number is None else f"{number:.3g}" for number in (drift.apart, drift.allowed)]
    tone = "bad" if drift.worse else "good" if drift.ok_b and not drift.ok_a else ""
    return Row((drift.probe, drift.check, where, drift.a, drift.b, *numbers, _means(drift)), tone)


def _means(drift: Drift) -> str:
    if drift.worse:
        return "does not hold any more"
    if drift.ok_b and not drift.ok_a:
        return "holds again"
    if not drift.ok_b:
        return "holds in neither"
    return "holds in both: what was expected moved as well" if drift.with_expected else "holds in both"


def _slower(difference: Difference) -> Section:
    rows = [Row((s.probe, str(s.cell), seconds(s.a), seconds(s.b))) for s in difference.slower]
    return Section("slower", f"Much slower: {count(len(rows), 'cell')}", ("probe", "cell", "A", "B"), tuple(rows))


def _alone(difference: Difference) -> Section:
    """Return how many cells of each probe only one of the two planned."""
    rows = [
        Row((probe, str(difference.only_a.get(probe, "")), str(difference.only_b.get(probe, ""))))
        for probe in dict.fromkeys([*difference.only_a, *difference.only_b])
    ]
    numbers = [sum(only.values()) for only in (difference.only_a, difference.only_b)]
    title = f"Planned by one of them only: {numbers[0]} by A, {numbers[1]} by B"
    return Section("alone", title, ("probe", "only A", "only B"), tuple(rows))
