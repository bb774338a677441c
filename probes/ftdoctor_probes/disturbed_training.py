"""A run with sample predictions takes the same steps as the run without them, bit for bit.

Why: a callback that generates moves the random generators, leaves the tokenizer padding on the left, switches gradient
checkpointing off and loses its options on the way back, or lets 4-bit layers be repacked for a kernel without a
backward. Nothing crashes; the run is another one from there on, and differs with how often one looked. (A script that
generates greedily, one by one, in eval mode, disturbs 4-bit models alone; the naive one here samples in a batch.)

Cure: `PredictionsCallback` of `ftdoctor.prediction`, which puts back what it touches. If this probe is red, generate of
this release touches something that it did not: install another release of the culprit.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ftdoctor.bench import predicting
from ftdoctor.bench.reference import relative_forward_error
from ftdoctor.bench.traces import MEMORY, changed, traces
from ftdoctor.bench.watch import copy_of, logged
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

STEPS = 4
DROPOUT = 0.1
SAMPLES = 3
WAYS = ("ours", "naive", "library")

LOSSES = "largest difference of a loss"
WEIGHTS = "largest difference of a trained weight"
STATES = "states that are not as before"


@probe(
    area="components",
    needs=("transformers", "accelerate"),
    axes=("trainer", "quantization", "mixed_precision", "adapter", "checkpointing", "device"),
    references=("huggingface/trl#6827", "huggingface/transformers#42489", "bitsandbytes-foundation/bitsandbytes#2078"),
)
def disturbed_training(bench: Bench, check: Check) -> None:
    """Train without predictions, and with predictions after each step: ours, a script's, and TRL's."""
    from ftdoctor.prediction import PredictionsCallback

    alone = _Trained(bench, None)
    runs = {way: attempt(functools.partial(_Trained, bench, way)) for way in WAYS}
    ours = runs.pop("ours")
    if isinstance(ours, Exception):
        raise ours
    if not predicting.has_library():
        del runs["library"]
    for label, run in (("without predictions", alone), ("ours", ours), *runs.items()):
        if not isinstance(run, Exception):
            steps = range(1, len(run.losses) + 1)
            check.curve("loss", steps, run.losses, label=label, unit="nats a token")
    exact = bench.device == "cpu"
    share = 0.0 if exact else relative_forward_error(alone.config, bench.dtype)
    why = "one thread on a CPU repeats to the bit; elsewhere sums change their order"
    check.equal(
        STATES,
        ours.disturbed,
        [],
        owner=PredictionsCallback.on_step_end,
        beside={way: r if isinstance(r, Exception) else r.disturbed for way, r in runs.items()},
    )
    check.at_most(
        LOSSES,
        _apart(ours.losses, alone.losses),
        share * max(alone.losses),
        why=why,
        owner=PredictionsCallback.on_step_end,
        beside={way: r if isinstance(r, Exception) else _apart(r.losses, alone.losses) for way, r in runs.items()},
    )
    check.at_most(
        WEIGHTS,
        _apart(ours.weights, alone.weights),
        share * max(map(abs, alone.weights)) * STEPS,
        why=why,
        owner=PredictionsCallback.on_step_end,
        beside={way: r if isinstance(r, Exception) else _apart(r.weights, alone.weights) for way, r in runs.items()},
    )


def _apart(measured: list[float], expected: list[float]) -> float:
    if len(measured) != len(expected):
        return float("inf")
    return max(abs(a - b) for a, b in zip(measured, expected, strict=True))


class _Trained:
    """A short run with dropout on: its losses, its trained weights, and the states that predictions have changed."""

    def __init__(self, bench: Bench, way: str | None) -> None:
        import torch
        from transformers import TrainerCallback

        disturbed: list[str] = []

        class After(TrainerCallback):  # type: ignore[misc]
            """Predicts after each step, and compares what it finds afterwards with what was there."""

            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                if way is None:
                    return
                before = traces(model, trainer.processing_class)
                predict(args, state, control, model)
                found = changed(before, traces(model, trainer.processing_class))
                # The first time libraries make tables that they keep for good.
                disturbed.extend(name for name in found if name != MEMORY or state.global_step > 1)

        torch.manual_seed(bench.settings.seed)
        model = bench.trainable()
        for module in model.modules():
            if isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = DROPOUT
        if bench.cell["checkpointing"] == "reentrant" and bench.cell["adapter"] != "none":
            model.enable_input_require_grads()
        trainer = bench.trainer(model, bench.tokenizer(), bench.arguments(max_steps=STEPS), callbacks=[After()])
        predict = _predictor(bench, trainer, way)
        trainer.train()
        self.config = model.config
        self.losses = list(logged(trainer, "loss").values())
        self.weights = torch.cat([v.double().flatten() for v in copy_of(model).values()]).tolist()
        self.disturbed = sorted(set(disturbed))


def _predictor(bench: Bench, trainer: Any, way: str | None) -> Callable[..., None]:
    """Return what is called with a callback's arguments and the model."""
    questions = [q for q, _ in bench.rows(SAMPLES)]
    if way == "ours":
        return _ours(trainer, questions)
    if way == "library":
        sample = predicting.library(trainer, questions)
        return lambda args, state, control, model: sample(state) if sample else None  # type: ignore[return-value]
    return lambda args, state, control, model: _naive(bench, trainer, model, questions)


def _ours(trainer: Any, questions: list[str]) -> Callable[..., None]:
    from ftdoctor.bench.rows import messages
    from ftdoctor.prediction import Delivery, GenerationSettings, PredictionsCallback

    class Nowhere:
        """Takes rows as a writer does."""

        def write(self, rows: Any) -> Delivery:
            return Delivery(written=len(rows))

        def close(self) -> Delivery:
            return Delivery()

    settings = GenerationSettings(max_new_tokens=predicting.NEW_TOKENS, options={"do_sample": True})
    callback = PredictionsCallback(
        [{"prompt": messages(q)} for q in questions], when=1, writer=Nowhere(), settings=settings
    )

    def predict(args: Any, state: Any, control: Any, model: Any) -> None:
        callback.on_step_end(args, state, control, model=model, processing_class=trainer.processing_class)

    return predict


def _naive(bench: Bench, trainer: Any, model: Any, questions: list[str]) -> None:
    """Predict as scripts do that want it fast, stable and lively: one batch, a fixed seed, sampling."""
    import torch

    tokenizer = trainer.processing_class
    tokenizer.padding_side = "left"
    checkpointing = bench.cell["checkpointing"] != "off"
    if checkpointing:
        model.gradient_checkpointing_disable()
    model.eval()
    torch.manual_seed(0)
    predicting.in_a_batch(model, tokenizer, predicting.rendered(tokenizer, questions), bench.device, do_sample=True)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()


@disturbed_training.fault("random generators are not put back", catches=(STATES, LOSSES, WEIGHTS))
def generators_moved(patch: Patch) -> None:
    """The next step draws other dropout masks."""
    from ftdoctor.training import rng

    patch.replace(rng, "put_back", lambda state: None)


@disturbed_training.fault(
    "4-bit layers are repacked while generating", catches=(STATES,), cell={"quantization": "nf4", "adapter": "lora"}
)
def layers_repacked(patch: Patch) -> None:
    """What generating in evaluation mode does on a CPU with AVX512-BF16, done here on any."""
    import torch
    from transformers import GenerationMixin

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        made = original(self, *args, **kwargs)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dtype == torch.uint8:
                    parameter.data = parameter.data.view(1, -1)
        return made

    patch.wrap(GenerationMixin, "generate", around)
