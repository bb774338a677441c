"""What GitHub Actions is given keeps to its rules, and no text of a run becomes a command."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftdoctor.cells import Cell
from ftdoctor.results import CellResult, CheckRecord, Culprit, Finding, Level, Outcome, Redaction
from ftdoctor_reports import github

COMMAND = re.compile(r"::(?P<kind>error|warning|notice) title=(?P<title>[^:,\r\n]*)::(?P<message>[^\r\n]*)")


def read(line):
    """A command as the runner reads it: its kind, and the two texts without their escapes."""
    found = COMMAND.fullmatch(line)
    assert found, line

    def back(text):
        for code, sign in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
            text = text.replace(code, sign)
        return text

    return found["kind"], back(found["title"]), back(found["message"])


@pytest.mark.parametrize("environ", [{"GITHUB_ACTIONS": "true"}, {"GITHUB_ACTIONS": "1"}, {"CI": "true"}, {}])
def test_actions_are_known_by_their_variable(environ):
    """GitHub sets it to `true`."""
    assert github.in_actions(environ) is (environ.get("GITHUB_ACTIONS") == "true")


def test_a_finding_is_an_error_with_its_cure(runs):
    """Title and lines come back as they were: the documented escapes, and no other."""
    found = Finding(
        "a, b: 100%",
        "50% of x\r\ny: z, w",
        (Cell(),),
        Culprit("torch", "2.13", "a.py", 7),
        dependence="v=1",
        cure="do, it",
        again="ftdoctor check",
    )
    lines = github.annotations(runs.run((), findings=(found,), outcome="findings"))

    assert read(lines[0]) == (
        "error",
        "a, b: 100%",
        "50% of x\\r\ny: z, w\nculprit: torch 2.13, a.py:7\ndepends on: v=1\ncure: do, it\nagain: ftdoctor check",
    )
    assert lines[0].startswith("::error title=a%2C b%3A 100%25::50%25 of x\\r%0Ay: z, w%0A")
    assert [read(line)[0] for line in lines] == ["error", "notice"]


def test_accepted_findings_are_no_errors(runs):
    """And a run that says nothing else has the verdict as a notice."""
    run = runs.run((), findings=(Finding("p", "x", (Cell(),), accepted="known"),), outcome="healthy")

    assert [read(line)[0] for line in github.annotations(run)] == ["notice"]


def test_what_else_must_be_seen_is_marked(runs):
    """Nothing examined, interrupted, not redacted, checks that warn."""
    warns = CellResult("p", Cell(), Outcome.WARNED, checks=(CheckRecord("disk", False, "1", "5", level=Level.WARN),))
    run = replace(runs.run((warns,), outcome="unexamined", interrupted=True), redaction=Redaction(False))

    assert [read(line)[:2] for line in github.annotations(run)] == [
        ("error", "nothing could be examined"), ("warning", "not redacted"), ("warning", "the run was interrupted"),
        ("warning", "p"), ("notice", "ftdoctor"),
    ]  # fmt: skip


def test_of_a_kind_there_are_ten_at_most(runs):
    """GitHub shows no more; the tenth counts the rest and names them."""
    findings = tuple(Finding(f"probe-{i}", "x", (Cell(),)) for i in range(14))
    errors = [read(line) for line in github.annotations(runs.run((), findings=findings)) if line.startswith("::error")]

    assert [title for _, title, _ in errors] == [*(f"probe-{i}" for i in range(9)), "5 more of these"]
    assert errors[-1][2] == "probe-9, probe-10, probe-11, probe-12, probe-13: see the summary of the job"
    assert len([1 for line in github.annotations(runs.run((), findings=findings[:10])) if "more of these" in line]) == 0


@given(st.text(st.characters()), st.text(st.characters()))
def test_no_text_breaks_out_of_its_command(runs, title, text):
    """Each annotation is one line that can be encoded."""
    found = Finding(title, text, (Cell(),), cure=text)

    for line in github.annotations(runs.run((), findings=(found,))):
        read(line)
        line.encode("utf-8")


@pytest.mark.parametrize("kind", ["healthy", "findings", "hostile", "many"])
def test_the_summary_is_within_what_github_takes(kind, make_run):
    """1 MiB; it ends its line, so that others can append."""
    said = github.summary(make_run(kind))

    assert len(said.encode("utf-8")) <= github.SUMMARY < 1024**2
    assert said.endswith("\n")
    assert said.startswith("## ftdoctor ")


def runner(log):
    """The commands that a runner finds in a log: it stops at `stop-commands`, and resumes at the token alone."""
    found, stopped = [], ""
    for line in re.split(r"\r\n|\r|\n", log):
        command = re.match(r"\s*::(?P<name>[^ :]+)(?: [^:]*)?::(?P<data>.*)", line)
        if stopped:
            stopped = "" if re.fullmatch(rf"\s*::{stopped}::", line) else stopped
        elif command and command["name"] == "stop-commands":
            stopped = command["data"]
        elif command:
            found.append(command["name"])
    return found, stopped


PIECES = ["::", "error", "set-output name=x", "stop-commands", "\n", "\r", "\r\n", " ", "a", "::add-path::/evil\n"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_that_is_printed_runs_a_command(text):
    """And commands work again after it."""
    log = github.guarded(text) + "::notice::after\n"

    assert runner(log) == (["notice"], "")


def test_a_text_cannot_know_the_token():
    """Each is new, long, and no word of the runner's."""
    tokens = {github.new_token() for _ in range(100)}

    assert len(tokens) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", token) for token in tokens)
    assert github.guarded("x").count("\n") == 3
