"""What is known about the batches that a guard has dropped, and where they are kept for inspection."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class BadBatch:
    """One micro-batch that was dropped, and what is known about it."""

    epoch: float
    step: int
    """The optimizer step of whose window it was part, counted from 1."""
    micro_batch: int
    """Its place in the window, counted from 1."""
    process: int
    """The distributed process that had it."""
    kind: str
    """`loss` or `gradient`: what was not finite; `elsewhere` where only another process found something."""
    loss: float
    origin: str
    """Where a replay met the first number that is not finite; empty where the replay was finite."""
    gradients: tuple[str, ...]
    """The first few tensors whose gradient was not finite."""
    weights: tuple[str, ...]
    """The first few weights that were not finite themselves: then every batch is bad, and the run is lost."""
    file: str
    """The saved batch, with a JSON file of the same name beside it; empty where nothing is saved."""

    def __str__(self) -> str:
        place = self.origin or "not reproduced by a replay: look at the hardware, or at what is not deterministic"
        words = f"step {self.step}, micro-batch {self.micro_batch}: {self.kind} is not finite ({place})"
        if self.weights:
            words += f"; weights are themselves not finite ({', '.join(self.weights)}): go back to a checkpoint"
        return words + (f"; saved as {self.file}" if self.file else "")


@dataclass
class GuardRecord:
    """What the guard of a trainer has seen."""

    bad_batches: list[BadBatch] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    """Numbers of the optimizer steps that were not taken, since nothing of their window was left."""

    @property
    def skipped_steps(self) -> int:
        """How many steps were not taken."""
        return len(self.skipped)

    @property
    def per_epoch(self) -> dict[int, int]:
        """Epoch, counted from 0, to the number of bad batches in it."""
        return dict(Counter(int(bad.epoch) for bad in self.bad_batches))

    def until(self, step: int) -> GuardRecord:
        """Return the record of the steps up to this one."""
        bad = [bad for bad in self.bad_batches if bad.step <= step]
        return GuardRecord(bad, [number for number in self.skipped if number <= step])


def save(file: Path, batch: Any, bad: BadBatch, processing: Any) -> None:
    """Save the tensors of a batch, and beside them in JSON what is known and what they say as text."""
    import torch

    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: value.detach().cpu() for name, value in batch.items() if torch.is_tensor(value)}, file)
    known = {**asdict(bad), "loss": str(bad.loss)}
    decode = getattr(processing, "batch_decode", None)
    if decode is not None and "input_ids" in batch:
        known["text"] = decode(batch["input_ids"].tolist())
    file.with_suffix(".json").write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
