"""The report as JSON: the one truth from which every other form is rendered."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import FtdoctorError
from ftdoctor.machine import describe, headline
from ftdoctor.results import SCHEMA, Run, decode, dumps
from ftdoctor_reports import embedded

if TYPE_CHECKING:
    from pathlib import Path

OLDER = ("ftdoctor/1",)
"""Schemas of before that are read too, oldest first."""


def render(run: Run) -> str:
    """Return the run as indented JSON text, non-ASCII kept; it is valid against `schema()`."""
    return dumps(run, indent=1, allow_nan=False) + "\n"


def schema(name: str = SCHEMA) -> str:
    """Return the JSON Schema of a version as text."""
    return files(__package__).joinpath("schema", f"{name.replace('/', '-')}.json").read_text(encoding="utf-8")


def load(path: Path) -> Run:
    """Read a report back: JSON, or the HTML page in which it is embedded, of this schema or an older one.

    Raises:
        FtdoctorError: the file is not a report of ftdoctor, or one of a newer ftdoctor.
    """
    try:
        text = path.read_text(encoding="utf-8")
        page = text.lstrip("\ufeff \t\r\n").startswith("<")
        return read(embedded.unpack(text) if page else json.loads(text.removeprefix("\ufeff")))
    except OSError as error:
        raise FtdoctorError(f"The report {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        told = str(error).rstrip(".")
        raise FtdoctorError(f"{path} is not a report of ftdoctor: {told[:1].lower()}{told[1:]}.") from error


def read(data: Any) -> Run:
    """Turn a parsed document into a run.

    What a newer schema has in addition stands at its default in the run of an older one.

    Raises:
        FtdoctorError: it is not a document of a schema that this ftdoctor knows.
    """
    given = data.get("schema") if isinstance(data, dict) else None
    if given in (SCHEMA, *OLDER):
        run = decode(Run, {**data, "schema": SCHEMA})
        _refuse_half(run)
        return run
    if isinstance(given, str) and given.startswith("ftdoctor/"):
        raise FtdoctorError(f"It has the schema {given}, this ftdoctor reads up to {SCHEMA}: upgrade ftdoctor.")
    raise FtdoctorError(f"It names no schema such as {SCHEMA}.")


def _refuse_half(run: Run) -> None:
    """Raise where facts are missing on which every form relies: a document that was changed by hand."""
    try:
        headline(run.machine)
        describe(run.machine)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        raise FtdoctorError(f"Its machine lacks facts, or has other ones ({error!r}).") from error
