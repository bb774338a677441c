"""How predictions are generated, what they may cost, and what is left of that in a call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import PredictionError
from ftdoctor.prediction import precision

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class GenerationSettings:
    """How predictions are generated, and what they may cost."""

    max_new_tokens: int = 128
    """Limit of one prediction."""
    batch_size: int = 16
    max_seconds: float = 120.0
    """Wall-clock limit of a call; it is looked at after each token. What is not done by then says so."""
    max_tokens: int | None = None
    """Limit of the new tokens of a call, all samples together; None for none but `max_new_tokens` of each."""
    precision: str = "auto"
    """`auto` (the trainer's own, see `ftdoctor.prediction.precision.rungs`), `none`, `bf16` or `fp16`."""
    exact: bool = False
    """Only prompts of equal length share a batch, so that none is padded: in half precision padding moves roundings."""
    seed: int = 0
    """Where `options` sample; the generators that training draws from are put back in any case."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of transformers' GenerationConfig: `{"do_sample": True, "temperature": 0.7}`."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the chat template."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "max_seconds", "max_tokens"):
            value = getattr(self, name)
            kinds: Any = (int, float) if name == "max_seconds" else int
            if not (isinstance(value, kinds) and value > 0) and not (value is None and name == "max_tokens"):
                whole = "a number" if name == "max_seconds" else "a whole number"
                raise PredictionError(f"{name} is {value!r}; it must be {whole} above 0.")
        for name in ("options", "template"):
            if not isinstance(getattr(self, name), Mapping):
                raise PredictionError(f"{name} is {getattr(self, name)!r}; give a dict, empty for none.")
        precision.refuse_unknown(self.precision)


class Limits:
    """What is left of the time and the tokens of a call.

    Args:
        deadline: on the clock of `time.monotonic`.
        tokens: new tokens of the whole call, or None.
    """

    def __init__(self, deadline: float, tokens: int | None) -> None:
        self.deadline, self.tokens = deadline, tokens

    def reason(self, rows: int, settings: GenerationSettings, agree: Callable[[bool], bool]) -> str:
        """Return why a batch of so many rows is not begun any more; empty where it is."""
        if not agree(self.seconds() > 0):
            return f"not generated: the {settings.max_seconds:g} s of this call (max_seconds) were over"
        if self.new_tokens(rows, settings.max_new_tokens) < 1:
            return f"not generated: the {settings.max_tokens} tokens of this call (max_tokens) were spent"
        return ""

    def seconds(self) -> float:
        """Return the time that is left."""
        return self.deadline - time.monotonic()

    def new_tokens(self, rows: int, most: int) -> int:
        """Return how many tokens each of so many rows may get."""
        return most if self.tokens is None else min(most, self.tokens // rows)

    def spend(self, tokens: int) -> None:
        """Count new tokens."""
        if self.tokens is not None:
            self.tokens -= tokens
