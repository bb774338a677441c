"""A row has the same loss, token by token, when it is padded in a batch as when it is alone.

Why: a padding token that is attended to, counted as a position, or mixed in by a norm changes every row except the
longest; how much depends on the batch size and on which rows happen to meet, so the loss cannot be reproduced and
short rows are learned worst.

Cure: pass the tokenizer's `attention_mask`, and `position_ids` when padding on the left; choose another
`attn_implementation` or another release of the culprit.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ftdoctor.bench.reference import token_loss_error, token_losses
from ftdoctor.bench.watch import undisturbed
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

WHY = "the same sums in another order: one rounding a step on the path through the layers"


@probe(area="masking", needs=("transformers",), axes=("family", "attention", "dtype", "device"))
def padding_invariance(bench: Bench, check: Check) -> None:
    """Compare the token losses of rows alone with those in batches padded on either side."""
    import torch

    model = undisturbed(bench.load())
    tokenizer = bench.tokenizer()
    rows = [bench.encode(tokenizer, q, a)["input_ids"] for q, a in bench.rows(4)]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.no_grad():
        alone = [_losses(model, _batch([row], pad, "right", bench.device)) for row in rows]
        right = _losses(model, _batch(rows, pad, "right", bench.device))
        left = _losses(model, _with_positions(model, _batch(rows, pad, "left", bench.device)))
    expected = [row[0] for row, _ in alone]
    bound = max(token_loss_error(model.config, bench.dtype, logits) for _, logits in alone)
    owner = type(model).forward
    for side, found in (("right", right), ("left", left)):
        check.close(f"token losses of rows padded on the {side}", found[0], expected, atol=bound, why=WHY, owner=owner)
    leaks = [_leak(model, _batch(rows, pad, side, bench.device)) for side in ("right", "left")]
    check.equal(
        "gradient that reaches a padding token",
        leaks,
        [0.0, 0.0],
        why="a token behind the attention mask has a weight of exactly zero, on either side, in every dtype",
        owner=owner,
    )


def _batch(rows: list[list[int]], pad: int, side: str, device: str) -> dict[str, Any]:
    import torch

    longest = max(len(row) for row in rows)

    def filled(values: list[int], filler: int) -> list[int]:
        more = [filler] * (longest - len(values))
        return values + more if side == "right" else more + values

    table = {
        "input_ids": [filled(row, pad) for row in rows],
        "attention_mask": [filled([1] * len(row), 0) for row in rows],
        "labels": [filled(row, -100) for row in rows],
    }
    return {key: torch.tensor(value, device=device) for key, value in table.items()}


def _with_positions(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Count positions from the first real token, as `generate` does for prompts padded on the left."""
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        return batch
    mask = batch["attention_mask"]
    return {**batch, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def _losses(model: Any, batch: dict[str, Any]) -> tuple[list[list[float]], Any]:
    """Return the losses of the scored tokens of each row, and the logits."""
    labels = batch.pop("labels")
    logits = model(**batch).logits
    # The first real token follows padding in a left-padded row and nothing in a right-padded one: never scored.
    first = batch["attention_mask"].argmax(-1)
    labels[range(len(labels)), first] = -100
    losses, scored = token_losses(logits, labels)
    return [row[mask].tolist() for row, mask in zip(losses, scored, strict=True)], logits[0, first[0] :]


def _leak(model: Any, batch: dict[str, Any]) -> float:
    """Return the largest gradient of the batch's loss with respect to the embedding of a padding token."""
    kept: list[Any] = []

    def keep(module: Any, arguments: Any, output: Any) -> Any:
        kept.append(output.requires_grad_() if output.is_leaf else output)
        output.retain_grad()
        return output

    hook = model.get_input_embeddings().register_forward_hook(keep)
    first = batch["attention_mask"].argmax(-1)
    batch["labels"][range(len(first)), first] = -100
    model(**batch).loss.backward()
    hook.remove()
    return float(kept[0].grad[batch["attention_mask"] == 0].abs().max())


@padding_invariance.fault(
    "the attention mask of the padding is lost",
    catches=("token losses of rows padded on the left", "gradient that reaches a padding token"),
)
def mask_lost(patch: Patch) -> None:
    """The causal mask is built as if no token were padding."""
    from transformers.models.llama import modeling_llama

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "attention_mask": None})

    patch.wrap(modeling_llama, "create_causal_mask", around)


@padding_invariance.fault(
    "the norm averages over the whole row",
    catches=("token losses of rows padded on the right", "gradient that reaches a padding token"),
)
def norm_over_positions(patch: Patch) -> None:
    """The mean square is taken over positions and features, padding included."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def around(original: Any, self: Any, states: Any) -> Any:
        scale = torch.rsqrt(states.pow(2).mean((-2, -1), keepdim=True) + self.variance_epsilon)
        return self.weight * (states * scale)

    patch.wrap(LlamaRMSNorm, "forward", around)
