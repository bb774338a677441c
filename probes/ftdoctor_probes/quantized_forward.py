"""A quantized layer computes what its weights say, in the compute dtype asked for, in training and in evaluation.

Why: bitsandbytes has several kernels for one product, and which of them runs depends on the device, on the dtype and on
whether the layer is in training mode. A wrong one gives plausible numbers: the loss is a little worse, and samples
differ from what was trained. On CPUs with AVX512-BF16 evaluation runs in bfloat16 whatever was asked for.

Cure: on such a CPU ask for bfloat16, or set `support_avx512bf16_for_cpu = False` on the Linear4bit layers; otherwise
install another release of bitsandbytes than the culprit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import configs, layers, precision
from ftdoctor.probe import probe
from ftdoctor.results import Level

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ROWS = 8


@probe(
    area="loading",
    needs=("torch", "transformers", "accelerate", "bitsandbytes"),
    axes=("family", "quantization", "dtype", "device"),
    only={"quantization": ("nf4", "fp4", "int8")},
    references=("bitsandbytes-foundation/bitsandbytes#1804",),
)
def quantized_forward(bench: Bench, check: Check) -> None:
    """Compare layers, and the whole model, with the same product of the dequantized weights."""
    if configs.is_quantized(bench.config()):
        check.skip("this model is quantized already; give the unquantized one to examine its quantization")
    model = bench.load()
    found = layers.quantized(model)
    if not found:
        check.skip("nothing was quantized; see quantized-load")
    owner = type(next(iter(found.values()))).forward
    exact = {name: precision.dequantized(module) for name, module in found.items()}
    layers.as_in_training(model)
    why = "error of each output over what four roundings to the compute dtype and float32 sums allow"
    if bench.cell["quantization"] == "int8":
        why += ", and inputs in 8 bits where the layer quantizes them"
    check.at_most("layers in training", _worst(found, exact, bench), 1.0, why=why, owner=owner)
    if _keeps_inputs(bench):
        plain = _with_weights(bench, exact)
        check.at_most(
            "logits",
            precision.relative_error(bench.logits(model), bench.logits(plain)),
            precision.model_error(plain.config.get_text_config().num_hidden_layers, bench.dtype),
            why="relative error of two runs of the same computation in this dtype, the other one with the dequantized "
            "weights in ordinary layers: 16 roundings a layer, independent of each other",
            owner=owner,
        )
    model.eval()
    check.at_most(
        "layers in evaluation",
        _worst(found, exact, bench),
        1.0,
        why=why,
        level=Level.WARN,
        owner=owner,
    )


def _keeps_inputs(bench: Bench) -> bool:
    """Say whether training-mode layers multiply inputs as they are: int8 layers quantize them, but not on a CPU."""
    return bench.cell["quantization"] != "int8" or bench.device == "cpu"


def _worst(found: dict[str, Any], exact: dict[str, Any], bench: Bench) -> float:
    return max(_error(module, exact[name], bench) for name, module in found.items())


def _error(module: Any, weight: Any, bench: Bench) -> float:
    """Return the largest error of a layer's outputs, as a multiple of what its format allows."""
    import torch

    inputs = torch.randn(ROWS, weight.shape[1]).to(bench.device, bench.dtype)
    with torch.no_grad():
        measured = module(inputs).double()
    bias = 0.0 if module.bias is None else module.bias.detach().double()
    expected = inputs.double() @ weight.double().T + bias
    allowed = precision.product_error(inputs, weight, bench.dtype) + precision.unit_roundoff(bench.dtype) * abs(bias)
    if bench.cell["quantization"] == "int8" and not (module.training and _keeps_inputs(bench)):
        # Each input is off by half a step of its row's absmax / 127, and the product is one of float16 numbers.
        step = inputs.double().abs().amax(dim=1, keepdim=True) / 254
        allowed += step * weight.double().abs().sum(1) + precision.product_error(inputs, weight, torch.float16)
    return float(((measured - expected).abs() / allowed).nan_to_num(float("inf")).max())


def _with_weights(bench: Bench, exact: dict[str, Any]) -> Any:
    """Return the model without quantization, with these weights in its layers."""
    plain = bench.load(quantization="none")
    ordinary = layers.to_quantize(plain)
    for name, weight in exact.items():
        ordinary[name].data.copy_(weight)
    return plain


@quantized_forward.fault("outputs are one percent too large", catches=("layers in training", "logits"))
def outputs_scaled(patch: Patch) -> None:
    """A kernel with a wrong constant."""
    from bitsandbytes.nn import Linear4bit

    patch.wrap(Linear4bit, "forward", lambda original, *args: original(*args) * 1.01)


@quantized_forward.fault(
    "inputs lose their low bits in evaluation", catches=("layers in evaluation",), cell={"dtype": "bfloat16"}
)
def evaluation_in_eight_bits(patch: Patch) -> None:
    """The kernel for evaluation computes in fewer bits than asked for."""
    import torch
    from bitsandbytes.nn import Linear4bit

    def around(original: Any, layer: Any, inputs: Any) -> Any:
        rounded = inputs if layer.training else inputs.to(torch.float8_e4m3fn).to(inputs.dtype)
        return original(layer, rounded)

    patch.wrap(Linear4bit, "forward", around)
