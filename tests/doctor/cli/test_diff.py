"""`ftdoctor diff` as a user meets it: exit statuses, forms, and what is taken out before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ftdoctor import machine
from ftdoctor.cells import Cell
from ftdoctor.results import CellResult, CheckRecord, Finding, Isolation, Outcome, Run
from ftdoctor_reports import html
from ftdoctor_reports import json as documents

TOKEN = "hf_" + "aB3" * 11 + "z"
HOME = str(Path.home())
OLD = Path(__file__).parents[2] / "reports" / "data" / "report-1.json"
CELL = Cell.of({"device": "cpu"})


def run(outcome=Outcome.PASSED, **changes) -> Run:
    """Return a run of one cell, with a finding where it is red."""
    check = CheckRecord("loss", outcome is Outcome.PASSED, "5.8", "6.2")
    found = (Finding("p", f"{HOME}/model: {TOKEN}", (CELL,)),) if outcome.is_red else ()
    values = dict(
        schema="ftdoctor/2", ftdoctor="0.1.0", outcome="findings" if found else "healthy", interrupted=False,
        started="2026-01-01T00:00:00+00:00", seconds=1.0, profile="quick", model="", stack={"torch": "2.13.0"},
        machine=machine.examine(),
        isolation=Isolation("fork server", "because"), planned=1, findings=found, skipped=(), promises={"p": "It holds."},
        results=(CellResult("p", CELL, outcome, checks=(check,), seconds=0.1),),
    )  # fmt: skip
    return Run(**{**values, **changes})


@pytest.fixture
def files(tmp_path):
    """A healthy run, one with a finding, and one that has nothing in common with them."""
    other = replace(run(), results=(replace(run().results[0], probe="q"),))
    for name, made in (("good", run()), ("bad", run(Outcome.FAILED)), ("other", other)):
        (tmp_path / f"{name}.json").write_text(documents.render(made))
    (tmp_path / "bad.html").write_text(html.render(run(Outcome.FAILED)))
    (tmp_path / "broken.json").write_text("{")
    return tmp_path


@pytest.mark.parametrize(
    ("a", "b", "status", "verdict"),
    [
        ("good.json", "good.json", 0, "B is like A"),
        ("good.json", "bad.json", 1, "B is worse: 1 new finding; 1 cell became red"),
        ("bad.html", "good.json", 0, "B is better: 1 finding gone; 1 cell became green"),
        ("bad.json", "bad.html", 0, "B is like A"),
        ("good.json", "other.json", 3, "A and B cannot be compared: the two runs planned no cell in common"),
    ],
)
def test_the_exit_status_says_what_b_is(ftdoctor, files, a, b, status, verdict):
    """0 not worse, 1 worse, 3 nothing in common; JSON and HTML are read."""
    done = ftdoctor("diff", a, b)

    assert (done.returncode, done.stderr) == (status, "")
    assert verdict in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("good.json", "none.json"), "The report none.json cannot be read: No such file or directory."),
        (("broken.json", "good.json"), "broken.json is not a report of ftdoctor: "),
        (("good.json",), "Missing argument 'B'"),
        (("good.json", "bad.json", "--html", "bad.json"), "bad.json is read, and would be written over; name another file."),
        (("good.json", "bad.json", "--json", "--markdown"), "--json and --markdown both go to standard output; give one of them another file."),
        (("good.json", "bad.json", "--html", "good.json/x.html"), "The report good.json/x.html cannot be written: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_status_2(ftdoctor, files, arguments, sentence):
    """On standard error, and nothing is written."""
    before = {path: path.read_bytes() for path in files.glob("*.*")}
    done = ftdoctor("diff", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ftdoctor: {sentence}")
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in files.glob("*.*")} == before


def test_every_form_is_written_where_asked(ftdoctor, files):
    """Files beside the terminal; one form to standard output instead of it."""
    both = ftdoctor("diff", "good.json", "bad.json", "--markdown", "new/d.md", "--html", "new/d.html", "-q")
    alone = ftdoctor("diff", "good.json", "bad.json", "--json")
    text = ftdoctor("diff", "good.json", "bad.json", "--markdown")

    assert (both.returncode, alone.returncode, text.returncode) == (1, 1, 1)
    assert both.stdout.startswith("B is worse: ")
    assert (files / "new" / "d.md").read_text() == text.stdout
    assert "<title>ftdoctor: B is worse" in (files / "new" / "d.html").read_text()
    assert json.loads(alone.stdout)["reasons"] == ["1 new finding", "1 cell became red"]


def test_secrets_and_names_are_taken_out_of_every_form(ftdoctor, files):
    """Names and paths stay only where that is asked for, which is said."""
    for form in ((), ("--json",), ("--markdown",), ("--html", "-")):
        done = ftdoctor("diff", "good.json", "bad.json", *form)
        bare = ftdoctor("diff", "good.json", "bad.json", *form, "--no-redact")

        assert TOKEN not in done.stdout + bare.stdout
        assert f"{HOME}/model" not in done.stdout
        assert "Not redacted" not in done.stdout
        assert f"{HOME}/model" in bare.stdout
        assert bare.stderr.startswith("ftdoctor: not redacted")
    assert "Not redacted" in bare.stdout


def test_a_report_of_the_older_schema_is_read(ftdoctor, files):
    """Against itself it is the same, and it is said what it does not record."""
    done = ftdoctor("diff", str(OLD), str(OLD))

    assert done.returncode == 0
    assert "of an older ftdoctor" in " ".join(done.stdout.split())


def test_it_imports_no_library_of_the_stack(files):
    """A comparison needs neither torch nor time."""
    program = (
        "import sys\nfrom ftdoctor.cli import main\nsys.argv = ['ftdoctor', 'diff', 'good.json', 'good.json']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print('HEAVY', [m for m in ('torch', 'transformers', 'peft', 'trl', 'numpy') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=files)

    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_form_that_cannot_be_written_takes_no_other_away(ftdoctor, files):
    """It is named, and the status says neither better nor worse."""
    done = ftdoctor("diff", "good.json", "bad.json", "--html", "/dev/full", "--markdown", "d.md", "--json")

    assert done.returncode == 2
    assert done.stderr == "ftdoctor: /dev/full cannot be written (No space left on device); name another file.\n"
    assert (files / "d.md").exists()
    assert json.loads(done.stdout)["verdict"] == "worse"


def test_what_is_compared_is_not_written_over(ftdoctor, files):
    """Also where it has another name."""
    (files / "link.json").symlink_to("good.json")
    done = ftdoctor("diff", "good.json", "bad.json", "--html", "link.json")

    assert done.returncode == 2
    assert "link.json is read, and would be written over; name another file." in done.stderr
