"""Supervised fine-tuning of an adapter with all components of this package, in a run folder that can be gone on from.

Everything that can be wrong with data, tokenizer, model and adapter is found before the folder is made.
"""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import DataError, TrainingError
from ftdoctor.training import durable, memory, replay, summary
from ftdoctor.training.data import read_rows
from ftdoctor.training.loader import load_for_training, load_tokenizer
from ftdoctor.training.run_folder import RunFolder, identity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ftdoctor.training.batch_plan import BatchPlan, Trained
    from ftdoctor.training.loader import LoadRecord
    from ftdoctor.training.messages import Messages
    from ftdoctor.training.recipe import Recipe

    Progress = Callable[[int, int, dict[str, float]], None]

log = logging.getLogger("ftdoctor.training")


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    finished: bool
    """False where it was stopped; the same call goes on from its checkpoint."""
    adapter: Path
    """Folder of the adapter, there as a whole once the run is finished."""
    steps: int
    """Optimizer steps that are done."""
    summary: Path
    """What happened, as JSON (`ftdoctor.training.summary`)."""


@dataclass(frozen=True)
class _Data:
    """Encoded rows and what was met on the way to them."""

    rows: Any
    longest: int
    counts: dict[str, Any]
    told: tuple[str, ...]


def finetune(
    recipe: Recipe,
    dataset: Path,
    folder: Path,
    *,
    earlier: Sequence[Path] = (),
    stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    callbacks: Callable[[Messages], Sequence[Any]] = lambda messages: (),
) -> Outcome:
    """Train an adapter by a recipe, or go on with a run that was stopped or killed.

    Called again with the same folder, it goes on from the last complete checkpoint; on a CPU the adapter is then bit
    for bit that of an undisturbed run. A finished run is not trained again.

    Args:
        recipe: what decides the run.
        dataset: a JSON Lines file.
        folder: the run's folder; made when everything that it needs was found sound.
        earlier: JSON Lines files of earlier examples, of which `recipe.replay_share` is mixed in.
        stop: asked after each optimizer step; when it says yes, a checkpoint is written and the call returns.
        progress: is called with the step, the number of all steps, and what was logged.
        callbacks: is called before the model is loaded, with `Messages` of this run's rules and template, and returns
            the `TrainerCallback`s that accompany the training. They are no part of what the run is: they must leave
            model and random numbers as they find them, as `ftdoctor.prediction.PredictionsCallback` does. What it
            raises ends the call, with nothing made. Of a finished run it is not called.

    Raises:
        DataError: data that cannot be trained on, with file and line.
        LoadError: model, tokenizer or adapter cannot be loaded, with the stage.
        UsageError: the folder holds another run.
        TrainingError: training cannot go on: memory, or too many batches that are not finite.
    """
    run = RunFolder(Path(folder))
    for file in (dataset, *earlier):
        read_rows(file)  # says at once what is missing, empty or no file
    asked = identity(recipe, dataset, earlier)
    run.refuse_another(asked)
    if run.adapter.is_dir():
        done = durable.read_json(run.summary)
        return Outcome(True, run.adapter, int(done.get("steps", 0)), run.summary)
    rows = _mixed(recipe, dataset, earlier)
    tokenizer = load_tokenizer(recipe.model)
    data = _encoded(recipe, rows, tokenizer)
    accompanying = callbacks(_messages(recipe, tokenizer))
    for line in data.told:
        log.info("%s", line)
    model, tokenizer, loaded = load_for_training(
        recipe.model,
        quantization=recipe.quantization,
        dtype=recipe.dtype,
        attention=recipe.attention,
        adapter=_adapter(recipe),
        checkpointing=recipe.checkpointing,
        seed=recipe.seed,
    )
    run.begin(asked)
    return _train(recipe, run, data, model, tokenizer, loaded, stop, progress, accompanying)


def _mixed(recipe: Recipe, dataset: Path, earlier: Sequence[Path]) -> list[Any]:
    """Return the new rows, with earlier ones placed between them; each knows its file and line."""
    new = list(read_rows(dataset))
    if not new:
        raise DataError(f"The data file {dataset} holds blank lines alone; write one JSON object a line into it.")
    if not earlier or not recipe.replay_share:
        return new
    # By number, not by path: what is drawn depends on the names, and must not depend on where the files lie.
    sources = {str(number): list(read_rows(path)) for number, path in enumerate(earlier)}
    mixed = replay.mix(new, sources, recipe.replay_share, recipe.seed)
    return [mixed[i] for i in range(len(mixed))]


