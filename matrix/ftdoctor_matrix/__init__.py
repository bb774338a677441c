"""Axes, families, profiles and libraries as TOML, and the small code that reads them."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ftdoctor.cells import Axis
from ftdoctor.errors import MatrixError
from ftdoctor.wording import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Impossible:
    """A combination of axis values that no library promises."""

    cell: Mapping[str, tuple[str, ...]]
    why: str


@dataclass(frozen=True)
class Family:
    """An architecture: its config and model class in transformers, and what a tiny model of it is made of."""

    name: str
    config_class: str
    model_class: str
    template: str
    config: Mapping[str, Any]
    composite: str = ""
    """A config class with sub-configs of the same family, or empty."""


@dataclass(frozen=True)
class Profile:
    """A named choice of probes and cells."""

    name: str
    summary: str
    strength: int
    """Every combination of values of this many axes occurs in a cell; 1: each value of a varied axis."""
    vary: tuple[str, ...] = ()
    """The axes that are varied; all where empty."""
    devices: str = "all"
    """`all` examines every device of this machine, `best` its accelerator or else the CPU."""
    areas: tuple[str, ...] = ()
    """The areas that are examined where no probe is named; all where empty."""
    cells: tuple[Mapping[str, str], ...] = ()
    """Explicit cells instead of a choice from the axes."""


@dataclass(frozen=True)
class Libraries:
    """The libraries whose promises are tested, and what the fork server imports ahead."""

    order: tuple[str, ...]
    preload_safe: tuple[str, ...]
    preload_full: tuple[str, ...] = field(default=())
    environment: tuple[str, ...] = field(default=())
    """How the names of environment variables that steer the stack begin."""


@dataclass(frozen=True)
class SecretFormat:
    """How the secrets of one issuer look."""

    kind: str
    keywords: tuple[str, ...]
    """In small letters; one of them stands in every text that holds such a secret."""
    pattern: str
    word: bool = False
    """Whether the secret must not go on from a letter or digit before it."""
    after: str = ""
    """What must stand before the secret, within 200 characters."""
    lines: bool = False
    """Whether it goes over several lines."""
    reference: str = ""


@dataclass(frozen=True)
class Private:
    """What is taken out of reports: how secrets look and are called, and which hosts and names are private."""

    secrets: tuple[SecretFormat, ...]
    strong: frozenset[str]
    weak: frozenset[str]
    environment: frozenset[str]
    of_text: frozenset[str]
    harmless: frozenset[str]
    ordinary: frozenset[str]
    public: tuple[str, ...]
    suffixes: tuple[str, ...]
    also_code: tuple[str, ...]
    schemes: tuple[str, ...]
    variables: tuple[str, ...]
    common: frozenset[str]


def read(name: str) -> dict[str, Any]:
    """Return the content of one of the TOML files of this package."""
    return tomllib.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


@functools.cache
def axes() -> Mapping[str, Axis]:
    """Return the axes by name, in the order of the file."""
    found = {}
    for name, entry in read("axes.toml").items():
        if name == "impossible":
            continue
        _refuse_unknown(f"axes.toml [{name}]", entry, ("summary", "values", "value"))
        details: dict[str, Any] = entry.get("value", {})
        for value, detail in details.items():
            _refuse_unknown(f"axes.toml [{name}.value]", {value: 0}, entry["values"])
            _refuse_unknown(f"axes.toml [{name}.value.{value}]", detail, ("libraries", "devices", "why"))
        found[name] = Axis(
            name=name,
            values=tuple(entry["values"]),
            summary=entry["summary"],
            libraries={v: tuple(d["libraries"]) for v, d in details.items() if "libraries" in d},
            devices={v: tuple(d["devices"]) for v, d in details.items() if "devices" in d},
            reasons={v: d["why"] for v, d in details.items() if "why" in d},
        )
    return found


@functools.cache
def impossible() -> tuple[Impossible, ...]:
    """Return the combinations that are not planned, with their reasons."""
    entries = []
    for entry in read("axes.toml")["impossible"]:
        _refuse_unknown("axes.toml [[impossible]]", entry, ("cell", "why"))
        for axis, values in entry["cell"].items():
            _refuse_unknown("axes.toml [[impossible]]", {axis: 0}, axes())
            for value in values:
                _refuse_unknown(f"axes.toml [[impossible]] {axis}", {value: 0}, axes()[axis].values)
        entries.append(Impossible({a: tuple(v) for a, v in entry["cell"].items()}, entry["why"]))
    return tuple(entries)


@functools.cache
def families() -> Mapping[str, Family]:
    """Return the model families by name."""
    data = read("families.toml")
    defaults = data.pop("defaults")
    found = {}
    for name, entry in data.items():
        _refuse_unknown(
            f"families.toml [{name}]",
            entry,
            ("config_class", "model_class", "template", "composite", "config"),
        )
        found[name] = Family(
            name=name,
            config_class=entry["config_class"],
            model_class=entry["model_class"],
            template=entry["template"],
            composite=entry.get("composite", ""),
            config={**defaults, **entry.get("config", {})},
        )
    return found


@functools.cache
def profiles() -> Mapping[str, Profile]:
    """Return the profiles by name."""
    found = {}
    for name, entry in read("profiles.toml").items():
        _refuse_unknown(f"profiles.toml [{name}]", entry, ("summary", "strength", "vary", "devices", "areas", "cells"))
        for axis in entry.get("vary", ()):
            _refuse_unknown(f"profiles.toml [{name}] vary", {axis: 0}, axes())
        for cell in entry.get("cells", ()):
            for axis, value in cell.items():
                _refuse_unknown(f"profiles.toml [{name}] cells", {axis: 0}, axes())
                _refuse_unknown(f"profiles.toml [{name}] cells {axis}", {value: 0}, axes()[axis].values)
        found[name] = Profile(
            name=name,
            summary=entry["summary"],
            strength=entry.get("strength", 1),
            vary=tuple(entry.get("vary", ())),
            devices=entry.get("devices", "all"),
            areas=tuple(entry.get("areas", ())),
            cells=tuple(entry.get("cells", ())),
        )
    return found


@functools.cache
def libraries() -> Libraries:
    """Return the libraries whose promises are tested."""
    data = read("libraries.toml")
    preload = data["preload"]
    return Libraries(tuple(data["order"]), tuple(preload["safe"]), tuple(preload["full"]), tuple(data["environment"]))


@functools.cache
def private() -> Private:
    """Return what is taken out of reports; the file explains its keys."""
    data = read("redaction.toml")
    keys = {
        "names": ("strong", "weak", "environment", "of_text", "harmless"),
        "values": ("ordinary",),
        "addresses": ("public", "suffixes", "also_code", "schemes", "variables"),
        "people": ("common",),
    }
    _refuse_unknown("redaction.toml", data, ("secret", *keys))
    for table, known in keys.items():
        _refuse_unknown(f"redaction.toml [{table}]", data[table], known)
    for entry in data["secret"]:
        _refuse_unknown(
            "redaction.toml [[secret]]", entry, ("kind", "keywords", "pattern", "word", "after", "lines", "reference")
        )
    names, addresses = data["names"], data["addresses"]
    return Private(
        secrets=tuple(SecretFormat(**{**entry, "keywords": tuple(entry["keywords"])}) for entry in data["secret"]),
        strong=frozenset(names["strong"]),
        weak=frozenset(names["weak"]),
        environment=frozenset(names["environment"]),
        of_text=frozenset(names["of_text"]),
        harmless=frozenset(names["harmless"]),
        ordinary=frozenset(data["values"]["ordinary"]),
        public=tuple(addresses["public"]),
        suffixes=tuple(addresses["suffixes"]),
        also_code=tuple(addresses["also_code"]),
        schemes=tuple(addresses["schemes"]),
        variables=tuple(addresses["variables"]),
        common=frozenset(data["people"]["common"]),
    )


def _refuse_unknown(where: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    known = tuple(known)
    for key in given:
        if key not in known:
            raise MatrixError(f"{where} has no {key!r}{nearest(key, known)}; it knows {', '.join(known)}.")
