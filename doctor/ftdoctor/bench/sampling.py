"""Sample predictions inside a training run, at the places where users make them, each judged on the spot."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftdoctor.bench import decoding, rounding, watch
from ftdoctor.bench.packing import keep_unpacked

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check

BEFORE, STEP, EVALUATION, AFTER = (
    "before the trainer is built",
    "on_step_end",
    "on_evaluate",
    "after training",
)


@dataclass(frozen=True)
class Verdict:
    """How far one generation is from plain forwards of the same weights."""

    apart: float
    """Largest difference between the logits that `generate` chose from and those of a plain forward."""
    short: float
    """Largest shortfall of a chosen token's plain logit against the best one."""
    bound: float
    """What rounding explains of `apart`; twice as much of `short`: for the token and for the best one."""

    @property
    def holds(self) -> bool:
        """Whether rounding explains both."""
        return self.apart <= self.bound and self.short <= 2 * self.bound

    def __str__(self) -> str:
        return f"logits {self.apart:.3g} apart, tokens {self.short:.3g} short (bound {self.bound:.3g})"


@dataclass
class Samples:
    """Generations at several places of a run, each judged on the spot with the weights of that moment.

    The judge is one full forward without a cache in eval mode, under the precision of that place. It looks at the
    logits too, for a model may repeat one token whatever it is shown.
    """

    inputs: dict[str, Any]
    pad: int | None
    unit: Callable[[Any], float]
    """Model to the largest unit roundoff on its way."""
    outcomes: dict[str, str] = field(default_factory=dict)
    """Place to `runs`, or the class of what was raised."""
    errors: dict[str, BaseException] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    why: str = ""

    def take(
        self,
        place: str,
        model: Any,
        precision: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        """Generate at a place in the model's own mode, then judge the tokens under the given precision."""
        try:
            made = decoding.greedy(model, self.inputs, self.pad, output_logits=True, return_dict_in_generate=True)
        except Exception as error:  # noqa: BLE001 - the class of any failure is what is measured
            self.outcomes[place], self.errors[place] = type(error).__name__, error
            return
        self.outcomes[place] = "runs"
        self._judge(place, model, made, precision)

    def _judge(self, place: str, model: Any, made: Any, precision: Callable[[], Any]) -> None:
        import torch

        training, start = model.training, self.inputs["input_ids"].shape[1]
        model.eval()
        try:
            with precision():
                plain = decoding.forward_logits(model, made.sequences, start)
        finally:
            model.train(training)
        bound, self.why = rounding.difference(model, plain, self.unit(model))
        apart = (torch.stack(made.logits, 1).double() - plain).abs().max()
        self.verdicts[place] = Verdict(float(apart), decoding.gap(plain, made.sequences[:, start:]), bound)


def sampler(samples: Samples, owner: Callable[[], Any]) -> Any:
    """Return a callback that samples at the last `on_step_end` (train mode) and at `on_evaluate` (eval mode).

    Args:
        samples: where the generations are kept.
        owner: returns the trainer, whose precision is that of the judgement.
    """
    from transformers import TrainerCallback

    class Sampler(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == state.max_steps:
                samples.take(STEP, model, owner().accelerator.autocast)

        def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            samples.take(EVALUATION, model, owner().accelerator.autocast)

    return Sampler()


@dataclass(frozen=True)
class SampledRun:
    """A short run with generations at four places."""

    samples: Samples
    trainer: Any
    changed: dict[str, str]
    """Role of a tensor to the change of its dtype while the trainer was built."""


def sampled_run(bench: Bench, model: Any, **more: Any) -> SampledRun:
    """Generate before the trainer is built, twice while it trains, and afterwards.

    Args:
        bench: the bench of the cell.
        model: what is trained. Its 4-bit layers are kept from repacking themselves at the first generation, for
            `train-after-eval` is about that; its dropout is off, for in train mode it makes any token right.
        more: further arguments of the trainer.
    """
    tokenizer = bench.tokenizer()
    inputs = decoding.prompt(tokenizer, bench.rows(1)[0][0], bench.device)
    samples = Samples(inputs, tokenizer.pad_token_id, lambda m: rounding.coarsest(bench, m))
    samples.take(BEFORE, watch.undisturbed(keep_unpacked(model)))
    before = _dtypes(model)
    trainer = bench.trainer(
        model,
        tokenizer,
        bench.arguments(max_steps=2, eval_strategy="steps", eval_steps=2, learning_rate=learning_rate(bench)),
        eval_dataset=bench.dataset(tokenizer, 2),
        callbacks=[sampler(samples, lambda: trainer)],
        **more,
    )
    changed = _changed(before, _dtypes(trainer.model))
    trainer.train()
    samples.take(AFTER, trainer.model, trainer.accelerator.autocast)
    return SampledRun(samples, trainer, changed)


def learning_rate(bench: Bench) -> float:
    """Return a rate at which a few steps change what is generated.

    LoRA's product of small matrices needs large steps to be seen; a full model would be ruined by them.
    """
    return 1e-3 if bench.cell["adapter"] == "none" else 1e-2


def judge(check: Check, run: SampledRun) -> None:
    """Record whether `generate` ran at all four places, and whether its tokens are right wherever it ran."""
    samples, trainer = run.samples, run.trainer
    first = samples.verdicts.get(BEFORE)
    # What was right before the trainer was built is broken by building it.
    owner = type(trainer).__init__ if first is not None and first.holds else type(trainer.model).generate
    check.note("dtypes that building the trainer changed", run.changed)
    for place, error in samples.errors.items():
        check.note(f"error {place}", f"{type(error).__name__}: {error}")
    check.equal(
        "generate runs",
        samples.outcomes,
        dict.fromkeys((BEFORE, STEP, EVALUATION, AFTER), "runs"),
        why="the same model trains and evaluates in this run",
        owner=owner,
    )
    check.that(
        "tokens",
        all(verdict.holds for verdict in samples.verdicts.values()),
        {place: str(verdict) for place, verdict in samples.verdicts.items()},
        "tokens and logits of a plain eval-mode forward under the precision of the place",
        why=samples.why,
        owner=owner,
    )


def _dtypes(model: Any) -> dict[str, str]:
    """Return the name of each parameter without wrappers and indices to its dtype."""
    dropped = ("base_model", "model", "layers", "default", "weight", "modules_to_save", "base_layer", "original_module")
    words = {n: [w for w in n.split(".") if w not in dropped and not w.isdigit()] for n, _ in model.named_parameters()}
    return {".".join(words[n][-2:]): str(p.dtype).removeprefix("torch.") for n, p in model.named_parameters()}


def _changed(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    return {role: f"{before[role]} -> {now}" for role, now in after.items() if before.get(role, now) != now}
