"""In which versions, machine, environment and wishes two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ftdoctor.results import Run

GIB = 1024**3
KINDS = {
    "stack": "library",
    "installed": "dependency",
    "machine": "machine",
    "environment": "environment",
    "configuration": "asked",
}
"""Kinds of facts in the order in which they are shown, with the word for one of them."""


@dataclass(frozen=True)
class Fact:
    """Something that differs; it is empty where one of the two does not have it."""

    kind: str
    """One of `KINDS`."""
    name: str
    a: str
    b: str


def facts(a: Run, b: Run) -> Iterator[Fact]:
    """Yield what differs, by kind; what the document of one of them does not record is left out."""
    both = _recorded(a) and _recorded(b)
    one, other = _facts(a), _facts(b)
    for kind in KINDS:
        if not both and kind in ("installed", "environment", "configuration"):
            continue
        for name in dict.fromkeys([*one[kind], *other[kind]]):
            before, after = one[kind].get(name, ""), other[kind].get(name, "")
            if before != after:
                yield Fact(kind, name, before, after)


def unrecorded(a: Run, b: Run) -> Iterator[str]:
    """Yield a note for a document of before these were recorded."""
    for name, run in (("A", a), ("B", b)):
        if not _recorded(run):
            yield (
                f"{name} is of an older ftdoctor: dependencies, environment and configuration were not recorded, and "
                "values only in six digits, below which no drift can be told."
            )


def _recorded(run: Run) -> bool:
    """Say whether a run is of the schema that records everything: promises came with the rest of it."""
    return bool(run.promises)


def _facts(run: Run) -> dict[str, dict[str, str]]:
    asked = {"profile": run.profile, "model": run.model or "the tiny ones", **dict(_flat("", run.configuration))}
    return {
        "stack": {"ftdoctor": run.ftdoctor, "python": str(run.machine.get("python", "")), **run.stack},
        "installed": dict(run.installed),
        "machine": dict(_machine(run.machine)),
        "environment": dict(run.environment),
        "configuration": asked,
    }


def _machine(machine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what of a machine bears on results; what is free at a moment does not."""
    for name in ("os", "machine", "processor", "cores", "container", "implementation"):
        yield name, str(machine.get(name, ""))
    yield "cpu flags", " ".join(machine.get("cpu_flags", ()))
    total, limit = machine.get("memory", {}).get("total", 0), machine.get("memory_limit", 0)
    yield "memory", f"{total / GIB:.1f} GiB"
    yield "memory limit", f"{limit / GIB:.1f} GiB" if limit else ""
    for number, gpu in enumerate(machine.get("gpus", ())):
        yield f"gpu {number}", f"{gpu['name']}, {gpu['memory'] / GIB:.0f} GiB, capability {gpu['capability']}"
        yield "driver", f"{gpu['driver']} (CUDA up to {gpu['cuda_driver']})"


def _flat(above: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield nested settings by their dotted names."""
    for key, value in values.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping):
            yield from _flat(name, value)
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
