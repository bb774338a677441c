"""A row longer than `max_length` is cut at its end, keeps its labels aligned, and is gone if nothing is left to score.

Why: a row whose prompt alone fills `max_length` has no answer left to learn from. Kept, it is counted and trained as a
row of zero; a batch of such rows has the loss 0/0. Cut at the wrong side, a row loses its question instead.
TRL up to 0.25 keeps rows without an answer and says nothing.

Cure: raise `max_length` (TRL's default is 1024) above the longest row, or drop the long rows yourself and count them;
a row that is cut also loses its end of turn, so that too many of them teach the model not to stop.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ftdoctor.bench.rows import messages
from ftdoctor.probe import probe
from ftdoctor.results import Level

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

KEPT = 4
"""Tokens of the long answer for which `max_length` leaves room."""
ROOM = 3
"""How many times the text of the long parts is repeated."""
SFT = {"trainer": "sft"}


@probe(
    area="masking",
    needs=("transformers", "trl", "datasets"),
    axes=("trainer", "family", "device"),
    only={"trainer": ("sft",)},
    references=("huggingface/trl#6320", "huggingface/trl#1623"),
)
def truncation(bench: Bench, check: Check) -> None:
    """Send a short row, one with a long answer and one with a long question through SFTTrainer."""
    from trl import SFTTrainer

    tokenizer = bench.tokenizer()
    short, answer, question = ("Hi", "Yo"), ("Hi", bench.text * ROOM), (bench.text * ROOM, "Yo")
    whole = [_encode(check, tokenizer, pair) for pair in (short, answer, question)]
    limit = max(len(whole[0][0]), _first_scored(whole[1][1]) + KEPT)
    wanted = [(ids[:limit], labels[:limit]) for ids, labels in whole]
    rows = _through_trainer(bench, tokenizer, [short, answer, question], limit)

    scored = [row for row in rows if any(label != -100 for label in row[1])]
    check.at_most(
        "length of the longest row", max(len(ids) for ids, _ in rows), limit, why="max_length", owner=SFTTrainer
    )
    check.equal(
        "tokens of the rows that have an answer left",
        sorted(tokenizer.decode(ids) for ids, _ in scored),
        sorted(tokenizer.decode(ids) for ids, labels in wanted[:2]),
        why="TRL promises to cut on the right; the short row stays whole, and both keep tokens to score",
        owner=SFTTrainer,
    )
    check.equal(
        "scored tokens of the rows that have an answer left",
        sorted(tokenizer.decode([x for x in labels if x != -100]) for _, labels in scored),
        sorted(tokenizer.decode([x for x in labels if x != -100]) for _, labels in wanted[:2]),
        why="the labels are cut where the tokens are cut",
        owner=SFTTrainer,
    )
    check.equal(
        "rows that are trained without a token to score",
        len(rows) - len(scored),
        0,
        level=Level.WARN,
        why="the question of one row alone fills max_length; TRL drops such rows since trl#6320",
        owner=SFTTrainer,
    )
    ends = sum(tokenizer.eos_token_id in labels for _, labels in rows)
    check.note("rows with a scored end of sequence", f"{ends} of {len(rows)}; 3 rows went in")


def _encode(check: Check, tokenizer: Any, pair: tuple[str, str]) -> tuple[list[int], list[int]]:
    """Return tokens and labels of a whole conversation, with everything after the prompt scored."""
    whole = tokenizer.apply_chat_template(messages(*pair), tokenize=False)
    prompt = tokenizer.apply_chat_template(messages(pair[0]), tokenize=False, add_generation_prompt=True)
    if not whole.startswith(prompt):
        check.skip("the chat template renders a prompt alone otherwise than in front of its answer")
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    masked = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return ids, [-100] * masked + ids[masked:]


def _first_scored(labels: list[int]) -> int:
    return next(i for i, label in enumerate(labels) if label != -100)


def _through_trainer(
    bench: Bench, tokenizer: Any, pairs: list[tuple[str, str]], limit: int
) -> list[tuple[list[int], list[int]]]:
    """Return tokens and labels of each row in the trainer's own batch, without the padding."""
    from datasets import Dataset

    data = Dataset.from_list([{"prompt": messages(q), "completion": messages(q, a)[1:]} for q, a in pairs])
    args = bench.arguments(max_length=limit, per_device_train_batch_size=len(pairs))
    trainer = bench.trainer(bench.trainable(), tokenizer, args, train_dataset=data)
    batch = next(iter(trainer.get_train_dataloader()))
    return [
        (ids[mask == 1].tolist(), labels[mask == 1].tolist())
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]


def _without_limit(original: Any, self: Any, dataset: Any, processor: Any, args: Any, *more: Any) -> Any:
    endless = copy.copy(args)
    endless.max_length = None
    return original(self, dataset, processor, endless, *more)


def _sliced(dataset: Any, window: slice) -> Any:
    return dataset.map(lambda row: {k: v[window] for k, v in row.items() if isinstance(v, list)})


@truncation.fault("max_length is ignored", catches=("length of the longest row",), cell=SFT)
def limit_ignored(patch: Patch) -> None:
    """Nothing is cut."""
    from trl import SFTTrainer

    patch.wrap(SFTTrainer, "_prepare_dataset", _without_limit)


@truncation.fault(
    "rows are cut on the left",
    catches=(
        "tokens of the rows that have an answer left",
        "scored tokens of the rows that have an answer left",
    ),
    cell=SFT,
)
def cut_on_the_left(patch: Patch) -> None:
    """The question goes, the end of the answer stays."""
    from trl import SFTTrainer

    def around(original: Any, self: Any, dataset: Any, processor: Any, args: Any, *more: Any) -> Any:
        whole = _without_limit(original, self, dataset, processor, args, *more)
        return _sliced(whole, slice(-args.max_length, None))

    patch.wrap(SFTTrainer, "_prepare_dataset", around)


@truncation.fault(
    "rows without an answer are kept", catches=("rows that are trained without a token to score",), cell=SFT
)
def empty_rows_kept(patch: Patch) -> None:
    """What TRL 0.25 does."""
    from trl import SFTTrainer

    def around(original: Any, self: Any, dataset: Any, processor: Any, args: Any, *more: Any) -> Any:
        whole = _without_limit(original, self, dataset, processor, args, *more)
        return _sliced(whole, slice(None, args.max_length))

    patch.wrap(SFTTrainer, "_prepare_dataset", around)
