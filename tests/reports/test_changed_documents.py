"""A document that somebody has changed is refused in a sentence, or every form can be made of it; nothing is in between."""

from __future__ import annotations

import copy
import io
import json as plain
from pathlib import Path

import pytest
from rich.console import Console

from ftdoctor import redaction
from ftdoctor.errors import FtdoctorError
from ftdoctor_reports import github, html, json, junit, markdown, terminal
from ftdoctor_reports.difference import markdown as difference
from ftdoctor_reports.difference import page
from ftdoctor_reports.difference.compare import compare

OLD = Path(__file__).parent / "data" / "report-1.json"
VALUES = (None, True, -1, 1e308, float("nan"), 10**400, "", "\ud800\x1b", [], [None], ["x"], {}, {"x": {}}, {"x": "y"})


def places(value, at=()):
    """Yield the way to each value of a document."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in items:
        yield from places(inside, (*at, key))


def kinds_of_places(document):
    """Return one way for each kind of place: the first element stands for its list."""
    found = {}
    for at in places(document):
        found.setdefault(tuple(key for key in at if not isinstance(key, int)), at)
    return [at for at in found.values() if at]


def changed(document, at, value):
    """Return a copy with another value at a place."""
    copied = copy.deepcopy(document)
    inside = copied
    for key in at[:-1]:
        inside = inside[key]
    inside[at[-1]] = value
    return copied


def forms(run, other):
    """Make every form of a run, and of its difference from another one."""
    redaction.here().run(run)
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal.head(run.machine, run.stack, run.model))
    console.print(terminal.body(run))
    for form in (json, markdown, junit, html):
        form.render(run)
    github.summary(run)
    list(github.annotations(run))
    difference.render(compare(run, other))
    page.render(compare(other, run))


@pytest.mark.parametrize("first", [0, 5])
def test_a_changed_document_is_refused_or_rendered(make_run, first):
    """Whatever stands in whichever place: each kind of place has another value, and another one the next time."""
    whole = make_run("findings")
    document = plain.loads(json.render(whole))
    outcomes = []
    for number, at in enumerate(kinds_of_places(document), first):
        value = VALUES[number % len(VALUES)]
        outcomes.append(refused_or_rendered(changed(document, at, value), whole))

    assert set(outcomes) == {"refused", "rendered"}


def test_a_document_with_something_missing_is_refused_or_rendered():
    """As one that was cut by hand; an older one too."""
    document = plain.loads(OLD.read_text())
    document["results"] = document["results"][-8:]
    whole = json.read(document)
    outcomes = []
    for at in kinds_of_places(document):
        missing = copy.deepcopy(document)
        inside = missing
        for key in at[:-1]:
            inside = inside[key]
        del inside[at[-1]]
        outcomes.append(refused_or_rendered(missing, whole))

    assert set(outcomes) == {"refused", "rendered"}


def refused_or_rendered(document, other):
    """Return what became of a document; any other exception passes through."""
    try:
        run = json.read(document)
    except FtdoctorError:
        return "refused"
    forms(run, other)
    return "rendered"
