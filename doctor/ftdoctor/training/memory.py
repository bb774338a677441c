"""What a model and a training step need of memory, found without loading a weight and without computing a number.

The model is built from its config out of fake tensors, which have shapes and dtypes and no storage; one forward
pass of it tells exactly which tensors autograd would keep. Nothing here depends on an architecture.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ftdoctor import machine
from ftdoctor.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

GIB = 1024**3
RUNGS = ("nf4", "fp4", "int8", "none")
"""The ways in which the linear layers of a model can be stored."""
BITS = {"nf4": 4, "fp4": 4, "int8": 8}
BLOCK = 64
"""Weights of a 4-bit matrix that share one float32 scale (bitsandbytes' default block size)."""
OPTIMIZER_BYTES = {"sgd": 0, "adafactor": 0, "adamw": 8, "adamw_8bit": 2, "lion": 4}
"""Bytes of optimizer state for each trained parameter in float32; AdamW keeps two moments."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes that one optimizer step needs at its peak, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """What autograd keeps for the backward pass, apart from logits."""
    logits: int
    """Logits, what the loss keeps of them, and their gradient."""

    @property
    def total(self) -> int:
        """The sum, bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimizer", "activations", "logits")
        shares = ", ".join(f"{name} {size(getattr(self, name))}" for name in parts)
        return f"{size(self.total)} ({shares})"


def size(count: float) -> str:
    """Return a number of bytes in words: `1.5 GiB`, `340 MiB`, `12 KiB`."""
    for unit, name in ((GIB, "GiB"), (1024**2, "MiB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count / 1024:.3g} KiB"


def free_memory(device: str = "cpu") -> int:
    """Return the bytes that are free on a device: `cpu`, `cuda` or `cuda:1`. 0 where the system does not say.

    On a CPU, the smaller of what the system has available and what the container's limit leaves.
    """
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    available, limit = machine.memory()["available"], machine.memory_limit()
    return min(available, limit) if limit and available else available


def release() -> None:
    """Give back what is allocated and used by nobody any more."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def skeleton(config: Any, dtype: Any, attention: str = "sdpa") -> Any:
    """Return the causal language model of a config on the meta device: all shapes and dtypes, no storage."""
    import torch
    from transformers import AutoModelForCausalLM

    with _quiet(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation=attention)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep an operation without a fake kernel from being told at length: the caller sees the exception."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def weight_bytes(config: Any, quantization: str, dtype: Any) -> int:
    """Return the bytes that the weights of a model hold once it is loaded.

    Linear layers are counted as bitsandbytes stores them; the head, embeddings, norms and whatever is no
    `torch.nn.Linear` (the fused experts of transformers 5 among it) in `dtype`. Tied weights count once.

    Args:
        config: the model's config object.
        quantization: `nf4`, `fp4`, `int8` or `none`.
        dtype: torch dtype of what is not quantized.
    """
    import torch

    model = skeleton(config, dtype)
    head = model.get_output_embeddings()
    quantized = {
        id(module.weight)
        for module in model.modules()
        if quantization != "none" and isinstance(module, torch.nn.Linear) and module is not head
    }
    counted = {id(p): p for p in model.parameters()}
    total = 0.0
    for key, parameter in counted.items():
        if key in quantized:
            rows = parameter.shape[0]
            scales = rows * 4 if quantization == "int8" else parameter.numel() / BLOCK * 4
            total += parameter.numel() * BITS[quantization] / 8 + scales
        else:
            total += parameter.numel() * dtype.itemsize
    return int(total + sum(b.numel() * b.element_size() for b in model.buffers()))


def largest_weight(config: Any, dtype: Any) -> int:
    """Return the bytes of the largest single weight: what loading holds beside the finished model."""
    return int(max(p.numel() for p in skeleton(config, dtype).parameters()) * dtype.itemsize)


def step_memory(
    config: Any,
    *,
    batch_size: int,
    length: int,
    quantization: str = "none",
    dtype: Any = None,
    compute_dtype: Any = None,
    adapter: Any = None,
    checkpointing: bool = False,
    attention: str = "sdpa",
    optimizer: str = "adamw",
) -> StepMemory:
    """Estimate what one training step needs at its peak, for one device and one micro-batch.

    Weights and optimizer are counted, activations are those that autograd would keep in a forward pass over
    `batch_size` rows of `length` tokens, with the explicit mask that padded rows need; with checkpointing, one layer
    is counted in full. Logits are counted as transformers' own loss uses them, which bounds what `token_mean_loss`
    needs. Trained parameters are counted in float32, as mixed precision trains them.
    Memory that the allocator wastes between blocks is not in it: on CUDA leave a tenth free.

    Args:
        config: the model's config object.
        batch_size: rows of a micro-batch.
        length: tokens of a row.
        quantization: `nf4`, `fp4`, `int8` or `none`.
        dtype: torch dtype of the weights; float32 where None.
        compute_dtype: torch dtype of the forward pass (that of autocast); `dtype` where None.
        adapter: a peft config, or None where all parameters are trained.
        checkpointing: whether gradient checkpointing is on.
        attention: `sdpa`, `eager`, `flash_attention_2`.
        optimizer: one of `OPTIMIZER_BYTES`.

    Raises:
        TrainingError: the optimizer is unknown, or the model cannot be traced.
    """
    import torch

    from ftdoctor.wording import nearest

    if optimizer not in OPTIMIZER_BYTES:
        hint = nearest(optimizer, OPTIMIZER_BYTES)
        raise TrainingError(
            f"The memory of optimizer {optimizer!r} is not known{hint}; known are {', '.join(OPTIMIZER_BYTES)}."
        )
    dtype = dtype or torch.float32
    compute = compute_dtype or dtype
    trace = functools.partial(_traced, config, compute, attention, adapter, batch_size, length)
    traced = trace(checkpointing)
    # transformers' loss keeps the log-softmax of logits in float32; in its backward pass two gradients stand beside it.
    logits = batch_size * length * traced.vocabulary * (3 * 4 + (compute.itemsize if compute.itemsize < 4 else 0))
    kept = traced.kept
    if checkpointing:
        # One layer at a time is computed again, when the logits are gone already.
        layer = trace(False).kept / max(1, getattr(config.get_text_config(), "num_hidden_layers", 1))
        kept += max(0.0, layer - logits)
    return StepMemory(
        weights=weight_bytes(config, quantization, dtype) + (4 * traced.trained if adapter is not None else 0),
        gradients=4 * traced.trained,
        optimizer=OPTIMIZER_BYTES[optimizer] * traced.trained,
        activations=int(kept),
        logits=logits,
    )


@dataclass(frozen=True)
class _Trace:
    trained: int
    kept: float
    vocabulary: int


def _traced(config: Any, dtype: Any, *more: Any) -> _Trace:
    """Trace in a dtype, or in bfloat16 where that cannot be done: the fake kernels of fused experts know no other."""
    import torch

    try:
        return _trace(config, dtype, *more)
    except Exception:  # noqa: BLE001 - any operation of any architecture may lack its fake kernel
        try:
            traced = _trace(config, torch.bfloat16, *more)
        except Exception as error:
            raise TrainingError(
                f"The memory of a step of {type(config).__name__} cannot be estimated, because its forward pass cannot "
                f"be traced ({type(error).__name__}: {str(error).splitlines()[0]}); start with a batch size of 1."
            ) from error
    return replace(traced, kept=traced.kept * dtype.itemsize / torch.bfloat16.itemsize)


def _trace(
    config: Any, dtype: Any, attention: str, adapter: Any, batch_size: int, length: int, checkpointing: bool
) -> _Trace:
    """Run one forward pass of fake tensors and count what autograd keeps."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = skeleton(config, dtype, "sdpa" if attention.startswith("flash") else attention)
    with _quiet():
        if adapter is not None:
            from peft import get_peft_model

            model = get_peft_model(model, copy.deepcopy(adapter))
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with FakeTensorMode(allow_non_fake_inputs=True):
            known = _make_fake(model)
            ids = torch.zeros(batch_size, length, dtype=torch.long)
            kept: dict[int, Any] = {}

            def keep(tensor: Any) -> Any:
                storage = tensor.untyped_storage()
                if storage._cdata not in known:
                    kept[storage._cdata] = storage  # held, so that no later tensor takes its address
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                logits = model(input_ids=ids, use_cache=False).logits
            kept.pop(logits.untyped_storage()._cdata, None)
            return _Trace(
                trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
                kept=sum(storage.nbytes() for storage in kept.values()),
                vocabulary=int(logits.shape[-1]),
            )


def _make_fake(model: Any) -> set[int]:
    """Put fake tensors of the CPU in the place of meta tensors, tied ones once; return their storages.

    Operations that ask for a value, which meta tensors refuse, are answered by fake ones.
    """
    import torch

    made: dict[int, Any] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                if id(old) not in made:
                    empty = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                    made[id(old)] = (torch.nn.Parameter(empty, requires_grad=old.requires_grad), old)
                module._parameters[name] = made[id(old)][0]
        for name, old in module._buffers.items():
            if old is not None:
                made[id(old)] = (torch.empty(old.shape, dtype=old.dtype, device="cpu"), old)
                module._buffers[name] = made[id(old)][0]
    return {new.untyped_storage()._cdata for new, _ in made.values()}


class Peak:
    """Measures the most memory that was in use since it was made: allocated on a GPU, resident on a CPU."""

    def __init__(self, device: str) -> None:
        self._device = device
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(device)

    def bytes(self) -> int:
        """Return the peak in bytes; 0 where the system does not say."""
        if self._device.startswith("cuda"):
            import torch

            return int(torch.cuda.max_memory_allocated(self._device))
        import resource
        import sys

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * 1024
