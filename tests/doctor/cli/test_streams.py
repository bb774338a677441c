"""What is shown may be lost to a full disk or a reader that has left; what was found is not."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import ftdoctor_matrix as matrix
from ftdoctor.cli import cli
from ftdoctor.cli.streams import Lasting
from ftdoctor_reports import terminal

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")


class Broken(io.StringIO):
    """A stream onto a full disk."""

    def write(self, text):
        """Fail."""
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_broken_stream_is_remembered_and_taken_no_further():
    """With the first reason."""
    stream = Lasting(Broken())
    assert stream.broken is None
    assert stream.write("text") == 4
    stream.write("more")

    assert stream.broken.errno == errno.ENOSPC


def test_what_an_encoding_lacks_is_written_as_python_writes_it():
    """And the rest of the line as it is."""
    data = io.BytesIO()
    stream = Lasting(io.TextIOWrapper(data, encoding="ascii"))
    stream.write("a \u2713 b")
    stream.flush()

    assert data.getvalue() == b"a \\u2713 b"
    assert stream.broken is None


def test_in_everything_else_it_is_the_stream():
    """A console asks whether it is a terminal."""
    assert Lasting(io.StringIO()).isatty() is False


def test_a_stream_that_was_closed_before_takes_everything():
    """Python has None in its place."""
    stream = Lasting(None)
    stream.write("text")
    stream.flush()

    assert stream.isatty() is False


@FULL
def test_a_run_whose_screen_is_full_has_its_reports(unruly, ftdoctor, tmp_path):
    """It says on standard error that not all was shown, and does not call that success."""
    with Path("/dev/full").open("w") as full:
        done = _check(ftdoctor, "--html", "r.html", "--json", "r.json", stdout=full, stderr=subprocess.PIPE)

    assert done.returncode == 2
    assert "ftdoctor: not all of this could be shown (No space left on device)." in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.glob("r.*")) == ["r.html", "r.json"]


@pytest.mark.parametrize("both", [False, True])
def test_a_run_whose_reader_has_left_has_its_reports(unruly, ftdoctor, tmp_path, both):
    """As with `ftdoctor check --json r.json | head -1`, its log piped along or not; its status is its verdict."""
    reader, writer = os.pipe()
    os.close(reader)
    done = _check(ftdoctor, "--json", "r.json", stdout=writer, stderr=writer if both else subprocess.PIPE)
    os.close(writer)

    assert done.returncode == 0
    assert both or "Traceback" not in done.stderr
    assert (tmp_path / "r.json").exists()


def test_a_verdict_that_cannot_be_shown_takes_no_report_away(state_folder, tmp_path, monkeypatch):
    """A fault of ours in one place is told there, and costs nothing elsewhere."""
    known = matrix.libraries()
    monkeypatch.setattr(matrix, "libraries", lambda: matrix.Libraries(known.order, (), ()))
    monkeypatch.setattr(terminal, "body", lambda *_, **__: 1 / 0)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["check", "--probe", "resources", "--json", "r.json"])

    assert isinstance(done.exception, ZeroDivisionError)
    assert (tmp_path / "r.json").exists()


@FULL
@pytest.mark.parametrize("command", [["list"], ["env"], ["explain", "resources"]])
def test_a_command_that_only_shows_says_that_it_could_not(command, tmp_path):
    """In one sentence, with a status that no verdict has."""
    with Path("/dev/full").open("w") as full:
        done = _run(command, tmp_path, full)

    assert done.returncode == 2
    assert done.stderr == "ftdoctor: What this command shows could not be written: No space left on device.\n"


def test_a_reader_that_has_left_is_no_verdict(tmp_path):
    """It ends as other programs do, and not with the status of findings."""
    reader, writer = os.pipe()
    os.close(reader)
    done = _run(["list"], tmp_path, writer)
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, "")


def _run(command, folder, stdout):
    return subprocess.run(
        [sys.executable, "-m", "ftdoctor", *command],
        cwd=folder,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )


def _check(ftdoctor, *arguments, **streams):
    run = ftdoctor("check", "--probe", "healthy", *arguments, light=True, start=True, **streams)
    run.stderr_text = run.communicate(timeout=120)[1]
    return subprocess.CompletedProcess(run.args, run.returncode, "", run.stderr_text)
