"""What a model sets bounds to: the positions of a prompt and its answer, and the tokens that it knows.

A token or a position beyond them is an IndexError on a CPU. On a GPU it is an assertion of the device, after which the
process, and the training in it, can compute nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import PredictionError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Bounds:
    """What fits into a model."""

    room: int | None
    """Most tokens of a prompt; None where the model has no limit."""
    new_tokens: int
    """Most new tokens of a prediction."""
    vocabulary: int | None
    """Tokens that have an embedding; None where that is not known."""
    padded: bool
    """Whether prompts may be padded. Not where a peft adapter has virtual tokens in front of the padding: positions are
    counted through it (of prefix tuning up to peft 0.18), and a prompt stands further from them than in training."""

    def refuse_unknown(self, ids: Sequence[int]) -> None:
        """Refuse a prompt with tokens that the model has not.

        Raises:
            PredictionError: with the token, and the way out.
        """
        if self.vocabulary is not None and max(ids) >= self.vocabulary:
            raise PredictionError(
                f"the prompt has token {max(ids)}, and the model embeddings for {self.vocabulary}; call "
                "model.resize_token_embeddings(len(tokenizer)) before training."
            )


def bounds_of(model: Any, new_tokens: int) -> Bounds:
    """Return the bounds of a model that is asked for so many new tokens.

    Where a prompt and these do not fit, the prompt keeps at least half of the positions.
    """
    text = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    virtual = _virtual_tokens(model)
    positions = getattr(text, "max_position_embeddings", None)
    room = None
    if isinstance(positions, int) and positions > 0:
        left = max(2, positions - virtual)
        if getattr(model.config, "is_encoder_decoder", False):
            room, most = left, left - 1  # each side has positions of its own, the decoder one token before its first
        else:
            room = max(1, left - new_tokens, left // 2)
            most = left - room
        new_tokens = min(new_tokens, most)
    return Bounds(room, new_tokens, _vocabulary(model), not virtual)


def _virtual_tokens(model: Any) -> int:
    """Return how many tokens the active adapter puts before a prompt: prompt, prefix and p-tuning of peft."""
    active = getattr(model, "active_adapter", None)
    config = getattr(model, "peft_config", {}).get(active) if isinstance(active, str) else None
    learned = getattr(config, "is_prompt_learning", False)
    return int(getattr(config, "num_virtual_tokens", 0) or 0) if learned else 0


def _vocabulary(model: Any) -> int | None:
    try:
        layer = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    number = getattr(layer, "num_embeddings", None) or getattr(getattr(layer, "base_layer", None), "num_embeddings", 0)
    return number if isinstance(number, int) and number > 0 else None
