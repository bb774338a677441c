"""Which files of a folder are whole: a file that is still being written waits."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".jsonl"


class _Sighting(NamedTuple):
    size: int
    changed: int
    """Time of modification, in nanoseconds."""
    since: float
    """When it was first seen like this, on the monotonic clock."""
    old: bool
    """Whether it had been left alone for long when it was first seen."""


@dataclass(frozen=True)
class Arrived:
    """What a look at the folder has found."""

    whole: tuple[Path, ...]
    """Files that can be taken, oldest first."""
    settling: tuple[Path, ...]
    """Files that may be whole and have not been left alone for long enough to know."""
    written: tuple[Path, ...]
    """Files that some process has open for writing, or that have changed since the last look."""
    left_alone: tuple[Path, ...]
    """What is no file with rows: other endings, folders, links."""


class Arrivals:
    """Watches the files of a folder from one look to the next.

    A file is whole when neither its size nor its time of modification has changed for `settle` seconds and no
    process has it open for writing, where the system can tell (Linux). Hidden and temporary names are not seen.

    Args:
        folder: what is looked at, without the folders in it.
        settle: seconds.
    """

    def __init__(self, folder: Path, settle: float) -> None:
        self._folder, self._settle = folder, settle
        self._seen: dict[Path, _Sighting] = {}
        self._can_tell = _tells_writers(folder)

    def look(self) -> Arrived:
        """Say what is there now."""
        before, self._seen = self._seen, {}
        found: dict[str, list[Path]] = {"whole": [], "settling": [], "written": [], "left_alone": []}
        for path in sorted(self._folder.iterdir()):
            if not _temporary(path.name):
                with contextlib.suppress(FileNotFoundError):  # it has just been taken away
                    found[self._judge(path, before.get(path))].append(path)
        found["whole"].sort(key=lambda path: (self._seen[path].changed, path.name))
        return Arrived(**{kind: tuple(paths) for kind, paths in found.items()})

    def _judge(self, path: Path, before: _Sighting | None) -> str:
        if path.suffix != SUFFIX or path.is_symlink() or not path.is_file():
            return "left_alone"
        status, now = path.stat(), time.monotonic()
        same = before is not None and (before.size, before.changed) == (status.st_size, status.st_mtime_ns)
        if before is not None and same:
            self._seen[path] = before
        else:
            old = before is None and time.time() - status.st_mtime >= self._settle
            self._seen[path] = _Sighting(status.st_size, status.st_mtime_ns, now, old)
        if (before is not None and not same) or (self._can_tell and _has_writer(path)):
            return "written"
        seen = self._seen[path]
        return "whole" if seen.old or now - seen.since >= self._settle else "settling"


def _temporary(name: str) -> bool:
    return name.startswith(".") or name.endswith(("~", ".part", ".partial", ".tmp", ".swp", ".crdownload"))


def _has_writer(path: Path) -> bool:
    """Say whether some process has the file open for writing; False where the system does not tell."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return False
    try:
        # A read lease is granted only while nobody has the file open for writing. Whoever opens it in this moment
        # has the kernel send a signal, by default one that ends the process.
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _tells_writers(folder: Path) -> bool:
    """Try on a file of our own: some file systems say that every file has a writer."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    own = folder / ".ftdoctor-writer"
    try:
        with own.open("wb"):
            told = _has_writer(own)
        return told and not _has_writer(own)
    finally:
        own.unlink()
