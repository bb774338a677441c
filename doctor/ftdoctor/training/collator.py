"""Encoded rows to batches: padded on the right, and unscored only where there is nothing to learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import DataError, TrainingError
from ftdoctor.training.truncating import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class PaddingCollator:
    """Pads rows on the right to the longest of a batch; give it as `data_collator` to a trainer.

    Padding is told from text by its position, never by its token, so that labels of the end of sequence stay scored
    where it also serves as padding.

    Attributes:
        pad_token_id: the token in the inputs of padding, which is neither attended to nor scored.
        pad_to_multiple_of: the length of a batch is rounded up to a multiple of this, 1 for none.
    """

    pad_token_id: int
    pad_to_multiple_of: int = 1

    @classmethod
    def of(cls, tokenizer: Any, *, pad_to_multiple_of: int = 1) -> PaddingCollator:
        """Make one for a tokenizer: its pad token, or its end of sequence where it has none."""
        return cls(padding_token(tokenizer), pad_to_multiple_of)

    def __post_init__(self) -> None:
        if self.pad_to_multiple_of < 1:
            raise TrainingError(f"pad_to_multiple_of={self.pad_to_multiple_of} is no length; give 1 or more.")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a batch of int64 tensors.

        Args:
            rows: `input_ids` and `labels` of equal length each, and `position_ids` where all have them; lists or
                one-dimensional tensors. Other columns are left out.

        Returns:
            `input_ids`, `attention_mask`, `labels`, and `position_ids` where given; shape (rows, longest).

        Raises:
            DataError: a row has no labels, or lists of unequal lengths, or the batch is empty.
        """
        columns = checked(rows)
        longest = max(len(ids) for ids in columns["input_ids"])
        length = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        padding = {"input_ids": self.pad_token_id, "labels": IGNORED, "position_ids": 0}
        batch = {name: tensor(values, length, padding[name]) for name, values in columns.items()}
        ones = [[1] * len(ids) for ids in columns["input_ids"]]
        return {**batch, "attention_mask": tensor(ones, length, 0)}


def padding_token(tokenizer: Any) -> int:
    """Return the token to pad inputs with: the pad token, or the end of sequence where there is none.

    Raises:
        TrainingError: the tokenizer has neither.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise TrainingError("The tokenizer has neither a pad token nor an end of sequence to pad with; set its pad_token.")


def checked(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    """Return the columns of rows as plain lists, checked for their lengths."""
    if not rows:
        raise DataError("The batch has no rows; give the collator at least one.")
    names = ["input_ids", "labels", *(["position_ids"] if all("position_ids" in row for row in rows) else [])]
    columns: dict[str, list[list[int]]] = {name: [] for name in names}
    for number, row in enumerate(rows, start=1):
        for name in names:
            if row.get(name) is None:
                raise DataError(
                    f"Row {number} of the batch has no {name}, only {', '.join(map(str, row))}; encode the rows with "
                    "`Encoder` first, and let the trainer keep the column."
                )
            columns[name].append(plain(row[name]))
        lengths = {name: len(columns[name][-1]) for name in names}
        if len(set(lengths.values())) > 1 or not lengths["input_ids"]:
            shown = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise DataError(f"Row {number} of the batch has {shown}; give as many of each, and at least one.")
    return columns


def plain(values: Any) -> list[int]:
    """Return a sequence, tensor or array of numbers as a list."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


def tensor(values: Sequence[Sequence[int]], length: int, padding: int) -> Any:
    """Return lists as one int64 tensor, shape (rows, length), filled up on the right."""
    import torch

    return torch.tensor([[*row, *[padding] * (length - len(row))] for row in values], dtype=torch.int64)
