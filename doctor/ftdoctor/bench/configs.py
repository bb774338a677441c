"""What kind of object a config is: at every stage of a model's life it must be its family's own class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftdoctor.bench.bench import Bench


def family_class(bench: Bench) -> str:
    """Return the name of the config class that a model of the cell's family must have."""
    if bench.family.config_class:
        return bench.family.config_class
    from transformers import CONFIG_MAPPING

    # A user's model of a family that the matrix does not name; with remote code, of no family that anybody knows.
    known = bench.family.name in CONFIG_MAPPING
    return str(CONFIG_MAPPING[bench.family.name].__name__ if known else type(bench.config()).__name__)


def sub_classes(config: Any) -> dict[str, str]:
    """Return the class names of the sub-configs that a config class declares."""
    names = getattr(type(config), "sub_configs", None) or {}
    return {name: type(getattr(config, name, None)).__name__ for name in names}


def declared_sub_classes(config: Any) -> dict[str, str]:
    """Return the class names that the sub-configs must have, as the config class declares them.

    Where it leaves the choice to `AutoConfig`, any config class will do.
    """
    from transformers import AutoConfig, PretrainedConfig

    wanted = {}
    for name, declared in (getattr(type(config), "sub_configs", None) or {}).items():
        found = getattr(config, name, None)
        chosen = type(found).__name__ if isinstance(found, PretrainedConfig) else "a config class"
        wanted[name] = chosen if declared is AutoConfig else declared.__name__
    return wanted


def stage(model: Any) -> dict[str, str]:
    """Return the class names of a model's configs, sub-configs and quantization config included."""
    config = model.config
    kinds = {"config": config, "generation_config": model.generation_config}
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        kinds["quantization_config"] = quantization
    return {**{name: type(kind).__name__ for name, kind in kinds.items()}, **sub_classes(config)}


def wanted_stage(bench: Bench, quantized: bool) -> dict[str, str]:
    """Return what `stage` must return for a model of the cell, quantized or not."""
    wanted = {"config": family_class(bench), "generation_config": "GenerationConfig"}
    if quantized:
        wanted["quantization_config"] = "BitsAndBytesConfig"
    return {**wanted, **declared_sub_classes(bench.config())}


def settings(config: Any) -> dict[str, Any]:
    """Return the values of a config of any kind, or of the dict or None that stands in its place."""
    if config is None:
        return {}
    return dict(config if isinstance(config, dict) else config.to_dict())


def changed(before: Any, after: Any, without: tuple[str, ...] = ()) -> dict[str, tuple[Any, Any]]:
    """Return the values of a config that are not what they were: name to the old and the new value."""
    old, new = settings(before), settings(after)
    return {name: (old[name], new.get(name)) for name in old if name not in without and old[name] != new.get(name)}


def is_quantized(config: Any) -> bool:
    """Say whether a checkpoint's config says that its weights are quantized already."""
    return getattr(config, "quantization_config", None) is not None
