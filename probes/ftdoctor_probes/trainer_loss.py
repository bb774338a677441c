"""One step of the trainer logs the mean cross entropy of its scored tokens, and steps along exactly its gradient.

Why: between the model's loss and the log stand the count of items, the scaling for accumulation and, in TRL, a fused
head with a backward of its own. transformers 4.46 to 4.57 count the first token of each row, which is never
predicted: rows of 4 tokens log and learn 0.75 of their loss.

Cure: install another release of the culprit; rows whose prompt is masked don't meet the miscount.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench.reference import distance, loss_error, mean_loss, relative_forward_error
from ftdoctor.bench.watch import gradient_recorder, logged, undisturbed
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ROWS = 4


@probe(
    area="masking",
    needs=("transformers", "datasets"),
    axes=("trainer", "family", "adapter", "attention", "device"),
    references=("huggingface/transformers#46204",),
)
def trainer_loss(bench: Bench, check: Check) -> None:
    """Train one step on whole rows, and compare with a float64 loss and with autograd's gradient of it."""
    from transformers import Trainer

    tokenizer = bench.tokenizer()
    rows = [tokenizer(answer)["input_ids"] for _, answer in bench.rows(ROWS)]
    model = undisturbed(bench.trainable())
    batch, logits, expected = _reference(bench, model, tokenizer, rows)
    recorder = gradient_recorder()
    trainer = _trainer(bench, model, tokenizer, rows, recorder)
    trained = trainer.train().training_loss
    evaluated = trainer.evaluate()["eval_loss"]

    reference = mean_loss(logits, batch["labels"])
    error = relative_forward_error(model.config, bench.dtype)
    tolerance = loss_error(logits, batch["labels"]) + error * float(logits.abs().max())
    why = "float64 loss of the model's own logits; the trainer's forward may sum in another order"
    check.close("training loss", trained, reference, atol=tolerance, why=why, owner=Trainer._get_num_items_in_batch)
    check.close("evaluation loss", evaluated, reference, atol=tolerance, why=why, owner=Trainer._get_num_items_in_batch)
    check.at_most(
        "relative difference of the gradient",
        distance(recorder.steps[0], expected),
        2 * error,
        why="autograd's gradient of the mean loss of the same rows, up to one rounding a step through the layers",
        owner=type(trainer).compute_loss,
    )
    check.note("logged loss", logged(trainer, "loss"))


def _reference(
    bench: Bench, model: Any, tokenizer: Any, rows: list[list[int]]
) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Return the batch of whole rows, the model's logits for it, and the gradient of their mean loss."""
    import torch
    from transformers import DataCollatorForSeq2Seq

    collated = DataCollatorForSeq2Seq(tokenizer)([{"input_ids": row, "labels": row} for row in rows])
    batch = {key: value.to(bench.device) for key, value in collated.items()}
    model.train()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    targets = batch["labels"][:, 1:]
    torch.nn.functional.cross_entropy(logits[:, :-1].double().flatten(0, 1), targets.flatten()).backward()
    gradients = {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return batch, logits.detach(), gradients


def _trainer(bench: Bench, model: Any, tokenizer: Any, rows: list[list[int]], recorder: Any) -> Any:
    """Return the cell's trainer for one step over all rows, every token of which is scored."""
    from datasets import Dataset

    columns: list[dict[str, Any]] = [{"input_ids": row} for row in rows]
    if bench.cell["trainer"] == "plain":
        columns = [{"input_ids": row, "attention_mask": [1] * len(row), "labels": row} for row in rows]
    data = Dataset.from_list(columns)
    args = bench.arguments(
        max_steps=1,
        learning_rate=0.0,  # the evaluation after the step sees the same weights
        max_grad_norm=1e9,  # nothing is clipped, so that a factor on the whole gradient shows
        per_device_train_batch_size=ROWS,
        per_device_eval_batch_size=ROWS,
    )
    return bench.trainer(model, tokenizer, args, train_dataset=data, eval_dataset=data, callbacks=[recorder])


@trainer_loss.fault(
    "the first token of each row is counted",
    catches=("training loss", "evaluation loss", "relative difference of the gradient"),
)
def first_token_counted(patch: Patch) -> None:
    """What transformers does from 4.46 to 4.57: all labels are counted, scored or not."""
    import torch
    from transformers import Trainer

    def around(original: Any, self: Any, batches: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.tensor(sum(int(batch["labels"].ne(-100).sum()) for batch in batches))

    patch.wrap(Trainer, "_get_num_items_in_batch", around)


@trainer_loss.fault("the gradient is doubled on its way", catches=("relative difference of the gradient",))
def gradient_doubled(patch: Patch) -> None:
    """The loss is logged right and scaled before it goes backwards."""
    from accelerate import Accelerator

    def around(original: Any, self: Any, loss: Any, **kwargs: Any) -> Any:
        return original(self, 2 * loss, **kwargs)

    patch.wrap(Accelerator, "backward", around)
