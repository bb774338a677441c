"""Sample predictions during training as scripts and TRL make them, to stand beside the hardened ones."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftdoctor.bench import decoding, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NEW_TOKENS = decoding.NEW_TOKENS


@dataclass(frozen=True)
class Generated:
    """One row that `generate` gave: the prompt's tokens, and the new ones up to the end of the turn."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


def rendered(tokenizer: Any, questions: Sequence[str]) -> list[str]:
    """Return the texts that a model is to go on with, by the chat template."""
    return [
        tokenizer.apply_chat_template(rows.messages(q), tokenize=False, add_generation_prompt=True) for q in questions
    ]


def one_by_one(model: Any, tokenizer: Any, texts: Sequence[str], device: str) -> list[Generated]:
    """Generate as the script does that this project began with: eval mode, each prompt alone, nothing put back."""
    import torch

    model.eval()
    made = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(device)
        with torch.no_grad():
            out = model.generate(
                input_ids=ids, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.eos_token_id
            )
        made.append(Generated(tuple(ids[0].tolist()), _turn(out[0, ids.shape[1] :].tolist(), tokenizer)))
    return made


def in_a_batch(model: Any, tokenizer: Any, texts: Sequence[str], device: str, **more: Any) -> list[Generated]:
    """Generate as scripts do that want it fast: one batch, padded as the tokenizer happens to pad.

    Args:
        model: what generates, in the mode it is in.
        tokenizer: pads.
        texts: the prompts.
        device: where the model lives.
        more: further arguments of `generate`.
    """
    import torch

    batch = tokenizer(list(texts), add_special_tokens=False, padding=True, return_tensors="pt").to(device)
    with torch.no_grad():
        out = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            **{"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": tokenizer.pad_token_id, **more},
        )
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    new = out[:, batch["input_ids"].shape[1] :].tolist()
    return [Generated(tuple(p), _turn(row, tokenizer)) for p, row in zip(prompts, new, strict=True)]


def has_library() -> bool:
    """Return whether TRL is installed, whose callback stands beside."""
    return importlib.util.find_spec("trl") is not None


def library(trainer: Any, questions: Sequence[str]) -> Callable[[Any], list[Generated]] | None:
    """Return TRL's LogCompletionsCallback as a function of the trainer's state; None where TRL is not installed.

    It returns what `generate` gave inside of it, because the callback keeps texts only.
    """
    if not has_library():
        return None
    from datasets import Dataset
    from transformers import GenerationConfig
    from trl import LogCompletionsCallback

    asked = Dataset.from_dict({"prompt": [rows.messages(q) for q in questions]})
    had = trainer.eval_dataset
    trainer.eval_dataset = asked
    tokenizer = trainer.processing_class
    config = GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    callback = LogCompletionsCallback(trainer, config, freq=1)
    trainer.eval_dataset = had

    def sample(state: Any) -> list[Generated]:
        with watched(trainer.model) as calls:
            callback.on_step_end(trainer.args, state, trainer.control, processing_class=tokenizer)
        return [row for call in calls for row in _rows(*call, tokenizer)]

    return sample


class watched:  # noqa: N801 - used as a context
    """Keeps what goes into `generate` of a model and what comes out of it, while it is entered."""

    def __init__(self, model: Any) -> None:
        self._kind = type(model)
        self._original = self._kind.generate
        self.calls: list[tuple[dict[str, Any], Any]] = []

    def __enter__(self) -> list[tuple[dict[str, Any], Any]]:
        calls, original = self.calls, self._original

        def generate(model: Any, *args: Any, **kwargs: Any) -> Any:
            made = original(model, *args, **kwargs)
            calls.append((kwargs, made))
            return made

        self._had = vars(self._kind).get("generate")
        self._kind.generate = generate
        return calls

    def __exit__(self, *_: object) -> None:
        if self._had is None:
            del self._kind.generate
        else:
            self._kind.generate = self._had


def _rows(given: dict[str, Any], made: Any, tokenizer: Any) -> list[Generated]:
    width = given["input_ids"].shape[1]
    kept = zip(given["input_ids"], given["attention_mask"], made, strict=True)
    return [Generated(tuple(i[m.bool()].tolist()), _turn(row[width:].tolist(), tokenizer)) for i, m, row in kept]


def _turn(tokens: list[int], tokenizer: Any) -> tuple[int, ...]:
    """Cut new tokens behind the end of the turn."""
    end = tokenizer.eos_token_id
    return tuple(tokens[: tokens.index(end) + 1]) if end in tokens else tuple(tokens)


def shortfall(model: Any, made: Sequence[Generated], device: str) -> tuple[float, Any]:
    """Return by how much the logit of a new token falls short of the best one, at the worst place, and all logits.

    Args:
        model: judged by plain forwards without a cache, in evaluation mode, which it is put back from.
        made: what is judged.
        device: where the model lives.
    """
    import torch

    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        gaps, logits = [], []
        for row in made:
            ids = torch.tensor([[*row.prompt, *row.tokens]], device=device)
            logits.append(decoding.forward_logits(model, ids, len(row.prompt)))
            gaps.append(decoding.gap(logits[-1], ids[:, len(row.prompt) :]))
        return max(gaps), torch.cat(logits, 1)
    finally:
        for module, mode in modes.items():
            module.training = mode
