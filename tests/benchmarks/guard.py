"""What the guard against NaN and infinity costs: its share of a training step, beside a check of each parameter alone.

    python tests/benchmarks/guard.py

Prints shares of one run, on a model of 34 million parameters, trained in full and with LoRA. The time of a guard is
what a micro-batch takes around the Trainer's own `training_step`; the time of a step is all of it, optimizer
included. On a CPU the check beside it has nothing to wait for; on an accelerator each of its answers waits for the
device, once a parameter, where the guard waits once.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, ProgressCallback, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ftdoctor.training.guard import NonFiniteGuard

STEPS = 5
TARGET = 0.02
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def now() -> float:
    """Return the time at which the device is done with all that it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Inner(Trainer):
    """Measures the Trainer's own work on a micro-batch."""

    inner = outer = 0.0
    begun = 0

    def training_step(self, *args):
        """Compute a micro-batch."""
        started = now()
        loss = super().training_step(*args)
        Inner.inner += now() - started
        return loss


class Naive:
    """The check that people write by hand: each gradient by itself, with an answer for each."""

    def training_step(self, model, *args):
        """Compute a micro-batch, and ask loss and gradients."""
        loss = super().training_step(model, *args)
        bad = not torch.isfinite(loss).item()
        for parameter in model.parameters():
            if parameter.grad is not None and not torch.all(torch.isfinite(parameter.grad)).item():
                bad = True
                break
        assert not bad
        return loss


class Outer:
    """Measures a micro-batch with all that stands around it."""

    def training_step(self, *args):
        """Compute a micro-batch."""
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 2:  # the first is for warming up
            Inner.inner = Inner.outer = 0.0
            Inner.begun = now()
        started = now()
        loss = super().training_step(*args)
        Inner.outer += now() - started
        return loss


KINDS = {"guard": NonFiniteGuard, "one check a parameter": Naive}


def main() -> None:
    """Print the shares for each kind of training."""
    warnings.filterwarnings("ignore")
    worst = 0.0
    for adapter in (False, True):
        for accumulation in (1, 2):
            shares = {kind: share(mixin, adapter, accumulation) for kind, mixin in KINDS.items()}
            worst = max(worst, shares["guard"])
            words = ", ".join(f"{kind} {value:.2%}" for kind, value in shares.items())
            print(f"{'LoRA' if adapter else 'full':5} accumulation {accumulation}   {words} of a step", flush=True)
    print(f"largest share of the guard {worst:.2%} (target: at most {TARGET:.0%})")
    sys.exit(0 if worst <= TARGET else 1)


def share(mixin: type, adapter: bool, accumulation: int) -> float:
    """Return the share of a step that is spent around the Trainer's own work on its micro-batches."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8
    )
    model = LlamaForCausalLM(config)
    if adapter:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    ids = torch.randint(0, config.vocab_size, (STEPS * accumulation * 4, 128))
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=accumulation,
            max_steps=STEPS,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=DEVICE == "cpu",
            bf16=DEVICE == "cuda",
        )
        trainer = type("Measured", (Outer, mixin, Inner), {})(model=model, args=args, train_dataset=rows)
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.train()
        whole = now() - Inner.begun
    return (Inner.outer - Inner.inner) / whole


if __name__ == "__main__":
    main()
