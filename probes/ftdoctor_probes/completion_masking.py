"""Through the trainer's own pipeline exactly the answer and its end of turn are scored, and nothing else.

Why: a prompt that is scored teaches the model to ask, padding that is scored teaches it to pad, an end of turn
that is not scored teaches it never to stop, and a second beginning-of-sequence token shifts it away from what
it was pretrained on. The loss falls in all four cases.

Cure: look at one batch of `trainer.get_train_dataloader()`. With TRL hand `prompt` and `completion` columns, or
`messages` with `assistant_only_loss=True` and a chat template whose `{% generation %}` block holds the end of turn;
with a plain Trainer use `DataCollatorForSeq2Seq` and labels of -100, not `DataCollatorForLanguageModeling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftdoctor.bench import masks
from ftdoctor.bench.rows import messages
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ROWS = 4


@dataclass(frozen=True, order=True)
class _Row:
    """What the trainer is meant to see of one row, as text without the white space around it."""

    whole: str
    scored: tuple[str, ...]


@probe(
    area="masking",
    needs=("transformers", "datasets"),
    axes=("trainer", "family", "device"),
    references=("huggingface/transformers#23530", "huggingface/trl#1623", "huggingface/trl#3328"),
)
def completion_masking(bench: Bench, check: Check) -> None:
    """Take a batch from the trainer's own loader and read what it holds and scores."""
    tokenizer = bench.tokenizer()
    wanted: list[_Row] = []
    batches = []
    for trainer, rows in _pipelines(bench, check, tokenizer):
        wanted += sorted(rows)
        batches.append({k: v.cpu() for k, v in next(iter(trainer.get_train_dataloader())).items()})
        owner = type(trainer.data_collator)
    found = [row for batch in batches for row in sorted(_read(tokenizer, batch))]
    _show(check, tokenizer, batches, wanted)
    check.equal(
        "text of the rows",
        [row.whole for row in found],
        [row.whole for row in wanted],
        why="the chat template's own rendering of each row",
        owner=owner,
    )
    check.equal(
        "scored text",
        [row.scored for row in found],
        [row.scored for row in wanted],
        why="what the chat template adds to the prompt when it renders the answer",
        owner=owner,
    )
    end = tokenizer.eos_token
    check.equal(
        "scored ends of sequence",
        sum(int(((b["labels"] == tokenizer.eos_token_id) & (b["labels"] == b["input_ids"])).sum()) for b in batches),
        sum(text.count(end) for row in wanted for text in row.scored),
        why="each answer ends with the token that stops generation",
        owner=owner,
    )
    check.equal(
        "scored labels that are not the token itself",
        sum(int(((b["labels"] != -100) & (b["labels"] != b["input_ids"])).sum()) for b in batches),
        0,
        owner=owner,
    )
    check.equal(
        "scored padding",
        sum(int(((b["labels"] != -100) & (b["attention_mask"] == 0)).sum()) for b in batches),
        0,
        why=f"{sum(int((b['attention_mask'] == 0).sum()) for b in batches)} positions are padding",
        owner=owner,
    )


def _show(check: Check, tokenizer: Any, batches: list[dict[str, Any]], wanted: list[_Row]) -> None:
    """Keep the first row of each batch as evidence."""
    scored = {row.whole: row.scored for row in wanted}
    for number, batch in enumerate(batches, start=1):
        seen = batch["attention_mask"][0] == 1
        ids, labels = batch["input_ids"][0][seen].tolist(), batch["labels"][0][seen].tolist()
        should = scored.get(tokenizer.decode(ids).strip(), ())
        masks.record(check, tokenizer, f"first row of batch {number}", ids, labels, should)


