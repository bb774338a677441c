"""`model.generate` works inside SFTTrainer's callbacks when SFTTrainer itself adds the adapter from its peft_config.

Why: given a `peft_config`, TRL prepares the model in its own way. Up to 0.25.1 it raised the norms of a quantized
model to float32 in front of half-precision layers: training and evaluation run under autocast, `generate` does
not, and every sample prediction dies with `expected scalar type Float but found BFloat16` or one of its sisters.
Without mixed precision training itself dies so. Newer releases cast what is trained to bfloat16 instead.

Cure: call `prepare_model_for_kbit_training` and `get_peft_model` yourself and hand SFTTrainer the finished model,
or put the trainer's precision around the call: `with trainer.accelerator.autocast(): model.generate(...)`. Where
the trainer has no mixed precision, use `torch.autocast(device, dtype=torch.bfloat16)` instead. `PredictionsCallback` of
`ftdoctor.prediction` does both.
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
    needs=("transformers", "accelerate", "peft", "trl"),
    axes=("family", "trainer", "quantization", "dtype", "mixed_precision", "adapter", "device"),
    only={"trainer": ("sft",), "adapter": ("lora", "lora_head")},
    references=("huggingface/peft#1515", "huggingface/trl#1398", "huggingface/trl#4577"),
)
def generation_with_peft_config(bench: Bench, check: Check) -> None:
    """Hand SFTTrainer the loaded model and the adapter's config; generate naively at four places."""
    sampling.judge(check, sampling.sampled_run(bench, bench.load(), peft_config=bench.adapter()))


@generation_with_peft_config.fault(
    "SFTTrainer leaves float32 norms in front of a half-precision head",
    catches=("generate runs",),
    cell={"trainer": "sft", "mixed_precision": "bf16"},
)
def mixed_weights(patch: Patch) -> None:
    """Norms stay as they are, embedding and head become bfloat16."""
    import torch
    from trl import SFTTrainer

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for name, module in self.model.named_modules():
            if name.endswith(("lm_head", "embed_tokens")):
                module.to(torch.bfloat16)

    patch.wrap(SFTTrainer, "__init__", around)


@generation_with_peft_config.fault(
    "generate of an adapter model leaves the adapter out", catches=("tokens",), cell={"trainer": "sft"}
)
def adapter_left_out(patch: Patch) -> None:
    """The texts are those of the base model."""
    from peft import PeftModelForCausalLM

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.disable_adapter():
            return original(self, *args, **kwargs)

    patch.wrap(PeftModelForCausalLM, "generate", around)
