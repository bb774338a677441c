"""The evidence of a run: for each probe its promise, and what was measured in each of its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.results import CellResult, CheckRecord, Level, Outcome
from ftdoctor.wording import count, seconds
from ftdoctor_reports import tally
from ftdoctor_reports.elements import definitions, h
from ftdoctor_reports.html import curves, masks
from ftdoctor_reports.html.matrix import outcomes
from ftdoctor_reports.html.places import grouped
from ftdoctor_reports.html.text import LINE, SHORT, cut, sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from xml.etree import ElementTree as ET

    from ftdoctor.results import Run
    from ftdoctor_reports.html.places import Places

    Placed = Sequence[tuple[str, CellResult]]

COLUMNS = 12
"""Checks with more names than these share a column."""
HELD = 44
"""Characters of what was measured where it holds."""
UNFOLDED = 60
"""Cells of a probe that did not pass everywhere; the evidence of more is folded all the same."""
BAD = (Outcome.FAILED, Outcome.CRASHED, Outcome.WARNED)


def section(run: Run, found: Places) -> ET.Element | None:
    """Return the evidence of all probes; of those that passed in all cells, or have very many, it is folded."""
    if not run.results:
        return None
    made = h("section", h("h2", "Evidence"), id="evidence")
    note = h("p", {"hidden": ""}, id="filtered", class_="banner")
    made.append(note)
    for area, probes in grouped(run, found).items():
        for probe, results in probes.items():
            made.append(_probe(area, probe, found.probes[probe], results, run.promises.get(probe, "")))
    return made


def _probe(area: str, probe: str, place: str, results: Placed, promise: str) -> ET.Element:
    of_probe = [result for _, result in results]
    counted = ", ".join(f"{tally.MARKS[o]} {number} {o.value}" for o, number in outcomes(of_probe))
    spent = sum(r.seconds for r in of_probe)
    opened = len(results) <= UNFOLDED and any(r.outcome in BAD for r in of_probe)
    head = h(
        "summary",
        h("h3", cut(probe, SHORT)),
        h("small", f" {cut(area, SHORT)} · {counted}" + (f" · {seconds(spent)}" if spent else ""), class_="note"),
    )
    body = (
        h("p", sentence(promise), class_="promise") if promise else None,
        _table(results),
        *_expectations(of_probe),
        *curves.figures(results),
        *masks.figures(results),
    )
    return h("details", head, *body, {"open": ""} if opened else {}, id=place, class_="probe")


def _table(results: Placed) -> ET.Element:
    axes, same = _axes([result for _, result in results])
    names = _names([result for _, result in results])
    apart = len(names) <= COLUMNS
    told = any(_what(result) for _, result in results)
    checked = names if apart else ["checks"]
    heads = [h("th", cut(label, SHORT), scope="col") for label in ("outcome", *axes)]
    heads += [h("th", "what", scope="col")] if told else []
    heads += [h("th", cut(name, SHORT), scope="col", class_="check") for name in checked]
    heads.append(h("th", "time", scope="col"))
    rows = [_row(place, result, axes, names if apart else None, told) for place, result in results]
    caption = count(len(results), "cell") + (f", all with {same}" if same else "")
    made = h("table", h("caption", cut(caption)), h("thead", h("tr", *heads)), h("tbody", *rows))
    return h("div", made, class_="wide")


def _names(results: Sequence[CellResult]) -> list[str]:
    """Return the names of the checks, those first that do not hold somewhere."""
    names: dict[str, bool] = {}
    for result in results:
        for check in result.checks:
            names[check.name] = names.get(check.name, True) and (check.ok or check.level is Level.NOTE)
    return sorted(names, key=lambda name: names[name])


def _axes(results: Sequence[CellResult]) -> tuple[list[str], str]:
    """Return the axes in which the cells differ, and in words those in which they do not."""
    axes = sorted({axis for result in results for axis in result.cell})
    values = {axis: {result.cell.get(axis) for result in results} for axis in axes}
    same = " ".join(f"{axis}={next(iter(values[axis]))}" for axis in axes if len(values[axis]) == 1)
    return [axis for axis in axes if len(values[axis]) > 1], same


def _row(place: str, result: CellResult, axes: Sequence[str], names: Sequence[str] | None, told: bool) -> ET.Element:
    outcome = result.outcome
    link = h("a", f"{tally.MARKS[outcome]} {outcome.value}", href=f"#{place}")
    values = result.cell.asdict()
    row = h("tr", h("td", link, class_=outcome.value), id=place)
    row.extend(h("th", cut(values[axis], SHORT), scope="row") if values.get(axis) else h("td") for axis in axes)
    if told:
        row.append(h("td", cut(_what(result)), class_="what"))
    if names is None:
        row.append(h("td", h("ul", *(h("li", cut(c.name, SHORT), ": ", *_measured(c)) for c in result.checks))))
    else:
        # Of several of one name that which does not hold.
        checks = {check.name: check for check in sorted(result.checks, key=lambda check: not check.ok)}
        row.extend(h("td", *_measured(checks[name])) if name in checks else h("td") for name in names)
    row.append(h("td", "" if outcome is Outcome.SKIPPED else seconds(result.seconds), class_="number"))
    return row


def _what(result: CellResult) -> str:
    """Return why a cell was skipped, how it crashed, or what it raised."""
    if result.raised is not None:
        return f"{result.raised.type}: {result.raised.message}"
    return result.reason


def _measured(check: CheckRecord) -> list[Any]:
    """Return what was measured, and beside it what was expected where that does not hold."""
    if check.ok or check.level is Level.NOTE:
        size = len(check.measured)
        return [check.measured if size <= HELD else f"{check.measured[:HELD]} … ({size:,} characters)"]
    mark, word = ("!", "warned") if check.level is Level.WARN else ("✗", "failed")
    tolerance = f" ({cut(check.tolerance, SHORT)})" if check.tolerance else ""
    missing = h("small", f"expected {cut(check.expected, LINE // 2)}{tolerance}")
    return [h("strong", f"{mark} ", h("bdi", cut(check.measured, LINE // 2)), class_=word), h("br"), missing]


def _expectations(results: Sequence[CellResult]) -> list[ET.Element]:
    """Return what each check expects, how closely, and where that comes from."""
    checks: dict[str, list[CheckRecord]] = {}
    for result in results:
        for check in result.checks:
            checks.setdefault(check.name, []).append(check)
    rows = [(cut(name, SHORT), _expected(same)) for name, same in list(checks.items())[: 2 * COLUMNS]]
    if len(checks) > len(rows):
        rows.append(("…", count(len(checks) - len(rows), "more check")))
    listed = definitions(rows)
    return [h("details", h("summary", "what is expected, and why"), listed)] if len(listed) else []


def _expected(checks: Sequence[CheckRecord]) -> str:
    def one(values: Mapping[str, None]) -> str:
        first = cut(next(iter(values)), LINE // 2)
        return first if len(values) == 1 else f"{first} (and {len(values) - 1} others, by cell)"

    expected, tolerance, why = (
        dict.fromkeys(text for check in checks if (text := str(getattr(check, name))))
        for name in ("expected", "tolerance", "why")
    )
    told = [one(expected)] if expected else []
    told += [f"tolerance {one(tolerance)}"] if tolerance else []
    told += [f"because: {one(why)}"] if why else []
    if checks[0].level is Level.NOTE:
        told.append("noted, never judged")
    return "; ".join(told)
