"""Greedy generation as users write it, and how far its tokens are from what a plain forward would choose."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftdoctor.bench import rounding
from ftdoctor.bench.rows import messages

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

NEW_TOKENS = 8


def prompt(tokenizer: Any, question: str, device: str) -> dict[str, Any]:
    """Return input_ids and attention_mask of one question, shape (1, tokens)."""
    text = tokenizer.apply_chat_template(messages(question), tokenize=False, add_generation_prompt=True)
    encoded = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    return {k: encoded[k].to(device) for k in ("input_ids", "attention_mask")}


def greedy(model: Any, inputs: dict[str, Any], pad: int | None, **more: Any) -> Any:
    """Return what `generate` returns for a few greedy tokens, called as a callback does."""
    import torch

    with torch.no_grad():
        return model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=pad, **more)


def forward_logits(model: Any, ids: Any, start: int) -> Any:
    """Return the float64 logits of one full forward without a cache at the positions from `start` - 1 on."""
    import torch

    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits[:, start - 1 : -1].double()


def gap(logits: Any, chosen: Any) -> float:
    """Return the largest shortfall of a chosen token's logit against the best one at its position."""
    picked = logits.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    return float((logits.amax(-1) - picked).max())


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
            made = greedy(model, self.inputs, self.pad, output_logits=True, return_dict_in_generate=True)
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
                plain = forward_logits(model, made.sequences, start)
        finally:
            model.train(training)
        bound, self.why = rounding.difference(model, plain, self.unit(model))
        apart = (torch.stack(made.logits, 1).double() - plain).abs().max()
        self.verdicts[place] = Verdict(float(apart), gap(plain, made.sequences[:, start:]), bound)


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
                samples.take("on_step_end", model, owner().accelerator.autocast)

        def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            samples.take("on_evaluate", model, owner().accelerator.autocast)

    return Sampler()
