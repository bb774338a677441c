"""Every comparison becomes evidence, and none is fooled by what is not finite."""

from __future__ import annotations

import math

import pytest

from ftdoctor.checks import Check, SkipCell, attempt
from ftdoctor.diagnosis.owner import frame_of
from ftdoctor.results import Curve, LabelMask, Level


@pytest.fixture
def check():
    return Check()


def test_a_failed_check_does_not_end_the_probe(check):
    """It is recorded with what was measured and expected."""
    assert not check.equal("sum", 2, 3)
    assert check.equal("sum again", 2, 2)

    assert [(r.name, r.ok, r.measured, r.expected) for r in check.records] == [
        ("sum", False, "2", "3"),
        ("sum again", True, "2", "2"),
    ]


@pytest.mark.parametrize(
    ("measured", "expected", "atol", "rtol", "holds"),
    [
        (1.0, 1.1, 0.11, 0.0, True),
        (1.0, 1.1, 0.05, 0.0, False),
        (100.0, 101.0, 0.0, 0.01, True),
        ([1.0, 2.0], [1.0, 2.5], 0.4, 0.0, False),
        ([1.0, 2.0], [1.0], 9.0, 0.0, False),
        ([[1.0], [2.0]], [1.0, 2.0], 0.0, 0.0, True),
        (math.nan, math.nan, 9.0, 9.0, False),
        (math.inf, math.inf, 9.0, 9.0, False),
        ([1.0, math.nan], [1.0, 1.0], 9.0, 0.0, False),
        (1.0, math.inf, math.inf, 0.0, False),
    ],
)
def test_close_is_absolute_plus_relative_and_always_finite(check, measured, expected, atol, rtol, holds):
    """NaN is close to nothing, not even to itself."""
    assert check.close("x", measured, expected, atol=atol, rtol=rtol, why="a test") is holds


def test_close_says_where_lists_differ_most(check):
    """The evidence names the worst place."""
    check.close("x", [1.0, 2.0, 3.0], [1.0, 2.5, 3.1], atol=0.01, why="a test")

    assert check.records[0].measured == "largest difference 0.5 of 3 values (at 1: 2 against 2.5)"


@pytest.mark.parametrize(
    ("value", "holds"), [(1.0, True), (2.0, True), (2.1, False), (math.nan, False), (-math.inf, False)]
)
def test_at_most_is_finite_too(check, value, holds):
    """NaN is not small."""
    assert check.at_most("x", value, 2.0, why="a test") is holds


@pytest.mark.parametrize(
    ("value", "holds"), [(2.1, True), (2.0, True), (1.9, False), (math.nan, False), (math.inf, False)]
)
def test_at_least_is_finite_too(check, value, holds):
    """Infinity is not large."""
    assert check.at_least("x", value, 2.0, why="a test") is holds


def test_finite_counts_what_is_not(check):
    """In nested values too."""
    assert not check.finite("x", [[1.0, math.nan], [math.inf, 0.0]])
    assert check.records[0].measured == "2 of 4 values are not finite"


def test_raises_matches_the_class_and_returns_the_error(check):
    """Never the text."""

    def fail():
        raise KeyError("any text")

    assert isinstance(check.raises("x", LookupError, fail), KeyError)
    assert check.records[-1].ok
    check.raises("y", ValueError, fail)
    assert not check.records[-1].ok
    check.raises("z", ValueError, lambda: 1)
    assert not check.records[-1].ok


def test_a_note_is_never_judged(check):
    """Evidence only."""
    check.note("seen", {"a": 1})

    assert (check.records[0].ok, check.records[0].level) == (True, Level.NOTE)


def test_an_owner_becomes_the_line_of_its_definition():
    """So that a finding without an exception can name one."""
    import click

    check = Check(frame_of=frame_of)
    check.equal("x", 1, 2, owner=click.echo)

    assert check.records[0].owner.distribution == "click"
    assert check.records[0].owner.file == "click/utils.py"


def test_skip_ends_the_probe_with_its_reason(check):
    """The reason is the verdict."""
    with pytest.raises(SkipCell, match="no such kernel"):
        check.skip("no such kernel")


def test_a_long_value_is_cut_in_its_middle(check):
    """Evidence stays small."""
    check.equal("x", "a" * 1000, "b")

    assert len(check.records[0].measured) == 400


def test_other_ways_are_judged_by_the_same_comparison_and_decide_nothing(check):
    """Beside ours stands what the naive script and the installed library measure."""
    broken = attempt(lambda: 1 / 0)
    holds = check.close(
        "loss", 1.0, 1.0, atol=0.1, why="a test", beside={"naive": 2.0, "library": 1.05, "seed": broken}
    )

    assert holds
    assert [(b.way, b.ok, b.measured) for b in check.records[0].beside] == [
        ("naive", False, "2"),
        ("library", True, "1.05"),
        ("seed", False, "ZeroDivisionError: division by zero"),
    ]


@pytest.mark.parametrize(
    ("judge", "good", "bad"),
    [("equal", 3, 4), ("at_most", 2.0, 9.0), ("at_least", 9.0, 2.0)],
)
def test_each_comparison_judges_other_ways(check, judge, good, bad):
    """A right way passes and a wrong one does not, whatever ours does."""
    getattr(check, judge)("x", good, 3, beside={"naive": bad, "library": good}, why="a test")

    assert [b.ok for b in check.records[0].beside] == [False, True]


def test_attempt_returns_what_the_call_returns():
    """Only an exception takes its place."""
    assert attempt(lambda: 5) == 5


def test_numbers_are_kept_beside_their_text(check):
    """So that two runs can be compared: the number, and how far it may lie from what was expected."""
    check.close("scalar", 1.5, 1.0, atol=0.5, rtol=0.25, why="-")
    check.close("vector", [1.0, 2.0, 8.0], [1.0, 2.5, 8.1], atol=0.1, rtol=0.1, why="-")
    check.close("endless", math.inf, 1.0, atol=1.0, why="-")
    check.close("uneven", [1.0], [1.0, 2.0], atol=1.0, why="-")
    check.at_most("bound", 3, 4, why="-")
    check.equal("text", "a", "a")

    assert [(r.value, r.allowed) for r in check.records] == [
        (1.5, 0.75), (0.5, 0.35), (None, 1.0), (None, None), (3.0, None), (None, None),
    ]  # fmt: skip


def test_a_curve_is_evidence_and_never_judged():
    """What is not finite is a gap; a long one is thinned out, its numbers are rounded."""
    sent = []
    check = Check(sent.append)
    check.curve("loss", [1, 2, 3], [2.0, math.nan, 1 / 3], label="ours", unit="nats a token")
    check.curve("norm", range(1000), [0.5] * 1000)

    assert sent[0] == Curve("loss", (1, 2, 3), (2.0, None, 0.333333), "ours", "nats a token")
    assert sent[1].steps == (*range(0, 1000, 6), 999)
    assert check.records == []


def test_a_label_mask_is_evidence_with_one_mark_a_token():
    """Long rows and long tokens are cut."""
    sent = []
    check = Check(sent.append)
    check.label_mask("row", ["a", "b" * 500], [False, True], [True, True])
    check.label_mask("long", ["a"] * 500, [True] * 500)

    assert sent[0] == LabelMask("row", ("a", "b" * 38 + "..." + "b" * 39), (False, True), (True, True))
    assert (len(sent[1].tokens), len(sent[1].scored), sent[1].expected) == (400, 400, ())
    with pytest.raises(AssertionError):
        check.label_mask("uneven", ["a"], [True, False])
    assert check.records == []
