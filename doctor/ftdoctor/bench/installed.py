"""What is installed, from metadata alone: distributions, their requirements, and where they were put."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.metadata as metadata
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from ftdoctor_matrix import libraries

if TYPE_CHECKING:
    from collections.abc import Iterator


def normal(name: str) -> str:
    """Return the normalized name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def module_of(name: str) -> str:
    """Return the top-level module of one of the examined libraries."""
    return name.replace("-", "_")


def distribution(name: str) -> metadata.Distribution | None:
    """Return the installed distribution of this name, or None."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.distribution(name)
    return None


def distributions() -> dict[str, metadata.Distribution]:
    """Return the examined libraries that are installed, in the order in which reports name them."""
    found = {name: distribution(name) for name in libraries().order}
    return {name: dist for name, dist in found.items() if dist is not None}


def requirements() -> Iterator[tuple[str, Requirement]]:
    """Yield who needs what: the examined libraries' requirements, those of what they need, and so on.

    Extras count where a requirement asks for them; what a marker rules out here is left out.
    """
    waiting = [(name, frozenset[str]()) for name in distributions()]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop(0)
        dist = distribution(name)
        for requirement in _active(dist, extras) if dist else ():
            yield name, requirement
            key = (normal(requirement.name), frozenset(requirement.extras))
            if key not in seen:
                seen.add(key)
                waiting.append(key)


def unmet(requirement: Requirement) -> str | None:
    """Return the installed version (or `not installed`) that does not meet a requirement; None where it is met."""
    dist = distribution(requirement.name)
    if dist is None:
        return "not installed"
    met = requirement.specifier.contains(dist.version, prereleases=True)
    return None if met else dist.version


def refuses_python(dist: metadata.Distribution, version: str) -> str | None:
    """Return the Python versions that a distribution asks for, where `version` is not one of them."""
    wanted = dist.metadata["Requires-Python"]
    with contextlib.suppress(InvalidSpecifier):
        if wanted and not SpecifierSet(wanted).contains(version, prereleases=True):
            return str(wanted)
    return None


def copies(names: set[str]) -> dict[str, list[tuple[Path, str]]]:
    """Return folder and version of every installed copy of these distributions on `sys.path`, first found first."""
    found: dict[str, list[tuple[Path, str]]] = {}
    for dist in metadata.distributions():
        name = normal(dist.metadata["Name"] or "")
        copy = (Path(str(dist.locate_file(""))).resolve(), dist.version)
        if name in names and copy not in found.setdefault(name, []):
            found[name].append(copy)
    return found


def home(dist: metadata.Distribution) -> Path:
    """Return the folder that the distribution's modules lie in: its source folder where it is editable."""
    direct = json.loads(dist.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        return Path(unquote(urlsplit(direct["url"]).path)).resolve()
    return Path(str(dist.locate_file(""))).resolve()


def importable(module: str, path: list[str]) -> Path | None:
    """Return the file from which a script would import a top-level module, or None; nothing is imported.

    Args:
        module: name of the module.
        path: the script's `sys.path`.
    """
    spec = importlib.machinery.PathFinder.find_spec(module, path)
    if (spec is None or spec.origin is None) and module not in sys.modules:
        # Some editable installs are found by a hook of their own and not by the path.
        spec = importlib.util.find_spec(module)
    return Path(spec.origin).resolve() if spec and spec.origin else None


def _active(dist: metadata.Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for line in dist.requires or ():
        with contextlib.suppress(InvalidRequirement):
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                yield requirement
