"""A file on its way from the inbox to the archive: each step can be killed at any point and done again.

    inbox/a.jsonl            a whole file that nobody has taken
    work/a/job.json          taken: the recipe it is trained by, written before the file is moved
    work/a/data/a.jsonl      where the file lies while it is trained; a job without it is over, or never began
    work/a/earlier.jsonl     examples of archived files that are replayed
    work/a/prepared.json     its digest and what is replayed; from here on nothing is chosen any more
    work/a/run/              the resumable run
    work/a/reason.txt        it failed, and why
    adapters/a/              the adapter, complete, with trained.json: which data and which recipe it comes from
    archive/a.jsonl          the file, trained on; failed/a.jsonl and failed/a.reason.txt where it could not be
    replay.json              how far the walk through the archive has come

Whatever is written appears by a rename of something complete. What an adapter's `trained.json` names is not trained
again. Folders must lie on one file system, so that each move is one rename.
"""

from __future__ import annotations

import errno
import os
import shutil
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ftdoctor import __version__
from ftdoctor.errors import ConfigError, DataError, FtdoctorError, LoadError, TrainingError
from ftdoctor.training.arrivals import SUFFIX
from ftdoctor.training.durable import (
    complete,
    free,
    lines,
    measure,
    move,
    numbered,
    read_json,
    remove,
    sync_tree,
    write_json,
)
from ftdoctor.training.recipe import Recipe
from ftdoctor.training.replay import Cursor, draw, replayed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of a disk that no other file would be spared."""
NAME_BYTES = 200
"""Longest name of an adapter; with the endings it must stay below the 255 bytes of usual file systems."""


class Outcome(Protocol):
    """What a training run ends with."""

    @property
    def finished(self) -> bool:
        """Whether it ran to its end rather than being stopped."""

    @property
    def adapter(self) -> Path:
        """The folder of the adapter, complete where it has finished."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""

    @property
    def summary(self) -> Path:
        """What happened, as JSON; a page of the same name may lie beside it."""


class Train(Protocol):
    """A resumable training run, such as `ftdoctor.training.finetuning.finetune`."""

    def __call__(
        self, recipe: Recipe, dataset: Path, folder: Path, *, earlier: Sequence[Path], stop: Callable[[], bool]
    ) -> Outcome:
        """Train, or go on where the run in this folder was killed."""


@dataclass(frozen=True)
class Folders:
    """The folders of an inbox, below one root."""

    root: Path

    @property
    def inbox(self) -> Path:
        """Files that wait."""
        return self.root / "inbox"

    @property
    def work(self) -> Path:
        """The job that is being done."""
        return self.root / "work"

    @property
    def adapters(self) -> Path:
        """What was trained."""
        return self.root / "adapters"

    @property
    def archive(self) -> Path:
        """Files that were trained on."""
        return self.root / "archive"

    @property
    def failed(self) -> Path:
        """Files that could not be trained on, each with its reason."""
        return self.root / "failed"

    @property
    def config(self) -> Path:
        """The recipe."""
        return self.root / "config.toml"

    @property
    def cursor(self) -> Path:
        """How far the replay has come."""
        return self.root / "replay.json"

    def make(self) -> None:
        """Make what is missing.

        Raises:
            ConfigError: the folders lie on several file systems.
        """
        for folder in (self.work, self.inbox, self.adapters, self.archive, self.failed):
            folder.mkdir(exist_ok=True)
            if folder.stat().st_dev != self.work.stat().st_dev:
                raise ConfigError(
                    f"{folder} lies on another file system than {self.work}, and nothing can be moved between the "
                    "two in one piece; put all folders of an inbox on one."
                )

    def free_name(self, wanted: str) -> str:
        """Return the name, with a number where an adapter, a job, an archived or a failed file has it already."""
        wanted = os.fsdecode(os.fsencode(wanted)[:NAME_BYTES])
        return next(name for name in numbered(wanted) if not self._taken(name))

    def published(self, digest: str, fingerprint: str) -> str:
        """Return the name of the adapter that comes from this data and this recipe, or an empty string."""
        for record in sorted(self.adapters.glob("*/trained.json")):
            told = read_json(record)
            if told.get("sha256") == digest and told.get("recipe") == fingerprint:
                return record.parent.name
        return ""

    def jobs(self) -> list[Job]:
        """Return the jobs that were begun and not ended; clear away what is left of others."""
        found = []
        for folder in sorted(self.work.iterdir()):
            data = sorted((folder / "data").glob("*")) if folder.is_dir() else []
            if not data:  # it has never begun, or it is over: the file lies where it belongs
                remove(folder)
                continue
            told = read_json(folder / "job.json")
            try:
                found.append(Job(self, folder.name, data[0].name, Recipe.of(told["recipe"], "job.json")))
            except (KeyError, TypeError, ConfigError):  # written by another release: it begins anew
                self.put_back(data[0], folder)
        return found

    def put_back(self, data: Path, folder: Path) -> None:
        """Give a job's file back to the inbox, as if it had never been taken."""
        move(data, free(self.inbox, data.name.removesuffix(SUFFIX), SUFFIX))
        remove(folder)

    def _taken(self, name: str) -> bool:
        files = (self.archive / (name + SUFFIX), self.failed / (name + SUFFIX))
        return any(os.path.lexists(place) for place in (self.adapters / name, self.work / name, *files))

    def claim(self, file: Path, recipe: Recipe) -> Job:
        """Take a file out of the inbox."""
        job = Job(self, self.free_name(file.stem), file.name, recipe)
        job.data.parent.mkdir(parents=True)
        write_json(job.folder / "job.json", {"recipe": recipe.as_dict()})
        move(file, job.data)
        return job


