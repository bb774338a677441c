"""Numbers that show early whether a run learns what it should, in the Trainer's usual log; and the first loss judged.

`class MyTrainer(HealthLog, SFTTrainer)`, or `HealthLog` itself as a plain `Trainer`. Each entry of the training log
gets, beside loss, gradient norm and learning rate: scored tokens per step, the share of tokens that are not scored,
tokens per second, and memory. The device is waited for at the times of the log alone, and once after the first step.
"""

from __future__ import annotations

import contextlib
import logging
import math
import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from ftdoctor.errors import TrainingError
from ftdoctor.training.guard import NonFiniteGuard
from ftdoctor.training.loss import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

LEAST = 0.01
"""Nats a token below which a first loss is not believed: every scored token would be 99 % certain beforehand. A model
may know an answer, but not in which words it stands in the data."""
SPREAD = 0.02**2 * 4096
"""Variance of the logits of an untrained head of 4096 features, with the initializer range of transformers: the final
norm gives each feature a mean square of 1, so variances of the weights add up."""
DEVIATIONS = 4.0
"""Standard deviations that chance may add to a mean: a normal variable exceeds them once in 31,000 cases."""


@dataclass(frozen=True)
class Verdict:
    """What a first loss says about the run."""

    kind: str
    """`plausible`, `not finite`, `nothing scored`, `too low` or `too high`."""
    loss: float
    """In nats a token."""
    sentence: str
    """The same in plain words, with what to look for."""

    @property
    def possible(self) -> bool:
        """Whether a healthy run can begin like this."""
        return self.kind == "plausible"


def first_loss_verdict(
    loss: float,
    vocabulary: int,
    *,
    scored: int | None = None,
    distinct: int = 1,
    accumulation: int = 1,
    spread: float = SPREAD,
    trained: bool = False,
) -> Verdict:
    """Judge the loss of a run's first step, before its first update.

    A model that knows nothing gives each token the same probability, which costs ln(vocabulary). A head that was
    never trained costs a little more: for logits of variance s it is ln(vocabulary) + s/2 at most (by Jensen's
    inequality, the mean of a logarithm being at most the logarithm of the mean), and up to four standard deviations
    of the mean over the distinct labels by chance. A pretrained model must be below that; what is above it is worse
    than any guess.

    Args:
        loss: nats a token.
        vocabulary: number of tokens that the head tells apart.
        scored: tokens that were scored, if known.
        distinct: how many different tokens are among them.
        accumulation: micro-batches of the step, to recognise a loss that was not divided by them.
        spread: variance of the logits of an untrained head: its features times its initializer range squared.
        trained: whether the model may have seen these very rows before, as in a resumed run; then no loss is too low.
    """
    guess = math.log(vocabulary)
    highest = guess + spread / 2 + DEVIATIONS * math.sqrt(spread / max(1, distinct))
    told = f"The first loss is {loss:.4g} nats a token; guessing among {vocabulary} tokens gives {guess:.4g}"
    if scored == 0 or (loss == 0.0 and scored is None):
        kind, words = "nothing scored", f"{told}. No token of the first step is scored: all its labels are {IGNORED}"
    elif not math.isfinite(loss):
        kind, words = "not finite", f"The first loss is {loss}, before anything was learned: look at data and dtype"
    elif loss < LEAST and not trained:
        kind = "too low"
        words = (
            f"{told}. The model is certain of every token before it has learned one: either it sees the labels in its "
            "input (a shift in a loss of your own, attention that looks ahead), or it was trained on these rows before"
        )
    elif loss > highest:
        kind = "too high"
        words = f"{told}, and an untrained head at most {highest:.4g}. "
        if accumulation > 1 and loss / accumulation <= highest:
            words += (
                f"It is possible once divided by {accumulation}: is a loss of your own not divided by "
                "num_items_in_batch, or by the accumulated micro-batches?"
            )
        else:
            words += (
                "Are the labels shifted twice, the tokenizer another model's, or weights missing in the checkpoint?"
            )
    else:
        kind = "plausible"
        untrained = abs(loss - guess) <= highest - guess
        words = f"{told}: as of {'an untrained head' if untrained else 'a model that was trained before'}"
    return Verdict(kind, loss, words if words.endswith("?") else f"{words}.")


@dataclass
class HealthRecord:
    """What was found out about a run beside its log."""

    first_loss: Verdict | None = None
    """Known after the first step that was taken."""


