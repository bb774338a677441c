"""A row of nothing but padding leaves the other rows of its batch as they are, forwards and backwards.

Why: a position that may attend to nothing has a softmax over no numbers. With a mask of minus infinity that is NaN,
and NaN times the zero weight it is given later is still NaN: one such position makes every gradient NaN, while the
loss, taken over the other rows, looks healthy.

Cure: choose another `attn_implementation` (sdpa instead of eager, or the reverse), or another release of the
culprit; drop rows that are empty, and build masks of your own with the dtype's smallest number, not with -inf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench.reference import distance, relative_forward_error
from ftdoctor.bench.watch import undisturbed
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ROWS = 2
SCALE = 256.0
"""The loss is multiplied by this before it goes backwards, so that float16 gradients stay above zero."""


@probe(
    area="numerics",
    needs=("torch", "transformers"),
    axes=("family", "attention", "dtype", "device"),
    references=("pytorch/pytorch#103749", "pytorch/pytorch#41508"),
)
def masked_attention_row(bench: Bench, check: Check) -> None:
    """Add a row that is all padding to a batch, and compare the logits and gradients of the rest."""
    tokenizer = bench.tokenizer()
    batch = bench.batch(tokenizer, bench.rows(ROWS))
    model = undisturbed(bench.load())
    without, expected = _run(model, batch)
    logits, gradients = _run(model, _with_empty_row(batch))
    owner = type(model).forward
    error = relative_forward_error(model.config, bench.dtype)
    why = "nothing is added to the sums of the other rows: one rounding a step through the layers"
    check.finite("logits of the other rows", logits, owner=owner)
    check.close(
        "logits of the other rows beside their own without it",
        logits,
        without,
        atol=error * float(without.abs().max()),
        why=why,
        owner=owner,
    )
    check.finite("gradients", list(gradients.values()), owner=owner)
    check.at_most(
        "relative difference of the gradients", distance(gradients, expected), 2 * error, why=why, owner=owner
    )


def _with_empty_row(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the batch with one more row that is hidden from attention and not scored."""
    import torch

    hidden = {"attention_mask": 0, "labels": -100}
    return {
        key: torch.cat([value, torch.full_like(value[:1], hidden[key]) if key in hidden else value[:1]])
        for key, value in batch.items()
    }


def _run(model: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the logits of the real tokens of the first rows, and the gradients of the batch's loss."""
    model.zero_grad()
    output = model(**batch)
    (output.loss * SCALE).backward()
    gradients = {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}
    real = batch["attention_mask"][:ROWS] == 1
    return output.logits[:ROWS][real].detach(), gradients


@masked_attention_row.fault(
    "the mask holds minus infinity for a row that sees nothing",
    catches=("gradients", "relative difference of the gradients"),
    cell={"attention": "eager"},
)
def minus_infinity(patch: Patch) -> None:
    """What a mask of one's own does with -inf instead of the smallest number."""
    import torch
    from transformers.models.llama import modeling_llama

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        mask = original(*args, **kwargs)
        return mask if mask is None else mask.masked_fill(mask == torch.finfo(mask.dtype).min, float("-inf"))

    patch.wrap(modeling_llama, "create_causal_mask", around)


@masked_attention_row.fault(
    "the norm spreads a NaN of one row over the batch",
    catches=("logits of the other rows", "logits of the other rows beside their own without it"),
)
def spread_over_batch(patch: Patch) -> None:
    """The attention gives NaN for an empty row, and the norm after it averages over the rows."""
    from transformers.models.llama.modeling_llama import LlamaModel, LlamaRMSNorm

    empty: list[Any] = []

    def model(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        empty[:] = [(kwargs["attention_mask"] == 0).all(-1)]
        return original(self, *args, **kwargs)

    def norm(original: Any, self: Any, states: Any) -> Any:
        spoilt = states.masked_fill(empty[0][:, None, None], float("nan"))
        return original(self, states) + 0 * spoilt.mean(0, keepdim=True)

    patch.wrap(LlamaModel, "forward", model)
    patch.wrap(LlamaRMSNorm, "forward", norm)
