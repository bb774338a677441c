"""Load a model for training in separate stages, each named in its error, and only in ways that were asked for.

A failure is reported by the stage in which it happened: a tokenizer that does not load is never taken for a fault
of quantization. The ladder of quantizations is the caller's; a failure moves down it only where another rung can
cure it.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ftdoctor import machine
from ftdoctor.errors import LoadError
from ftdoctor.training import adapters, memory, stages
from ftdoctor.wording import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STACK = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers")
DTYPES = ("auto", "float32", "bfloat16", "float16")
log = logging.getLogger("ftdoctor.training")


@dataclass(frozen=True)
class Tried:
    """A rung of the ladder that was not taken."""

    quantization: str
    stage: str
    reason: str


@dataclass(frozen=True)
class LoadRecord:
    """What happened while a model was loaded."""

    source: str
    versions: Mapping[str, str]
    quantization: str
    """The rung that was taken: `nf4`, `fp4`, `int8` or `none`."""
    dtype: str
    attention: str
    device: str
    needed: int
    """Bytes that the weights were expected to need."""
    free: int
    """Bytes that were free before loading, 0 where the system did not say."""
    parameters: int
    trainable: int
    tried: tuple[Tried, ...] = ()
    notes: tuple[str, ...] = ()
    """What was mended on the way, in sentences."""

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {self.quantization} quantization, {self.dtype}, {self.attention} attention, {self.device}",
            f"{self.trainable:,} of {self.parameters:,} parameters are trained",
            f"weights need {memory.size(self.needed)}"
            + (f", {memory.size(self.free)} were free" if self.free else ", the system does not say what was free"),
            *(f"not {t.quantization}: {t.reason} (stage {t.stage})" for t in self.tried),
            *self.notes,
        ]
        return "\n".join(lines)


class Loaded(NamedTuple):
    """A model ready to train, its tokenizer, and the record of how it came about."""

    model: Any
    tokenizer: Any
    record: LoadRecord


def load_for_training(
    path_or_id: str | Path,
    *,
    quantization: Sequence[str] = ("nf4",),
    dtype: Any = "auto",
    attention: str = "",
    adapter: Any = None,
    device: str = "",
    checkpointing: bool = False,
    config: Any = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Loaded:
    """Load a causal language model and its tokenizer, ready to be trained.

    The model comes back in training mode. What is trained is in float32, whatever the frozen weights are in; 4-bit
    layers keep their backward on every CPU; the tokenizer's ids fit into the embeddings.

    Args:
        path_or_id: folder of a checkpoint, or an id on the hub (which is asked only if the libraries may go online).
        quantization: the ways in which linear layers may be stored, tried in this order: `nf4`, `fp4`, `int8`,
            `none`. Nothing else is tried, and only after a failure that another rung can cure.
        dtype: torch dtype of the weights that are not quantized, and in which quantized layers compute, or its
            name; `auto` takes the checkpoint's own for frozen weights, and float32 where all weights are trained.
        attention: attention implementation; the library's default where empty.
        adapter: a peft config, or None to train all weights.
        device: torch device; a GPU where there is one, if empty.
        checkpointing: whether gradient checkpointing (the kind without reentrance) is switched on.
        config: a config object or its dict, instead of the checkpoint's own.
        seed: of the adapter's first values; the caller's random state is left as it was.
        trust_remote_code: whether the checkpoint's own code may run.

    Raises:
        LoadError: a stage failed; its `stage` says which, its message where and what to do.
    """
    import torch

    _refuse_arguments(quantization, dtype)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    attempt = stages.Attempt(str(path_or_id), device, trust_remote_code)
    _log_versions()
    config = stages.config_stage(attempt, config)
    tokenizer = stages.tokenizer_stage(attempt, config)
    stages.refuse_contradiction(attempt, config, quantization, adapter)
    tried: list[Tried] = []
    for rung in quantization:
        try:
            loaded = _rung(attempt, rung, config, tokenizer, dtype, attention, adapter, checkpointing, seed)
            loaded = loaded._replace(record=replace(loaded.record, tried=tuple(tried)))
            log.info("%s", loaded.record)
            return loaded
        except LoadError as error:
            later = quantization[list(quantization).index(rung) + 1 :]
            curable = [r for r in later if _cures(error, rung, r)]
            if not curable:
                raise _told(error, tried) from error.__cause__
            tried.append(Tried(rung, error.stage, str(error)))
            log.warning("not %s: %s", rung, error)
            memory.release()  # what this rung has allocated
    raise AssertionError("the last rung either returns or raises")


def load_tokenizer(path_or_id: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer alone, as `load_for_training` does: data can be encoded before a large model is loaded.

    Raises:
        LoadError: the config or the tokenizer failed.
    """
    attempt = stages.Attempt(str(path_or_id), "cpu", trust_remote_code)
    return stages.tokenizer_stage(attempt, stages.config_stage(attempt, None))