class HealthLog(Trainer):  # type: ignore[misc]
    """A Trainer, or a mixin in front of one, that logs what tells a healthy run from a sick one.

    Beside a `NonFiniteGuard` it comes first: `class MyTrainer(HealthLog, NonFiniteGuard, SFTTrainer)`; the guard adds
    `skipped_batches`, and what it drops is not counted here.

    Attributes:
        health: the verdict on the first loss, which is also a warning where that loss is impossible.

    The log's keys: `scored_tokens_per_step`, over all processes; `masked_share`, of the tokens that are not padding;
    `tokens_per_second`, without padding, over all processes, evaluations and checkpoints not included;
    `memory_gib`, the most that the device has held at a time so far, or on a CPU the process.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.health = HealthRecord()
        self._restart()
        super().__init__(*args, **kwargs)

    def _restart(self) -> None:
        self._scored: Any = 0
        self._tokens: Any = 0
        self._norm: Any = None
        self._norm_missing = False
        self._seconds = 0.0
        self._running_since: float | None = None
        self._last_step: int | None = None
        self._first: list[tuple[torch.Tensor, torch.Tensor]] = []

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does."""
        order = type(self).__mro__
        if NonFiniteGuard in order and order.index(NonFiniteGuard) < order.index(HealthLog):
            raise TrainingError(
                "HealthLog would count what NonFiniteGuard computes again; put it first: "
                "class MyTrainer(HealthLog, NonFiniteGuard, ...)."
            )
        self.health = HealthRecord()
        self._restart()
        return super().train(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch the micro-batches of the next step; from here on the time counts."""
        if self._last_step is None:
            self._last_step = self._begun_at = self.state.global_step
        if self._running_since is None:
            self._running_since = time.monotonic()
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute one micro-batch, and count its tokens without waiting for the device."""
        dropped = self._dropped()
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        if self._last_step is None:
            return loss
        labels = inputs.get("labels")
        labels = labels[..., 1:] if labels is not None else loss.new_full((0,), IGNORED)
        if self._dropped() == dropped:
            self._scored = self._scored + labels.ne(IGNORED).sum()
            self._tokens = self._tokens + _size(inputs)
        if self.health.first_loss is None:
            self._first.append((loss, labels))
            if self.accelerator.sync_gradients:
                self._judge()
        if self._norm_missing and self.accelerator.sync_gradients:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            self._norm = torch.nn.utils.get_total_norm(gradients)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the health of the steps since the last entry to an entry of the training log."""
        if self._last_step is not None and "loss" in logs and "learning_rate" in logs:
            self._stop_clock()
            steps = self.state.global_step - self._last_step - getattr(self, "_unlogged_skips", 0)
            counts = torch.stack([torch.as_tensor(n, device=self.args.device) for n in (self._scored, self._tokens)])
            scored, tokens = self.accelerator.gather(counts.unsqueeze(0)).sum(0).tolist()
            logs["scored_tokens_per_step"] = scored / max(1, steps)
            logs["masked_share"] = 1 - scored / tokens if tokens else 0.0
            logs["tokens_per_second"] = tokens / max(self._seconds, 1e-9)
            logs["memory_gib"] = _memory(self.args.device) / 2**30
            if "grad_norm" not in logs and self._norm is not None:
                logs["grad_norm"] = float(self._norm) / self._scale()
            self._norm_missing = self._norm_missing or "grad_norm" not in logs
            self._scored = self._tokens = 0
            self._seconds, self._last_step = 0.0, self.state.global_step
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate, while the clock stands."""
        with self._paused():
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        with self._paused():
            return super()._save_checkpoint(*args, **kwargs)

    def _judge(self) -> None:
        """Give the verdict on the first step that was taken."""
        losses, labels = zip(*self._first, strict=True)
        self._first = []
        if getattr(self, "_nothing_left", False):
            return
        loss = float(self.accelerator.gather(torch.stack(losses).sum().reshape(1)).mean())
        scored = torch.cat([row[row.ne(IGNORED)] for row in labels])
        config = self.model.config.get_text_config()
        width, initial = getattr(config, "hidden_size", None), getattr(config, "initializer_range", None)
        verdict = first_loss_verdict(
            loss,
            config.vocab_size,
            scored=int(self.accelerator.gather(torch.tensor([scored.numel()], device=self.args.device)).sum()),
            distinct=scored.unique().numel(),
            accumulation=len(losses),
            spread=width * initial**2 if width and initial else SPREAD,
            trained=self._begun_at > 0,
        )
        self.health.first_loss = verdict
        logger.log(logging.INFO if verdict.possible else logging.WARNING, "%s", verdict.sentence)

    def _dropped(self) -> int:
        guard = getattr(self, "guard", None)
        return 0 if guard is None else len(guard.bad_batches)

    def _scale(self) -> float:
        return 1.0 if self.accelerator.scaler is None else float(self.accelerator.scaler.get_scale())

    def _stop_clock(self) -> None:
        if self._running_since is not None:
            self._seconds += time.monotonic() - self._running_since
            self._running_since = None

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        running = self._running_since is not None
        self._stop_clock()
        try:
            yield
        finally:
            if running:
                self._running_since = time.monotonic()


def _size(inputs: Any) -> Any:
    """Return the number of tokens of a batch without its padding, where a mask tells it."""
    mask = inputs.get("attention_mask")
    if mask is not None and mask.ndim == 2:
        return mask.sum()
    return inputs["input_ids"].numel() if "input_ids" in inputs else inputs["labels"].numel()


def _memory(device: torch.device) -> int:
    """Return the most that the device, or on a CPU this process, has held at a time, in bytes."""
    if device.type == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(torch.get_device_module(device).max_memory_allocated(device))
