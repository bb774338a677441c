"""The user's configuration: `[tool.ftdoctor]` in pyproject.toml, or ftdoctor.toml; the command line wins."""

from __future__ import annotations

import datetime
import sys
from dataclasses import dataclass, field
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
    from pathlib import Path

KEYS = ("profile", "cells", "probes", "jobs", "timeout", "expect", "accept", "thresholds", "json", "html")
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
        cells=tuple(_typed(section, "cells", list, path, [])),
        probes=tuple(_typed(section, "probes", list, path, [])),
        jobs=_typed(section, "jobs", int, path, 0),
        timeout=float(_typed(section, "timeout", (int, float), path, 0)),
        expect=expect,
        accept=tuple(_accepted(entry, path) for entry in _typed(section, "accept", list, path, [])),
        thresholds={**THRESHOLDS, **{k: float(v) for k, v in thresholds.items()}},
        json=_typed(section, "json", str, path, ""),
        html=_typed(section, "html", str, path, ""),
    )


def _accepted(entry: Mapping[str, Any], path: Path) -> Accepted:
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


def _refuse_unknown(given: Iterable[str], known: Iterable[str], path: Path, prefix: str = "") -> None:
    known = tuple(known)
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{path}: there is no setting {prefix + key!r}{nearest(key, known)}; there are {', '.join(known)}."
            )
