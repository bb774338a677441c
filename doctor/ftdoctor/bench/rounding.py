"""How far two right computations of the same logits may lie apart, logit by logit, derived from the formats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ftdoctor.bench.precision import ROUNDINGS, unit_roundoff

if TYPE_CHECKING:
    from ftdoctor.bench import Bench

CONFIDENCE = 6.0
"""Standard deviations: at six, none of 10**8 logits is outside by chance."""
INT8_ROUNDOFF = 2.0**-6
"""LLM.int8 rounds activations to half a step of absmax/127, where absmax is up to 4 times the rms of a row."""

WHY = (
    "roundings are independent and add in quadrature: {confidence:g} standard deviations x sqrt(2 computations x "
    "{stages} roundings x {terms} summands in that format) x unit roundoff {unit:.3g} x rms of the result"
)


def coarsest(bench: Bench, model: Any) -> float:
    """Return the largest unit roundoff on the way through a model: of its weights, and of the cell's precision."""
    import torch

    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(bench.cell["mixed_precision"])
    found = {p.dtype for p in model.parameters() if p.dtype.is_floating_point} | {bench.dtype}
    largest = max(unit_roundoff(dtype) for dtype in (*found, mixed) if dtype)
    return max(largest, INT8_ROUNDOFF) if bench.cell["quantization"] == "int8" else largest


def relative(model: Any, unit: float) -> tuple[float, str]:
    """Return the bound on one value's difference relative to the rms of all, and the sentence that derives it."""
    config = model.config.get_text_config()
    stages = ROUNDINGS * (config.num_hidden_layers + 1)
    # 16-bit kernels sum in float32 and round once; float32 sums round at every summand.
    terms = 1 if unit > 2.0**-20 else _widest(config)
    bound = CONFIDENCE * math.sqrt(2 * stages * terms) * unit
    return bound, WHY.format(confidence=CONFIDENCE, stages=stages, terms=terms, unit=unit)


def difference(model: Any, values: Any, unit: float) -> tuple[float, str]:
    """Return the largest difference that rounding explains between two computations of these values, and why."""
    bound, why = relative(model, unit)
    return bound * float(values.detach().double().pow(2).mean().sqrt()), why


def _widest(config: Any) -> int:
    sizes = [getattr(config, name, 0) for name in ("hidden_size", "intermediate_size", "moe_intermediate_size")]
    return max([1, *(s for s in sizes if isinstance(s, int))])
