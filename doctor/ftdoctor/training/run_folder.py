"""The folder of a training run: what it was asked, its complete checkpoints, and its adapter once it is finished.

run.json                what this run is: recipe and digests of its data
checkpoints/            the Trainer's own, each with a mark once it is complete
nonfinite/              batches that the guard has dropped
adapter/                the finished adapter with its tokenizer and message rules, there as a whole or not at all
summary.json            what happened; the command line writes summary.html beside it, and predictions.db
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import UsageError
from ftdoctor.training import durable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ftdoctor.training.recipe import Recipe

SCHEMA = "ftdoctor.run/1"
COMPLETE = "ftdoctor-complete"
"""The file that marks a checkpoint as complete; without it, a kill has come in between."""
CHUNK = 2**20


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where the Trainer writes."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The finished adapter."""
        return self.path / "adapter"

    @property
    def summary(self) -> Path:
        """The summary in JSON."""
        return self.path / "summary.json"

    @property
    def bad_batches(self) -> Path:
        """Batches that were dropped."""
        return self.path / "nonfinite"

    def refuse_another(self, identity: dict[str, Any]) -> None:
        """Refuse a folder that holds something else than this run.

        Raises:
            UsageError: it holds another run, or files that are none of a run's.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; name a folder for the run.")
        if not self.path.exists():
            return
        known = durable.read_json(self.path / "run.json")
        if not known:
            # A kill while run.json was written has left nothing but the beginning of it.
            if any(file.name != "run.json.partial" for file in self.path.iterdir()):
                raise UsageError(f"{self.path} holds files that are none of a training run's; name an empty folder.")
            return
        changed = [name for name in ("schema", "recipe", "data", "earlier") if known.get(name) != identity[name]]
        if changed:
            raise UsageError(
                f"{self.path} holds a run with another {' and '.join(_words(changed, known, identity))}; name another "
                "folder, or give what that run was given to go on with it."
            )

    def begin(self, identity: dict[str, Any]) -> None:
        """Make the folder, say what it is, and remove what a kill has left incomplete."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not durable.read_json(self.path / "run.json"):
            durable.write_json(self.path / "run.json", identity)
        self.checkpoints.mkdir(exist_ok=True)
        for folder in self._saved():
            if not (folder / COMPLETE).exists():
                durable.remove(folder)

    def mark_complete(self, step: int) -> None:
        """Say that the checkpoint of a step is complete and on the disk."""
        folder = self.checkpoints / f"checkpoint-{step}"
        durable.sync_tree(folder)
        (folder / COMPLETE).touch()
        durable.sync(folder)

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint."""
        complete = [folder for folder in self._saved() if (folder / COMPLETE).exists()]
        return max(complete, key=_step, default=None)

    def _saved(self) -> list[Path]:
        return [p for p in self.checkpoints.glob("checkpoint-*") if p.is_dir() and _step(p) >= 0]


def identity(recipe: Recipe, dataset: Path, earlier: Sequence[Path]) -> dict[str, Any]:
    """Return what a run is: its recipe and digests of its data, wherever the files lie."""
    return {
        "schema": SCHEMA,
        "recipe": recipe.as_dict(),
        "data": digest(dataset),
        "earlier": [digest(path) for path in earlier],
    }


def digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _step(folder: Path) -> int:
    found = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(found[1]) if found else -1


def _words(changed: list[str], known: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Return the names of what differs; of a recipe, the settings."""
    words = {"data": "dataset", "earlier": "file of earlier examples", "schema": "version of ftdoctor"}
    found = [words[name] for name in changed if name != "recipe"]
    before, after = known.get("recipe") or {}, asked["recipe"]
    return found + sorted(name for name in after if before.get(name) != after[name])
