"""The doctor's own examination: each fault of each probe is put into the stack, and must be caught."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from ftdoctor.cells import Cell
from ftdoctor.diagnosis.findings import failures, summary
from ftdoctor.examine import cache_folder, make_pool, make_tasks, prepare, settings_of
from ftdoctor.results import CONTROL, CellResult, Level, Outcome, Trial
from ftdoctor.runner.plan import Here, Planned, why_not
from ftdoctor.wording import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from ftdoctor.cells import Axis
    from ftdoctor.probe import Fault, Probe
    from ftdoctor.request import Prepared, Request
    from ftdoctor.results import Run


def trials(request: Request, listen: Callable[[Trial], None] = lambda _: None) -> list[Trial]:
    """Run every fault of the probes, and each cell that a fault uses without it; return them in stable order."""
    import ftdoctor_matrix as matrix

    prepared = prepare(request)
    here = Here.of(prepared.machine, prepared.stack)
    skipped, todo = [], []
    for probe, fault, cell in _planned(request.probes, matrix.axes(), here):
        reason = why_not(probe, cell, matrix.axes(), here)
        if reason:
            skipped.append(Trial(probe.name, fault.name if fault else CONTROL, cell, "skipped", reason))
        else:
            todo.append((probe, fault, cell))
    for trial in skipped:
        listen(trial)
    ran = []
    for trial in _run(prepared, todo):
        listen(trial)
        ran.append(trial)
    order = {name: i for i, name in enumerate(request.probes)}
    return sorted([*skipped, *ran], key=lambda t: (order[t.probe], t.fault == CONTROL, t.fault, t.cell))


def add_selftest(
    run: Run,
    request: Request,
    listen: Callable[[Trial], None] = lambda _: None,
    running: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Run:
    """Return a run with the selftest of its probes, as far as it came before a KeyboardInterrupt.

    What the run says of the stack stays as it is; a fault that was missed is a note in it.
    """
    met: list[Trial] = []

    def hear(trial: Trial) -> None:
        met.append(trial)
        listen(trial)

    try:
        with running():
            found = trials(request, hear)
    except KeyboardInterrupt:
        return replace(run, selftest=tuple(met), interrupted=True)
    bad = [t for t in found if not t.ok]
    told = f"{count(len(bad), 'trial')} of the selftest went wrong: what the probes concerned say is not proven here"
    return replace(run, selftest=tuple(found), notes=(*run.notes, *([told] if bad else ())))


def judge(fault: Fault | None, result: CellResult) -> tuple[str, str]:
    """Return the verdict on a trial and its detail."""
    bad = {c.name for c in result.checks if not c.ok} | set(failures(result))
    if result.outcome is Outcome.SKIPPED:
        return "skipped", result.reason
    if fault is None:
        return ("red without a fault", summary(result)) if result.outcome.is_red else ("clean", "")
    missed = [name for name in fault.catches if name not in bad]
    return ("missed", f"not caught by {', '.join(missed)}") if missed else ("caught", ", ".join(fault.catches))


def _planned(
    probes: Mapping[str, Probe], axes: Mapping[str, Axis], here: Here
) -> Iterator[tuple[Probe, Fault | None, Cell]]:
    """Yield every fault in its cell, then each of these cells once without a fault."""
    for probe in probes.values():
        cells: dict[Cell, None] = {}
        for fault in probe.faults:
            cell = _cell(probe, fault.cell, axes, here)
            cells[cell] = None
            yield probe, fault, cell
        for cell in cells:
            yield probe, None, cell


def _cell(probe: Probe, values: Mapping[str, str], axes: Mapping[str, Axis], here: Here) -> Cell:
    """Return the cell of a fault: the values it names, else the first that makes sense for the probe."""
    first = {axis: probe.default(axes[axis]) for axis in probe.axes}
    if "device" in first and "device" not in values:
        first["device"] = "cpu" if "cpu" in probe.only.get("device", ("cpu",)) else here.best
    return Cell.of({**first, **values})


def _run(prepared: Prepared, todo: list[tuple[Probe, Fault | None, Cell]]) -> Iterator[Trial]:
    with cache_folder() as cache:
        settings = settings_of(prepared.request, cache)
        planned = replace(prepared, planned=[Planned(p.name, c) for p, _, c in todo])
        tasks = [
            replace(task, fault=fault.name if fault else "")
            for task, (_, fault, _) in zip(make_tasks(planned, settings, {}), todo, strict=True)
        ]
        for task, result in make_pool(prepared, cache).run(tasks):
            probe, fault, cell = todo[task.id]
            judged = tuple(c.name for c in result.checks if c.level is not Level.NOTE)
            yield Trial(probe.name, fault.name if fault else CONTROL, cell, *judge(fault, result), judged)
