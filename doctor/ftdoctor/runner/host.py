"""The process that starts cells, keeps their limits and says what became of each.

One host forks cells from itself, with the stack already imported (`fork`); another starts a fresh interpreter for
each (`fresh`). Both take tasks as lines of JSON on standard input and answer on the descriptor in argv. When
standard input ends, because the run is over or was killed, a host ends its cells and itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ftdoctor.redaction import secrets_here
from ftdoctor.results import CellResult, CheckRecord, Curve, LabelMask, Outcome, decode, encode
from ftdoctor.runner import processes
from ftdoctor.runner.task import KINDS, Task
from ftdoctor.wording import shorten

if TYPE_CHECKING:
    from collections.abc import Callable

TICK = 0.05
CANARY_SECONDS = float(os.environ.get("FTDOCTOR_CANARY_SECONDS", "20"))
HEAD = 16 * 1024
TAIL = 48 * 1024
LINE = 8 * 1024
"""Characters of a line that go where it was cut: what tells a secret stands no further before it."""
OUTPUT_KEPT = 8_000
EVIDENCE: dict[str, type] = {"checks": CheckRecord, "curves": Curve, "label_masks": LabelMask}
"""Fields of a result to the evidence that stands in them."""
SENT: dict[str, type] = {name: kind for kind, name in KINDS.items()}
CHILD = "from ftdoctor.runner.child import main; main()"


@dataclass
class Capture:
    """What comes out of a pipe: its beginning, its end and its size."""

    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    size: int = 0

    def add(self, data: bytes) -> None:
        """Keep what fits."""
        self.size += len(data)
        room = HEAD - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        self.tail = (self.tail + data)[-TAIL:]

    def text(self, scrub: Callable[[str], str] = str) -> str:
        """Return what was kept as text, which `scrub` has gone through.

        Where something was left out, the lines that were cut go too: of what begins or ends in the middle, `scrub`
        could not know what it is.
        """
        if self.size == len(self.head) + len(self.tail):
            return scrub(bytes(self.head + self.tail).decode(errors="replace"))
        head, tail = (scrub(bytes(part).decode(errors="replace")) for part in (self.head, self.tail))
        head = head[: max(head.rfind("\n"), len(head) - LINE)]
        tail = tail[min(tail.find("\n") % len(tail), LINE) :]
        return f"{head}\n[... {self.size - len(head.encode()) - len(tail.encode())} bytes left out ...]\n{tail}"


@dataclass
class Running:
    """A cell that is being examined."""

    task: Task
    pid: int
    result_fd: int
    output_fd: int
    started: float
    baseline: int
    output: Capture = field(default_factory=Capture)
    evidence: bytearray = field(default_factory=bytearray)
    ended_because: str = ""


def main() -> None:
    """Serve tasks until standard input ends."""
    mode, reply = sys.argv[1], int(sys.argv[2])
    secrets_here()  # read once, before anything forks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.adopt_orphans()
    host = Host(reply, _start_fresh if mode == "fresh" else _start_fork)
    if mode == "fork":
        _make_ready(host, json.loads(sys.argv[3]))
    else:
        host.say({"ready": ""})
    host.serve()


def _make_ready(host: Host, modules: list[str]) -> None:
    from ftdoctor.runner import preload

    preload.preload(modules)
    obstacle = preload.obstacle() or _canary()
    host.baseline = processes.resident(os.getpid())
    host.say({"ready": obstacle})


def _canary() -> str:
    """Fork a child that computes with several threads; return why forking is not safe, or nothing."""
    from ftdoctor.runner import preload

    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            preload.canary()
            status = 0
        os._exit(status)
    deadline = time.monotonic() + CANARY_SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return "" if status == 0 else f"the canary child {_end_of(status)}"
        time.sleep(0.005)
    processes.end(pid)
    os.waitpid(pid, 0)
    return f"the canary child hung for {CANARY_SECONDS:g} s"


class Host:
    """Starts cells, watches them, answers."""

    def __init__(self, reply: int, start: Callable[[Task, int, int, Host], int]) -> None:
        self.reply = reply
        self.start = start
        self.baseline = 0
        self.running: dict[int, Running] = {}
        self.selector = selectors.DefaultSelector()
        self.pending = bytearray()
        self.open = True

    def say(self, message: dict[str, Any]) -> None:
        """Send one line to the run."""
        data = (json.dumps(message) + "\n").encode()
        try:
            while data:
                data = data[os.write(self.reply, data) :]
        except BrokenPipeError:
            self.open = False

    def serve(self) -> None:
        """Take tasks and watch cells until standard input ends."""
        self.selector.register(0, selectors.EVENT_READ, None)
        while self.open:
            for key, _ in self.selector.select(TICK if self.running else None):
                if key.data is None:
                    self._take()
                else:
                    self._read(key.fd, key.data)
            for run in list(self.running.values()):
                self._watch(run)
            self._reap_strangers()
        for run in self.running.values():
            processes.end(run.pid)

    def _take(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            self.open = False
            return
        self.pending += data
        while b"\n" in self.pending:
            line, _, rest = bytes(self.pending).partition(b"\n")
            self.pending = bytearray(rest)
            self._launch(decode(Task, json.loads(line)))

    def _launch(self, task: Task) -> None:
        result_read, result_write = os.pipe()
        output_read, output_write = os.pipe()
        pid = self.start(task, result_write, output_write, self)
        os.close(result_write)
        os.close(output_write)
        run = Running(task, pid, result_read, output_read, time.monotonic(), self.baseline)
        self.running[pid] = run
        for fd in (result_read, output_read):
            os.set_blocking(fd, False)
            self.selector.register(fd, selectors.EVENT_READ, run)

    def _read(self, fd: int, run: Running) -> bool:
        """Take what a pipe holds; return False when there is nothing more for now, or it has ended."""
        try:
            data = os.read(fd, 1 << 18)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            with contextlib.suppress(KeyError):
                self.selector.unregister(fd)
            return False
        if fd == run.output_fd:
            run.output.add(data)
            if run.output.size > run.task.limits.output:
                self._end(run, f"printed more than {run.task.limits.output // 1024**2} MiB")
        elif len(run.evidence) + len(data) > run.task.limits.evidence:
            self._end(run, f"sent more than {run.task.limits.evidence // 1024**2} MiB of evidence")
        else:
            run.evidence += data
        return True

    def _watch(self, run: Running) -> None:
        pid, status = os.waitpid(run.pid, os.WNOHANG)
        if pid:
            self._finish(run, status)
            return
        limits = run.task.limits
        if time.monotonic() - run.started > limits.seconds:
            self._end(run, f"did not end within {limits.seconds:g} s")
        elif processes.resident(run.pid) - run.baseline > limits.memory:
            self._end(run, f"held more than {limits.memory / 1024**3:.3g} GiB of memory")

    def _end(self, run: Running, because: str) -> None:
        run.ended_because = run.ended_because or because
        processes.end(run.pid)

    def _finish(self, run: Running, status: int) -> None:
        """Collect a cell that has ended: what is left in its pipes, then its verdict."""
        del self.running[run.pid]
        with contextlib.suppress(OSError):
            os.killpg(run.pid, signal.SIGKILL)
        for fd in (run.result_fd, run.output_fd):
            while self._read(fd, run):
                pass
            with contextlib.suppress(KeyError):
                self.selector.unregister(fd)
            os.close(fd)
        seconds = time.monotonic() - run.started
        self.say({"result": run.task.id, "data": encode(verdict(run, status, seconds))})

    def _reap_strangers(self) -> None:
        """End and collect what dead cells left behind and this process has adopted, where it can adopt."""
        if sys.platform != "linux":
            return
        for child in processes.children(os.getpid()):
            if child not in self.running:
                processes.end(child)
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in self.running:
                return
            os.waitpid(found.si_pid, 0)


def verdict(run: Running, status: int, seconds: float) -> CellResult:
    """Make the result of a cell out of its exit status and what it sent; anything not understood is a crash."""
    sent, end, garbage = _understand(run, bytes(run.evidence))
    evidence: dict[str, Any] = {
        field: tuple(r for r in sent if isinstance(r, kind)) for field, kind in EVIDENCE.items()
    }
    reason = run.ended_because
    if not reason and garbage:
        reason = "returned garbage instead of a verdict"
    if not reason and end is None:
        reason = f"{_end_of(status)} before its verdict"
    output = shorten(run.output.text(secrets_here().text), OUTPUT_KEPT)
    if reason or end is None:
        return CellResult(
            probe=run.task.probe,
            cell=run.task.cell,
            outcome=Outcome.CRASHED,
            reason=reason,
            output=output,
            seconds=round(seconds, 4),
            **evidence,
        )
    return replace(end, output=output if end.outcome.is_red else "", **evidence)


def _understand(run: Running, data: bytes) -> tuple[list[Any], CellResult | None, bool]:
    """Parse what a cell sent; return its evidence, its end, and whether anything was not of the protocol."""
    sent: list[Any] = []
    end: CellResult | None = None
    about = {"probe": run.task.probe, "cell": run.task.cell.asdict()}
    for line in data.splitlines():
        try:
            ((name, content),) = json.loads(line).items()
            if name == "end":
                end = decode(CellResult, {**content, **about})
            else:
                sent.append(decode(SENT[name], content))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return sent, None, True
    return sent, end, False


def _end_of(status: int) -> str:
    """Say in words how a process ended."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in signal.Signals.__members__.values() else str(number)
        hint = ", as the system does when memory runs out" if number == signal.SIGKILL else ""
        return f"was killed by {name}{hint}"
    return f"exited with status {os.WEXITSTATUS(status)}"


def _start_fork(task: Task, result_fd: int, output_fd: int, host: Host) -> int:
    from ftdoctor.runner import child, preload

    assert not preload.obstacle(), preload.obstacle()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        host.selector.close()
        for other in host.running.values():
            os.close(other.result_fd)
            os.close(other.output_fd)
        os.close(host.reply)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output_fd, 1)
        os.dup2(output_fd, 2)
        os.close(output_fd)
        child.run(task, result_fd)
    finally:
        os._exit(71)


def _start_fresh(task: Task, result_fd: int, output_fd: int, host: Host) -> int:
    process = subprocess.Popen(
        [sys.executable, *safe_path(), "-c", CHILD, str(result_fd)],
        stdin=subprocess.PIPE,
        stdout=output_fd,
        stderr=output_fd,
        pass_fds=(result_fd,),
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(encode(task)).encode())
        process.stdin.close()
    process.returncode = 0  # this host waits for its children itself
    return process.pid


def safe_path() -> list[str]:
    """Return the option that keeps the working folder off the import path, where this Python has it."""
    return ["-P"] if sys.version_info >= (3, 11) else []
