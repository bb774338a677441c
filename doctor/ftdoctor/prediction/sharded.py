"""Models whose weights are spread over processes: FSDP, DeepSpeed ZeRO-3, tensor parallel.

Such a model generates only where all of its processes generate together, and the same number of tokens (transformers'
`synced_gpus=True` sees to that). Weights are gathered layer by layer, as in training: a process holds one layer more
than its part, and what the root keeps for itself, never the whole model. The other way, to gather everything once and
to generate in one process, would be faster for each token and needs the memory for whose lack the model is sharded.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Sharding:
    """How the weights of a model are spread."""

    kind: str = "none"
    """`none`, `fsdp` (FullyShardedDataParallel), `fsdp2` (fully_shard), `deepspeed` (ZeRO-3) or `tensor`."""
    processes: int = 1
    """Processes that have to generate together; 1 where each has the whole model, as under DDP and ZeRO-2."""


def sharding_of(model: Any) -> Sharding:
    """Return how the weights of a model are spread, the model as the trainer's callbacks get it."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return Sharding()
    kind = _kind(model)
    return Sharding(kind, dist.get_world_size() if kind != "none" else 1)


@contextlib.contextmanager
def gathered(model: Any) -> Iterator[Any]:
    """Give what has a `generate` that works while all processes of the model are inside.

    All processes have to enter, and to call `generate` equally often, with the same prompts and `synced_gpus=True`. An
    exception that only some of them raise in the middle of a forward leaves the others waiting, as in training; one
    that all of them raise is cleared up, and the model trains on. Weights are parted again on leaving.

    Args:
        model: the model as the trainer's callbacks get it: of FSDP the root, of DeepSpeed what is inside the engine.
    """
    kind = sharding_of(model).kind
    callee = _Callee(model, {"fsdp": _settle_fsdp, "fsdp2": _settle_fsdp2, "deepspeed": _settle_deepspeed}.get(kind))
    if kind == "fsdp":
        from torch.distributed.fsdp import FullyShardedDataParallel

        # The root's own weights are gathered by its forward, which `generate` does not pass through.
        with FullyShardedDataParallel.summon_full_params(model, recurse=False, writeback=False):
            yield callee
    elif kind == "fsdp2":
        with _through_the_root(model):
            yield callee
    else:
        # Hooks of DeepSpeed gather at each layer, and need no root; under tensor parallelism nothing is to gather.
        yield callee if kind != "none" else model


def agree(ok: bool, sharding: Sharding) -> bool:
    """Return whether all processes of the model say yes; each of them has to ask."""
    if sharding.processes == 1:
        return ok
    import torch
    import torch.distributed as dist

    # The process group may have no backend for tensors in the memory of the CPU.
    device = torch.device(torch.cuda.current_device()) if "nccl" in str(dist.get_backend()) else torch.device("cpu")
    said = torch.tensor(int(ok), device=device)
    dist.all_reduce(said, dist.ReduceOp.MIN)
    return bool(said.item())


class _Callee:
    """A model's `generate` that leaves no layer gathered when it raises."""

    def __init__(self, model: Any, settle: Any) -> None:
        self._model, self._settle = model, settle

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._model.generate(*args, **kwargs)
        except BaseException:
            if self._settle is not None:
                self._settle(self._model)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _kind(model: Any) -> str:
    from torch.distributed import fsdp
    from torch.distributed.tensor import DTensor

    modules, parameters = list(model.modules()), list(model.parameters())
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        return "deepspeed"
    if any(isinstance(module, fsdp.FullyShardedDataParallel) for module in modules):
        return "fsdp"
    if any(isinstance(module, fsdp.FSDPModule) for module in modules):
        return "fsdp2"
    return "tensor" if any(isinstance(parameter, DTensor) for parameter in parameters) else "none"


@contextlib.contextmanager
def _through_the_root(model: Any) -> Iterator[None]:
    """Let `generate` pass through the hooks of the root, which gather what no layer of its own holds.

    The Trainer of transformers 5 has done so already. `generate` of a peft model calls what is inside the root, which
    then meets the root's own weights as they are spread (`got mixed torch.Tensor and DTensor`); before the first step
    of training it also takes the root's place, and that step fails.
    """
    from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

    ours = isinstance(model, FSDPModule) and "generate" not in vars(model)
    if ours:
        register_fsdp_forward_method(model, "generate")
    try:
        yield
    finally:
        if ours:
            del model.generate
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # after a forward without a backward the root keeps its weights gathered


def _settle_fsdp2(model: Any) -> None:
    """End the forward that an exception has cut off; there is no public way."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            state = module._get_fsdp_state()
            idle = type(state._training_state).IDLE
            state._training_state, state._state_ctx.iter_forward_root = idle, None
            groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
            for group in filter(None, groups):
                group._training_state = idle
            module.reshard()


def _settle_fsdp(model: Any) -> None:
    """End the forward that an exception has cut off, in all but the root, which stays gathered."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp._runtime_utils import _reshard

    for module in FullyShardedDataParallel.fsdp_modules(model):
        handle = module._handle
        if module is not model and handle is not None:
            idle = type(module.training_state).IDLE
            if module.training_state is not idle:
                _reshard(module, handle, True)
            module.training_state, handle._training_state = idle, type(handle._training_state).IDLE


def _settle_deepspeed(model: Any) -> None:
    """Part the weights of the layers that an exception has left."""
    for parameter in model.parameters():
        if hasattr(parameter, "ds_id"):
            parameter.ds_active_sub_modules.clear()
            if parameter.ds_status.name == "AVAILABLE" and not parameter.ds_persist:
                parameter.partition()
