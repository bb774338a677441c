"""Sample predictions at every evaluation of a Trainer or SFTTrainer, written down, with the training left as it was.

trainer.add_callback(PredictionsCallback(eval_rows, writer="runs/predictions.db"))
"""

from __future__ import annotations

import functools
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ftdoctor.errors import PredictionError
from ftdoctor.prediction import reporters, sharded
from ftdoctor.prediction.delivery import Delivery, Writer
from ftdoctor.prediction.generator import Prediction, PredictionGenerator
from ftdoctor.prediction.limits import GenerationSettings
from ftdoctor.prediction.rows import PredictionRow, new_id, now
from ftdoctor.prediction.samples import Sample, choose, sample_of
from ftdoctor.prediction.writers import FILE, open_writer
from ftdoctor.training import rng
from ftdoctor.wording import count, nearest, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

SWITCH = "FTDOCTOR_PREDICTIONS"
"""Environment variable: `off` takes predictions out of a run without a change of its code."""
PLACES = ("eval", "epoch")
log = logging.getLogger("ftdoctor.prediction")


@dataclass
class PredictionCounts:
    """What became of the predictions of a run, in the process that writes them."""

    asked: int = 0
    failed: int = 0
    written: int = 0
    """Rows that are where they belong, those of failed predictions among them; each writer's are counted."""
    waiting: int = 0
    """Rows on disk that are still to be delivered."""
    refused: int = 0
    lost: int = 0
    """Rows that no writer could keep."""
    seconds: float = 0.0


