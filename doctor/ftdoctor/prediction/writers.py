"""Where predictions are written, chosen by a path or URL."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ftdoctor.errors import PredictionError

if TYPE_CHECKING:
    from ftdoctor.prediction.delivering import SpoolingWriter
    from ftdoctor.prediction.delivery import Delivery, Writer

FILE = "predictions.db"
"""Where a run writes if nothing else is asked for, in its own folder."""
SQLITE_ENDINGS = (".db", ".sqlite", ".sqlite3")
JSONL_ENDINGS = (".jsonl", ".ndjson")
DATABASES = ("sqlite", "postgresql", "mysql", "mariadb", "oracle", "mssql")
"""Schemes that SQLAlchemy knows without further packages."""
SCHEMES = ("http", "https", *DATABASES)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9.+_-]*):(?://)?")


def open_writer(url: str, *, spool: str = "") -> Writer:
    """Return the writer for a URL or path. Nothing is asked of a server before the first `write`.

    `runs/predictions.db` (also .sqlite, .sqlite3, sqlite:///path)  one SQLite file
    `runs/predictions.jsonl` (also .ndjson)                          JSON lines
    `postgresql+psycopg://...`, `mysql+...://...`, ...               any SQLAlchemy database
    `https://host/path`                                              an HTTP API at this address
    `http` (the bare word)                                           an HTTP API at METRICS_API_URL

    Args:
        url: as above.
        spool: folder for what cannot be delivered; for remote writers only; by default one under the user's state
            folder.

    Raises:
        PredictionError: nothing can be written to this URL; the message never repeats its user or password.
    """
    url = os.fspath(url)
    path = local_path(url)
    if path is None:
        return _remote(url, spool)
    if path.suffix.lower() in JSONL_ENDINGS:
        from ftdoctor.prediction.jsonl_writer import JsonlWriter

        return JsonlWriter(path)
    from ftdoctor.prediction.sqlite_writer import SqliteWriter

    return SqliteWriter(path)


def deliver(url: str, *, spool: str = "", refused: bool = False) -> Delivery:
    """Deliver what waits for a remote receiver, within the writer's limit on time; to be called again while rows wait.

    Args:
        url: as for `open_writer`.
        spool: as for `open_writer`.
        refused: also try again what the receiver once refused.

    Raises:
        PredictionError: the URL is not that of a remote writer, or the spool cannot be read.
    """
    if local_path(os.fspath(url)) is not None:
        raise PredictionError(f"Nothing ever waits for the file {url}; give the URL of an HTTP API or a database.")
    writer = _remote(os.fspath(url), spool)
    writer.every_job = True
    if refused:
        writer.spool.admit_refused()
    return writer.close()


def local_path(url: str) -> Path | None:
    """Return the file that a URL or path names; None for a URL of something remote.

    Raises:
        PredictionError: it is neither, or SQLite cannot be meant.
    """
    if url.startswith("sqlite:"):
        return _sqlite_path(url)
    if url == "http" or url.startswith(("http:", "https:")) or (_SCHEME.match(url) and "://" in url):
        return None
    path = Path(url)
    if path.suffix.lower() in (*SQLITE_ENDINGS, *JSONL_ENDINGS):
        return path
    if found := _SCHEME.match(url):
        raise PredictionError(_unknown(found[1]))
    ways = ", ".join((*SQLITE_ENDINGS, *JSONL_ENDINGS))
    named = "This address" if "@" in url else url or "An empty text"
    raise PredictionError(
        f"{named} names nothing to write predictions to{_nearest(url)}; give a file that ends in {ways}, or a URL."
    )


def _sqlite_path(url: str) -> Path:
    name = url.removeprefix("sqlite:///")
    if name == url or not name or "?" in name or name == ":memory:":
        raise PredictionError("A SQLite URL is sqlite:///relative/path.db or sqlite:////absolute/path.db, and no more.")
    return Path(name)


def _remote(url: str, spool: str) -> SpoolingWriter:
    scheme = url.partition(":")[0].lower()
    if scheme in ("http", "https"):
        from ftdoctor.prediction.http_api import http_writer

        return http_writer(url, spool)
    if scheme.partition("+")[0] not in DATABASES and not _known_to_sqlalchemy(scheme):
        raise PredictionError(_unknown(scheme))
    from ftdoctor.prediction.database import database_writer

    return database_writer(url, spool)


def _known_to_sqlalchemy(scheme: str) -> bool:
    try:
        from sqlalchemy.dialects import registry
    except ImportError:
        return False
    try:
        registry.load(scheme.replace("+", "."))
    except Exception:  # noqa: BLE001 whatever a foreign dialect raises: there is none that can be used
        return False
    return True


def _unknown(scheme: str) -> str:
    return f"No writer is known for the scheme {scheme!r}{_nearest(scheme)}; known are {', '.join(SCHEMES)}."


def _nearest(word: str) -> str:
    base = word.partition("+")[0].lower()
    near = difflib.get_close_matches(base, SCHEMES, n=1, cutoff=0.5)
    return f" (is {near[0]} meant?)" if near else ""
