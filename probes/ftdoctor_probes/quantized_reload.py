"""A quantized model that is saved loads back quantized as it was, with the same weights and logits.

Why: a quantized checkpoint holds packed weights, scales and a config that says how to read them. What is lost of it is
filled in silently: weights are quantized a second time, scales take their initial value, or the compute dtype
falls back to float32, and the model answers a little worse or a lot slower than the one that was saved.

Cure: save the adapter and quantize the base anew when loading; or install another release of the culprit.
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
)
def quantized_reload(bench: Bench, check: Check) -> None:
    """Save the quantized model, load it without saying how it is quantized, and compare."""
    import torch
    from transformers import PreTrainedModel

    owner = PreTrainedModel.from_pretrained
    model = bench.load()
    before = {name: precision.dequantized(module) for name, module in layers.quantized(model).items()}
    loaded = bench.load(bench.save(model), quantization="none", device_map={"": bench.device})
    after = {name: precision.dequantized(module) for name, module in layers.quantized(loaded).items()}
    check.equal("config classes", configs.stage(loaded), configs.wanted_stage(bench, quantized=True), owner=owner)
    kept = getattr(loaded.config, "quantization_config", None)
    check.equal("quantization config", configs.changed(model.config.quantization_config, kept), {}, owner=owner)
    check.equal("quantized layers", sorted(before.keys() ^ after.keys()), [], owner=owner)
    check.equal(
        "weights",
        [name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])],
        [],
        why="packed weights and scales are saved, so nothing is rounded again",
        owner=owner,
    )
    check.at_most(
        "logits",
        precision.relative_error(_logits(loaded, bench), _logits(model, bench)),
        precision.model_error(model.config.get_text_config().num_hidden_layers, bench.dtype),
        why="relative error of two runs of the same computation in this dtype: 16 roundings a layer, "
        "independent of each other",
        owner=owner,
    )


def _logits(model: Any, bench: Bench) -> Any:
    layers.as_in_training(model)
    return bench.logits(model)


def _loaded_quantized(patch: Patch, change: Any) -> None:
    """Apply `change` to every quantized model that is loaded from a quantized checkpoint."""
    from transformers import PreTrainedModel

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        if kwargs.get("quantization_config") is None:
            change(model)
        return model

    patch.wrap(PreTrainedModel, "from_pretrained", around)


@quantized_reload.fault("the scales of the first layer are not read", catches=("weights", "logits"))
def scales_lost(patch: Patch) -> None:
    """They keep the value that an empty layer has."""

    def change(model: Any) -> None:
        next(iter(layers.quantized(model).values())).weight.quant_state.absmax.fill_(1.0)

    _loaded_quantized(patch, change)


@quantized_reload.fault("the model comes back without quantization", catches=("quantized layers",))
def dequantized(patch: Patch) -> None:
    """Four times the memory, and nothing is said."""
    _loaded_quantized(patch, lambda model: model.dequantize())


@quantized_reload.fault("the compute dtype is not saved", catches=("quantization config",), cell={"dtype": "bfloat16"})
def compute_dtype_lost(patch: Patch) -> None:
    """float32 takes its place, which is slow."""
    import torch

    def change(model: Any) -> None:
        model.config.quantization_config.bnb_4bit_compute_dtype = torch.float32

    _loaded_quantized(patch, change)


@quantized_reload.fault("the quantization config comes back as a dict", catches=("config classes",))
def config_as_dict(patch: Patch) -> None:
    """What was read is never made an object."""

    def change(model: Any) -> None:
        model.config.quantization_config = model.config.quantization_config.to_dict()

    _loaded_quantized(patch, change)
