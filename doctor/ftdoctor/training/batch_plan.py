"""Go on after running out of memory with half the batch and twice the accumulation: the same examples in every step.

The Trainer's own `auto_find_batch_size` shrinks the batch and leaves the accumulation as it was: another effective
batch, another learning rate for it, and a start from zero.
"""

from __future__ import annotations

import json
import logging
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ftdoctor.errors import TrainingError
from ftdoctor.training import durable, memory, rng

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("ftdoctor.training")
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class BatchPlan:
    """How an effective batch is cut into micro-batches on one device."""

    batch_size: int
    """Rows of a micro-batch."""
    accumulation: int
    """Micro-batches of an optimizer step."""

    @property
    def effective(self) -> int:
        """Rows of an optimizer step."""
        return self.batch_size * self.accumulation

    def smaller(self) -> BatchPlan:
        """Return the plan with at most half the rows in a micro-batch and as many in a step.

        An odd batch size falls to its largest divisor, so that no row is added to a step or lost from it.

        Raises:
            TrainingError: a micro-batch is one row already.
        """
        if self.batch_size == 1:
            raise TrainingError(
                "Memory ran out with a batch of one row; shorten the rows (max_length), switch gradient checkpointing "
                "on, quantize the model, or train an adapter instead of all weights."
            )
        rows = next(n for n in range(self.batch_size // 2, 0, -1) if self.batch_size % n == 0)
        return BatchPlan(rows, self.effective // rows)

    def __str__(self) -> str:
        return f"{self.batch_size} x {self.accumulation}"


@dataclass(frozen=True)
class Shrunk:
    """One time that memory ran out."""

    step: int
    """Optimizer steps that were done and kept."""
    where: str
    """`step` (forward or backward), `optimizer` or `evaluation`."""
    before: BatchPlan
    after: BatchPlan
    evaluation_batch: int
    """Rows of an evaluation batch from here on."""
    restart: str
    """Where training went on: `step 12`, an older checkpoint, or `the beginning`."""

    def __str__(self) -> str:
        if self.where == "evaluation":
            told = f"evaluation batches of {self.evaluation_batch} rows"
        else:
            told = f"{self.after} instead of {self.before} (rows x accumulation)"
        return f"in the {self.where} after step {self.step}; going on from {self.restart} with {told}"


@dataclass(frozen=True)
class Trained:
    """What `train_within_memory` returns."""

    output: Any
    """What `trainer.train` returned."""
    plan: BatchPlan
    """The plan with which it ended."""
    shrunk: tuple[Shrunk, ...]


def train_within_memory(trainer: Any, *, resume_from_checkpoint: str | None = None) -> Trained:
    """Train as `trainer.train()` does, and go on with smaller micro-batches when memory runs out.

    The examples of every optimizer step and the normalisation of its loss stay what they were. Training goes on
    from the state after the last whole step: out of memory in a forward or backward pass has not touched weights
    or optimizer, so that state is written as a checkpoint and resumed; out of memory within the optimizer's own
    step may have, so the newest checkpoint before it is resumed instead. In evaluation, the evaluation batch is
    halved.

    For one process: where several train together, the others would wait for the one that ran out of memory.
    The order of examples must not depend on the batch size, as it does with `group_by_length`.

    Args:
        trainer: a transformers Trainer (or one derived from it) with what it needs to train; its arguments
            `per_device_train_batch_size` and `gradient_accumulation_steps` are changed when memory runs out.
        resume_from_checkpoint: folder of a checkpoint to begin with.

    Raises:
        TrainingError: memory runs out with one row, or the trainer cannot be restarted on its own.
    """
    _refuse(trainer)
    watch = _Watch(trainer, resume_from_checkpoint)
    shrunk: list[Shrunk] = []
    trainer.add_callback(watch)
    try:
        while True:
            _align(watch.checkpoint, trainer.args.train_batch_size)
            try:
                output = trainer.train(resume_from_checkpoint=watch.checkpoint)
                return Trained(output, _plan(trainer), tuple(shrunk))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                where = _where(error, watch)
                traceback.clear_frames(error.__traceback__)  # they hold the activations
            _release(trainer)
            event = _shrink(trainer, where, watch)
            shrunk.append(event)
            log.warning("out of memory: %s", event)
    finally:
        trainer.remove_callback(watch)


def fitting(plan: BatchPlan, need: Callable[[int], int], free: int) -> BatchPlan:
    """Return the plan with the largest micro-batch that an estimate expects to fit, or that of one row.

    Args:
        plan: the plan that was asked for.
        need: bytes that a step needs, by the rows of its micro-batch (`step_memory(...).total`).
        free: bytes that are free; 0 where that is not known, and nothing is changed.
    """
    while free and plan.batch_size > 1 and need(plan.batch_size) > free:
        plan = plan.smaller()
    return plan


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an exception means that memory ran out, on a GPU or on a CPU."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Keeps what the last good state is made of, which no exception tells."""

    def __init__(self, trainer: Any, checkpoint: str | None) -> None:
        self.trainer = trainer
        self.checkpoint = checkpoint
        """From which training goes on next time; None for the beginning."""
        self.begun_at = 0
        self.begin = rng.take()
        self.step_begin = self.begin
        self.stepping = False
        self.weights: list[Any] = []
        """Of what is trained, before the optimizer's first step: it is that step which allocates its state."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun_at, self.stepping = state.global_step, False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step_begin, self.stepping = rng.take(), False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stepping = True
        if not self.trainer.optimizer.state:
            self.weights = [p.detach().to("cpu", copy=True) for p in _trained(self.trainer)]

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stepping, self.weights = False, []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.checkpoint = _folder(self.trainer)

    def undo_optimizer_step(self) -> bool:
        """Put back what a first step of the optimizer has changed; say whether that could be done."""
        import torch

        if not self.weights:
            return False
        with torch.no_grad():
            for parameter, before in zip(_trained(self.trainer), self.weights, strict=True):
                parameter.copy_(before)
        self.trainer.optimizer.state.clear()
        self.weights = []
        return True


def _align(checkpoint: str | None, batch_size: int) -> None:
    """Write the batch size of now into a checkpoint: transformers 4 resumes with the one that it finds there."""
    file = Path(checkpoint or "") / "trainer_state.json"
    if checkpoint is None or not file.is_file():
        return
    state = json.loads(file.read_text(encoding="utf-8"))
    if state.get("train_batch_size") != batch_size:
        durable.write_json(file, {**state, "train_batch_size": batch_size})


def _trained(trainer: Any) -> list[Any]:
    return [p for p in trainer.model.parameters() if p.requires_grad]


def _folder(trainer: Any) -> str:
    return str(Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}")


def _plan(trainer: Any) -> BatchPlan:
    return BatchPlan(trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps)


def _refuse(trainer: Any) -> None:
    args = trainer.args
    grouped = (
        getattr(args, "group_by_length", False) or getattr(args, "train_sampling_strategy", "") == "group_by_length"
    )
    for refused, sentence in (
        (
            args.world_size > 1,
            "Several processes cannot shrink their batch while they train; find one that fits in one process first.",
        ),
        (
            getattr(args, "auto_find_batch_size", False),
            "auto_find_batch_size changes the effective batch; leave it out of the training arguments here.",
        ),
        (grouped, "With group_by_length the order of examples depends on the batch size; leave it out here."),
        (args.save_only_model, "With save_only_model no checkpoint can be gone on from; leave it out here."),
    ):
        if refused:
            raise TrainingError(sentence)


def _where(error: BaseException, watch: _Watch) -> str:
    names = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    if names & {"evaluation_loop", "prediction_loop"}:
        return "evaluation"
    return "optimizer" if watch.stepping else "step"


def _shrink(trainer: Any, where: str, watch: _Watch) -> Shrunk:
    """Choose the next plan, keep the last good state, and change the trainer's arguments."""
    args, step = trainer.args, trainer.state.global_step
    before, evaluation = _plan(trainer), args.per_device_eval_batch_size
    if where == "evaluation":
        after, evaluation = before, BatchPlan(evaluation, 1).smaller().batch_size
    else:
        after = before.smaller()
    restart = _keep(trainer, where, watch)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = after.batch_size, after.accumulation
    args.per_device_eval_batch_size = evaluation
    trainer._train_batch_size = args.train_batch_size
    return Shrunk(step, where, before, after, evaluation, restart)


def _keep(trainer: Any, where: str, watch: _Watch) -> str:
    """Make sure that `watch.checkpoint` holds the state after the last whole step; return its name in words."""
    step = trainer.state.global_step
    if where == "optimizer" and not watch.undo_optimizer_step():
        if watch.checkpoint is None:
            raise TrainingError(
                "Memory ran out within the optimizer's step, which may have changed part of the weights, and there is "
                "no checkpoint to go back to; save one early (save_steps), or start again with a smaller batch."
            )
        return f"checkpoint {watch.checkpoint}"
    if step > watch.begun_at and watch.checkpoint != _folder(trainer):
        rng.put_back(watch.step_begin)
        trainer._save_checkpoint(trainer.model, trial=None)
        watch.checkpoint = _folder(trainer)
    if watch.checkpoint is None:
        rng.put_back(watch.begin)
        return "the beginning"
    return f"step {step}"


def _release(trainer: Any) -> None:
    """Give back what the failed step has allocated."""
    trainer.model.zero_grad(set_to_none=True)
    memory.release()
