"""A saved config loads back as its family's own class, with the same values; sub-configs and generation config too.

Why: code that receives a plain dict dies with `'dict' object has no attribute 'model_type'`, usually in a function that
has nothing to do with configs. A config of another class loads as well, and its defaults then replace values that
the checkpoint was trained with: the model runs and its answers are poor.

Cure: install another release of transformers than the culprit; a config that loads with changed values must be
saved again by the release that reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import configs
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

NOT_VALUES = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
"""What saving itself writes or leaves out."""


@probe(
    area="loading",
    needs=("torch", "transformers"),
    axes=("family",),
    references=("huggingface/transformers#42374",),
)
def config_load(bench: Bench, check: Check) -> None:
    """Save and load the family's config, the composite one that holds it, and the generation config."""
    from transformers import AutoConfig, GenerationConfig

    config = bench.config()
    loaded = _reload(bench, config)
    check.equal("config class", type(loaded).__name__, configs.family_class(bench), owner=AutoConfig.from_pretrained)
    check.equal("config values", configs.changed(config, loaded, without=NOT_VALUES), {}, owner=type(config).from_dict)

    whole = _composite(bench, config)
    whole_loaded = _reload(bench, whole)
    check.equal(
        "sub-config classes",
        configs.sub_classes(whole_loaded),
        configs.declared_sub_classes(whole),
        why=f"what {type(whole).__name__} declares",
        owner=type(whole),
    )
    written = GenerationConfig.from_model_config(config)
    read = GenerationConfig.from_pretrained(bench.save(written))
    check.equal("generation config class", type(read).__name__, "GenerationConfig")
    check.equal("generation tokens", _tokens(read), _tokens(written), owner=GenerationConfig.from_pretrained)


def _reload(bench: Bench, config: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(bench.save(config), trust_remote_code=bench.settings.trust_remote_code)


def _composite(bench: Bench, config: Any) -> Any:
    """Return a config with sub-configs that holds the family's own, where the family has one."""
    import transformers

    if not bench.family.composite:
        return config
    return getattr(transformers, bench.family.composite)(text_config=config.to_dict())


def _tokens(config: Any) -> dict[str, Any]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {n: config.get(n) if isinstance(config, dict) else getattr(config, n, None) for n in names}


@config_load.fault("the config arrives as a dict", catches=("config class",))
def plain_dict(patch: Patch) -> None:
    """The loader hands out what it read, before it was made an object."""
    from transformers import AutoConfig

    patch.wrap(AutoConfig, "from_pretrained", lambda original, *a, **k: original(*a, **k).to_dict())


@config_load.fault("a value gets the default of its class", catches=("config values",))
def default_value(patch: Patch) -> None:
    """A field that was renamed between two releases is no longer read."""
    from transformers import PretrainedConfig

    def around(original: Any, cls: Any, values: dict[str, Any], **kwargs: Any) -> Any:
        kept = {name: value for name, value in values.items() if name != "num_key_value_heads"}
        return original(cls, kept, **kwargs)

    patch.wrap(PretrainedConfig, "from_dict", around)


@config_load.fault("sub-configs stay dicts", catches=("sub-config classes",), cell={"family": "gemma3"})
def sub_configs_stay_dicts(patch: Patch) -> None:
    """The loader builds the outer object only."""
    from transformers import AutoConfig

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        config = original(*args, **kwargs)
        for name in configs.sub_classes(config):
            object.__setattr__(config, name, getattr(config, name).to_dict())
        return config

    patch.wrap(AutoConfig, "from_pretrained", around)


@config_load.fault(
    "the generation config is read as a dict, without its tokens",
    catches=("generation config class", "generation tokens"),
)
def generation_config_dict(patch: Patch) -> None:
    """Generation would then never stop."""
    from transformers import GenerationConfig

    patch.wrap(GenerationConfig, "from_pretrained", lambda original, *a, **k: {"eos_token_id": None})
