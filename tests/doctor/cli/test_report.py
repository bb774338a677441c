"""A run is rendered again: from its file, from its page, and the last one of this machine, killed or not."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

PREVIOUS = Path(__file__).parents[2] / "reports" / "data" / "report-1.json"


def test_every_form_of_a_document_of_before(ftdoctor, tmp_path):
    """Of the previous schema; one of them to standard output, what is said to standard error."""
    done = ftdoctor("report", str(PREVIOUS), "--html", "a/r.html", "--markdown", "r.md", "--junit", "r.xml", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == "ftdoctor/2"
    for name in ("a/r.html", "r.md", "r.xml"):
        text = (tmp_path / name).read_text()
        assert "tokenization_utils_base.py" in text
        assert "/home/ada" not in text
    assert "report: a/r.html" in done.stderr


def test_without_a_form_it_is_shown(ftdoctor):
    """As `check` shows it, with the version that examined."""
    done = ftdoctor("report", str(PREVIOUS))

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ftdoctor 0.1.0 · Linux x86_64 · 2 cores · no GPU")
    assert "✗ tokenizer-reload" in done.stdout


def test_a_page_is_a_source_too(ftdoctor, tmp_path):
    """It gives the same document as the one from which it was made."""
    first = ftdoctor("report", str(PREVIOUS), "--html", "r.html", "--json", "first.json")
    again = ftdoctor("report", "r.html", "--json", "again.json")

    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert json.loads((tmp_path / "first.json").read_text()) == json.loads((tmp_path / "again.json").read_text())


def test_the_last_run_needs_no_name(unruly, ftdoctor, tmp_path):
    """It was kept beside its journal."""
    checked = ftdoctor("check", "--probe", "red", "--json", "checked.json", light=True)
    shown = ftdoctor("report", "--json", "report.json", light=True)

    assert (checked.returncode, shown.returncode) == (1, 0), checked.stderr + shown.stderr
    assert json.loads((tmp_path / "checked.json").read_text()) == json.loads((tmp_path / "report.json").read_text())


def test_of_a_killed_run_there_is_what_it_had(unruly, ftdoctor, state_folder, tmp_path, wait_for):
    """Out of its journal; what did not run says why."""
    run = ftdoctor("check", "--probe", "slow", "--probe", "healthy", "--jobs", "1", light=True, start=True)
    wait_for(lambda: any(p.read_text().count('"result"') >= 2 for p in state_folder.glob("runs/*/journal.jsonl")))
    run.kill()
    run.communicate()
    done = ftdoctor("report", "--json", "report.json", light=True)
    report = json.loads((tmp_path / "report.json").read_text())

    assert done.returncode == 0, done.stderr
    assert report["interrupted"] is True
    assert len(report["results"]) >= 2
    assert {s["reason"] for s in report["skipped"]} == {"the run was interrupted before this cell"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere.json",), "The report nowhere.json cannot be read: No such file or directory."),
        ((), "There is no run"),
        ((str(PREVIOUS), "--html", str(PREVIOUS)), "is read, and would be written over; name another file."),
        (("--markdown", "-", "--json", "-", str(PREVIOUS)), "both go to standard output"),
    ],
)
def test_a_mistake_is_one_sentence(ftdoctor, arguments, sentence):
    """With the way out, and status 2."""
    done = ftdoctor("report", *arguments)

    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_report_behind_an_option_is_not_written_over(ftdoctor, tmp_path):
    """Who writes `--markdown run.json` means to read it."""
    (tmp_path / "run.json").write_text(PREVIOUS.read_text())
    done = ftdoctor("report", "--markdown", "run.json")

    assert done.returncode == 2
    assert "--markdown run.json would write over a file of another form" in done.stderr
    assert (tmp_path / "run.json").read_text() == PREVIOUS.read_text()
    assert ftdoctor("report", "run.json", "--markdown").stdout.startswith("## ftdoctor")


def test_the_schema_is_printed(ftdoctor):
    """For whoever reads the documents by program."""
    done = ftdoctor("report", "--schema")

    assert done.returncode == 0
    assert json.loads(done.stdout)["title"] == "A run of ftdoctor (ftdoctor/2)"


def test_a_second_interrupt_does_not_take_the_report_away(unruly, ftdoctor, state_folder, tmp_path, wait_for):
    """Who presses Ctrl-C twice still has what there was."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    run = ftdoctor(
        "check", "--probe", "slow", "--jobs", "1", "--html", "r.html", light=True, start=True, start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    wait_for(lambda: any(p.read_text().count('"result"') >= 1 for p in state_folder.glob("runs/*/journal.jsonl")))
    run.send_signal(signal.SIGINT)
    time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)

    assert run.returncode == 130
    assert "interrupted" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_run_that_is_ended_from_outside_leaves_its_report(unruly, ftdoctor, state_folder, tmp_path, name, wait_for):
    """By whoever shuts the machine down, or by a connection that breaks."""
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # what the tests were started by may have made it ignored
    run = ftdoctor("check", "--probe", "slow", "--jobs", "1", "--json", "r.json", light=True, start=True)
    signal.signal(number, before)
    wait_for(lambda: any(p.read_text().count('"result"') >= 1 for p in state_folder.glob("runs/*/journal.jsonl")))
    run.send_signal(number)
    run.communicate(timeout=30)

    assert run.returncode == 130
    assert json.loads((tmp_path / "r.json").read_text())["interrupted"]


def test_a_run_without_a_place_for_its_journal_still_reports(unruly, ftdoctor, state_folder, tmp_path):
    """A full disk, a home that is read-only: it runs, and says that it cannot be resumed."""
    state_folder.parent.mkdir(exist_ok=True)
    state_folder.write_text("a file where the folder should be")
    done = ftdoctor("check", "--probe", "healthy", "--json", "r.json", light=True)

    assert done.returncode == 0, done.stderr
    assert any("cannot be resumed" in note for note in json.loads((tmp_path / "r.json").read_text())["notes"])
