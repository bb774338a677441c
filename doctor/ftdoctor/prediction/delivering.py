"""Delivers what waits in a spool to a receiver that may refuse, stall or be away, within a limit on time."""

from __future__ import annotations

import logging
import queue
import random
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from ftdoctor.prediction.delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ftdoctor.prediction.rows import PredictionRow
    from ftdoctor.prediction.spool import Batch, Spool

TIME_LIMIT = 10.0
"""Seconds that one call of `write` or `close` may take."""
AWAY = ("no answer", "no connection")
"""What `Answer.about` is where nobody is there to answer."""
_SHORTEST = 0.05
"""Seconds below which a try is not worth beginning."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0

_LOG = logging.getLogger("ftdoctor.prediction")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Answer:
    """What a receiver said to a batch."""

    kind: Literal["taken", "again", "blocked", "bad"]
    """`again`: it may take the batch in a moment. `blocked`: not before somebody has changed something. `bad`:
    something in the batch is wrong, or there is too much in it."""
    reason: str = ""
    """One sentence, without credentials."""
    about: str = ""
    """Kind of the trouble, of `AWAY` or another: a warning is given once for each."""
    after: float | None = None
    """Seconds that it asks to wait before the next try."""


class Receiver(Protocol):
    """Where batches go."""

    shown: str
    """The address without credentials."""

    def send(self, batch: Batch, seconds: float, tries: int) -> Answer:
        """Send a batch and return the answer within so many seconds; `tries` were made before in this call."""

    def close(self) -> None:
        """Let go of connections."""


@dataclass
class _Call:
    """What happened in one call."""

    end: float
    written: int = 0
    refused: int = 0
    reason: str = ""
    tries: int = 0
    key: str = ""
    skipped: set[str] = field(default_factory=set)

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


class SpoolingWriter:
    """Puts rows into a spool, then delivers in order what waits there, earlier rows and other processes' included.

    Args:
        receiver: where rows go.
        spool: its queue.
        time_limit: seconds that one call may take; what is left then waits for the next call, or the next start.

    Attributes:
        every_job: whether an answer about rows of jobs that it has not written itself is final. By default it is not:
            they may need the token of their own process, and wait for it unless they are taken.
    """

    def __init__(self, receiver: Receiver, spool: Spool, time_limit: float = TIME_LIMIT) -> None:
        self.receiver = receiver
        self.spool = spool
        self.time_limit = time_limit
        self.every_job = False
        self._jobs: set[str] = set()
        self._closed_to_us: set[str] = set()
        self._told: set[str] = set()
        self._away = False
        # The global generator is the training's: a draw from it would change the run.
        self._chance = random.Random()  # noqa: S311

    def __repr__(self) -> str:
        return f"{type(self.receiver).__name__}({self.receiver.shown!r})"

    def write(self, rows: Sequence[PredictionRow]) -> Delivery:
        """Have rows on disk, then deliver what can be within the limit.

        Raises:
            PredictionError: the spool cannot take them.
        """
        self._jobs |= {row.job for row in rows}
        if rows:
            self.spool.add(rows)
        return self._delivered(len(rows))

    def close(self) -> Delivery:
        """Try once more to deliver what waits, and let go of connections."""
        try:
            return self._delivered(0)
        finally:
            self.receiver.close()

    def _delivered(self, rows: int) -> Delivery:
        if not self.spool.exists():
            return Delivery()
        call = _Call(time.monotonic() + self.time_limit)
        try:
            with self.spool.turn(self.time_limit) as mine:
                if mine:
                    self._send_all(call)
            if not mine:
                call.reason = f"Another process has been delivering to {self.receiver.shown} all the time."
            waiting = self.spool.waiting(self._jobs)
        except (OSError, sqlite3.Error) as error:
            # The rows are on disk: what has not been removed is sent again under the same key.
            call.reason = f"The spool {self.spool.path} cannot be changed ({error}); make room there."
            self._warn(call.reason, "spool")
            return Delivery(call.written, max(0, rows - call.written), call.refused, call.reason)
        if waiting and not call.reason:
            call.reason = self._why_nothing_was_tried()
        return Delivery(call.written, waiting, call.refused, call.reason if waiting or call.refused else "")

    def _why_nothing_was_tried(self) -> str:
        if held := self.spool.held():
            return f"{self.receiver.shown} asked to wait {held:.0f} more seconds."
        return f"Rows of other jobs wait for their own processes to deliver them to {self.receiver.shown}."

    def _send_all(self, call: _Call) -> None:
        while batch := self.spool.first(self._jobs, call.skipped | self._closed_to_us):
            if call.left < _SHORTEST:
                call.reason = call.reason or f"The time for {self.receiver.shown} was up."
                return
            if batch.key != call.key:
                call.key, call.tries = batch.key, 0
            answer = self.receiver.send(batch, call.left, call.tries)
            call.tries += 1
            if answer.reason and self._answers_for(batch.job):
                call.reason = answer.reason
                self._warn(answer.reason, answer.about)
            self._take(answer, batch, call)

    def _answers_for(self, job: str) -> bool:
        return self.every_job or job in self._jobs

    def _take(self, answer: Answer, batch: Batch, call: _Call) -> None:
        if answer.kind == "taken":
            self._away = False
            self.spool.remove(batch)
            call.written += len(batch.bodies)
        elif answer.kind == "again":
            self._pause(answer, batch, call)
        elif not self._answers_for(batch.job):
            self._closed_to_us.add(batch.job)
        elif answer.kind == "blocked":
            call.skipped.add(batch.job)
        elif len(batch.bodies) > 1:
            self.spool.halve(batch)
        else:
            self.spool.refuse(batch, answer.reason)
            call.refused += 1

    def _pause(self, answer: Answer, batch: Batch, call: _Call) -> None:
        # "Full jitter": processes that failed together do not come back together.
        jitter = self._chance.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (call.tries - 1)))
        pause = max(jitter, answer.after or 0.0)
        away = answer.about in AWAY
        if pause < call.left - _SHORTEST and not (away and self._away):
            self._away = False
            time.sleep(pause)
            return
        # A server that is down for hours is asked once a call from now on, not for the whole limit each time.
        self._away = away
        call.skipped.add(batch.job)
        if answer.after:
            self.spool.hold(batch.job, answer.after)

    def _warn(self, reason: str, about: str) -> None:
        if about not in self._told:
            self._told.add(about)
            _LOG.warning("%s", reason)


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """Return what a call returns, or raise what it raises, within so many seconds.

    Sockets have limits for one read, not for an answer that trickles, and none at all for looking up a name: the call
    runs in a thread that is left behind.

    Raises:
        TimeoutError: it took longer; it may still be running.
    """
    box: queue.SimpleQueue[tuple[bool, _T | BaseException]] = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put((True, call()))
        except BaseException as error:  # noqa: BLE001 raised again by the caller
            box.put((False, error))

    threading.Thread(target=run, name="ftdoctor-delivery", daemon=True).start()
    try:
        good, value = box.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.1f} seconds") from None
    if good:
        return value  # type: ignore[return-value]
    raise value  # type: ignore[misc]
