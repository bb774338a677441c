"""Tiny models of real families, each from its own config class; or the user's own model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import ModelError
from ftdoctor_matrix import Family, families

if TYPE_CHECKING:
    from pathlib import Path


def config(family: Family, tokens: int, tokenizer: Any) -> Any:
    """Return the family's own config object for a model of two layers with `tokens` embeddings."""
    import transformers

    return getattr(transformers, family.config_class)(
        vocab_size=tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **family.config,
    )


def build(family: Family, built_config: Any, seed: int) -> Any:
    """Return a model of the family with random float32 weights on the CPU."""
    import torch
    import transformers

    torch.manual_seed(seed)
    return getattr(transformers, family.model_class)(built_config).float().eval()


def user_family(folder: Path) -> Family:
    """Read the family of the user's model out of its config.json; unknown ones keep their architecture's name."""
    data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = (data.get("architectures") or [""])[0]
    for family in families().values():
        if family.model_class == architecture:
            return Family(family.name, family.config_class, architecture, family.template, {})
    return Family(str(data.get("model_type", "")), "", architecture, "chatml", {})


def refuse_unsafe(folder: Path, trust_remote_code: bool) -> None:
    """Check that a local folder holds a model that can be loaded without running its code.

    Raises:
        ModelError: with the way out in its sentence.
    """
    if not folder.is_dir():
        raise ModelError(
            f"--model {folder} is not a local folder; give a folder with config.json, "
            "or add --online for a model id on the hub."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give the folder that `save_pretrained` wrote.")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no *.safetensors weights, and pickled weights are never loaded; "
            "save the model again with save_pretrained."
        )
    data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "auto_map" in data and not trust_remote_code:
        raise ModelError(
            f"{folder} brings its own Python code (auto_map in config.json), which is not run; "
            "add --trust-remote-code if you trust it."
        )
