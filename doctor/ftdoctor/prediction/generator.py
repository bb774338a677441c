"""Predictions of a model as it stands in training, which is left as it was found.

generator = PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=64))
for prediction in generator.generate(model, ["The capital of France is", [{"role": "user", "content": "Hi"}]]):
    print(prediction.text, prediction.error)
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import PredictionError
from ftdoctor.prediction import precision, sharded
from ftdoctor.prediction.decoding import decode, refuse_options, run, settings_of
from ftdoctor.prediction.failures import SampleError, sample_error
from ftdoctor.prediction.limits import GenerationSettings, Limits
from ftdoctor.prediction.prompts import Prompt, Prompts
from ftdoctor.prediction.undisturbed import undisturbed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftdoctor.prediction.bounds import Bounds

log = logging.getLogger("ftdoctor.prediction")


@dataclass(frozen=True)
class Prediction:
    """What became of one prompt."""

    index: int
    """Its place among the prompts of the call."""
    prompt: str
    """As the model was shown it, special tokens included; empty where it could not be made."""
    text: str | None
    """Without special tokens; None where generating failed."""
    token_ids: tuple[int, ...] = ()
    """New tokens, the end of the turn included."""
    finish: str = "error"
    """`stop` (the model ended its turn), `length`, `time`, or `error`."""
    error: SampleError | None = None
    seconds: float = 0.0
    """Wall-clock time of its batch, divided by the rows of the batch."""
    batch_size: int = 0
    precision: str = "none"
    """Dtype of autocast, or `none`."""
    model_dtype: str = ""
    """How the weights are stored, the most frequent first: `bfloat16+float32`, `nf4+float32`."""
    clipped: int = 0
    """Tokens cut from the beginning of the prompt, because the model has no more positions."""


class PredictionGenerator:
    """Turns prompts into predictions, in batches, whatever state the model's training is in.

    In float32 greedy tokens do not depend on the batch. In half precision they can, where two tokens are nearly as
    likely: `docs/predictions.md` has rates.

    Attributes:
        settings: the settings.
        tokenizer: the copy that is used.

    Args:
        processing: the tokenizer or processor; a copy is used.
        settings: limits and options.

    Raises:
        PredictionError: an option is unknown to transformers, or none of the user's.
    """

    def __init__(self, processing: Any, settings: GenerationSettings | None = None) -> None:
        self.settings = settings or GenerationSettings()
        self._prompts = Prompts(processing, self.settings.template)
        self.tokenizer = self._prompts.tokenizer
        self._settled: dict[tuple[precision.Rung, ...], precision.Rung] = {}
        refuse_options(self.settings.options)

    def unusable(self, prompts: Sequence[Any]) -> list[str]:
        """Return why prompts cannot be encoded, one sentence for each that cannot, without asking a model."""
        told = []
        for prompt in prompts:
            try:
                self._prompts.encode(prompt, None)
            except Exception as error:  # noqa: BLE001 - a template may raise anything
                told.append(str(error) if isinstance(error, PredictionError) else f"{type(error).__name__}: {error}")
        return told

    def generate(self, model: Any, prompts: Sequence[Any]) -> list[Prediction]:
        """Return one prediction a prompt, in their order; a sample that fails costs no other.

        A batch that fails is halved until the failing sample stands alone. Where a `RuntimeError` comes before any
        batch has succeeded, the other precisions are tried first.

        Args:
            model: as the trainer's callbacks get it: in training, wrapped, quantized, with adapters. Of a sharded
                model all processes must call this, with the same prompts.
            prompts: texts, lists of messages, lists of token ids, or mappings with `messages` and `tools`.

        Raises:
            PredictionError: something in the model has moved its weights, or `prompts` is no list.
        """
        if isinstance(prompts, (str, bytes)):
            raise PredictionError("prompts is one text; give a list of them.")
        return _Call(self, model, prompts).made()


class _Call:
    """One call of `generate`: what is still to be done, and what is done."""

    def __init__(self, generator: PredictionGenerator, model: Any, prompts: Sequence[Any]) -> None:
        self.generator, self.settings, self.encoder = generator, generator.settings, generator._prompts
        self.model, self.given = model, prompts
        self.sharding = sharded.sharding_of(model)
        self.device = precision.device_of(model)
        self.dtypes = "+".join(precision.dtypes(model)) or "none"
        self.rungs = precision.rungs(model, self.settings.precision)
        self.choice = self.rungs
        settled = generator._settled.get(self.choice)
        if settled is not None:
            self.rungs = (settled, *(rung for rung in self.rungs if rung != settled))
        self.works, self.exact = False, self.settings.exact
        self.limits = Limits(time.monotonic() + self.settings.max_seconds, self.settings.max_tokens)
        self.done: dict[int, Prediction] = {}

    def made(self) -> list[Prediction]:
        """Generate everything."""
        try:
            with undisturbed(self.model, whole=self.sharding.kind == "none"), sharded.gathered(self.model) as callee:
                self._generate(callee)
        except PredictionError:
            raise
        except Exception as error:  # noqa: BLE001 - what failed around the batches has failed them all
            for index in set(range(len(self.given))) - set(self.done):
                self._fail(index, Prompt((), ""), self._told(error, "none"))
        return [self.done[i] for i in range(len(self.given))]

    def _generate(self, callee: Any) -> None:
        plan = settings_of(self.model, self.encoder.tokenizer, self.settings.options, self.settings.max_new_tokens)
        self.exact = self.exact or not plan.bounds.padded
        waiting = deque(self._batches(self._encoded(plan.bounds, plan.encoder_decoder)))
        while waiting:
            batch = waiting.popleft()
            reason = self.limits.reason(len(batch), self.settings, self._agree)
            if reason:
                self._give_up(batch, reason)
            else:
                waiting.extendleft(reversed(self._batch(callee, plan, batch)))

    def _encoded(self, bounds: Bounds, closed: bool) -> list[tuple[int, Prompt]]:
        """Return the prompts that can be shown to the model; the others are done, with their error."""
        encoded = []
        for index, prompt in enumerate(self.given):
            try:
                made = self.encoder.encode(prompt, bounds.room, closed=closed)
                bounds.refuse_unknown(made.ids)
                encoded.append((index, made))
            except Exception as error:  # noqa: BLE001 - a template or a row of the user's may raise anything
                self._fail(index, Prompt((), ""), self._told(error, "none"))
        return encoded

    def _batches(self, encoded: list[tuple[int, Prompt]]) -> list[list[tuple[int, Prompt]]]:
        """Return batches of prompts of similar length, the short ones first: they are done when time runs out."""
        ordered = sorted(encoded, key=lambda item: (len(item[1].ids), item[0]))
        batches: list[list[tuple[int, Prompt]]] = []
        for item in ordered:
            last = batches[-1] if batches else None
            full = last is None or len(last) == self.settings.batch_size
            if full or (self.exact and last is not None and len(last[0][1].ids) != len(item[1].ids)):
                batches.append([])
            batches[-1].append(item)
        return batches

    def _batch(self, callee: Any, plan: Any, batch: list[tuple[int, Prompt]]) -> list[list[tuple[int, Prompt]]]:
        """Generate a batch, and return what of it is to be tried again in smaller ones."""
        first: SampleError | None = None
        for rung in self.rungs[:1] if self.works else self.rungs:
            error = self._attempt(callee, plan, batch, rung)
            if error is None:
                self._settle(rung, first)
                return []
            first = first or error[0]
            if not error[1]:
                break
        if len(batch) > 1:
            half = len(batch) // 2
            return [batch[:half], batch[half:]]
        assert first is not None
        self._fail(*batch[0], first)
        return []

    def _settle(self, rung: precision.Rung, first: SampleError | None) -> None:
        """Go on with a precision that has worked, in this call and those after it."""
        if first is not None:
            names = (rung.name, rung.why, self.rungs[0].name, first)
            log.info("Predictions are generated under %s (%s), not under %s, where: %s", *names)
        self.rungs, self.works = (rung,), True
        self.generator._settled[self.choice] = rung

    def _attempt(
        self, callee: Any, plan: Any, batch: list[tuple[int, Prompt]], rung: precision.Rung
    ) -> tuple[SampleError, bool] | None:
        """Generate a batch under a precision; return its error, and whether another precision might do."""
        import torch

        begun, together = time.monotonic(), self.sharding.processes > 1
        told, other, rows, texts = None, False, [], []
        try:
            torch.manual_seed(self.settings.seed)
            with rung.entered(self.device):
                prompts = [p.ids for _, p in batch]
                rows = run(callee, plan, prompts, self.device, self.limits, together=together)
            texts = [decode(self.encoder.tokenizer, row.token_ids) for row in rows]
        except Exception as error:  # noqa: BLE001 - whatever a library raises belongs to the sample
            told = self._told(error, rung.name)
            # Mixed dtypes are a RuntimeError, in many words; too little memory is one that no precision cures.
            other = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
            out_of_memory = isinstance(error, torch.OutOfMemoryError)
            del error
            if out_of_memory and self.device.type == "cuda":
                torch.cuda.empty_cache()
        if not self._agree(told is None):
            return told or self._elsewhere(rung.name), self._agree(other or told is None)
        seconds = (time.monotonic() - begun) / len(batch)
        self.limits.spend(sum(len(row.token_ids) for row in rows))
        for (index, prompt), row, text in zip(batch, rows, texts, strict=True):
            self.done[index] = Prediction(
                index=index,
                prompt=prompt.text,
                text=text,
                token_ids=row.token_ids,
                finish=row.finish,
                seconds=seconds,
                batch_size=len(batch),
                precision=rung.name,
                model_dtype=self.dtypes,
                clipped=prompt.clipped,
            )
        return None

    def _agree(self, here: bool) -> bool:
        return sharded.agree(here, self.sharding)

    def _told(self, error: BaseException, autocast: str) -> SampleError:
        return sample_error(error, self.dtypes, str(self.device), autocast)

    def _elsewhere(self, autocast: str) -> SampleError:
        said = "generating failed in another process that holds a part of the model; its log says why"
        return SampleError("", said, self.dtypes, str(self.device), autocast, "")

    def _give_up(self, batch: list[tuple[int, Prompt]], reason: str) -> None:
        for index, prompt in batch:
            self._fail(index, prompt, SampleError("", reason, self.dtypes, str(self.device), "none", ""))

    def _fail(self, index: int, prompt: Prompt, error: SampleError) -> None:
        self.done[index] = Prediction(
            index=index,
            prompt=prompt.text,
            text=None,
            error=error,
            precision=error.autocast,
            model_dtype=self.dtypes,
            clipped=prompt.clipped,
        )
