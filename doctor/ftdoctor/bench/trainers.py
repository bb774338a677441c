"""Trainers as fine-tuning scripts build them: a plain `Trainer` or TRL's `SFTTrainer`, by the cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench.rows import encode, rows

if TYPE_CHECKING:
    from pathlib import Path

    from ftdoctor.cells import Cell


def dataset(trainer: str, tokenizer: Any, number: int) -> Any:
    """Return `number` memorizable rows as the trainer wants them.

    `plain`: columns input_ids, attention_mask, labels. `sft`: conversational prompt and completion.
    """
    from datasets import Dataset

    pairs = rows(number)
    if trainer == "plain":
        return Dataset.from_list([encode(tokenizer, q, a) for q, a in pairs])
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": q}],
                "completion": [{"role": "assistant", "content": a}],
            }
            for q, a in pairs
        ]
    )


def arguments(cell: Cell, device: str, folder: Path, seed: int, **changes: Any) -> Any:
    """Return TrainingArguments (or SFTConfig) for a few deterministic steps with the cell's precision.

    Batches of two, learning rate 1e-3 constant, every step logged, nothing saved or reported, no dropout of
    columns; `changes` replace or add arguments.
    """
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": seed,
        "use_cpu": device == "cpu",
        "bf16": cell.get("mixed_precision", "none") == "bf16",
        "fp16": cell.get("mixed_precision", "none") == "fp16",
        "gradient_checkpointing": cell.get("checkpointing", "off") != "off",
        "dataloader_pin_memory": device != "cpu",
    }
    if values["gradient_checkpointing"]:
        values["gradient_checkpointing_kwargs"] = {"use_reentrant": cell["checkpointing"] == "reentrant"}
    if cell.get("trainer", "plain") == "sft":
        from trl import SFTConfig

        return SFTConfig(**{"max_length": 128, "dataset_num_proc": None, **values, **changes})
    from transformers import TrainingArguments

    return TrainingArguments(**{**values, **changes})


def trainer(cell: Cell, model: Any, tokenizer: Any, args: Any, train: Any, evaluate: Any = None, **more: Any) -> Any:
    """Return the cell's trainer, with the padding collator of transformers for the plain one."""
    from transformers import ProgressCallback
    from transformers.trainer_callback import PrinterCallback

    if cell.get("trainer", "plain") == "sft":
        from trl import SFTTrainer as Kind
    else:
        from transformers import DataCollatorForSeq2Seq
        from transformers import Trainer as Kind

        more.setdefault("data_collator", DataCollatorForSeq2Seq(tokenizer, padding=True))
    made = Kind(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=evaluate,
        processing_class=tokenizer,
        **more,
    )
    made.remove_callback(PrinterCallback)
    made.remove_callback(ProgressCallback)
    return made
