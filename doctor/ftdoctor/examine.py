"""One examination from beginning to end: plan, run in isolation, keep a journal, diagnose."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ftdoctor_matrix as matrix
from ftdoctor import __version__, machine
from ftdoctor.errors import FtdoctorError, JournalError, UsageError
from ftdoctor.gather import gather
from ftdoctor.request import Prepared, Request
from ftdoctor.results import CellResult, Isolation, Run, encode
from ftdoctor.runner.journal import NAME, Journal, fingerprint, new_run_folder
from ftdoctor.runner.plan import Choice, Here, plan
from ftdoctor.runner.pool import Pool
from ftdoctor.runner.task import Limits, Task
from ftdoctor.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager


GIB = 1024**3
MOST_JOBS = 16
"""Cells at a time where nothing else is asked: each holds a gigabyte with its imports."""


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


def keep_journal(prepared: Prepared) -> Prepared:
    """Return the same with the journal in which its results are kept: a new one, or the one that is resumed.

    Where none can be written (a full disk, a home that is read-only) the run goes on without, and says so.

    Raises:
        JournalError: the journal to resume is of another stack, machine or choice of cells.
    """
    request = prepared.request
    mark = _fingerprint(prepared)
    if request.resume is not None:
        if request.resume.header()["fingerprint"] != mark:
            raise JournalError(
                f"The run in {request.resume.path} was of another stack, machine or choice of cells; "
                "start a new one with `ftdoctor check`."
            )
        return replace(prepared, journal=request.resume)
    try:
        journal = Journal(new_run_folder() / NAME)
        journal.begin(
            {
                "fingerprint": mark,
                "ftdoctor": __version__,
                "started": _now().isoformat(timespec="seconds"),
                "stack": prepared.stack,
                "probes": list(request.probes),
                "profile": request.profile,
                "selection": request.selection,
                "model": request.model,
                "trust_remote_code": request.trust_remote_code,
            }
        )
    except (FtdoctorError, OSError) as error:
        return replace(prepared, notes=(*prepared.notes, f"this run cannot be resumed: {_why(error)}"))
    return replace(prepared, journal=journal)


def examine(
    prepared: Prepared,
    listen: Callable[[CellResult], None] = lambda _: None,
    running: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Run:
    """Run what was prepared; call `listen` with each result as it arrives.

    A KeyboardInterrupt ends the cells; the run that is returned then holds what there was and says that it was
    interrupted. It is taken as that where `running` is entered.
    """
    started, clock = _now(), time.monotonic()
    journal, lost, interrupted = prepared.journal, "", False
    done = journal.results() if journal else {}
    with cache_folder() as cache:
        tasks = make_tasks(prepared, settings_of(prepared.request, cache), done)
        pool = make_pool(prepared, cache)
        try:
            with running():
                for _, result in pool.run(tasks):
                    done[result.probe, result.cell] = result
                    if journal and not lost:
                        lost = _keep(journal, result)
                    listen(result)
        except KeyboardInterrupt:
            interrupted = True
        isolation = pool.isolation
    made = gather(prepared, done, started, isolation, interrupted)
    return replace(made, seconds=round(time.monotonic() - clock, 1), notes=(*made.notes, *([lost] if lost else ())))


def recover(prepared: Prepared) -> Run:
    """Return the run of a journal as far as it came, without running anything: one that was killed."""
    assert prepared.journal is not None
    started = datetime.datetime.fromisoformat(prepared.journal.header()["started"])
    done = prepared.journal.results()
    made = gather(prepared, done, started, Isolation("unknown", "the run was killed"), len(done) < len(prepared.to_run))
    return replace(made, seconds=round(sum(r.seconds for r in done.values()) / prepared.jobs, 1))


def _keep(journal: Journal, result: CellResult) -> str:
    """Write a result down; return a note where that fails, for a full disk is no reason to lose the run."""
    try:
        journal.add(result)
    except OSError as error:
        return f"this run cannot be resumed: its journal could not be written on ({_why(error)})"
    return ""


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error).rstrip(".")


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


def _fingerprint(prepared: Prepared) -> str:
    """Return the mark of this plan on this stack, which runs must share to be one."""
    settings = settings_of(prepared.request, Path())
    asked = {k: v for k, v in encode(settings).items() if k != "cache"}
    return fingerprint(prepared.planned, prepared.stack, asked)
