"""A model loads from disk with exactly the weights that were saved, in the dtype and with the attention asked for.

Why: a weight that the loader does not find is newly initialised, with a warning among many; a dtype that is not
honoured doubles the memory or makes training useless (updates too small for bfloat16 are lost); untied weights train
apart. All of it runs, and only the answers are worse.

Cure: look for "newly initialized" and "not used" in the warnings of `from_pretrained`, and pass `dtype` and
`attn_implementation` by name; where the culprit is a release of transformers, install another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import configs, precision
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch


@probe(area="loading", needs=("torch", "transformers"), axes=("family", "dtype", "attention", "device"))
def model_load(bench: Bench, check: Check) -> None:
    """Load, and compare with the model that was saved, cast to the same dtype."""
    from transformers import PreTrainedModel

    if configs.is_quantized(bench.config()):
        check.skip("this model is quantized already; give the unquantized one to examine its loading")
    owner = PreTrainedModel.from_pretrained
    saved, loaded = bench.model(), bench.load()
    check.equal("config classes", configs.stage(loaded), configs.wanted_stage(bench, quantized=False), owner=owner)
    check.equal("dtype", _other_dtype(loaded, bench.dtype), {}, why="the dtype asked for", owner=owner)
    check.equal("attention", loaded.config._attn_implementation, bench.cell["attention"], owner=owner)
    check.equal("tied weights", _is_tied(loaded), bool(saved.config.get_text_config().tie_word_embeddings), owner=owner)
    _cast(saved, bench.dtype)
    check.equal("weights", _differing(loaded, saved), [], why="a cast is exact to the bit", owner=owner)
    saved.set_attn_implementation(bench.cell["attention"])
    check.at_most(
        "logits",
        precision.relative_error(bench.logits(loaded), bench.logits(saved)),
        precision.model_error(saved.config.get_text_config().num_hidden_layers, bench.dtype),
        why="relative error of two runs of the same computation in this dtype: 16 roundings a layer, "
        "independent of each other",
        owner=type(loaded).forward,
    )


def _tensors(model: Any) -> dict[str, Any]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _is_frequency(name: str) -> bool:
    """Say whether a buffer holds rotary frequencies: float32 whatever the model's dtype, for positions are large."""
    return name.endswith("inv_freq")


def _cast(model: Any, dtype: Any) -> None:
    """Cast what `from_pretrained` promises to cast."""
    for name, tensor in _tensors(model).items():
        if tensor.is_floating_point() and not _is_frequency(name):
            tensor.data = tensor.data.to(dtype)


def _other_dtype(model: Any, dtype: Any) -> dict[str, str]:
    """Return the weights in another dtype, without those that the model class itself keeps in float32."""
    kept = [
        *(getattr(model, "_keep_in_fp32_modules", None) or ()),
        *(getattr(model, "_keep_in_fp32_modules_strict", None) or ()),
    ]
    return {
        name: str(weight.dtype)
        for name, weight in model.named_parameters()
        if weight.is_floating_point() and weight.dtype != dtype and not any(part in name for part in kept)
    }


def _is_tied(model: Any) -> bool:
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def _differing(loaded: Any, saved: Any) -> list[str]:
    """Return the names of weights and buffers that are not equal to the bit, or that only one of the two has."""
    import torch

    left, right = _tensors(loaded), _tensors(saved)
    same = {name for name in left.keys() & right.keys() if torch.equal(left[name], right[name].to(left[name].dtype))}
    rounded = {name for name in same if _is_frequency(name) and left[name].dtype != torch.float32}
    return sorted((left.keys() | right.keys()) - (same - rounded))


def _after_loading(patch: Patch, change: Any) -> None:
    """Have `from_pretrained` return a model that `change` was applied to."""
    from transformers import PreTrainedModel

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        change(model)
        return model

    patch.wrap(PreTrainedModel, "from_pretrained", around)


@model_load.fault("a weight is not found and newly initialised", catches=("weights", "logits"))
def newly_initialised(patch: Patch) -> None:
    """What happens when the name in the file is not the name in the model."""
    _after_loading(patch, lambda model: model.get_output_embeddings().weight.data.normal_(std=0.02))


@model_load.fault("rotary frequencies are rounded", catches=("weights",), cell={"dtype": "bfloat16"})
def frequencies_rounded(patch: Patch) -> None:
    """Buffers are cast with the weights, and positions beyond a few hundred blur."""

    def change(model: Any) -> None:
        model.model.rotary_emb.inv_freq.data = model.model.rotary_emb.inv_freq.data.to(model.dtype)

    _after_loading(patch, change)


@model_load.fault("dtype is ignored", catches=("dtype",), cell={"dtype": "bfloat16"})
def dtype_ignored(patch: Patch) -> None:
    """The weights come in the dtype of the file."""
    _after_loading(patch, lambda model: model.float())


@model_load.fault("the attention asked for is not used", catches=("attention",))
def attention_ignored(patch: Patch) -> None:
    """A fallback that is not announced."""
    _after_loading(patch, lambda model: model.set_attn_implementation("eager"))


@model_load.fault("tied weights come apart", catches=("tied weights",), cell={"family": "qwen3"})
def untied(patch: Patch) -> None:
    """The head is loaded as a weight of its own."""
    import torch

    def change(model: Any) -> None:
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())

    _after_loading(patch, change)


@model_load.fault("a weight stays on meta", catches=("raises NotImplementedError",))
def left_on_meta(patch: Patch) -> None:
    """A weight that nobody filled."""
    _after_loading(patch, lambda model: model.get_input_embeddings().to("meta"))


@model_load.fault("the generation config is a dict", catches=("config classes",))
def generation_config_dict(patch: Patch) -> None:
    """The model carries what was read, before it was made an object."""

    def change(model: Any) -> None:
        model.generation_config = model.generation_config.to_dict()

    _after_loading(patch, change)