class PredictionsCallback(TrainerCallback):  # type: ignore[misc]
    """Generates predictions for the same samples at each evaluation, and writes one row a sample, failed or not.

    Only the main process writes; of a sharded model all processes generate. At a step that it has seen it does
    nothing: evaluation on several sets calls it for each. The loss curve with it is the one without it, bit for bit.

    Attributes:
        counts: what became of the predictions of the run so far; each `train()` begins anew.
        rows: the rows of the run so far, those of this process.

    Args:
        samples: rows to choose from, best as they are before tokenization: see `ftdoctor.prediction.samples`. None
            for the trainer's evaluation set at its first evaluation.
        when: `eval`, `epoch`, or a number of steps.
        count: how many samples are chosen.
        seed: chooses them.
        indices: the places of the samples instead.
        writer: path, URL or Writer, or several; `predictions.db` in the trainer's output folder where None.
        settings: how to generate, and what it may cost.
        tokenizer: where the trainer has none as its `processing_class`.
        messages: `ftdoctor.training.Messages`, so that prompts are made by the rules that the training rows were.
        job: name of the run; `JOB_ID` of the environment, or the output folder's name, where empty.
        user: `JOB_USER_ID` of the environment where empty.
        strict: end the run where all predictions of a step fail, or rows are lost.

    Raises:
        PredictionError: an argument makes no sense; later, where strict, what is said there.
    """

    def __init__(
        self,
        samples: Any = None,
        *,
        when: str | int = "eval",
        count: int = 8,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        writer: str | Path | Writer | Sequence[str | Path | Writer] | None = None,
        settings: GenerationSettings | None = None,
        tokenizer: Any = None,
        messages: Any = None,
        job: str = "",
        user: str = "",
        strict: bool = False,
    ) -> None:
        self.on = switched_on()
        _refuse_when(when)
        if not isinstance(count, int) or count < 1:
            raise PredictionError(f"count is {count!r}; it must be a whole number, at least 1.")
        if settings is not None and not isinstance(settings, GenerationSettings):
            raise PredictionError(f"settings is a {type(settings).__name__}; give GenerationSettings(...).")
        self.when, self.strict = when, strict
        self.settings = settings or GenerationSettings()
        self.job = job or os.environ.get("JOB_ID", "")
        self.user = user or os.environ.get("JOB_USER_ID", "")
        self._source, self._choice = samples, (count, seed, indices)
        self._tokenizer, self._messages = tokenizer, messages
        given: Any = writer if isinstance(writer, (list, tuple)) else [writer] if writer is not None else []
        self._targets = list[Any](given)
        _refuse_writers(self._targets)
        self._begin()
        if samples is not None and self.on:
            choose(samples, *self._choice)  # what is wrong with them is told now, not after the first epoch

    def _begin(self) -> None:
        """Forget the run before: another trainer may have another tokenizer, evaluation set and folder."""
        self._writers = list[Writer]()
        self.counts, self.rows = PredictionCounts(), list[PredictionRow]()
        self._generator: PredictionGenerator | None = None
        self._samples: list[Sample] = []
        self._last_step: int | None = None
        self._told: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Have samples and writers ready, so that what is wrong with them ends the run before it costs anything."""
        self._begin()
        if not self.on:
            log.info("No sample predictions: %s is off.", SWITCH)
            return
        if self._source is not None:
            generator = self._ready(kwargs.get("processing_class") or kwargs.get("tokenizer"), self._source)
            unusable = generator.unusable([sample.prompt for sample in self._samples])
            if len(unusable) == len(self._samples):
                raise PredictionError(f"none of the samples can be shown to the model: {unusable[0]}")
        if state.is_world_process_zero:
            for writer in self._open(args):
                # Nothing to write yet: what an earlier process has left is delivered, and a bad path told now.
                self._keep(functools.partial(writer.write, ()))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Predict, where that is asked for at evaluations."""
        if self.when == "eval":
            self._predict(args, state, **kwargs)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Predict, where that is asked for at the end of epochs."""
        if self.when == "epoch":
            self._predict(args, state, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Predict, where that is asked for at every so many steps."""
        if isinstance(self.when, int) and state.global_step % self.when == 0:
            self._predict(args, state, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Deliver what waits, and say what became of the predictions."""
        if not self.on or not state.is_world_process_zero:
            return
        for writer in self._writers:
            self._keep(writer.close)
        self._writers = []
        told = self.counts
        if not told.asked:
            if "no samples" not in self._told:  # the warning that there were none has said why
                said = "No sample prediction was made in this run: when=%r never came; %s."
                log.warning(said, self.when, self._why())
            return
        ended = [f"{told.failed} failed"] + [f"{n} {word}" for word, n in _unwritten(told) if n]
        level = logging.WARNING if told.lost or told.refused or told.failed else logging.INFO
        log.log(level, "%s in %s: %s.", count(told.asked, "prediction"), seconds(told.seconds), ", ".join(ended))

    def _why(self) -> str:
        if self.when == "eval":
            return "the trainer's eval_strategy decides when it evaluates"
        return "the run ended before"

    def _predict(self, args: Any, state: Any, *, model: Any = None, **kwargs: Any) -> None:
        if not self.on or state.global_step == self._last_step or model is None:
            return
        if not state.is_world_process_zero and sharded.sharding_of(model).processes == 1:
            return
        self._last_step = state.global_step
        begun, states = time.monotonic(), rng.take()
        try:
            generator = self._prepared(**kwargs)
            if generator is None:
                return
            made = generator.generate(model, [sample.prompt for sample in self._samples])
            if state.is_world_process_zero:
                self._write(args, state, made)
        finally:
            rng.put_back(states)
            self.counts.seconds += time.monotonic() - begun
        if self.strict and all(p.error for p in made):
            raise PredictionError(_all_failed(state, made) + " strict=True ends the run.")

    def _prepared(self, *, eval_dataloader: Any = None, **kwargs: Any) -> PredictionGenerator | None:
        """Return the generator; None where a run that has begun turns out to have no samples."""
        rows = self._source if self._source is not None else getattr(eval_dataloader, "dataset", None)
        try:
            return self._ready(kwargs.get("processing_class") or kwargs.get("tokenizer"), rows)
        except Exception as error:  # a set of the user's own may raise anything
            if self.strict:
                raise
            said = error if isinstance(error, PredictionError) else f"{type(error).__name__}: {error}"
            self._warn("no samples", f"No sample predictions: {said}")
            return None

    def _ready(self, tokenizer: Any, rows: Any) -> PredictionGenerator:
        """Return the generator; the first call chooses the samples."""
        if self._generator is None:
            tokenizer = self._tokenizer or tokenizer
            if tokenizer is None:
                raise PredictionError(
                    "the trainer has no processing_class; give PredictionsCallback the tokenizer of the model."
                )
            if rows is None:
                raise PredictionError("the trainer has no evaluation set; give PredictionsCallback rows as samples.")
            generator = PredictionGenerator(tokenizer, self.settings)
            found = choose(rows, *self._choice)
            self._samples = [sample_of(self._converted(rows[i], i), i, generator.tokenizer) for i in found]
            self._generator = generator
        return self._generator

    def _converted(self, row: Any, index: int) -> Any:
        if self._messages is None:
            return row
        made = self._messages.convert(row, f"row {index} of the samples")
        if made is None:
            raise PredictionError(f"row {index} is left out by the rules of messages; choose another by indices.")
        return made

    def _write(self, args: Any, state: Any, made: Sequence[Prediction]) -> None:
        """Write the rows of a step, and say once what went wrong."""
        rows = [self._row(args, state, sample, p) for sample, p in zip(self._samples, made, strict=True)]
        failed = [p for p in made if p.error]
        self.counts.asked += len(rows)
        self.counts.failed += len(failed)
        self.rows += rows
        for writer in self._open(args):
            self._keep(functools.partial(writer.write, rows), len(rows))
        reporters.report_table(rows, self.rows, args.report_to)
        if failed and len(failed) == len(rows):
            self._warn("all failed", _all_failed(state, made))
        elif failed:
            told = f"{len(failed)} of {len(rows)} predictions at step {state.global_step} failed; the first"
            self._warn("some failed", f"{told}: {failed[0].error}")

    def _row(self, args: Any, state: Any, sample: Sample, made: Prediction) -> PredictionRow:
        return PredictionRow(
            id=new_id(),
            job=self.job or Path(args.output_dir).resolve().name,
            user=self.user,
            epoch=state.epoch,
            step=state.global_step,
            sample_index=sample.index,
            prompt=made.prompt,
            ground_truth=sample.truth,
            prediction=made.text,
            error=str(made.error) if made.error else None,
            seconds=made.seconds,
            tokens=len(made.token_ids),
            model_dtype=made.model_dtype,
            created_at=now(),
            finish=made.finish,
            precision=made.precision,
            batch_size=made.batch_size,
            clipped=made.clipped,
        )

    def _open(self, args: Any) -> list[Writer]:
        """Return the writers, opened where they are not."""
        if not self._writers:
            targets: list[Any] = self._targets or [Path(args.output_dir) / FILE]
            self._writers = [open_writer(str(t)) if isinstance(t, (str, Path)) else t for t in targets]
        return self._writers

    def _keep(self, write: Any, rows: int = 0) -> None:
        """Count what a writer did; its failure does not end a run that did not ask for it."""
        try:
            delivery: Delivery = write()
        except Exception as error:  # a writer of the user's own may raise anything
            self.counts.lost += rows
            if self.strict:
                raise
            lost = (
                f"{count(rows, 'row')} of predictions could not be written" if rows else "Predictions cannot be written"
            )
            self._warn(f"{bool(rows)} {type(error).__name__}", f"{lost}: {error}")
            return
        told = self.counts
        told.written += delivery.written
        told.refused += delivery.refused
        told.waiting = max(0, told.waiting + rows - delivery.written - delivery.refused)
        if delivery.waiting or delivery.refused:
            self._warn(f"waiting {delivery.reason}", f"Predictions: {delivery.reason}")

    def _warn(self, kind: str, sentence: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            log.warning("%s", sentence)


def _refuse_when(when: Any) -> None:
    steps = isinstance(when, int) and not isinstance(when, bool)
    if (steps and when < 1) or (not steps and when not in PLACES):
        near = nearest(when, PLACES) if isinstance(when, str) else ""
        raise PredictionError(f"when is {when!r}{near}; it is 'eval', 'epoch', or a number of steps above 0.")


def _refuse_writers(targets: Sequence[Any]) -> None:
    for target in targets:
        if not isinstance(target, (str, Path)) and not (hasattr(target, "write") and hasattr(target, "close")):
            kind = type(target).__name__
            raise PredictionError(f"writer is a {kind}; give a path, a URL, or what has write and close.")


def switched_on() -> bool:
    """Return whether predictions are made at all.

    Raises:
        PredictionError: FTDOCTOR_PREDICTIONS says neither on nor off.
    """
    said = os.environ.get(SWITCH, "").strip().lower()
    if said in ("off", "0", "false", "no"):
        return False
    if said in ("", "on", "1", "true", "yes"):
        return True
    raise PredictionError(f"{SWITCH} is {said!r}; it is on or off.")


def _unwritten(told: PredictionCounts) -> list[tuple[str, int]]:
    return [
        ("written", told.written),
        ("waiting on disk to be delivered", told.waiting),
        ("refused by the receiver", told.refused),
        ("lost", told.lost),
    ]


def _all_failed(state: Any, made: Sequence[Prediction]) -> str:
    return f"All {len(made)} predictions at step {state.global_step} failed; the first: {made[0].error}."
