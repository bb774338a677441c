"""Packed examples stay whole and apart: each has the logits that it has alone, and none is scored by another.

Why: examples that are written behind each other see each other: the second is trained on a context that it never has
again, and no loss shows it. transformers reads from positions that start again where examples begin, but only without
an attention mask and without a cache, which is on by default; flash attention reads it from a batch of one row alone.

Cure: `ftdoctor.training.pack_rows` and `packed_collator(model, tokenizer)`, which measures on the model what keeps
examples apart. By hand: reset `position_ids`, no `attention_mask`, `use_cache=False`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ftdoctor.bench.reference import relative_forward_error
from ftdoctor.bench.watch import undisturbed
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

IGNORED = -100
LENGTHS = (9, 14, 5, 3, 11, 17)
LIMIT = 30
"""Tokens of a packed row."""


class Packed(NamedTuple):
    """A batch as it reaches the model, and what the model makes of it."""

    ids: list[list[int]]
    labels: list[list[int]]
    logits: Any
    """Shape (rows, positions, vocabulary)."""


@probe(
    area="components",
    needs=("transformers", "trl", "datasets"),
    axes=("family", "attention", "trainer", "dtype", "device"),
    references=("huggingface/transformers#39194", "huggingface/transformers#46634"),
)
def packed_examples(bench: Bench, check: Check) -> None:
    """Pack examples of known tokens as the component, a script and the library do, and look for each of them."""
    import torch

    from ftdoctor.training import PackedCollator, pack_rows

    model = undisturbed(bench.load()).eval()
    examples = _examples()
    ways = {"naive": partial(_by_hand, bench), "library": partial(_by_library, bench)}
    loops = {"naive": _reset_by_hand, "library": _flattened}
    with torch.no_grad():
        ours = _ours(bench, model, examples)
        looped = {way: attempt(partial(_through, bench, model, make(examples))) for way, make in loops.items()}
        others = {way: attempt(partial(pack, model, examples)) for way, pack in ways.items()}
        alone = [
            model(input_ids=torch.tensor([ids], device=bench.device), use_cache=False).logits[0] for ids in examples
        ]
    check.equal(
        "examples that are not whole",
        _broken(ours, examples),
        [],
        why="each stands once in the batch, with all its tokens in a row",
        beside={way: v if isinstance(v, Exception) else _broken(v, examples) for way, v in others.items()},
        owner=pack_rows,
    )
    error = relative_forward_error(model.config, bench.dtype)
    check.at_most(
        "difference from each example alone, relative to the largest logit",
        _difference(ours, examples, alone),
        error,
        why="the same sums in another order: one rounding a step through the layers",
        beside={way: v if isinstance(v, Exception) else _difference(v, examples, alone) for way, v in others.items()},
        owner=PackedCollator,
    )
    check.at_most(
        "the same difference in a training loop of one's own",
        _difference(ours, examples, alone),
        error,
        why="as before; no trainer is there that switches the cache off",
        beside={way: v if isinstance(v, Exception) else _difference(v, examples, alone) for way, v in looped.items()},
        owner=PackedCollator,
    )
    check.equal(
        "examples whose first token is scored by the one before",
        _first_scored(ours, examples),
        [],
        why="what comes before it is another example",
        beside={way: v if isinstance(v, Exception) else _first_scored(v, examples) for way, v in others.items()},
        owner=PackedCollator,
    )


def _examples() -> list[list[int]]:
    """Return examples of which no two share a token."""
    numbers = iter(range(20, 20 + sum(LENGTHS)))
    return [[next(numbers) for _ in range(length)] for length in LENGTHS]


def _ours(bench: Bench, model: Any, examples: list[list[int]]) -> Packed:
    from ftdoctor.training import pack_rows, packed_collator

    collator = packed_collator(model, bench.tokenizer())
    rows = pack_rows([{"input_ids": ids, "labels": ids} for ids in examples], LIMIT)
    return _through(bench, model, collator(rows))


def _by_hand(bench: Bench, model: Any, examples: list[list[int]]) -> Packed:
    """Do as scripts do: write all behind each other and cut into rows of one length."""
    import torch

    joined = [token for ids in examples for token in ids]
    rows = [joined[i : i + LIMIT] for i in range(0, len(joined) - LIMIT + 1, LIMIT)]
    ids = torch.tensor(rows)
    return _through(bench, model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()})


def _by_library(bench: Bench, model: Any, examples: list[list[int]]) -> Packed:
    """Let the trainer pack: TRL by itself, a plain Trainer with the collator that transformers has for it."""
    from datasets import Dataset
    from transformers import DataCollatorWithFlattening

    data = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in examples])
    sft = bench.cell["trainer"] == "sft"
    own = {"packing": True, "max_length": LIMIT} if sft else {}
    args = bench.arguments(per_device_train_batch_size=len(examples), **own)
    more = {} if sft else {"data_collator": DataCollatorWithFlattening()}
    trainer = bench.trainer(model, bench.tokenizer(), args, train_dataset=data, **more)
    batch = next(iter(trainer.get_train_dataloader()))
    # SFTTrainer switches the cache off with each batch, a plain Trainer once on the model, or not at all.
    return _through(bench, trainer.model.eval(), {**batch, **({"use_cache": False} if sft else {})})


def _reset_by_hand(examples: list[list[int]]) -> dict[str, Any]:
    """Do as careful scripts do: positions that start again, beside the attention mask that every batch has."""
    import torch

    ids = torch.tensor([[token for example in examples for token in example]])
    positions = torch.tensor([[position for example in examples for position in range(len(example))]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": positions, "labels": ids}


def _flattened(examples: list[list[int]]) -> Any:
    """Take the batch of the collator that transformers has for packing."""
    from transformers import DataCollatorWithFlattening

    return DataCollatorWithFlattening()([{"input_ids": ids, "labels": ids} for ids in examples])


def _through(bench: Bench, model: Any, batch: Any) -> Packed:
    """Send a batch through the model as a trainer does, without its labels."""
    import torch

    inputs = {k: v.to(bench.device) if torch.is_tensor(v) else v for k, v in batch.items() if k != "labels"}
    return Packed(batch["input_ids"].tolist(), batch["labels"].tolist(), model(**inputs).logits)


def _place(packed: Packed, example: list[int]) -> tuple[int, int] | None:
    """Return row and position at which an example begins, None where it is not whole, or not there once."""
    places = [
        (row, at)
        for row, ids in enumerate(packed.ids)
        for at in range(len(ids) - len(example) + 1)
        if ids[at : at + len(example)] == example
    ]
    return places[0] if len(places) == 1 else None


def _broken(packed: Packed, examples: list[list[int]]) -> list[int]:
    """Return the numbers of the examples that are cut, lost, or there twice."""
    return [number for number, example in enumerate(examples) if _place(packed, example) is None]


def _difference(packed: Packed, examples: list[list[int]], alone: list[Any]) -> float:
    """Return how far logits of whole examples are from those of the example alone, relative to the largest."""
    worst, largest = 0.0, 0.0
    for example, expected in zip(examples, alone, strict=True):
        place = _place(packed, example)
        if place is not None:
            row, at = place
            measured = packed.logits[row, at : at + len(example)]
            worst = max(worst, float((measured - expected).abs().max()))
        largest = max(largest, float(expected.abs().max()))
    return worst / largest


def _first_scored(packed: Packed, examples: list[list[int]]) -> list[int]:
    """Return the numbers of the examples whose first token has a label though another example stands before it."""
    first = {example[0]: number for number, example in enumerate(examples)}
    scored = {
        first[token]
        for ids, labels in zip(packed.ids, packed.labels, strict=True)
        for at, (token, label) in enumerate(zip(ids, labels, strict=True))
        if at and token in first and label != IGNORED
    }
    return sorted(scored)


@packed_examples.fault(
    "positions go on from one example to the next",
    catches=(
        "difference from each example alone, relative to the largest logit",
        "the same difference in a training loop of one's own",
    ),
)
def positions_go_on(patch: Patch) -> None:
    """Nothing tells the model where examples begin."""
    import torch

    from ftdoctor.training.packed_batches import PackedCollator

    def around(original: Any, self: Any, rows: Any) -> Any:
        batch = original(self, rows)
        batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
        return batch

    patch.wrap(PackedCollator, "__call__", around)
    _believed(patch)


@packed_examples.fault(
    "the cache stays on",
    catches=(
        "difference from each example alone, relative to the largest logit",
        "the same difference in a training loop of one's own",
    ),
)
def cache_on(patch: Patch) -> None:
    """As it is by default: transformers then does not look where examples begin."""
    from ftdoctor.training.packed_batches import PackedCollator

    def around(original: Any, self: Any, rows: Any) -> Any:
        return {**original(self, rows), "use_cache": True}

    patch.wrap(PackedCollator, "__call__", around)
    _believed(patch)


@packed_examples.fault(
    "eager attention is handed a mask for sdpa",
    catches=(
        "difference from each example alone, relative to the largest logit",
        "the same difference in a training loop of one's own",
    ),
    cell={"attention": "eager"},
)
def wrong_mask(patch: Patch) -> None:
    """It adds True and False to the scores."""
    import dataclasses

    from ftdoctor.training.packed_batches import PackedCollator

    def around(original: Any, self: Any, rows: Any) -> Any:
        return original(dataclasses.replace(self, isolation="mask", additive=""), rows)

    patch.wrap(PackedCollator, "__call__", around)
    _believed(patch)


@packed_examples.fault("rows are cut to one length", catches=("examples that are not whole",))
def rows_cut(patch: Patch) -> None:
    """As with everything written behind each other."""
    from ftdoctor.training import packing

    def around(original: Any, examples: Any) -> Any:
        return {name: values if name == "seq_lengths" else values[:20] for name, values in original(examples).items()}

    patch.wrap(packing, "_joined", around)


@packed_examples.fault("first tokens are scored", catches=("examples whose first token is scored by the one before",))
def first_scored(patch: Patch) -> None:
    """Labels are a copy of the inputs."""
    from ftdoctor.training.packed_batches import PackedCollator

    def around(original: Any, self: Any, rows: Any) -> Any:
        batch = original(self, rows)
        return {**batch, "labels": batch["input_ids"].clone()}

    patch.wrap(PackedCollator, "__call__", around)


def _believed(patch: Patch) -> None:
    """Let the component believe that examples stay apart, as one that measures nothing does."""
    from ftdoctor.training import packed_batches

    patch.replace(packed_batches, "keeps_apart", lambda model, collator: True)
