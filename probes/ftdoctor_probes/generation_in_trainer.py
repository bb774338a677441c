"""`model.generate` works inside a trainer's callbacks and after training as it did before, with the right tokens.

Why: the trainer runs only the outer model's `forward` under its mixed precision. `generate` of an adapter model
goes past it to the inner model, so weights of mixed dtypes, made by the trainer itself, train and evaluate well
and then fail in every sample prediction: `expected scalar type Float but found BFloat16`, or `mat1 and mat2 must
have the same dtype`. It is one fault with three texts; switching autocast off never cures it.

Newer TRL trains through a head of its own that casts on the way, so that a bfloat16 `modules_to_save` head behind
float32 norms trains well even without mixed precision, and fails in `generate` alone.

Cure: put the trainer's own precision around the call: `with trainer.accelerator.autocast(): model.generate(...)`;
where the trainer has no mixed precision, `torch.autocast(device, dtype=torch.bfloat16)`; or let `PredictionsCallback`
of `ftdoctor.prediction` do it. Casting input_ids, or `autocast(enabled=False)`, does not help. Wrong tokens instead of
an error: call `model.eval()` first and see `ftdoctor explain generation-under-checkpointing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import sampling
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch


@probe(
    area="generation",
    needs=("transformers", "accelerate"),
    axes=("family", "trainer", "quantization", "dtype", "mixed_precision", "adapter", "device"),
    references=("huggingface/peft#1515", "huggingface/trl#1398", "huggingface/trl#1203"),
)
def generation_in_trainer(bench: Bench, check: Check) -> None:
    """Generate naively at four places of a short run; judge the tokens under the precision of the place."""
    sampling.judge(check, sampling.sampled_run(bench, bench.trainable()))


@generation_in_trainer.fault(
    "the trainer leaves float32 norms in front of a half-precision head",
    catches=("generate runs",),
    cell={"mixed_precision": "bf16"},
)
def mixed_weights(patch: Patch) -> None:
    """What TRL up to 0.25.1 does to QLoRA models when its trainer is built."""
    import torch
    from transformers import Trainer

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for name, module in self.model.named_modules():
            if name.endswith(("lm_head", "embed_tokens")):
                module.to(torch.bfloat16)

    patch.wrap(Trainer, "__init__", around)


@generation_in_trainer.fault("generate of an adapter model leaves the adapter out", catches=("tokens",))
def adapter_left_out(patch: Patch) -> None:
    """The texts are those of the base model."""
    from peft import PeftModelForCausalLM

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.disable_adapter():
            return original(self, *args, **kwargs)

    patch.wrap(PeftModelForCausalLM, "generate", around)


@generation_in_trainer.fault("generate in train mode feeds one token without the cache", catches=("tokens",))
def cache_lost(patch: Patch) -> None:
    """Each token is chosen from the last one alone."""
    from transformers import GenerationMixin

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = original(self, *args, **kwargs)
        if self.training:
            inputs["past_key_values"] = None
        return inputs

    patch.wrap(GenerationMixin, "prepare_inputs_for_generation", around)