def _refuse_arguments(quantization: Sequence[str], dtype: Any) -> None:
    rungs = [quantization] if isinstance(quantization, str) else list(quantization)
    for rung in rungs:
        if rung not in memory.RUNGS:
            known = ", ".join(memory.RUNGS)
            raise LoadError(f"There is no quantization {rung!r}{nearest(rung, memory.RUNGS)}; there are {known}.")
    if isinstance(quantization, str) or not rungs or len(set(rungs)) < len(rungs):
        raise LoadError(f"quantization={quantization!r} is not a ladder; write it like ('nf4', 'int8', 'none').")
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise LoadError(f"There is no dtype {dtype!r}{nearest(dtype, DTYPES)}; there are {', '.join(DTYPES)}.")


@functools.cache
def _log_versions() -> dict[str, str]:
    """Log the versions of the stack, once a process."""
    versions = machine.stack(STACK)
    log.info("%s", ", ".join(f"{name} {version}" for name, version in versions.items()))
    return versions


def _rung(
    attempt: stages.Attempt,
    rung: str,
    config: Any,
    tokenizer: Any,
    dtype: Any,
    attention: str,
    adapter: Any,
    checkpointing: bool,
    seed: int,
) -> Loaded:
    """Load with one quantization: memory, model, preparation, adapter."""

    chosen = stages.weight_dtype(attempt, dtype, config, adapter)
    needed, free = stages.memory_stage(attempt, rung, config, chosen)
    model = stages.model_stage(attempt, rung, config, chosen, attention)
    notes = list(attempt.notes)
    if rung != "none":
        with stages.named("preparation", attempt, "the model was loaded and quantized; peft could not prepare it"):
            model = adapters.prepare_quantized(model, checkpointing, notes)
    elif checkpointing:
        adapters.enable_checkpointing(model)
    if adapter is not None:
        with stages.named("adapter", attempt, "look at the adapter's settings"):
            model = adapters.add(model, adapter, seed, notes)
    if isinstance(getattr(model, "config", None), dict):
        raise LoadError(f"The config of the loaded {type(model).__name__} is a dict, not a config object.", "model")
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    record = LoadRecord(
        source=attempt.source,
        versions=_log_versions(),
        quantization=rung,
        dtype=str(chosen).removeprefix("torch."),
        attention=str(getattr(model.config, "_attn_implementation", "")),
        device=attempt.device,
        needed=needed,
        free=free,
        parameters=sum(_size(p) for p in model.parameters()),
        trainable=sum(p.numel() for p in trained),
        notes=tuple(notes),
    )
    return Loaded(model, tokenizer, record)


def _size(parameter: Any) -> int:
    """Return the number of weights, as many as a packed 4-bit parameter stands for."""
    state = getattr(parameter, "quant_state", None)
    shape = getattr(state, "shape", None)
    return int(functools.reduce(lambda a, b: a * b, shape, 1)) if shape is not None else int(parameter.numel())


def _cures(error: LoadError, rung: str, other: str) -> bool:
    """Say whether another rung can do what this one could not."""
    if error.stage == "memory":
        return memory.RUNGS.index(other) < memory.RUNGS.index(rung) and memory.BITS.get(other, 32) < memory.BITS.get(
            rung, 32
        )
    return error.stage in ("quantization", "preparation")


def _told(error: LoadError, tried: Sequence[Tried]) -> LoadError:
    """Add the rungs that were tried before to the error of the last one."""
    if not tried:
        return error
    before = "; ".join(f"{t.quantization}: {t.reason.rstrip('.')}" for t in tried)
    return LoadError(f"{str(error).rstrip('.')} (before that, {before}).", error.stage)
