"""The stages in which a model is loaded, each with its own error: config, tokenizer, memory, model, quantization."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import tempfile
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import LoadError
from ftdoctor.training import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

QUANTIZERS = ("/bitsandbytes/", "/transformers/quantizers/", "/transformers/integrations/bitsandbytes")
"""Code in which a failure while loading is one of quantization, and of nothing else."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
log = logging.getLogger("ftdoctor.training")


@dataclass
class Attempt:
    """What is known so far: filled in stage by stage."""

    source: str
    device: str
    trust_remote_code: bool
    notes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def named(stage: str, attempt: Attempt, advice: str) -> Iterator[None]:
    """Name the stage, and the way out, in whatever is raised inside."""
    try:
        yield
    except LoadError:
        raise
    except Exception as error:
        raise failed(stage, attempt, error, advice) from error


def failed(stage: str, attempt: Attempt, error: BaseException, advice: str) -> LoadError:
    """Return the error of a stage: what was raised, on which line, and the way out."""
    text = str(error).strip().splitlines()
    what, line = f"{type(error).__name__}: {text[0] if text else 'no message'}", where(error)
    collected = _conversion_error(error)
    if collected:
        what, line = _last_of(collected)
    return LoadError(f"{attempt.source} failed at its {stage}: {what.rstrip('.')} ({line}); {advice}.", stage)


def _last_of(told: str) -> tuple[str, str]:
    """Return exception and line of a traceback that came as text."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', told)
    raised = re.findall(r"^(\w[\w.]*: .*)$", told, re.MULTILINE)
    line = f"{_in_library(frames[-1][0])}:{frames[-1][1]}" if frames else "unknown line"
    return (raised[0] if raised else told.splitlines()[0]), line


def where(error: BaseException) -> str:
    """Return the line that raised, by its path within its library."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "unknown line"
    return f"{_in_library(frames[-1].filename)}:{frames[-1].lineno}"


def _in_library(file: str) -> str:
    return file.replace("\\", "/").rsplit("/site-packages/", 1)[-1]


def config_stage(attempt: Attempt, given: Any) -> Any:
    """Return the config as an object of its own class, rebuilt where it came as a dict."""
    from transformers import AutoConfig, PretrainedConfig

    folder = Path(attempt.source)
    if not folder.exists() and not HUB_ID.fullmatch(attempt.source):
        raise LoadError(
            f"There is no folder {attempt.source}; name a checkpoint's folder or an id on the hub.", "config"
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise LoadError(
            f"{attempt.source} holds no config.json; name the folder into which `save_pretrained` wrote the model"
            + (", not its adapter's." if (folder / "adapter_config.json").is_file() else "."),
            "config",
        )
    config = given
    if config is None:
        remote = "there is no folder of that name, and the hub was not reached: fetch it first, or go online"
        with named("config", attempt, "mend or replace its config.json" if folder.exists() else remote):
            config = AutoConfig.from_pretrained(attempt.source, trust_remote_code=attempt.trust_remote_code)
    if isinstance(config, dict):
        config = _rebuilt(config, attempt)
    if not isinstance(config, PretrainedConfig):
        raise LoadError(f"The config of {attempt.source} is a {type(config).__name__}, not a config object.", "config")
    return config


def _rebuilt(values: Mapping[str, Any], attempt: Attempt) -> Any:
    from transformers import CONFIG_MAPPING

    kind = values.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise LoadError(
            f"The config of {attempt.source} is a dict with model_type {kind!r}, which transformers does not know.",
            "config",
        )
    attempt.notes.append(f"the config came as a dict and was rebuilt as {CONFIG_MAPPING[kind].__name__}")
    return CONFIG_MAPPING[kind].from_dict(dict(values))


def tokenizer_stage(attempt: Attempt, config: Any) -> Any:
    """Return the tokenizer, whose ids must fit into the embeddings; without a pad token it pads with its end."""
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    load = functools.partial(AutoTokenizer.from_pretrained, trust_remote_code=attempt.trust_remote_code)
    with named("tokenizer", attempt, "the model itself was not touched yet: look at the tokenizer's files and version"):
        try:
            tokenizer = load(attempt.source)
        except AttributeError as error:
            # transformers 4.57.2 reads config.json as a dict here and asks it for an attribute (#42374).
            if not Path(attempt.source).is_dir():
                raise
            tokenizer = _tokenizer_apart(Path(attempt.source), load)
            attempt.notes.append(
                f"the tokenizer was loaded from a copy without config.json, because {where(error)} failed: {error}"
            )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        kind = type(tokenizer).__name__
        raise LoadError(f"The tokenizer of {attempt.source} is a {kind}, not a tokenizer object.", "tokenizer")
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if rows is not None and len(tokenizer) > rows:
        raise LoadError(
            f"The tokenizer of {attempt.source} has {len(tokenizer)} tokens and the model embeddings for {rows}; load "
            "the model, call `resize_token_embeddings(len(tokenizer))`, save both, and train the new embeddings.",
            "tokenizer",
        )
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
        attempt.notes.append(
            "the tokenizer has no pad token and pads with its end-of-sequence token; mask pads by position"
        )
    return tokenizer


def _tokenizer_apart(folder: Path, load: Callable[..., Any]) -> Any:
    """Load a tokenizer from links to its files, without the model's config beside them."""
    with tempfile.TemporaryDirectory() as apart:
        for file in folder.iterdir():
            if file.is_file() and file.name != "config.json" and not file.name.endswith((".safetensors", ".bin")):
                (Path(apart) / file.name).symlink_to(file.resolve())
        tokenizer = load(apart, fix_mistral_regex=False)
    tokenizer.name_or_path = str(folder)
    return tokenizer


def refuse_contradiction(attempt: Attempt, config: Any, quantization: Sequence[str], adapter: Any) -> None:
    """Refuse what cannot be meant before anything large is read."""
    found = getattr(config, "quantization_config", None)
    if found is not None:
        kind = found if isinstance(found, dict) else found.to_dict()
        stored = (
            kind.get("bnb_4bit_quant_type") if kind.get("load_in_4bit") else "int8" if kind.get("load_in_8bit") else ""
        )
        if list(quantization) != [stored]:
            raise LoadError(
                f"{attempt.source} is quantized already ({stored or kind.get('quant_method', 'in another way')}), and "
                f"loading would ignore {', '.join(quantization)}; "
                + (f"ask for ({stored!r},) or " if stored else "")
                + "name the checkpoint that is not quantized.",
                "quantization",
            )
    if adapter is None and list(quantization) != ["none"]:
        raise LoadError(
            "Quantized weights cannot be trained; give an adapter (a peft LoraConfig), or quantization=('none',).",
            "adapter",
        )


def weight_dtype(attempt: Attempt, dtype: Any, config: Any, adapter: Any) -> Any:
    """Return the torch dtype of the weights that are not quantized."""
    import torch

    if isinstance(dtype, str) and dtype != "auto":
        dtype = getattr(torch, dtype)
    if dtype == "auto":
        stored = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None) or torch.float32
        stored = getattr(torch, stored) if isinstance(stored, str) else stored
        if adapter is not None:
            return stored
        if stored != torch.float32:
            attempt.notes.append(f"all weights are trained, so they are loaded in float32 instead of {stored}")
        return torch.float32
    if adapter is None and dtype == torch.float16:
        raise LoadError(
            "Weights in float16 cannot be trained: squares of gradients underflow in Adam; use dtype='float32'.",
            "model",
        )
    if adapter is None and dtype == torch.bfloat16:
        attempt.notes.append("all weights are trained in bfloat16: updates below 1/256 of a weight are lost")
    return dtype


