"""What a writer of predictions promises, and what it says became of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftdoctor.prediction.rows import PredictionRow


@dataclass(frozen=True)
class Delivery:
    """What became of rows."""

    written: int = 0
    """Rows that are where they belong now; rows of earlier calls that were waiting count in the call that delivers."""
    waiting: int = 0
    """Rows on disk that could not be delivered yet; they will be, at a later call or at the next start."""
    refused: int = 0
    """Rows that the receiver will never take, kept aside on disk (counted in the call in which it said so)."""
    reason: str = ""
    """One sentence on why rows wait or were refused; never holds a token or password."""


class Writer(Protocol):
    """Takes rows of predictions; used by one thread of one process at a time."""

    def write(self, rows: Sequence[PredictionRow]) -> Delivery:
        """Keep rows for good: when this returns they are where they belong, or on disk to be delivered later.

        Raises:
            PredictionError: neither could be done; the rows of this call are not kept, those of others are.
        """

    def close(self) -> Delivery:
        """Deliver what can still be delivered within the writer's limits, and let go of files and connections."""
