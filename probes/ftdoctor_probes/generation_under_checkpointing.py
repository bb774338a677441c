"""Greedy generation inside a training step gives the right tokens when activations are checkpointed.

Why: in train mode the checkpointed layers drop the KV cache, and `generate` goes on feeding them one token at a
time. Every new token is then chosen from the last one alone. Nothing raises: a callback that does not call
`model.eval()` writes garbage samples, and a sound run is judged by them. TRL's SFTTrainer switches checkpointing
on by default.

Cure: call `model.eval()` before `model.generate(...)` in the callback and `model.train()` after it, or let
`PredictionsCallback` of `ftdoctor.prediction` do it. Do not disable checkpointing around the call: enabling it again
loses its options, and an adapter then stops training.
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
    axes=("family", "trainer", "adapter", "checkpointing", "device"),
    references=("huggingface/transformers#36051", "huggingface/transformers#42586", "huggingface/trl#3683"),
)
def generation_under_checkpointing(bench: Bench, check: Check) -> None:
    """Generate in train mode at on_step_end and in eval mode at on_evaluate of a short run."""
    from transformers import GenerationMixin
    from transformers.modeling_layers import GradientCheckpointingLayer

    model = bench.trainable()
    if bench.cell["checkpointing"] == "reentrant" and bench.cell["adapter"] != "none":
        # Without it some releases cannot train an adapter here at all, which `training-run` reports.
        model.enable_input_require_grads()
    samples = sampling.sampled_run(bench, model).samples
    _judge(check, samples, sampling.STEP, "train mode", GradientCheckpointingLayer)
    _judge(check, samples, sampling.EVALUATION, "eval mode", GenerationMixin.generate)


def _judge(check: Check, samples: sampling.Samples, place: str, mode: str, owner: Any) -> None:
    verdict = samples.verdicts.get(place)
    check.that(
        f"tokens in {mode}",
        verdict is not None and verdict.holds,
        str(verdict or samples.errors.get(place) or f"{place} was not called"),
        "tokens and logits of a plain eval-mode forward",
        why=samples.why,
        owner=owner,
    )


@generation_under_checkpointing.fault("layers in train mode drop the cache", catches=("tokens in train mode",))
def cache_dropped(patch: Patch) -> None:
    """What checkpointed layers do, here without checkpointing."""
    from transformers import GenerationMixin

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = original(self, *args, **kwargs)
        if self.training:
            inputs["past_key_values"] = None
        return inputs

    patch.wrap(GenerationMixin, "prepare_inputs_for_generation", around)


@generation_under_checkpointing.fault(
    "layers drop the cache in eval mode too", catches=("tokens in train mode", "tokens in eval mode")
)
def cache_always_dropped(patch: Patch) -> None:
    """What checkpointing that does not look at the mode would do."""
    from transformers import GenerationMixin

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        return {**original(self, *args, **kwargs), "past_key_values": None}

    patch.wrap(GenerationMixin, "prepare_inputs_for_generation", around)