def memory_stage(attempt: Attempt, rung: str, config: Any, dtype: Any) -> tuple[int, int]:
    """Compare what the weights will need with what is free, without loading any."""
    try:
        needed = memory.weight_bytes(config, rung, dtype) + (
            memory.largest_weight(config, dtype) if rung != "none" else 0
        )
    except Exception as error:  # noqa: BLE001 - remote code may not build without its weights; loading will tell
        log.info("the memory for %s could not be computed: %s", attempt.source, error)
        return 0, 0
    free = memory.free_memory(attempt.device)
    if free and needed > free:
        raise LoadError(
            f"{attempt.source} needs {memory.size(needed)} with {rung} quantization and {memory.size(free)} are free "
            f"on {attempt.device}; free some, or allow a smaller quantization.",
            "memory",
        )
    return needed, free


def model_stage(attempt: Attempt, rung: str, config: Any, dtype: Any, attention: str) -> Any:
    """Load the model, quantized or not, onto its device; tell a failure of quantization from one of the checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM

    more: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    if rung != "none" and getattr(config, "quantization_config", None) is None:
        more["quantization_config"] = _quantization_config(rung, dtype)
    if rung != "none":
        more["device_map"] = {"": attempt.device}
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = AutoModelForCausalLM.from_pretrained(
                attempt.source, config=config, dtype=dtype, trust_remote_code=attempt.trust_remote_code, **more
            )
            model = model if rung != "none" else model.to(attempt.device)
    except torch.OutOfMemoryError as error:
        raise LoadError(
            f"{attempt.source} did not fit into {attempt.device} with {rung} quantization: {error}", "memory"
        ) from error
    except Exception as error:
        stage = "quantization" if rung != "none" and _of_quantization(error) else "model"
        raise failed(stage, attempt, error, _ADVICE[stage]) from error
    for warning in said:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return model


_ADVICE = {
    "quantization": "config and tokenizer are sound; look at bitsandbytes and its backend, or allow another one",
    "model": "config and tokenizer are sound; look at the checkpoint's weight files",
}


def _quantization_config(rung: str, dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    if rung == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=rung, bnb_4bit_compute_dtype=dtype)


def _of_quantization(error: BaseException) -> bool:
    """Say whether an exception was raised within the code that quantizes."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    told = _conversion_error(error)
    return any(part in text.replace("\\", "/") for text in (*files, told) for part in QUANTIZERS)


def _conversion_error(error: BaseException) -> str:
    """Return the first traceback that transformers 5 has collected while converting weights, or nothing.

    It raises an exception that names none of them, at the end; they hang in the frames that it passed through.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        found = getattr(frame.f_locals.get("loading_info"), "conversion_errors", None)
        if found:
            return str(next(iter(found.values())))
    return ""
