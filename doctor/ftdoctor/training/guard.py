"""Keeps NaN and infinity out of the weights: the micro-batch that brings one is left out as if it had never come.

`class MyTrainer(NonFiniteGuard, SFTTrainer)`, or `NonFiniteGuard` itself as a plain `Trainer`. After each backward
pass one number says whether loss and gradient are finite. Where they are not, the gradients of the accumulation
window are dropped and the micro-batches before the bad one are computed again, with the random numbers they had and
the normalisation of a window that never held it. A window in which nothing is left takes no step at all.
"""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from ftdoctor.errors import NonFiniteError, TrainingError
from ftdoctor.training.bad_batches import BadBatch, GuardRecord, save
from ftdoctor.training.origin import Origin, first_nonfinite
from ftdoctor.training.undo import Before, Scope

__all__ = ["BadBatch", "GuardRecord", "GuardSettings", "NonFiniteGuard"]

logger = logging.getLogger(__name__)
NAMED = 5
"""Tensors that a record names; there may be thousands."""


@dataclass(frozen=True)
class GuardSettings:
    """What the guard does with a batch that it has dropped."""

    limit: int = 10
    """Faults in one epoch after which the next one stops the training; 0 stops it at the first."""
    folder: str = ""
    """Where bad batches are saved; the folder `nonfinite` of the trainer's `output_dir` where it is empty."""
    save: bool = True
    """Whether the tensors and the text of a bad batch are saved: they are training data."""


@dataclass
class _Window:
    """The micro-batches of one optimizer step."""

    batches: list[Any]
    items: Any
    before: list[Before] = field(default_factory=list)
    losses: dict[int, torch.Tensor] = field(default_factory=dict)
    bad: set[int] = field(default_factory=set)
    reported: list[torch.Tensor] = field(default_factory=list)
    leftover: dict[int, torch.Tensor] = field(default_factory=dict)
    """Gradients that an earlier, shorter window has left: the Trainer takes no step where an epoch ends early."""

    def good(self, until: int) -> list[int]:
        return [k for k in range(until) if k not in self.bad]

    def report(self, loss: torch.Tensor) -> torch.Tensor:
        """Return what to add to the loss reported so far, so that the sum is that of the good micro-batches."""
        if self.bad:
            good = [self.losses[k] for k in self.good(len(self.before))]
            loss = sum(good, torch.zeros_like(loss)) - sum(self.reported, torch.zeros_like(loss))
        self.reported.append(loss)
        return loss


