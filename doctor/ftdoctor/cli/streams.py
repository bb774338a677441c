"""Standard output and error that may break while something is shown: a full disk, a reader that has left."""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TextIO


class Lasting:
    """A stream that takes text also after it broke: what is shown is then lost, what shows it goes on.

    What its encoding cannot hold is written as Python writes it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or io.StringIO()  # None is a stream that was closed before the program began
        self.broken: OSError | None = None
        """Why nothing is shown any more."""

    def __getattr__(self, name: str) -> Any:
        """Be the stream in everything else."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or nothing where the stream is broken."""
        with self._noticing():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode(self._stream.encoding, "backslashreplace").decode(self._stream.encoding))
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with self._noticing():
            self._stream.flush()

    @contextlib.contextmanager
    def _noticing(self) -> Any:
        try:
            yield
        except OSError as error:
            self.broken = self.broken or error
            silence(self._stream)


def silence(stream: TextIO) -> None:
    """Let everything that a broken stream still holds, and is given later, go nowhere without an error."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
