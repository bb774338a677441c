"""Records: readable everywhere, and exact."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.rows import NAMES, PredictionRow
from ftdoctor.prediction.stored import from_json, from_record, to_json, to_record

anything = st.text(st.characters())
"""Surrogates and NUL included."""


def row_of(text, other=None):
    return PredictionRow(
        "1" * 32, "job", "user", None, 1, 2, text, other, text, None, 0.5, 3, "float32", "2026-01-01T00:00:00.000000+00:00"
    )  # fmt: skip


@given(anything, st.none() | anything)
def test_any_text_comes_back_the_same(text, other):
    """From a record and from a line, whatever characters it has."""
    row = row_of(text, other)

    assert from_record(to_record(row)) == row
    assert from_json(to_json(row)) == row


@given(anything)
def test_columns_hold_what_every_database_takes(text):
    """No NUL, no surrogate, and the record is valid UTF-8."""
    record = to_record(row_of(text))

    for value in record.values():
        if isinstance(value, str):
            assert "\x00" not in value
            value.encode("utf-8")


def test_exact_is_empty_where_the_columns_hold_the_text():
    """Ordinary rows pay nothing, and their lines have the row's own fields only."""
    assert to_record(row_of("plain \\ud800 \U0001f600"))["exact"] is None
    assert tuple(json.loads(to_json(row_of("plain")))) == NAMES


def test_a_name_too_long_for_an_index_comes_back():
    """Databases index 255 characters."""
    row = PredictionRow(**{**row_of("p").as_dict(), "job": "j" * 1000})

    assert len(to_record(row)["job"]) == 255
    assert from_record(to_record(row)) == row


def test_numbers_of_numpy_become_numbers():
    """SQLite would keep them as bytes, and JSON not at all."""

    class Number(int):
        def __index__(self):
            return 7

    row = PredictionRow(**{**row_of("p").as_dict(), "step": Number(7)})

    assert type(to_record(row)["step"]) is int


@pytest.mark.parametrize("exact", ["[]", "{", '{"prompt": 1}', '"text"'])
def test_a_foreign_exact_is_refused(exact):
    """In one sentence."""
    with pytest.raises(PredictionError, match="exact"):
        from_record({**to_record(row_of("p")), "exact": exact})


@pytest.mark.parametrize("line", [b"[]", b"1", b"{}", b"{", b"\xff", b'{"id": "1"}'])
def test_a_line_that_is_no_row_is_an_error(line):
    """A ValueError, which the reader counts."""
    with pytest.raises(ValueError):  # noqa: PT011
        from_json(line)
