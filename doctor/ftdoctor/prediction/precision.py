"""The precision under which a model generates as it trains.

accelerate puts autocast around the outer model's `forward`. `generate` of an adapter model goes past it to the inner
model, and weights of mixed dtypes, which need autocast, fail there. So the trainer's own precision is entered around
`generate`; where there is none, or it does not do, what the weights themselves suggest.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ftdoctor.errors import PredictionError
from ftdoctor.wording import nearest

ASKED = ("auto", "none", "bf16", "fp16")


@dataclass(frozen=True)
class Rung:
    """One precision to generate under."""

    name: str
    """`none`, or the dtype of autocast: `bfloat16`, `float16`."""
    why: str

    def entered(self, device: Any) -> Any:
        """Return the context in which to generate; no cast that is made in it is kept for later."""
        import torch

        if self.name != "none":
            return torch.autocast(device.type, dtype=getattr(torch, self.name), cache_enabled=False)
        if torch.is_autocast_enabled(device.type):  # the caller's own region, which stays
            return torch.autocast(device.type, dtype=torch.get_autocast_dtype(device.type), cache_enabled=False)
        return contextlib.nullcontext()


def rungs(model: Any, asked: str = "auto") -> tuple[Rung, ...]:
    """Return the precisions to try, the best first.

    Args:
        model: the model, as the trainer's callbacks get it.
        asked: `auto`: that of the trainer that has prepared the model; none; the half-precision dtypes among the
            weights; bfloat16. Or one of them alone: `none`, `bf16`, `fp16`.

    Raises:
        PredictionError: the name is unknown.
    """
    refuse_unknown(asked)
    if asked != "auto":
        name = {"none": "none", "bf16": "bfloat16", "fp16": "float16"}[asked]
        return (Rung(name, "asked for"),)
    found = []
    trained = trainers(model)
    if trained:
        found.append(Rung(trained, "the trainer's mixed precision"))
    found.append(Rung("none", "as the model is"))
    found += [Rung(n, "a dtype of the weights") for n in dtypes(model) if n in ("bfloat16", "float16")]
    found.append(Rung("bfloat16", "what mixed weights are made for"))
    return tuple({rung.name: rung for rung in reversed(found)}[name] for name in dict.fromkeys(r.name for r in found))


def refuse_unknown(asked: str) -> None:
    """Refuse a precision that there is not.

    Raises:
        PredictionError: with the names that there are.
    """
    if asked not in ASKED:
        known = ", ".join(ASKED)
        raise PredictionError(f"precision {asked!r} is unknown{nearest(asked, ASKED)}; it is one of {known}.")


def trainers(model: Any) -> str:
    """Return the dtype of the mixed precision of the trainer that has prepared this model; empty where there is none.

    It is read from accelerate's state, for the arguments of a trainer need not say what it runs under; and believed
    only of a model that accelerate has wrapped.
    """
    import sys

    module = getattr(model, "module", model)
    if "_original_forward" not in vars(model) and "_original_forward" not in vars(module):
        return ""
    accelerate = sys.modules.get("accelerate.state")
    state = accelerate.AcceleratorState._shared_state if accelerate else {}
    kind = state.get("_mixed_precision", "no")
    return {"bf16": "bfloat16", "fp8": "bfloat16", "fp16": "float16"}.get(str(kind), "")


def dtypes(model: Any) -> list[str]:
    """Return how the weights are stored, the most frequent first: `float32`, `bfloat16`, `nf4`, `int8`, ..."""
    found: Counter[str] = Counter()
    for parameter in model.parameters():
        quantized = getattr(parameter, "quant_type", None)  # two weights a byte
        name = quantized or str(parameter.dtype).removeprefix("torch.")
        found[name] += parameter.numel() * (2 if quantized else 1)
    return [name for name, _ in found.most_common()]


def device_of(model: Any) -> Any:
    """Return the device of the first weight that is anywhere."""
    import torch

    devices = (p.device for p in model.parameters())
    return next((d for d in devices if d.type != "meta"), torch.device("cpu"))
