"""Two runs compared: each rule of the judgement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftdoctor.cells import Cell
from ftdoctor.results import (
    CellResult,
    CheckRecord,
    Culprit,
    Finding,
    Frame,
    Level,
    Outcome,
    Raised,
    Skipped,
)  # fmt: skip
from ftdoctor_reports import json
from ftdoctor_reports.difference.cells import Lost
from ftdoctor_reports.difference.compare import compare
from ftdoctor_reports.difference.sections import sections

OLD = Path(__file__).parent / "data" / "report-1.json"
CPU, LORA, CUDA = (Cell.of(values) for values in ({"device": "cpu", "adapter": "none"}, {"device": "cpu", "adapter": "lora"}, {"device": "cuda", "adapter": "lora"}))  # fmt: skip
GPU = {
    "name": "NVIDIA H200",
    "memory": 141 * 1024**3,
    "memory_free": 1,
    "capability": "9.0",
    "driver": "575.1",
    "cuda_driver": "12.9",
}
BROKEN = CheckRecord(
    "loss", False, "5.8", "6.2", "atol=1e-05 rtol=0", owner=Frame("trl", "1.0", "trl/sft.py", 7, "loss")
)


def green(cell=CPU, *checks, seconds=0.1, probe="p"):
    """A cell in which these checks hold."""
    return CellResult(probe, cell, Outcome.PASSED, checks=checks, seconds=seconds)


def red(cell=CPU, *checks, probe="p"):
    """A cell in which the first check does not hold."""
    return CellResult(probe, cell, Outcome.FAILED, checks=checks or (BROKEN,), seconds=0.1)


def raising(cell=CPU, kind="ValueError", line=7, function="load", file="peft/io.py", probe="p"):
    """A cell that was ended by an exception."""
    frame = Frame("peft", f"0.{line}", file, line, function)
    return CellResult(probe, cell, Outcome.FAILED, raised=Raised(kind, "no", "Traceback", frames=(frame,)), seconds=0.1)


def skipped(cell=CPU, reason="no GPU", seconds=0.0, probe="p"):
    """A cell that the plan (or, after some seconds, the probe) did not examine."""
    return CellResult(probe, cell, Outcome.SKIPPED, reason=reason, seconds=seconds)


def finding(*cells, culprit=None, **more):
    """A finding of the probe `p` in these cells."""
    return Finding("p", "loss: measured 5.8, expected 6.2", cells or (CPU,), culprit, **more)


def number(value, expected=1.0, allowed=0.1, ok=True, name="loss"):
    """A check of a number against another one."""
    return CheckRecord(
        name, ok, f"{value:.6g}", f"{expected:.6g}", f"atol={allowed} rtol=0", value=value, allowed=allowed
    )


@pytest.fixture
def run(runs):
    """Make a run of results and findings."""

    def make(*results, found=(), **changes):
        outcome = "findings" if any(not f.accepted for f in found) else "healthy"
        return runs.run(results, **{"findings": tuple(found), "outcome": outcome, **changes})

    return make


@pytest.fixture
def diff(run):
    """Compare two lists of results."""
    return lambda a, b, **changes: compare(run(*a), run(*b), **changes)


@pytest.mark.parametrize("kind", ["healthy", "findings", "interrupted", "hostile", "many"])
def test_a_run_is_like_itself(make_run, kind):
    """Whatever it is: nothing differs."""
    found = compare(make_run(kind), make_run(kind))

    assert (found.verdict, found.reasons) == ("same", ())
    assert (found.facts, found.cells, found.drifts, found.slower, found.only_a, found.only_b, found.notes) == (
        (),
        (),
        (),
        (),
        {},
        {},
        (),
    )
    assert {change.kind for change in found.findings} <= {"unchanged"}


def test_a_new_finding_makes_b_worse(run):
    """And the cell that became red is told with what it measured."""
    found = compare(run(green()), run(red(), found=[finding()]))

    assert (found.verdict, found.reasons) == ("worse", ("1 new finding", "1 cell became red"))
    assert [c.kind for c in found.findings] == ["new"]
    assert [(c.kind, c.why) for c in found.cells] == [("became red", "loss: measured 5.8, expected 6.2")]


def test_a_finding_that_is_gone_makes_b_better(run):
    """Where its cells were examined."""
    found = compare(run(red(), found=[finding()]), run(green()))

    assert (found.verdict, found.reasons) == ("better", ("1 finding gone", "1 cell became green"))
    assert [c.kind for c in found.findings] == ["gone"]


def test_a_finding_is_not_gone_where_nobody_looked(run):
    """Its cell was skipped, which is a loss."""
    found = compare(run(red(), found=[finding()]), run(skipped()))

    assert [c.kind for c in found.findings] == ["not looked for"]
    assert (found.verdict, found.reasons) == ("worse", ("1 cell could not be examined any more",))


def test_a_finding_that_is_accepted_makes_nobody_worse(run):
    """Neither it nor its red cell; where the acceptance has ended, it does."""
    accepted = finding(accepted="known")
    assert compare(run(green()), run(red(), found=[accepted])).verdict == "same"

    ended = compare(run(red(), found=[accepted]), run(red(), found=[finding()]))
    assert (ended.verdict, ended.reasons) == ("worse", ("1 finding accepted no longer",))

    begun = compare(run(red(), found=[finding()]), run(red(), found=[accepted]))
    assert (begun.verdict, begun.findings[0].changes) == ("same", ("accepted now",))


def test_what_an_accepted_finding_ends_besides_is_accepted_too(run):
    """A finding names the cells of its own probe only; unless one that is not accepted ends that probe as well."""
    accepted = finding(accepted="known", also=("q",))
    a, b = run(green(), green(probe="q")), (red(), red(probe="q"))

    assert compare(a, run(*b, found=[accepted])).verdict == "same"
    assert compare(a, run(*b, found=[accepted, replace(finding(), probe="q")])).verdict == "worse"


def test_a_red_cell_that_was_not_examined_before_is_no_gain(run):
    """Not even where its finding is accepted."""
    assert compare(run(skipped()), run(red(), found=[finding(accepted="known")])).verdict == "not comparable"
    assert compare(run(skipped()), run(green())).verdict == "better"
    assert compare(run(skipped()), run(red(), found=[finding()])).verdict == "worse"


def test_an_interrupted_run_with_nothing_in_common_is_not_worse(run):
    """There is nothing to hold it against."""
    assert compare(run(green()), run(green(LORA), interrupted=True)).verdict == "not comparable"


def test_a_known_finding_in_more_cells_makes_b_worse(run):
    """Through the cell that became red; the finding is the same one."""
    found = compare(run(red(), green(LORA), found=[finding()]), run(red(), red(LORA), found=[finding(CPU, LORA)]))

    assert (found.verdict, found.reasons) == ("worse", ("1 cell became red",))
    assert [(c.kind, c.changes) for c in found.findings] == [("changed", ("in 1 more cell",))]


def test_lines_and_versions_of_a_culprit_may_move(run):
    """An upgrade moves both; the finding stays the same."""
    a = run(raising(line=7), found=[finding(culprit=Culprit("peft", "0.7", "peft/io.py", 7))])
    b = run(raising(line=99), found=[finding(culprit=Culprit("peft", "0.99", "peft/io.py", 99))])

    assert [(c.kind, c.changes) for c in compare(a, b).findings] == [("unchanged", ())]


@pytest.mark.parametrize(
    ("other", "kinds"),
    [
        ({"file": "peft/moved.py"}, ["changed"]),
        ({"kind": "KeyError"}, ["changed"]),
        ({"file": "peft/moved.py", "kind": "KeyError"}, ["new", "gone"]),
        ({"function": "other"}, ["unchanged"]),
        ({"function": "other", "kind": "KeyError"}, ["new", "gone"]),
    ],
)
def test_two_of_place_failure_and_cells_must_agree(run, other, kinds):
    """Else the cell has another fault than before."""
    a = run(raising(), found=[finding(culprit=Culprit("peft", "0.7", "peft/io.py", 7))])
    b = run(raising(**other), found=[finding(culprit=Culprit("peft", "0.7", other.get("file", "peft/io.py"), 7))])

    assert [c.kind for c in compare(a, b).findings] == kinds


def test_a_finding_that_was_split_is_not_new(run):
    """Two findings of one cause, and one finding of two, are told as changed."""
    culprit = Culprit("trl", "1.0", "trl/sft.py", 7)
    whole = run(red(), red(LORA), found=[finding(CPU, LORA, culprit=culprit)])
    parts = run(red(), red(LORA), found=[finding(CPU, culprit=culprit), finding(LORA, culprit=culprit)])
    split, merged = compare(whole, parts), compare(parts, whole)

    assert (split.verdict, [c.kind for c in split.findings]) == ("same", ["changed", "changed"])
    assert (merged.verdict, [c.kind for c in merged.findings]) == ("same", ["changed", "changed"])
    assert "two findings of A are one" in [text for c in merged.findings for text in c.changes]


def test_a_finding_of_a_probe_that_ended_with_another_is_the_same(run):
    """Where the first of two probes is left out, the second has the finding."""
    culprit = Culprit("peft", "0.7", "peft/io.py", 7)
    a = run(raising(), raising(probe="q"), found=[finding(culprit=culprit, also=("q",))])
    b = run(raising(probe="q"), found=[replace(finding(culprit=culprit), probe="q")])

    assert [c.kind for c in compare(a, b).findings] == ["unchanged"]


def test_what_raises_the_same_at_the_same_place_is_the_same_for_all_probes(run):
    """Also where they share no cell; a check of the same name does not do."""
    place = Culprit("peft", "0.7", "peft/io.py", 7)
    owned = replace(BROKEN, owner=Frame("peft", "0.7", "peft/io.py", 7, "load"))

    def kinds(make):
        a = run(green(), make(probe="p"), found=[finding(LORA, culprit=place)])
        b = run(green(), make(probe="q"), found=[replace(finding(LORA, culprit=place), probe="q")])
        return [c.kind for c in compare(a, b).findings]

    assert kinds(lambda probe: raising(LORA, probe=probe)) == ["unchanged"]
    assert "unchanged" not in kinds(lambda probe: red(LORA, owned, probe=probe))


def test_what_only_one_planned_is_told_apart(run):
    """Another profile makes nothing better or worse, whatever is found in its cells."""
    found = compare(run(green()), run(green(), red(LORA), found=[finding(LORA)]))

    assert (found.verdict, found.only_a, found.only_b, found.common) == ("same", {}, {"p": 1}, 1)
    assert found.told == "B is like A in the 1 cell that both planned"
    assert [c.kind for c in found.findings] == ["only B looked"]


def test_runs_without_a_cell_in_common_cannot_be_compared(run):
    """And nobody is worse."""
    found = compare(run(green()), run(red(LORA), found=[finding(LORA)]))

    assert (found.verdict, found.reasons) == ("not comparable", ("the two runs planned no cell in common",))
    assert compare(run(), run()).verdict == "not comparable"


def test_runs_that_examined_nothing_cannot_be_compared(run):
    """What was examined by neither is not the same, but unknown."""
    found = compare(run(skipped()), run(skipped()))

    assert (found.verdict, found.reasons) == ("not comparable", ("neither of them examined a cell that both planned",))


def test_a_gpu_that_is_gone_makes_b_worse(run):
    """The plan has one cell instead of all that would have run on it; back again it is better."""
    with_gpu = run(green(CPU), green(CUDA), machine={**run().machine, "gpus": [GPU]})
    without = run(green(CPU), skipped(Cell.of({"device": "cuda"}), "this machine has no CUDA device"))
    lost, gained = compare(with_gpu, without), compare(without, with_gpu)

    assert (lost.verdict, lost.reasons) == ("worse", ("1 cell could not be examined any more",))
    assert [(c.kind, c.cell, c.why, c.lost) for c in lost.cells] == [
        ("newly skipped", CUDA, "this machine has no CUDA device", Lost.MISSING)
    ]
    assert (gained.verdict, gained.reasons) == ("better", ("1 cell more examined",))
    assert (lost.only_a, lost.only_b, gained.only_a, gained.only_b) == ({}, {}, {}, {})
    assert ("gpu 0", "NVIDIA H200, 141 GiB, capability 9.0", "") in [(f.name, f.a, f.b) for f in lost.facts]


def test_what_a_probe_finds_untestable_is_no_loss(run):
    """As where a library does not promise it any more."""
    gone = skipped(reason="this release has no such option", seconds=0.3)
    found = compare(run(green(), green(LORA)), run(gone, green(LORA)))

    assert (found.verdict, found.cells[0].kind, found.cells[0].lost) == ("same", "newly skipped", Lost.BY_PROBE)


def test_an_interrupted_run_is_worse(run):
    """It says less; where both were interrupted, only if it says less than A."""
    a = run(green(), green(LORA))
    b = run(green(), interrupted=True, skipped=(Skipped("p", LORA, "the run was interrupted before this cell"),))

    assert compare(a, b).reasons == ("B was interrupted before 1 cell",)
    assert compare(a, b).verdict == "worse"
    assert compare(b, a).verdict == "better"
    assert compare(b, b).verdict == "same"


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        (Outcome.WARNED, Outcome.CRASHED, "became red"),
        (Outcome.FAILED, Outcome.CRASHED, "red otherwise"),
        (Outcome.CRASHED, Outcome.WARNED, "became green"),
        (Outcome.PASSED, Outcome.WARNED, "now warns"),
        (Outcome.WARNED, Outcome.PASSED, "warns no longer"),
    ],
)
def test_each_change_of_an_outcome_has_its_group(diff, a, b, kind):
    """Warnings alone make nothing better or worse."""
    found = diff([replace(green(), outcome=a)], [replace(green(), outcome=b)])

    assert [c.kind for c in found.cells] == [kind]
    assert (found.verdict == "same") == (kind in ("red otherwise", "now warns", "warns no longer"))


@pytest.mark.parametrize(
    ("a", "b", "means"),
    [
        (number(1.0), number(1.09), None),
        (number(1.0), number(1.11, expected=1.09), "holds in both: what was expected moved as well"),
        (number(0.92), number(1.08, expected=1.01), "holds in both"),
        (number(0.92), number(1.08), "holds in both"),
        (number(1.0, allowed=0.2), number(1.15, allowed=0.01, expected=1.15), None),
        (number(1.0), number(1.3, ok=False), "does not hold any more"),
        (number(1.3, ok=False), number(1.0), "holds again"),
        (number(1.3, ok=False), number(1.6, ok=False), "holds in neither"),
        (CheckRecord("x", True, "0.1", "at most 1", value=0.1), CheckRecord("x", True, "0.9", "at most 1", value=0.9), None),
        (CheckRecord("x", True, "0.1", "at most 1", value=0.1), CheckRecord("x", False, "1.1", "at most 1", value=1.1), "does not hold any more"),
        (CheckRecord("x", False, "2", "at most 1", value=2.0), CheckRecord("x", False, "9", "at most 1", value=9.0), None),
        (CheckRecord("x", True, "[1]", "[1]"), CheckRecord("x", True, "[2]", "[2]"), "holds in both: what was expected moved as well"),
        (CheckRecord("x", False, "[1]", "[2]"), CheckRecord("x", False, "[3]", "[2]"), "holds in neither"),
        (CheckRecord("x", True, "70 GiB free", "enough"), CheckRecord("x", True, "60 GiB free", "enough"), None),
        (CheckRecord("x", True, "1", level=Level.NOTE), CheckRecord("x", True, "2", level=Level.NOTE), None),
        (number(1.0), number(1.5, name="another"), None),
    ],
)  # fmt: skip
def test_drift_is_what_lies_beyond_the_tolerance(diff, a, b, means):
    """Of numbers the larger tolerance, of exact values any change, of bounds only across them."""
    found = diff([green(CPU, a)], [green(CPU, b)])
    rows = [row for section in sections(found) if section.id == "drift" for row in section.rows]

    assert [row.texts[-1] for row in rows] == ([means] if means else [])


def test_drift_where_both_hold_is_not_worse(diff):
    """It is told, and nothing else."""
    found = diff([green(CPU, number(0.92))], [green(CPU, number(1.08))])

    assert (found.verdict, found.reasons) == ("same", ())
    assert [(d.apart, d.allowed, d.worse) for d in found.drifts] == [(pytest.approx(0.16), 0.1, False)]


def test_numbers_of_older_documents_are_read_from_what_they_show(diff):
    """With half a unit of the sixth digit added to the tolerance, which is all that the text holds."""

    def shown(value, tolerance="atol=1e-09 rtol=0"):
        return green(CPU, CheckRecord("x", True, value, "6.22082", tolerance))

    assert diff([shown("6.22082")], [shown("6.22083")]).drifts == ()
    assert len(diff([shown("6.22082")], [shown("6.22085")]).drifts) == 1
    assert diff([shown("6.22082", "atol=0 rtol=0.1")], [shown("6.5", "atol=0 rtol=0.1")]).drifts == ()
    assert len(diff([shown("6.22082", "atol=0 rtol=0.1")], [shown("7.5", "atol=0 rtol=0.1")]).drifts) == 1


def test_the_largest_difference_of_several_values_drifts_too(diff):
    """It is a distance from what was expected, and has that tolerance."""

    def several(value):
        text = f"largest difference {value:.3g} of 12 values"
        return green(CPU, CheckRecord("x", True, text, "the same values", "atol=1e-05 rtol=0"))

    assert diff([several(1e-7)], [several(9e-6)]).drifts == ()
    assert len(diff([several(1e-7)], [several(2e-5)]).drifts) == 1


def test_drift_of_a_check_is_shown_once_with_its_furthest_cell(diff):
    """And the number of the other ones."""
    found = diff(
        [green(c, number(0.0)) for c in (CPU, LORA, CUDA)],
        [green(c, number(x)) for c, x in ((CPU, 1.0), (LORA, 5.0), (CUDA, 2.0))],
    )
    (section,) = [s for s in sections(found) if s.id == "drift"]

    assert section.title == "Drifted beyond the tolerance: 3 values"
    assert [row.texts[2] for row in section.rows] == [f"{LORA} and 2 more cells"]


def test_values_of_different_models_are_not_compared(run):
    """They measured different things."""
    found = compare(run(green(CPU, number(1.0)), model="one"), run(green(CPU, number(9.0)), model="other"))

    assert found.drifts == ()
    assert found.notes == ("The two runs examined different models, so their values were not compared.",)
    assert ("model", "one", "other") in [(f.name, f.a, f.b) for f in found.facts]


def test_what_differs_is_told_by_kind(run):
    """Added and removed too; what is free at a moment is not told, nor what one of the documents does not record."""
    a = run(
        green(),
        stack={"torch": "2.12", "trl": "1.0"},
        environment={"A": "1"},
        configuration={"cells": {"device": ["cpu"]}},
    )
    b = run(green(), stack={"torch": "2.13", "peft": "0.2"}, environment={"A": "2"}, configuration={"cells": {"device": ["cpu", "cuda"]}},
            installed={}, machine={**a.machine, "disk_free": 1, "cpu_flags": ["avx2"], "python": "3.12.1"})  # fmt: skip

    assert [(f.kind, f.name, f.a, f.b) for f in compare(a, b).facts if f.kind != "installed"] == [
        ("stack", "python", "3.11.9", "3.12.1"),
        ("stack", "torch", "2.12", "2.13"),
        ("stack", "trl", "1.0", ""),
        ("stack", "peft", "", "0.2"),
        ("machine", "cpu flags", "avx2 avx512f", "avx2"),
        ("environment", "A", "1", "2"),
        ("configuration", "cells.device", "cpu", "cpu, cuda"),
    ]
    assert {f.name for f in compare(a, b).facts if f.kind == "installed"} == set(a.installed)

    older = compare(replace(a, promises={}, installed={}, environment={}, configuration={}), b)
    assert {f.kind for f in older.facts} == {"stack", "machine"}
    assert older.notes[0].startswith("A is of an older ftdoctor")


def test_a_cell_is_slower_by_factor_and_by_seconds(diff):
    """A note, which decides nothing."""
    cells = [Cell.of({"n": str(n)}) for n in range(3)]
    found = diff([green(c, seconds=s) for c, s in zip(cells, (0.1, 10.0, 1.0), strict=True)],
                 [green(c, seconds=s) for c, s in zip(cells, (1.0, 19.0, 2.5), strict=True)])  # fmt: skip

    assert [(s.cell, s.a, s.b) for s in found.slower] == [(cells[2], 1.0, 2.5)]
    assert found.verdict == "same"


def test_checks_of_other_probes_are_counted(diff):
    """A release of ftdoctor may measure something else."""
    note = CheckRecord("logged", True, "1", level=Level.NOTE)
    found = diff([green(CPU, number(1.0), note)], [green(CPU, number(1.0, name="another"))])

    assert found.notes == ("2 checks of cells that both examined stood in one of them only.",)


def test_a_document_of_the_older_schema_is_compared():
    """Against itself it is the same; values are read from their texts, and it says what it does not hold."""
    old = json.load(OLD)
    found = compare(old, old)

    assert (found.verdict, found.drifts, found.facts) == ("same", (), ())
    assert [note.partition(":")[0] for note in found.notes] == [
        "A is of an older ftdoctor",
        "B is of an older ftdoctor",
    ]
    changed = replace(
        old,
        results=tuple(
            replace(r, checks=tuple(replace(c, measured="99") if "atol" in c.tolerance else c for c in r.checks))
            for r in old.results
        ),
    )
    assert compare(old, changed).drifts
