"""The matrix of a run as a heat map: a line for each probe, a square for each cell, and what filters them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ftdoctor.results import Outcome
from ftdoctor.wording import count
from ftdoctor_reports import tally
from ftdoctor_reports.elements import h
from ftdoctor_reports.html.places import grouped
from ftdoctor_reports.html.text import SHORT, cut

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

    from ftdoctor.results import CellResult, Run
    from ftdoctor_reports.html.places import Places

SHOWN_FIRST = (Outcome.FAILED, Outcome.CRASHED, Outcome.WARNED, Outcome.PASSED, Outcome.SKIPPED)


def section(run: Run, found: Places) -> ET.Element:
    """Return the heat map with its filters, which are hidden until a script makes them work."""
    told = "A line for each probe, a square for each of its cells, which leads to what was measured there."
    made = h("section", h("h2", "Matrix"), h("p", told, class_="note"), id="matrix")
    if not run.results:
        made.append(h("p", "No cell has a result."))
        return made
    made.append(_filters(run))
    body = [_area(area, probes, found) for area, probes in grouped(run, found).items()]
    heads = h("thead", h("tr", h("th", "probe", scope="col"), h("th", "cells", scope="col")))
    caption = h("caption", "Outcomes of the cells of each probe", class_="unseen")
    made.append(h("div", h("table", caption, heads, *body, class_="heat"), class_="wide"))
    made.append(h("p", {"hidden": ""}, id="about", class_="note"))
    return made


def outcomes(results: list[CellResult]) -> list[tuple[Outcome, int]]:
    """Return how many results have each outcome, the bad ones first."""
    counted = Counter(r.outcome for r in results)
    return [(outcome, counted[outcome]) for outcome in SHOWN_FIRST if counted[outcome]]


def chips(results: list[CellResult]) -> ET.Element:
    """Return the outcomes as marks with their numbers and words."""
    told = [
        h("li", h("span", tally.MARKS[o], {"aria-hidden": "true"}, class_=f"cell {o.value}"), f" {number} {o.value}")
        for o, number in outcomes(results)
    ]
    return h("ul", *told, class_="chips")


def _area(area: str, probes: dict[str, list[tuple[str, CellResult]]], found: Places) -> ET.Element:
    number = sum(map(len, probes.values()))
    heading = h("th", cut(area, SHORT), " ", h("small", count(number, "cell")), scope="rowgroup", colspan="2")
    rows = [_probe(probe, results, found) for probe, results in probes.items()]
    return h("tbody", h("tr", heading, class_="area"), *rows)


def _probe(probe: str, results: list[tuple[str, CellResult]], found: Places) -> ET.Element:
    name = h("a", cut(probe, SHORT), href=f"#{found.probes[probe]}")
    squares = [_square(place, result) for place, result in results]
    return h("tr", h("th", name, scope="row"), h("td", *squares))


def _square(place: str, result: CellResult) -> ET.Element:
    told = f"{result.outcome.value}: {result.probe} {result.cell}".rstrip()
    return h(
        "a",
        tally.MARKS[result.outcome],
        {"aria-label": cut(told, 2 * SHORT)},
        class_=f"cell {result.outcome.value}",
        href=f"#{place}",
    )


def _filters(run: Run) -> ET.Element:
    axes = _axes(run)
    boxes = [
        h(
            "label",
            h("input", type="checkbox", name="outcome", value=outcome.value),
            h("span", tally.MARKS[outcome], {"aria-hidden": "true"}, class_=f"cell {outcome.value}"),
            f" {outcome.value} {number}",
        )
        for outcome, number in outcomes(list(run.results))
    ]
    several = {axis: values for axis, values in axes.items() if len(values) > 1}
    chosen = [
        h("label", h("span", cut(axis, SHORT), " "), _choice("any", values, {"name": cut(axis, SHORT)}))
        for axis, values in several.items()
    ]
    aligned = _choice("in the order of the run", list(axes), {"id": "align"})
    parts = (
        h("fieldset", h("legend", "only"), *boxes),
        h("label", "find ", h("input", type="search", id="find", placeholder="probe, value, check, message")),
        h("label", "columns ", aligned),
        h("details", h("summary", "by axis"), h("div", *chosen, id="axes")) if chosen else None,
        h("button", "clear", type="button", id="clear"),
        h("output", {"aria-live": "polite"}, id="told"),
    )
    return h("form", *parts, {"hidden": "", "aria-label": "Filter of cells"}, id="filters")


def _choice(every: str, values: list[str], names: dict[str, str]) -> ET.Element:
    return h("select", h("option", every, value=""), *(h("option", cut(value, SHORT)) for value in values), names)


def _axes(run: Run) -> dict[str, list[str]]:
    """Return each axis of the run with its values, in the order in which they appear."""
    found: dict[str, dict[str, None]] = {}
    for result in run.results:
        for axis, value in result.cell.items:
            found.setdefault(axis, {})[value] = None
    return {axis: list(values) for axis, values in sorted(found.items())}
