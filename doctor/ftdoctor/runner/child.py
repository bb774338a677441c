"""Inside the process that examines one cell: build the bench, run the probe, send what it measured.

Everything is sent as lines of JSON over a pipe: `{"check": ...}` as each check is recorded (`curve`, `label_mask` for
the other evidence), then `{"end": ...}`.
A process that dies before its end has still handed over the evidence it had.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.diagnosis.owner import frame_of, frames_of
from ftdoctor.redaction import secrets_here
from ftdoctor.registry import probe_of
from ftdoctor.results import CheckRecord, Curve, LabelMask, Level, Outcome, Raised, decode, encode
from ftdoctor.runner import processes
from ftdoctor.runner.task import KINDS, Task
from ftdoctor.wording import shorten

if TYPE_CHECKING:
    from collections.abc import Callable

WARNINGS_KEPT = 20
LEAVE = 0.5
"""Seconds that processes which a probe started have to end after it."""


def main() -> None:
    """Run a task in a fresh interpreter: the task on standard input, the results on the descriptor in argv."""
    fd = int(sys.argv[1])
    task = decode(Task, json.loads(sys.stdin.buffer.read()))
    run(task, fd)


def run(task: Task, fd: int) -> None:
    """Examine one cell and send the result over `fd`; does not return."""
    status = 0
    try:
        processes.prepare_child()
        faulthandler.enable(all_threads=True)
        faulthandler.dump_traceback_later(max(task.limits.seconds - 0.5, task.limits.seconds * 0.8))
        _examine(task, _sender(fd))
    except BaseException:  # noqa: BLE001 - the last line of defence: the process says why it ends
        traceback.print_exc()
        status = 70
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _sender(fd: int) -> Callable[[dict[str, Any]], None]:
    def send(message: dict[str, Any]) -> None:
        data = (json.dumps(message) + "\n").encode()
        while data:
            data = data[os.write(fd, data) :]

    return send


def _examine(task: Task, send: Callable[[dict[str, Any]], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="cell-", dir=task.settings.cache, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        os.chdir(folder)
        if task.gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu
        started = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            end = _verdict(task, folder, send)
        end["seconds"] = round(time.perf_counter() - started, 4)
        end["warnings"] = _told(caught)
        os.chdir(task.settings.cache)
    left = processes.leftovers(LEAVE)
    if left:
        end["outcome"] = Outcome.CRASHED.value
        end["reason"] = f"left processes running: {', '.join(left)}"
    send({"end": end})


def _verdict(task: Task, folder: Path, send: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run the probe and say what became of it; the one place where an exception becomes a verdict."""
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check, SkipCell
    from ftdoctor.patch import Patch

    records: list[CheckRecord] = []

    def sink(record: CheckRecord | Curve | LabelMask) -> None:
        if isinstance(record, CheckRecord):
            records.append(record)
        send({KINDS[type(record)]: encode(record)})

    try:
        seed_everything(task.settings.seed)
        probe = probe_of(task.module)
        if task.fault:
            probe.find_fault(task.fault).apply(Patch(folder, task.cell.asdict()))
        probe.function(Bench(task.cell, folder, task.settings), Check(sink, frame_of, secrets_here().text))
    except SkipCell as skip:
        return {"outcome": Outcome.SKIPPED.value, "reason": str(skip)}
    except BaseException as error:  # noqa: BLE001 - whatever a probe raises is its verdict
        raised = encode(_raised(error))
        if is_out_of_memory(error):
            return {
                "outcome": Outcome.CRASHED.value,
                "reason": f"out of memory: {_brief(str(error) or type(error).__name__, 300)}",
                "raised": raised,
            }
        return {"outcome": Outcome.FAILED.value, "raised": raised}
    return {"outcome": judge(records).value, "reason": "" if records else "the probe measured nothing"}


def judge(records: list[CheckRecord]) -> Outcome:
    """Return the outcome that checks make; a probe that measured nothing has not kept its promise."""
    if not records or any(not r.ok and r.level is Level.FAIL for r in records):
        return Outcome.FAILED
    return Outcome.WARNED if any(not r.ok for r in records) else Outcome.PASSED


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an exception means that memory ran out, in Python, in torch on a CPU or on a GPU."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text))
    )


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, and of numpy and torch where they are loaded."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _raised(error: BaseException) -> Raised:
    root = _root(error)
    return Raised(
        type=type(error).__name__,
        message=_line(error),
        traceback=_brief("".join(traceback.format_exception(error)), 20_000),
        origin="" if root is error else f"{type(root).__name__}: {_line(root)}",
        frames=frames_of(root.__traceback__),
    )


def _line(error: BaseException) -> str:
    return _brief(" ".join(str(error).split()), 600)


def _brief(text: str, limit: int) -> str:
    """Cut a text, its secrets taken out before: half of one would not be recognised later."""
    return shorten(text, limit, secrets_here().text)


def _root(error: BaseException) -> BaseException:
    """Return the exception from which this one was raised on purpose, at the bottom of the chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _told(caught: list[warnings.WarningMessage]) -> list[str]:
    told: dict[str, None] = {}
    for warning in dict.fromkeys(f"{w.category.__name__}: {' '.join(str(w.message).split())}" for w in caught):
        told[_brief(warning, 300)] = None
        if len(told) == WARNINGS_KEPT:
            break
    return list(told)
