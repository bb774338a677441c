"""Written predictions, read back: from a SQLite file, JSON lines, or a database, without changing anything there."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ftdoctor.errors import NoPredictionsError, PredictionError
from ftdoctor.prediction import sqlite_writer
from ftdoctor.prediction.stored import from_json, from_record

if TYPE_CHECKING:
    from ftdoctor.prediction.rows import PredictionRow

_LOG = logging.getLogger("ftdoctor.prediction")
_MAGIC = b"SQLite format 3\x00"
_BESIDE = ("", "-wal", "-journal")
_TRIES = 5


def read_predictions(source: str) -> list[PredictionRow]:
    """Return all rows, sorted by job, step, sample and time. Reads while a training run writes.

    Args:
        source: path of a SQLite or JSON Lines file (known by its contents), `sqlite:///path`, or an SQLAlchemy URL.

    Raises:
        PredictionError: there is no such file, it holds no predictions, the database cannot be read, or the source is
            an HTTP API.
    """
    source = str(source)
    if source == "http" or source.startswith(("http:", "https:")):
        raise PredictionError("An HTTP API takes predictions and gives none back; give a file, or a database's URL.")
    if "://" in source and not source.startswith("sqlite:///"):
        from ftdoctor.prediction.database import read_database

        rows = read_database(source)
    else:
        rows = _read_file(Path(source.removeprefix("sqlite:///")).expanduser())
    return sorted(rows, key=lambda row: (row.job, row.step, row.sample_index, row.created_at, row.id))


def _read_file(path: Path) -> list[PredictionRow]:
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
        beside = Path(f"{path}-wal")
        if start == _MAGIC or (not start and beside.exists() and beside.stat().st_size):
            rows = sqlite_writer.patiently(lambda: _read_sqlite(path), limit=10)
        else:
            rows = _read_lines(path)
    except FileNotFoundError:
        raise PredictionError(f"There is no file {path}; give the one that the run writes predictions to.") from None
    except IsADirectoryError:
        raise PredictionError(f"{path} is a folder; give the file of predictions in it.") from None
    except (OSError, sqlite3.Error) as error:
        raise PredictionError(f"{path} cannot be read: {error}; give a file that can.") from error
    if not rows:
        raise NoPredictionsError(f"{path} holds no predictions yet; wait for the first evaluation of the run.")
    return rows


def _read_lines(path: Path) -> list[PredictionRow]:
    rows: dict[str, PredictionRow] = {}
    broken = 0
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = from_json(line)
            except (ValueError, RecursionError):
                broken += 1
            else:
                rows.setdefault(row.id, row)
    if broken and not rows:
        raise PredictionError(f"{path} is not a file of predictions; give a SQLite or JSON Lines file of ftdoctor's.")
    if broken:
        _LOG.warning("%s: %d broken line(s) left out; a killed process leaves one.", path, broken)
    return list(rows.values())


def _read_sqlite(path: Path) -> list[PredictionRow]:
    path = path.absolute()
    for _ in range(_TRIES):
        before = _state(path)
        if len(before) == 1:
            # Nobody writes: read without locks, for a reader's lock would make files in the folder.
            with contextlib.suppress(sqlite3.DatabaseError):
                rows = _select(path, "immutable=1")
                if _state(path) == before:
                    return rows
        else:
            return _read_beside_writer(path)
    return _read_beside_writer(path)


def _read_beside_writer(path: Path) -> list[PredictionRow]:
    """Read with locks; from a copy where those cannot be had, as in a folder that cannot be written."""
    try:
        return _select(path, "mode=ro")
    except sqlite3.OperationalError:
        with tempfile.TemporaryDirectory(prefix="ftdoctor-") as folder:
            copy = Path(folder) / "copy.db"
            for ending in _BESIDE:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{ending}", f"{copy}{ending}")
            return _select(copy, "mode=rw", shown=path)


def _select(path: Path, how: str, shown: Path | None = None) -> list[PredictionRow]:
    where = f"{path.as_uri()}?{how}"
    opened = sqlite3.connect(where, uri=True, timeout=10, isolation_level=None)
    with contextlib.closing(opened) as db, sqlite_writer.snapshot(db):
        if not sqlite_writer.check(db, shown or path):
            return []
        cursor = db.execute("SELECT * FROM predictions")
        names = [column[0] for column in cursor.description]
        return [from_record(dict(zip(names, values, strict=True))) for values in cursor]


def _state(path: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for ending in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            stat = Path(f"{path}{ending}").stat()
            found[ending] = (stat.st_size, stat.st_mtime_ns)
    return found
