"""Which layers of a model are quantized, which should be, and which are left in another dtype than the rest."""

from __future__ import annotations

from typing import Any


def quantized(model: Any) -> dict[str, Any]:
    """Return the layers that bitsandbytes has quantized, by name; inside a PEFT model by the base model's name."""
    import bitsandbytes as bnb

    kinds = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def to_quantize(plain: Any) -> dict[str, Any]:
    """Return the weights that quantization must reach, by the name of the layer.

    Every linear layer but the head, and every stack of linear layers that is kept as one three-dimensional
    parameter, as mixtures of experts have them. A router is neither where its class is not a linear layer.

    Args:
        plain: the same model, not quantized.
    """
    import torch
    from transformers.pytorch_utils import Conv1D  # the linear layer of GPT-2, which keeps its weight transposed

    head = plain.get_output_embeddings()
    linear = {
        name: module.weight.T if isinstance(module, Conv1D) else module.weight
        for name, module in plain.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    }
    stacks = {name: weight for name, weight in plain.named_parameters() if weight.ndim == 3}
    return {**linear, **stacks}


def as_in_training(model: Any) -> None:
    """Put the quantized layers, and only them, into training mode, so that logits are those of a training step.

    In evaluation bitsandbytes changes the layout of 4-bit weights on CPUs with AVX512-BF16, computes in bfloat16,
    refuses layers whose rows are not a multiple of 32, and passes no gradient any more. The probes
    quantized-forward and train-after-eval are about that; for others it is beside the point. Dropout stays off.
    """
    for module in quantized(model).values():
        module.train()


def leave_stray(model: Any, kind: str) -> Any:
    """Cast some modules to another dtype than the rest, as trainers and scripts do, and return the model.

    Args:
        model: with or without an adapter.
        kind: `norms`: float32 norms between a head and embeddings in bfloat16, which is how TRL up to 0.25.1 leaves a
            quantized model; `head`: the head in bfloat16 behind layers in float32, or the other way round; `none`.
    """
    import torch

    head = model.get_output_embeddings()
    if kind == "head":
        head.to(torch.bfloat16 if head.weight.dtype == torch.float32 else torch.float32)
    if kind == "norms":
        for name, module in model.named_modules():
            if "norm" in name.rpartition(".")[2]:
                module.float()
        for module in (head, model.get_input_embeddings()):
            module.to(torch.bfloat16)
    return model
