"""One of two processes that train together on a CPU: what `launch.py` starts.

    RANK=0 WORLD_SIZE=2 ... python distributed.py SCENARIO FOLDER

Writes what it measures to FOLDER/SCENARIO-RANK.pt.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from pathlib import Path

import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, Trainer
from trl import SFTTrainer

from ftdoctor.bench import Bench
from ftdoctor.bench.watch import gradient_recorder
from ftdoctor.cells import Cell
from ftdoctor.settings import Settings
from ftdoctor.training import HealthLog, NonFiniteGuard, PaddingCollator, TokenMeanLoss, packed_collator

RANK = int(os.environ["RANK"])
POISON = 500
ACCUMULATION = 4
STEPS = 4
BAD = {
    "in one process": [(1, 1, 0)],
    "at the end of a window": [(1, 3, 1)],
    "in both": [(2, 0, 1), (2, 3, 0)],
    "a whole window": [(1, i, i % 2) for i in range(ACCUMULATION)],
}
"""Case to window, micro-batch and process of the bad rows."""


class NeverSeen:
    """A Trainer to which bad micro-batches do not exist in any process."""

    bad: set[tuple[int, int]]
    window = -1

    def get_batch_samples(self, *args):
        batches, _ = super().get_batch_samples(*args)
        self.window, self.at = self.window + 1, -1
        self.good = [i for i in range(len(batches)) if (self.window, i) not in self.bad]
        return batches, self._get_num_items_in_batch([batches[i] for i in self.good], self.args.device)

    def training_step(self, model, inputs, *more):
        self.at += 1
        if self.at not in self.good:
            return torch.tensor(0.0)
        # The last that is left must exchange the gradients, wherever it stands.
        model.require_backward_grad_sync = self.at == self.good[-1]
        return super().training_step(model, inputs, *more)


def build(folder, *mixins, kind=Trainer, bad=(), rows=2 * ACCUMULATION * STEPS, without=(), **changes):
    """Return a trainer with dropout on rows that the two processes take in turns."""
    bench = Bench(Cell.of({"adapter": "none", "trainer": "sft" if kind is SFTTrainer else "plain"}), folder, SETTINGS)
    tokenizer = bench.tokenizer()
    values = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": ACCUMULATION, "max_steps": STEPS}
    values |= {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 20, "ddp_backend": "gloo"}
    if kind is SFTTrainer:
        values["dataset_kwargs"] = {"skip_prepare_dataset": True}
    args = bench.arguments(**{**values, **changes})
    model = bench.model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    found = [bench.encode(tokenizer, question, answer) for question, answer in bench.rows(rows)]
    first = {"input_ids": POISON, "attention_mask": 1, "labels": -100}
    for window, micro_batch, process in bad:
        at = 2 * (ACCUMULATION * window + micro_batch) + process
        found[at] = {key: [first[key], *value] for key, value in found[at].items()}
    found = [row for i, row in enumerate(found) if i // (2 * ACCUMULATION) not in without]

    class Ordered(*mixins, kind):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    Ordered.bad = {(window, micro_batch) for window, micro_batch, _ in bad}
    model.get_input_embeddings().register_forward_hook(
        lambda module, arguments, output: output.masked_fill((arguments[0] == POISON).unsqueeze(-1), math.nan)
    )
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    return Ordered(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(found),
        data_collator=collator,
        processing_class=tokenizer,
    )


def weights(trainer):
    """Return the trained weights."""
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def guard(folder):
    """Train with the guard, and without the bad micro-batches."""
    found = {}
    for name, bad in BAD.items():
        ours = build(folder, NonFiniteGuard, bad=bad)
        ours.train()
        whole = len(bad) == ACCUMULATION
        without = build(folder, without=(1,), max_steps=STEPS - 1) if whole else build(folder, NeverSeen, bad=bad)
        without.train()
        expected, records = weights(without), ours.guard.bad_batches
        found[name] = {
            "different": [key for key, value in weights(ours).items() if not torch.equal(value, expected[key])],
            "records": [(b.step - 1, b.micro_batch - 1, b.process, b.kind) for b in records],
            "saved": [Path(b.file).exists() for b in records if b.file],
            "skipped": ours.guard.skipped_steps,
        }
    sft = build(folder, NonFiniteGuard, kind=SFTTrainer, bad=BAD["in one process"])
    sft.train()
    found["sft"] = {"finite": all(bool(w.isfinite().all()) for w in weights(sft).values())}
    return found


def loss(folder):
    """Take one step over the rows that the test has written, in micro-batches of different number.

    Returns:
        Template, kind of rows and accumulation to logged loss and gradient.
    """
    found = {}
    for template, (family, kinds) in json.loads((folder.parent / "rows.json").read_text()).items():
        bench = Bench(Cell.of({"adapter": "none", "family": family}), folder, SETTINGS)
        tokenizer = bench.tokenizer()
        for kind, rows in kinds.items():
            for accumulation in (1, 2, 8):
                recorder, model = gradient_recorder(), bench.model().double()
                packs = kind == "packed"
                trainer = Trainer(
                    model=model,
                    args=bench.arguments(
                        max_steps=1,
                        max_grad_norm=1e9,
                        per_device_train_batch_size=len(rows) // (2 * accumulation),
                        gradient_accumulation_steps=accumulation,
                        ddp_backend="gloo",
                        remove_unused_columns=False,
                    ),
                    train_dataset=Dataset.from_list(rows),
                    data_collator=packed_collator(model, tokenizer) if packs else PaddingCollator.of(tokenizer),
                    compute_loss_func=TokenMeanLoss(),
                    callbacks=[recorder],
                )
                found[template, kind, accumulation] = (trainer.train().training_loss, recorder.steps[0])
    return found


def health(folder):
    """Keep the log of a few steps."""
    trainer = build(folder, HealthLog)
    trainer.train()
    labels = [row["labels"][1:] for row in trainer.train_dataset]
    return trainer.state.log_history, [sum(label != -100 for label in row) for row in labels]


def components(folder):
    """Return what the guard and the health log did."""
    return {"guard": guard(folder), "health": health(folder)}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    scenario, target = sys.argv[1], Path(sys.argv[2])
    own = target / f"process-{RANK}"
    own.mkdir()
    SETTINGS = Settings(cache=str(own))
    torch.save({"components": components, "loss": loss}[scenario](own), target / f"{scenario}-{RANK}.pt")
