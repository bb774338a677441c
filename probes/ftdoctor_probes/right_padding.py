"""A padded batch scores what its rows score alone: ends of sequence too where they serve as padding, padding never.

Why: many models have no pad token, and scripts take the end of sequence for it; a collator that masks every such
token then masks the ends that are to be learned, and the model never stops. A collator that copies the inputs into
the labels scores prompts and padding. The loss falls either way.

Cure: `ftdoctor.training.PaddingCollator.of(tokenizer)` as `data_collator`; by hand `DataCollatorForSeq2Seq`, which
pads labels with -100 and does not touch what is there; never `DataCollatorForLanguageModeling(mlm=False)`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ftdoctor.bench.reference import loss_error, token_losses
from ftdoctor.bench.rows import messages
from ftdoctor.bench.watch import undisturbed
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

IGNORED = -100
ROWS = 4


@probe(
    area="components",
    needs=("transformers", "trl", "datasets"),
    axes=("family", "attention", "trainer", "device"),
    references=("huggingface/transformers#23530", "huggingface/trl#976"),
)
def right_padding(bench: Bench, check: Check) -> None:
    """Collate encoded rows of unequal lengths where the pad token is the end of sequence; read and score the batch."""
    from ftdoctor.training import Encoder, PaddingCollator

    tokenizer = bench.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    rows = Encoder(tokenizer).rows([{"messages": messages(q, a)} for q, a in bench.rows(ROWS)])
    ways = {
        "ours": partial(PaddingCollator.of(tokenizer), rows),
        "naive": partial(_by_hand, tokenizer, rows),
        "library": partial(_by_default, bench, tokenizer, rows),
    }
    batches = {way: attempt(collate) for way, collate in ways.items()}

    def of(read: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
        values = {way: b if isinstance(b, Exception) else attempt(partial(read, b)) for way, b in batches.items()}
        ours = values.pop("ours")
        if isinstance(ours, Exception):
            raise ours
        return ours, values

    ends, other_ends = of(partial(_scored_ends, tokenizer))
    check.equal(
        "scored ends of sequence",
        ends,
        sum(row["labels"].count(tokenizer.eos_token_id) for row in rows),
        why="one for each answer",
        beside=other_ends,
        owner=PaddingCollator,
    )
    wrong, others_wrong = of(partial(_otherwise_scored, rows))
    check.equal(
        "rows of which other tokens are scored",
        wrong,
        0,
        why="the labels of the rows, to which padding adds nothing",
        beside=others_wrong,
        owner=PaddingCollator,
    )
    late, others_late = of(lambda batch: int((batch["attention_mask"][:, 0] == 0).sum()))
    check.equal(
        "rows that do not begin with their first token",
        late,
        0,
        why="in training padding stands on the right, so that positions count from the row's beginning",
        beside=others_late,
        owner=PaddingCollator,
    )
    _check_loss(bench, check, rows, of)


def _check_loss(bench: Bench, check: Check, rows: list[dict[str, list[int]]], of: Callable[..., Any]) -> None:
    """Compare the loss of the batch with the mean over the tokens of the rows, each alone, in float64."""
    import torch

    from ftdoctor.training import PaddingCollator

    model = undisturbed(bench.load())
    total, tokens, error = 0.0, 0, 0.0
    with torch.no_grad():
        for row in rows:
            ids, labels = (torch.tensor([row[name]], device=bench.device) for name in ("input_ids", "labels"))
            logits = model(input_ids=ids).logits
            losses, scored = token_losses(logits, labels)
            total, tokens = total + float(losses.sum()), tokens + int(scored.sum())
            error = max(error, loss_error(logits, labels))
        loss, others = of(lambda batch: float(model(**{k: v.to(bench.device) for k, v in batch.items()}).loss))
    check.close(
        "loss of the batch",
        loss,
        total / tokens,
        atol=error,
        why="the mean over all scored tokens; float64 against float32",
        beside=others,
        owner=PaddingCollator,
    )


def _by_hand(tokenizer: Any, rows: list[dict[str, list[int]]]) -> Any:
    """Do as most scripts do: the collator for language models, which makes its own labels."""
    from transformers import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": row["input_ids"]} for row in rows])


def _by_default(bench: Bench, tokenizer: Any, rows: list[dict[str, list[int]]]) -> Any:
    """Take the collator that the trainer has when none is named."""
    from datasets import Dataset

    data = Dataset.from_list(rows)
    args = bench.arguments(per_device_train_batch_size=len(rows))
    trainer = bench.trainer(bench.load(), tokenizer, args, train_dataset=data, data_collator=None)
    batch = next(iter(trainer.get_train_dataloader()))
    return {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}


def _scored_ends(tokenizer: Any, batch: Any) -> int:
    scored = (batch["labels"] == tokenizer.eos_token_id) & (batch["input_ids"] == tokenizer.eos_token_id)
    return int((scored & (batch["attention_mask"] == 1)).sum())


def _otherwise_scored(rows: list[dict[str, list[int]]], batch: Any) -> int:
    """Return how many rows are left whose scored tokens are those of no row of the batch."""
    left = [[label for label in row["labels"] if label != IGNORED] for row in rows]
    for labels in batch["labels"].tolist():
        scored = [label for label in labels if label != IGNORED]
        if scored in left:
            left.remove(scored)
    return len(left)


def _collated(patch: Patch, change: Callable[[Any, Any], None]) -> None:
    """Let a function change what the collator returns."""
    from ftdoctor.training.collator import PaddingCollator

    def around(original: Any, self: Any, rows: Any) -> Any:
        batch = original(self, rows)
        change(self, batch)
        return batch

    patch.wrap(PaddingCollator, "__call__", around)


@right_padding.fault(
    "every token equal to the pad token is masked",
    catches=("scored ends of sequence", "rows of which other tokens are scored", "loss of the batch"),
)
def masked_by_token(patch: Patch) -> None:
    """Where padding and end of sequence are one, no end is scored."""

    def change(collator: Any, batch: Any) -> None:
        batch["labels"][batch["input_ids"] == collator.pad_token_id] = IGNORED

    _collated(patch, change)


@right_padding.fault(
    "labels are a copy of the inputs", catches=("rows of which other tokens are scored", "loss of the batch")
)
def inputs_copied(patch: Patch) -> None:
    """Prompts and padding are scored."""

    def change(collator: Any, batch: Any) -> None:
        batch["labels"] = batch["input_ids"].clone()

    _collated(patch, change)


@right_padding.fault("padding stands on the left", catches=("rows that do not begin with their first token",))
def padded_on_the_left(patch: Patch) -> None:
    """As for generation."""

    def change(collator: Any, batch: Any) -> None:
        for row, mask in enumerate(batch["attention_mask"].clone()):
            for name in batch:
                batch[name][row] = batch[name][row].roll(int((mask == 0).sum()))

    _collated(patch, change)
