"""A file is taken when it is whole: not while it grows, and not while somebody has it open for writing."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from ftdoctor.training import arrivals as module
from ftdoctor.training.arrivals import Arrivals

SETTLE = 0.2


@pytest.fixture
def put(tmp_path):
    """Make a file that was last written so many seconds ago."""

    def make(name, age=60.0, text="{}\n"):
        path = tmp_path / name
        path.write_text(text)
        os.utime(path, (time.time() - age,) * 2)
        return path

    return make


@pytest.fixture
def blind(monkeypatch):
    """A system that does not tell who writes."""
    monkeypatch.setattr(module, "_tells_writers", lambda folder: False)


@pytest.fixture
def needs_leases(tmp_path):
    """Only Linux tells, and not on every file system."""
    if not module._tells_writers(tmp_path):
        pytest.skip("this file system does not tell who has a file open for writing")


def test_a_file_that_was_left_alone_for_long_is_whole_at_once(put, tmp_path):
    """The oldest first, whatever its name; none of our own files is left there."""
    put("a.jsonl", age=10)
    put("b.jsonl", age=30)
    put("c.jsonl", age=20)

    assert [p.name for p in Arrivals(tmp_path, SETTLE).look().whole] == ["b.jsonl", "c.jsonl", "a.jsonl"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_young_file_settles_first(put, tmp_path):
    """Its writer may only be slow."""
    put("a.jsonl", age=0)
    arrivals = Arrivals(tmp_path, SETTLE)
    first = arrivals.look()
    time.sleep(SETTLE * 1.5)

    assert [p.name for p in first.settling] == ["a.jsonl"]
    assert [p.name for p in arrivals.look().whole] == ["a.jsonl"]


def test_a_file_from_the_future_settles_too(put, tmp_path):
    """The clocks of two machines differ."""
    put("a.jsonl", age=-3600)
    arrivals = Arrivals(tmp_path, SETTLE)
    first = arrivals.look()
    time.sleep(SETTLE * 1.5)

    assert [p.name for p in first.settling] == ["a.jsonl"]
    assert [p.name for p in arrivals.look().whole] == ["a.jsonl"]


@pytest.mark.parametrize("changed", [{"text": "{}\n{}\n"}, {"age": 30}], ids=["size", "time"])
def test_a_file_that_changes_between_two_looks_is_being_written(blind, put, tmp_path, changed):
    """By its size or its time, and it settles anew from then on."""
    put("a.jsonl", age=0)
    arrivals = Arrivals(tmp_path, SETTLE)
    arrivals.look()
    time.sleep(SETTLE * 1.5)
    put("a.jsonl", **{"age": 0, **changed})
    changed_look, next_look = arrivals.look(), arrivals.look()
    time.sleep(SETTLE * 1.5)

    assert [p.name for p in changed_look.written] == ["a.jsonl"]
    assert [p.name for p in next_look.settling] == ["a.jsonl"]
    assert [p.name for p in arrivals.look().whole] == ["a.jsonl"]


@pytest.mark.usefixtures("needs_leases")
def test_a_file_that_another_process_has_open_for_writing_waits(put, tmp_path):
    """However long it has not changed; one that is only read does not."""
    put("a.jsonl")
    put("b.jsonl")
    program = "import sys; a = open('a.jsonl', 'a'); b = open('b.jsonl'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        arrivals = Arrivals(tmp_path, SETTLE)
        open_look = arrivals.look()
        other.communicate()

    assert ([p.name for p in open_look.written], [p.name for p in open_look.whole]) == (["a.jsonl"], ["b.jsonl"])
    assert {p.name for p in arrivals.look().whole} == {"a.jsonl", "b.jsonl"}


MEDDLED = """
import fcntl, os, sys
from pathlib import Path
from ftdoctor.training import arrivals

real = fcntl.fcntl


def meddled(handle, command, argument=0):
    answer = real(handle, command, argument)
    if command == fcntl.F_SETLEASE and argument == fcntl.F_RDLCK:
        try:
            os.open("a.jsonl", os.O_WRONLY | os.O_NONBLOCK)
        except BlockingIOError:
            print("refused")
    return answer


fcntl.fcntl = meddled
print(arrivals._has_writer(Path("a.jsonl")))
"""


@pytest.mark.usefixtures("needs_leases")
def test_a_writer_that_comes_while_we_look_does_not_end_this_process(put, tmp_path):
    """The kernel tells the holder of a lease by a signal, whose default would."""
    put("a.jsonl")
    done = subprocess.run([sys.executable, "-c", MEDDLED], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.split()) == (0, ["refused", "False"])


def test_a_file_system_that_calls_every_file_written_is_not_believed(put, tmp_path, monkeypatch):
    """Nothing would ever be taken there."""
    monkeypatch.setattr(module, "_has_writer", lambda path: True)
    put("a.jsonl")

    assert [p.name for p in Arrivals(tmp_path, SETTLE).look().whole] == ["a.jsonl"]


@pytest.mark.parametrize(
    "name", [".a.jsonl", ".a.jsonl.x7Gk2p", "a.jsonl~", "a.jsonl.part", "a.jsonl.tmp", ".a.jsonl.swp"]
)
def test_hidden_and_temporary_names_are_not_seen(put, tmp_path, name):
    """Those of editors, browsers and rsync."""
    put(name)

    assert Arrivals(tmp_path, SETTLE).look() == module.Arrived((), (), (), ())


def test_what_is_no_file_with_rows_is_left_alone(put, tmp_path):
    """Other endings, folders, links."""
    put("a.json")
    put("A.JSONL")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(put("target.txt"))
    look = Arrivals(tmp_path, SETTLE).look()

    assert [p.name for p in look.left_alone] == ["A.JSONL", "a.json", "folder.jsonl", "link.jsonl", "target.txt"]
    assert look.whole == ()


def test_a_file_that_comes_again_under_its_name_is_looked_at_anew(put, tmp_path):
    """Its time in the folder begins again."""
    put("a.jsonl", age=0)
    arrivals = Arrivals(tmp_path, SETTLE)
    arrivals.look()
    (tmp_path / "a.jsonl").unlink()
    arrivals.look()
    time.sleep(SETTLE * 1.5)
    put("a.jsonl", age=0)

    assert [p.name for p in arrivals.look().settling] == ["a.jsonl"]
