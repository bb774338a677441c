"""Predictions made in batches are those made one by one, in a fraction of the forward passes.

Why: one by one is what most callbacks do, and evaluation waits for them. In a batch prompts are padded: on the wrong
side, without a mask, or with positions counted over the padding, most predictions are silently others.

Cure: `PredictionGenerator` of `ftdoctor.prediction`, which sorts by length, pads on the left with a mask, and leaves
the trainer's tokenizer alone. If this probe is red, try attn_implementation="eager": then the kernel is at fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import predicting
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

SAMPLES = 16
LEAST = 4
"""Times fewer passes than one by one."""


@probe(
    area="components",
    needs=("transformers",),
    axes=("family", "attention", "adapter", "device"),
    references=("huggingface/transformers#25921",),
)
def batched_predictions(bench: Bench, check: Check) -> None:
    """Predict for sixteen prompts of different lengths in float32; count the forward passes."""
    from ftdoctor.prediction import GenerationSettings, PredictionGenerator

    tokenizer, model = bench.tokenizer(), bench.trainable()
    _stir(model)
    prompts = [f"{q} {'and again ' * (i % 5)}" for i, (q, _) in enumerate(bench.rows(SAMPLES))]
    texts = predicting.rendered(tokenizer, prompts)
    generator = PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=predicting.NEW_TOKENS))
    model.train()
    ours, passes = _counted(model, lambda: [p.token_ids for p in generator.generate(model, texts)])
    alone, each = _counted(model, lambda: _tokens(predicting.one_by_one(model, tokenizer, texts, bench.device)))
    batch, _ = _counted(model, lambda: _tokens(predicting.in_a_batch(model, tokenizer, texts, bench.device)))
    check.equal(
        "predictions that are not those of one by one",
        _different(ours, alone),
        0,
        why="in float32 padding moves the logits by rounding only",
        owner=PredictionGenerator.generate,
        beside={"naive": _different(batch, alone)},
    )
    trainer = bench.trainer(model, tokenizer, bench.arguments())
    sample = predicting.library(trainer, prompts)
    beside: dict[str, Any] = {"naive": each}
    if sample is not None:
        state = trainer.state
        state.global_step = 1
        beside["library"] = attempt(lambda: _counted(model, lambda: sample(state))[1])
    check.at_most(
        "forward passes",
        passes,
        each / LEAST,
        why=f"{each} passes one by one; in batches at least {LEAST} times fewer",
        owner=PredictionGenerator.generate,
        beside=beside,
    )


def _stir(model: Any) -> None:
    """Give an adapter something to say: it begins with zeros."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)


def _tokens(made: list[predicting.Generated]) -> list[tuple[int, ...]]:
    return [row.tokens for row in made]


def _different(measured: list[tuple[int, ...]], expected: list[tuple[int, ...]]) -> int:
    return sum(a != b for a, b in zip(measured, expected, strict=True))


def _counted(model: Any, call: Callable[[], Any]) -> tuple[Any, int]:
    """Return what a call returns, and how often the model's embedding was asked meanwhile."""
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    handle = model.get_input_embeddings().register_forward_hook(count)
    try:
        made = call()
        return made, passes
    finally:
        handle.remove()


@batched_predictions.fault(
    "generate forgets the attention mask", catches=("predictions that are not those of one by one",)
)
def mask_forgotten(patch: Patch) -> None:
    """Padding is attended to and counted as positions."""
    import torch
    from transformers import GenerationMixin

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["attention_mask"] = torch.ones_like(kwargs["attention_mask"]) if "attention_mask" in kwargs else None
        return original(self, *args, **{k: v for k, v in kwargs.items() if v is not None})

    patch.wrap(GenerationMixin, "generate", around)


@batched_predictions.fault("each prompt makes a batch of its own", catches=("forward passes",))
def one_a_batch(patch: Patch) -> None:
    """The right predictions, one by one."""
    from ftdoctor.prediction import generator

    def around(original: Any, self: Any, encoded: Any) -> Any:
        return [[item] for batch in original(self, encoded) for item in batch]

    patch.wrap(generator._Call, "_batches", around)
