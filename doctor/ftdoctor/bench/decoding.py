"""Greedy generation as users write it, and what a plain forward of the same model makes of its tokens."""

from __future__ import annotations

from typing import Any

from ftdoctor.bench.rows import messages

NEW_TOKENS = 8


def prompt(tokenizer: Any, question: str, device: str) -> dict[str, Any]:
    """Return input_ids and attention_mask of one question, shape (1, tokens)."""
    text = tokenizer.apply_chat_template(messages(question), tokenize=False, add_generation_prompt=True)
    encoded = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    return {k: encoded[k].to(device) for k in ("input_ids", "attention_mask")}


def greedy(model: Any, inputs: dict[str, Any], pad: int | None, **more: Any) -> Any:
    """Return what `generate` returns for a few greedy tokens, called as a callback does."""
    import torch

    with torch.no_grad():
        return model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=pad, **more)


def forward_logits(model: Any, ids: Any, start: int) -> Any:
    """Return the float64 logits of one full forward without a cache at the positions from `start` - 1 on."""
    import torch

    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits[:, start - 1 : -1].double()


def gap(logits: Any, chosen: Any) -> float:
    """Return the largest shortfall of a chosen token's logit against the best one at its position."""
    picked = logits.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    return float((logits.amax(-1) - picked).max())
