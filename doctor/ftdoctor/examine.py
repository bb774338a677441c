"""One examination from beginning to end: plan, run in isolation, keep a journal, diagnose."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ftdoctor_matrix as matrix
from ftdoctor import __version__, machine
from ftdoctor.diagnosis.findings import findings
from ftdoctor.errors import JournalError, UsageError
from ftdoctor.results import SCHEMA, CellResult, Finding, Outcome, Run, Skipped, encode
from ftdoctor.runner.journal import NAME, Journal, fingerprint, new_run_folder
from ftdoctor.runner.plan import Choice, Here, Planned, plan
from ftdoctor.runner.pool import Pool
from ftdoctor.runner.task import Limits, Task
from ftdoctor.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ftdoctor.config import Accepted
    from ftdoctor.probe import Probe

GIB = 1024**3
MOST_JOBS = 16
"""Cells at a time where nothing else is asked: each holds a gigabyte with its imports."""


@dataclass(frozen=True)
class Request:
    """What is to be examined and how."""

    probes: Mapping[str, Probe]
    profile: str = "default"
    selection: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    model: str = ""
    """Local folder of the user's model, or empty."""
    trust_remote_code: bool = False
    jobs: int = 0
    """Cells at a time; 0 for one per core, sixteen at most. Each GPU is used by one cell at a time."""
    timeout: float = 0.0
    """Seconds a cell may take; 0 for the default."""
    expect: Mapping[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    accept: Sequence[Accepted] = ()
    resume: Journal | None = None


@dataclass(frozen=True)
class Prepared:
    """A request with everything decided that needs no cell to run."""

    request: Request
    machine: Mapping[str, Any]
    stack: Mapping[str, str]
    planned: Sequence[Planned]
    jobs: int

    @property
    def to_run(self) -> list[Planned]:
        """The cells that can run here."""
        return [p for p in self.planned if not p.skip]


def prepare(request: Request) -> Prepared:
    """Look at the machine and make the plan; imports no library of the stack.

    Raises:
        UsageError: this is Windows, where processes cannot be kept apart in the way that cells need.
    """
    if os.name == "nt":
        raise UsageError("ftdoctor examines Linux and macOS; on Windows run it inside WSL.")
    facts = machine.examine()
    stack = machine.stack(matrix.libraries().order)
    choice = Choice(
        probes=request.probes,
        profile=matrix.profiles()[request.profile],
        axes=matrix.axes(),
        impossible=matrix.impossible(),
        selection=request.selection,
        own_model=bool(request.model),
    )
    jobs = request.jobs or max(len(facts["gpus"]), min(facts["cores"], MOST_JOBS))
    return Prepared(request, facts, stack, plan(choice, Here.of(facts, stack)), jobs)


def examine(prepared: Prepared, listen: Callable[[CellResult], None] = lambda _: None) -> Run:
    """Run what was prepared; call `listen` with each result as it arrives.

    Ctrl-C ends the cells; the run that is returned then holds what there was and says that it was interrupted.
    """
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.monotonic()
    interrupted = False
    with cache_folder() as cache:
        settings = settings_of(prepared.request, cache)
        journal = _journal(prepared, settings)
        done = journal.results()
        tasks = make_tasks(prepared, settings, done)
        pool = make_pool(prepared, cache)
        try:
            for _, result in pool.run(tasks):
                journal.add(result)
                done[result.probe, result.cell] = result
                listen(result)
        except KeyboardInterrupt:
            interrupted = True
        isolation = pool.isolation
    results = tuple(_in_order(prepared.planned, done))
    found = findings(results, prepared.request.probes, prepared.request.accept, started.date(), prepared.request.model)
    return Run(
        schema=SCHEMA,
        ftdoctor=__version__,
        outcome=outcome(results, any(not f.accepted for f in found)),
        interrupted=interrupted,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 1),
        profile=prepared.request.profile,
        model=prepared.request.model,
        machine=prepared.machine,
        stack=prepared.stack,
        isolation=isolation,
        planned=len(prepared.planned),
        results=results,
        findings=found,
        skipped=tuple(_skipped(prepared.planned, results)),
        areas={name: probe.area for name, probe in prepared.request.probes.items()},
        promises={name: probe.promise for name, probe in prepared.request.probes.items()},
        notes=tuple(_unseen(prepared.request.accept, prepared.planned, found)) if not interrupted else (),
    )


