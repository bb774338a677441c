"""A batch that brings a NaN into training is left out without a trace, and the rest of its window is trained.

Why: one NaN in a gradient turns every weight into NaN at the next step. A check that drops the step drops the good
micro-batches of its window too, leaves the others with the weight of a window that is no more, and lets optimizer,
schedule and dropout go on as if a step had been taken: nothing crashes, and the run is another one.

Cure: put `NonFiniteGuard` of `ftdoctor.training` in front of your trainer; if this probe is red, the trainer or
accelerate of this release does something else around a step than it did: install another release of the culprit.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from ftdoctor.bench.precision import unit_roundoff
from ftdoctor.bench.reference import flat, relative_forward_error
from ftdoctor.bench.watch import copy_of, logged
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

WINDOWS = 4
ACCUMULATION = 2
BAD = (2, 4, 5)
"""Rows, one a micro-batch: the first of the second window, and both of the third."""
EMPTY_WINDOW = (4, 5)
STEPS_TAKEN = WINDOWS - 1
DROPOUT = 0.1
WAYS = ("ours", "naive", "library")

WEIGHTS = "difference of the weights from a run that never saw the bad batches"
PLACES = "bad batches, and where they began"
LOSSES = "logged losses of the steps that were taken"


@probe(
    area="components",
    needs=("transformers", "datasets"),
    axes=("trainer", "adapter", "checkpointing", "mixed_precision", "device"),
    only={"mixed_precision": ("none", "bf16")},
    references=("huggingface/transformers#13619", "huggingface/trl#6702"),
)
def nonfinite_step(bench: Bench, check: Check) -> None:
    """Train on rows of which three bring NaN, and on the same without them."""
    import torch

    from ftdoctor.training import NonFiniteGuard

    rows, poison = _rows(bench)
    clean = _train(bench, rows, poison, "reference")
    start = clean.weights_before
    expected = {name: value - start[name] for name, value in copy_of(clean.model).items()}
    runs = {way: attempt(functools.partial(_train, bench, rows, poison, way)) for way in WAYS}
    if isinstance(runs["ours"], Exception):
        raise runs["ours"]
    ours = runs["ours"]

    def moved(trainer: Any) -> float:
        found = {name: value - start[name] for name, value in copy_of(trainer.model).items()}
        apart = float((flat(found) - flat(expected)).norm() / flat(expected).norm())
        return apart if math.isfinite(apart) else math.inf

    exact = bench.device == "cpu"
    check.at_most(
        WEIGHTS,
        moved(ours),
        0.0 if exact else 2 * relative_forward_error(ours.model.config, bench.dtype),
        why="relative to the way they went: one thread on a CPU repeats to the bit; elsewhere sums change their order",
        owner=NonFiniteGuard.training_step,
        beside=_beside(runs, moved),
    )
    check.equal(
        "weights that are not finite at the end",
        _not_finite(ours),
        0,
        owner=NonFiniteGuard.training_step,
        beside=_beside(runs, _not_finite),
    )
    check.equal(
        "steps of the schedule",
        _schedule(ours),
        STEPS_TAKEN,
        why=f"of {WINDOWS} windows one held nothing that could be trained",
        owner=NonFiniteGuard.train,
        beside=_beside(runs, _schedule),
    )
    check.close(
        LOSSES,
        _losses(ours),
        _losses(clean),
        rtol=8 * unit_roundoff(torch.float32) if exact else relative_forward_error(ours.model.config, bench.dtype),
        why="those of the run that never saw the others, with the roundings of a few sums and differences",
        owner=NonFiniteGuard.log,
        beside=_beside(runs, _losses),
    )
    embedding = next(n for n, m in ours.model.named_modules() if m is ours.model.get_input_embeddings())
    check.equal(
        PLACES,
        [((bad.step - 1) * ACCUMULATION + bad.micro_batch - 1, bad.origin) for bad in ours.guard.bad_batches],
        [(row, f"output of {embedding}") for row in BAD],
        why="the embedding of a token that these rows alone hold was made NaN",
        owner=NonFiniteGuard.training_step,
    )


def _beside(runs: dict[str, Any], of: Any) -> dict[str, Any]:
    found = {way: runs[way] for way in WAYS[1:]}
    return {way: run if isinstance(run, Exception) else of(run) for way, run in found.items()}


def _not_finite(trainer: Any) -> int:
    return sum(int((~value.isfinite()).sum()) for value in copy_of(trainer.model).values())


def _schedule(trainer: Any) -> int:
    return int(trainer.lr_scheduler.last_epoch)


def _losses(trainer: Any) -> list[float]:
    return list(logged(trainer, "loss").values())


def _rows(bench: Bench) -> tuple[list[dict[str, list[int]]], int]:
    """Return encoded rows, the bad ones with a token in front that no other has, and that token."""
    tokenizer = bench.tokenizer()
    rows = [bench.encode(tokenizer, q, a) for q, a in bench.rows(WINDOWS * ACCUMULATION)]
    poison = max(set(range(len(tokenizer))) - {token for row in rows for token in row["input_ids"]})
    first = {"input_ids": poison, "attention_mask": 1, "labels": -100}
    return [{k: [first[k], *v] for k, v in row.items()} if i in BAD else row for i, row in enumerate(rows)], poison


def _train(bench: Bench, rows: list[dict[str, list[int]]], poison: int, way: str) -> Any:
    """Return the trainer after its training, with the weights it began with as `weights_before`."""
    import torch
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer

    from ftdoctor.training import NonFiniteGuard

    tokenizer = bench.tokenizer()
    base, more = Trainer, {}
    if bench.cell["trainer"] == "sft":
        from trl import SFTTrainer

        base, more = SFTTrainer, {"dataset_kwargs": {"skip_prepare_dataset": True}}
    kept = [row for i, row in enumerate(rows) if way != "reference" or i not in EMPTY_WINDOW]
    args = bench.arguments(
        max_steps=len(kept) // ACCUMULATION,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=ACCUMULATION,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=2 * WINDOWS,  # a rate that tells how many steps the schedule took
        optim="adamw_torch" if bench.device == "cpu" else "sgd",  # Adam would blow differences of rounding up
        **more,
    )
    torch.manual_seed(bench.settings.seed)
    model = bench.trainable()
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = DROPOUT
    model.get_input_embeddings().register_forward_hook(
        lambda module, arguments, output: output.masked_fill((arguments[0] == poison).unsqueeze(-1), math.nan)
    )
    before = copy_of(model)

    class InOrder(base):  # type: ignore[misc,valid-type]
        """Takes the rows one after the other."""

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class NeverSeen(InOrder):
        """Neither counts nor computes a bad micro-batch."""

        def _get_num_items_in_batch(self, batches: list[Any], device: Any) -> Any:
            return super()._get_num_items_in_batch([b for b in batches if not (b["input_ids"] == poison).any()], device)

        def training_step(self, model: Any, inputs: Any, *more: Any) -> Any:
            if (inputs["input_ids"] == poison).any():
                return torch.zeros((), device=self.args.device)
            return super().training_step(model, inputs, *more)

    class Checked(InOrder):
        """Asks each gradient by itself, and drops all that it has where one is not finite."""

        def training_step(self, model: Any, inputs: Any, *more: Any) -> Any:
            loss = super().training_step(model, inputs, *more)
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            if torch.isfinite(loss).item() and all(torch.isfinite(g).all().item() for g in gradients):
                return loss
            model.zero_grad()
            return torch.zeros_like(loss)

    ways = {"reference": NeverSeen, "naive": Checked, "library": InOrder}
    kind = ways.get(way) or type("Guarded", (NonFiniteGuard, InOrder), {})
    made = kind(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(kept),
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        processing_class=tokenizer,
    )
    made.train()
    made.weights_before = before
    return made


@nonfinite_step.fault(
    "what is not finite is not seen", catches=("weights that are not finite at the end", WEIGHTS, PLACES)
)
def not_seen(patch: Patch) -> None:
    """The check of loss and gradient always passes."""
    from ftdoctor.training import guard

    def around(original: Any, *args: Any) -> Any:
        return original(*args).logical_not().logical_or(original(*args))

    patch.wrap(guard, "_finite", around)


@nonfinite_step.fault("the random numbers go on from the bad batch", catches=(WEIGHTS, LOSSES))
def random_numbers_kept(patch: Patch) -> None:
    """Dropout of all that follows is another one."""
    from ftdoctor.training import rng

    patch.replace(rng, "put_back", lambda state: None)


@nonfinite_step.fault("the window is divided by what it held before", catches=(WEIGHTS, LOSSES))
def not_renormalised(patch: Patch) -> None:
    """The good micro-batch counts for as much as if the bad one had been there."""
    from ftdoctor.training import NonFiniteGuard

    patch.replace(NonFiniteGuard, "_normalise", lambda self, window: None)


@nonfinite_step.fault(
    "accelerate does not say that a step was skipped",
    catches=("steps of the schedule", WEIGHTS),
    cell={"trainer": "sft"},
)
def skip_not_told(patch: Patch) -> None:
    """The Trainer takes the schedule on."""
    from accelerate.optimizer import AcceleratedOptimizer

    patch.replace(AcceleratedOptimizer, "step_was_skipped", property(lambda self: False))


@nonfinite_step.fault("the replay finds nothing", catches=(PLACES,))
def nothing_found(patch: Patch) -> None:
    """Its hooks are not called."""
    from ftdoctor.training import guard

    def around(original: Any, model: Any, run: Any) -> Any:
        run()

    patch.wrap(guard, "first_nonfinite", around)
