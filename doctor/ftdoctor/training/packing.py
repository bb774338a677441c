"""Packing: short examples put whole into rows of one length, and batches of them that keep the examples apart.

    packed = pack_rows(encoder.rows(rows), max_length=2048)
    collator = packed_collator(model, tokenizer)

Examples in one row stay apart by their positions, which start again with each, and by what the attention
implementation makes of them; `packed_collator` measures that on the model itself.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ftdoctor.errors import DataError
from ftdoctor.training.collator import plain
from ftdoctor.training.data import is_dataset, is_stream, uncached
from ftdoctor.training.truncating import IGNORED
from ftdoctor.wording import count

BUFFER = 1000
"""Examples that are packed with each other where they come as a stream."""

COLUMNS = ("input_ids", "labels", "position_ids", "seq_lengths")
"""What a packed row has. TRL keeps `seq_lengths` and drops `position_ids`, a plain Trainer the other way round."""


@dataclass
class PackingCounts:
    """What was packed so far."""

    examples: int = 0
    rows: int = 0
    tokens: int = 0
    max_length: int = 0

    @property
    def filled(self) -> float:
        """Share of the positions of all rows that hold a token."""
        return self.tokens / (self.rows * self.max_length) if self.rows else 0.0

    def as_dict(self) -> dict[str, float]:
        """Return the counts as plain values."""
        return {
            "examples": self.examples,
            "rows": self.rows,
            "tokens": self.tokens,
            "max_length": self.max_length,
            "filled": self.filled,
        }

    def __str__(self) -> str:
        examples, rows = count(self.examples, "example"), count(self.rows, "row")
        return f"{examples} packed into {rows} of at most {self.max_length} tokens, {self.filled:.1%} filled"


def pack_rows(rows: Any, max_length: int, *, buffer: int = BUFFER, counts: PackingCounts | None = None) -> Any:
    """Pack encoded rows, and return them in the kind of container in which they came.

    Each example stays whole, in one row; none is lost, none is there twice. The result depends on nothing but rows,
    their order, `max_length` and `buffer`.

    Args:
        rows: `input_ids` and `labels` each: a list, which is packed as a whole; or a `datasets.Dataset`, an
            `IterableDataset` or another iterable, of which `buffer` examples at a time are packed with each other.
        max_length: tokens of the longest packed row.
        buffer: examples that are held in memory at a time, but for a list.
        counts: grows with what is packed.

    Returns:
        Rows of `input_ids`, `labels`, `position_ids` (which start at 0 with each example) and `seq_lengths`. The
        first label of each example is -100: what stands before it is another example.

    Raises:
        DataError: an example is longer than `max_length`, or has not as many labels as tokens.
    """
    counted = counts if counts is not None else PackingCounts()
    counted.max_length = max_length

    def columns(data: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        pairs = zip(data["input_ids"], data["labels"], strict=True)
        examples = [{"input_ids": ids, "labels": labels} for ids, labels in pairs]
        packed = _pack(examples, max_length, counted)
        return {name: [row[name] for row in packed] for name in COLUMNS}

    if is_dataset(rows) or is_stream(rows):
        taken = ["input_ids", "labels"]
        chosen = rows.select_columns(taken).with_format(None)
        return chosen.map(columns, batched=True, batch_size=buffer, remove_columns=taken, **uncached(chosen))
    if isinstance(rows, Sequence):
        return _pack(rows, max_length, counted)
    return _packed_stream(rows, max_length, buffer, counted)


def _packed_stream(
    rows: Iterable[Mapping[str, Any]], max_length: int, buffer: int, counts: PackingCounts
) -> Iterator[dict[str, list[int]]]:
    waiting = iter(rows)
    while examples := list(islice(waiting, buffer)):
        yield from _pack(examples, max_length, counts)


def _pack(examples: Sequence[Mapping[str, Any]], max_length: int, counts: PackingCounts) -> list[dict[str, list[int]]]:
    lengths = [_length(example, number, max_length) for number, example in enumerate(examples, counts.examples + 1)]
    packed = [_joined([examples[i] for i in chosen]) for chosen in best_fit(lengths, max_length)]
    counts.examples += len(examples)
    counts.rows += len(packed)
    counts.tokens += sum(lengths)
    return packed


def _length(example: Mapping[str, Any], number: int, max_length: int) -> int:
    length = len(example["input_ids"])
    if example.get("labels") is None or len(example["labels"]) != length or not length:
        raise DataError(f"Example {number} has not as many labels as tokens; encode the rows with `Encoder` first.")
    if length > max_length:
        raise DataError(
            f"Example {number} has {length} tokens, more than a packed row of {max_length}; encode with "
            f"max_length={max_length}, or pack into longer rows."
        )
    return length


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put examples into rows, the longest first, each where the least room is left; ties go to the earlier.

    Args:
        lengths: tokens of each example, at most `capacity`.
        capacity: tokens of a row.

    Returns:
        Indices of the examples of each row, ascending; rows in the order of their first example.
    """
    rows: list[list[int]] = []
    rooms: list[int] = []  # the amounts of room that some row has, ascending
    having: dict[int, list[int]] = {}  # amount of room to the rows that have it
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect_left(rooms, lengths[index])
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = having[room].pop(0)
            if not having[room]:
                del having[room], rooms[at]
        rows[row].append(index)
        left = room - lengths[index]
        if left and left not in having:
            insort(rooms, left)
            having[left] = []
        if left:
            having[left].append(row)
    return sorted(sorted(row) for row in rows)


def _joined(examples: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    made: dict[str, list[int]] = {name: [] for name in COLUMNS}
    for example in examples:
        ids = plain(example["input_ids"])
        made["input_ids"] += ids
        # Nothing of this example comes before its first token, so nothing may be asked to predict it.
        made["labels"] += [IGNORED, *plain(example["labels"])[1:]]
        made["position_ids"] += range(len(ids))
        made["seq_lengths"].append(len(ids))
    return made
