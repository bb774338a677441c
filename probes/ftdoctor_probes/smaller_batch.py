"""After memory has run out, every optimizer step sees the same examples with the same weight as it would have.

Why: a smaller batch that leaves the accumulation as it was is another effective batch, for which the learning rate
was not chosen; a restart from zero trains the first steps twice. `auto_find_batch_size` does both, and the run
looks healthy.

Cure: `ftdoctor.training.train_within_memory(trainer)`: half the rows, twice the accumulation, on from the last whole
step. By hand: change both numbers, and resume from a checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench.reference import relative_forward_error
from ftdoctor.bench.watch import undisturbed
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ROWS = 8
STEPS = 3
FULL_FROM = 1
"""Optimizer steps after which a micro-batch of two rows does not fit any more."""


@probe(
    area="components",
    needs=("transformers", "accelerate", "datasets"),
    axes=("family", "trainer", "adapter", "device"),
    references=("huggingface/transformers#34191",),
)
def smaller_batch(bench: Bench, check: Check) -> None:
    """Train 2 x 2 rows a step until memory runs out, each way; compare with 1 x 4 rows from the start."""
    from ftdoctor.training import train_within_memory

    wanted, wanted_losses, model = _train(bench, 1, 4, lambda trainer: trainer.train(), fits=2)
    ours, losses, _ = _train(bench, 2, 2, train_within_memory)
    naive = attempt(lambda: _train(bench, 2, 2, _by_hand)[:2])
    library = attempt(lambda: _train(bench, 2, 2, lambda trainer: trainer.train(), auto_find_batch_size=True)[:2])
    beside = {"naive": naive, "library": library}
    check.equal(
        "examples of each step",
        ours,
        wanted,
        beside={way: r if isinstance(r, Exception) else r[0] for way, r in beside.items()},
        owner=train_within_memory,
    )
    check.close(
        "logged losses",
        losses,
        wanted_losses,
        # A step's difference moves the weights by the learning rate times as much, and so enters the next loss.
        rtol=STEPS * relative_forward_error(model.config, bench.dtype),
        why="forwards the same sums in another order: one rounding a step through the layers, in each step taken",
        beside={way: r if isinstance(r, Exception) else r[1] for way, r in beside.items()},
        owner=train_within_memory,
    )


def _train(
    bench: Bench, rows: int, accumulation: int, run: Callable[[Any], Any], *, fits: int = 1, **changes: Any
) -> tuple[list[list[int]], list[float], Any]:
    """Return the numbers of the rows in each step, the logged losses, and the model."""
    import torch

    tokenizer = bench.tokenizer()
    args = bench.arguments(
        per_device_train_batch_size=rows, gradient_accumulation_steps=accumulation, max_steps=STEPS, **changes
    )
    torch.manual_seed(bench.settings.seed)
    trainer = bench.trainer(undisturbed(bench.trainable()), tokenizer, args, rows=ROWS)
    seen: dict[int, list[int]] = {}
    questions = [question for question, _ in bench.rows(ROWS)]

    def refuse(module: Any, arguments: Any, inputs: dict[str, Any]) -> None:
        ids, step = inputs["input_ids"], trainer.state.global_step
        if module.training and step >= FULL_FROM and len(ids) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.24 GiB.")
        for row, mask in zip(ids, inputs["attention_mask"], strict=True):
            text = tokenizer.decode(row[mask.bool()])
            seen.setdefault(step, []).append(next(i for i, question in enumerate(questions) if question in text))

    trainer.model.register_forward_pre_hook(refuse, with_kwargs=True)
    run(trainer)
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return [sorted(examples) for _, examples in sorted(seen.items())], losses, trainer.model


def _by_hand(trainer: Any) -> Any:
    """Do as people do: catch it, halve the batch, start again."""
    import torch

    try:
        return trainer.train()
    except torch.OutOfMemoryError:
        trainer.args.per_device_train_batch_size //= 2
        trainer._train_batch_size = trainer.args.train_batch_size
        return trainer.train()


@smaller_batch.fault("the accumulation stays as it was", catches=("examples of each step", "logged losses"))
def accumulation_kept(patch: Patch) -> None:
    """Half the rows in each step."""
    from ftdoctor.training.batch_plan import BatchPlan

    patch.replace(BatchPlan, "smaller", lambda self: BatchPlan(self.batch_size // 2, self.accumulation))


@smaller_batch.fault("the run begins again at zero", catches=("examples of each step",))
def begins_at_zero(patch: Patch) -> None:
    """The steps before are trained a second time."""
    from ftdoctor.training import batch_plan

    def around(original: Any, trainer: Any, where: str, watch: Any) -> str:
        told = original(trainer, where, watch)
        watch.checkpoint = None
        return str(told)

    patch.wrap(batch_plan, "_keep", around)
