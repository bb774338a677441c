"""What holds for every probe: documented, typed by its file, and awake: each fault is caught, each check guarded."""

from __future__ import annotations

import ast
import inspect
import sys

import pytest

import ftdoctor_matrix as matrix
from ftdoctor import registry
from ftdoctor.probe import RAISES
from ftdoctor.request import Request
from ftdoctor.selftest import CONTROL, trials

PACK = {p.name: p for p in registry.read_pack("ftdoctor_probes")}
FAULTS = [(p.name, f.name) for p in PACK.values() for f in p.faults]


@pytest.fixture(scope="session")
def selftest():
    """Every fault and every control, each in a process of its own; run once."""
    return {(t.probe, t.fault, t.cell): t for t in trials(Request(probes=PACK))}


@pytest.fixture
def of(selftest):
    """The trials of a probe."""
    return lambda name: [t for t in selftest.values() if t.probe == name]


@pytest.mark.parametrize("name", PACK)
def test_it_is_documented(name):
    """The promise in one sentence, why it matters, and the cure."""
    probe = PACK[name]

    assert probe.promise.endswith(".")
    assert len(probe.promise) <= 130
    assert probe.section("Why")
    assert probe.section("Cure")


@pytest.mark.parametrize("name", PACK)
def test_its_axes_and_cells_exist(name):
    """In the matrix."""
    probe, axes = PACK[name], matrix.axes()

    assert set(probe.axes) <= set(axes)
    assert all(set(values) <= set(axes[axis].values) for axis, values in probe.only.items())
    for fault in probe.faults:
        assert set(fault.cell) <= set(probe.axes), fault.name
        assert all(value in axes[axis].values for axis, value in fault.cell.items()), fault.name


@pytest.mark.parametrize("name", PACK)
def test_it_has_at_least_two_faults(name):
    """A probe without a fault that it provably catches does not ship."""
    assert len(PACK[name].faults) >= 2


@pytest.mark.stack
@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_it_catches_its_fault(of, name, fault):
    """By the checks that the fault names: removing one of them makes this fail."""
    (trial,) = [t for t in of(name) if t.fault == fault]

    assert trial.verdict in ("caught", "skipped"), trial.detail


@pytest.mark.stack
@pytest.mark.parametrize("name", PACK)
def test_it_is_not_red_without_a_fault(of, name):
    """In every cell in which one of its faults is tried."""
    assert [(t.cell, t.detail) for t in of(name) if t.fault == CONTROL and not t.ok] == []


@pytest.mark.stack
@pytest.mark.parametrize("name", PACK)
def test_each_of_its_checks_is_guarded_by_a_fault(of, name):
    """A check that no fault trips could be removed unnoticed."""
    recorded = {check for t in of(name) if t.fault == CONTROL for check in t.checks}
    guarded = {check for f in PACK[name].faults for check in f.catches if not check.startswith(RAISES)}

    assert recorded - guarded == set()


JUDGED = ("that", "equal", "close", "at_most", "at_least", "finite", "raises")


@pytest.mark.parametrize("name", PACK)
def test_each_check_in_its_source_is_guarded_by_a_fault(name):
    """Also those that only some cells record."""
    tree = ast.parse(inspect.getsource(sys.modules[PACK[name].module]))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    written = {
        call.args[0].value
        for call in calls
        if call.func.attr in JUDGED
        and ast.unparse(call.func.value) == "check"
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }
    guarded = {check for fault in PACK[name].faults for check in fault.catches}

    assert written - guarded == set()
