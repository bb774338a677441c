"""The recipe: everything that decides what a training run does to its data, read from a TOML file and checked.

Beside it stands what is looked at while it trains, which decides nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ftdoctor.errors import ConfigError
from ftdoctor.wording import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

CHOICES: Mapping[str, tuple[str, ...]] = {
    "quantization": ("nf4", "fp4", "int8", "none"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "attention": ("", "sdpa", "eager", "flash_attention_2"),
    "contents": ("json", "refuse"),
    "turns": ("all", "last"),
    "too_long": ("drop", "keep_end", "error"),
    "scheduler": (
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ),
    "mixed_precision": ("auto", "none", "bf16", "fp16"),
}
"""The values that a setting may have (of a list: each of its entries), where they can be listed."""


class Bounds(NamedTuple):
    """From `low` on, or above it where `open`, and below `high`."""

    low: float
    open: bool = False
    high: float = math.inf

    def holds(self, value: float) -> bool:
        """Say whether a number lies within."""
        return (value > self.low if self.open else value >= self.low) and value < self.high

    def __str__(self) -> str:
        low = f"{'above' if self.open else 'at least'} {self.low:g}"
        return low if self.high == math.inf else f"{low} and below {self.high:.10g}"


RANGES: Mapping[str, Bounds] = {
    "max_length": Bounds(2),
    "batch_size": Bounds(1),
    "gradient_accumulation": Bounds(1),
    "epochs": Bounds(0, open=True),
    "max_steps": Bounds(0),
    "learning_rate": Bounds(0, open=True),
    "warmup_ratio": Bounds(0, high=1),
    "weight_decay": Bounds(0),
    "max_grad_norm": Bounds(0),
    "lora_rank": Bounds(1),
    "lora_alpha": Bounds(1),
    "lora_dropout": Bounds(0, high=1),
    "replay_share": Bounds(0, high=1),
    "nonfinite_limit": Bounds(0),
    "save_steps": Bounds(1),
    "log_steps": Bounds(1),
    "seed": Bounds(0, high=2**32),
}
"""The bounds of each number; a seed has those of NumPy's generator."""

PLAN_RANGES: Mapping[str, Bounds] = {"predict_every": Bounds(0), "predict_samples": Bounds(1)}
"""The bounds of each number of a `PredictionPlan`."""

