"""Every form says the same, and nothing that came from outside becomes part of the page."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ftdoctor import machine
from ftdoctor.cells import Cell
from ftdoctor.errors import FtdoctorError
from ftdoctor.results import (
    SCHEMA,
    Beside,
    CellResult,
    CheckRecord,
    Culprit,
    Finding,
    Isolation,
    Level,
    Outcome,
    Raised,
    Run,
    Skipped,
)  # fmt: skip
from ftdoctor_reports import html, json, markdown, tally, terminal

EVIL = "<script>alert(1)</script>\x1b[31m\x00 & \"quoted\" 'text'"
CELLS = [Cell.of({"family": "llama", "vocabulary": v}) for v in ("512", "128k")]


def run(**changes) -> Run:
    results = (
        CellResult("tokenizer-reload", CELLS[0], Outcome.PASSED, checks=(CheckRecord("ids", True, "1", "1"),), seconds=0.1),
        CellResult(
            "tokenizer-reload", CELLS[1], Outcome.FAILED, raised=Raised("AttributeError", EVIL, f"Traceback {EVIL}"),
            output=EVIL, checks=(CheckRecord("ids", False, EVIL, "1"),), seconds=0.2,
        ),
        CellResult("resources", Cell(), Outcome.WARNED, checks=(CheckRecord("disk", False, "1 GiB", "5 GiB", level=Level.WARN),)),
        CellResult("training-run", Cell.of({"device": "cuda"}), Outcome.SKIPPED, reason="no GPU"),
        CellResult("training-run", Cell.of({"device": "cpu"}), Outcome.CRASHED, reason="was killed by SIGSEGV", output=EVIL),
    )  # fmt: skip
    findings = (
        Finding("tokenizer-reload", EVIL, (CELLS[1],), Culprit("transformers", "4.57.2", "a.py", 7), {"vocabulary": "128k"},
                "vocabulary=128k (passes at 512)", "install another", "ftdoctor check"),
        Finding("training-run", "was killed by SIGSEGV", (Cell.of({"device": "cpu"}),), accepted="known"),
    )  # fmt: skip
    values = dict(
        schema=SCHEMA, ftdoctor="0.1.0", outcome="findings", interrupted=False, started="2026-01-01T00:00:00+00:00",
        seconds=31.0, profile="default", model="", machine=machine.examine(), stack={"torch": "2.13.0"},
        isolation=Isolation("fork server", "because"), planned=5, results=results, findings=findings,
        skipped=(Skipped("training-run", Cell.of({"device": "cuda"}), "no GPU"),),
        areas={"tokenizer-reload": "loading", "resources": "environment", "training-run": "training"}, notes=("a note",),
    )  # fmt: skip
    return Run(**{**values, **changes})


def shown(made: Run, width=80, **more) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, color_system=None)
    console.print(terminal.head(made.machine, made.stack, made.model))
    console.print(terminal.body(made, **more))
    return out.getvalue()


def test_json_is_read_back_as_it_was(tmp_path):
    """The one truth."""
    made = run()
    path = tmp_path / "report.json"
    path.write_text(json.render(made))

    assert json.load(path) == made


def compared() -> Run:
    """A run in which two cells put the naive script and the library beside ours."""
    checks = [
        CheckRecord("loss", True, "1.5", "1.5", beside=(Beside("naive", False, EVIL), Beside("library", True, "1.5"))),
        CheckRecord("loss", True, "2.5", "2.5", beside=(Beside("naive", True, "2.5"),)),
    ]
    results = tuple(
        CellResult("token-mean-loss", cell, Outcome.PASSED, checks=(c,)) for cell, c in zip(CELLS, checks, strict=True)
    )
    return run(results=results, findings=(), skipped=(), outcome="healthy", areas={"token-mean-loss": "components"})


def test_ways_are_counted_over_the_cells_in_which_they_were_tried():
    """With an example of where each does not hold."""
    (promise,) = tally.compared(compared())

    assert [promise.share(way) for way in tally.WAYS] == ["1 of 2", "1 of 1", "2 of 2"]
    assert promise.example == {"naive": EVIL, "library": "1.5", "ours": "1.5"}


def test_both_forms_show_the_columns_and_only_where_there_are_any():
    """Naive script, installed library, ours."""
    lines = [line.split() for line in shown(compared()).splitlines() if "token-mean-loss: loss" in line]

    assert lines == [["token-mean-loss:", "loss", "1", "of", "2", "1", "of", "1", "2", "of", "2"]]
    assert "✗ 1 of 2<" in html.render(compared())
    assert "installed library" not in shown(run()) + html.render(run())


def test_what_is_not_a_report_is_refused(tmp_path):
    """By name."""
    path = tmp_path / "x.json"
    path.write_text("[1]")
    with pytest.raises(FtdoctorError):
        json.load(path)
    path.write_text("{")
    with pytest.raises(FtdoctorError, match=r"x\.json is not a report"):
        json.load(path)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "1 finding, 1 accepted; 4 of 5 planned cells examined in 31 s"),
        ({"findings": (), "outcome": "healthy"}, "healthy; 4 of 5 planned cells examined in 31 s"),
        ({"results": (), "findings": (), "outcome": "unexamined"}, "nothing could be examined; 0 of 5 planned cells examined in 31 s"),
        ({"interrupted": True, "seconds": 125.0}, "interrupted: 1 finding, 1 accepted; 4 of 5 planned cells examined in 2 min 5 s"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_share_was_examined(changes, verdict):
    """Skipped is never green."""
    assert tally.verdict(run(**changes)) == verdict


def test_the_terminal_names_culprit_dependence_cure_and_command():
    """And what was accepted, skipped and noted."""
    text = shown(run(), width=120)

    for part in ("✗ tokenizer-reload", "culprit    transformers 4.57.2, a.py:7", "depends on vocabulary=128k (passes at 512)",
                 "cure       install another", "again      ftdoctor check", "accepted  training-run (1 cell): known",
                 "skipped   1 cell: no GPU", "note      a note", "! resources  disk: measured 1 GiB", "loading      ✓✗"):  # fmt: skip
        assert part in text, part


def test_a_narrow_terminal_breaks_lines_and_loses_nothing():
    """At 30 columns."""
    text = shown(run(), width=30)

    assert max(len(line.rstrip()) for line in text.splitlines()) <= 30
    assert "transformers" in text
    assert "vocabulary=128k" in text
    assert "\x1b" not in text


def test_many_cells_of_an_area_are_counted():
    """Instead of a wall of marks."""
    results = run().results * 30

    assert "✓ 30  ✗ 30" in shown(run(results=results))


def test_nothing_from_outside_steers_the_terminal_or_fills_it():
    """Neither a name, an area, a reason nor a note, as of a document that somebody else has sent."""
    evil = "\x1b]0;title\x07\x9b31m\u202e" + "x" * 9000
    made = run(
        model=evil,
        stack={evil: evil},
        notes=(evil,),
        areas={"resources": evil, evil: evil},
        isolation=Isolation("fresh interpreters", evil),
        skipped=(Skipped(evil, Cell(), evil),),
        findings=(Finding(evil, evil, (Cell.of({evil: evil}),), accepted=evil), *run().findings),
        results=(CellResult(evil, Cell.of({evil: evil}), Outcome.WARNED, checks=(CheckRecord(evil, False, evil),)),),
    )
    text = shown(made)

    assert not set("\x1b\x07\x9b\u202e") & set(text)
    assert "\\x1b]0;title" in text
    assert len(text) < 30_000


def test_a_run_that_was_killed_does_not_say_how_it_was_isolated():
    """Nobody was left to tell."""
    killed = run(isolation=Isolation("unknown", "killed"))
    for form in (shown(killed), markdown.render(killed)):
        assert "interpreter" not in form
    assert "each cell ran in a fresh interpreter: why" in shown(run(isolation=Isolation("fresh interpreters", "why")))
