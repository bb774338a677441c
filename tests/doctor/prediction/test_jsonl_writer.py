"""Lines of JSON that survive kills and company."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.jsonl_writer import JsonlWriter
from ftdoctor.prediction.reading import read_predictions


def test_an_ordinary_row_is_its_own_line(tmp_path, make_row):
    """So that any JSON reader has the fields."""
    rows = [make_row(n) for n in range(3)]

    JsonlWriter(tmp_path / "new" / "p.jsonl").write(rows)

    assert (tmp_path / "new" / "p.jsonl").read_bytes() == b"".join(
        json.dumps(row.as_dict()).encode() + b"\n" for row in rows
    )


def test_texts_arrive_whole(tmp_path, make_row, nasty):
    """On one line each, in ASCII, for parsers that take no surrogates."""
    row = make_row(prompt=nasty, ground_truth=nasty, prediction=nasty, error=nasty)

    JsonlWriter(tmp_path / "p.jsonl").write([row])

    text = (tmp_path / "p.jsonl").read_bytes()
    assert text.isascii()
    assert text.count(b"\n") == 1
    json.loads(text)["prediction"].encode()
    assert read_predictions(str(tmp_path / "p.jsonl")) == [row]


def test_a_line_cut_by_a_kill_spoils_no_other(tmp_path, make_row, caplog):
    """The next row begins on a line of its own; the reader counts the broken one."""
    path, rows = tmp_path / "p.jsonl", [make_row(n) for n in range(3)]
    JsonlWriter(path).write(rows[:2])
    path.write_bytes(path.read_bytes()[:-20])

    JsonlWriter(path).write(rows[2:])

    with caplog.at_level(logging.WARNING):
        assert read_predictions(str(path)) == [rows[0], rows[2]]
    assert "1 broken line" in caplog.text


def test_a_row_that_was_written_twice_is_read_once(tmp_path, make_row):
    row, writer = make_row(), JsonlWriter(tmp_path / "p.jsonl")

    writer.write([row])
    writer.write([row])

    assert read_predictions(str(tmp_path / "p.jsonl")) == [row]


WRITER = """
import sys
from ftdoctor.prediction.jsonl_writer import JsonlWriter
from ftdoctor.prediction.rows import PredictionRow, new_id, now
sys.stdin.readline()
for n in range(25):
    row = lambda m: PredictionRow(new_id(), sys.argv[2], "u", 0.5, n, m, "p" * 20_000, "t", "x", None, 0.1, 2, "f", now())
    JsonlWriter(sys.argv[1]).write([row(m) for m in range(4)])
"""


def test_lines_of_several_processes_do_not_mix(tmp_path):
    """Each call is longer than a pipe's atomic write."""
    path = tmp_path / "p.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, f"job-{n}"], stdin=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)

    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert len(found) == 300
    assert all(len({row["job"] for row in found[n : n + 4]}) == 1 for n in range(0, 300, 4))


def test_a_full_disk_leaves_no_half_line(tmp_path, make_row):
    """Here a limit on the size of files: none of the call's rows is there."""
    path = tmp_path / "p.jsonl"
    JsonlWriter(path).write([make_row()])
    before = path.read_bytes()
    program = f"""
import resource, signal
from ftdoctor.errors import PredictionError
from ftdoctor.prediction.jsonl_writer import JsonlWriter
from ftdoctor.prediction.reading import read_predictions
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
rows = read_predictions({str(path)!r}) * 100
try:
    JsonlWriter({str(path)!r}).write(rows)
except PredictionError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "cannot be written" in done.stdout
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_an_error(tmp_path, make_row):
    with pytest.raises(PredictionError, match="cannot be written"):
        JsonlWriter(tmp_path).write([make_row()])
