"""One optimizer step with our labels, collators and loss, alone or as one of two processes.

    RANK=0 WORLD_SIZE=2 ... python reference_run.py CHECKPOINTS FOLDER

CHECKPOINTS holds a folder a template; the result of each case is written to FOLDER/found-RANK.pt.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from ftdoctor.bench.watch import gradient_recorder
from ftdoctor.training import Encoder, MessageRules, Messages, PaddingCollator, TokenMeanLoss, pack_rows
from ftdoctor.training import packed_collator as collator_for_packed

SYSTEM = "Be brief."
ACCUMULATIONS = (1, 2, 8)
EFFECTIVE = 8
MAX_LENGTH = 160
CONVERSATIONS = [
    [
        {"role": "user", "content": f"What is {n} plus one?" + " Please." * (n % 3)},
        {"role": "assistant", "content": f"It is {n + 1}." + " Really." * (n % 4)},
        *([{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}] if n % 2 else []),
    ]
    for n in range(EFFECTIVE)
]


def rows(tokenizer):
    """Return the encoded conversations."""
    messages = Messages(MessageRules(system_prompt=SYSTEM), tokenizer).rows([{"messages": c} for c in CONVERSATIONS])
    return Encoder(tokenizer).rows(messages)


def step(checkpoint, folder, *, packed, accumulation, processes=1):
    """Return loss and gradient of one step over all conversations, in float64."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64)
    encoded = rows(tokenizer)
    collator = PaddingCollator.of(tokenizer)
    if packed:
        # A row holds two or three conversations, so that none of the eight micro-batches is without one.
        encoded, collator = pack_rows(encoded, MAX_LENGTH), collator_for_packed(model, tokenizer)
    parts = accumulation * processes
    while len(encoded) % parts:
        encoded = [*encoded, {name: [t if name == "input_ids" else -100 if name == "labels" else i for i, t in enumerate(values)]
                              for name, values in encoded[0].items() if name != "seq_lengths"}]  # fmt: skip
    recorder = gradient_recorder()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(folder), per_device_train_batch_size=len(encoded) // parts, gradient_accumulation_steps=accumulation,
            max_steps=1, max_grad_norm=1e9, learning_rate=1e-12, report_to=[], disable_tqdm=True, use_cpu=True,
            save_strategy="no", dataloader_pin_memory=False, remove_unused_columns=False, ddp_backend="gloo" if processes > 1 else None,
        ),
        train_dataset=Dataset.from_list([{k: v for k, v in row.items() if k != "seq_lengths"} for row in encoded]),
        data_collator=collator,
        compute_loss_func=TokenMeanLoss(),
        callbacks=[recorder],
    )  # fmt: skip
    loss = trainer.train().training_loss
    return {"loss": loss, "gradient": {name.removeprefix("module."): g for name, g in recorder.steps[0].items()}}


def main() -> None:
    """Do all cases of one process."""
    warnings.simplefilter("ignore")
    checkpoints, folder = Path(sys.argv[1]), Path(sys.argv[2])
    found = {
        (template.name, packed, accumulation): step(
            template, folder / "run", packed=packed, accumulation=accumulation, processes=int(os.environ["WORLD_SIZE"])
        )
        for template in sorted(checkpoints.iterdir())
        for packed in (False, True)
        for accumulation in (1, 2)
    }
    torch.save(found, folder / f"found-{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main()
