"""Predictions in one SQLite file that several processes may write to at once."""

from __future__ import annotations

import contextlib
import logging
import random
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.delivery import Delivery
from ftdoctor.prediction.rows import NAMES
from ftdoctor.prediction.stored import EXACT, KINDS, OPTIONAL, to_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ftdoctor.prediction.rows import PredictionRow

VERSION = 1
"""Of the table, in `PRAGMA user_version`."""
APPLICATION = 0x66746470
"""`ftdp`, in `PRAGMA application_id`: by it a file is known as ftdoctor's."""
PATIENCE = 30.0
"""Seconds to wait for other processes before giving up."""

_LOG = logging.getLogger("ftdoctor.prediction")
_TYPES = {"str": "TEXT", "int": "INTEGER", "float": "REAL"}
_COLUMNS = (*NAMES, EXACT)
_T = TypeVar("_T")


class SqliteWriter:
    """Writes to one SQLite file in WAL mode, `synchronous=FULL`: what `write` has returned survives a power failure.

    A connection lives for one call of `write` only. So a fork (the workers of a DataLoader) never inherits one, and
    between two calls all is in the one file.

    Args:
        path: file; it and its folder are made at the first write.
        vfs: SQLite's layer for a file system where its own locks do not work, for example `unix-dotfile`.
    """

    def __init__(self, path: str | Path, *, vfs: str = "") -> None:
        self.path = Path(path).expanduser().absolute()
        self.vfs = vfs
        self._told = False

    def __repr__(self) -> str:
        return f"SqliteWriter({str(self.path)!r})"

    def write(self, rows: Sequence[PredictionRow]) -> Delivery:
        """Insert rows in one transaction; rows whose id is there already are left as they are."""
        values = [tuple(to_record(row).values()) for row in rows]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            patiently(lambda: self._insert(values))
        except (OSError, sqlite3.Error) as error:
            raise PredictionError(f"{self.path} cannot be written: {error}; {_way_out(error)}.") from error
        return Delivery(written=len(values))

    def close(self) -> Delivery:
        """Nothing is open between two writes."""
        return Delivery()

    def _insert(self, values: list[tuple[object, ...]]) -> None:
        with self._opened() as db, transaction(db):
            make_table(db, self.path)
            marks = ", ".join("?" * len(_COLUMNS))
            db.executemany(f"INSERT OR IGNORE INTO predictions ({_names()}) VALUES ({marks})", values)  # noqa: S608

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        where = f"{self.path.as_uri()}?mode=rwc" + (f"&vfs={self.vfs}" if self.vfs else "")
        with contextlib.closing(sqlite3.connect(where, uri=True, timeout=PATIENCE, isolation_level=None)) as db:
            _refuse_foreign(db, self.path)
            db.execute("PRAGMA synchronous=FULL")
            self._use_wal(db)
            yield db

    def _use_wal(self, db: sqlite3.Connection) -> None:
        mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal" and not self._told:
            self._told = True
            _LOG.warning(
                "%s is on a file system without SQLite's WAL and is written with a %s journal: "
                "readers and writers wait for each other.",
                self.path,
                mode,
            )


def patiently(call: Callable[[], _T], limit: float = PATIENCE) -> _T:
    """Return what a call returns, calling again while another process has the file.

    SQLite's own `busy_timeout` covers neither the switch to WAL nor a file whose last reader is just leaving.
    """
    chance, end = random.Random(), time.monotonic() + limit  # noqa: S311 the global generator is the training's
    while True:
        try:
            return call()
        except sqlite3.OperationalError as error:
            if not _busy(error) or time.monotonic() > end:
                raise
            time.sleep(chance.uniform(0.001, 0.05))


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit what is done inside, or undo it; writers of other processes wait from the beginning."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """See one state of the file, whatever other processes do meanwhile."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")


def make_table(db: sqlite3.Connection, path: Path) -> None:
    """Make the table and its index in an empty file; inside a transaction, so that one process does it.

    Raises:
        PredictionError: the file is not ftdoctor's, or of another version.
    """
    if check(db, path):
        return
    columns = [f'"{name}" {_TYPES[kind]}{"" if name in OPTIONAL else " NOT NULL"}' for name, kind in KINDS.items()]
    columns[0] += " PRIMARY KEY"
    db.execute(f'CREATE TABLE predictions ({", ".join(columns)}, "{EXACT}" TEXT)')
    db.execute("CREATE INDEX predictions_of_sample ON predictions (job, step, sample_index)")
    db.execute(f"PRAGMA application_id={APPLICATION}")
    db.execute(f"PRAGMA user_version={VERSION}")


def check(db: sqlite3.Connection, path: Path) -> bool:
    """Return whether the file holds the table of predictions; False for an empty file. Inside a transaction only.

    Raises:
        PredictionError: the file is not ftdoctor's, or of another version.
    """
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if application == APPLICATION and version == VERSION:
        return True
    if application == APPLICATION:
        age = "a later" if version > VERSION else "an earlier"
        raise PredictionError(
            f"{path} was written by {age} ftdoctor (version {version} of the table, this one knows {VERSION}); "
            "give another file, or install that ftdoctor."
        )
    if application or version or db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise PredictionError(f"{path} is a SQLite file of another program; give a file of its own for predictions.")
    return False


def _refuse_foreign(db: sqlite3.Connection, path: Path) -> None:
    # Before the switch to WAL: another program's file stays as it is, to the last byte.
    try:
        with snapshot(db):
            check(db, path)
    except sqlite3.DatabaseError as error:
        if "not a database" not in str(error):
            raise
        raise PredictionError(f"{path} is not a SQLite file; give another name for the predictions.") from error


def _names() -> str:
    return ", ".join(f'"{name}"' for name in _COLUMNS)


def _busy(error: sqlite3.OperationalError) -> bool:
    return any(word in str(error) for word in ("locked", "busy", "locking protocol"))


def _way_out(error: Exception) -> str:
    text = str(error)
    if "full" in text or "No space" in text:
        return "make room on that disk"
    if "locked" in text:
        return "another process has held it for too long: end it, or give each its own file"
    return "give a path that can be written"
