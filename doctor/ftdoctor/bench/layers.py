"""Which layers of a model are quantized, which should be, and which should not."""

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

    head = plain.get_output_embeddings()
    linear = {
        name: module.weight
        for name, module in plain.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    stacks = {name: weight for name, weight in plain.named_parameters() if weight.ndim == 3}
    return {**linear, **stacks}
