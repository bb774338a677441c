"""Predictions as lines of JSON, appended to one file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.delivery import Delivery
from ftdoctor.prediction.stored import to_json
from ftdoctor.training import durable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftdoctor.prediction.rows import PredictionRow


class JsonlWriter:
    """Appends lines of ASCII JSON; several processes may write to one file, each call's rows stay together.

    What `write` has returned is on the disk. A line that a kill cut stays as it is, and the next rows begin on a
    line of their own. Rows that are written again are in the file again; `read_predictions` gives each id once.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()

    def __repr__(self) -> str:
        return f"JsonlWriter({str(self.path)!r})"

    def write(self, rows: Sequence[PredictionRow]) -> Delivery:
        """Append rows, or, where the disk is full, none of them."""
        text = b"".join(to_json(row) + b"\n" for row in rows)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists()
            with self.path.open("ab+", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                _append(file.fileno(), text)
            if new:
                durable.sync(self.path.parent)
        except OSError as error:
            raise PredictionError(
                f"{self.path} cannot be written ({error.strerror}); make room there, or give another file."
            ) from error
        return Delivery(written=len(rows))

    def close(self) -> Delivery:
        """Nothing is open between two writes."""
        return Delivery()


def _append(handle: int, text: bytes) -> None:
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        text = b"\n" + text
    try:
        while text:
            text = text[os.write(handle, text) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise
