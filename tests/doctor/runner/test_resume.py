"""A run that was killed or interrupted keeps what it had, and can be finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from ftdoctor.errors import JournalError
from ftdoctor.results import Cell, CellResult, Outcome
from ftdoctor.runner.journal import Journal

CHOICE = ("check", "--probe", "slow", "--probe", "healthy", "--jobs", "1", "--json", "report.json")


def told(path):
    """Return what a report says apart from times."""
    report = json.loads(path.read_text())
    for key in ("started", "seconds"):
        del report[key]
    for result in report["results"]:
        del result["seconds"]
    del report["machine"]["memory"], report["machine"]["disk_free"]
    return report


def test_a_run_killed_in_the_middle_is_finished_with_the_same_results(
    unruly, ftdoctor, state_folder, tmp_path, wait_for
):
    """`kill -9` of the whole run, then `--resume`: the report is that of a run that was not killed."""
    assert ftdoctor(*CHOICE, light=True).returncode == 0
    whole = told(tmp_path / "report.json")
    before = set(state_folder.glob("runs/*/journal.jsonl"))

    run = ftdoctor(*CHOICE, light=True, start=True)
    wait_for(lambda: any(p.read_text().count('"result"') >= 2 for p in set(state_folder.glob("runs/*/*")) - before))
    run.kill()
    run.communicate()
    resumed = ftdoctor("check", "--resume", "--jobs", "1", "--json", "report.json", light=True)

    assert resumed.returncode == 0, resumed.stderr
    assert told(tmp_path / "report.json") == whole
    assert resumed.stderr.count("passed") < len(whole["results"]), "it ran everything again"


def test_the_cells_of_a_killed_run_end_with_it(unruly, ftdoctor, wait_for):
    """Nothing goes on computing for a run that is gone."""
    run = ftdoctor("check", "--probe", "hangs", light=True, start=True)
    wait_for(lambda: "hangs" in hosts_of(run.pid) or len(hosts_of(run.pid).split()) > 1)
    group = [int(pid) for pid in hosts_of(run.pid).split()]
    run.kill()
    run.communicate()

    wait_for(lambda: not any(alive(pid) for pid in group), 5.0)


def hosts_of(pid):
    """Return the processes below a run, as numbers."""
    found, todo = [], [pid]
    while todo:
        out = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(todo.pop())], capture_output=True, text=True, check=False
        )
        found += out.stdout.split()
        todo += out.stdout.split()
    return " ".join(found)


def alive(pid):
    """Say whether a process runs."""
    out = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(out) and not out.startswith("Z")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_an_interrupted_run_reports_what_it_has(unruly, ftdoctor, state_folder, tmp_path, number, wait_for):
    """The verdict says that it was interrupted, the rest is skipped with that reason, and it can be resumed."""
    # A shell makes what it starts in the background ignore Ctrl-C, and its children with it: these tests too, maybe.
    before = signal.signal(number, signal.SIG_DFL)
    run = ftdoctor(*CHOICE, light=True, start=True, start_new_session=True)
    signal.signal(number, before)
    wait_for(lambda: any(p.read_text().count('"result"') >= 2 for p in state_folder.glob("runs/*/*")))
    os.killpg(run.pid, number)
    out, _ = run.communicate(timeout=20)
    report = json.loads((tmp_path / "report.json").read_text())

    assert run.returncode == 130
    assert "interrupted" in out
    assert report["interrupted"] is True
    assert len(report["results"]) >= 2
    assert {s["reason"] for s in report["skipped"]} == {"the run was interrupted before this cell"}
    assert ftdoctor("check", "--resume", light=True).returncode == 0


def test_a_run_of_another_choice_is_not_mixed_in(unruly, ftdoctor, state_folder):
    """The journal says what was asked; other options with it are refused in a sentence."""
    assert ftdoctor("check", "--probe", "healthy", light=True).returncode == 0
    refused = ftdoctor("check", "--resume", "--probe", "red", light=True)

    assert refused.returncode == 2
    assert refused.stderr == (
        "ftdoctor: --resume takes its choice of cells from the journal; leave out the options that choose.\n"
    )


def test_a_journal_of_another_stack_is_refused(unruly, ftdoctor, state_folder):
    """Results of two stacks in one report would be a lie."""
    assert ftdoctor("check", "--probe", "healthy", light=True).returncode == 0
    (path,) = state_folder.glob("runs/*/journal.jsonl")
    path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    refused = ftdoctor("check", "--resume", light=True)

    assert refused.returncode == 2
    assert "was of another stack, machine or choice of cells" in refused.stderr


def test_without_a_run_there_is_nothing_to_resume(ftdoctor):
    """Said in one sentence."""
    refused = ftdoctor("check", "--resume", light=True)

    assert refused.returncode == 2
    assert "There is no run to resume" in refused.stderr


def test_half_a_line_is_left_out_and_written_over(tmp_path):
    """A run killed while it wrote leaves half a line; the rest of the journal still counts."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.begin({"fingerprint": "x"})
    first = CellResult("a", Cell.of({"family": "llama"}), Outcome.PASSED)
    journal.add(first)
    with journal.path.open("a") as file:
        file.write('{"result": {"probe": "b", "cel')
    second = CellResult("c", Cell(), Outcome.FAILED)
    journal.add(second)

    assert list(journal.results().values()) == [first, second]


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    """By the sentence that names it."""
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(JournalError, match=r"other\.json is not a journal"):
        Journal(tmp_path / "other.json").header()
