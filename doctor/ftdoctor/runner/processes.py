"""Process trees: who belongs to a cell, how much memory they hold, how they are ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PROC = Path("/proc")


def memory_is_visible() -> bool:
    """Whether the memory of other processes can be read here, so that a limit can be kept."""
    return (PROC / "self" / "statm").exists()


def prepare_child() -> None:
    """Make this process end with its parent, adopt its own orphans, and be the first the kernel ends."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with contextlib.suppress(OSError):
            (PROC / "self" / "oom_score_adj").write_text("1000")


def adopt_orphans() -> None:
    """Make this process the parent of whatever its descendants leave behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(pid: int) -> list[int]:
    """Return the living children of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(child) for child in (thread / "children").read_text().split()]
    return [child for child in found if _state(child) not in ("Z", "")]


def tree(pid: int) -> list[int]:
    """Return a process and all its living descendants."""
    found, todo = [], [pid]
    while todo:
        current = todo.pop()
        found.append(current)
        todo += children(current)
    return found


def resident(pid: int) -> int:
    """Return the bytes of memory that a process and its descendants hold, each counted on its own."""
    pages = 0
    for member in tree(pid):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (PROC / str(member) / "statm").read_text().split()
            pages += int(fields[1]) - int(fields[2])
    return pages * os.sysconf("SC_PAGE_SIZE")


def leftovers(patience: float) -> list[str]:
    """Return `name (pid)` of the children that this process still has after `patience` seconds, and end them."""
    deadline = time.monotonic() + patience
    while children(os.getpid()) and time.monotonic() < deadline:
        time.sleep(0.01)
    left = [member for child in children(os.getpid()) for member in tree(child)]
    named = [f"{_name(pid)} ({pid})" for pid in left]
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return named


def end(pid: int) -> None:
    """Kill a process, its group and its descendants, in whatever group those are."""
    members = tree(pid)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    for member in members:
        with contextlib.suppress(OSError):
            os.kill(member, signal.SIGKILL)


def _state(pid: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "comm").read_text().strip()
    return "process"
