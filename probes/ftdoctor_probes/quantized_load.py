"""A quantized model keeps its linear layers, and only those, in the format asked for, within that format's error.

Why: layers that are left out cost the memory that quantization was meant to save (transformers 5 keeps the experts of a
mixture in three-dimensional parameters, which bitsandbytes does not reach: most of such a model stays in 16 bits
without a word); a head that is quantized costs accuracy; a compute dtype that is not honoured costs speed or range.

Cure: compare the layers in the finding with `llm_int8_skip_modules`; give all of `bnb_4bit_quant_type` and
`bnb_4bit_compute_dtype`; for a mixture of experts count with the memory of its unquantized experts, or take a
release of transformers that keeps them as linear layers (4.57).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import configs, layers, precision
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch


@probe(
    area="loading",
    needs=("torch", "transformers", "accelerate", "bitsandbytes"),
    axes=("family", "quantization", "dtype", "device"),
    only={"quantization": ("nf4", "fp4", "int8")},
    references=("bitsandbytes-foundation/bitsandbytes#1849",),
)
def quantized_load(bench: Bench, check: Check) -> None:
    """Load quantized, and compare layer by layer with the same model loaded without quantization."""
    import bitsandbytes as bnb
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    if configs.is_quantized(bench.config()):
        check.skip("this model is quantized already; give the unquantized one to examine its quantization")
    kind = bench.cell["quantization"]
    plain, model = bench.load(quantization="none"), bench.load()
    wanted, found = layers.to_quantize(plain), layers.quantized(model)
    check.equal("config classes", configs.stage(model), configs.wanted_stage(bench, quantized=True))
    check.equal(
        "quantization config",
        configs.changed(bench.quantization(), model.config.quantization_config),
        {},
        why="what was asked for is kept",
    )
    check.equal(
        "not quantized",
        [name for name in wanted if name not in found],
        [],
        why="every linear layer but the head, and every stack of experts",
        owner=replace_with_bnb_linear,
    )
    check.equal(
        "quantized without need",
        [name for name in found if name not in wanted],
        [],
        why="head, embeddings and norms stay in the dtype asked for",
        owner=replace_with_bnb_linear,
    )
    check.equal("formats", _formats(found), {_format(kind, bench.dtype): len(found)}, owner=replace_with_bnb_linear)
    if not found:
        return
    check.at_most(
        "bytes per weight",
        sum(_bytes(module) for module in found.values()) / sum(wanted[n].numel() for n in found if n in wanted),
        _promised_bytes(kind, [wanted[name] for name in found if name in wanted]),
        why=f"the values, and 4 bytes of absmax for {precision.BLOCK} weights (int8: for a row)",
    )
    check.at_most(
        "dequantized weights",
        max(_error(module, wanted[name], kind, bench.dtype) for name, module in found.items() if name in wanted),
        1.0,
        why="error of each weight over what the format allows: the distance to its nearest level times absmax "
        "(int8: half a step of absmax/127), four roundings to this dtype, and levels compared in float16",
        owner=bnb.functional.int8_vectorwise_quant if kind == "int8" else bnb.functional.quantize_4bit,
    )


def _format(kind: str, dtype: Any) -> str:
    return "int8" if kind == "int8" else f"{kind}, computes in {dtype}"


def _formats(found: dict[str, Any]) -> dict[str, int]:
    """Return the formats of the quantized layers, with the number of layers of each."""
    import bitsandbytes as bnb

    counted: dict[str, int] = {}
    for module in found.values():
        four = isinstance(module, bnb.nn.Linear4bit)
        name = _format(module.weight.quant_state.quant_type if four else "int8", getattr(module, "compute_dtype", None))
        counted[name] = counted.get(name, 0) + 1
    return counted


def _bytes(module: Any) -> int:
    """Return what a quantized layer's weight takes, with its scales."""
    state = getattr(module.weight, "quant_state", None)
    scales = state.absmax if state is not None else module.weight.SCB
    return int(module.weight.nbytes + scales.nbytes)


def _promised_bytes(kind: str, weights: list[Any]) -> float:
    if kind != "int8":
        return 0.5 + 4 / precision.BLOCK
    return 1 + 4 * float(sum(weight.shape[0] for weight in weights) / sum(weight.numel() for weight in weights))


def _error(module: Any, weight: Any, kind: str, dtype: Any) -> float:
    """Return the largest error of a layer's weights, as a multiple of what the format allows."""
    allowed = precision.format_error(weight, kind) + precision.rounding_error(weight, kind, dtype)
    error = (precision.dequantized(module).double() - weight.detach().double()).abs()
    return float((error / allowed).nan_to_num(0.0, posinf=float("inf")).max())


def _skipping(patch: Patch, skip: Any) -> None:
    """Have transformers leave other layers out than it should."""
    from transformers.integrations import bitsandbytes as integration

    def around(original: Any, model: Any, modules_to_not_convert: Any = None, **kwargs: Any) -> Any:
        return original(model, modules_to_not_convert=skip(modules_to_not_convert), **kwargs)

    patch.wrap(integration, "replace_with_bnb_linear", around)
    import transformers.integrations

    patch.replace(transformers.integrations, "replace_with_bnb_linear", integration.replace_with_bnb_linear)


@quantized_load.fault("the MLPs are left out", catches=("not quantized",))
def layers_left_out(patch: Patch) -> None:
    """Two thirds of the model stay as large as they were."""
    _skipping(patch, lambda names: [*names, "up_proj", "down_proj"])


@quantized_load.fault("the head is quantized too", catches=("quantized without need",), cell={"dtype": "bfloat16"})
def head_quantized(patch: Patch) -> None:
    """The list of layers to leave out is not applied."""
    _skipping(patch, lambda names: [])


@quantized_load.fault("another compute dtype is set", catches=("formats",))
def other_compute_dtype(patch: Patch) -> None:
    """The default of bitsandbytes, not what was asked for."""
    import torch
    from bitsandbytes.nn import Linear4bit

    def around(original: Any, layer: Any, *args: Any, **kwargs: Any) -> None:
        original(layer, *args, **kwargs)
        layer.compute_dtype = torch.float16

    patch.wrap(Linear4bit, "__init__", around)


@quantized_load.fault("scales are kept twice and are too large", catches=("bytes per weight", "dequantized weights"))
def scales_doubled(patch: Patch) -> None:
    """More memory than the format promises, and other values than its own."""
    from bitsandbytes import functional

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        packed, state = original(*args, **kwargs)
        state.absmax = (state.absmax * 1.05).repeat(2)
        return packed, state

    patch.wrap(functional, "quantize_4bit", around)


@quantized_load.fault(
    "the config comes back as dicts, and says 8 bits", catches=("config classes", "quantization config")
)
def config_lost(patch: Patch) -> None:
    """What was asked for is not what the model remembers."""
    from transformers import PreTrainedModel

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        if hasattr(model.config, "quantization_config"):
            model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
        return model

    patch.wrap(PreTrainedModel, "from_pretrained", around)
