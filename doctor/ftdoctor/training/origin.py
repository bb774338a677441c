"""Where a NaN or an infinity comes from: the first module whose output or gradient is not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOSS = "the loss"
"""Stands for the module where everything before the loss is finite."""


@dataclass(frozen=True)
class Origin:
    """The first place that is not finite."""

    module: str
    """Its name in the model, as `named_modules` gives it; `the model` for the outermost, or `the loss`."""
    what: str
    """What of it is not finite: `output`, `gradient of its input`, `gradient of weight`, ..."""

    def __str__(self) -> str:
        return f"{self.what} of {self.module}"


def first_nonfinite(model: Any, run: Callable[[], Any]) -> Origin | None:
    """Watch one forward and backward pass, and say where the first number that is not finite appears.

    Every module is asked after each of its calls, and every gradient as it arrives, each time waiting for the
    device: this is for one replay, not for every step. All hooks are removed again, also when `run` raises.

    Args:
        model: the model as its modules are to be named, not wrapped for distribution.
        run: does the pass, from the model's call to the end of the backward, and returns the loss.

    Returns:
        None where everything is finite.
    """
    seen: list[Origin] = []
    handles = list(_watch(model, seen))
    try:
        loss = run()
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return None if _finite(loss) else Origin(LOSS, "value")
    # A tensor that goes into a layer goes into the layer's first part too; the innermost is the most exact.
    first = seen[0]
    for event in seen[1:]:
        if event.what != first.what or not event.module.startswith(f"{first.module}."):
            break
        first = event
    return first


def _watch(model: Any, seen: list[Origin]) -> Iterator[Any]:
    """Yield the handles of hooks that write what is not finite into `seen`, in the order in which it appears."""

    def ask(tensor: Any, module: str, what: str) -> None:
        if not _finite(tensor):
            seen.append(Origin(module or "the model", what))

    def before(name: str) -> Callable[..., None]:
        def hook(_: Any, args: Any, kwargs: Any) -> None:
            for tensor in _tensors((args, tuple(kwargs.values()))):
                # A mask may hold minus infinity; what else is not finite was made outside of any part.
                if not _finite(tensor.clamp(min=0)):
                    seen.append(Origin(name.rpartition(".")[0] or "the model", "code"))
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: ask(gradient, name, "gradient of the input"))

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_: Any, args: Any, output: Any) -> None:
            for tensor in _tensors(output):
                loss = not name and not tensor.ndim
                ask(tensor, LOSS if loss else name, "value" if loss else "output")
                if not name and tensor.requires_grad and tensor.ndim:
                    tensor.register_hook(lambda gradient: ask(gradient, LOSS, "gradient"))

        return hook

    for name, module in model.named_modules():
        yield module.register_forward_pre_hook(before(name), with_kwargs=True)
        yield module.register_forward_hook(after(name))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            module, _, own = name.rpartition(".")
            yield parameter.register_post_accumulate_grad_hook(
                lambda p, module=module, own=own: ask(p.grad, module, f"gradient of the {own}")
            )


def _tensors(value: Any) -> Iterator[Any]:
    """Yield the floating tensors in a tensor, or in nested tuples, lists and dicts (outputs of models are dicts)."""
    if hasattr(value, "is_floating_point"):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _finite(tensor: Any) -> bool:
    return bool(tensor.detach().isfinite().all())
