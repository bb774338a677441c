"""This machine has memory, shared memory and disk enough to work with.

Why: what runs out is not what the message names. A container is killed without a traceback at a limit far below the
memory that every tool shows; data loaders die with "Bus error" in Docker's 64 MiB of shared memory; a full
disk ends the run at its first checkpoint.

Cure: raise the container's limit (`--memory`, `resources.limits.memory`) or `--shm-size`; free space in the temporary
folder or point TMPDIR and HF_HOME to a larger disk; the thresholds are in [tool.ftdoctor.thresholds].
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor import machine
from ftdoctor.probe import probe
from ftdoctor.results import Level
from ftdoctor.settings import THRESHOLDS

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

SHARED = Path("/dev/shm")  # noqa: S108 - nothing is written there
SHARED_GIB = 0.25
"""What a few workers of a data loader hold there with batches of long texts; Docker's default is 0.0625."""


@probe(area="environment")
def resources(bench: Bench, check: Check) -> None:
    """Compare what is free with the thresholds; every one of them only warns."""
    limits = {**THRESHOLDS, **bench.settings.thresholds}
    facts = bench.machine
    memory, limit = facts["memory"], facts["memory_limit"]
    if memory["available"]:
        _at_least(check, "free memory", memory["available"], limits["free_memory_gib"], "free_memory_gib")
    if memory["total"]:
        # Without a limit, or with one above the machine, the machine itself is the limit.
        room = min(limit or memory["total"], memory["total"])
        _at_least(check, "container limit", room, limits["free_memory_gib"], "free_memory_gib")
    _at_least(check, "free disk", facts["disk_free"], limits["free_disk_gib"], "free_disk_gib")
    if SHARED.is_dir():
        check.at_least(
            "shared memory",
            shutil.disk_usage(SHARED).total / machine.GIB,
            SHARED_GIB,
            why="GiB that the workers of a data loader need to hand over their batches",
            level=Level.WARN,
        )


def _at_least(check: Check, name: str, size: int, gib: float, threshold: str) -> None:
    why = f"GiB; [tool.ftdoctor.thresholds] {threshold}"
    check.at_least(name, size / machine.GIB, gib, why=why, level=Level.WARN)


@resources.fault("the disk is full, and shared memory is Docker's default", catches=("free disk", "shared memory"))
def nothing_left(patch: Patch) -> None:
    """64 MiB everywhere."""
    size = 64 * 1024**2

    def around(original: Any, path: Any) -> Any:
        return type(original(path))(size, 0, size)

    patch.wrap(shutil, "disk_usage", around)


@resources.fault(
    "the container may use one GiB of a large machine, which is in use", catches=("free memory", "container limit")
)
def small_container(patch: Patch) -> None:
    """A limit that none of the usual tools show."""
    patch.replace(machine, "memory", lambda: {"total": 64 * machine.GIB, "available": machine.GIB})
    patch.replace(machine, "memory_limit", lambda: machine.GIB)
