"""The bench that a probe is handed: models, tokenizers, data and trainers as its cell asks for."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor import machine
from ftdoctor.bench import models, rows, tokenizers, trainers
from ftdoctor_matrix import Family, axes, families

if TYPE_CHECKING:
    from ftdoctor.cells import Cell
    from ftdoctor.settings import Settings

LORA_RANK = 4


class Bench:
    """Builds what the cell asks for, and owns a temporary folder.

    Axes that the cell does not have take their default value. Everything is seeded and on the cell's device.

    Attributes:
        cell: the cell, with a value for every axis.
        folder: an empty folder of this cell alone.
        settings: what the run was asked to do.
        text: a text with digits, accents, other scripts and an emoji.
    """

    text = rows.TEXT

    def __init__(self, cell: Cell, folder: Path, settings: Settings) -> None:
        defaults = {axis.name: axis.default for axis in axes().values()}
        self.cell = type(cell).of({**defaults, **cell.asdict()})
        self.folder = folder
        self.settings = settings

    @property
    def device(self) -> str:
        """The torch device of the cell: `cpu`, `cuda`."""
        return self.cell["device"]

    @property
    def dtype(self) -> Any:
        """The torch dtype of the cell: that of the weights, or the compute dtype of quantized layers."""
        import torch

        return getattr(torch, self.cell["dtype"])

    @functools.cached_property
    def machine(self) -> dict[str, Any]:
        """The facts of this machine, found without torch."""
        return machine.examine()

    @functools.cached_property
    def family(self) -> Family:
        """The model family of the cell, or that of the user's model."""
        if self.settings.model:
            return models.user_family(Path(self.settings.model))
        return families()[self.cell["family"]]

    def new_folder(self, name: str = "saved") -> Path:
        """Return a new empty folder under the bench's own."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def tokenizer(self) -> Any:
        """Return a new tokenizer of the cell's vocabulary with the family's chat template, or the user's own."""
        if self.settings.model:
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(self.settings.model, trust_remote_code=self.settings.trust_remote_code)
        return tokenizers.build(self.family.template, self.cell["vocabulary"], Path(self.settings.cache))

    def config(self) -> Any:
        """Return the config object of the tiny model, or of the user's model."""
        if self.settings.model:
            from transformers import AutoConfig

            return AutoConfig.from_pretrained(self.settings.model, trust_remote_code=self.settings.trust_remote_code)
        tokenizer = self.tokenizer()
        return models.config(self.family, len(tokenizer), tokenizer)

    def model(self) -> Any:
        """Return the model in float32 and eval mode on the cell's device; tiny ones are built, never loaded."""
        if self.settings.model:
            import torch

            return self.load(self.checkpoint(), quantization="none", dtype=torch.float32)
        return models.build(self.family, self.config(), self.settings.seed).to(self.device)

    def save(self, *things: Any) -> Path:
        """Save configs, tokenizers or models side by side with `save_pretrained` into a new folder."""
        folder = self.new_folder()
        for thing in things:
            thing.save_pretrained(folder)
        return folder

    @functools.cached_property
    def _checkpoint(self) -> Path:
        if self.settings.model:
            return Path(self.settings.model)
        built = models.build(self.family, self.config(), self.settings.seed)
        return self.save(built, self.tokenizer())

    def checkpoint(self) -> Path:
        """Return a folder with the float32 model and its tokenizer; the user's own folder with `--model`."""
        return self._checkpoint

    def quantization(self, quantization: str = "") -> Any:
        """Return the BitsAndBytesConfig of the cell, or None where it is not quantized."""
        kind = quantization or self.cell["quantization"]
        if kind == "none":
            return None
        from transformers import BitsAndBytesConfig

        if kind == "int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=self.dtype)

    def load(self, folder: Path | None = None, *, quantization: str = "", dtype: Any = None, **more: Any) -> Any:
        """Load a causal language model from disk as the cell says: dtype, quantization, attention, device.

        Args:
            folder: the checkpoint's folder; `checkpoint()` where it is None.
            quantization: replaces the cell's value.
            dtype: replaces the cell's torch dtype.
            more: further arguments of `from_pretrained`.
        """
        from transformers import AutoModelForCausalLM

        arguments: dict[str, Any] = {
            "dtype": dtype or self.dtype,
            "attn_implementation": self.cell["attention"],
            "use_safetensors": True,
            "trust_remote_code": self.settings.trust_remote_code,
        }
        config = self.quantization(quantization)
        if config is not None:
            arguments["quantization_config"] = config
            arguments["device_map"] = {"": self.device}
        arguments.update(more)
        loaded = AutoModelForCausalLM.from_pretrained(folder or self.checkpoint(), **arguments)
        # What was placed while loading stays there; quantized models refuse to be moved.
        return loaded if "device_map" in arguments else loaded.to(self.device)

    def adapter(self) -> Any:
        """Return the LoraConfig of the cell, or None where no adapter is trained."""
        kind = self.cell["adapter"]
        if kind == "none":
            return None
        from peft import LoraConfig

        return LoraConfig(
            r=LORA_RANK,
            lora_alpha=2 * LORA_RANK,
            target_modules="all-linear",
            modules_to_save=["lm_head"] if kind == "lora_head" else None,
            task_type="CAUSAL_LM",
        )

    def prepare(self, model: Any) -> Any:
        """Prepare a quantized model for training with peft's own function; return others as they are."""
        if self.cell["quantization"] == "none":
            return model
        from peft import prepare_model_for_kbit_training

        checkpointing = self.cell["checkpointing"]
        return prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=checkpointing != "off",
            gradient_checkpointing_kwargs={"use_reentrant": checkpointing == "reentrant"},
        )

    def trainable(self) -> Any:
        """Return a model ready to train as the cell says: loaded, prepared for k-bit, with its adapter."""
        import torch

        model = self.prepare(self.load())
        config = self.adapter()
        if config is None:
            return model
        from peft import get_peft_model

        torch.manual_seed(self.settings.seed)
        return get_peft_model(model, config)

    def rows(self, number: int = 8) -> list[tuple[str, str]]:
        """Return memorizable pairs of question and answer."""
        return rows.rows(number)

    def encode(self, tokenizer: Any, question: str, answer: str) -> dict[str, list[int]]:
        """Return input_ids, attention_mask and labels (only the answer and its end of turn are scored)."""
        return rows.encode(tokenizer, question, answer)

    def batch(self, tokenizer: Any, pairs: list[tuple[str, str]]) -> dict[str, Any]:
        """Return encoded pairs as one right-padded batch of tensors, shape (rows, longest), on the device."""
        from transformers import DataCollatorForSeq2Seq

        collate = DataCollatorForSeq2Seq(tokenizer, padding=True)
        collated = collate([rows.encode(tokenizer, q, a) for q, a in pairs])
        return {k: v.to(self.device) for k, v in collated.items()}

    def logits(self, model: Any) -> Any:
        """Return what a model in its present mode makes of the bench's text, shape (1, tokens, vocabulary)."""
        import torch

        ids = torch.tensor([self.tokenizer().encode(self.text)], device=self.device)
        with torch.no_grad():
            return model(input_ids=ids).logits

    def dataset(self, tokenizer: Any, number: int = 8) -> Any:
        """Return a dataset of memorizable rows in the form that the cell's trainer takes."""
        return trainers.dataset(self.cell["trainer"], tokenizer, number)

    def arguments(self, **changes: Any) -> Any:
        """Return TrainingArguments or SFTConfig for a few deterministic steps; `changes` replace arguments."""
        return trainers.arguments(self.cell, self.device, self.new_folder("trainer"), self.settings.seed, **changes)

    def trainer(self, model: Any, tokenizer: Any, args: Any = None, *, rows: int = 8, **more: Any) -> Any:
        """Return the cell's trainer on the memorizable rows.

        Args:
            model: what is trained.
            tokenizer: its tokenizer.
            args: from `arguments`; the default ones where None.
            rows: number of rows of the training set, where `train_dataset` is not given.
            more: `train_dataset`, `eval_dataset`, callbacks, and whatever else the trainer takes.
        """
        train = more.pop("train_dataset", None)
        return trainers.trainer(
            self.cell,
            model,
            tokenizer,
            args or self.arguments(),
            train if train is not None else self.dataset(tokenizer, rows),
            more.pop("eval_dataset", None),
            **more,
        )
