"""A checkpoint that does not load is reported by the stage that failed, and no other quantization is tried for it.

Why: a tokenizer that one release could not load was taken for a fault of 4-bit quantization for days; fallbacks to
8 bits and to none, and a property planted on the model's class, cured nothing. Most loaders catch everything in one
`try`, so that whatever fails looks like whatever was asked for last.

Cure: `ftdoctor.training.load_for_training`: its error names the stage, the library's line and the way out, and only a
failure of quantization, of its preparation or of memory moves down the ladder that the caller wrote.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from pathlib import Path

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

LADDER = ("nf4", "int8", "none")
BROKEN = ("config", "tokenizer", "model", "adapter")
"""What is broken, one at a time; its name is the stage that must be named."""


@probe(
    area="components",
    needs=("transformers", "accelerate", "bitsandbytes", "peft"),
    axes=("family", "device"),
    references=("huggingface/transformers#42374",),
)
def failing_stage(bench: Bench, check: Check) -> None:
    """Break config, tokenizer, weights and adapter of a checkpoint in turn, and ask each loader what is wrong."""
    from ftdoctor.training import load_for_training
    from ftdoctor.training.loader import Tried

    if bench.settings.model:
        check.skip("the files of your own model are not broken for a test; leave out --model")
    healthy = bench.checkpoint()
    named, naive, library, moves = [], [], [], 0
    for part in BROKEN:
        folder = _broken(healthy, bench.new_folder(part) / "model", part)
        adapter = _adapter("no_such_projection" if part == "adapter" else "q_proj", bench)
        error = attempt(partial(load_for_training, folder, quantization=LADDER, adapter=adapter, device=bench.device))
        named.append(getattr(error, "stage", "none"))
        moves += str(error).count("before that")
        naive.append(_told(attempt(partial(_naive, folder, adapter)), part))
        library.append(_told(attempt(partial(_library, folder, adapter)), part))
    check.equal(
        "stage named",
        named,
        list(BROKEN),
        beside={"naive": naive, "library": library},
        owner=load_for_training,
    )
    check.equal("failures that moved down the ladder", moves, 0, owner=Tried)


def _broken(healthy: Path, folder: Path, part: str) -> Path:
    """Copy a checkpoint and break one part of it."""
    shutil.copytree(healthy, folder)
    if part == "config":
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, "model_type": "no-such-type"}))
    elif part == "tokenizer":
        (folder / "tokenizer.json").write_text("{")
    elif part == "model":
        (folder / "model.safetensors").write_bytes(b"no weights")
    return folder


def _adapter(target: str, bench: Bench) -> Any:
    from peft import LoraConfig

    found = target if bench.cell["family"] != "phi3" or target.startswith("no") else "qkv_proj"
    return LoraConfig(target_modules=[found], task_type="CAUSAL_LM")


def _told(error: Any, part: str) -> str:
    """Return the part if the exception names it, by its class or in its words."""
    words = {"config": "model_type", "tokenizer": "tokenizer", "model": "safetensors", "adapter": "target modules"}
    return part if words[part] in f"{type(error).__name__}: {error}".lower() else "unnamed"


def _naive(folder: Path, adapter: Any) -> Any:
    """Load as the loader of the bug report does: one `try` a quantization, the last error told."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    last: Exception | None = None
    for more in (BitsAndBytesConfig(load_in_4bit=True), BitsAndBytesConfig(load_in_8bit=True), None):
        try:
            AutoTokenizer.from_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=more)
            return get_peft_model(model, adapter)
        except Exception as error:  # noqa: BLE001 - this is what is measured
            last = error
    raise RuntimeError(f"Failed to load model from {folder.name}, with 4-bit, 8-bit and no quantization: {last}")


def _library(folder: Path, adapter: Any) -> Any:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(folder)
    return get_peft_model(AutoModelForCausalLM.from_pretrained(folder), adapter)


@failing_stage.fault("all stages share one name", catches=("stage named",))
def one_name(patch: Patch) -> None:
    """Whatever fails is told as a failure of quantization, as the bug report had it."""
    from ftdoctor.training import stages

    def around(original: Any, stage: str, *args: Any) -> Any:
        return original("quantization", *args)

    patch.wrap(stages, "failed", around)


@failing_stage.fault("every failure moves down the ladder", catches=("failures that moved down the ladder",))
def all_move(patch: Patch) -> None:
    """Other quantizations are tried for what they cannot cure."""
    from ftdoctor.training import loader

    patch.replace(loader, "_cures", lambda error, rung, other: True)
