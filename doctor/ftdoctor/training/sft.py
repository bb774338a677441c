"""The SFTTrainer with the loss, the guard and the health log of this package, and the callback of a resumable run."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import torch
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from ftdoctor.training import adapters
from ftdoctor.training.collator import PaddingCollator
from ftdoctor.training.guard import GuardSettings, NonFiniteGuard
from ftdoctor.training.health import HealthLog
from ftdoctor.training.loss import IGNORED, aligned_loss, weighted_balance
from ftdoctor.training.packed_batches import packed_collator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ftdoctor.training.batch_plan import BatchPlan
    from ftdoctor.training.loader import LoadRecord
    from ftdoctor.training.recipe import Recipe
    from ftdoctor.training.run_folder import RunFolder


class HardenedSFTTrainer(HealthLog, NonFiniteGuard, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer on encoded rows, with logits only where something is scored.

    Attributes:
        stopped: whether it was asked to stop before its last step.
    """

    stopped = False

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the token-mean loss of a micro-batch, and what the model returned where that is asked for."""
        inputs = {"use_cache": False, **inputs}
        labels = inputs.pop("labels")
        targets = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
        if self._chooses_logits:
            # Most positions of a row are its prompt. Without a scored one there must still be a gradient to be zero.
            kept = (targets != IGNORED).any(dim=0).nonzero().flatten()
            kept = kept if len(kept) else torch.zeros(1, dtype=torch.long, device=labels.device)
            inputs["logits_to_keep"], targets = kept, targets[:, kept]
        outputs = model(**inputs)
        loss = aligned_loss(outputs.logits, targets, num_items_in_batch)
        balance = getattr(outputs, "aux_loss", None)
        if balance is not None:
            weight = self.model.config.get_text_config().router_aux_loss_coef
            loss = loss + weighted_balance(balance, weight, (targets != IGNORED).sum(), num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # Tokens are counted over all processes, whose gradients are then averaged.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def stop_clock(self) -> None:
        """Count no more time as training until the next batch is fetched; waits for what the device still does."""
        if self.args.device.type == "cuda":
            torch.cuda.synchronize(self.args.device)
        self._stop_clock()

    @functools.cached_property
    def _chooses_logits(self) -> bool:
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return "logits_to_keep" in inspect.signature(base.forward).parameters


class _Resumable(TrainerCallback):  # type: ignore[misc]
    """Marks complete checkpoints, stops between steps, and tells how far it is."""

    def __init__(self, run: RunFolder, stop: Callable[[], bool], progress: Any) -> None:
        self.run, self.stop, self.progress = run, stop, progress
        self.trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < state.max_steps and self.stop():
            self.trainer.stopped = True
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.run.mark_complete(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.progress is not None:
            self.progress(state.global_step, state.max_steps, dict(logs or {}))


class _Uncounted(TrainerCallback):  # type: ignore[misc]
    """Stands before callbacks that are no part of the training, so that their time is none of its own."""

    trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.stop_clock()


def compute_dtype(recipe: Recipe, loaded: LoadRecord) -> Any:
    """Return the torch dtype of the forward pass: that of autocast, or that of the weights without it."""
    mixed = mixed_precision(recipe, loaded)
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed, getattr(torch, loaded.dtype))


def mixed_precision(recipe: Recipe, loaded: LoadRecord) -> str:
    """Return `bf16`, `fp16` or `none`: what was asked for, or what the device is fastest with."""
    if recipe.mixed_precision != "auto":
        return recipe.mixed_precision
    if not loaded.device.startswith("cuda"):
        return "none"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def build_trainer(
    recipe: Recipe,
    run: RunFolder,
    plan: BatchPlan,
    rows: Any,
    model: Any,
    tokenizer: Any,
    loaded: LoadRecord,
    stop: Callable[[], bool],
    progress: Any,
    callbacks: Sequence[Any] = (),
) -> HardenedSFTTrainer:
    """Return the trainer of a run; what it trains is in float32 whatever SFTTrainer makes of it.

    `callbacks` come before its own, which asks after each step whether to stop: what they do for that step is done.
    """
    resumable, uncounted = _Resumable(run, stop, progress), _Uncounted()
    collator = packed_collator(model, tokenizer) if recipe.packing else PaddingCollator.of(tokenizer)
    trainer = HardenedSFTTrainer(
        model=model,
        args=_arguments(recipe, run, plan, loaded),
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=collator,
        callbacks=[*([uncounted] if callbacks else []), *callbacks, resumable],
        guard=GuardSettings(limit=recipe.nonfinite_limit, folder=str(run.bad_batches)),
    )
    resumable.trainer = uncounted.trainer = trainer
    adapters.train_in_float32(trainer.model)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _arguments(recipe: Recipe, run: RunFolder, plan: BatchPlan, loaded: LoadRecord) -> SFTConfig:
    mixed = mixed_precision(recipe, loaded)
    return SFTConfig(
        output_dir=str(run.checkpoints),
        per_device_train_batch_size=plan.batch_size,
        gradient_accumulation_steps=plan.accumulation,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.scheduler,
        # Below 1, transformers takes warm-up steps as a share of all steps, and 4.57 knows the share by another name.
        **_warmup(recipe),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=mixed == "bf16",
        fp16=mixed == "fp16",
        gradient_checkpointing=recipe.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if recipe.checkpointing else None,
        logging_steps=recipe.log_steps,
        logging_first_step=True,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=2,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=loaded.device == "cpu",
        dataloader_pin_memory=loaded.device != "cpu",
        disable_tqdm=True,
        report_to=[],
        packing=False,  # rows come packed, or not
        remove_unused_columns=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def _warmup(recipe: Recipe) -> dict[str, Any]:
    import dataclasses

    from transformers import TrainingArguments

    steps = next(f for f in dataclasses.fields(TrainingArguments) if f.name == "warmup_steps")
    takes_share = "float" in str(steps.type)
    return {"warmup_steps" if takes_share else "warmup_ratio": recipe.warmup_ratio}
