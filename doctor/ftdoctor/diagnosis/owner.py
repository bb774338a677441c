"""Whose line it is: from a file to the distribution that installed it."""

from __future__ import annotations

import functools
import importlib.metadata as metadata
import inspect
import re
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.results import Culprit, Frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

OWN = ("ftdoctor", "ftdoctor_probes", "ftdoctor_matrix", "ftdoctor_reports")
PASSED_THROUGH = ("torch", "python", "tokenizers", "safetensors")
"""Libraries whose frames raise what others hand to them; they are blamed only when nobody else is on the path."""
DUMPED = re.compile(r'  File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)')
"""A line of a traceback as `faulthandler` writes it."""


def frame_of(thing: Any) -> Frame | None:
    """Return where a function, method or class is defined, or None where Python cannot tell."""
    thing = inspect.unwrap(getattr(thing, "__func__", thing)) if callable(thing) else thing
    try:
        file = inspect.getsourcefile(thing)
        line = inspect.getsourcelines(thing)[1]
    except (TypeError, OSError):
        return None
    return _frame(file, line, getattr(thing, "__qualname__", "")) if file else None


def frames_of(trace: TracebackType | None) -> tuple[Frame, ...]:
    """Return the frames of a traceback, outermost first, without those of ftdoctor itself."""
    frames = [_frame(f.f_code.co_filename, line, f.f_code.co_name) for f, line in traceback.walk_tb(trace)]
    return tuple(f for f in frames if f.distribution != "ftdoctor")


def frames_of_dump(text: str) -> tuple[Frame, ...]:
    """Return the frames of the thread that crashed out of what `faulthandler` has written, outermost first.

    In the dump of a process that was ended for its time, where no thread crashed, the main thread comes last.
    """
    marker = "(most recent call first):"
    head, _, crashed = text.rpartition("Current thread")
    stack = crashed.partition(marker)[2] if head else text.rpartition(marker)[2]
    found = []
    for line in stack.splitlines()[1:]:
        match = DUMPED.match(line)
        if match is None:
            break
        found.append(_frame(match["file"], int(match["line"]), match["function"]))
    return tuple(f for f in reversed(found) if f.distribution != "ftdoctor")


def culprit_of(frames: Sequence[Frame]) -> Culprit | None:
    """Name the distribution that owns the raising frame.

    Going outwards from the frame that raised, the first one wins that belongs to a distribution and is not one of
    the libraries that only do what they are told (`PASSED_THROUGH`); if there is none but those, the deepest one
    that belongs to a distribution. What is raised while a module is imported is that module's own.
    """
    owned = [f for f in reversed(frames) if f.distribution and f.distribution != "python"]
    if owned and owned[0].function == "<module>":
        owned = owned[:1]
    for frame in [f for f in owned if f.distribution not in PASSED_THROUGH] or owned:
        return Culprit(frame.distribution, frame.version, frame.file, frame.line)
    return None


def _frame(file: str, line: int, function: str) -> Frame:
    distribution, version, short = _owner(file)
    return Frame(distribution, version, short, line, function)


@functools.cache
def _owner(file: str) -> tuple[str, str, str]:
    """Return distribution, version and a short path for a file."""
    path = Path(file)
    for root in _site_folders():
        if root in path.parents:
            relative = path.relative_to(root)
            name, version = _distribution(relative.parts[0].removesuffix(".py"))
            return name, version, str(relative)
    for parent in path.parents:
        if parent.name in OWN:
            return "ftdoctor", "", str(path.relative_to(parent.parent))
    for root in _library_folders():
        if root in path.parents:
            return "python", "", str(path.relative_to(root))
    return "", "", path.name if path.is_absolute() else file


@functools.cache
def _site_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple(dict.fromkeys(Path(paths[k]) for k in ("purelib", "platlib")))


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    return (Path(sysconfig.get_paths()["stdlib"]),)


@functools.cache
def _distribution(package: str) -> tuple[str, str]:
    """Return name and version of the distribution that installed a top-level package."""
    for name in _packages().get(package, ()):
        return name, metadata.version(name)
    return "", ""


@functools.cache
def _packages() -> dict[str, list[str]]:
    return {k: sorted(set(v)) for k, v in metadata.packages_distributions().items()}
