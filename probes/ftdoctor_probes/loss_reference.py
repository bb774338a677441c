"""The loss that a model returns is the mean cross entropy of the scored tokens, computed in float32 or finer.

Why: a loss that counts masked or padded tokens, ignores the number of items it was given, or is computed in the
16-bit dtype of the logits is a little wrong at every step; the curve still falls, and runs with other batch
sizes cannot be compared any more.

Cure: install another release of the culprit; until then compute the loss yourself from the logits in float32 with
`ignore_index=-100`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ftdoctor.bench.reference import loss_error, mean_loss
from ftdoctor.bench.watch import undisturbed
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ITEMS = 100
WHY = "float64 loss of the same logits; the tolerance is the rounding error of a float32 cross entropy"


@probe(area="masking", needs=("transformers",), axes=("family", "attention", "dtype", "device"))
def loss_reference(bench: Bench, check: Check) -> None:
    """Compare the model's loss on a padded, masked batch with a float64 loss of its own logits."""
    import torch

    model = undisturbed(bench.load())
    batch = bench.batch(bench.tokenizer(), bench.rows(4))
    with torch.no_grad():
        output = model(**batch)
    tolerance = loss_error(output.logits, batch["labels"])
    owner = getattr(model, "loss_function", type(model).forward)
    check.equal(
        "dtype of the loss",
        str(output.loss.dtype),
        "torch.float32",
        why="transformers promises to compute the loss in float32, whatever the dtype of the logits",
        owner=owner,
    )
    check.close(
        "mean loss",
        float(output.loss),
        mean_loss(output.logits, batch["labels"]),
        atol=tolerance,
        why=WHY,
        owner=owner,
    )
    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(type(model).forward).parameters.values()):
        check.note("loss for a given number of items", "not tried: the model's forward takes no further arguments")
        return
    with torch.no_grad():
        divided = model(**batch, num_items_in_batch=torch.tensor(ITEMS, device=bench.device))
    check.close(
        "loss for a given number of items",
        float(divided.loss),
        mean_loss(output.logits, batch["labels"], ITEMS),
        atol=tolerance,
        why=f"{WHY}; the sum is divided by num_items_in_batch, as a trainer that accumulates gradients asks",
        owner=owner,
    )


@loss_reference.fault(
    "the loss is computed in the dtype of the logits",
    catches=("dtype of the loss", "mean loss", "loss for a given number of items"),
    cell={"dtype": "bfloat16"},
)
def loss_in_low_precision(patch: Patch) -> None:
    """The cast to float32 is forgotten."""
    import torch
    from transformers.loss import loss_utils

    def around(original: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        return original(source.to(torch.bfloat16), *args, **kwargs)

    patch.wrap(loss_utils, "fixed_cross_entropy", around)


@loss_reference.fault("masked tokens are counted in the mean", catches=("mean loss",))
def masked_tokens_counted(patch: Patch) -> None:
    """The sum over the scored tokens is divided by the number of all positions."""
    from transformers.loss import loss_utils

    def around(original: Any, source: Any, target: Any, items: Any = None, *args: Any, **kwargs: Any) -> Any:
        return original(source, target, target.numel() if items is None else items, *args, **kwargs)

    patch.wrap(loss_utils, "fixed_cross_entropy", around)


@loss_reference.fault("the number of items is ignored", catches=("loss for a given number of items",))
def items_ignored(patch: Patch) -> None:
    """Every micro-batch returns its own mean."""
    from transformers.loss import loss_utils

    def around(original: Any, source: Any, target: Any, items: Any = None, *args: Any, **kwargs: Any) -> Any:
        return original(source, target, None, *args, **kwargs)

    patch.wrap(loss_utils, "fixed_cross_entropy", around)
