"""What all plots are made of: a picture with its text, a scale, lines with gaps, marks that differ in form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftdoctor_reports.elements import h

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from xml.etree import ElementTree as ET

FORMS = ("circle", "square", "triangle", "diamond")
"""The forms of marks, in the order in which they are given to the curves of a plot."""


def picture(width: int, height: int, class_: str, told: str) -> ET.Element:
    """Return an empty picture that scales with the page; `told` is what it says to whoever does not see it."""
    drawn = h("svg", {"viewBox": f"0 0 {width} {height}", "aria-label": told}, class_=class_, role="img")
    drawn.append(h("title", told))
    return drawn


def scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    """Return where a value is drawn; a single one stands at the beginning."""
    span = high / 2 - low / 2 or 0.5  # halves, because the whole may be more than a float holds
    return lambda value: begin + (end - begin) * ((value / 2 - low / 2) / span)


def lines(points: Sequence[tuple[float, float | None]]) -> Iterator[str]:
    """Yield a line for each run of values; where there is none it is interrupted."""
    piece: list[str] = []
    for x, y in [*points, (0.0, None)]:
        if y is not None:
            piece.append(f"{x:.1f},{y:.1f}")
        elif piece:
            yield " ".join(piece)
            piece = []


def mark(form: str, x: float, y: float, class_: str) -> ET.Element:
    """Return a mark of one of the forms around a point."""
    if form == "circle":
        return h("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3.5", class_=class_)
    if form == "square":
        return h("rect", x=f"{x - 3:.1f}", y=f"{y - 3:.1f}", width="6", height="6", class_=class_)
    corners = ((0, -4), (4, 3.5), (-4, 3.5)) if form == "triangle" else ((0, -4.5), (4.5, 0), (0, 4.5), (-4.5, 0))
    return h("polygon", points=" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners), class_=class_)
