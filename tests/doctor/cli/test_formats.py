"""Reports reach their files whole or not at all, and a run is never lost because one of them could not be written."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from ftdoctor.cli import formats
from ftdoctor.errors import UsageError
from ftdoctor_reports import json

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
NONE = dict.fromkeys(formats.FORMATS)


def test_the_folder_of_a_report_is_made(tmp_path):
    """Before the run, and again if it is gone after it."""
    path = tmp_path / "new" / "folder" / "report.json"
    assert formats.targets({**NONE, "json": str(path)}) == {"json": str(path)}
    assert path.parent.is_dir()
    assert not path.exists()
    path.parent.rmdir()
    formats.put(str(path), "text")

    assert path.read_text() == "text"


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"json": "-", "junit": "-"}, "--json and --junit both go to standard output"),
        ({"html": "a", "markdown": "./a"}, r"--html and --markdown both go to \./a"),
        ({"html": "."}, "is a folder"),
        ({"html": "file/report.html"}, r"The report file/report\.html cannot be written: "),
        ({"html": f"{'n' * 300}.html"}, r"\.html cannot be written: File name too long"),
        ({"html": ""}, "--html is given an empty name"),
        ({"html": "loop"}, "The path 'loop' leads nowhere"),
        ({"html": "nul\0"}, "leads nowhere"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_run(tmp_path, monkeypatch, chosen, sentence):
    """Not after minutes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=sentence):
        formats.targets({**NONE, **chosen})


def test_a_device_stays_what_it_is(tmp_path):
    """Asking whether it can be written neither empties nor removes nor replaces it, and does not wait for a reader."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    formats.targets({**NONE, "json": str(pipe)})
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    formats.put(str(pipe), "text")
    reader.join(10)

    assert got == ["text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_to_a_file_that_is_not_there_yet_stays_a_link(tmp_path):
    """Asking whether it can be written leaves nothing and takes nothing away."""
    (tmp_path / "link.json").symlink_to("real.json")
    formats.targets({**NONE, "json": str(tmp_path / "link.json")})
    assert [p.name for p in tmp_path.iterdir()] == ["link.json"]
    formats.put(str(tmp_path / "link.json"), "text")

    assert (tmp_path / "real.json").read_text() == "text"
    assert (tmp_path / "link.json").is_symlink()


def test_a_standard_output_that_is_closed_takes_no_report(monkeypatch):
    """Which is an error, not a report that was written."""
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(OSError, match="standard output is closed"):
        formats.put("-", "text")


def test_a_link_is_followed_and_an_older_report_replaced(tmp_path):
    """And nothing is left beside it."""
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    formats.put(str(tmp_path / "link.json"), "new \udcff")

    assert (tmp_path / "real.json").read_text() == "new \\udcff"
    assert (tmp_path / "link.json").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.json", "real.json"]


@FULL
def test_a_full_disk_loses_no_other_report_and_names_the_place_of_the_run(make_run, tmp_path, capsys):
    """The rest is written, the run is in the file that is named."""
    said = []
    asked = {"html": "/dev/full", "json": str(tmp_path / "r.json"), "markdown": str(tmp_path / "r.md")}
    written = formats.write(make_run("findings"), asked, said.append)
    error = capsys.readouterr().err
    (place,) = {word.strip("`.;") for word in error.split() if word.strip("`.;").endswith(formats.KEPT)}

    assert not written
    assert "the report /dev/full could not be written (No space left on device)." in error
    assert json.load(Path(place)) == make_run("findings")
    assert said == [f"report: {tmp_path}/r.json", f"report: {tmp_path}/r.md"]


@FULL
def test_a_run_that_can_be_saved_nowhere_is_on_standard_error(make_run, monkeypatch, capsys):
    """As what fits into a ticket."""
    monkeypatch.setattr(formats.tempfile, "mkdtemp", lambda **_: "/dev/full")
    written = formats.write(make_run("findings"), {"html": "/dev/full"}, lambda _: None)
    error = capsys.readouterr().err

    assert not written
    assert "could be saved nowhere" in error
    assert "tokenizer-reload" in error


def test_a_form_that_cannot_be_made_takes_no_other_away(make_run, tmp_path, monkeypatch, capsys):
    """It is called what it is: a fault of ours."""
    from ftdoctor_reports import html

    monkeypatch.setattr(html, "render", lambda run: 1 / 0)
    asked = {"html": str(tmp_path / "r.html"), "json": str(tmp_path / "r.json")}
    assert not formats.write(make_run("healthy"), asked, lambda _: None, kept=tmp_path / "kept")

    assert "the html report could not be made (ZeroDivisionError" in capsys.readouterr().err
    assert (tmp_path / "r.json").exists()
    assert not (tmp_path / "r.html").exists()


@FULL
def test_a_run_is_saved_also_where_nobody_can_be_told(make_run, tmp_path, monkeypatch):
    """Standard error may be a file on the same full disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stderr", full)
        written = formats.write(make_run("findings"), {"html": "/dev/full"}, print)

    assert not written
    assert [json.load(path).outcome for path in tmp_path.glob("*/run.json")] == ["findings"]
