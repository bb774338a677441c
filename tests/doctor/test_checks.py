"""Every comparison becomes evidence, and none is fooled by what is not finite."""

from __future__ import annotations

import math

import pytest

from ftdoctor.checks import Check, SkipCell, attempt
from ftdoctor.diagnosis.owner import frame_of
from ftdoctor.results import Level


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
