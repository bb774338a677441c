"""An adapter that is saved and loaded onto a fresh base model gives the same logits, and can be trained further.

Why: an adapter whose names do not match the base is loaded with a warning and stays at its initial value, which changes
nothing: the "fine-tuned" model answers as the base does. An adapter that is loaded without `is_trainable=True` is
frozen, and a continued training runs to its end with a flat loss.

Cure: load with the class and the release that saved (`PeftModel.from_pretrained(base, folder)`), onto the same base
with the same quantization; pass `is_trainable=True` to train on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import configs, layers, precision
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

STEP = 0.05
"""Standard deviation of the change that stands for training: enough to be seen in every logit."""


@probe(
    area="loading",
    needs=("torch", "transformers", "peft"),
    axes=("family", "quantization", "adapter", "dtype", "device"),
    only={"adapter": ("lora", "lora_head")},
)
def adapter_reload(bench: Bench, check: Check) -> None:
    """Change the adapter as training would, save it, load it onto a base from disk, and compare."""
    from peft import PeftModel, get_peft_model

    owner = PeftModel.from_pretrained
    model = get_peft_model(bench.load(), bench.adapter())
    saved = _train(model)
    folder = bench.save(model)
    loaded = PeftModel.from_pretrained(bench.load(), folder)
    weights = dict(loaded.named_parameters())
    check.equal("config classes", _classes(loaded), _wanted_classes(bench), owner=owner)
    check.equal(
        "adapter weights",
        [name for name, weight in saved.items() if name not in weights or not _same(weights[name], weight)],
        [],
        why="saving and loading is exact to the bit",
        owner=owner,
    )
    check.equal("trainable when loaded", _trainable(loaded), [], why="is_trainable is False by default", owner=owner)
    check.at_most(
        "logits",
        precision.relative_error(_logits(loaded, bench), _logits(model, bench)),
        precision.model_error(model.config.get_text_config().num_hidden_layers, bench.dtype),
        why="relative error of two runs of the same computation in this dtype: 16 roundings a layer, "
        "independent of each other",
        owner=owner,
    )
    again = PeftModel.from_pretrained(bench.load(), folder, is_trainable=True)
    check.equal(
        "trainable when asked for",
        sorted(saved.keys() ^ set(_trainable(again))),
        [],
        why="is_trainable=True makes exactly the weights trainable that were trained",
        owner=owner,
    )


def _train(model: Any) -> dict[str, Any]:
    """Move every trainable weight away from its initial value; return the weights by name."""
    import torch

    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for weight in trained.values():
        weight.data += STEP * torch.randn(weight.shape).to(weight.device, weight.dtype)
    model.eval()
    return trained


def _trainable(model: Any) -> list[str]:
    return [name for name, weight in model.named_parameters() if weight.requires_grad]


def _same(left: Any, right: Any) -> bool:
    import torch

    return bool(left.dtype == right.dtype and torch.equal(left, right))


def _classes(model: Any) -> dict[str, str]:
    return {**configs.stage(model), "adapter": type(model.active_peft_config).__name__}


def _wanted_classes(bench: Bench) -> dict[str, str]:
    quantized = bench.cell["quantization"] != "none" or configs.is_quantized(bench.config())
    return {**configs.wanted_stage(bench, quantized), "adapter": "LoraConfig"}


def _logits(model: Any, bench: Bench) -> Any:
    if bench.cell["quantization"] != "none":
        layers.as_in_training(model)
    return bench.logits(model)


@adapter_reload.fault("the weights in the file are not found", catches=("adapter weights", "logits"))
def weights_not_found(patch: Patch) -> None:
    """Their names have another prefix than the model's."""
    from peft import peft_model

    def around(original: Any, model: Any, weights: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        renamed = {f"module.{name}": weight for name, weight in weights.items()}
        return original(model, renamed, *args, **kwargs)

    patch.wrap(peft_model, "set_peft_model_state_dict", around)


@adapter_reload.fault("is_trainable is ignored", catches=("trainable when asked for",))
def never_trainable(patch: Patch) -> None:
    """The adapter stays frozen whatever is asked for."""
    from peft import PeftModel

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "is_trainable": False})

    patch.wrap(PeftModel, "from_pretrained", around)


@adapter_reload.fault(
    "the loaded adapter trains though nobody asked for it, and its config is a dict",
    catches=("trainable when loaded", "config classes"),
)
def always_trainable(patch: Patch) -> None:
    """What should serve is changed by the next optimizer, and what describes it is a plain dict."""
    from peft import PeftModel

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        model = original(*args, **{**kwargs, "is_trainable": True})
        model.get_base_model().generation_config = model.generation_config.to_dict()
        return model

    patch.wrap(PeftModel, "from_pretrained", around)
