"""The self-test can fail: a fault that is not caught, and a probe that is red without one."""

from __future__ import annotations

from ftdoctor.cells import Cell
from ftdoctor.probe import Fault
from ftdoctor.results import CellResult, CheckRecord, Outcome, Raised
from ftdoctor.selftest import judge

FAULT = Fault("x", lambda patch: None, ("ids", "raises KeyError"))


def result(outcome, *bad, raised=""):
    checks = tuple(CheckRecord(name, False, "1", "2") for name in bad)
    error = Raised(raised, "", "") if raised else None
    return CellResult("p", Cell(), outcome, checks=checks, raised=error)


def test_a_fault_is_caught_when_every_check_that_must_catch_it_does():
    """Red for another reason is not caught."""
    assert judge(FAULT, result(Outcome.FAILED, "ids", raised="KeyError"))[0] == "caught"
    assert judge(FAULT, result(Outcome.FAILED, "ids", raised="ValueError")) == (
        "missed",
        "not caught by raises KeyError",
    )
    assert judge(FAULT, result(Outcome.PASSED)) == ("missed", "not caught by ids, raises KeyError")


def test_a_probe_that_is_red_without_a_fault_proves_nothing():
    """The control."""
    assert judge(None, result(Outcome.FAILED, "ids"))[0] == "red without a fault"
    assert judge(None, result(Outcome.WARNED, "ids"))[0] == "clean"
    assert judge(None, result(Outcome.PASSED))[0] == "clean"
    assert judge(FAULT, result(Outcome.SKIPPED))[0] == "skipped"
