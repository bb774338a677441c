"""What a step needs is known beforehand, without a weight, and agrees with what a real step holds at its peak."""

from __future__ import annotations

import contextlib
import weakref

import pytest

from ftdoctor.errors import TrainingError

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]
ROWS, LENGTH = 4, 128


@contextlib.contextmanager
def live_bytes(*tensors):
    """Measure the most bytes that tensors hold at the same time: a list with one number, once the block has ended."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    sizes, peak = {}, [0]

    def count(tensor):
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in sizes:
            sizes[key] = storage.nbytes()
            peak[0] = max(peak[0], sum(sizes.values()))
            weakref.finalize(storage, sizes.pop, key, None)

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor):
                    count(tensor)
            return made

    for tensor in tensors:
        count(tensor)
    with Count():
        yield peak


def measured(bench, checkpointing):
    """The peak of the second of two steps on padded rows, as a training loop takes them."""
    import torch

    model = bench.trainable().train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, 100:] = 0
    with live_bytes(*model.parameters(), *model.buffers()) as peak:
        for _ in range(2):
            loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad()
    return peak[0]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3", "phi3"])
def test_the_estimate_agrees_with_a_measured_peak(make_bench, family, adapter, checkpointing):
    """Within a tenth: what the estimate leaves out are workspaces of single operations."""
    from ftdoctor.training.memory import step_memory

    bench = make_bench(family=family, adapter=adapter)
    estimate = step_memory(
        bench.config(), batch_size=ROWS, length=LENGTH, adapter=bench.adapter(), checkpointing=checkpointing
    )

    assert estimate.total == pytest.approx(measured(bench, checkpointing), rel=0.1)


def test_fused_experts_are_estimated_through_another_dtype(make_bench):
    """Their fake kernels know bfloat16 alone, which counts routing tables twice: an upper bound, within a third."""
    from ftdoctor.training.memory import step_memory

    bench = make_bench(family="qwen3_moe", adapter="lora")
    estimate = step_memory(bench.config(), batch_size=ROWS, length=LENGTH, adapter=bench.adapter())

    assert 1 <= estimate.total / measured(bench, False) <= 1.34


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "nf4", "fp4", "int8"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe"])
def test_the_weights_of_a_loaded_model_are_known_beforehand(make_bench, family, quantization, dtype):
    """Tied heads, norms and experts that stay unquantized among them; to 2 %: bitsandbytes keeps small code tables."""
    import torch

    from ftdoctor.training.memory import weight_bytes

    bench = make_bench(family=family, quantization=quantization, dtype=dtype)
    model = bench.load()
    held = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        scales = state.absmax if state is not None else getattr(getattr(module, "weight", None), "SCB", None)
        if scales is not None:
            held[scales.untyped_storage()._cdata] = scales.untyped_storage().nbytes()

    assert weight_bytes(bench.config(), quantization, getattr(torch, dtype)) == pytest.approx(
        sum(held.values()), rel=0.02
    )


def test_an_estimate_says_what_the_memory_is_for(make_bench):
    """In words a person can act on."""
    from ftdoctor.training.memory import step_memory

    bench = make_bench()
    estimate = step_memory(bench.config(), batch_size=1, length=16)

    assert str(estimate).startswith(f"{estimate.total / 1024**2:.3g} MiB (weights ")
    assert step_memory(bench.config(), batch_size=2, length=16).logits == 2 * estimate.logits
    assert step_memory(bench.config(), batch_size=1, length=16, optimizer="sgd").optimizer == 0


def test_an_unknown_optimizer_is_refused_with_the_nearest(make_bench):
    """Not taken for another."""
    from ftdoctor.training.memory import step_memory

    with pytest.raises(TrainingError, match=r"'adamv' is not known.*adamw"):
        step_memory(make_bench().config(), batch_size=1, length=16, optimizer="adamv")


def test_free_memory_is_what_system_and_container_leave(monkeypatch):
    """The smaller of the two; 0 where nobody says."""
    from ftdoctor import machine
    from ftdoctor.training.memory import free_memory

    monkeypatch.setattr(machine, "memory", lambda: {"total": 100, "available": 80})
    for limit, free in ((0, 80), (50, 50), (90, 80)):
        monkeypatch.setattr(machine, "memory_limit", lambda limit=limit: limit)
        assert free_memory("cpu") == free
