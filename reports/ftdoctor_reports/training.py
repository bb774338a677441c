"""The summary of a training run as one self-contained page: no script, no network; curves are drawn as SVG."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ftdoctor.wording import count, seconds
from ftdoctor_reports.elements import definitions, h, page, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from xml.etree import ElementTree as ET

WIDTH, HEIGHT = 640, 200
LEFT, BELOW, ABOVE = 64, 22, 8
SHOWN = {
    "loss": "Loss (nats a token)",
    "grad_norm": "Gradient norm before clipping",
    "learning_rate": "Learning rate",
    "tokens_per_second": "Tokens per second",
    "scored_tokens_per_step": "Scored tokens a step",
    "masked_share": "Share of tokens that are not scored",
    "memory_gib": "Memory (GiB)",
    "skipped_batches": "Batches dropped so far",
}
"""Logged names to the titles of their curves, in this order; others follow under their own names."""


def render(summary: Mapping[str, Any]) -> str:
    """Return the page of a summary as `ftdoctor.training.summary` makes it."""
    main = h("main", _head(summary), *_curves(summary), *_sections(summary))
    return page(f"ftdoctor: training of {summary['recipe']['model']}", main)


def _head(summary: Mapping[str, Any]) -> ET.Element:
    bad = len(summary["bad_batches"])
    state = "finished" if summary["finished"] else "stopped; the same command goes on with it"
    verdict = f"{summary['steps']} of {count(summary['planned_steps'], 'step')}, {state}"
    first = summary["first_loss"]
    return h(
        "header",
        h("h1", "Training of ", summary["recipe"]["model"]),
        h("p", verdict, class_="verdict " + ("healthy" if summary["finished"] else "unexamined")),
        h("p", first["sentence"], class_="" if first["possible"] else "failed") if first else None,
        h("p", f"{count(bad, 'batch', 'batches')} dropped as not finite", class_="failed") if bad else None,
        h("p", f"{seconds(summary['seconds'])} in this process"),
    )


def _curves(summary: Mapping[str, Any]) -> list[ET.Element]:
    found = {curve["name"]: curve for curve in summary["curves"]}
    names = [n for n in SHOWN if n in found] + sorted(n for n in found if n not in SHOWN)
    drawn = [
        h("figure", h("figcaption", SHOWN.get(name, name)), _drawn(found[name]["steps"], found[name]["values"]))
        for name in names
        if len(found[name]["steps"]) > 1
    ]
    return [h("section", h("h2", "Curves"), *drawn)] if drawn else []


def _drawn(steps: Sequence[int], values: Sequence[Any]) -> ET.Element:
    """Return a line over the steps; where a value is not finite it is interrupted."""
    points = [(step, float(value)) for step, value in zip(steps, values, strict=True)]
    finite = [value for _, value in points if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    width, height = WIDTH - LEFT - 8, HEIGHT - ABOVE - BELOW
    span = max(1, steps[-1] - steps[0])

    def place(step: int, value: float) -> str:
        x = LEFT + width * (step - steps[0]) / span
        y = ABOVE + height * (1 - (value - low) / (high - low))
        return f"{x:.1f},{y:.1f}"

    drawn = h(
        "svg",
        {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "preserveAspectRatio": "xMidYMid meet"},
        class_="curve",
        role="img",
    )
    drawn.append(h("title", f"from {values[0]} at step {steps[0]} to {values[-1]} at step {steps[-1]}"))
    for value in (low, (low + high) / 2, high):
        y = ABOVE + height * (1 - (value - low) / (high - low))
        drawn.append(h("line", x1=str(LEFT), x2=str(WIDTH - 8), y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        drawn.append(h("text", f"{value:.3g}", {"text-anchor": "end"}, x=str(LEFT - 6), y=f"{y + 4:.1f}"))
    for step, x, anchor in ((steps[0], LEFT, "start"), (steps[-1], WIDTH - 8, "end")):
        drawn.append(h("text", f"step {step}", {"text-anchor": anchor}, x=str(x), y=str(HEIGHT - 6)))
    piece: list[str] = []
    for step, value in [*points, (steps[-1], math.nan)]:
        if math.isfinite(value):
            piece.append(place(step, value))
        elif piece:
            drawn.append(h("polyline", points=" ".join(piece), class_="line"))
            piece = []
    return drawn


def _sections(summary: Mapping[str, Any]) -> list[ET.Element]:
    plan, memory, loading = summary["batch_plan"], summary["memory"], summary["loading"]
    sections = [
        h("section", h("h2", "Data"), h("ul", *(h("li", line) for line in summary["data_told"]))),
        h(
            "section",
            h("h2", "Batch and memory"),
            definitions(
                [
                    (
                        "rows x accumulation",
                        plan["ended"] + (f" (asked {plan['asked']})" if plan["asked"] != plan["ended"] else ""),
                    ),
                    ("out of memory", "; ".join(plan["out_of_memory"])),
                    ("a step was expected to need", memory["estimate"]),
                    (
                        "most memory in use",
                        f"{memory['measured'] / 1024**3:.3g} GiB (the whole process)" if memory["measured"] else "",
                    ),
                ]
            ),
        ),
        h("section", h("h2", "Model"), h("ul", *(h("li", line) for line in summary["loading_told"]))),
    ]
    if summary["bad_batches"]:
        rows = [
            h("tr", *(h("td", str(bad[name])) for name in ("step", "micro_batch", "kind", "origin", "file")))
            for bad in summary["bad_batches"]
        ]
        heads = ("step", "micro-batch", "not finite", "first met in", "saved as")
        sections.insert(0, h("section", h("h2", "Dropped batches"), table(heads, rows)))
    recipe = [(name, _text(value)) for name, value in summary["recipe"].items()]
    sections.append(h("section", h("h2", "Recipe"), definitions(recipe)))
    sections.append(h("section", h("h2", "Versions"), definitions(list(loading["versions"].items()))))
    return sections


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
