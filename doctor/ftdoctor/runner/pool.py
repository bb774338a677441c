"""Runs tasks on hosts, several at a time, and yields each result as it arrives."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.redaction import secrets_here
from ftdoctor.results import CellResult, Isolation, Outcome, decode, encode
from ftdoctor.runner import processes
from ftdoctor.runner.host import safe_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ftdoctor.runner.task import Task

FORK, FRESH = "fork server", "fresh interpreters"
HOST = "from ftdoctor.runner.host import main; main()"
DROPPED = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "SLURM_", "PMI_", "OMPI_")
"""Prefixes of environment variables by which a launcher would make a cell part of something larger."""
DROPPED_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def environment(cache: Path) -> dict[str, str]:
    """Return the environment of every cell: offline, quiet, one thread, caches of its own, part of nothing."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(DROPPED) and k not in DROPPED_NAMES}
    folders = {
        "HF_HOME": "huggingface",
        "HF_DATASETS_CACHE": "datasets",
        "HF_MODULES_CACHE": "modules",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
        "CUDA_CACHE_PATH": "cuda",
        "TMPDIR": "tmp",
    }
    for folder in folders.values():
        (cache / folder).mkdir(exist_ok=True)
    return {
        **kept,
        **{name: str(cache / folder) for name, folder in folders.items()},
        "PWD": _here(),  # where the user is; cells work in folders of their own
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "WANDB_MODE": "disabled",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONHASHSEED": "0",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _here() -> str:
    """Return the working folder, or where it was: it may be gone in the middle of a run."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return os.environ.get("PWD", "/")


class Pool:
    """The hosts of a run.

    Args:
        jobs: cells that run at the same time.
        cache: folder of the run, for the cells' caches and the hosts' logs.
        preload: modules that the fork server imports.
        fresh: why every cell must have a fresh interpreter; empty to fork.
        gpus: number of accelerators; each is used by one cell at a time, and a cell sees only its own.
    """

    def __init__(self, jobs: int, cache: Path, preload: Sequence[str], fresh: str = "", gpus: int = 0) -> None:
        self.jobs = jobs
        self.cache = cache
        self.preload = preload
        self.no_fork = fresh or ("" if hasattr(os, "fork") else "this platform cannot fork")
        self.gpus = gpus
        self._hosts: dict[str, _Host] = {}
        self._selector = selectors.DefaultSelector()

    @property
    def isolation(self) -> Isolation:
        """How the cells were kept apart, and why in that way."""
        visible = processes.memory_is_visible()
        if self.no_fork:
            return Isolation(FRESH, self.no_fork, visible)
        return Isolation(FORK, "the stack is imported once and no accelerator context is open", visible)

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, CellResult]]:
        """Yield each task with its result, in the order in which they end.

        When the caller stops early (Ctrl-C, an error), the hosts and all their cells are ended.
        """
        waiting = {
            "fork": deque(t for t in tasks if not t.fresh),
            "fresh": deque(t for t in tasks if t.fresh),
        }
        try:
            while any(waiting.values()) or any(h.running for h in self._hosts.values()):
                self._feed(waiting)
                for key, _ in self._selector.select():
                    yield from self._listen(key.data, waiting)
        finally:
            self.stop()

    def stop(self) -> None:
        """End every host and all its cells."""
        for host in self._hosts.values():
            host.stop()
        self._hosts.clear()

    def _feed(self, waiting: Mapping[str, deque[Task]]) -> None:
        """Hand out tasks while there is a free slot; a fork server that is importing takes one."""
        if self.no_fork and waiting["fork"]:
            waiting["fresh"].extend(waiting["fork"])
            waiting["fork"].clear()
        for mode, queue in waiting.items():
            if queue and mode not in self._hosts:
                self._start(mode)
        for mode, queue in waiting.items():
            host = self._hosts.get(mode)
            while host and host.ready and self._busy() < self.jobs and (task := self._next(queue)):
                host.give(task)

    def _next(self, queue: deque[Task]) -> Task | None:
        """Take the first task that may start now: one that wants an accelerator waits for a free one."""
        used = [t.gpu for host in self._hosts.values() for t in host.running.values() if t.accelerated]
        for task in queue:
            if not task.accelerated:
                queue.remove(task)
                return task
            if len(used) < max(self.gpus, 1):
                queue.remove(task)
                free = min(map(str, range(self.gpus)), key=used.count, default="")
                return replace(task, gpu=free if self.gpus > 1 else "")
        return None

    def _busy(self) -> int:
        importing = sum(1 for h in self._hosts.values() if not h.ready)
        return sum(len(h.running) for h in self._hosts.values()) + (importing if self.jobs > 1 else 0)

    def _start(self, mode: str) -> None:
        host = _Host(mode, self.cache, self.preload)
        self._hosts[mode] = host
        self._selector.register(host.reply, selectors.EVENT_READ, host)

    def _listen(self, host: _Host, waiting: Mapping[str, deque[Task]]) -> Iterator[tuple[Task, CellResult]]:
        messages = host.read()
        if messages is None:
            yield from self._bury(host, waiting)
            return
        for message in messages:
            if "ready" in message:
                host.ready = True
                if message["ready"]:
                    self.no_fork = message["ready"]
                    self._drop(host)
            else:
                task = host.running.pop(message["result"])
                yield task, decode(CellResult, message["data"])

    def _bury(self, host: _Host, waiting: Mapping[str, deque[Task]]) -> Iterator[tuple[Task, CellResult]]:
        """A host has died: its cells have crashed with it, and what waits for it goes on without it."""
        log = host.last_words()
        self._drop(host)
        for task in host.running.values():
            reason = "the process that examines cells died"
            yield task, CellResult(task.probe, task.cell, Outcome.CRASHED, reason=reason, output=log)
        if host.mode == "fork":
            self.no_fork = f"the fork server died: {_gist(log)}"
        else:
            for task in waiting["fresh"]:
                reason = "no process could be started to examine this cell"
                yield task, CellResult(task.probe, task.cell, Outcome.CRASHED, reason=reason, output=log)
            waiting["fresh"].clear()

    def _drop(self, host: _Host) -> None:
        self._selector.unregister(host.reply)
        host.stop()
        del self._hosts[host.mode]


def _gist(log: str) -> str:
    """Return the line of a log that says why a process died: that of a native crash, or else the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith("Fatal Python error")]
    return (fatal or lines[-1:] or ["without a word"])[0]


