"""Greedy generation chooses the tokens that plain forwards of the same weights would choose.

Why: generation takes another way through the model than training does: one token at a time, keys and values from
a cache, positions counted from the attention mask, a sliding window that begins to slide. When one of these is
wrong nothing raises: the texts are merely bad, and the fine-tuning is blamed. Batches show it first, because only
there prompts are padded (on the left).

Cure: pass attention_mask and a pad token, pad on the left, and try attn_implementation="eager"; if that cures it,
the attention kernel is at fault, otherwise install another release of the culprit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import decoding, precision, rounding
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

LONGEST_WINDOW = 512


@probe(
    area="generation",
    needs=("transformers",),
    axes=("family", "attention", "device"),
    references=("huggingface/transformers#25921",),
)
def generation_matches_forward(bench: Bench, check: Check) -> None:
    """Generate each prompt alone and all in one batch; compare with one full forward without a cache."""
    import torch
    from transformers import GenerationMixin

    tokenizer = bench.tokenizer()
    model = bench.load(dtype=torch.float32).eval()
    prompts = _prompts(bench, tokenizer, model)
    alone = [_generate(model, p, tokenizer.pad_token_id) for p in prompts]
    plain = [decoding.forward_logits(model, r.sequences, _length(p)) for r, p in zip(alone, prompts, strict=True)]
    bound, why = rounding.difference(model, torch.cat(plain, 1), precision.unit_roundoff(torch.float32))

    worst = max(_apart(r, p) for r, p in zip(alone, plain, strict=True))
    check.at_most("logits with a cache", worst, bound, why=why, owner=type(model).forward)
    tokens = [r.sequences[:, _length(p) :] for r, p in zip(alone, prompts, strict=True)]
    shortfall = max(decoding.gap(p, t) for p, t in zip(plain, tokens, strict=True))
    check.at_most("greedy tokens", shortfall, 2 * bound, why=why, owner=GenerationMixin.generate)
    check.equal(
        "tokens of a left-padded batch",
        _batched(model, tokenizer, prompts, [t.shape[1] for t in tokens]),
        [t[0].tolist() for t in tokens],
        why="in float32 padding moves the logits by rounding only",
        owner=GenerationMixin.generate,
    )


def _prompts(bench: Bench, tokenizer: Any, model: Any) -> list[dict[str, Any]]:
    """Return chat prompts of several lengths, the last just short of a sliding window where there is a short one."""
    made = [decoding.prompt(tokenizer, q, bench.device) for q, _ in bench.rows(3)]
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and window <= LONGEST_WINDOW:
        one = made[0]
        times = window // _length(one) + 1
        length = window - decoding.NEW_TOKENS // 2
        made.append({k: v.repeat(1, times)[:, :length] for k, v in one.items()})
    return made


def _length(inputs: dict[str, Any]) -> int:
    return int(inputs["input_ids"].shape[1])


def _generate(model: Any, inputs: dict[str, Any], pad: int) -> Any:
    return decoding.greedy(model, inputs, pad, output_logits=True, return_dict_in_generate=True)


def _apart(generated: Any, plain: Any) -> float:
    import torch

    return float((torch.stack(generated.logits, 1).double() - plain).abs().max())


def _batched(model: Any, tokenizer: Any, prompts: list[dict[str, Any]], sizes: list[int]) -> list[list[int]]:
    """Return the new tokens of each prompt, all generated in one left-padded batch; `sizes` as many of each."""
    import torch

    longest, pad = max(map(_length, prompts)), tokenizer.pad_token_id
    fill = {"input_ids": pad, "attention_mask": 0}
    batch = {
        k: torch.cat([torch.nn.functional.pad(p[k], (longest - _length(p), 0), value=fill[k]) for p in prompts])
        for k in fill
    }
    rows = decoding.greedy(model, batch, pad)[:, longest:].tolist()
    return [row[:size] for row, size in zip(rows, sizes, strict=True)]


@generation_matches_forward.fault("the cache returns its entries in another order", catches=("logits with a cache",))
def cache_shuffled(patch: Patch) -> None:
    """Keys and values of earlier positions come back moved by one place."""
    from transformers.cache_utils import Cache

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        keys, values = original(self, *args, **kwargs)
        return (keys, values) if keys.shape[-2] < 2 else (keys.roll(1, -2), values)

    patch.wrap(Cache, "update", around)


@generation_matches_forward.fault("generate forgets the attention mask", catches=("tokens of a left-padded batch",))
def mask_forgotten(patch: Patch) -> None:
    """Padding is attended to and counted as positions."""
    import torch
    from transformers import GenerationMixin

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["attention_mask"] = torch.ones_like(kwargs["attention_mask"])
        return original(self, *args, **kwargs)

    patch.wrap(GenerationMixin, "generate", around)


@generation_matches_forward.fault("greedy search takes the second best token", catches=("greedy tokens",))
def second_best(patch: Patch) -> None:
    """A logits processor that nobody asked for takes the best token out."""
    from transformers import GenerationMixin

    def without_best(ids: Any, scores: Any) -> Any:
        return scores.scatter(-1, scores.argmax(-1, keepdim=True), float("-inf"))

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        processors = original(self, *args, **kwargs)
        processors.append(without_best)
        return processors

    patch.wrap(GenerationMixin, "_get_logits_processor", around)
