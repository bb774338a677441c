"""A sample that cannot be generated costs no other sample, and its record says what was raised, where, and under what.

Why: one row with a broken prompt, or one that is too long for the memory that is left, ends a whole batch and with it
the run; a script that catches the error drops the row and counts on somebody to read the log. The table then has
fewer rows than samples, or none, without a word.

Cure: `PredictionGenerator` of `ftdoctor.prediction`, which halves a failing batch until the sample stands alone, and
keeps its error in its own row. If this probe is red, an exception of this release takes another way: see the finding.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ftdoctor.bench import predicting
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

SAMPLES = 6
BAD = 2
MESSAGE = "this token cannot be embedded"


@probe(
    area="components",
    needs=("transformers",),
    axes=("family", "adapter", "mixed_precision", "device"),
    only={"mixed_precision": ("none", "bf16")},
)
def failing_sample(bench: Bench, check: Check) -> None:
    """Predict for samples of which one holds a token that the model refuses."""
    from ftdoctor.prediction import GenerationSettings, PredictionGenerator

    tokenizer, model = bench.tokenizer(), bench.trainable()
    questions = [q for q, _ in bench.rows(SAMPLES)]
    questions[BAD] += " %QZ&"
    texts = predicting.rendered(tokenizer, questions)
    _refuse(model, tokenizer, texts)
    settings = GenerationSettings(
        max_new_tokens=predicting.NEW_TOKENS, batch_size=SAMPLES, precision=bench.cell["mixed_precision"]
    )
    made = PredictionGenerator(tokenizer, settings).generate(model, texts)
    script = _indices(lambda text: predicting.one_by_one(model, tokenizer, [text], bench.device), texts)
    check.equal(
        "samples with a prediction",
        [p.index for p in made if p.text is not None],
        [i for i in range(SAMPLES) if i != BAD],
        owner=PredictionGenerator.generate,
        beside={"naive": script, **_library(bench, model, tokenizer, questions)},
    )
    check.equal(
        "samples with a record",
        len(made),
        SAMPLES,
        why="a failed sample has a row too",
        owner=PredictionGenerator.generate,
        beside={"naive": len(script)},
    )
    error = made[BAD].error
    check.equal(
        "its error",
        error and (error.kind, error.message, error.device, error.frame.split(" in ")[-1].split(",")[0]),
        ("ValueError", MESSAGE, str(next(model.parameters()).device), "refuse"),
        why="class, message, device and the function that raised it",
        owner=PredictionGenerator.generate,
    )


def _refuse(model: Any, tokenizer: Any, texts: list[str]) -> None:
    """Make the embedding raise at a token that one prompt alone has."""
    ids = [set(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    bad = min(ids[BAD] - set().union(*(found for i, found in enumerate(ids) if i != BAD)))

    def refuse(module: Any, arguments: tuple[Any, ...]) -> None:
        # Prompts alone are judged: a model may well write the token.
        if arguments[0].shape[1] > 1 and bool((arguments[0] == bad).any()):
            raise ValueError(MESSAGE)

    model.get_input_embeddings().register_forward_pre_hook(refuse)


def _indices(predict: Callable[[str], Any], texts: list[str]) -> list[int]:
    """Return the samples that a script has rows for, which catches what is raised and goes on."""
    made = [attempt(functools.partial(predict, text)) for text in texts]
    return [i for i, row in enumerate(made) if not isinstance(row, Exception)]


def _library(bench: Bench, model: Any, tokenizer: Any, questions: list[str]) -> dict[str, Any]:
    """Return what TRL's callback makes of the same samples, where TRL is installed."""
    trainer = bench.trainer(model, tokenizer, bench.arguments())
    sample = predicting.library(trainer, questions)
    trainer.state.global_step = 1
    return {"library": attempt(lambda: list(range(len(sample(trainer.state)))))} if sample else {}


@failing_sample.fault("a failing batch is not halved", catches=("samples with a prediction",))
def not_halved(patch: Patch) -> None:
    """All of its samples get the error of one."""
    from ftdoctor.prediction import generator

    def around(original: Any, self: Any, callee: Any, plan: Any, batch: Any) -> Any:
        error = self._attempt(callee, plan, batch, self.rungs[0])
        if error:
            for index, prompt in batch:
                self._fail(index, prompt, error[0])
        return []

    patch.wrap(generator._Call, "_batch", around)


@failing_sample.fault("a failed sample is left out", catches=("samples with a record",))
def left_out(patch: Patch) -> None:
    """As scripts do, which log its error."""
    from ftdoctor.prediction import PredictionGenerator

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        made = [p for p in original(self, *args, **kwargs) if not p.error]
        return [*made, *made[BAD : BAD + 1]][: len(made)]

    patch.wrap(PredictionGenerator, "generate", around)


@failing_sample.fault("the error is replaced by another", catches=("its error",))
def error_replaced(patch: Patch) -> None:
    """Its class and place are lost."""
    from ftdoctor.prediction import generator

    def around(original: Any, error: Any, *args: Any, **kwargs: Any) -> Any:
        return original(RuntimeError("generation failed"), *args, **kwargs)

    patch.wrap(generator, "sample_error", around)