class _Host:
    """A host process as the run sees it."""

    def __init__(self, mode: str, cache: Path, preload: Sequence[str]) -> None:
        self.mode = mode
        self.ready = False
        self.running: dict[int, Task] = {}
        self.log = cache / f"host-{mode}.log"
        self.pending = bytearray()
        self.reply, write = os.pipe()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *safe_path(), "-c", HOST, mode, str(write), json.dumps(list(preload))],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(write,),
                env=environment(cache),
                start_new_session=True,
            )
        os.close(write)

    def give(self, task: Task) -> None:
        """Hand over a task."""
        assert self.process.stdin is not None
        self.running[task.id] = task
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write((json.dumps(encode(task)) + "\n").encode())
            self.process.stdin.flush()

    def read(self) -> list[dict[str, Any]] | None:
        """Return the messages that have arrived; None when the host has died."""
        data = os.read(self.reply, 1 << 18)
        if not data:
            return None
        self.pending += data
        *lines, rest = bytes(self.pending).split(b"\n")
        self.pending = bytearray(rest)
        return [json.loads(line) for line in lines]

    def last_words(self) -> str:
        """Return the end of what the host printed."""
        return secrets_here().text(self.log.read_text(errors="replace")[-1_000_000:])[-4000:]

    def stop(self) -> None:
        """Close its standard input, upon which it ends its cells and itself; kill it if it does not."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(3.0 if self.ready else 0.0)
        except subprocess.TimeoutExpired:
            processes.end(self.process.pid)
            self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.reply)
