"""Under the trainer's mixed precision the logits are computed in 16 bits and the loss in float32.

Why: a 16-bit cross entropy is wrong in the third digit (bfloat16) or infinite (a float16 sum), differently at
every step, and cannot tell two runs apart; and where the autocast that was asked for is not entered, the run
takes twice the memory, and weights of mixed dtypes fail.

Cure: install another release of the culprit; a loss of your own must cast the logits with `.float()` first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ftdoctor.bench.precision import unit_roundoff
from ftdoctor.bench.reference import CONFIDENCE, loss_error, mean_loss
from ftdoctor.bench.watch import undisturbed
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ROWS = 4


@probe(
    area="numerics",
    needs=("transformers", "accelerate", "datasets"),
    axes=("trainer", "family", "adapter", "mixed_precision", "device"),
    only={"mixed_precision": ("bf16", "fp16")},
)
def mixed_precision_loss(bench: Bench, check: Check) -> None:
    """Train one step without moving, and compare its loss with a float64 loss of the 16-bit logits."""
    import torch
    from accelerate import Accelerator

    tokenizer = bench.tokenizer()
    model = undisturbed(bench.trainable())
    args = bench.arguments(max_steps=1, learning_rate=0.0, per_device_train_batch_size=ROWS)
    trainer = bench.trainer(model, tokenizer, args, rows=ROWS)
    loss = trainer.train().training_loss
    batch = {key: value.to(bench.device) for key, value in next(iter(trainer.get_train_dataloader())).items()}
    with torch.no_grad():
        logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[bench.cell["mixed_precision"]]
    check.equal(
        "logits that are no numbers of the mixed precision",
        int((logits.to(half).to(logits.dtype) != logits).sum()),
        0,
        why="the trainer was asked for autocast, under which the head multiplies in 16 bits",
        owner=Accelerator.prepare_model,
    )
    scored = int((batch["labels"][:, 1:] != -100).sum())
    flips = CONFIDENCE * 2 * unit_roundoff(half) * float(logits.abs().max()) / math.sqrt(scored)
    check.close(
        "training loss",
        loss,
        mean_loss(logits, batch["labels"]),
        atol=loss_error(logits, batch["labels"]) + (flips if bench.cell["trainer"] == "sft" else 0.0),
        why=(
            "float64 loss of the same logits; the tolerance is the rounding error of a float32 cross entropy, and "
            "with TRL, whose fused head multiplies in other shapes, one last place of each label's logit"
        ),
        owner=type(trainer).compute_loss,
    )


@mixed_precision_loss.fault(
    "the loss is rounded to 16 bits", catches=("training loss",), cell={"mixed_precision": "bf16"}
)
def loss_in_low_precision(patch: Patch) -> None:
    """The loss is returned in the dtype of the logits."""
    import torch
    from transformers.loss import loss_utils

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs).to(torch.bfloat16)

    patch.wrap(loss_utils, "fixed_cross_entropy", around)


@mixed_precision_loss.fault(
    "autocast is not entered",
    catches=("logits that are no numbers of the mixed precision",),
    cell={"mixed_precision": "bf16"},
)
def no_autocast(patch: Patch) -> None:
    """The model's forward is not wrapped, although mixed precision was asked for."""
    from accelerate import Accelerator

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        self.native_amp = False
        return original(self, *args, **kwargs)

    patch.wrap(Accelerator, "prepare_model", around)


@mixed_precision_loss.fault(
    "TRL's loss is rounded to 16 bits",
    catches=("training loss",),
    cell={"mixed_precision": "bf16", "trainer": "sft"},
)
def rounded_by_trl(patch: Patch) -> None:
    """The sum over the tokens is kept in the dtype of the logits."""
    import torch
    from trl import SFTTrainer

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs).to(torch.bfloat16).float()

    patch.wrap(SFTTrainer, "compute_loss", around)
