"""Label masks of a probe's cells: the tokens of a row, and which of them the loss scores."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from ftdoctor.wording import count
from ftdoctor_reports.elements import h
from ftdoctor_reports.html.curves import first_of, link
from ftdoctor_reports.html.text import SHORT, cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from xml.etree import ElementTree as ET

    from ftdoctor.results import CellResult, LabelMask

TOKENS = 400
"""Tokens of a row that are shown."""
KEY = (("scored", "token scored"), ("not scored", "token"))
TOKEN = 60
"""Characters of a token."""


def figures(results: Sequence[tuple[str, CellResult]]) -> list[ET.Element]:
    """Return a figure for each label mask of each cell."""
    shown, rest = first_of([placed for placed in results if placed[1].label_masks])
    drawn = [_figure(place, result, mask) for place, result in shown for mask in result.label_masks]
    return [*drawn, *([h("p", f"Label masks of {rest}", class_="note")] if rest else [])]


def _figure(place: str, result: CellResult, mask: LabelMask) -> ET.Element:
    tokens = _judged(mask)
    scored, wrong = sum(mask.scored), sum(bad for _, _, bad in tokens)
    judged = f", {count(wrong, 'token')} otherwise than expected" if wrong else ", as expected" if mask.expected else ""
    caption = h(
        "figcaption",
        h("strong", h("bdi", cut(mask.name, SHORT))),
        " in ",
        link(place, result),
        f": {scored} of {count(len(mask.tokens), 'token')} scored",
        h("span", judged, class_="failed" if wrong else ""),
        h("span", *(h("span", label, class_=token) for label, token in KEY), class_="key"),
    )
    return h("figure", caption, h("div", *_shown(tokens), class_="mask"))


def _judged(mask: LabelMask) -> list[tuple[str, bool, bool]]:
    """Return each token with whether it is scored, and whether that is wrong."""
    wanted = dict(enumerate(mask.expected))
    return [
        (token, scored, wanted.get(i, scored) != scored)
        for i, (token, scored) in enumerate(zip(mask.tokens, mask.scored, strict=False))
    ]


def _shown(tokens: Sequence[tuple[str, bool, bool]]) -> Iterator[ET.Element]:
    """Yield the tokens in runs that are scored or not; a run that is wrong says so in words."""
    half = TOKENS // 2
    if len(tokens) > TOKENS:
        yield from _shown(tokens[:half])
        yield h("p", f"… {count(len(tokens) - TOKENS, 'token')} left out …", class_="note")
        yield from _shown(tokens[-half:])
        return
    for (scored, wrong), run in groupby(tokens, key=lambda token: token[1:]):
        spans = [h("span", _seen(token), class_="token scored" if scored else "token") for token, _, _ in run]
        heard = h("span", "scored: " if scored else "not scored: ", class_="unseen")
        said = "should not be scored" if scored else "should be scored"
        yield h(
            "span",
            heard,
            *spans,
            h("small", f"✗ {said}", class_="failed") if wrong else None,
            class_="run wrong" if wrong else "run",
        )


def _seen(token: str) -> str:
    """Return a token with its spaces and line feeds shown; an empty one is said to be empty."""
    return cut(token, TOKEN).replace(" ", "·").replace("\n", "↵").replace("\t", "⇥") or "∅"
