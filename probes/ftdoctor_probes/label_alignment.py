"""The model's loss scores each label with the logits of the position before it, and no logits see the label.

Why: a loss that shifts the labels twice, or not at all, falls just as nicely as the right one (0.004 was measured for
a model that only learned to copy its input), and so does one whose attention can look ahead. Nothing crashes; the
damage shows when the model writes.

Cure: hand `labels` equal to `input_ids` (-100 where nothing is scored) and never shift them yourself; if this probe
is red without your own code, install another release of the culprit, or choose another `attn_implementation`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ftdoctor.bench.reference import IGNORED
from ftdoctor.bench.watch import undisturbed
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

TOKENS = 9
SCALE = 256.0
"""The loss is multiplied by this before it goes backwards, so that float16 gradients stay above zero."""


@probe(area="masking", needs=("transformers",), axes=("family", "attention", "dtype", "device"))
def label_alignment(bench: Bench, check: Check) -> None:
    """Score one position at a time, and ask which logits gave the loss and which inputs it depends on."""
    import torch

    model = undisturbed(bench.load())
    tokenizer = bench.tokenizer()
    ids = tokenizer(bench.text, add_special_tokens=False, return_tensors="pt")["input_ids"][:, :TOKENS]
    ids = ids.to(bench.device)
    positions = list(range(1, ids.shape[1]))
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        losses = [float(model(input_ids=ids, labels=_only(ids, [p])).loss) for p in positions]
        with_first = float(model(input_ids=ids, labels=_only(ids, [0, positions[-1]])).loss)
    owner = getattr(model, "loss_function", type(model).forward)
    check.equal(
        "position whose logits score the label",
        [_scored_by(logits, ids, p, loss) for p, loss in zip(positions, losses, strict=True)],
        [p - 1 for p in positions],
        why="the logits at a position are the prediction for the next one",
        owner=owner,
    )
    check.equal(
        "loss with the first token scored as well",
        with_first,
        losses[-1],
        why="nothing comes before the first token, so its label cannot be scored",
        owner=owner,
    )
    reached = _reached(model, ids, positions)
    check.equal(
        "inputs that a label's loss depends on although they come at or after it",
        [[i for i, hit in enumerate(row) if hit and i >= p] for p, row in zip(positions, reached, strict=True)],
        [[] for _ in positions],
        why="causal attention gives a later token a weight of exactly zero, so its gradient is exactly zero",
        owner=type(model).forward,
    )
    check.equal(
        "inputs before a label that its loss does not depend on",
        [[i for i in range(p) if not row[i]] for p, row in zip(positions, reached, strict=True)],
        [[] for _ in positions],
        why="no window is shorter than these few tokens, and every token of the past has a weight above zero",
        owner=type(model).forward,
    )


def _only(ids: Any, positions: list[int]) -> Any:
    """Return labels that score these positions alone."""
    labels = ids.new_full(ids.shape, IGNORED)
    labels[:, positions] = ids[:, positions]
    return labels


def _scored_by(logits: Any, ids: Any, position: int, loss: float) -> int:
    """Return the position whose logits give the label at `position` a loss nearest to the measured one."""
    import torch

    candidates = -torch.log_softmax(logits[0].double(), dim=-1)[:, ids[0, position]]
    return int((candidates - loss).abs().argmin())


def _reached(model: Any, ids: Any, positions: list[int]) -> list[list[bool]]:
    """Return for each scored position which inputs its loss has a gradient to; each has a row of its own."""
    kept: list[Any] = []

    def keep(module: Any, arguments: Any, output: Any) -> Any:
        kept.append(output.requires_grad_() if output.is_leaf else output)
        output.retain_grad()
        return output

    hook = model.get_input_embeddings().register_forward_hook(keep)
    batch = ids.expand(len(positions), -1).contiguous()
    labels = batch.new_full(batch.shape, IGNORED)
    for row, position in enumerate(positions):
        labels[row, position] = ids[0, position]
    (model(input_ids=batch, labels=labels).loss * SCALE).backward()
    hook.remove()
    hits: list[list[bool]] = (kept[0].grad.abs().sum(-1) > 0).tolist()
    return hits


def _moved_labels(patch: Patch, by: int) -> None:
    from transformers.loss import loss_utils

    def around(original: Any, source: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        return original(source, target.roll(by), *args, **kwargs)

    patch.wrap(loss_utils, "fixed_cross_entropy", around)


@label_alignment.fault("labels are not shifted", catches=("position whose logits score the label",))
def missing_shift(patch: Patch) -> None:
    """Every position is asked for the token that stands at its own input."""
    _moved_labels(patch, 1)


@label_alignment.fault("labels are shifted twice", catches=("position whose logits score the label",))
def double_shift(patch: Patch) -> None:
    """Every position is asked for the token after the next."""
    _moved_labels(patch, -1)


@label_alignment.fault("labels are shifted in a circle", catches=("loss with the first token scored as well",))
def circular_shift(patch: Patch) -> None:
    """The last logits of a row are asked for its first token."""
    from transformers.loss import loss_utils

    original = loss_utils.LOSS_MAPPING["ForCausalLM"]

    @functools.wraps(original)
    def around(logits: Any, labels: Any, *args: Any, **kwargs: Any) -> Any:
        return original(logits, labels, *args, **{**kwargs, "shift_labels": labels.roll(-1, dims=-1)})

    loss_utils.LOSS_MAPPING["ForCausalLM"] = around


@label_alignment.fault(
    "sdpa attention sees the future",
    catches=("inputs that a label's loss depends on although they come at or after it",),
)
def future_visible(patch: Patch) -> None:
    """The causal flag and the mask get lost on the way to the kernel."""
    import torch

    def around(original: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        return original(query, key, value, **{**kwargs, "attn_mask": None, "is_causal": False})

    patch.wrap(torch.nn.functional, "scaled_dot_product_attention", around)


@label_alignment.fault(
    "sdpa attention sees nothing but the token itself",
    catches=("inputs before a label that its loss does not depend on",),
)
def past_hidden(patch: Patch) -> None:
    """A window of one token."""
    import torch

    def around(original: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        own = torch.eye(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
        return original(query, key, value, **{**kwargs, "attn_mask": own, "is_causal": False})

    patch.wrap(torch.nn.functional, "scaled_dot_product_attention", around)
