"""From red cells to findings."""

from __future__ import annotations

import datetime

from ftdoctor import registry
from ftdoctor.cells import Cell
from ftdoctor.config import Accepted
from ftdoctor.diagnosis.findings import findings
from ftdoctor.results import CellResult, CheckRecord, Culprit, Frame, Outcome, Raised

PROBE = "tokenizer-reload"
TODAY = datetime.date(2026, 6, 1)
FRAME = Frame("transformers", "4.57.2", "transformers/tokenization_utils_base.py", 2419)


def result(family, vocabulary, outcome=Outcome.PASSED, **more):
    return CellResult(PROBE, Cell.of({"family": family, "vocabulary": vocabulary}), outcome, **more)


def raised(message="'dict' object", frame=FRAME):
    return Raised("AttributeError", message, "Traceback", frames=(frame,))


def found(results, accepted=()):
    return findings(results, registry.probes(), accepted, TODAY)


GRID = [(f, v) for f in ("llama", "phi3") for v in ("512", "128k")]


def test_cells_with_one_cause_are_one_finding():
    """With culprit, dependence, cure and the command that shows it again."""
    results = [
        result(f, v, Outcome.FAILED, raised=raised(f"text {f}")) if v == "128k" else result(f, v) for f, v in GRID
    ]
    (finding,) = found(results)

    assert finding.cells == (results[1].cell, results[3].cell)
    assert finding.culprit == Culprit("transformers", "4.57.2", FRAME.file, 2419)
    assert finding.depends_on == {"vocabulary": "128k"}
    assert finding.cure.startswith("install another release")
    assert finding.again == "ftdoctor check --profile quick --probe tokenizer-reload --cell vocabulary=128k"


def test_two_causes_are_two_findings():
    """The raising line tells them apart, or the checks that failed."""
    other = Frame("transformers", "4.57.2", "transformers/other.py", 1)
    results = [
        result("llama", "512", Outcome.FAILED, raised=raised()),
        result("llama", "128k", Outcome.FAILED, raised=raised(frame=other)),
        result("phi3", "512", Outcome.FAILED, checks=(CheckRecord("ids", False, "1", "2"),)),
        result("phi3", "128k", Outcome.CRASHED, reason="was killed by SIGSEGV"),
    ]

    assert [f.summary for f in found(results)] == [
        "AttributeError: 'dict' object",
        "AttributeError: 'dict' object",
        "ids: measured 1, expected 2",
        "was killed by SIGSEGV",
    ]


def test_probes_that_end_at_the_same_line_are_one_finding_of_the_first():
    """A library that cannot be imported is one fault, whatever it breaks."""
    results = [
        result("llama", "512", Outcome.FAILED, raised=raised()),
        CellResult("model-load", Cell(), Outcome.FAILED, raised=raised()),
        CellResult("model-load", Cell(), Outcome.FAILED, checks=(CheckRecord("ids", False, "1", "2", owner=FRAME),)),
    ]
    first, second = found(results)

    assert (first.probe, first.also, first.cells) == (PROBE, ("model-load",), (results[0].cell,))
    assert (second.probe, second.also) == ("model-load", ())


def test_a_failed_check_names_the_line_that_broke_its_promise():
    """Where the probe knows the owner; otherwise the culprit is unknown rather than guessed."""
    known = result("llama", "512", Outcome.FAILED, checks=(CheckRecord("a", False, "1", owner=FRAME),))
    unknown = result("phi3", "512", Outcome.FAILED, checks=(CheckRecord("b", False, "1"),))

    assert [f.culprit is not None for f in found([known, unknown])] == [True, False]


def test_what_is_accepted_is_a_finding_of_its_own_and_comes_last():
    """The same cause in another cell is not accepted with it."""
    results = [result(f, v, Outcome.FAILED, raised=raised()) for f, v in GRID]
    accepted = [Accepted(PROBE, "known", {"vocabulary": ("512",)}, ("raises AttributeError",))]
    first, last = found(results, accepted)

    assert (first.accepted, [c["vocabulary"] for c in first.cells]) == ("", ["128k", "128k"])
    assert (last.accepted, [c["vocabulary"] for c in last.cells]) == ("known", ["512", "512"])


def test_passed_warned_and_skipped_cells_are_no_findings():
    """Only red is."""
    outcomes = (Outcome.PASSED, Outcome.WARNED, Outcome.SKIPPED)

    assert found([result("llama", "512", o) for o in outcomes]) == ()
