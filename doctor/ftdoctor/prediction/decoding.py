"""One call of `generate`: settings that hold whatever the model's own say, left padding, and the rows it gives."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.bounds import Bounds, bounds_of
from ftdoctor.wording import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ftdoctor.prediction.limits import Limits

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_OURS = {
    "max_new_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "max_time": "max_seconds",
    "pad_token_id": "",
    "return_dict_in_generate": "",
    "num_return_sequences": "",
}
"""Settings that options may not have, with the field of GenerationSettings to use."""


@dataclass(frozen=True)
class Plan:
    """What all batches of a call have in common.

    Attributes:
        config: transformers' GenerationConfig.
        ends: token ids that end a turn.
        pad: token id that fills rows.
        bounds: what fits into the model.
        encoder_decoder: whether the prompt goes into an encoder, and comes not back with the answer.
        tokenizer: given to `generate` where a setting needs it (`stop_strings`).
    """

    config: Any
    ends: frozenset[int]
    pad: int
    bounds: Bounds
    encoder_decoder: bool
    tokenizer: Any


@dataclass(frozen=True)
class GeneratedRow:
    """The new tokens of a row, up to the end of the turn."""

    token_ids: tuple[int, ...]
    finish: str


def settings_of(model: Any, tokenizer: Any, options: Mapping[str, Any], new_tokens: int) -> Plan:
    """Return the plan: greedy search, unless the options say otherwise, with the model's other settings kept."""
    from transformers import GenerationConfig

    own = getattr(model, "generation_config", None)
    default, config = GenerationConfig(), copy.deepcopy(own) if own is not None else GenerationConfig()
    for name in _SAMPLING:
        # Left over beside greedy search they are a warning at each call.
        if hasattr(default, name):
            setattr(config, name, getattr(default, name))
    config.update(
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        max_length=default.max_length,
        use_cache=True,
        cache_implementation=None,  # a static cache would stay with the model
        return_dict_in_generate=False,
        output_scores=False,
        output_logits=False,
        output_attentions=False,
        output_hidden_states=False,
    )
    config.update(**options)
    ends = _ends(config, tokenizer)
    bounds = bounds_of(model, new_tokens)
    # A pad token that was added to the tokenizer alone is one that the model cannot be shown.
    known = bounds.vocabulary or math.inf
    pads = (tokenizer.pad_token_id, config.pad_token_id, *sorted(ends))
    pad = next((t for t in pads if isinstance(t, int) and 0 <= t < known), 0)
    config.update(eos_token_id=sorted(ends) or None, pad_token_id=pad, max_new_tokens=bounds.new_tokens)
    return Plan(
        config=config,
        ends=ends,
        pad=pad,
        bounds=bounds,
        encoder_decoder=bool(getattr(model.config, "is_encoder_decoder", False)),
        tokenizer=tokenizer,
    )


def refuse_options(options: Mapping[str, Any]) -> None:
    """Refuse options that would be passed on in vain.

    Raises:
        PredictionError: one is unknown to transformers, or has a place of its own in the settings.
    """
    if not options:
        return
    from transformers import GenerationConfig

    known = [name for name in vars(GenerationConfig()) if not name.startswith("_")]
    for name in options:
        if name in _OURS:
            instead = f"use {_OURS[name]} of GenerationSettings" if _OURS[name] else "the generator sets it itself"
            raise PredictionError(f"options may not set {name}; {instead}.")
        if name not in known:
            raise PredictionError(f"transformers has no generation setting {name!r}{nearest(name, known)}.")


def _ends(config: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids that end a turn: the model's, and the tokenizer's, which fine-tuning has taught it."""
    given = config.eos_token_id
    own = given if isinstance(given, (list, tuple)) else [given]
    return frozenset(t for t in (*own, tokenizer.eos_token_id) if isinstance(t, int))


def run(
    model: Any,
    plan: Plan,
    prompts: Sequence[Sequence[int]],
    device: Any,
    limits: Limits,
    *,
    together: bool = False,
) -> list[GeneratedRow]:
    """Generate one batch, and return its rows in order.

    Args:
        model: what generates.
        plan: from `settings_of`.
        prompts: token ids, without padding.
        device: where the inputs go.
        limits: what is left of the call.
        together: whether other processes generate with this one, each of which must go on until all are done.
    """
    import torch

    width = max(map(len, prompts))
    # A decoder goes on at the end of the row; an encoder's positions count from its beginning.
    gaps = [[plan.pad] * (width - len(p)) for p in prompts]
    kept = [[0] * len(g) for g in gaps]
    if plan.encoder_decoder:
        ids = [[*p, *g] for p, g in zip(prompts, gaps, strict=True)]
        mask = [[1] * len(p) + k for p, k in zip(prompts, kept, strict=True)]
    else:
        ids = [[*g, *p] for p, g in zip(prompts, gaps, strict=True)]
        mask = [k + [1] * len(p) for p, k in zip(prompts, kept, strict=True)]
    config = copy.deepcopy(plan.config)
    config.update(
        max_new_tokens=limits.new_tokens(len(prompts), plan.bounds.new_tokens),
        max_time=max(limits.seconds(), 1e-3),
    )
    _use(model, config)
    more: dict[str, Any] = {"tokenizer": plan.tokenizer} if config.stop_strings else {}
    if together:
        more["synced_gpus"] = True
    made = model.generate(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=torch.tensor(mask, device=device),
        generation_config=config,
        **more,
    )
    rows = made[:, 1 if plan.encoder_decoder else width :].tolist()
    return [_row(row, plan, config) for row in rows]


def _use(model: Any, config: Any) -> None:
    """Make the config the model's own for this call.

    Releases of transformers differ in what they fill in from the model's own: some replace whatever equals a default,
    `do_sample=False` among it. From itself nothing is filled in.
    """
    for module in model.modules():
        if getattr(module, "generation_config", None) is not None:
            module.generation_config = config


def _row(row: list[int], plan: Plan, config: Any) -> GeneratedRow:
    """Cut a row at the end of the turn."""
    for place, token in enumerate(row):
        if token in plan.ends:
            return GeneratedRow(tuple(row[: place + 1]), "stop")
    full = len(row) >= config.max_new_tokens
    while row and row[-1] == plan.pad and config.stop_strings:
        row = row[:-1]  # what stands behind a stop string
        full = False
    if config.stop_strings and not full:
        return GeneratedRow(tuple(row), "stop")
    return GeneratedRow(tuple(row), "length" if full else "time")


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of new tokens, without special tokens and without changes to its spaces."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