def outcome(results: Sequence[CellResult], unaccepted: bool) -> str:
    """Return `findings`, `healthy`, or `unexamined` where no promise was put to the test."""
    if unaccepted:
        return "findings"
    return "healthy" if any(r.outcome.is_examined for r in results) else "unexamined"


def settings_of(request: Request, cache: Path) -> Settings:
    """Return the part of a request that travels to the cells."""
    made = Settings(
        cache=str(cache),
        model=request.model,
        trust_remote_code=request.trust_remote_code,
        expect=request.expect,
    )
    return replace(made, thresholds=request.thresholds) if request.thresholds else made


def limits_of(prepared: Prepared) -> Limits:
    """Return what a cell may use: with the user's own model, its share of the memory that is available."""
    limits = Limits()
    available = prepared.machine["memory"]["available"]
    bound = prepared.machine["memory_limit"]
    share = int(min(available or 8 * GIB, bound or available or 8 * GIB) * 0.9) // prepared.jobs
    memory = share if prepared.request.model else min(limits.memory, max(share, GIB))
    return replace(limits, memory=memory, seconds=prepared.request.timeout or limits.seconds)


def make_tasks(prepared: Prepared, settings: Settings, done: Mapping[tuple[str, Any], CellResult]) -> list[Task]:
    """Return the tasks that are still to be run."""
    limits = limits_of(prepared)
    tasks = []
    for number, planned in enumerate(prepared.to_run):
        if (planned.probe, planned.cell) not in done:
            probe = prepared.request.probes[planned.probe]
            tasks.append(
                Task(
                    id=number,
                    module=probe.module,
                    probe=probe.name,
                    cell=planned.cell,
                    settings=settings,
                    limits=replace(limits, seconds=max(limits.seconds, probe.timeout or 0.0)),
                    fresh=probe.fresh,
                    accelerated=planned.cell.get("device", "cpu") != "cpu",
                )
            )
    return tasks


def make_pool(prepared: Prepared, cache: Path) -> Pool:
    """Return the pool of processes: with a GPU the server imports only what opens no context."""
    libraries = matrix.libraries()
    gpus = len(prepared.machine["gpus"])
    modules = libraries.preload_safe if gpus else libraries.preload_safe + libraries.preload_full
    return Pool(prepared.jobs, cache, modules, gpus=gpus)


@contextlib.contextmanager
def cache_folder() -> Iterator[Path]:
    """Make the folder that the cells of a run share, and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ftdoctor-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _journal(prepared: Prepared, settings: Settings) -> Journal:
    """Return the journal to write to: a new one, or the one to resume if it fits this stack and plan."""
    asked = {k: v for k, v in encode(settings).items() if k != "cache"}
    mark = fingerprint(prepared.planned, prepared.stack, asked)
    if prepared.request.resume is not None:
        if prepared.request.resume.header()["fingerprint"] != mark:
            raise JournalError(
                f"The run in {prepared.request.resume.path} was of another stack, machine or choice of cells; "
                "start a new one with `ftdoctor check`."
            )
        return prepared.request.resume
    journal = Journal(new_run_folder() / NAME)
    request = prepared.request
    journal.begin(
        {
            "fingerprint": mark,
            "ftdoctor": __version__,
            "stack": prepared.stack,
            "probes": list(request.probes),
            "profile": request.profile,
            "selection": request.selection,
            "model": request.model,
            "trust_remote_code": request.trust_remote_code,
        }
    )
    return journal


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
