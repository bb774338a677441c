"""Results survive being written and read back; what is not of their form is refused."""

from __future__ import annotations

import json

import pytest

from ftdoctor.cells import Cell
from ftdoctor.errors import FtdoctorError
from ftdoctor.results import (
    CellResult,
    CheckRecord,
    Curve,
    Frame,
    LabelMask,
    Level,
    Outcome,
    Raised,
    decode,
    dumps,
    encode,
)

RESULT = CellResult(
    probe="tokenizer-reload",
    cell=Cell.of({"family": "llama"}),
    outcome=Outcome.FAILED,
    checks=(
        CheckRecord("ids", False, "[1]", "[2]", owner=Frame("transformers", "5.0", "a.py", 3, "f")),
        CheckRecord("disk", False, "1", "2", level=Level.WARN),
    ),
    raised=Raised("ValueError", "no", "Traceback ...", "KeyError: 1", (Frame("", "", "x.py", 1),)),
    warnings=("UserWarning: x",),
    seconds=1.5,
    curves=(Curve("loss", (1, 2), (2.5, None), "ours", "nats a token"),),
    label_masks=(LabelMask("row", ("a", "b"), (False, True), (True, True)),),
)


def test_a_result_comes_back_as_it_was():
    """Through JSON text."""
    assert decode(CellResult, json.loads(json.dumps(encode(RESULT)))) == RESULT


def test_a_field_of_a_later_version_is_ignored():
    """Older readers read newer reports as far as they can."""
    assert decode(CellResult, {**encode(RESULT), "later": 1}) == RESULT


@pytest.mark.parametrize("change", [{"outcome": "fine"}, {"probe": 3}, {"checks": [{"name": "x"}]}, {"cell": None}])
def test_what_is_not_a_result_is_refused(change):
    """Garbage never becomes a verdict."""
    with pytest.raises(FtdoctorError, match="not a CellResult"):
        decode(CellResult, {**encode(RESULT), **change})


def test_only_failures_and_crashes_are_red_and_only_skips_are_unexamined():
    """A closed set."""
    assert [o for o in Outcome if o.is_red] == [Outcome.FAILED, Outcome.CRASHED]
    assert [o for o in Outcome if not o.is_examined] == [Outcome.SKIPPED]
    assert [c.name for c in RESULT.failed_checks] == ["ids"]


def test_text_that_no_encoding_takes_is_still_json():
    """A file name that is not UTF-8 stands in an exception as half of a pair."""
    made = CellResult("a", Cell(), Outcome.PASSED, reason="\udcff é \ud83d")
    text = dumps(made)

    assert decode(CellResult, json.loads(text.encode("utf-8"))) == made
    assert "é" in text


def test_numbers_that_json_lacks_become_text():
    """In what was asked of a run, where anything may stand."""
    assert json.loads(dumps({"timeout": float("inf"), "bound": 1.5}, allow_nan=False)) == {
        "timeout": "inf",
        "bound": 1.5,
    }
