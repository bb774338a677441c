"""A row without a scored token changes nothing: not the gradient of its batch, and not the weights when it is alone.

Why: truncation and role masks leave rows whose labels are all -100. A mean over no tokens is 0/0; where that NaN
reaches the gradient, one such row turns all weights into NaN at once, and the default log shows a loss of 0.0.

Cure: drop such rows before training (`ftdoctor data` counts them); a loss of your own must not divide by a
number of scored tokens that may be zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench.reference import distance, relative_forward_error
from ftdoctor.bench.watch import copy_of, gradient_recorder, undisturbed
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

SCORED = 2
"""Rows with an answer; one more has none."""


@probe(
    area="masking",
    needs=("transformers", "datasets"),
    axes=("trainer", "family", "adapter", "device"),
    references=("huggingface/trl#6668", "huggingface/trl#3927"),
)
def masked_rows(bench: Bench, check: Check) -> None:
    """Train one step without such a row, with it in the batch, with it as a micro-batch, and with it alone."""
    from transformers import Trainer

    tokenizer = bench.tokenizer()
    rows = [bench.encode(tokenizer, q, a) for q, a in bench.rows(SCORED + 1)]
    rows[SCORED]["labels"] = [-100] * len(rows[SCORED]["labels"])
    without, model, _ = _step(bench, tokenizer, rows[:SCORED], SCORED)
    error = 2 * relative_forward_error(model.config, bench.dtype)
    for name, size in (("in the batch", SCORED + 1), ("as a micro-batch", 1)):
        with_row, _, _ = _step(bench, tokenizer, rows, size)
        check.at_most(
            f"relative difference of the gradient with a masked row {name}",
            distance(with_row, without),
            error,
            why="nothing is added to the sums; forwards and backwards one rounding a step through the layers",
            owner=Trainer.compute_loss,
        )
    alone, model, before = _step(bench, tokenizer, rows[SCORED:], 1)
    after = copy_of(model)
    check.finite("gradient of a masked row alone", list(alone.values()), owner=Trainer.training_step)
    check.equal(
        "weights that a masked row alone has moved",
        sum(int((after[name] != before[name]).sum()) for name in before),
        0,
        why="nothing was scored in the step, there is no weight decay, and a NaN is unequal to everything",
        owner=Trainer.training_step,
    )


def _step(
    bench: Bench, tokenizer: Any, rows: list[dict[str, list[int]]], size: int
) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Return the gradient of one optimizer step over all rows, the model after it, and its weights before."""
    import torch
    from datasets import Dataset

    recorder = gradient_recorder()
    more: dict[str, Any] = {"max_grad_norm": 1e9}  # nothing is clipped, so that a factor on all of it shows
    if bench.cell["trainer"] == "sft":
        # The rows come with their labels; TRL's preparation would drop the masked ones before they are trained.
        more["dataset_kwargs"] = {"skip_prepare_dataset": True}
    args = bench.arguments(
        max_steps=1,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=len(rows) // size,
        **more,
    )
    torch.manual_seed(bench.settings.seed)
    model = undisturbed(bench.trainable())
    before = copy_of(model)
    trainer = bench.trainer(model, tokenizer, args, train_dataset=Dataset.from_list(rows), callbacks=[recorder])
    trainer.train()
    return recorder.steps[0], model, before


@masked_rows.fault(
    "a mean over no tokens reaches the gradient",
    catches=("gradient of a masked row alone", "weights that a masked row alone has moved"),
)
def divided_by_zero(patch: Patch) -> None:
    """The hand-written masked mean: the sum over the mask divided by the number of scored tokens."""
    import torch
    from transformers.loss import loss_utils

    def around(original: Any, source: Any, target: Any, items: Any = None, *args: Any, **kwargs: Any) -> Any:
        mask = target != -100
        each = torch.nn.functional.cross_entropy(source, target.clamp(min=0), reduction="none")
        return (each * mask).sum() / (mask.sum() if items is None else items)

    patch.wrap(loss_utils, "fixed_cross_entropy", around)


@masked_rows.fault(
    "rows without a scored token are counted",
    catches=(
        "relative difference of the gradient with a masked row in the batch",
        "relative difference of the gradient with a masked row as a micro-batch",
    ),
)
def rows_counted(patch: Patch) -> None:
    """The items are counted as if the masked row were scored."""
    from transformers import Trainer

    def around(original: Any, self: Any, batches: Any, *args: Any, **kwargs: Any) -> Any:
        count = original(self, batches, *args, **kwargs)
        return count + 5 * sum(int((batch["labels"] == -100).all(-1).sum()) for batch in batches)

    patch.wrap(Trainer, "_get_num_items_in_batch", around)
