"""Sample predictions come out right in the middle of a training, wherever `generate` alone fails there.

Why: a trainer runs its forward under its own precision; `generate` of an adapter model goes past it, and weights that
the trainer has left in mixed dtypes fail there and nowhere else. A script that catches and logs the error writes an
empty table for days, and TRL's own callback ends the run. Switching autocast off never cured one such cell.

Cure: `PredictionGenerator` and `PredictionsCallback` of `ftdoctor.prediction`, which enter the trainer's precision,
or where it has none what the weights suggest. If this probe is red, install another release of the culprit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import layers, predicting, rounding, sampling, watch
from ftdoctor.bench.packing import keep_unpacked
from ftdoctor.bench.precision import unit_roundoff
from ftdoctor.bench.sampling import AFTER, EVALUATION, STEP
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

SAMPLES = 3


@probe(
    area="components",
    needs=("transformers", "accelerate"),
    axes=(
        "family",
        "trainer",
        "quantization",
        "dtype",
        "mixed_precision",
        "adapter",
        "checkpointing",
        "stray",
        "device",
    ),
    references=("huggingface/peft#1515", "huggingface/trl#1398", "huggingface/trl#1203"),
)
def sample_predictions(bench: Bench, check: Check) -> None:
    """Predict at three places of a short run, with ours, as a script does, and with TRL's callback."""
    from ftdoctor.prediction import PredictionGenerator

    seen = _run(bench)
    ours = {place: ways["ours"] for place, ways in seen.items()}
    check.equal(
        "failed predictions",
        {place: made.failed for place, made in ours.items()},
        dict.fromkeys((STEP, EVALUATION, AFTER), 0),
        owner=PredictionGenerator.generate,
        beside=_beside(seen, "failed"),
    )
    _draw(check, seen)
    for made in ours.values():
        for error in made.errors:
            check.note("error", error)
    check.at_most(
        "shortfall of the tokens, in what rounding explains",
        max(made.short for made in ours.values()),
        1.0,
        why="of a chosen token's logit against the best one, in plain forwards under the trainer's precision; "
        + next(iter(ours.values())).why,
        owner=PredictionGenerator.generate,
        beside=_beside(seen, "short"),
    )
    if bench.cell["mixed_precision"] != "none":
        check.equal(
            "precision",
            sorted({made.precision for made in ours.values()}),
            [{"bf16": "bfloat16", "fp16": "float16"}[bench.cell["mixed_precision"]]],
            why="the trainer's own, under which the model is trained and evaluated",
            owner=PredictionGenerator.generate,
        )


def _draw(check: Check, seen: dict[str, dict[str, Any]]) -> None:
    """Keep how many predictions came out, place by place; an exception is none."""
    for way in ("ours", "naive", "library"):
        made = {i: ways[way] for i, ways in enumerate(seen.values(), start=1) if way in ways}
        counts = [0 if isinstance(m, Exception) else SAMPLES - m.failed for m in made.values()]
        if counts:
            places = ", ".join(seen)
            check.curve(f"predictions that came out ({places})", list(made), counts, label=way, unit=f"of {SAMPLES}")


class _Made:
    """What one way made at one place, judged on the spot: failures, and the shortfall as a share of the bound."""

    def __init__(self, rows: list[predicting.Generated], errors: list[str], precision: str) -> None:
        self.rows, self.errors, self.precision = rows, errors, precision
        self.failed, self.short, self.why = len(errors), 0.0, ""


def _beside(seen: dict[str, dict[str, Any]], what: str) -> dict[str, Any]:
    """Return what another way measured at its places; the exception, where it broke down at one."""
    found: dict[str, Any] = {}
    for way in ("naive", "library"):
        made = {place: ways[way] for place, ways in seen.items() if way in ways}
        broken = next((m for m in made.values() if isinstance(m, Exception)), None)
        if broken is not None:
            found[way] = broken
        elif made:
            values = {place: getattr(m, what) for place, m in made.items()}
            # A way that is not asked at all places has not failed at the others.
            found[way] = (
                max(values.values()) if what == "short" else {**dict.fromkeys((STEP, EVALUATION, AFTER), 0), **values}
            )
    return found


