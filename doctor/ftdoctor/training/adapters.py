"""What stands between a loaded model and one that trains: k-bit preparation, the adapter, and their dtypes."""

from __future__ import annotations

import copy
from typing import Any

from ftdoctor.errors import LoadError
from ftdoctor.wording import nearest

ALL_LINEAR = "all-linear"


def prepare_quantized(model: Any, checkpointing: bool, notes: list[str]) -> Any:
    """Prepare a quantized model for training, before its adapter is added.

    Args:
        model: what bitsandbytes has quantized.
        checkpointing: whether gradient checkpointing is switched on, the kind without reentrance.
        notes: sentences on what was mended are added to it.
    """
    from peft import prepare_model_for_kbit_training

    model = prepare_model_for_kbit_training(
        model,
        use_gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
    )
    if keep_backward(model):
        notes.append("4-bit layers are not repacked in evaluation, where bitsandbytes takes their backward away")
    return model


def keep_backward(model: Any) -> int:
    """Keep 4-bit layers from being repacked for a CPU kernel without a backward; return their number.

    bitsandbytes does that at the first forward in eval mode, on CPUs with AVX512-BF16, and does not undo it.
    """
    changed = 0
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
            changed += 1
    return changed


def enable_checkpointing(model: Any) -> None:
    """Switch gradient checkpointing on so that an adapter behind it gets its gradients."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()


def add(model: Any, adapter: Any, seed: int, notes: list[str]) -> Any:
    """Add a new adapter in float32; each of its targets must match something.

    Args:
        model: the base model.
        adapter: a peft config; it is not changed.
        seed: of the adapter's first values; the caller's random state is left as it was.
        notes: sentences on what was mended are added to it.

    Raises:
        LoadError: a target module or a module to save matches nothing.
    """
    import torch
    from peft import get_peft_model

    adapter = copy.deepcopy(adapter)
    refuse_unmatched(model, adapter)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        model = get_peft_model(model, adapter)
    raised = train_in_float32(model)
    if raised:
        notes.append(f"{raised} trained tensors were raised to float32")
    if follow_dtype(model):
        notes.append("layers that are trained in full take inputs of any floating dtype")
    return model


def refuse_unmatched(model: Any, adapter: Any) -> None:
    """Raise where a name in an adapter's config matches no module; peft ignores all but the last of them.

    Raises:
        LoadError: with the nearest name that does match.
    """
    names = [name for name, _ in model.named_modules() if name]
    ends = sorted({name.rpartition(".")[2] for name in names})
    for field in ("target_modules", "modules_to_save"):
        asked = getattr(adapter, field, None)
        if isinstance(asked, str):
            continue  # a regular expression, which peft matches as a whole, or all-linear
        for target in asked or ():
            if not any(name == target or name.endswith(f".{target}") for name in names):
                linear = _linear_ends(model)
                raise LoadError(
                    f"{field} of the adapter names {target!r}, which matches no module of {type(model).__name__}"
                    f"{nearest(target, ends)}; its linear layers are {', '.join(linear)}.",
                    "adapter",
                )


def _linear_ends(model: Any) -> list[str]:
    import torch

    return sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})


def train_in_float32(model: Any) -> int:
    """Raise what is trained to float32, in place; return the number of tensors that were in something else.

    Updates of weights in bfloat16 are lost below 1/256 of the weight; those of float16 underflow in Adam.
    """
    import torch

    raised = 0
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
            raised += 1
    return raised


def follow_dtype(model: Any) -> int:
    """Let layers that are trained in full (`modules_to_save`) cast their input to their weight's dtype.

    They are in float32 behind norms and layers that are not, which without autocast is an error. Returns the
    number of layers; calling it again adds nothing.
    """
    from peft.utils import ModulesToSaveWrapper

    changed = 0
    for wrapper in model.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            for module in wrapper.modules_to_save.values():
                if _cast_input not in module._forward_pre_hooks.values():
                    module.register_forward_pre_hook(_cast_input)
                    changed += 1
    return changed


def _cast_input(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    weight = getattr(module, "weight", None)
    if weight is None or not weight.is_floating_point():
        return inputs
    return tuple(x.to(weight.dtype) if getattr(x, "is_floating_point", lambda: False)() else x for x in inputs)
