"""Prompts to token ids: a text, chat messages, or ids as they were trained on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftdoctor.errors import PredictionError


@dataclass(frozen=True)
class Prompt:
    """What the model is shown.

    Attributes:
        ids: token ids, without padding.
        text: the same as text, special tokens included.
        clipped: tokens that were cut from the beginning.
    """

    ids: tuple[int, ...]
    text: str
    clipped: int = 0


class Prompts:
    """Encodes prompts with a tokenizer of its own, so that the trainer's keeps its padding side and every setting.

    Args:
        processing: the trainer's tokenizer or processor; it is copied.
        options: further arguments of the chat template (`tools`, `enable_thinking`, ...).
    """

    def __init__(self, processing: Any, options: Mapping[str, Any] | None = None) -> None:
        inner = getattr(processing, "tokenizer", processing)
        self._renderer = copy.deepcopy(processing if getattr(processing, "chat_template", None) else inner)
        self.tokenizer = getattr(self._renderer, "tokenizer", self._renderer)
        self._options = dict(options or {})

    def encode(self, prompt: Any, room: int | None, *, closed: bool = False) -> Prompt:
        """Return one prompt in tokens.

        Args:
            prompt: a text; a list of messages, which ends with what is to be answered; or a list of token ids. A
                mapping with `messages` and `tools` or `chat_template_kwargs` gives the template more.
            room: tokens for which the model has positions left; None where it has no limit.
            closed: whether the end token that some tokenizers put behind a text stays there. It belongs there in an
                encoder; a decoder would take the text for over, and its answer for the next one.

        Raises:
            PredictionError: it is empty, or none of these.
        """
        ids = self._ids(prompt, closed)
        if not ids:
            # A model needs a token to begin with, and the first of a text is what it has learned for that.
            begin = next((t for t in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) if t is not None), None)
            if begin is None:
                raise PredictionError("the prompt is empty, and the tokenizer has no token to begin with; write one.")
            ids = [begin]
        clipped = max(0, len(ids) - room) if room is not None else 0
        kept = ids[clipped:]
        return Prompt(tuple(kept), self.tokenizer.decode(kept, skip_special_tokens=False), clipped)

    def _ids(self, prompt: Any, closed: bool) -> list[int]:
        more = self._options
        if isinstance(prompt, Mapping):
            more = {**more, **(prompt.get("chat_template_kwargs") or {})}
            if prompt.get("tools"):
                more["tools"] = prompt["tools"]
            prompt = prompt.get("messages")
        if isinstance(prompt, str):
            bos = self.tokenizer.bos_token or ""
            plain = bool(bos) and prompt.startswith(bos)  # rendered already: a second one would be added
            ids = list(self.tokenizer(prompt, add_special_tokens=not plain)["input_ids"])
            end, name = self.tokenizer.eos_token_id, self.tokenizer.eos_token or ""
            put = end is not None and ids[-1:] == [end] and not prompt.endswith(name)
            return ids[:-1] if put and not closed else ids
        if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
            raise PredictionError(f"a prompt is a text, a list of messages or of token ids, not {_kind(prompt)}.")
        if all(isinstance(token, int) for token in prompt):
            return list(prompt)
        if not all(isinstance(message, Mapping) for message in prompt):
            raise PredictionError("a prompt's list holds messages, or token ids, and nothing else.")
        return self._rendered([dict(message) for message in prompt], more)

    def _rendered(self, messages: list[dict[str, Any]], more: Mapping[str, Any]) -> list[int]:
        if not getattr(self._renderer, "chat_template", None):
            raise PredictionError("the tokenizer has no chat template; give prompts as text, or set one.")
        text = self._renderer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **more)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__}"