def _pipelines(bench: Bench, check: Check, tokenizer: Any) -> list[tuple[Any, list[_Row]]]:
    """Return the cell's trainers, each on rows of its own form, with what is expected of the rows."""
    pairs = bench.rows(ROWS)
    singles = [_expected(check, tokenizer, [pair]) for pair in pairs]
    args: dict[str, Any] = {"per_device_train_batch_size": ROWS}
    model = bench.trainable()
    if bench.cell["trainer"] == "plain":
        return [(bench.trainer(model, tokenizer, bench.arguments(**args), rows=ROWS), singles)]
    args["max_length"] = 512
    first = bench.trainer(model, tokenizer, bench.arguments(**args), rows=ROWS)
    if "generation %}" not in str(tokenizer.chat_template):
        check.note("messages with assistant_only_loss", "not tried: the chat template marks no generation")
        return [(first, singles)]
    from datasets import Dataset

    chats = [[pairs[i], pairs[(i + 1) % ROWS]] for i in range(ROWS)]
    data = Dataset.from_list([{"messages": [m for q, a in chat for m in messages(q, a)]} for chat in chats])
    second = bench.trainer(
        bench.trainable(), tokenizer, bench.arguments(**args, assistant_only_loss=True), train_dataset=data
    )
    return [(first, singles), (second, [_expected(check, tokenizer, chat) for chat in chats])]


def _expected(check: Check, tokenizer: Any, chat: list[tuple[str, str]]) -> _Row:
    """Render a chat turn by turn: what an answer adds to its prompt is what must be scored."""
    seen: list[dict[str, str]] = []
    scored = []
    for question, answer in chat:
        asked = [*seen, *messages(question)]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        seen += messages(question, answer)
        whole = tokenizer.apply_chat_template(seen, tokenize=False)
        if not whole.startswith(prompt):
            check.skip("the chat template renders a prompt alone otherwise than in front of its answer")
        scored.append(whole[len(prompt) :].strip())
    return _Row(whole.strip(), tuple(scored))


def _read(tokenizer: Any, batch: dict[str, Any]) -> list[_Row]:
    """Return the rows of a batch as text, each run of scored positions on its own."""
    rows = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        runs: list[list[int]] = [[]]
        for token, label in zip(ids.tolist(), labels.tolist(), strict=True):
            if label != -100:
                runs[-1].append(token)
            elif runs[-1]:
                runs.append([])
        scored = tuple(tokenizer.decode(run).strip() for run in runs if run)
        rows.append(_Row(tokenizer.decode(ids[mask == 1]).strip(), scored))
    return rows


def _collated(patch: Patch, change: Any) -> None:
    """Let a function change what the collators of both trainers return."""
    from transformers import DataCollatorForSeq2Seq

    def around(original: Any, self: Any, features: Any, *args: Any, **kwargs: Any) -> Any:
        batch = original(self, features, *args, **kwargs)
        change(batch)
        return batch

    patch.wrap(DataCollatorForSeq2Seq, "__call__", around)
    if patch.cell.get("trainer") == "sft":
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        patch.wrap(DataCollatorForLanguageModeling, "torch_call", around)


def _score_everything(batch: Any) -> None:
    batch["labels"] = batch["input_ids"].clone()


@completion_masking.fault("the collator rebuilds the labels from the inputs", catches=("scored text", "scored padding"))
def labels_rebuilt(patch: Patch) -> None:
    """Masks are lost: prompt and padding are scored."""
    _collated(patch, _score_everything)


@completion_masking.fault(
    "the completion mask is ignored", catches=("scored text",), cell={"trainer": "sft", "family": "qwen3"}
)
def mask_ignored(patch: Patch) -> None:
    """As before, through TRL, with padding left out."""

    def change(batch: Any) -> None:
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)

    _collated(patch, change)


@completion_masking.fault(
    "the end of sequence is masked with the padding", catches=("scored text", "scored ends of sequence")
)
def end_masked(patch: Patch) -> None:
    """What a collator does that masks every token equal to the pad token, where pad and end are one."""

    def change(batch: Any) -> None:
        last = batch["attention_mask"].sum(-1) - 1
        batch["labels"][range(len(last)), last] = -100

    _collated(patch, change)


@completion_masking.fault(
    "labels are shifted by the collator", catches=("scored labels that are not the token itself",)
)
def labels_shifted(patch: Patch) -> None:
    """The model will shift them again."""

    def change(batch: Any) -> None:
        batch["labels"] = batch["labels"].roll(-1, dims=-1)

    _collated(patch, change)


@completion_masking.fault("every row gets a second beginning of sequence", catches=("text of the rows",))
def second_beginning(patch: Patch) -> None:
    """The template writes one, and tokenizing the rendered text adds another."""
    from transformers import PreTrainedTokenizerFast

    def around(original: Any, self: Any, text: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, text, *args, **{**kwargs, "add_special_tokens": True})

    patch.wrap(PreTrainedTokenizerFast, "__call__", around)
