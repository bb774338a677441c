"""Reading changes nothing, and needs no leave to."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.jsonl_writer import JsonlWriter
from ftdoctor.prediction.reading import read_predictions
from ftdoctor.prediction.sqlite_writer import SqliteWriter


def test_rows_come_sorted(tmp_path, make_row):
    """By job, step, sample and time, from either kind of file."""
    rows = [make_row(step, sample_index=i, job=job) for job in "ab" for step in (2, 10) for i in range(3)]
    for writer in (SqliteWriter(tmp_path / "p.db"), JsonlWriter(tmp_path / "p.jsonl")):
        writer.write(rows[::-1])

        assert read_predictions(str(writer.path)) == rows


def test_a_sqlite_file_is_known_by_its_contents(tmp_path, make_row):
    SqliteWriter(tmp_path / "p.db").write([make_row()])
    shutil.copy(tmp_path / "p.db", tmp_path / "RUN")

    assert len(read_predictions(str(tmp_path / "RUN"))) == 1
    assert len(read_predictions(f"sqlite:///{tmp_path}/p.db")) == 1


def test_a_reader_sees_what_a_writer_has_not_yet_moved_from_the_wal(tmp_path, make_row):
    """While the writer's process has the file open, and leaves the folder as it is."""
    path = tmp_path / "p.db"
    SqliteWriter(path).write([make_row()])
    db = sqlite3.connect(path)
    db.execute("UPDATE predictions SET user = 'bob'")
    db.commit()
    before = sorted(p.name for p in tmp_path.iterdir())
    try:
        assert "p.db-wal" in before
        assert [row.user for row in read_predictions(str(path))] == ["bob"]
        assert sorted(p.name for p in tmp_path.iterdir()) == before
    finally:
        db.close()


def test_a_reader_makes_no_file(tmp_path, make_row):
    """Neither a missing one nor SQLite's own beside it, and the contents stay."""
    SqliteWriter(tmp_path / "p.db").write([make_row()])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    changed = tmp_path.stat().st_mtime_ns

    read_predictions(str(tmp_path / "p.db"))
    for name in ("no.db", "no.jsonl", "no/p.db"):
        with pytest.raises(PredictionError, match="There is no file"):
            read_predictions(str(tmp_path / name))

    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    assert tmp_path.stat().st_mtime_ns == changed  # not for a moment either


READ = """
import os, sys
from pathlib import Path
from ftdoctor.prediction.reading import read_predictions
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
try:
    open(Path(sys.argv[1]).parent / "probe", "w")
except PermissionError:
    print(len(read_predictions(sys.argv[1])))
"""
"""Gives up the rights of root, to whom every folder can be written, once all is imported."""


@pytest.mark.parametrize("killed", [False, True], ids=["at rest", "after a kill"])
def test_a_folder_that_cannot_be_written_is_read(tmp_path_factory, make_row, killed):
    """Also where a killed writer has left a WAL that nobody may take in."""
    folder = tmp_path_factory.mktemp("readonly")
    path = folder / "p.db"
    SqliteWriter(path).write([make_row()])
    if killed:
        program = f"""
import os, sqlite3
db = sqlite3.connect({str(path)!r})
db.execute("INSERT INTO predictions SELECT 'other', job, user, epoch, 2, sample_index, prompt, ground_truth, prediction,"
  "error, seconds, tokens, model_dtype, created_at, finish, precision, batch_size, clipped, exact FROM predictions")
db.commit()
os._exit(9)
"""
        subprocess.run([sys.executable, "-c", program], check=False)
        (folder / "p.db-shm").unlink()
    for parent in [path, *folder.iterdir(), *folder.parents][:-1]:
        if parent.is_relative_to(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
            parent.chmod(parent.stat().st_mode | 0o055)
    folder.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False)
    folder.chmod(0o755)

    assert done.stdout == ("2\n" if killed else "1\n"), done.stderr


def test_reading_goes_on_while_processes_write(tmp_path):
    """Every reading is whole: what was once seen is seen again."""
    path = tmp_path / "p.db"
    program = f"""
from ftdoctor.prediction.sqlite_writer import SqliteWriter
from ftdoctor.prediction.rows import PredictionRow, new_id, now
for n in range(150):
    SqliteWriter({str(path)!r}).write(
        [PredictionRow(new_id(), "j", "u", 0.5, n, m, "p" * 3000, "t", "x", None, 0.1, 2, "f", now()) for m in range(4)])
"""
    counts, said = [], set()
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while process.poll() is None:
            if path.exists() and path.stat().st_size:
                try:
                    counts.append(len(read_predictions(str(path))))
                except PredictionError as error:
                    said.add(str(error).partition("; ")[0])

    assert process.returncode == 0
    assert said <= {f"{path} holds no predictions yet"}
    assert counts == sorted(counts)
    assert not [count for count in counts if count % 4]
    assert len(read_predictions(str(path))) == 600


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.db", b"", "no predictions yet"),
        ("p.jsonl", b"\n\n", "no predictions yet"),
        ("p.jsonl", b'{"a": 1}\n', "not a file of predictions"),
        ("p.txt", b"hello\n", "not a file of predictions"),
        ("p.bin", bytes(range(256)) * 10, "not a file of predictions"),
        ("p.db", b"SQLite format 3\x00" + b"x" * 2000, "cannot be read"),
    ],
)
def test_what_holds_no_predictions_is_named(tmp_path, name, content, said):
    """In one sentence with the path."""
    (tmp_path / name).write_bytes(content)

    with pytest.raises(PredictionError, match=said) as caught:
        read_predictions(str(tmp_path / name))
    assert name in str(caught.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(PredictionError, match="is a folder"):
        read_predictions(str(tmp_path))


@pytest.mark.parametrize("address", ["http", "https://ada:hunter2@metrics.example.com/v1"])
def test_an_api_gives_nothing_back(address):
    """And nobody is told to install a library for databases."""
    with pytest.raises(PredictionError, match="An HTTP API takes predictions and gives none back") as caught:
        read_predictions(address)
    assert "hunter2" not in str(caught.value)


def test_another_programs_database_is_named(tmp_path):
    with sqlite3.connect(tmp_path / "p.db") as db:
        db.execute("CREATE TABLE cookies (x)")
    db.close()

    with pytest.raises(PredictionError, match="another program"):
        read_predictions(str(tmp_path / "p.db"))


def test_reading_imports_neither_torch_nor_sqlalchemy(tmp_path, make_row):
    """A report is made in a moment."""
    SqliteWriter(tmp_path / "p.db").write([make_row()])
    program = (
        "import sys; from ftdoctor.prediction.reading import read_predictions; "
        f"read_predictions({str(tmp_path / 'p.db')!r}); "
        "print([m for m in ('torch', 'transformers', 'sqlalchemy', 'numpy') if m in sys.modules])"
    )

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
