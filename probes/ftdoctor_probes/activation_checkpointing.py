"""Activation checkpointing is on when it is asked for, and changes no gradient.

Why: checkpointing that stays off is noticed as an out-of-memory error on the large model only. Checkpointing that
is on and cut from the graph is worse: a frozen base hands its first layer inputs without gradients, the reentrant
kind then returns nothing, and part of the adapter is never trained, with a warning at most.

Cure: pass `gradient_checkpointing=True` to the trainer's arguments and not only to the model; with an adapter use
`gradient_checkpointing_kwargs={"use_reentrant": False}` or call `model.enable_input_require_grads()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import tensors, watch
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

STEPS = 2


@probe(
    area="training",
    needs=("transformers", "accelerate"),
    axes=("family", "trainer", "quantization", "mixed_precision", "adapter", "checkpointing", "device"),
    references=("huggingface/peft#1142", "huggingface/transformers#42489", "huggingface/trl#6827"),
)
def activation_checkpointing(bench: Bench, check: Check) -> None:
    """Count the passes through the first layer; compare the gradients with those after switching it off."""
    from transformers import PreTrainedModel
    from transformers.modeling_layers import GradientCheckpointingLayer

    model = watch.undisturbed(bench.trainable())
    trainer = bench.trainer(model, bench.tokenizer(), bench.arguments(max_steps=STEPS))
    inside = _first_leaf(trainer.model)
    if inside is None:
        check.skip("the model has no list of layers whose passes could be counted")
    calls: list[int] = []
    inside.register_forward_pre_hook(lambda *_: calls.append(1))
    trainer.train()  # lora_B is zero until the first step, and the gradients of lora_A with it
    check.equal(
        "passes through the first layer in a step",
        len(calls) / STEPS,
        1.0 if bench.cell["checkpointing"] == "off" else 2.0,
        why="checkpointing runs each layer again in the backward pass, and nothing else does",
        owner=PreTrainedModel.gradient_checkpointing_enable,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    measured = tensors.gradients(trainer, batch)
    trainer.model.gradient_checkpointing_disable()
    expected = tensors.gradients(trainer, batch)
    bound, why = tensors.gradient_bound(bench, trainer)
    wrong, words = tensors.differing(measured, expected, bound)
    check.that(
        "gradients with and without checkpointing",
        bool(expected) and not wrong,
        words,
        f"each within {bound:.3g} of its norm",
        why=why,
        owner=GradientCheckpointingLayer,
    )


def _first_leaf(model: Any) -> Any:
    """Return the first module of the first layer that holds weights and no other module, or None."""
    import torch

    layers = next((m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m)), None)
    inside = layers[0].modules() if layers is not None else ()
    return next((m for m in inside if m._parameters and not m._modules), None)


@activation_checkpointing.fault(
    "checkpointing is asked for and not switched on",
    catches=("passes through the first layer in a step",),
    cell={"checkpointing": "non_reentrant"},
)
def never_on(patch: Patch) -> None:
    """The layers never learn of it."""
    from transformers import PreTrainedModel

    patch.replace(PreTrainedModel, "_set_gradient_checkpointing", lambda self, *args, **kwargs: None)


@activation_checkpointing.fault(
    "a checkpointed layer forgets the gradient of its input",
    catches=("gradients with and without checkpointing",),
    cell={"checkpointing": "non_reentrant"},
)
def input_cut(patch: Patch) -> None:
    """Gradients end at each layer: only the last layer's adapter gets its own."""
    import transformers.modeling_utils

    def around(original: Any, function: Any, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        return original(function, hidden.detach().requires_grad_(), *args, **kwargs)

    patch.wrap(transformers.modeling_utils, "checkpoint", around)
