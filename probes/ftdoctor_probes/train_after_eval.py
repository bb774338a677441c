"""After an evaluation every adapter tensor gets the gradient that it would have got without it.

Why: nearly every run evaluates in between. On CPUs with AVX512-BF16, bitsandbytes repacks its 4-bit layers at the
first forward in eval mode, for a kernel that has no backward, and does not undo it for training: from the first
evaluation on, most gradients are zero or wrong, while the loss stays right to three digits and at most one generic
warning of torch is given.

Cure: before training, `for m in model.modules(): if hasattr(m, "support_avx512bf16_for_cpu"):
m.support_avx512bf16_for_cpu = False`; or train 4-bit models on a GPU. Saving a checkpoint undoes the packing until
the next evaluation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import tensors, watch
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch


@probe(
    area="training",
    needs=("transformers", "accelerate", "peft"),
    axes=("family", "trainer", "quantization", "dtype", "mixed_precision", "device"),
    references=("bitsandbytes-foundation/bitsandbytes#2078", "bitsandbytes-foundation/bitsandbytes#2083"),
)
def train_after_eval(bench: Bench, check: Check) -> None:
    """Take the gradients of one batch before and after `trainer.evaluate()`, with no step in between."""
    tokenizer = bench.tokenizer()
    trainer = bench.trainer(
        watch.undisturbed(bench.trainable()),
        tokenizer,
        bench.arguments(max_steps=2, learning_rate=1e-2),
        eval_dataset=bench.dataset(tokenizer, 2),
    )
    trainer.train()  # lora_B is zero until the first step, and the gradients of lora_A with it
    batch = next(iter(trainer.get_train_dataloader()))
    before = tensors.gradients(trainer, batch)
    trainer.evaluate()
    bound, why = tensors.gradient_bound(bench, trainer)
    wrong, words = tensors.differing(tensors.gradients(trainer, batch), before, bound)
    check.that(
        "gradients after an evaluation",
        bool(before) and not wrong,
        words,
        f"each within {bound:.3g} of its norm",
        why=why,
        owner=_owner(trainer),
    )


def _owner(trainer: Any) -> Any:
    """Return the forward of the quantized layers, which is what evaluation changes, or the trainer's evaluate."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    bases = [m.get_base_layer() for m in trainer.model.modules() if isinstance(m, BaseTunerLayer)]
    quantized = [type(b).forward for b in bases if type(b).__module__.startswith("bitsandbytes")]
    return quantized[0] if quantized else type(trainer).evaluate


@train_after_eval.fault(
    "after an evaluation the base layers pass no gradient", catches=("gradients after an evaluation",)
)
def base_without_backward(patch: Patch) -> None:
    """What repacked 4-bit layers do, here without quantization: values are right, gradients end there."""
    from peft.tuners.lora import Linear

    def around(original: Any, self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        self.evaluated = getattr(self, "evaluated", False) or not self.training
        result = original(self, x, *args, **kwargs)
        if not self.evaluated:
            return result
        base = self.get_base_layer()(x)
        return result - base + base.detach()

    patch.wrap(Linear, "forward", around)


@train_after_eval.fault("an evaluation freezes part of the adapter", catches=("gradients after an evaluation",))
def adapter_frozen(patch: Patch) -> None:
    """lora_A stops being trained."""
    from transformers import Trainer

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        metrics = original(self, *args, **kwargs)
        for name, parameter in self.model.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad = False
        return metrics

    patch.wrap(Trainer, "evaluate", around)
