"""The curves of a probe's cells: values over steps as SVG, those of one name in one plot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ftdoctor.wording import count
from ftdoctor_reports import plot, tally
from ftdoctor_reports.elements import h
from ftdoctor_reports.html.matrix import SHOWN_FIRST
from ftdoctor_reports.html.text import SHORT, cut

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree import ElementTree as ET

    from ftdoctor.results import CellResult, Curve

WIDTH, HEIGHT = 420, 170
LEFT, RIGHT, ABOVE, BELOW = 58, 10, 10, 24
CELLS = 6
"""Cells of a probe whose pictures are shown; the document holds them all."""
CURVES = 6
"""Curves in one plot."""
POINTS = 240
"""Values of a curve that are drawn; more would not be told apart."""
LAST = 2**53
"""Steps from here on are no steps."""
MARKED = 24
"""With more values than these a curve has fewer marks."""


def first_of(results: Sequence[tuple[str, CellResult]]) -> tuple[list[tuple[str, CellResult]], str]:
    """Return the cells whose pictures are shown, the red ones first, and what is said of the others."""
    chosen = sorted(results, key=lambda placed: SHOWN_FIRST.index(placed[1].outcome))
    rest = len(chosen) - CELLS
    return chosen[:CELLS], f"{count(rest, 'more cell')} in the JSON document." if rest > 0 else ""


def figures(results: Sequence[tuple[str, CellResult]]) -> list[ET.Element]:
    """Return a figure for each name of the curves of each cell."""
    shown, rest = first_of([placed for placed in results if placed[1].curves])
    drawn = [
        _figure(place, result, name, [curve for curve in result.curves if curve.name == name])
        for place, result in shown
        for name in dict.fromkeys(curve.name for curve in result.curves)
    ]
    if not drawn:
        return []
    return [h("div", *drawn, class_="plots"), *([h("p", f"Curves of {rest}", class_="note")] if rest else [])]


def link(place: str, result: CellResult) -> ET.Element:
    """Return the way from a picture to its cell, with the mark of its outcome."""
    return h("a", f"{tally.MARKS[result.outcome]} {cut(str(result.cell), SHORT) or 'its only cell'}", href=f"#{place}")


def _figure(place: str, result: CellResult, name: str, curves: Sequence[Curve]) -> ET.Element:
    title = cut(name, SHORT) + (f" ({cut(curves[0].unit, SHORT)})" if curves[0].unit else "")
    left = f", {count(len(curves) - CURVES, 'more curve')} not drawn" if len(curves) > CURVES else ""
    listed = [_entry(curve, number) for number, curve in enumerate(curves[:CURVES])]
    legend = h("ul", *listed, class_="legend") if any(curve.label for curve in curves) else None
    caption = h("figcaption", h("strong", title), " in ", link(place, result), left, legend)
    points = [_thinned(curve) for curve in curves[:CURVES]]
    told = [_told(curve.label, known) for curve, known in zip(curves, points, strict=False)]
    return h("figure", _drawn(points, "; ".join([cut(name, SHORT), *told])), caption)


def _entry(curve: Curve, number: int) -> ET.Element:
    swatch = h("svg", {"viewBox": "0 0 34 10", "aria-hidden": "true"}, class_="swatch")
    swatch.append(h("polyline", points="0,5 34,5", class_=f"line curve-{number}"))
    swatch.append(plot.mark(plot.FORMS[number % len(plot.FORMS)], 17, 5, f"mark curve-{number}"))
    return h("li", swatch, " ", cut(curve.label, SHORT) or "(no label)")


def _thinned(curve: Curve) -> list[tuple[int, float | None]]:
    """Return the points of a curve; of many the first of each group, or the one of it that is not finite."""
    points = [
        (step, _finite(value)) for step, value in zip(curve.steps, curve.values, strict=False) if abs(step) < LAST
    ]
    size = max(1, math.ceil(len(points) / POINTS))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    thinned = [next((point for point in group if point[1] is None), group[0]) for group in groups]
    return thinned if size == 1 else [*thinned, points[-1]]


def _finite(value: float | None) -> float | None:
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:  # a document may hold whole numbers of any length
        return None


def _drawn(curves: Sequence[Sequence[tuple[int, float | None]]], told: str) -> ET.Element:
    steps = [step for points in curves for step, _ in points]
    finite = [value for points in curves for _, value in points if value is not None]
    drawn = plot.picture(WIDTH, HEIGHT, "curve", told)
    if not steps:
        return drawn
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    x = plot.scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    y = plot.scale(low, high, HEIGHT - BELOW, ABOVE)
    for value in (low, low / 2 + high / 2, high):
        ends = {"x1": str(LEFT), "x2": str(WIDTH - RIGHT), "y1": f"{y(value):.1f}", "y2": f"{y(value):.1f}"}
        drawn.append(h("line", ends, class_="grid"))
        drawn.append(h("text", f"{value:.3g}", {"text-anchor": "end"}, x=str(LEFT - 6), y=f"{y(value) + 4:.1f}"))
    for step, anchor in {min(steps): "start", max(steps): "end"}.items():
        drawn.append(h("text", f"step {step}", {"text-anchor": anchor}, x=f"{x(step):.1f}", y=str(HEIGHT - 7)))
    for number, points in enumerate(curves):
        drawn.extend(_curve(number, [(x(step), None if value is None else y(value)) for step, value in points]))
    return drawn


def _curve(number: int, points: Sequence[tuple[float, float | None]]) -> list[ET.Element]:
    """Return the line of a curve, marks on it, and a cross below where it has no value."""
    made = [h("polyline", points=line, class_=f"line curve-{number}") for line in plot.lines(points)]
    form, every = plot.FORMS[number % len(plot.FORMS)], math.ceil(len(points) / MARKED)
    for at, (x, y) in enumerate(points):
        if y is None:
            below = {"x": f"{x:.1f}", "y": str(HEIGHT - BELOW - 3), "text-anchor": "middle"}
            made.append(h("text", "✗", below, class_="failure"))
        elif at % every == 0:
            made.append(plot.mark(form, x, y, f"mark curve-{number}"))
    return made


def _told(label: str, points: Sequence[tuple[int, float | None]]) -> str:
    """Return a curve in words: where it begins and ends, and where values are missing."""
    known = [(step, value) for step, value in points if value is not None]
    missing = [str(step) for step, value in points if value is None]
    told = (
        [f"from {known[0][1]:.4g} at step {known[0][0]} to {known[-1][1]:.4g} at step {known[-1][0]}"] if known else []
    )
    if missing:
        told.append(f"not finite at step {', '.join(missing[:8])}" + (" and others" if len(missing) > 8 else ""))
    return f"{cut(label, SHORT)}{': ' if label else ''}{', '.join(told) or 'no values'}"