OTHER_TABLES = ("inbox",)
"""Tables of a configuration file that speak of something else than the training."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run does; the data it is given stands beside it.

    A recipe is checked when it is made: no recipe exists whose names, types or ranges are wrong.

    Raises:
        ConfigError: a setting has a value that it cannot have.
    """

    model: str
    """Folder of the model that is trained, or its id on the hub."""
    quantization: tuple[str, ...] = ("none",)
    """How the linear layers are stored (nf4, fp4, int8, none), tried in this order."""
    dtype: str = "auto"
    """Dtype of the weights: float32, bfloat16, float16, or auto for the checkpoint's own."""
    attention: str = ""
    """Attention implementation (sdpa, eager, flash_attention_2); the library's default where empty."""
    system_prompt: str = ""
    """Put before conversations that have none; nothing is put there where it is empty."""
    contents: str = "json"
    """What becomes of contents that are not text: written as JSON, or refused."""
    turns: str = "all"
    """Which answers of a conversation are learned: all, or the last."""
    max_length: int = 1024
    """Longest example, in tokens."""
    too_long: str = "drop"
    """What becomes of a longer one: drop it, keep the end of its prompt (keep_end), or stop with an error."""
    packing: bool = False
    """Whether several short examples share a row, kept apart by position ids and mask."""
    batch_size: int = 2
    """Examples of a micro-batch, per device."""
    gradient_accumulation: int = 4
    """Micro-batches of an optimizer step."""
    epochs: float = 1.0
    """Passes over the data."""
    max_steps: int = 0
    """Optimizer steps after which training ends; 0: by `epochs`."""
    learning_rate: float = 2e-4
    """Highest learning rate, after the warm-up."""
    scheduler: str = "cosine"
    """How the learning rate falls, by the name that transformers gives it."""
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Norm to which gradients are clipped; 0: they are not."""
    lora_rank: int = 16
    """Rank of the adapter's matrices."""
    lora_alpha: int = 32
    """The adapter's output is scaled by `lora_alpha / lora_rank`."""
    lora_dropout: float = 0.05
    """Share of the adapter's inputs that is dropped in training."""
    target_modules: tuple[str, ...] = ("all-linear",)
    """Modules that get an adapter: the ends of their names, or all-linear."""
    lora_head: bool = False
    """Whether the language-model head is trained in full beside the adapter."""
    mixed_precision: str = "auto"
    """bf16, fp16, none, or auto for what the device is fastest with."""
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass rather than kept."""
    replay_share: float = 0.2
    """Share of earlier examples in everything that is trained on, where earlier files are given."""
    nonfinite_limit: int = 10
    """Batches of an epoch lost to NaN or infinity, after which training stops with an error."""
    save_steps: int = 50
    """Optimizer steps from one checkpoint to the next."""
    log_steps: int = 1
    """Optimizer steps from one line of the log to the next."""
    seed: int = 0
    """Seed of everything that is drawn: order, replay, dropout, the adapter's first values."""

    def __post_init__(self) -> None:
        _check(self, RANGES)

    @classmethod
    def of(cls, settings: Mapping[str, Any], source: str) -> Recipe:
        """Make a recipe out of a parsed table.

        Args:
            settings: name of a field to its value; lists may stand for tuples, whole numbers for fractions, and
                a text with commas for a list.
            source: what the settings come from, as errors name it: a file, or "the command line".

        Raises:
            ConfigError: a name is unknown or missing, or a value is one that its setting cannot have.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        refuse_unknown(settings, known, source)
        if "model" not in settings:
            raise ConfigError(f"{source}: the setting 'model' is missing; name the folder or the hub id of a model.")
        try:
            return cls(**settings)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON knows them; `Recipe.of` makes the same recipe of them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that are the same for equal recipes, on every machine and in every process."""
        text = json.dumps(self.as_dict(), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


@dataclass(frozen=True)
class PredictionPlan:
    """Which sample predictions a run makes; no part of its recipe, for it trains the same with them and without.

    Raises:
        ConfigError: a setting has a value that it cannot have.
    """

    predict_every: int = 0
    """Optimizer steps from one set of sample predictions to the next, written to predictions.db; 0: none."""
    predict_samples: int = 8
    """Rows that are predicted, the same ones every time, drawn by the seed."""
    predict_on: str = ""
    """JSON Lines file whose rows are predicted, best of rows held out; the dataset's own where empty."""

    def __post_init__(self) -> None:
        _check(self, PLAN_RANGES)

    @classmethod
    def of(cls, settings: Mapping[str, Any], source: str) -> PredictionPlan:
        """Make a plan out of settings; `source` is what errors name.

        Raises:
            ConfigError: a value is one that its setting cannot have, or no setting says how often to predict.
        """
        if settings and "predict_every" not in settings:
            raise ConfigError(
                f"{source}: {next(iter(settings))} is given without predict_every, which says after how many steps "
                "predictions are made; give that too, as with --predict-every 50."
            )
        try:
            return cls(**settings)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file; the table `[inbox]`, where it has one, is left to the inbox.

    A relative `model` that is a folder beside the file stands for that folder, from wherever it is read.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or says something that a recipe does not understand.
    """
    return Recipe.of(read_settings(path), str(path))


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, not yet checked, with `model` resolved as `read_recipe` says.

    Raises:
        ConfigError: the file cannot be read or is no TOML.
    """
    settings = {name: value for name, value in read_table(path).items() if name not in OTHER_TABLES}
    model = settings.get("model")
    if isinstance(model, str) and model and (path.parent / model).is_dir():
        settings["model"] = str((path.parent / model).resolve())
    return settings


def read_table(path: Path) -> dict[str, Any]:
    """Return a TOML file as a table.

    Raises:
        ConfigError: the file cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error


def refuse_unknown(given: Iterable[str], known: Iterable[str], source: str, prefix: str = "") -> None:
    """Raise a ConfigError for the first name that is not known, with the nearest one that is."""
    known = tuple(known)
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{source}: there is no setting {prefix + name!r}{nearest(name, known)}; there are {', '.join(known)}."
            )


def _check(made: Any, ranges: Mapping[str, Bounds]) -> None:
    """Give each field of a dataclass its type, and refuse what is out of bounds."""
    for field in dataclasses.fields(made):
        value = _typed(field, getattr(made, field.name))
        _refuse_out_of_bounds(field.name, value, ranges)
        object.__setattr__(made, field.name, value)


def _typed(field: dataclasses.Field[Any], value: Any) -> Any:
    """Return the value as the field's type has it: that of its default, or text where it has none."""
    kind = str if field.default is dataclasses.MISSING else type(field.default)
    if kind is tuple:
        return _listed(field.name, value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
        raise ConfigError(f"{field.name} = {value!r} is not {names[kind]}.")
    if field.name == "model" and not value.strip():
        raise ConfigError("model is empty; name the folder or the hub id of a model.")
    return value


def _listed(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, list | tuple) or not value or not all(isinstance(v, str) and v for v in value):
        raise ConfigError(f"{name} = {value!r} is not a list of names.")
    if len(set(value)) < len(value):
        raise ConfigError(f"{name} = {list(value)!r} names the same twice.")
    return tuple(value)


def _refuse_out_of_bounds(name: str, value: Any, ranges: Mapping[str, Bounds]) -> None:
    if name in CHOICES:
        for entry in value if isinstance(value, tuple) else (value,):
            if entry not in CHOICES[name]:
                known = ", ".join(choice or "''" for choice in CHOICES[name])
                raise ConfigError(f"{name} cannot be {entry!r}{nearest(entry, CHOICES[name])}; it can be {known}.")
    if name not in ranges:
        return
    if not math.isfinite(value):
        raise ConfigError(f"{name} = {value!r} is not a finite number.")
    if not ranges[name].holds(value):
        raise ConfigError(f"{name} = {value!r} is out of bounds; it must be {ranges[name]}.")