@dataclass(frozen=True)
class Job:
    """One file that is being trained, from claim to archive."""

    folders: Folders
    name: str
    """Of the adapter, and of the file in the archive."""
    source: str
    """The file's name in the inbox."""
    recipe: Recipe

    @property
    def folder(self) -> Path:
        """All that the job has written."""
        return self.folders.work / self.name

    @property
    def data(self) -> Path:
        """The file, as long as the job goes on."""
        return self.folder / "data" / self.source

    @property
    def earlier(self) -> Path:
        """The examples that are replayed."""
        return self.folder / "earlier.jsonl"

    @property
    def prepared(self) -> dict[str, Any]:
        """Return what `prepare` has written, or an empty table."""
        return read_json(self.folder / "prepared.json")

    @property
    def reason(self) -> str:
        """Return why it failed, or an empty string."""
        file = self.folder / "reason.txt"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def prepare(self) -> None:
        """Choose the examples that are replayed, once and for all.

        Raises:
            DataError: the same data was trained by the same recipe before.
            ConfigError: the cursor of the replay is damaged.
        """
        if self.prepared:
            return
        digest, count = measure(self.data)
        twin = self.folders.published(digest, self.recipe.fingerprint())
        if twin:
            raise DataError(
                f"{self.data} holds the same data as adapters/{twin}, which was trained by the same recipe; change the "
                "data or the recipe, or take that adapter away, and put the file into the inbox again."
            )
        drawn, cursor = self._replay(digest, replayed(count, self.recipe.replay_share))
        told = {"sha256": digest, "examples": count, "replayed": drawn, "cursor": cursor.as_dict()}
        write_json(self.folder / "prepared.json", told)

    def _replay(self, digest: str, wanted: int) -> tuple[int, Cursor]:
        """Copy so many examples of other files from the archive; return how many there are, and the cursor then."""
        pool = {}
        for file in sorted(self.folders.archive.glob("*" + SUFFIX)) if wanted else ():
            content, size = measure(file)
            if content != digest:
                pool[content] = (file, size)
        sizes = {content: size for content, (_, size) in pool.items()}
        drawn, cursor = draw(sizes, wanted, self._cursor(), self.recipe.seed)
        with complete(self.earlier) as out:
            for content in sorted(pool):
                chosen = {place.row for place in drawn if place.source == content}
                out.writelines(line for row, line in enumerate(lines(pool[content][0])) if row in chosen)
        return len(drawn), cursor

    def train(self, train: Train, stop: Callable[[], bool]) -> Outcome:
        """Train, or go on with the training."""
        earlier = [self.earlier] if self.prepared["replayed"] else []
        return train(self.recipe, self.data, self.folder / "run", earlier=earlier, stop=stop)

    def is_published(self) -> bool:
        """Say whether its adapter stands among the others."""
        return bool(self._adapter())

    def publish(self, outcome: Outcome) -> None:
        """Put the adapter among the others, complete and with its origin."""
        staged = self.folder / "adapter"
        remove(staged)
        shutil.copytree(outcome.adapter, staged)
        for told in (outcome.summary, outcome.summary.with_suffix(".html")):
            if told.exists():
                shutil.copy(told, staged)
        record = {
            "source": self.source,
            "sha256": self.prepared["sha256"],
            "recipe": self.recipe.fingerprint(),
            "settings": self.recipe.as_dict(),
            "examples": self.prepared["examples"],
            "replayed": self.prepared["replayed"],
            "steps": outcome.steps,
            "ftdoctor": __version__,
        }
        write_json(staged / "trained.json", record)
        sync_tree(staged)
        move(staged, free(self.folders.adapters, self.name))

    def archive(self) -> str:
        """End a published job; return the adapter's name."""
        adapter = self._adapter()
        write_json(self.folders.cursor, self.prepared["cursor"])
        move(self.data, free(self.folders.archive, self.name, SUFFIX))
        remove(self.folder)
        return adapter

    def fail(self, reason: str) -> Path:
        """End a job that cannot be done; return the file that says why."""
        # The reason stands in the job first, so that a job that is killed here is not tried again.
        with complete(self.folder / "reason.txt") as out:
            out.write(reason.replace(str(self.data), self.source).rstrip().encode("utf-8", "backslashreplace") + b"\n")
        target = free(self.folders.failed, self.name, SUFFIX)
        told = target.with_name(target.name.removesuffix(SUFFIX) + ".reason.txt")
        with complete(told) as out:
            out.write(self.reason.encode())
        move(self.data, target)
        remove(self.folder)
        return told

    def _adapter(self) -> str:
        return self.folders.published(self.prepared.get("sha256", ""), self.recipe.fingerprint())

    def _cursor(self) -> Cursor:
        try:
            return Cursor.of(read_json(self.folders.cursor)) if self.folders.cursor.exists() else Cursor()
        except TrainingError as error:
            raise ConfigError(f"{self.folders.cursor} is damaged; remove it to begin the replay anew.") from error


