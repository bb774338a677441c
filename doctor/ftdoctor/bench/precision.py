"""What number formats promise: unit roundoffs, the levels of 4-bit formats, and bounds that follow from them.

Every bound here is derived from a format, never fitted to what a library happens to return.
"""

from __future__ import annotations

import math
from typing import Any

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
"""The sixteen levels of NormalFloat4, from appendix E of the QLoRA paper (arXiv 2305.14314)."""

FP4 = tuple(sorted({sign * level / 12 for level in (0, 0.0625, 2, 3, 4, 6, 8, 12) for sign in (1, -1)}))
"""The levels of the 4-bit float of bitsandbytes: two bits of exponent, one of mantissa, largest 12."""

LEVELS = {"nf4": NF4, "fp4": FP4}
BLOCK = 64
"""Weights that share one absmax in the 4-bit formats."""

ROUNDINGS = 16
"""Roundings in one decoder layer between two states of the residual stream: two norms, six projections, rotary
embedding, scores, softmax, weighted sum, activation, product and two residual additions."""


def unit_roundoff(dtype: Any) -> float:
    """Return the largest relative error of rounding to a torch floating dtype."""
    import torch

    return float(torch.finfo(dtype).eps) / 2


def format_error(weight: Any, kind: str) -> Any:
    """Return the largest error that the format may make in each weight, in float64, of the weight's shape.

    4-bit: the distance to the nearest level, times the block's absmax. int8: half a step of the row's absmax / 127,
    for the weight as rounded to float16, from which bitsandbytes quantizes it.

    Args:
        weight: matrix of shape (out, in).
        kind: `nf4`, `fp4` or `int8`.
    """
    import torch

    exact = weight.detach().double()
    if kind == "int8":
        half_step = exact.abs().amax(dim=1, keepdim=True) / 127 / 2
        return half_step.expand_as(exact) + 2 * unit_roundoff(torch.float16) * _scale(exact, 1)
    blocks, absmax = _blocks(exact)
    levels = torch.tensor(LEVELS[kind], dtype=torch.float64, device=exact.device)
    scaled = blocks / absmax.clamp(min=1e-300)
    nearest = (scaled.unsqueeze(-1) - levels).abs().amin(dim=-1) * absmax
    return nearest.flatten()[: exact.numel()].view_as(exact)


def rounding_error(weight: Any, kind: str, dtype: Any) -> Any:
    """Return what rounding may add to `format_error`, in float64, of the weight's shape.

    Absmax, scaled weight, product and result are rounded to `dtype`. And no 4-bit format says how exactly two levels
    are to be compared: in float16, the narrowest dtype that weights come in, a weight that lies two roundings beside
    the middle may go to the other level.
    """
    import torch

    exact = weight.detach().double()
    if kind == "int8":
        return 4 * unit_roundoff(dtype) * _scale(exact, 1)
    blocks, absmax = _blocks(exact)
    share = 4 * unit_roundoff(dtype) + 2 * unit_roundoff(torch.float16)
    return share * absmax.expand_as(blocks).flatten()[: exact.numel()].view_as(exact)


def dequantized(module: Any) -> Any:
    """Return the float32 weight that a quantized linear layer of bitsandbytes stands for, shape (out, in).

    Raises:
        TypeError: the module is not a quantized layer.
    """
    import bitsandbytes as bnb

    if isinstance(module, bnb.nn.Linear4bit):
        state = module.weight.quant_state
        found = bnb.functional.dequantize_4bit(module.weight.data, state).float()
        return found.reshape(module.out_features, module.in_features)
    if isinstance(module, bnb.nn.Linear8bitLt):
        values = module.weight.CB if module.weight.CB is not None else module.state.CB
        scales = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
        return values.float() * scales.float().unsqueeze(1) / 127
    raise TypeError(f"{type(module).__name__} is not a quantized linear layer of bitsandbytes.")


def product_error(inputs: Any, weight: Any, dtype: Any) -> Any:
    """Return the largest error of `inputs @ weight.T` computed in `dtype` with sums in float32 or better.

    Four roundings to `dtype` (scale, weight, partial sum, result) and one float32 rounding per summand, all
    relative to the sum of absolute products.

    Args:
        inputs: shape (rows, in); weight: shape (out, in). The result has shape (rows, out), in float64.
    """
    import torch

    terms = inputs.double().abs() @ weight.double().abs().T
    return (4 * unit_roundoff(dtype) + weight.shape[1] * unit_roundoff(torch.float32)) * terms


def model_error(layers: int, dtype: Any) -> float:
    """Return the relative error (of the norm of all logits) between two orders of the same computation in `dtype`.

    Roundings are independent of each other, so they add up like a random walk: the square root of their number, each
    a unit roundoff at most, in each of the two computations that are compared.
    """
    return 2 * unit_roundoff(dtype) * math.sqrt(ROUNDINGS * (layers + 1))


def relative_error(measured: Any, expected: Any) -> float:
    """Return |measured - expected| / |expected| in the Euclidean norm over all values, in float64."""
    a, b = measured.detach().double().cpu(), expected.detach().double().cpu()
    if a.shape != b.shape:
        return math.inf
    return float((a - b).norm() / b.norm().clamp(min=1e-300))


def _scale(exact: Any, dim: int) -> Any:
    return exact.abs().amax(dim=dim, keepdim=True).expand_as(exact)


def _blocks(exact: Any) -> tuple[Any, Any]:
    """Return the weight in rows of one block each, zero-padded, and the largest magnitude of each block."""
    import torch

    flat = exact.flatten()
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    return padded, padded.abs().amax(dim=1, keepdim=True)
