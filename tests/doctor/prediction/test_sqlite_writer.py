"""One SQLite file for several processes."""

from __future__ import annotations

import logging
import multiprocessing
import sqlite3
import subprocess
import sys
import time

import pytest

from ftdoctor.errors import PredictionError
from ftdoctor.prediction import sqlite_writer
from ftdoctor.prediction.reading import read_predictions
from ftdoctor.prediction.rows import NAMES, PredictionRow, new_id, now
from ftdoctor.prediction.sqlite_writer import SqliteWriter
from ftdoctor.prediction.stored import EXACT

PROCESSES, EACH = 4, 250


def rows_of(worker, count):
    return [
        PredictionRow(new_id(), f"job-{worker}", "u", 0.5, n, n, "p", "t", f"{worker} {n}", None, 0.1, 2, "float32", now())
        for n in range(count)
    ]  # fmt: skip


def write_many(path, worker, barrier):
    """Write rows in 25 calls, beginning at the same moment as the others."""
    rows, writer = rows_of(worker, EACH), SqliteWriter(path)
    barrier.wait()
    for start in range(0, EACH, 10):
        writer.write(rows[start : start + 10])


def test_a_thousand_predictions_of_four_processes_are_all_there_once(tmp_path):
    """All begin together with no file, no folder and no WAL."""
    path = tmp_path / "new" / "predictions.db"
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    processes = [context.Process(target=write_many, args=(path, n, barrier)) for n in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    rows = read_predictions(str(path))

    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert len(rows) == len({row.id for row in rows}) == PROCESSES * EACH
    assert {row.prediction for row in rows} == {f"{w} {n}" for w in range(PROCESSES) for n in range(EACH)}


RACER = """
import sys, time
from ftdoctor.prediction.sqlite_writer import SqliteWriter
from ftdoctor.prediction.rows import PredictionRow, new_id, now
print("ready", flush=True)
begin = float(sys.stdin.readline())
for n, path in enumerate(sys.argv[1:]):
    row = PredictionRow(new_id(), "j", "u", 0.5, 1, 1, "p", "t", "x", None, 0.1, 2, "float32", now())
    while time.time() < begin + n * 0.05:
        pass
    SqliteWriter(path).write([row])
"""


def test_processes_may_make_the_file_at_the_same_moment(tmp_path):
    """The switch to WAL waits for nobody by itself: 4 processes race for each of 40 files."""
    paths = [str(tmp_path / f"{n}.db") for n in range(40)]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, *paths],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write(f"{time.time() + 0.2}\n")
        racer.stdin.flush()
    errors = [racer.communicate(timeout=60)[1] for racer in racers]

    assert errors == [""] * 4
    assert [len(read_predictions(path)) for path in paths] == [4] * 40


def test_texts_arrive_whole(tmp_path, make_row, nasty):
    """In every column that a model or a data set fills."""
    row = make_row(prompt=nasty, ground_truth=nasty, prediction=nasty, error=nasty)

    SqliteWriter(tmp_path / "p.db").write([row])

    assert read_predictions(str(tmp_path / "p.db")) == [row]


def test_a_row_that_is_written_again_is_there_once(tmp_path, make_row):
    """As it was first."""
    row, writer = make_row(), SqliteWriter(tmp_path / "p.db")

    writer.write([row])
    writer.write([row, make_row(1)])

    assert [r.step for r in read_predictions(str(tmp_path / "p.db"))] == [0, 1]


def test_between_writes_there_is_one_file_in_wal_mode(tmp_path, make_row):
    """With the index, the version and one column for each field."""
    SqliteWriter(tmp_path / "p.db").write([make_row()])

    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["p.db"]
    with sqlite3.connect(tmp_path / "p.db") as db:
        columns = [column[1] for column in db.execute("PRAGMA table_info(predictions)")]
        indexed = [column[2] for column in db.execute("PRAGMA index_info(predictions_of_sample)")]
        facts = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "user_version")]
    db.close()
    assert tuple(columns) == (*NAMES, EXACT)
    assert indexed == ["job", "step", "sample_index"]
    assert facts == ["wal", 1]


