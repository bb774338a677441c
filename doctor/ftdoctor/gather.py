"""From results to a run: what was planned, what came of it, what it means, and what the reader must know beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ftdoctor_matrix as matrix
from ftdoctor import __version__, machine
from ftdoctor.diagnosis.findings import findings
from ftdoctor.results import SCHEMA, CellResult, Finding, Isolation, Outcome, Run, Skipped, encode
from ftdoctor.settings import THRESHOLDS

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterator, Mapping, Sequence

    from ftdoctor.config import Accepted
    from ftdoctor.request import Prepared, Request
    from ftdoctor.runner.plan import Planned


def gather(
    prepared: Prepared,
    done: Mapping[tuple[str, Any], CellResult],
    started: datetime.datetime,
    isolation: Isolation,
    interrupted: bool,
) -> Run:
    """Return the run that these results make, its duration left at zero.

    Args:
        prepared: what was asked and planned.
        done: results by probe and cell, as far as the run came.
        started: when it began.
        isolation: how the cells were kept apart.
        interrupted: whether it ended before its time.
    """
    request = prepared.request
    results = tuple(_in_order(prepared.planned, done))
    found = findings(results, request.probes, request.accept, started.date(), request.model)
    libraries = matrix.libraries()
    return Run(
        schema=SCHEMA,
        ftdoctor=__version__,
        outcome=outcome(results, any(not f.accepted for f in found)),
        interrupted=interrupted,
        started=started.isoformat(timespec="seconds"),
        seconds=0.0,
        profile=request.profile,
        model=request.model,
        machine=prepared.machine,
        stack=prepared.stack,
        isolation=isolation,
        planned=len(prepared.planned),
        results=results,
        findings=found,
        skipped=tuple(_skipped(prepared.planned, results)),
        areas={name: probe.area for name, probe in request.probes.items()},
        notes=(*prepared.notes, *(_unseen(request.accept, prepared.planned, found) if not interrupted else ())),
        promises={name: probe.promise for name, probe in request.probes.items()},
        installed=machine.dependencies(libraries.order),
        environment=machine.environment(libraries.environment),
        configuration=_configuration(request),
    )


def outcome(results: Sequence[CellResult], unaccepted: bool) -> str:
    """Return `findings`, `healthy`, or `unexamined` where no promise was put to the test."""
    if unaccepted:
        return "findings"
    return "healthy" if any(r.outcome.is_examined for r in results) else "unexamined"


def _configuration(request: Request) -> dict[str, Any]:
    """Return what was asked, as far as it differs from what is usual."""
    asked = {
        "cells": {axis: list(values) for axis, values in request.selection.items()},
        "jobs": request.jobs,
        "timeout": request.timeout,
        "trust_remote_code": request.trust_remote_code,
        "expect": dict(request.expect),
        "thresholds": {k: v for k, v in request.thresholds.items() if THRESHOLDS.get(k) != v},
        "accept": [encode(accepted) | {"until": str(accepted.until or "")} for accepted in request.accept],
    }
    return {name: value for name, value in asked.items() if value}


def _in_order(planned: Sequence[Planned], done: Mapping[tuple[str, Any], CellResult]) -> Iterator[CellResult]:
    for item in planned:
        if item.skip:
            yield CellResult(item.probe, item.cell, Outcome.SKIPPED, reason=item.skip)
        elif (item.probe, item.cell) in done:
            yield done[item.probe, item.cell]


def _skipped(planned: Sequence[Planned], results: Sequence[CellResult]) -> Iterator[Skipped]:
    known = {(r.probe, r.cell): r for r in results}
    for item in planned:
        result = known.get((item.probe, item.cell))
        if result is None:
            yield Skipped(item.probe, item.cell, "the run was interrupted before this cell")
        elif result.outcome is Outcome.SKIPPED:
            yield Skipped(item.probe, item.cell, result.reason)


def _unseen(accept: Sequence[Accepted], planned: Sequence[Planned], found: Sequence[Finding]) -> Iterator[str]:
    """Yield a note for each accepted finding whose cells ran without showing it: it may be gone."""
    for entry in accept:
        ran = any(entry.concerns(p.probe, p.cell) for p in planned if not p.skip)
        if ran and not any(f.probe == entry.probe and f.accepted == entry.reason for f in found):
            yield f"the accepted finding of {entry.probe} was not seen: {entry.reason}"
