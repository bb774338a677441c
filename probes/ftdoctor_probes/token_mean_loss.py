"""The token-mean loss is the mean over all scored tokens of an accumulated step, and zero where there are none.

Why: a loss of one's own is easily a mean of the micro-batch at hand. The Trainer takes what `compute_loss_func`
returns as divided already, so that steps come out as many times too large as batches are accumulated; a micro-batch
with nothing to score divides zero by zero; and computed in the dtype of the logits it has two digits.

Cure: pass `compute_loss_func=TokenMeanLoss()` of `ftdoctor.training`; if this probe is red, the Trainer of this
release counts or divides in another way, or autograd does: install another release of the culprit.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import TYPE_CHECKING, Any

from ftdoctor.bench.reference import IGNORED, distance, loss_error, mean_loss, relative_forward_error
from ftdoctor.bench.watch import gradient_recorder, undisturbed
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ROWS = 4
MASKED = 2
"""The row that has nothing to score."""
WAYS = ("ours", "naive", "library")


@probe(
    area="components",
    needs=("transformers", "datasets"),
    axes=("trainer", "family", "adapter", "device"),
    references=("huggingface/transformers#34191", "huggingface/transformers#43595"),
)
def token_mean_loss(bench: Bench, check: Check) -> None:
    """Take one step over rows of different length, one a micro-batch; then score logits with nothing to score."""
    import torch

    from ftdoctor.training import TokenMeanLoss
    from ftdoctor.training import loss as component

    tokenizer = bench.tokenizer()
    rows = [bench.encode(tokenizer, q, a) for q, a in bench.rows(ROWS)]
    rows[MASKED]["labels"] = [IGNORED] * len(rows[MASKED]["labels"])
    torch.manual_seed(bench.settings.seed)
    model = undisturbed(bench.trainable())
    loss, gradient = _reference(model, rows, bench.device)
    found = {way: attempt(functools.partial(_step, bench, model, tokenizer, rows, way)) for way in WAYS}
    if isinstance(found["ours"], Exception):
        raise found["ours"]
    error = relative_forward_error(model.config, bench.dtype)
    check.close(
        "logged loss",
        found["ours"][0],
        loss,
        rtol=error,
        why="float64 mean over the scored tokens of all rows; forwards one rounding a step through the layers",
        owner=TokenMeanLoss.__call__,
        beside=_beside(found, lambda measured: measured[0]),
    )
    check.at_most(
        "relative difference of the gradient",
        distance(found["ours"][1], gradient),
        2 * error,
        why="autograd's float64 gradient of that mean; forwards and backwards one rounding a step through the layers",
        owner=TokenMeanLoss.__call__,
        beside=_beside(found, lambda measured: distance(measured[1], gradient)),
    )
    logits, labels = _logits(bench, model, rows)
    nothing = torch.full_like(labels, IGNORED)
    check.equal(
        "loss and gradient of logits with nothing to score",
        _scored("ours", logits, nothing),
        (0.0, 0.0),
        why="there is nothing to learn",
        owner=component.token_mean_loss,
        beside={way: _scored(way, logits, nothing) for way in WAYS[1:]},
    )
    half = logits.bfloat16()
    check.close(
        "loss of bfloat16 logits",
        _scored("ours", half, labels)[0],
        mean_loss(half, labels),
        atol=loss_error(half, labels),
        why="float64 loss of the same logits; float32 arithmetic rounds once a term",
        owner=component.token_mean_loss,
        beside={way: _scored(way, half, labels)[0] for way in WAYS[1:]},
    )


def _beside(found: dict[str, Any], of: Any) -> dict[str, Any]:
    return {way: found[way] if isinstance(found[way], Exception) else of(found[way]) for way in WAYS[1:]}


def _reference(model: Any, rows: list[dict[str, list[int]]], device: str) -> tuple[float, dict[str, Any]]:
    """Return the mean loss of the scored tokens, each row alone and in float64, and its gradient."""
    import torch

    exact = copy.deepcopy(model).double().train()
    if hasattr(exact.config, "_experts_implementation"):
        exact.config._experts_implementation = "eager"  # the fused product of experts has no float64
    total, items = torch.zeros((), dtype=torch.float64, device=device), 0
    for row in rows:
        scored = [p for p, label in enumerate(row["labels"]) if p and label != IGNORED]
        logits = exact(input_ids=torch.tensor([row["input_ids"]], device=device)).logits[0]
        for position in scored:
            total = total - torch.log_softmax(logits[position - 1], dim=-1)[row["labels"][position]]
        items += len(scored)
    (total / items).backward()
    gradient = {name: p.grad.detach() for name, p in exact.named_parameters() if p.grad is not None}
    return float(total.detach()) / items, gradient


def _step(bench: Bench, model: Any, tokenizer: Any, rows: Any, way: str) -> tuple[float, dict[str, Any]]:
    """Return logged loss and gradient of one optimizer step over all rows."""
    from datasets import Dataset

    from ftdoctor.training import TokenMeanLoss

    recorder = gradient_recorder()
    more: dict[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}} if bench.cell["trainer"] == "sft" else {}
    args = bench.arguments(
        max_steps=1,
        max_grad_norm=1e9,  # nothing is clipped, so that a factor on the whole gradient shows
        per_device_train_batch_size=1,
        gradient_accumulation_steps=ROWS,
        **more,
    )
    losses: dict[str, Any] = {"ours": TokenMeanLoss(), "naive": _naive}
    trainer = bench.trainer(
        copy.deepcopy(model),
        tokenizer,
        args,
        train_dataset=Dataset.from_list(rows),
        compute_loss_func=losses.get(way),
        callbacks=[recorder],
    )
    loss = float(trainer.train().training_loss)
    return loss, recorder.steps[0]


def _naive(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """The masked mean that people write: over the scored tokens of what is at hand, in whatever dtype it is."""
    return _masked_mean(outputs.logits, labels)


def _masked_mean(logits: Any, labels: Any) -> Any:
    import torch

    ahead, targets = logits[:, :-1], labels[:, 1:]
    mask = targets != IGNORED
    each = torch.nn.functional.cross_entropy(ahead.flatten(0, 1), targets.clamp(min=0).flatten(), reduction="none")
    return (each * mask.flatten()).sum() / mask.sum()


def _logits(bench: Bench, model: Any, rows: Any) -> tuple[Any, Any]:
    """Return logits and labels of the first row."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([rows[0]["input_ids"]], device=bench.device)).logits.float()
    return logits, torch.tensor([rows[0]["labels"]], device=bench.device)


