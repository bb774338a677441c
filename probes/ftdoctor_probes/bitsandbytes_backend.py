"""bitsandbytes has a native library for this device, and what it quantizes comes back within the format's error.

Why: when bitsandbytes finds no library for the CUDA version that torch was built for, it loads a stand-in and says
so in one line of the log; the error comes much later, from the first quantized layer. A library that loads
may still have no right kernel for this device, and then weights are garbage while nothing is raised: on CPUs with
AVX512, half of the weights of a layer whose input size is no multiple of 64.

Cure: install a bitsandbytes release that brings a library for the CUDA version of torch (`python -m bitsandbytes`
names the one it looks for), or a torch built for a CUDA version that bitsandbytes has; unset BNB_CUDA_VERSION. Put
layers whose input size is no multiple of 64 into `llm_int8_skip_modules`, or quantize to int8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import precision
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ROWS = 32


@probe(
    area="environment",
    needs=("torch", "bitsandbytes"),
    axes=("device", "quantization", "dtype", "row_length"),
    only={"quantization": ("nf4", "fp4", "int8")},
    references=("bitsandbytes-foundation/bitsandbytes#1307",),
)
def bitsandbytes_backend(bench: Bench, check: Check) -> None:
    """Look at the library that was loaded, then quantize and dequantize a matrix of normal numbers."""
    import bitsandbytes as bnb
    import torch

    library = bnb.cextension.lib
    check.that(
        "native library",
        _is_native(library, bench.device),
        type(library).__name__,
        "a native library for CUDA" if bench.device == "cuda" else "a native library",
        owner=bnb.cextension.get_native_library,
    )
    kind = bench.cell["quantization"]
    weight = torch.randn(ROWS, int(bench.cell["row_length"])).to(bench.device, bench.dtype)
    back = _round_trip(weight, kind)
    check.equal("dtype", str(back.dtype), str(bench.dtype), why="dequantized weights have the dtype they came from")
    allowed = precision.format_error(weight, kind) + precision.rounding_error(weight, kind, bench.dtype)
    error = (back.double() - weight.double()).abs()
    check.at_most(
        "round trip",
        float((error / allowed).nan_to_num(float("inf")).max()),
        1.0,
        why="error of each weight over what the format allows: the distance to its nearest level times absmax "
        "(int8: half a step of absmax/127), four roundings to this dtype, and levels compared in float16",
        owner=bnb.functional.int8_vectorwise_quant if kind == "int8" else bnb.functional.dequantize_4bit,
    )


def _is_native(library: Any, device: str) -> bool:
    """Say whether this is a real library, by the names of its classes: the stand-in answers to every symbol."""
    names = {kind.__name__ for kind in type(library).__mro__}
    wanted = "CudaBNBNativeLibrary" if device == "cuda" else "BNBNativeLibrary"
    return wanted in names and "ErrorHandlerMockBNBNativeLibrary" not in names


def _round_trip(weight: Any, kind: str) -> Any:
    from bitsandbytes import functional

    if kind == "int8":
        values, scales, _ = functional.int8_vectorwise_quant(weight.half())
        return functional.int8_vectorwise_dequant(values, scales).to(weight.dtype)
    return functional.dequantize_4bit(*functional.quantize_4bit(weight, quant_type=kind))


@bitsandbytes_backend.fault("no native library was found", catches=("native library",), cell={"quantization": "int8"})
def no_library(patch: Patch) -> None:
    """The stand-in that bitsandbytes puts in place when loading fails."""
    from bitsandbytes import cextension

    patch.replace(cextension, "lib", cextension.ErrorHandlerMockBNBNativeLibrary("libcudart.so.99: not found"))


@bitsandbytes_backend.fault("absmax is a tenth too large", catches=("round trip",), cell={"quantization": "nf4"})
def wrong_absmax(patch: Patch) -> None:
    """What a wrong kernel does to the scale of each block."""
    from bitsandbytes import functional

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        packed, state = original(*args, **kwargs)
        state.absmax *= 1.1
        return packed, state

    patch.wrap(functional, "quantize_4bit", around)


@bitsandbytes_backend.fault(
    "the halves of each byte are exchanged", catches=("round trip",), cell={"quantization": "fp4"}
)
def nibbles_exchanged(patch: Patch) -> None:
    """Two neighbouring weights change places: a kernel for the other byte order."""
    from bitsandbytes import functional

    def around(original: Any, packed: Any, *args: Any, **kwargs: Any) -> Any:
        return original((packed << 4) | (packed >> 4), *args, **kwargs)

    patch.wrap(functional, "dequantize_4bit", around)


@bitsandbytes_backend.fault(
    "float16 comes back whatever was quantized", catches=("dtype",), cell={"quantization": "nf4", "dtype": "bfloat16"}
)
def dtype_forgotten(patch: Patch) -> None:
    """The state that goes with the packed weights names another dtype."""
    import torch
    from bitsandbytes import functional

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        packed, state = original(*args, **kwargs)
        state.dtype = torch.float16
        return packed, state

    patch.wrap(functional, "quantize_4bit", around)