def _run(bench: Bench) -> dict[str, dict[str, Any]]:
    """Return place to way to what it made, or the exception that it raised."""
    from transformers import TrainerCallback

    from ftdoctor.prediction import GenerationSettings, PredictionGenerator

    tokenizer, questions = bench.tokenizer(), [q for q, _ in bench.rows(SAMPLES)]
    texts = predicting.rendered(tokenizer, questions)
    model = layers.leave_stray(watch.undisturbed(keep_unpacked(bench.trainable())), bench.cell["stray"])
    if bench.cell["checkpointing"] == "reentrant" and bench.cell["adapter"] != "none":
        model.enable_input_require_grads()  # without it some releases cannot train an adapter here at all
    generator = PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=predicting.NEW_TOKENS))
    seen: dict[str, dict[str, Any]] = {}

    def ours(model: Any) -> _Made:
        made = generator.generate(model, texts)
        ids = [tuple(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts]
        rows = [predicting.Generated(ids[p.index], p.token_ids) for p in made if not p.error]
        return _Made(rows, [str(p.error) for p in made if p.error], made[0].precision)

    def others(state: Any, model: Any) -> dict[str, Any]:
        found = {"naive": attempt(lambda: predicting.one_by_one(model, tokenizer, texts, bench.device))}
        sample = predicting.library(trainer, questions)
        if sample is not None:
            found["library"] = attempt(lambda: sample(state))
        return {way: m if isinstance(m, Exception) else _Made(m, [], "") for way, m in found.items()}

    def take(place: str, model: Any, state: Any = None) -> None:
        seen[place] = {"ours": ours(model), **(others(state, model) if state is not None else {})}
        for made in seen[place].values():
            if not isinstance(made, Exception):
                _judge(bench, trainer, model, made)

    class Sampler(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == state.max_steps:
                take(STEP, model)

        def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            take(EVALUATION, model, state)

    trainer = bench.trainer(
        model,
        tokenizer,
        bench.arguments(max_steps=2, eval_strategy="steps", eval_steps=2, learning_rate=sampling.learning_rate(bench)),
        eval_dataset=bench.dataset(tokenizer, 2),
        callbacks=[Sampler()],
    )
    trainer.train()
    take(AFTER, trainer.model)
    return seen


def _judge(bench: Bench, trainer: Any, model: Any, made: _Made) -> None:
    import torch

    if not made.rows:
        return
    mixed = made.precision not in ("", "none")
    context = (
        torch.autocast(bench.device, dtype=getattr(torch, made.precision)) if mixed else trainer.accelerator.autocast()
    )
    with context:
        short, largest = predicting.shortfall(model, made.rows, bench.device)
    unit = rounding.coarsest(bench, model)
    if mixed:
        unit = max(unit, unit_roundoff(getattr(torch, made.precision)))
    bound, made.why = rounding.difference(model, largest, unit)
    made.short = short / (2 * bound)


@sample_predictions.fault(
    "the trainer's precision is not entered",
    catches=("failed predictions", "precision"),
    cell={"stray": "norms", "quantization": "nf4", "mixed_precision": "bf16"},
)
def precision_not_entered(patch: Patch) -> None:
    """The model generates as it is, behind the trainer's back."""
    from ftdoctor.prediction import precision

    patch.replace(precision, "rungs", lambda model, asked="auto": (precision.Rung("none", "as the model is"),))


@sample_predictions.fault("generate loses the cache", catches=("shortfall of the tokens, in what rounding explains",))
def cache_lost(patch: Patch) -> None:
    """Each token is chosen from the last one alone."""
    from transformers import GenerationMixin

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        return {**original(self, *args, **kwargs), "past_key_values": None}

    patch.wrap(GenerationMixin, "prepare_inputs_for_generation", around)
