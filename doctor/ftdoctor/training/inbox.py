"""The inbox: a folder that is watched for data; each file is trained by one recipe, one at a time, and never twice."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import ConfigError, UsageError
from ftdoctor.training.arrivals import Arrivals
from ftdoctor.training.jobs import Folders, Job, advance
from ftdoctor.training.recipe import read_recipe, read_table, refuse_unknown

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ftdoctor.training.arrivals import Arrived
    from ftdoctor.training.jobs import Train
    from ftdoctor.training.recipe import Recipe


@dataclass(frozen=True)
class InboxSettings:
    """How the folder is watched: the table `[inbox]` of config.toml."""

    settle: float = 2.0
    """Seconds for which a file must not have changed before it is taken."""
    poll: float = 10.0
    """Seconds after which the folder is looked at even though nothing was reported: network folders report nothing."""

    @classmethod
    def of(cls, table: Mapping[str, Any], source: str) -> InboxSettings:
        """Make the settings out of the parsed table.

        Raises:
            ConfigError: a name is unknown, or a value is not possible.
        """
        refuse_unknown(table, ("settle", "poll"), source, "inbox.")
        for name, value in table.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= threading.TIMEOUT_MAX:
                raise ConfigError(f"{source}: inbox.{name} = {value!r} is not a number of seconds.")
        if table.get("poll") == 0:
            raise ConfigError(f"{source}: inbox.poll = 0 would never rest; write for example 10.")
        return cls(**{name: float(value) for name, value in table.items()})


class Inbox:
    """Trains what is put into a folder.

    Args:
        root: the folder with config.toml; `inbox`, `work`, `adapters`, `archive` and `failed` are made in it.
        train: the resumable training run, such as `ftdoctor.training.finetuning.finetune`.
        tell: is told what happens, in lines.

    Raises:
        UsageError: there is no such folder.
        ConfigError: config.toml is missing or says something that is not understood.
    """

    def __init__(self, root: Path, train: Train, tell: Callable[[str], None] = lambda _: None) -> None:
        if not root.is_dir():
            raise UsageError(f"There is no folder {root}; make it, and in it a config.toml that names the model.")
        self._folders = Folders(root.resolve())
        self._train, self._tell = train, tell
        self._stopping = False
        # Unlike an event's, the put of a SimpleQueue may interrupt another one, as a signal handler does.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._noted: set[str] = set()
        self._failed = 0
        self._recipe()
        self._settings = InboxSettings.of(self._table(), str(self._folders.config))

    def stop(self) -> None:
        """Ask for an end after the current step; may be called from a signal handler or another thread."""
        self._stopping = True
        self.wake()

    def wake(self) -> None:
        """Have it look at the folder now."""
        self._wake.put(None)

    def run(self, once: bool = False) -> int:
        """Train what is there and what comes, until it is asked to stop.

        Args:
            once: end when the inbox is empty, rather than wait for what comes; a file that is still being written
                then stays where it is.

        Returns:
            The number of files that failed.

        Raises:
            UsageError: another process watches this folder, or the library that watches is not installed.
            ConfigError, LoadError: the recipe cannot be trained by; the file lies in the inbox again.
        """
        with only_one(self._folders.root / ".lock"):
            self._folders.make()
            with contextlib.nullcontext() if once else watching(self._folders.inbox, self.wake, self._tell):
                self._finish_begun()
                if not once and not self._stopping:
                    self._tell(f"watching {self._folders.inbox}")
                self._go_through(once)
        return self._failed

    def _finish_begun(self) -> None:
        for job in self._folders.jobs():
            if not self._stopping:
                self._tell(f"{job.source}: going on where it was left")
                self._advance(job)

    def _go_through(self, once: bool) -> None:
        arrivals = Arrivals(self._folders.inbox, self._settings.settle)
        while not self._stopping:
            arrived = arrivals.look()
            self._note(arrived)
            if arrived.whole:
                self._take(arrived.whole[0])
            elif once and not arrived.settling:
                for path in arrived.written:
                    self._tell(f"{path.name}: still being written; left in the inbox")
                return
            else:
                self._rest(self._pause(arrived))

    def _pause(self, arrived: Arrived) -> float:
        """Return how long to wait at most: a file that may be whole soon is looked at soon."""
        pause = self._settings.poll
        if arrived.settling or arrived.written:
            pause = min(pause, max(self._settings.settle / 2, 0.05))
        return pause

    def _rest(self, seconds: float) -> None:
        """Wait until something has happened since the last rest, or for so long."""
        with contextlib.suppress(queue.Empty):
            self._wake.get(timeout=seconds)
            while True:
                self._wake.get_nowait()

    def _take(self, file: Path) -> None:
        recipe = self._recipe()
        job = self._folders.claim(file, recipe)
        self._tell(f"{job.source}: taken, by recipe {recipe.fingerprint()}")
        self._advance(job)

    def _advance(self, job: Job) -> None:
        if advance(job, self._train, lambda: self._stopping, self._tell) is False:
            self._failed += 1

    def _recipe(self) -> Recipe:
        if not self._folders.config.exists():
            raise ConfigError(f'{self._folders.config} is missing; write one with at least model = "PATH".')
        return read_recipe(self._folders.config)

    def _table(self) -> dict[str, Any]:
        table = read_table(self._folders.config).get("inbox", {})
        if not isinstance(table, dict):
            raise ConfigError(f"{self._folders.config}: inbox = {table!r} is not a table; write [inbox].")
        return table

    def _note(self, arrived: Arrived) -> None:
        """Say once of each what will never be taken."""
        for path in arrived.left_alone:
            if path.name not in self._noted:
                self._noted.add(path.name)
                self._tell(f"{path.name}: left alone: it is no file whose name ends with .jsonl")


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends.

    Raises:
        UsageError: another process holds it, or the system has no such locks.
    """
    if fcntl is None:
        raise UsageError("An inbox needs a POSIX system: this one has no file locks that end with their process.")
    # Record locks are not inherited by forked workers, which may outlive a killed watcher for a moment. They are lost
    # when the process closes any handle of the file, so it is opened once.
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UsageError(
                f"{path.parent} is watched already, by process {holder}; an inbox has one watcher at a time."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def watching(folder: Path, wake: Callable[[], None], tell: Callable[[str], None]) -> Iterator[None]:
    """Call `wake` whenever something in a folder has been written, moved or made, until the block ends.

    Where the system refuses to report (too many watches), that is told, and nothing calls `wake`.

    Raises:
        UsageError: watchdog is not installed.
    """
    try:
        from watchdog.events import FileSystemEventHandler
        from watchdog.observers import Observer
    except ImportError as error:
        raise UsageError(
            "Watching a folder needs watchdog: pip install 'ftdoctor[train]', or go through it with --once."
        ) from error

    class Waker(FileSystemEventHandler):
        """Reading a file is an event too, and looking at the folder reads: only changes wake."""

        def on_created(self, event: Any) -> None:
            wake()

        on_modified = on_moved = on_closed = on_created

    observer = Observer()
    observer.schedule(Waker(), str(folder))
    try:
        observer.start()
    except OSError as error:
        tell(f"the system does not report changes of {folder} ({error.strerror}); it is looked at now and then")
        yield
        return
    try:
        yield
    finally:
        # watchdog 7.1 logs an error where an event arrives while it stops, which the move of the last file may do.
        log = logging.getLogger("watchdog")
        level = log.level
        log.setLevel(logging.CRITICAL)
        observer.stop()
        observer.join()
        log.setLevel(level)