def test_the_columns_of_version_1_are_these():
    """Another column is another version: files of before must stay readable, or be refused by their number."""
    assert sqlite_writer.VERSION == 1
    assert " ".join(NAMES) == (
        "id job user epoch step sample_index prompt ground_truth prediction error seconds tokens model_dtype created_at "
        "finish precision batch_size clipped"
    )


@pytest.mark.parametrize(("version", "age"), [(0, "an earlier"), (2, "a later")])
def test_a_file_of_another_version_is_refused(tmp_path, make_row, version, age):
    """By the writer and by the reader, and nothing is written."""
    path = tmp_path / "p.db"
    SqliteWriter(path).write([make_row()])
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={version}")
    db.close()

    with pytest.raises(PredictionError, match=f"{age} ftdoctor"):
        SqliteWriter(path).write([make_row(1)])
    with pytest.raises(PredictionError, match=f"{age} ftdoctor"):
        read_predictions(str(path))


def test_another_programs_file_stays_as_it_is(tmp_path, make_row):
    """To the last byte: no table, no version, no WAL."""
    path = tmp_path / "p.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE cookies (x)")
    db.close()
    before = path.read_bytes()

    with pytest.raises(PredictionError, match="another program"):
        SqliteWriter(path).write([make_row()])

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough " * 20, b"SQLite format 3\x00" + b"x" * 2000]
)
def test_a_file_that_is_no_database_is_refused(tmp_path, make_row, content):
    """In one sentence that names it."""
    path = tmp_path / "p.db"
    path.write_bytes(content)

    with pytest.raises(PredictionError, match=r"p\.db .*"):
        SqliteWriter(path).write([make_row()])
    assert path.read_bytes() == content


def test_a_folder_in_the_place_of_the_file_is_an_error(tmp_path, make_row):
    with pytest.raises(PredictionError, match="cannot be written"):
        SqliteWriter(tmp_path).write([make_row()])


def test_a_file_system_without_wal_is_named_once(tmp_path, make_row, caplog):
    """SQLite's layer `unix-dotfile` has no shared memory, as a network file system has none."""
    writer = SqliteWriter(tmp_path / "p.db", vfs="unix-dotfile")

    with caplog.at_level(logging.WARNING):
        writer.write([make_row()])
        writer.write([make_row(1)])

    assert len(read_predictions(str(tmp_path / "p.db"))) == 2
    assert [record.message.count("WAL") for record in caplog.records] == [1]


def test_a_writer_waits_for_another_process(tmp_path, make_row):
    """Which holds the file for a second."""
    path = tmp_path / "p.db"
    SqliteWriter(path).write([make_row()])
    holder = f"""
import sqlite3, time
db = sqlite3.connect({str(path)!r}, isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(1)
"""
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        SqliteWriter(path).write([make_row(1)])

    assert len(read_predictions(str(path))) == 2


def test_nothing_of_a_call_is_kept_when_it_fails(tmp_path, make_row):
    """A full disk, here a limit on the size of files: the rows of before are there, those of the call are not."""
    path = tmp_path / "p.db"
    SqliteWriter(path).write([make_row()])
    program = f"""
import resource, signal, sys
from ftdoctor.errors import PredictionError
from ftdoctor.prediction.sqlite_writer import SqliteWriter
from ftdoctor.prediction.rows import NAMES, PredictionRow, new_id, now
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
rows = [PredictionRow(new_id(), "j", "u", 0.5, 1, n, "p" * 100_000, "t", "x", None, 0.1, 2, "float32", now())
        for n in range(9)]
try:
    SqliteWriter({str(path)!r}).write(rows)
except PredictionError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "cannot be written" in done.stdout
    assert len(read_predictions(str(path))) == 1