def advance(job: Job, train: Train, stop: Callable[[], bool], tell: Callable[[str], None]) -> bool | None:
    """Do what is left of a job.

    Args:
        job: one that was claimed now, or begun by a process that was killed.
        train: the resumable run.
        stop: asked after each step.
        tell: is told what happens, in lines.

    Returns:
        True where it was trained and archived, False where it failed, None where it was stopped.

    Raises:
        ConfigError, LoadError: the recipe, not the data, is at fault; the file is back in the inbox.
        TrainingError: the stack is at fault, likewise.
        OSError: the disk is full or read-only; the job goes on at the next start.
    """
    if not job.reason and not job.is_published():
        reason = ""
        try:
            job.prepare()
            outcome = job.train(train, stop)
        except (ConfigError, LoadError):
            job.folders.put_back(job.data, job.folder)
            raise
        except ImportError as error:
            job.folders.put_back(job.data, job.folder)
            raise TrainingError(f"The fine-tuning stack cannot be imported ({error}); see `ftdoctor check`.") from error
        except FtdoctorError as error:
            reason = str(error)
        except OSError as error:
            if error.errno in FULL:
                raise
            reason = traceback.format_exc()
        except Exception:  # noqa: BLE001 - whatever it was, the files behind it are to be trained
            reason = traceback.format_exc()
        if reason:
            _fail(job, reason, tell)
            return False
        if not outcome.finished:
            tell(f"{job.source}: stopped after step {outcome.steps}; the next start goes on from there")
            return None
        job.publish(outcome)
    if job.reason:
        _fail(job, job.reason, tell)
        return False
    tell(f"{job.source}: trained: adapters/{job.archive()}")
    return True


def _fail(job: Job, reason: str, tell: Callable[[str], None]) -> None:
    told = job.fail(reason)
    last = told.read_text(encoding="utf-8").rstrip().splitlines()[-1]
    tell(f"{job.source}: failed: {last} (see failed/{told.name})")
