"""A written prediction: what the model made of one sample at one step, with the truth beside it."""

from __future__ import annotations

import datetime
import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import PredictionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class PredictionRow:
    """One sample at one step of one job.

    Texts may hold anything that a model can write: line breaks, NUL, lone surrogates, a megabyte.
    """

    id: str
    """32 hexadecimal digits, unique to this row: by it a row that arrives again is known."""
    job: str
    user: str
    epoch: float | None
    step: int
    """Optimizer steps taken when the prediction was made."""
    sample_index: int
    """Row of the set that the sample was taken from."""
    prompt: str
    """What the model was shown, special tokens included."""
    ground_truth: str | None
    prediction: str | None
    """What it wrote, without special tokens; None where generating failed."""
    error: str | None
    """One line: what was raised and where, with dtypes, device and autocast; None where generating succeeded."""
    seconds: float
    """Wall-clock time of the batch that it was part of, divided by the rows of the batch."""
    tokens: int
    """New tokens, the end of the turn included."""
    model_dtype: str
    """How the weights are stored, the most frequent first: `bfloat16+float32`, `nf4+float32`."""
    created_at: str
    """UTC, ISO 8601 with microseconds."""
    finish: str = ""
    """`stop` (the model ended its turn), `length`, `time`, or `error`."""
    precision: str = "none"
    """Dtype of autocast while generating, or `none`."""
    batch_size: int = 1
    """Rows of the batch that it was generated in: in half precision tokens can depend on it."""
    clipped: int = 0
    """Tokens that were cut from the beginning of the prompt, because the model has no more positions."""

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain data, in the order of the fields."""
        return asdict(self)


NAMES = tuple(field.name for field in fields(PredictionRow))
"""The columns, in order."""


def new_id() -> str:
    """Return an id for a row; draws from the operating system, not from a generator that training uses."""
    return os.urandom(16).hex()


def now() -> str:
    """Return the present moment as rows have it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")


def from_dict(data: Mapping[str, Any]) -> PredictionRow:
    """Return the row of plain data; unknown names are left out, so that rows of later versions can be read.

    Raises:
        PredictionError: a field without a default is missing.
    """
    try:
        return PredictionRow(**{name: data[name] for name in NAMES if name in data})
    except TypeError as error:
        missing = [name for name in NAMES[:14] if name not in data]
        raise PredictionError(f"a prediction's row lacks {', '.join(missing)}; it is not one of ftdoctor's.") from error


def newest(rows: Iterable[PredictionRow]) -> list[PredictionRow]:
    """Return one row for each job, step and sample, the last one made, sorted by them.

    A run that is resumed from a checkpoint makes the predictions of some steps again.
    """
    found: dict[tuple[str, int, int], PredictionRow] = {}
    for row in rows:
        key = (row.job, row.step, row.sample_index)
        if key not in found or row.created_at >= found[key].created_at:
            found[key] = row
    return [found[key] for key in sorted(found)]
