"""A model that generates in the middle of its training and does not notice it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import PredictionError
from ftdoctor.prediction import precision
from ftdoctor.training import rng

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTS = ("_parameters", "_modules")
"""What a module keeps its parts in; weights are compared at the end, not put back."""
_TOUCHED = ("training", "generation_config", "support_avx512bf16_for_cpu")
"""Attributes that are set here or while generating."""


@contextlib.contextmanager
def undisturbed(model: Any, *, whole: bool = True) -> Iterator[None]:
    """Put a model into evaluation without gradients, and everything back as it was, also after an exception.

    Put back are: the mode and every other attribute of each module, with its buffers (generation config, cache flags,
    a static cache, compute dtypes that quantized layers choose at their first forward), the state of all random
    number generators, grad mode, and autocast's cache. Gradient checkpointing is not touched: in evaluation mode
    it does nothing, and switching it off and on loses its options.

    bitsandbytes' 4-bit layers are kept from being repacked for a CPU kernel that has no backward.

    Args:
        model: the model, as the trainer's callbacks get it.
        whole: whether this process holds all weights. Modules of sharded models keep state of their own, which is
            made at their first forward and has to stay; of them only what is set here is put back.

    Raises:
        PredictionError: at the end, where a weight is not where it was, or has another dtype.
    """
    import torch

    states = rng.take()
    modules = list(model.modules())
    saved = [_attributes(module, whole) for module in modules]
    weights = _weights(model) if whole else {}
    try:
        for module in modules:
            # The attribute, not `eval()`, which classes of users override with effects that `train()` does not undo.
            module.training = False
            if getattr(module, "support_avx512bf16_for_cpu", False):
                module.support_avx512bf16_for_cpu = False
        with torch.no_grad():
            yield
    finally:
        for module, (attributes, buffers) in zip(modules, saved, strict=True):
            _put_back(module, attributes, buffers, whole)
        if torch.is_autocast_enabled(precision.device_of(model).type):
            # Casts that were made here have no gradient; a surrounding region must not find them.
            torch.clear_autocast_cache()
        rng.put_back(states)
    moved = [name for name, seen in _weights(model).items() if weights.get(name) != seen] if whole else []
    if moved:
        raise PredictionError(
            f"Generating has moved or cast {len(moved)} weights of the model ({moved[0]}, ...), so that the optimizer "
            "may train others now; take out what does that (a hook, or a model that merges its adapter in eval mode)."
        )


def _attributes(module: Any, whole: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    own = vars(module)
    names = [n for n in own if n not in _PARTS] if whole else [n for n in _TOUCHED if n in own]
    return {name: own[name] for name in names}, dict(module._buffers)


def _put_back(module: Any, attributes: dict[str, Any], buffers: dict[str, Any], whole: bool) -> None:
    own = vars(module)
    # Of a sharded model too: an adapter's wrapper gets a generation config of its own, beside that of the model.
    for name in [n for n in own if n not in attributes and (n not in _PARTS if whole else n in _TOUCHED)]:
        del own[name]
    if whole:
        module._buffers.clear()
        module._buffers.update(buffers)
    own.update(attributes)


def _weights(model: Any) -> dict[str, tuple[int, Any, bool]]:
    return {n: (p.data_ptr(), p.dtype, p.requires_grad) for n, p in model.named_parameters()}
