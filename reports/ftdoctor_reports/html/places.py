"""Where each probe and each cell of a run stands on its page: ids that links from outside can rely on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftdoctor.cells import Cell
from ftdoctor_reports import embedded, tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ftdoctor.results import CellResult, Run

LONGEST = 300
"""Characters of an id; no cell of ours comes near it."""
OWN = (
    *("findings", "matrix", "not-run", "components", "selftest", "evidence", "timings", "versions", "markdown"),
    *("filters", "find", "align", "axes", "clear", "told", "about", "filtered", "said", "markdown-text", embedded.ID),
)
"""The sections and controls of the page; a probe of such a name stands under another one."""


@dataclass(frozen=True)
class Places:
    """Ids, each of which is given once."""

    probes: Mapping[str, str]
    """Probe to the id of its evidence."""
    results: Sequence[str]
    """One for each result of the run, in its order."""
    cells: Mapping[tuple[str, Cell], str]
    """Probe and cell to the id of the first result of that cell."""


def places(run: Run) -> Places:
    """Return the places of a run: the cell's own name, and `~2` behind it should a cell stand there twice."""
    given = {*OWN, *(f"finding-{i}{end}" for i in range(1, len(run.findings) + 1) for end in ("", "-markdown"))}
    probes: dict[str, str] = {}
    cells: dict[tuple[str, Cell], str] = {}
    results = []
    for result in run.results:
        if result.probe not in probes:
            probes[result.probe] = _free(tally.place(result.probe, Cell()).removesuffix(":"), given)
        place = _free(tally.place(result.probe, result.cell), given)
        cells.setdefault((result.probe, result.cell), place)
        results.append(place)
    return Places(probes, results, cells)


def grouped(run: Run, found: Places) -> dict[str, dict[str, list[tuple[str, CellResult]]]]:
    """Return area, then probe, to its results with their places, in the order of the run."""
    areas: dict[str, dict[str, list[tuple[str, CellResult]]]] = {}
    for place, result in zip(found.results, run.results, strict=True):
        area = areas.setdefault(run.areas.get(result.probe, "other"), {})
        area.setdefault(result.probe, []).append((place, result))
    return areas


def _free(name: str, given: set[str]) -> str:
    """Return the name, or the first of its followers that is not given yet, and take it."""
    name = name[:LONGEST] or "unnamed"
    place, number = name, 1
    while place in given:
        number += 1
        place = f"{name}~{number}"
    given.add(place)
    return place
