"""What else a run tells: what did not run, components, the selftest, timings, versions, and what was redacted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.machine import describe
from ftdoctor.results import CONTROL, Run, Trial, dumps
from ftdoctor.wording import count, seconds
from ftdoctor_reports import tally
from ftdoctor_reports.elements import definitions, h, table
from ftdoctor_reports.html.findings import folded
from ftdoctor_reports.html.text import LINE, SHORT, cut

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from xml.etree import ElementTree as ET

    from ftdoctor_reports.html.places import Places

SLOWEST = 20
"""Probes whose time is told."""


def not_run(run: Run) -> ET.Element:
    """Return the reasons for which cells were not examined, and the notes of the run."""
    missing = max(0, run.planned - len(run.results))
    items = [h("li", f"{count(number, 'cell')}: ", h("bdi", cut(reason))) for reason, number in tally.skips(run)]
    if missing:
        why = "the run was interrupted before them" if run.interrupted else "they have no result"
        items.append(h("li", f"{count(missing, 'planned cell')}: {why}"))
    none = "Every planned cell was examined." if run.planned else "No cell was planned."
    told = h("ul", *items) if items else h("p", none)
    notes = [h("li", cut(note)) for note in (*run.notes, *tally.apart(run))]
    noted = [h("h3", "Notes"), h("ul", *notes)] if notes else []
    return h("section", h("h2", "What did not run, and why"), told, *noted, id="not-run")


def components(run: Run) -> ET.Element | None:
    """Return the promises of the components: the cells in which the naive script, the library and ours keep them."""
    promises = tally.compared(run)
    if not promises:
        return None
    rows = []
    for promise in promises:
        shares = [_share(promise, way) for way in tally.WAYS]
        rows.append(h("tr", h("th", cut(promise.probe), scope="row"), h("td", cut(promise.check)), *shares))
    told = "In how many cells each way of doing the same thing keeps the promise, and what it measured"
    drawn = table(("probe", "promise", *tally.WAYS.values()), rows, told)
    return h("section", h("h2", "Components"), drawn, id="components")


def _share(promise: tally.Compared, way: str) -> ET.Element:
    if not promise.share(way):
        return h("td", "not tried")
    whole = promise.holds[way] == promise.measured[way]
    told = h("small", cut(promise.example[way], SHORT))
    mark = "✓ " if whole else "✗ "
    return h("td", h("span", mark, promise.share(way), class_="passed" if whole else "failed"), h("br"), told)


def selftest(run: Run) -> ET.Element | None:
    """Return what the probes are worth: the faults put into the stack that each of them caught."""
    if not run.selftest:
        return None
    probes: dict[str, list[Trial]] = {}
    for trial in run.selftest:
        probes.setdefault(trial.probe, []).append(trial)
    told = "How many of the faults that were put into the stack each probe caught, and whether it was quiet without one"
    heads = ("probe", "caught", "missed", "skipped", "without a fault")
    drawn = table(heads, [_sensitivity(probe, trials) for probe, trials in probes.items()], told)
    wrong = [_trial(trial) for trial in run.selftest if not trial.ok]
    alone = [table(TRIAL, wrong, "Trials that went wrong")] if wrong else []
    rest = [_trial(trial) for trial in run.selftest if trial.ok]
    label = f"Other trials ({len(rest)})"
    every = h("details", h("summary", label), table(TRIAL, rest, "Trials that went right, or were skipped"))
    verdict = h("p", tally.selftest(run.selftest))
    return h("section", h("h2", "Sensitivity"), verdict, drawn, *alone, every if rest else None, id="selftest")


TRIAL = ("verdict", "probe", "fault", "cell", "detail")


def _sensitivity(probe: str, trials: Sequence[Trial]) -> ET.Element:
    faults = [t.verdict for t in trials if t.fault != CONTROL]
    controls = [t.verdict for t in trials if t.fault == CONTROL]
    caught, missed, skipped = (faults.count(verdict) for verdict in ("caught", "missed", "skipped"))
    red, clean = controls.count("red without a fault"), controls.count("clean")
    quiet = f"✗ red in {red}" if red else f"✓ clean in {clean}" if clean else "not tried"
    return h(
        "tr",
        h("th", cut(probe, SHORT), scope="row"),
        h("td", f"{caught} of {len(faults)}"),
        h("td", f"✗ {missed}" if missed else "0", class_="failed" if missed else ""),
        h("td", str(skipped)),
        h("td", quiet, class_="failed" if red else ""),
    )


def _trial(trial: Trial) -> ET.Element:
    mark = "–" if trial.verdict == "skipped" else "✓" if trial.ok else "✗"
    word = "skipped" if trial.verdict == "skipped" else "passed" if trial.ok else "failed"
    texts = (trial.probe, trial.fault, str(trial.cell), trial.detail)
    return h("tr", h("td", f"{mark} {trial.verdict}", class_=word), *(h("td", cut(text, LINE // 2)) for text in texts))


def timings(run: Run, found: Places) -> ET.Element | None:
    """Return where the time went, by probe."""
    spent: dict[str, list[float]] = {}
    for result in run.results:
        if result.outcome.is_examined:
            spent.setdefault(result.probe, []).append(result.seconds)
    if not spent:
        return None
    slowest = sorted(spent.items(), key=lambda item: -sum(item[1]))
    rows = [
        h(
            "tr",
            h("th", h("a", cut(probe, SHORT), href=f"#{found.probes[probe]}"), scope="row"),
            *(h("td", text, class_="number") for text in (str(len(all_)), seconds(sum(all_)), seconds(max(all_)))),
        )
        for probe, all_ in slowest[:SLOWEST]
    ]
    drawn = table(("probe", "cells", "together", "slowest cell"), rows)
    cells = seconds(sum(map(sum, spent.values())))
    told = f"The run took {seconds(run.seconds)}; its cells {cells}, some of them at the same time."
    left = f" The {SLOWEST} slowest of {len(slowest)} probes:" if len(slowest) > SLOWEST else ""
    return h("section", h("h2", "Timings"), h("details", h("summary", told, left), drawn), id="timings")


def versions(run: Run) -> ET.Element:
    """Return versions, machine, environment and configuration, and what was taken out of them."""
    configured = dumps(run.configuration, indent=1) if run.configuration else ""
    return h(
        "section",
        h("h2", "Versions and machine"),
        definitions([(cut(name, SHORT), cut(version, SHORT)) for name, version in run.stack.items()]),
        definitions([(label, cut(text)) for label, text in describe(run.machine)]),
        _named("other distributions", run.installed),
        _named("environment variables", run.environment),
        folded("configuration of the run", configured) if configured else None,
        *_redacted(run),
        id="versions",
    )


def _named(label: str, values: Mapping[str, Any]) -> ET.Element | None:
    if not values:
        return None
    rows = [(cut(name, SHORT), cut(str(value)) or "(empty)") for name, value in values.items()]
    return h("details", h("summary", f"{label} ({len(values)})"), definitions(rows))


def _redacted(run: Run) -> list[ET.Element]:
    """Return the kinds of what was taken out, with their numbers."""
    if not run.redaction.done:
        return []
    kinds = [(cut(kind, SHORT), str(number)) for kind, number in run.redaction.removed.items()]
    told = "Taken out before anything was written:" if kinds else "Nothing had to be taken out before this was written."
    return [h("h3", "Redaction"), h("p", told), *([definitions(kinds)] if kinds else [])]