def _encoded(recipe: Recipe, rows: list[Any], tokenizer: Any) -> _Data:
    """Turn rows into tokens and labels, packed where the recipe says so."""
    from datasets import Dataset

    from ftdoctor.training.labels import Encoder
    from ftdoctor.training.packing import PackingCounts, pack_rows

    messages = _messages(recipe, tokenizer)
    encoder = Encoder(tokenizer, turns=recipe.turns, max_length=recipe.max_length, too_long=recipe.too_long)
    encoded = []
    for row in rows:
        conversation = messages.convert(row.data, row.where)
        made = encoder.encode(conversation, row.where) if conversation is not None else None
        if made is not None:
            encoded.append(made)
    if not encoded:
        reasons = ", ".join(f"{n} {reason}" for reason, n in encoder.counts.dropped.items())
        raise DataError(
            f"No row of {rows[0].source} is left to train on ({reasons}); raise max_length or mend the data."
        )
    counts: dict[str, Any] = {"messages": messages.counts.as_dict(), "labels": encoder.counts.as_dict()}
    told = [f"messages: {line}" for line in str(messages.counts).splitlines()]
    told += [f"labels: {line}" for line in str(encoder.counts).splitlines()]
    if recipe.packing:
        packing = PackingCounts()
        encoded = pack_rows(encoded, recipe.max_length, counts=packing)
        counts["packing"] = packing.as_dict()
        told.append(f"packing: {packing}")
    longest = max(len(row["input_ids"]) for row in encoded)
    return _Data(Dataset.from_list(encoded), longest, counts, tuple(told))


def _messages(recipe: Recipe, tokenizer: Any) -> Messages:
    from ftdoctor.training.messages import Messages

    return Messages(_rules(recipe), tokenizer)


def _rules(recipe: Recipe) -> Any:
    from ftdoctor.training.message_rules import MessageRules

    return MessageRules(system_prompt=recipe.system_prompt, contents=recipe.contents)


def _adapter(recipe: Recipe) -> Any:
    from peft import LoraConfig

    targets = recipe.target_modules
    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=targets[0] if targets == ("all-linear",) else list(targets),
        modules_to_save=["lm_head"] if recipe.lora_head else None,
        task_type="CAUSAL_LM",
    )


def _train(
    recipe: Recipe,
    run: RunFolder,
    data: _Data,
    model: Any,
    tokenizer: Any,
    loaded: LoadRecord,
    stop: Callable[[], bool],
    progress: Progress | None,
    callbacks: Sequence[Any],
) -> Outcome:
    """Train from the newest checkpoint on, publish the adapter, and write the summary."""
    from ftdoctor.training.batch_plan import train_within_memory
    from ftdoctor.training.sft import build_trainer

    begun, used = time.monotonic(), memory.Peak(loaded.device)
    plan, estimate = _plan(recipe, data, model, loaded)
    trainer = build_trainer(recipe, run, plan, data.rows, model, tokenizer, loaded, stop, progress, callbacks)
    checkpoint = run.newest()
    trained = train_within_memory(trainer, resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    steps = trainer.state.global_step
    finished = not trainer.stopped
    summary.write(
        run.summary,
        summary.make(
            recipe=recipe,
            trainer=trainer,
            loaded=loaded,
            counts=data.counts,
            told=data.told,
            plan=_plans(recipe, plan, trained),
            memory={
                "estimate": str(estimate or ""),
                "bytes": estimate.total if estimate else 0,
                "measured": used.bytes(),
            },
            finished=finished,
            seconds=time.monotonic() - begun,
        ),
    )
    if finished:  # after the summary: a run with an adapter is over, and is not looked into again
        _publish(recipe, run, trainer.model, tokenizer)
    return Outcome(finished, run.adapter, steps, run.summary)


def _plan(recipe: Recipe, data: _Data, model: Any, loaded: LoadRecord) -> tuple[BatchPlan, memory.StepMemory | None]:
    """Return the largest micro-batch that is expected to fit, and what its step is expected to need."""
    import torch

    from ftdoctor.training.batch_plan import BatchPlan, fitting
    from ftdoctor.training.sft import compute_dtype

    @functools.cache  # each estimate builds the model's skeleton and traces it
    def need(rows: int) -> memory.StepMemory:
        return memory.step_memory(
            model.config,
            batch_size=rows,
            length=data.longest,
            quantization=loaded.quantization,
            dtype=getattr(torch, loaded.dtype),
            compute_dtype=compute_dtype(recipe, loaded),
            adapter=_adapter(recipe),
            checkpointing=recipe.checkpointing,
            attention=loaded.attention or "sdpa",
        )

    asked = BatchPlan(recipe.batch_size, recipe.gradient_accumulation)
    try:
        weights = need(1).weights
        plan = fitting(asked, lambda rows: need(rows).total - weights, memory.free_memory(loaded.device))
        estimate = need(plan.batch_size)
    except TrainingError as error:
        log.info("%s", error)
        return asked, None
    if plan != asked:
        log.warning("%s rows x accumulation are expected not to fit; training with %s", asked, plan)
    return plan, estimate


def _plans(recipe: Recipe, begun: BatchPlan, trained: Trained) -> dict[str, Any]:
    return {
        "asked": f"{recipe.batch_size} x {recipe.gradient_accumulation}",
        "begun": str(begun),
        "ended": str(trained.plan),
        "out_of_memory": [str(event) for event in trained.shrunk],
    }


def _publish(recipe: Recipe, run: RunFolder, model: Any, tokenizer: Any) -> None:
    """Write the adapter with all that using it needs, and give it its name when it is complete."""
    partial = run.path / "adapter.partial"
    durable.remove(partial)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    _rules(recipe).save(partial)
    durable.sync_tree(partial)
    durable.move(partial, run.adapter)
