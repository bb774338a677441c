"""Writes the JSON Schema of a run out of the records themselves: `python docs/schema.py`.

It stands in the package, so that it is there where reports are read, and under docs/ for everybody else. Schemas of
before are never written anew.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftdoctor import results
from ftdoctor.cells import Cell
from ftdoctor.results import SCHEMA, Run

ROOT = Path(__file__).parents[1]
PLACES = (ROOT / "reports" / "ftdoctor_reports" / "schema", ROOT / "docs" / "schema")
PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Any: {},
    Cell: {"$ref": "#/$defs/Cell"},
}
MACHINE = {
    "os": str,
    "machine": str,
    "processor": str,
    "cpu_flags": tuple[str, ...],
    "cores": int,
    "memory": Mapping[str, int],
    "memory_limit": int,
    "disk_free": int,
    "container": str,
    "python": str,
    "implementation": str,
    "executable": str,
    "gpus": tuple[Mapping[str, Any], ...],
    "gpu_note": str,
}
"""The facts of the machine that every document has; there may be more."""
FIXED = {"schema": {"const": SCHEMA}, "outcome": {"enum": ["healthy", "findings", "unexamined"]}}
"""Fields of a run whose values are known."""


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a run."""
    definitions: dict[str, Any] = {
        "Cell": {
            "description": "One value for each axis that a probe uses.",
            "type": "object",
            "additionalProperties": {"type": "string"},
        }
    }
    top = _record(Run, definitions)
    top["properties"] = {**top["properties"], **FIXED, "machine": _machine(definitions)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{SCHEMA.replace('/', ':')}",
        "title": f"A run of ftdoctor ({SCHEMA})",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def _machine(definitions: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": "The facts of the machine; sizes in bytes.",
        "type": "object",
        "properties": {name: _of(kind, definitions) for name, kind in MACHINE.items()},
        "required": list(MACHINE),
    }


def _record(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints, told = typing.get_type_hints(kind), _told(kind)
    fields = [f.name for f in dataclasses.fields(kind)]
    return {
        "description": inspect.cleandoc(kind.__doc__ or ""),
        "type": "object",
        "properties": {
            name: {**({"description": told[name]} if name in told else {}), **_of(hints[name], definitions)}
            for name in fields
        },
        "required": fields,
        "additionalProperties": False,
    }


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if kind in PLAIN:
        return PLAIN[kind]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [member.value for member in kind]}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}
            definitions[kind.__name__] = _record(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_of(arguments[0], definitions), {"type": "null"}]}
    return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}


def _told(kind: type) -> dict[str, str]:
    """Return what the source says of each field: the string below it."""
    tree = ast.parse(inspect.getsource(results))
    (made,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__]
    told = {}
    for field, below in zip(made.body, made.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            told[ast.unparse(field.target)] = " ".join(inspect.cleandoc(str(below.value.value)).split())
    return told


def render() -> str:
    """Return the schema as text."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for place in PLACES:
        place.mkdir(exist_ok=True)
        (place / f"{SCHEMA.replace('/', '-')}.json").write_text(render(), encoding="utf-8")