def _scored(way: str, logits: Any, labels: Any) -> tuple[float, float]:
    """Return the loss of logits, and the norm of its gradient (infinite where it is not finite)."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    from ftdoctor.training import loss as component

    leaf = logits.detach().clone().requires_grad_()
    if way == "ours":
        loss = component.token_mean_loss(leaf, labels)
    elif way == "naive":
        loss = _masked_mean(leaf, labels)
    else:
        loss = ForCausalLMLoss(leaf, labels, leaf.shape[-1])
    loss.backward()
    norm = float(leaf.grad.double().norm())
    return float(loss.detach()), norm if math.isfinite(norm) else math.inf


@token_mean_loss.fault(
    "the number of items is forgotten",
    catches=("logged loss", "relative difference of the gradient"),
)
def items_forgotten(patch: Patch) -> None:
    """Each micro-batch is divided by its own tokens, and the Trainer divides no more."""
    from ftdoctor.training import loss as component

    def around(original: Any, self: Any, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return original(self, outputs, labels)

    patch.wrap(component.TokenMeanLoss, "__call__", around)


@token_mean_loss.fault(
    "what the loss returns is divided once more",
    catches=("logged loss", "relative difference of the gradient"),
    cell={"trainer": "sft"},
)
def divided_again(patch: Patch) -> None:
    """A Trainer that does not know that it is divided already."""
    from transformers import Trainer

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, *args, **kwargs)
        return loss / self.current_gradient_accumulation_steps

    patch.wrap(Trainer, "compute_loss", around)
    from trl import SFTTrainer

    patch.wrap(SFTTrainer, "compute_loss", around)


@token_mean_loss.fault(
    "a batch with nothing to score is divided by zero",
    catches=("loss and gradient of logits with nothing to score",),
)
def divided_by_zero(patch: Patch) -> None:
    """The number of scored tokens goes into the division as it is."""
    from ftdoctor.training import loss as component

    def around(original: Any, logits: Any, labels: Any, num_items: Any = None) -> Any:
        count = (labels[..., 1:] != IGNORED).sum()
        return original(logits, labels, 1) / (count if num_items is None else num_items)

    patch.wrap(component, "token_mean_loss", around)


@token_mean_loss.fault("the loss is computed in the logits' dtype", catches=("loss of bfloat16 logits",))
def low_precision(patch: Patch) -> None:
    """Two digits in bfloat16."""
    from ftdoctor.training import loss as component

    def around(original: Any, logits: Any, labels: Any, num_items: Any = None) -> Any:
        loss = _masked_mean(logits, labels)
        return loss if num_items is None else loss * (labels[..., 1:] != IGNORED).sum() / num_items

    patch.wrap(component, "token_mean_loss", around)


@token_mean_loss.fault(
    "labels are scored by their own logits",
    catches=("logged loss", "relative difference of the gradient", "loss of bfloat16 logits"),
)
def not_shifted(patch: Patch) -> None:
    """The shift gets lost."""
    from ftdoctor.training import loss as component

    def around(original: Any, logits: Any, labels: Any, num_items: Any = None) -> Any:
        return original(logits, labels.roll(1, dims=-1), num_items)

    patch.wrap(component, "token_mean_loss", around)
