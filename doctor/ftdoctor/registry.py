"""Finds the probes: every pack that an installed distribution announces, every file in it."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata as metadata
import pkgutil
from typing import TYPE_CHECKING

from ftdoctor.errors import ProbeError, UsageError
from ftdoctor.probe import AREAS, Probe
from ftdoctor.wording import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GROUP = "ftdoctor.probes"


@functools.cache
def probes() -> Mapping[str, Probe]:
    """Return every installed probe by name, sorted by area and name.

    Raises:
        ProbeError: a pack cannot be imported, or two probes have the same name.
    """
    found: dict[str, Probe] = {}
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda e: e.name):
        for probe in read_pack(entry.value):
            if probe.name in found:
                raise ProbeError(
                    f"Two probes are named {probe.name!r} ({found[probe.name].module} and {probe.module}); "
                    "rename one of them."
                )
            found[probe.name] = probe
    return dict(sorted(found.items(), key=lambda item: (AREAS.index(item[1].area), item[0])))


def read_pack(package: str) -> list[Probe]:
    """Return the probes of a package, one per file; files without a probe are helpers of the pack."""
    try:
        pack = importlib.import_module(package)
        modules = [
            importlib.import_module(f"{package}.{info.name}")
            for info in pkgutil.iter_modules(pack.__path__)
            if not info.name.startswith("_")
        ]
    except Exception as error:
        raise ProbeError(
            f"The probe pack {package} cannot be imported ({type(error).__name__}: {error}); mend or uninstall it."
        ) from error
    return [probe_of(module.__name__) for module in modules]


def probe_of(module: str) -> Probe:
    """Return the one probe that a file holds.

    Raises:
        ProbeError: the file holds none or several, or the probe is not named as its file.
    """
    held = importlib.import_module(module)
    found = [v for v in vars(held).values() if isinstance(v, Probe) and v.module == module]
    stem = module.rpartition(".")[2]
    if len(found) != 1 or found[0].function.__name__ != stem:
        names = ", ".join(p.name for p in found) or "none"
        raise ProbeError(f"{module} must hold one probe, a function named {stem}; it holds {names}.")
    return found[0]


def choose(names: Iterable[str]) -> dict[str, Probe]:
    """Return the probes of these names; a name may also be an area.

    Raises:
        UsageError: there is no such probe.
    """
    known = probes()
    chosen: dict[str, Probe] = {}
    for name in names:
        if name in AREAS:
            chosen.update({k: p for k, p in known.items() if p.area == name})
        elif name in known:
            chosen[name] = known[name]
        else:
            raise UsageError(f"There is no probe {name!r}{nearest(name, [*known, *AREAS])}; see `ftdoctor list`.")
    return {k: p for k, p in known.items() if k in chosen}
