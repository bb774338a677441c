"""The user's configuration: `[tool.ftdoctor]` in pyproject.toml, or ftdoctor.toml; the command line wins."""

from __future__ import annotations

import datetime
import math
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from ftdoctor.cells import Cell, parse_selection
from ftdoctor.errors import ConfigError, UsageError
from ftdoctor.settings import THRESHOLDS
from ftdoctor.wording import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REPORTS = ("json", "html", "markdown", "junit")
KEYS = ("profile", "cells", "probes", "jobs", "timeout", "expect", "accept", "thresholds", "redact", *REPORTS)
ACCEPT_KEYS = ("probe", "reason", "until", "cells", "fails", "reference")


@dataclass(frozen=True)
class Accepted:
    """A finding that the user knows of and accepts, with the reason and, if given, an end date."""

    probe: str
    reason: str
    cells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Axis to the values in which it is accepted; every cell where empty."""
    fails: tuple[str, ...] = ()
    """The only checks that may fail (`raises X` for an exception); any where empty."""
    until: datetime.date | None = None
    """The last day on which it is accepted."""

    def concerns(self, probe: str, cell: Cell) -> bool:
        """Say whether this is about a probe in a cell, whatever its outcome and the day."""
        return probe == self.probe and cell.matches(self.cells) and all(axis in cell for axis in self.cells)

    def covers(self, probe: str, cell: Cell, failures: Iterable[str], today: datetime.date) -> bool:
        """Say whether a red cell is accepted today."""
        return (
            self.concerns(probe, cell)
            and (self.until is None or today <= self.until)
            and (not self.fails or set(failures) <= set(self.fails))
        )


@dataclass(frozen=True)
class Config:
    """What the configuration file says; each field at its default where it says nothing."""

    path: Path | None = None
    profile: str = ""
    cells: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    jobs: int = 0
    timeout: float = 0.0
    expect: Mapping[str, str] = field(default_factory=dict)
    accept: tuple[Accepted, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=lambda: dict(THRESHOLDS))
    json: str = ""
    html: str = ""
    markdown: str = ""
    junit: str = ""
    redact: tuple[str, ...] = ()
    """Regular expressions of what no report may hold, besides what is always taken out."""


def here() -> Config:
    """Read the configuration of the working folder.

    Raises:
        ConfigError: as `find`.
        UsageError: the working folder was removed.
    """
    try:
        folder = Path.cwd()
    except OSError as error:
        raise UsageError("The working folder does not exist any more; change to one that does.") from error
    return find(folder)


def find(folder: Path) -> Config:
    """Read the nearest configuration at or above a folder; the default one where there is none.

    Raises:
        ConfigError: the file says something that ftdoctor does not understand.
    """
    for place in (folder, *folder.parents):
        own, project = place / "ftdoctor.toml", place / "pyproject.toml"
        if own.is_file():
            return read(_load(own), own)
        if project.is_file():
            section = _load(project).get("tool", {}).get("ftdoctor")
            if section is not None:
                return read(section, project)
    return Config()


def read(section: Mapping[str, Any], path: Path) -> Config:
    """Turn a parsed table into a configuration."""
    _refuse_unknown(section, KEYS, path)
    thresholds = _typed(section, "thresholds", dict, path, {})
    _refuse_unknown(thresholds, THRESHOLDS, path, "thresholds.")
    expect = {str(k): str(v) for k, v in _typed(section, "expect", dict, path, {}).items()}
    for name, specifier in expect.items():
        try:
            SpecifierSet(specifier)
        except InvalidSpecifier as error:
            raise ConfigError(
                f"{path}: expect.{name} = {specifier!r} is not a version specifier; write for example '>=2.6,<3'."
            ) from error
    return Config(
        path=path,
        profile=_typed(section, "profile", str, path, ""),
        cells=_texts(section, "cells", path),
        probes=_texts(section, "probes", path),
        jobs=_positive(section, "jobs", int, path),
        timeout=float(_positive(section, "timeout", (int, float), path)),
        expect=expect,
        accept=tuple(_accepted(entry, path) for entry in _typed(section, "accept", list, path, [])),
        thresholds={**THRESHOLDS, **{k: float(v) for k, v in thresholds.items()}},
        redact=_patterns(_texts(section, "redact", path), path),
        **{name: _place(_typed(section, name, str, path, "")) for name in REPORTS},
    )


def _patterns(given: tuple[str, ...], path: Path) -> tuple[str, ...]:
    for pattern in given:
        try:
            found = re.compile(pattern).search("")
        except re.error as error:
            raise ConfigError(f"{path}: redact = {pattern!r} is not a regular expression: {error}.") from error
        if found:
            raise ConfigError(f"{path}: redact = {pattern!r} finds nothing at all everywhere; make it find something.")
    return given


def _accepted(entry: Any, path: Path) -> Accepted:
    if not isinstance(entry, dict) or not isinstance(entry.get("cells", {}), dict):
        raise ConfigError(f"{path}: accept = {entry!r} is no table of probe, reason and cells = {{ axis = 'value' }}.")
    _refuse_unknown(entry, ACCEPT_KEYS, path, "accept.")
    for key in ("probe", "reason"):
        if not entry.get(key):
            raise ConfigError(f"{path}: an accepted finding has no {key!r}; say which probe and why.")
    until = entry.get("until")
    if until is not None and not isinstance(until, datetime.date):
        raise ConfigError(f"{path}: accept.until = {until!r} is not a date; write it as 2027-01-31 without quotes.")
    from ftdoctor_matrix import axes

    try:
        cells = parse_selection([f"{a}={','.join(_listed(v))}" for a, v in entry.get("cells", {}).items()], axes())
    except UsageError as error:
        raise ConfigError(f"{path}: accept.cells: {error}") from error
    return Accepted(
        probe=str(entry["probe"]),
        reason=str(entry["reason"]),
        cells=cells,
        fails=tuple(_listed(entry.get("fails", ()))),
        until=until,
    )


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(v) for v in value]


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error


def _typed(section: Mapping[str, Any], key: str, kind: Any, path: Path, default: Any) -> Any:
    value = section.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(k.__name__ for k in kind) if isinstance(kind, tuple) else kind.__name__
        raise ConfigError(f"{path}: {key} = {value!r} is not of type {names}.")
    return value


def _place(path: str) -> str:
    """Return a path with the home folder in place of a `~`, which no shell has put there."""
    return os.path.expanduser(path)  # noqa: PTH111 - Path raises where there is no home, and makes `.` of nothing


def _texts(section: Mapping[str, Any], key: str, path: Path) -> tuple[str, ...]:
    values = _typed(section, key, list, path, [])
    for value in values:
        if not isinstance(value, str):
            raise ConfigError(f"{path}: {key} = {values!r} holds {value!r}, which is not of type str.")
    return tuple(values)


def _positive(section: Mapping[str, Any], key: str, kind: Any, path: Path) -> Any:
    value = _typed(section, key, kind, path, 0)
    if key in section and not 0 < value < math.inf:
        raise ConfigError(f"{path}: {key} = {value!r} is not above zero and finite; leave it out for the default.")
    return value


def _refuse_unknown(given: Iterable[str], known: Iterable[str], path: Path, prefix: str = "") -> None:
    known = tuple(known)
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{path}: there is no setting {prefix + key!r}{nearest(key, known)}; there are {', '.join(known)}."
            )
