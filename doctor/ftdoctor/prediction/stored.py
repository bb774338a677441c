"""Rows as stores hold them: readable text in every column, and beside it the exact text where that cannot be stored."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.rows import PredictionRow, from_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = {field.name: str(field.type).partition(" ")[0] for field in fields(PredictionRow)}
"""`str`, `int` or `float` by the name of the column."""
OPTIONAL = frozenset(field.name for field in fields(PredictionRow) if "None" in str(field.type))
"""Columns that may be null."""
EXACT = "exact"
"""The column after the row's own: null, or a JSON object of column -> text in Python's `unicode_escape`."""
KEYS = {"id": 64, "job": 255}
"""Longest texts of columns in an index, in characters: databases index no longer ones."""

_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")
_OF_KIND = {"int": int, "float": float}


def to_record(row: PredictionRow) -> dict[str, Any]:
    """Return the row as columns that every database and every JSON parser takes.

    PostgreSQL's text holds no NUL, no database's holds surrogates, and JSON makes one character of two surrogates in
    succession. They become U+FFFD, and the column `exact` holds the whole text, escaped.
    """
    record, exact = row.as_dict(), {}
    for name, kind in KINDS.items():
        value = record[name]
        if value is None:
            continue
        if kind != "str":
            record[name] = _OF_KIND[kind](value)
            continue
        record[name] = _NOT_STORABLE.sub("\ufffd", value)[: KEYS.get(name)]
        if record[name] != value:
            exact[name] = value.encode("unicode_escape").decode("ascii")
    record[EXACT] = json.dumps(exact) if exact else None
    return record


def from_record(record: Mapping[str, Any]) -> PredictionRow:
    """Return the row that `to_record` was given.

    Raises:
        PredictionError: a column is missing, or `exact` is not what `to_record` writes.
    """
    data = dict(record)
    exact = data.pop(EXACT, None)
    try:
        for name, text in json.loads(exact or "{}").items():
            data[name] = text.encode("ascii").decode("unicode_escape")
    except (ValueError, AttributeError, TypeError) as error:
        raise PredictionError("the column `exact` of a prediction holds something else than ftdoctor's.") from error
    return from_dict(data)


def to_json(row: PredictionRow) -> bytes:
    """Return the record as ASCII JSON on one line without a line end; `exact` only where it holds something."""
    record = to_record(row)
    if record[EXACT] is None:
        del record[EXACT]
    return json.dumps(record).encode("ascii")


def from_json(line: bytes) -> PredictionRow:
    """Return the row that `to_json` was given.

    Raises:
        ValueError: it is no JSON object, or not one of ftdoctor's (a PredictionError).
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise PredictionError("a line is no JSON object; it is not a prediction.")
    return from_record(record)
