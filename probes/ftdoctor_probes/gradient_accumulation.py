"""Four rows in one batch and four batches of one row give the same gradient and the same logged loss.

Why: a trainer that averages the means of its micro-batches weighs a token of a short row more than one of a long
row, and one that forgets to divide takes steps as many times too large as it accumulates. Clipping hides most
of it, and the run only looks as if it had another learning rate.

Cure: use a release in which the loss is divided by `num_items_in_batch`; a `compute_loss` of your own must take that
argument and divide by it, or set `loss_is_scaled_for_ga`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench.reference import distance, relative_forward_error
from ftdoctor.bench.watch import gradient_recorder, undisturbed
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ROWS = 4


@probe(
    area="masking",
    needs=("transformers", "datasets"),
    axes=("trainer", "family", "adapter", "checkpointing", "mixed_precision", "device"),
    references=("huggingface/transformers#34191", "huggingface/transformers#43595"),
)
def gradient_accumulation(bench: Bench, check: Check) -> None:
    """Take one optimizer step both ways and compare."""
    import torch
    from transformers import Trainer

    together, loss_together, model = _step(bench, ROWS)
    apart, loss_apart, _ = _step(bench, 1)
    dtypes = {"none": bench.dtype, "bf16": torch.bfloat16, "fp16": torch.float16}
    error = relative_forward_error(model.config, dtypes[bench.cell["mixed_precision"]])
    check.at_most(
        "relative difference of the gradients",
        distance(apart, together),
        2 * error,
        why="forwards and backwards the same sums in another order: one rounding a step through the layers",
        owner=Trainer.training_step,
    )
    check.close(
        "logged loss",
        loss_apart,
        loss_together,
        rtol=error,
        why="forwards the same sums in another order: one rounding a step through the layers",
        owner=Trainer.training_step,
    )


def _step(bench: Bench, batch_size: int) -> tuple[dict[str, Any], float, Any]:
    """Return gradient and loss of one optimizer step over all rows, and the model."""
    import torch

    tokenizer = bench.tokenizer()
    recorder = gradient_recorder()
    args = bench.arguments(
        max_steps=1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=ROWS // batch_size,
        max_grad_norm=1e9,  # nothing is clipped, so that a factor on the whole gradient shows
    )
    torch.manual_seed(bench.settings.seed)
    model = undisturbed(bench.trainable())
    if bench.cell["checkpointing"] == "reentrant" and bench.cell["adapter"] != "none":
        # transformers 4 leaves this to the user (transformers#42489); another fault than the one looked for here.
        model.enable_input_require_grads()
    trainer = bench.trainer(model, tokenizer, args, rows=ROWS, callbacks=[recorder])
    loss = trainer.train().training_loss
    return recorder.steps[0], loss, model


@gradient_accumulation.fault(
    "the number of items is not counted",
    catches=("relative difference of the gradients", "logged loss"),
)
def mean_of_means(patch: Patch) -> None:
    """Each micro-batch is averaged on its own, and the means are averaged."""
    from transformers import Trainer

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        return None

    patch.wrap(Trainer, "_get_num_items_in_batch", around)


@gradient_accumulation.fault(
    "only the last micro-batch is counted",
    catches=("relative difference of the gradients", "logged loss"),
    cell={"trainer": "sft"},
)
def last_counted(patch: Patch) -> None:
    """The sum over all rows is divided by the tokens of one: steps several times too large."""
    from transformers import Trainer

    def around(original: Any, self: Any, batches: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, batches[-1:], *args, **kwargs)

    patch.wrap(Trainer, "_get_num_items_in_batch", around)
