"""Ctrl-C, a request to terminate, a terminal that is gone: the first ends the run, none takes the report away."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
BUSY = "ftdoctor: busy with the report; interrupt once more to leave without it"


class Interrupts:
    """Decides what an interrupt does: within `running` it ends the run, outside of it the first one only warns."""

    def __init__(self) -> None:
        self._running = False
        self._warned = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Mark where a run goes on, which takes a KeyboardInterrupt as its end."""
        self._running = True
        try:
            yield
        finally:
            self._running = False

    def __call__(self, number: int, frame: Any) -> None:
        """Take a signal."""
        if self._running or self._warned:
            self._running = False
            raise KeyboardInterrupt
        self._warned = True
        with contextlib.suppress(OSError, RuntimeError):  # nobody reads, or it came in the middle of a write
            print(BUSY, file=sys.stderr, flush=True)  # noqa: T201


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Take these signals as KeyboardInterrupt, once; what a shell has made us ignore stays ignored."""
    made = Interrupts()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, made)
    try:
        yield made
    finally:
        for number in taken:
            signal.signal(number, before[number])
