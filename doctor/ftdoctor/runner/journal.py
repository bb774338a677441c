"""The journal: every result appended as it arrives, so that a killed run keeps what it had and can go on.

It stays on this machine and keeps names and paths, which resuming needs, but no secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from ftdoctor.errors import FtdoctorError, JournalError
from ftdoctor.redaction import secrets_here
from ftdoctor.results import CellResult, decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ftdoctor.cells import Cell
    from ftdoctor.runner.plan import Planned

KEPT = 20
"""Runs whose journals are kept."""
NAME = "journal.jsonl"


def state_folder() -> Path:
    """Return the folder of ftdoctor's own state: `FTDOCTOR_STATE`, or the platform's usual one."""
    return Path(os.environ.get("FTDOCTOR_STATE") or platformdirs.user_state_dir("ftdoctor"))


def new_run_folder() -> Path:
    """Make a folder for a run, and remove the oldest ones beyond `KEPT`.

    Raises:
        FtdoctorError: the state folder cannot be written.
    """
    runs = state_folder() / "runs"
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder = runs / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise FtdoctorError(
            f"The state folder {runs} cannot be written ({error.strerror}); set FTDOCTOR_STATE to one that can."
        ) from error
    for old in sorted(p for p in runs.iterdir() if p.is_dir())[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def latest() -> Path:
    """Return the journal of the newest run.

    Raises:
        JournalError: there is none.
    """
    runs = state_folder() / "runs"
    found = sorted(runs.glob(f"*/{NAME}"))
    if not found:
        raise JournalError(f"There is no run to resume in {runs}; start one with `ftdoctor check`.")
    return found[-1]


def fingerprint(planned: Sequence[Planned], stack: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """Return a digest of everything on which the results depend, so that runs are not mixed."""
    content = [[(p.probe, p.cell.items, p.skip) for p in planned], sorted(stack.items()), settings]
    return hashlib.sha256(json.dumps(encode(content), sort_keys=True).encode()).hexdigest()[:16]


class Journal:
    """A file of JSON lines: a header, then one result a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, header: Mapping[str, Any]) -> None:
        """Write the header of a new run."""
        self._append({"header": secrets_here().data(encode(header))})

    def add(self, result: CellResult) -> None:
        """Append a result."""
        self._append({"result": encode(secrets_here().record(result))})

    def header(self) -> dict[str, Any]:
        """Return the header.

        Raises:
            JournalError: the file is not a journal.
        """
        for line in self._lines():
            if "header" in line:
                return dict(line["header"])
            break
        raise JournalError(f"{self.path} is not a journal of ftdoctor; give the path of a {NAME}, or none.")

    def results(self) -> dict[tuple[str, Cell], CellResult]:
        """Return what the run had when it ended; a line that was cut off in the middle is left out."""
        found = {}
        for line in self._lines():
            if "result" in line:
                with contextlib.suppress(FtdoctorError):
                    result = decode(CellResult, line["result"])
                    found[result.probe, result.cell] = result
        return found

    def _append(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line) + "\n"
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a killed run left half a line
                    data = "\n" + data
            file.write(data.encode())

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except OSError as error:
            raise JournalError(f"The journal {self.path} cannot be read: {error.strerror}.") from error
        lines = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                parsed = json.loads(line)
                if isinstance(parsed, dict):
                    lines.append(parsed)
        return lines
