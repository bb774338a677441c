"""A quantized model that is prepared for training and given an adapter stays quantized, and only the adapter trains.

Why: the order of three library calls decides what trains. A preparation that runs late freezes the adapter, one that is
left out leaves norms in 16 bits; a config that is lost on the way makes the trainer treat the model as a plain one.
The run ends normally, with a flat loss or with an adapter that cannot be loaded.

Cure: call `prepare_model_for_kbit_training` once, before `get_peft_model` (or leave both to SFTTrainer by passing
`peft_config`), and pass `gradient_checkpointing_kwargs` to it and not to the trainer alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import configs, layers
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ADAPTER = ("lora_", "modules_to_save")
"""What the names of an adapter's weights contain."""


@probe(
    area="loading",
    needs=("torch", "transformers", "accelerate", "bitsandbytes", "peft"),
    axes=("family", "quantization", "dtype", "adapter", "checkpointing", "device"),
    only={"quantization": ("nf4", "fp4", "int8"), "adapter": ("lora", "lora_head")},
)
def kbit_prepare(bench: Bench, check: Check) -> None:
    """Load, prepare, add the adapter; look at configs and weights after each, then take one gradient."""
    import peft

    if configs.is_quantized(bench.config()):
        check.skip("this model is quantized already; give the unquantized one to examine its preparation")
    prepare, wrap = peft.prepare_model_for_kbit_training, peft.get_peft_model
    model = bench.load()
    seen = {"loaded": configs.stage(model)}
    model = bench.prepare(model)
    seen["prepared"] = configs.stage(model)
    trained = {"prepared": _trainable(model)}
    narrow = {n: str(p.dtype) for n, p in model.named_parameters() if p.is_floating_point() and p.itemsize < 4}
    model = wrap(model, bench.adapter())
    seen["with adapter"] = configs.stage(model)
    trained["with adapter"] = [name for name in _trainable(model) if not _is_adapter(name)]

    wanted = configs.wanted_stage(bench, quantized=True)
    check.equal(
        "config classes",
        {stage: classes for stage, classes in seen.items() if classes != wanted},
        {},
        why=f"at each stage {wanted}",
        owner=prepare,
    )
    kept = getattr(model.config, "quantization_config", None)
    check.equal("quantization config", configs.changed(bench.quantization(), kept), {}, why="as given", owner=wrap)
    check.equal("quantization flags", _flags(model), _wanted_flags(bench), why="trainers decide by them", owner=wrap)
    check.equal("float32", narrow, {}, why="what is not quantized is cast to float32", owner=prepare)
    check.equal("trainable base", trained, {"prepared": [], "with adapter": []}, owner=prepare)
    check.equal("layers without adapter", _bare(model), [], why="target_modules='all-linear'", owner=wrap)
    check.equal(
        "adapter dtypes", _adapter_dtypes(model), ["torch.float32"], why="adapters train in float32", owner=wrap
    )
    check.equal(
        "adapters without gradient",
        _without_gradient(model, bench),
        [],
        why="after one backward pass; lora_A is left out, whose gradient is zero as long as lora_B is",
        owner=prepare,
    )


def _trainable(model: Any) -> list[str]:
    return [name for name, weight in model.named_parameters() if weight.requires_grad]


def _is_adapter(name: str) -> bool:
    return any(part in name for part in ADAPTER)


def _flags(model: Any) -> dict[str, bool]:
    names = ("is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit")
    return {name: bool(getattr(model, name, False)) for name in names}


def _wanted_flags(bench: Bench) -> dict[str, bool]:
    eight = bench.cell["quantization"] == "int8"
    return {"is_quantized": True, "is_loaded_in_4bit": not eight, "is_loaded_in_8bit": eight}


def _bare(model: Any) -> list[str]:
    """Return the quantized layers without an adapter; inside one they are its `base_layer`."""
    return [name for name in layers.quantized(model) if not name.endswith(".base_layer")]


def _adapter_dtypes(model: Any) -> list[str]:
    return sorted({str(weight.dtype) for name, weight in model.named_parameters() if _is_adapter(name)})


def _without_gradient(model: Any, bench: Bench) -> list[str]:
    import torch

    # Nothing was evaluated before: 4-bit layers on some CPUs pass no gradient after that (see train-after-eval).
    ids = torch.tensor([bench.tokenizer().encode(bench.text)], device=bench.device)
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    # An expert to which no token was routed rightly has no gradient.
    wanted = {n: w for n, w in model.named_parameters() if w.requires_grad and "lora_A" not in n and "experts" not in n}
    return [name for name, weight in wanted.items() if weight.grad is None or not weight.grad.any()]


def _after(patch: Patch, function: str, change: Any) -> None:
    """Have one of peft's functions return a model that `change` was applied to."""
    import peft

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        change(model)
        return model

    patch.wrap(peft, function, around)


def _norms(model: Any) -> list[Any]:
    return [module for name, module in model.named_modules() if name.endswith("norm")]


@kbit_prepare.fault("norms keep 16 bits and train", catches=("float32", "trainable base"))
def norms_left(patch: Patch) -> None:
    """A preparation that looks for norms under other names than this family's."""

    def change(model: Any) -> None:
        for norm in _norms(model):
            norm.bfloat16().requires_grad_(True)

    _after(patch, "prepare_model_for_kbit_training", change)


@kbit_prepare.fault("the preparation loses the quantization config", catches=("config classes", "quantization config"))
def config_lost(patch: Patch) -> None:
    """The model is quantized, and its config does not say so."""
    _after(patch, "prepare_model_for_kbit_training", lambda model: delattr(model.config, "quantization_config"))


@kbit_prepare.fault(
    "the adapter comes in bfloat16, and the model no longer says that it is quantized",
    catches=("adapter dtypes", "quantization flags"),
)
def adapter_in_bfloat16(patch: Patch) -> None:
    """Updates smaller than 1/256 of a weight are lost."""
    import torch

    def change(model: Any) -> None:
        for name, weight in model.named_parameters():
            if _is_adapter(name):
                weight.data = weight.data.to(torch.bfloat16)
        model.get_base_model().is_loaded_in_4bit = False

    _after(patch, "get_peft_model", change)


@kbit_prepare.fault("half of the layers get no adapter", catches=("layers without adapter",))
def layers_without_adapter(patch: Patch) -> None:
    """`all-linear` does not find the layers of bitsandbytes."""
    import peft

    def around(original: Any, model: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
        config.target_modules = {"q_proj", "v_proj"}
        return original(model, config, *args, **kwargs)

    patch.wrap(peft, "get_peft_model", around)


@kbit_prepare.fault("quantized products pass no gradient", catches=("adapters without gradient",))
def gradient_cut(patch: Patch) -> None:
    """A kernel that is left out of the graph of gradients."""
    from bitsandbytes.nn import Linear4bit

    patch.wrap(Linear4bit, "forward", lambda original, *args: original(*args).detach())