class NonFiniteGuard(Trainer):  # type: ignore[misc]
    """A Trainer, or a mixin in front of one, that steps over what is not finite.

    Args:
        guard: limit, and folder for the bad batches.
        args: for the Trainer.
        kwargs: for the Trainer.

    Attributes:
        guard: the record of what was dropped; a training that is resumed goes on with it.

    Raises:
        NonFiniteError: from `train`, when an epoch has more faults than the limit.
        TrainingError: from `train`, for what cannot be guarded: DeepSpeed, FSDP and other backends that hold the
            gradients themselves, and optimizers that step within the backward pass.
    """

    def __init__(self, *args: Any, guard: GuardSettings | None = None, **kwargs: Any) -> None:
        self.guard_settings = guard or GuardSettings()
        self.guard = GuardRecord()
        self._window: _Window | None = None
        self._scope: tuple[Any, Scope] | None = None
        self._nothing_left = False
        self._unlogged_skips = 0
        self._logged_step = 0
        super().__init__(*args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does, with the mean loss taken over the steps that were taken."""
        _refuse(self)
        self._nothing_left, self._unlogged_skips = False, 0
        between = _Between(self)
        self.add_callback(between)
        try:
            output = super().train(*args, **kwargs)
        finally:
            self.remove_callback(between)
            self._window = self._scope = None
            if self._nothing_left:
                _keep_still(self.accelerator, False)
        return output._replace(training_loss=self._mean_over_taken(output.training_loss))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Fetch the micro-batches of the next optimizer step, and keep hold of them."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        self._window = _Window(list(batches), items)
        return batches, items

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Compute one micro-batch, and leave no trace of it where it is not finite."""
        window = self._window
        at = 0 if window is None else len(window.before)
        if window is None or at >= len(window.batches) or window.batches[at] is not inputs:
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss
        scope = self._scope_now()
        if at == 0:
            window.leftover = {i: p.grad.clone() for i, p in enumerate(scope.parameters) if p.grad is not None}
        window.before.append(Before(self, scope))
        if not window.bad:
            window.items = num_items_in_batch
        loss = window.losses[at] = super().training_step(model, inputs, window.items)
        if self._sound(loss, scope):
            return window.report(loss)
        self._drop(window, at, loss, scope)
        self._compute_again(model, window, at, scope)
        self._nothing_left = not window.leftover and not window.good(len(window.batches))
        return window.report(loss)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log means over the steps that were taken, and the number of bad batches so far."""
        if "loss" in logs and "learning_rate" in logs:
            steps = self.state.global_step - self._logged_step
            if 0 < self._unlogged_skips < steps:
                logs["loss"] *= steps / (steps - self._unlogged_skips)
            elif self._unlogged_skips:
                del logs["loss"]
            if self._nothing_left:
                logs.pop("grad_norm", None)
            logs["skipped_batches"] = len(self.guard.bad_batches)
            self._logged_step, self._unlogged_skips = self.state.global_step, 0
        if "train_loss" in logs:
            logs["train_loss"] = self._mean_over_taken(logs["train_loss"])
        super().log(logs, *args, **kwargs)

    def _mean_over_taken(self, mean: float) -> float:
        """Turn a mean over all steps, to which the skipped ones have added zero, into one over those taken."""
        begun = getattr(self, "_initial_global_step", 0)
        steps = self.state.global_step - begun
        taken = steps - sum(number > begun for number in self.guard.skipped)
        return mean * steps / taken if taken > 0 else math.nan

    def _scope_now(self) -> Scope:
        """Return what a micro-batch may change; found again each epoch, and when the optimizer has grown."""
        key = (int(self.state.epoch or 0), sum(len(group["params"]) for group in self.optimizer.param_groups))
        if self._scope is None or self._scope[0] != key:
            self._scope = key, Scope.of(self)
        return self._scope[1]

    def _sound(self, loss: torch.Tensor, scope: Scope) -> bool:
        """Say whether a micro-batch may stay, in all processes alike; this waits for the device once."""
        loss_ok, gradient_ok = _agreed(_finite(loss, scope.parameters), self.accelerator)
        if loss_ok and not gradient_ok and self.accelerator.scaler is not None:
            # With loss scaling an infinite gradient is how the scale is found, until it cannot come down any further.
            return bool(self.accelerator.scaler.get_scale() > 1)
        return loss_ok and gradient_ok

    def _drop(self, window: _Window, at: int, loss: torch.Tensor, scope: Scope) -> None:
        """Take a micro-batch out of the window, replay it once to find the cause, and keep it for inspection."""
        window.bad.add(at)
        loss_ok, gradient_ok = (bool(flag) for flag in _finite(loss, scope.parameters))
        gradients = _named(self.model, lambda p: p.grad)
        _clear(scope)
        step = super().training_step
        window.before[at].restore(self)
        origin = first_nonfinite(self.model, lambda: step(self.model, window.batches[at], window.items))
        _clear(scope)
        # A gradient that was summed over processes is bad in all of them; the replay knows which one brought it.
        here, elsewhere = origin is not None, not _agreed(torch.tensor([origin is None]), self.accelerator)[0]
        kind = "gradient" if loss_ok else "loss"
        if (loss_ok and gradient_ok) or (elsewhere and not here and loss_ok):
            kind = "elsewhere"
        self._record(window, at, kind, loss, origin, gradients)

    def _record(
        self, window: _Window, at: int, kind: str, loss: torch.Tensor, origin: Origin | None, gradients: tuple[str, ...]
    ) -> None:
        step, process = self.state.global_step + 1, self.accelerator.process_index
        folder = Path(self.guard_settings.folder or Path(self.args.output_dir) / "nonfinite")
        file = folder / f"step-{step:06}-micro-batch-{at + 1}-process-{process}.pt"
        saved = self.guard_settings.save and kind != "elsewhere"
        bad = BadBatch(
            epoch=float(self.state.epoch or 0.0),
            step=step,
            micro_batch=at + 1,
            process=process,
            kind=kind,
            loss=float(loss),
            origin=str(origin or ""),
            gradients=gradients,
            weights=_named(self.model, lambda p: p),
            file=str(file) if saved else "",
        )
        if saved:
            save(file, window.batches[at], bad, self.processing_class)
        if kind != "elsewhere":
            logger.warning("Dropped: %s", bad)
        self.guard.bad_batches.append(bad)
        epoch = int(bad.epoch)
        if self.guard.per_epoch[epoch] > self.guard_settings.limit:
            raise NonFiniteError(
                f"More than {self.guard_settings.limit} batches of epoch {epoch} are not finite, the last in {bad}; "
                "mend the cause, or raise GuardSettings(limit=...) if these batches may be lost."
            )

    def _compute_again(self, model: Any, window: _Window, at: int, scope: Scope) -> None:
        """Bring the gradients to what they would be had the bad micro-batches up to this one never come."""
        at_end = at == len(window.batches) - 1
        while True:
            _clear(scope)
            for i, gradient in window.leftover.items():
                scope.parameters[i].grad = gradient.clone()
            good = window.good(at + 1)
            self._normalise(window)
            for k in good:
                window.before[k].restore(self)
                # Of several backward passes in a row only the last may exchange gradients between processes.
                quiet = self.accelerator.no_sync(model) if at_end and k != good[-1] else contextlib.nullcontext()
                with quiet:
                    loss = window.losses[k] = super().training_step(model, window.batches[k], window.items)
                if not self._sound(loss, scope):
                    self._drop(window, k, loss, scope)
                    break
            else:
                break
        window.before[at].restore(self)

    def _normalise(self, window: _Window) -> None:
        """Count the window without its bad micro-batches, in the Trainer's own way."""
        left = [window.batches[k] for k in window.good(len(window.batches))]
        if left:
            window.items = self._get_num_items_in_batch(left, self.args.device)
            self.current_gradient_accumulation_steps = len(left)


class _Between(TrainerCallback):  # type: ignore[misc]
    """Keeps the optimizer, the loss scale and the schedule still in a step of which nothing is left."""

    def __init__(self, trainer: NonFiniteGuard) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin to count where the run begins, and forget what an earlier one did after that."""
        begun = self._trainer.state.global_step
        self._trainer._logged_step, self._trainer.guard = begun, self._trainer.guard.until(begun)

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Let accelerate pass over this step, and say so to the Trainer, which then keeps the schedule."""
        if self._trainer._nothing_left:
            _keep_still(self._trainer.accelerator, True)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Let accelerate go on, and count the step."""
        if self._trainer._nothing_left:
            _keep_still(self._trainer.accelerator, False)
            self._trainer.guard.skipped.append(self._trainer.state.global_step)
            self._trainer._unlogged_skips += 1

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """A new window: there is something in it."""
        self._trainer._nothing_left = False


def _keep_still(accelerator: Any, still: bool) -> None:
    """Make accelerate pass over the optimizer's step, or go on as before."""
    accelerator.gradient_state._set_sync_gradients(not still)
    for optimizer in accelerator._optimizers:
        optimizer._is_overflow = still
    if accelerator.scaler is not None and not still:
        # Forgets that the gradients of this step were unscaled; the scale stays what it is.
        accelerator.scaler.update(accelerator.scaler.get_scale())


def _refuse(trainer: Any) -> None:
    """Say what cannot be guarded before anything is trained."""
    kind = str(getattr(trainer.accelerator.distributed_type, "value", trainer.accelerator.distributed_type))
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_HPU"):
        raise TrainingError(
            f"NonFiniteGuard cannot guard a run under {kind}, which keeps gradients to itself; train with DDP "
            "(torchrun or accelerate launch without it), or without the guard."
        )
    parallel = getattr(trainer.accelerator, "parallelism_config", None)
    if any(getattr(parallel, f"{way}_enabled", False) for way in ("tp", "cp", "sp")):
        raise TrainingError(
            "NonFiniteGuard cannot guard tensor, context or sequence parallel training, where one batch lies on "
            "several devices; train with data parallelism alone, or without the guard."
        )
    optimizer = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    if "lomo" in optimizer or "layerwise" in optimizer:
        raise TrainingError(
            f"NonFiniteGuard cannot guard optim={optimizer!r}, which moves weights during the backward pass; "
            "choose an optimizer with a step of its own, such as adamw_torch."
        )


def _finite(loss: torch.Tensor, parameters: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return two flags on the loss's device, without waiting for it: loss finite, gradients finite.

    A gradient counts as infinite as well when its norm is too large for float32: the Trainer clips by that norm.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            groups.setdefault((parameter.grad.device, parameter.grad.dtype), []).append(parameter.grad)
    total = torch.zeros((), device=loss.device)
    for (_, dtype), gradients in groups.items():
        wide = torch.float32 if dtype.itemsize < torch.float32.itemsize else None
        norms = torch._foreach_norm(gradients, 2, wide)
        total = total + torch.stack(norms).sum().to(total)
    return torch.stack([loss.detach().isfinite().all(), total.isfinite()])


def _agreed(flags: torch.Tensor, accelerator: Any) -> list[bool]:
    """Return flags as they are in all processes together: true where they are true in each."""
    if accelerator.num_processes > 1:
        numbers = flags.to(accelerator.device, torch.int32)
        torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MIN)
        flags = numbers
    return [bool(flag) for flag in flags.tolist()]


def _clear(scope: Scope) -> None:
    for parameter in scope.parameters:
        parameter.grad = None


def _named(model: Any, of: Any) -> tuple[str, ...]:
    """Return the names of the first few parameters of which `of` returns something that is not finite."""
    found = []
    for name, parameter in model.named_parameters():
        value = of(parameter)
        if value is not None and value.is_floating_point() and not value.detach().isfinite().all():
            found.append(name)
    return tuple(found[:NAMED])
