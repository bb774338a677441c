"""Rows on their way to a receiver: on disk before the first try, removed when it has acknowledged them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.sqlite_writer import transaction
from ftdoctor.prediction.stored import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ftdoctor.prediction.rows import PredictionRow

ROWS = 100
"""Most rows of one batch."""
BYTES = 1_000_000
"""Most bytes of one batch; a longer row goes alone."""
FARTHEST = 86_400.0
"""Longest time for which a receiver is left alone because it asked for it, in seconds."""

_VERSION = 1
_TABLES = (
    """CREATE TABLE rows (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL,
       batch TEXT NOT NULL, body BLOB NOT NULL, refused TEXT)""",
    "CREATE INDEX rows_of_batch ON rows (batch)",
    "CREATE TABLE holds (job TEXT PRIMARY KEY, until REAL NOT NULL)",
    f"PRAGMA user_version={_VERSION}",
)


@dataclass(frozen=True)
class Batch:
    """Rows of one job that are sent together, under the same key at every try."""

    key: str
    job: str
    bodies: tuple[bytes, ...]
    """Each row as ASCII JSON."""


class Spool:
    """The queue of one receiver, shared by all processes that write to it.

    One SQLite file with a rollback journal and `synchronous=EXTRA`: a transaction is on the disk or did not happen,
    also on the network file systems that homes lie on; a folder of many small files would need own code for that. Only
    its owner can read it.

    Args:
        folder: where the file lies; the user's state folder where empty.
        receiver: the address, without credentials; another one has another file.
        host: begins the name of the file, for the reader of the folder.
    """

    def __init__(self, folder: str, receiver: str, host: str) -> None:
        digest = hashlib.sha256(receiver.encode()).hexdigest()[:12]
        name = f"{re.sub('[^A-Za-z0-9.-]', '_', host)[:80] or 'local'}-{digest}.db"
        self.path = (Path(folder).expanduser() if folder else default_folder()).absolute() / name

    def add(self, rows: Sequence[PredictionRow]) -> None:
        """Put rows at the end of the queue, durably; a row that waits already is left as it is.

        Raises:
            PredictionError: they cannot be written.
        """
        values = [
            (row.id, batch.key, batch.job, body)
            for batch, members in batches(rows)
            for row, body in zip(members, batch.bodies, strict=True)
        ]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            with self._changed() as db:
                db.executemany("INSERT OR IGNORE INTO rows (id, batch, job, body) VALUES (?, ?, ?, ?)", values)
        except (OSError, sqlite3.Error) as error:
            raise PredictionError(
                f"Predictions cannot be put into the spool {self.path}: {error}; make room, or name another folder."
            ) from error

    def exists(self) -> bool:
        """Return whether anything was ever put into it."""
        return self.path.exists()

    def first(self, before: Collection[str] = (), without: Collection[str] = ()) -> Batch | None:
        """Return the oldest batch that may be sent now.

        Args:
            before: jobs whose batches come before those of others.
            without: jobs that are left out.
        """
        sql = f"""SELECT batch, job FROM rows WHERE refused IS NULL AND job NOT IN ({_marks(without)}) AND job NOT IN
                  (SELECT job FROM holds WHERE until > ? AND until < ?)
                  GROUP BY batch ORDER BY job NOT IN ({_marks(before)}), min(seq) LIMIT 1"""  # noqa: S608
        now = time.time()
        with self._changed() as db:
            found = db.execute(sql, (*without, now, now + 2 * FARTHEST, *before)).fetchone()
            if found is None:
                return None
            bodies = db.execute("SELECT body FROM rows WHERE batch = ? AND refused IS NULL ORDER BY seq", found[:1])
            return Batch(found[0], found[1], tuple(body for (body,) in bodies))

    def remove(self, batch: Batch) -> None:
        """Forget a batch that the receiver has."""
        with self._changed() as db:
            db.execute("DELETE FROM rows WHERE batch = ? AND refused IS NULL", (batch.key,))

    def halve(self, batch: Batch) -> None:
        """Make two batches of one, each with a key of its own, in the place of the one."""
        with self._changed() as db:
            numbers = [seq for (seq,) in db.execute("SELECT seq FROM rows WHERE batch = ? ORDER BY seq", (batch.key,))]
            middle = len(numbers) // 2
            for half in (numbers[:middle], numbers[middle:]):
                key = _new_key()
                db.executemany("UPDATE rows SET batch = ? WHERE seq = ?", [(key, number) for number in half])

    def refuse(self, batch: Batch, reason: str) -> None:
        """Keep a batch aside that the receiver will never take."""
        with self._changed() as db:
            db.execute("UPDATE rows SET refused = ? WHERE batch = ?", (reason, batch.key))

    def admit_refused(self) -> None:
        """Put the rows that were kept aside back into the queue, in their old places."""
        if self.exists():
            with self._changed() as db:
                db.execute("UPDATE rows SET refused = NULL")

    def hold(self, job: str, seconds: float) -> None:
        """Send nothing of a job before so many seconds have passed, whichever process asks."""
        until = time.time() + min(seconds, FARTHEST)
        with self._changed() as db:
            db.execute("INSERT OR REPLACE INTO holds VALUES (?, ?)", (job, until))

    def held(self) -> float:
        """Return for how many seconds nothing is sent of the job that is held longest; 0 where none is."""
        with self._changed() as db:
            until = db.execute("SELECT max(until) FROM holds").fetchone()[0]
        return max(0.0, (until or 0.0) - time.time())

    def waiting(self, jobs: Collection[str] = ()) -> int:
        """Return how many rows wait: those of some jobs, or of all."""
        only = f"AND job IN ({_marks(jobs)})" if jobs else ""
        with self._changed() as db:
            sql = f"SELECT count(*) FROM rows WHERE refused IS NULL {only}"  # noqa: S608
            return int(db.execute(sql, tuple(jobs)).fetchone()[0])

    def refused(self) -> list[tuple[PredictionRow, str]]:
        """Return the rows that are kept aside, each with the reason."""
        if not self.exists():
            return []
        with self._changed() as db:
            found = db.execute("SELECT body, refused FROM rows WHERE refused IS NOT NULL ORDER BY seq").fetchall()
        return [(from_json(body), reason) for body, reason in found]

    @contextlib.contextmanager
    def turn(self, seconds: float) -> Iterator[bool]:
        """Be the only process that delivers; False where another one still does after so many seconds."""
        end = time.monotonic() + seconds
        with self.path.with_suffix(".lock").open("ab") as file:
            mine = _locked(file.fileno())
            while not mine and time.monotonic() < end:
                time.sleep(0.02)
                mine = _locked(file.fileno())
            yield mine

    @contextlib.contextmanager
    def _changed(self) -> Iterator[sqlite3.Connection]:
        """Give a connection inside a transaction; a connection never outlives it, so that no fork inherits one."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=10, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=EXTRA")
            if not self.path.stat().st_size:
                # Only then: in a file that has tables it is a transaction of its own, with all its fsyncs.
                db.execute("PRAGMA auto_vacuum=FULL")
            with transaction(db):
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, _VERSION):
                    raise PredictionError(f"The spool {self.path} is of another ftdoctor; name another folder for it.")
                for sql in _TABLES if version == 0 else ():
                    db.execute(sql)
                yield db


def default_folder() -> Path:
    """Return the folder of spools: in `FTDOCTOR_STATE`, or in the platform's usual state folder."""
    return Path(os.environ.get("FTDOCTOR_STATE") or platformdirs.user_state_dir("ftdoctor")) / "predictions"


def batches(rows: Sequence[PredictionRow]) -> Iterator[tuple[Batch, list[PredictionRow]]]:
    """Cut rows into batches of one job each, within `ROWS` and `BYTES`, in their order."""
    members: list[PredictionRow] = []
    bodies: list[bytes] = []
    for row in rows:
        body = to_json(row)
        full = len(bodies) == ROWS or sum(map(len, bodies)) + len(body) > BYTES
        if bodies and (full or members[-1].job != row.job):
            yield Batch(_new_key(), members[0].job, tuple(bodies)), members
            members, bodies = [], []
        members.append(row)
        bodies.append(body)
    if bodies:
        yield Batch(_new_key(), members[0].job, tuple(bodies)), members


def _new_key() -> str:
    return os.urandom(16).hex()


def _marks(values: Collection[str]) -> str:
    return ", ".join("?" * len(values))


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
