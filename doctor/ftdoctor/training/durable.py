"""Files and folders that are there completely or not at all, also after a kill or a power failure."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import itertools
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def read_json(path: Path) -> dict[str, Any]:
    """Return the table in a file; an empty one where there is none or it cannot be read."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a table so that the file is always a complete one."""
    with complete(path) as out:
        out.write(json.dumps(data, indent=1).encode() + b"\n")


@contextlib.contextmanager
def complete(path: Path) -> Iterator[Any]:
    """Give a file to write to that takes its name only when it is complete and on the disk."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)
    sync(path.parent)


def move(source: Path, target: Path) -> None:
    """Rename, and have both folders on the disk before anything goes on."""
    source.rename(target)
    sync(target.parent)
    sync(source.parent)


def sync(path: Path) -> None:
    """Have a file's contents, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Have a folder and all that is in it on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def free(folder: Path, name: str, ending: str = "") -> Path:
    """Return a path that nothing has: the name, or the name with a number."""
    return next(path for path in (folder / (n + ending) for n in numbered(name)) if not os.path.lexists(path))


def numbered(name: str) -> Iterator[str]:
    """Yield `name`, `name-2`, `name-3`, ..."""
    return itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))


def lines(path: Path) -> Iterator[bytes]:
    """Return the rows of a JSON Lines file, each ended, without blank lines and byte order mark."""
    with path.open("rb") as file:
        for line in file:
            if row := _row(line):
                yield row + b"\n"


def measure(path: Path) -> tuple[str, int]:
    """Return the SHA-256 of a JSON Lines file and the number of its rows."""
    digest, count = hashlib.sha256(), 0
    with path.open("rb") as file:
        for line in file:
            digest.update(line)
            count += bool(_row(line))
    return digest.hexdigest(), count


def _row(line: bytes) -> bytes:
    return line.removeprefix(codecs.BOM_UTF8).strip()
