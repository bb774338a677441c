"""`model.generate` works inside a trainer's callbacks and after training as it did before, with the right tokens.

Why: the trainer runs only the outer model's `forward` under its mixed precision. `generate` of an adapter model
goes past it to the inner model, so weights of mixed dtypes, made by the trainer itself, train and evaluate well
and then fail in every sample prediction: `expected scalar type Float but found BFloat16`, or `mat1 and mat2 must
have the same dtype`. It is one fault with three texts; switching autocast off never cures it.

Cure: put the trainer's own precision around the call: `with trainer.accelerator.autocast(): model.generate(...)`.
Casting input_ids, or `autocast(enabled=False)`, does not help. Wrong tokens instead of an error: call
`model.eval()` first and see `ftdoctor explain generation-under-checkpointing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import decoding, rounding
from ftdoctor.bench.packing import keep_unpacked
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

PLACES = ("before the trainer is built", "on_step_end", "on_evaluate", "after training")


@probe(
    area="generation",
    needs=("transformers", "accelerate"),
    axes=("family", "trainer", "quantization", "dtype", "mixed_precision", "adapter", "device"),
    references=("huggingface/peft#1515", "huggingface/trl#1398", "huggingface/trl#1203"),
)
def generation_in_trainer(bench: Bench, check: Check) -> None:
    """Generate naively at four places of a short run; judge the tokens under the precision of the place."""
    tokenizer = bench.tokenizer()
    # Otherwise the first generation would repack 4-bit layers on some CPUs: `train-after-eval` is about that.
    model = keep_unpacked(bench.trainable())
    inputs = decoding.prompt(tokenizer, bench.rows(1)[0][0], bench.device)
    samples = decoding.Samples(inputs, tokenizer.pad_token_id, lambda m: rounding.coarsest(bench, m))
    samples.take(PLACES[0], model)
    before = _dtypes(model)
    arguments = bench.arguments(max_steps=2, eval_strategy="steps", eval_steps=2, learning_rate=1e-2)
    evaluated = bench.dataset(tokenizer, 2)
    trainer = bench.trainer(
        model,
        tokenizer,
        arguments,
        eval_dataset=evaluated,
        callbacks=[decoding.sampler(samples, lambda: trainer)],
    )
    after = _dtypes(trainer.model)
    trainer.train()
    samples.take(PLACES[3], trainer.model, trainer.accelerator.autocast)
    check.note("dtypes that building the trainer changed", _changed(before, after))
    _judge(check, samples, type(trainer).__init__ if before != after else type(model).generate)


def _judge(check: Check, samples: decoding.Samples, owner: Any) -> None:
    for place, error in samples.errors.items():
        check.note(f"error {place}", f"{type(error).__name__}: {error}")
    check.equal(
        "generate runs",
        samples.outcomes,
        dict.fromkeys(PLACES, "runs"),
        why="the same model trains and evaluates in this run, and generated before it",
        owner=owner,
    )
    check.that(
        "tokens",
        all(v.holds for v in samples.verdicts.values()),
        {place: str(verdict) for place, verdict in samples.verdicts.items()},
        "tokens and logits of a plain eval-mode forward under the precision of the place",
        why=samples.why,
        owner=owner,
    )


def _dtypes(model: Any) -> dict[str, str]:
    return {name: str(p.dtype).removeprefix("torch.") for name, p in model.named_parameters()}


def _changed(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """Return the change of dtype of each role, which is what is left of a name without indices and wrappers."""
    dropped = ("base_model", "model", "layers", "default", "weight", "modules_to_save")
    return {
        ".".join([w for w in name.split(".") if w not in dropped and not w.isdigit()][-2:]): f"{before[name]} -> {now}"
        for name, now in after.items()
        if before.get(name, now) != now
    }


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
