"""What a callback may leave behind in a training run: everything that the next step depends on, to compare."""

from __future__ import annotations

import gc
import hashlib
import pickle
import random
from typing import Any

MEMORY = "memory"


def traces(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Return name to a comparable value of each state that the next step depends on, or that costs it memory.

    Args:
        model: as the trainer's callbacks get it.
        tokenizer: that of the trainer, with which its collator pads.
    """
    import torch

    modules = list(model.modules())
    return {
        "modes": [m.training for m in modules],
        "weights": [(p.data_ptr(), p.dtype, p.requires_grad) for p in model.parameters()],
        "layout of quantized weights": [tuple(p.shape) for p in model.parameters()],
        "gradient checkpointing": [_checkpointing(m) for m in modules if hasattr(m, "gradient_checkpointing")],
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules),
        "cache flags": [getattr(m.config, "use_cache", None) for m in modules if hasattr(m, "config")],
        "generation config": [c.to_dict() for m in modules if (c := getattr(m, "generation_config", None)) is not None],
        "tokenizer": [
            *(tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token_id),
            *(str(getattr(tokenizer.backend_tokenizer, name, None)) for name in ("padding", "truncation")),
        ],
        "random generators": _generators(),
        "grad mode and autocast": [
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_autocast_enabled("cuda"),
            torch.is_autocast_cache_enabled(),
        ],
        MEMORY: _bytes(),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of what is not the same."""
    return [name for name, value in before.items() if after[name] != value]


def _checkpointing(module: Any) -> Any:
    call = getattr(module, "_gradient_checkpointing_func", None)
    return module.gradient_checkpointing, getattr(call, "keywords", None)


def _generators() -> str:
    import numpy
    import torch

    states = [random.getstate(), numpy.random.get_state(), torch.get_rng_state().numpy().tobytes()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    return hashlib.sha256(pickle.dumps(states)).hexdigest()


def _bytes() -> int:
    """Return the memory of all tensors that are alive: on a GPU what is allocated, else by looking at each."""
    import torch

    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.memory_allocated())
    kept = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.layout == torch.strided:
            storage = thing.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
    return sum(kept.values())
