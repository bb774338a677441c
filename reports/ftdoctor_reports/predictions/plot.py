"""Plots of predictions as SVG: how many are right over the steps, and one small curve for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftdoctor_reports.elements import h
from ftdoctor_reports.plot import lines, mark, picture, scale

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree import ElementTree as ET

    from ftdoctor_reports.predictions.tally import Judged, Step

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, ABOVE, BELOW = 44, 12, 28, 26
SMALL = 180, 30
MARKED = 60
"""With more steps than these the lines have no marks."""


def over_steps(steps: Sequence[Step], prefix: str) -> ET.Element:
    """Return the share of exact matches and the mean similarity over the steps; failures are marked above."""
    first, last = steps[0].step, steps[-1].step
    x = scale(first, last, LEFT, WIDTH - RIGHT)
    y = scale(0.0, 1.0, HEIGHT - BELOW, ABOVE)
    drawn = picture(WIDTH, HEIGHT, "curve", _told(steps))
    for value in (0.0, 0.5, 1.0):
        ends = {"x1": str(LEFT), "x2": str(WIDTH - RIGHT), "y1": f"{y(value):.1f}", "y2": f"{y(value):.1f}"}
        drawn.append(h("line", ends, class_="grid"))
        drawn.append(h("text", f"{value:g}", {"text-anchor": "end"}, x=str(LEFT - 6), y=f"{y(value) + 4:.1f}"))
    for step, anchor in {first: "start", last: "end" if last != first else "start"}.items():
        drawn.append(h("text", f"step {step}", {"text-anchor": anchor}, x=f"{x(step):.1f}", y=str(HEIGHT - 8)))
    for name, values in (("similarity", [s.similarity for s in steps]), ("exact", [s.share for s in steps])):
        points = [(x(s.step), None if v is None else y(v)) for s, v in zip(steps, values, strict=True)]
        drawn.extend(h("polyline", points=line, class_=f"line {name}") for line in lines(points))
        if len(steps) <= MARKED:
            drawn.extend(_mark(name, at, height) for at, height in points if height is not None)
    drawn.extend(_link(step, x(step.step), prefix) for step in steps)
    return drawn


def of_sample(history: Sequence[Judged], steps: Sequence[Step]) -> ET.Element | None:
    """Return the similarity of one sample over the steps, a filled mark where it is exact, ✗ where it failed."""
    if len(history) < 2 or all(one.exact is None and not one.failed for one in history):
        return None
    width, height = SMALL
    x = scale(steps[0].step, steps[-1].step, 8, width - 8)
    y = scale(0.0, 1.0, height - 6, 6)
    points = [(x(one.row.step), None if one.similarity is None else y(one.similarity)) for one in history]
    drawn = picture(width, height, "spark", _told_of_sample(history))
    drawn.append(h("line", x1="8", x2=str(width - 8), y1=str(height - 6), y2=str(height - 6), class_="grid"))
    drawn.extend(h("polyline", points=line, class_="line similarity") for line in lines(points))
    for one in history:
        if one.exact:
            drawn.append(_mark("exact", x(one.row.step), y(1.0)))
        elif one.failed:
            at = {"x": f"{x(one.row.step):.1f}", "y": str(height - 7), "text-anchor": "middle"}
            drawn.append(h("text", "✗", at, class_="failure"))
    return drawn


def _mark(name: str, x: float, y: float) -> ET.Element:
    return mark("circle" if name == "exact" else "square", x, y, f"mark {name}")


def _link(step: Step, x: float, prefix: str) -> ET.Element:
    """Return the column of a step: its numbers, its failures, and the way to its predictions."""
    told = f"step {step.step}: {numbers(step)}"
    column = {"x": f"{x - 5:.1f}", "y": "0", "width": "10", "height": str(HEIGHT)}
    link = h(
        "a", h("title", told), h("rect", column, class_="column"), {"tabindex": "-1"}, href=f"#{prefix}step-{step.step}"
    )
    if step.failed:
        at = {"x": f"{x:.1f}", "y": "14", "text-anchor": "middle"}
        link.append(h("text", f"✗{step.failed}", at, class_="failure"))
    return link


def numbers(step: Step) -> str:
    """Return what was counted at a step, in words."""
    told = [f"{step.exact} of {step.judged} exact"] if step.judged else []
    told += [f"mean similarity {step.similarity:.2f}"] if step.similarity is not None else []
    told += [f"{step.failed} of {step.predictions} failed"] if step.failed else []
    return ", ".join(told) or "nothing to judge by"


def _told(steps: Sequence[Step]) -> str:
    if len(steps) == 1:
        return f"step {steps[0].step}: {numbers(steps[0])}"
    return f"from step {steps[0].step}: {numbers(steps[0])}; to step {steps[-1].step}: {numbers(steps[-1])}"


def _told_of_sample(history: Sequence[Judged]) -> str:
    known = [one.similarity for one in history if one.similarity is not None]
    told = f"similarity from {known[0]:.2f} to {known[-1]:.2f}" if known else "no similarity"
    for label, steps in (
        ("exact", [one.row.step for one in history if one.exact]),
        ("failed", [one.row.step for one in history if one.failed]),
    ):
        told += f"; {label} at {len(steps)} of {len(history)} steps" if steps else ""
    return told
