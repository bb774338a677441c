"""The precision under which a model generates: the trainer's own first, then what its weights suggest."""

from __future__ import annotations

import pytest

from ftdoctor.bench import layers
from ftdoctor.errors import PredictionError
from ftdoctor.prediction import GenerationSettings, PredictionGenerator
from ftdoctor.prediction.precision import dtypes, rungs

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]


def names(model, asked="auto"):
    return [rung.name for rung in rungs(model, asked)]


@pytest.fixture
def prepared(make_bench, monkeypatch):
    """Return a function that builds a trainer around a model and returns both."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # transformers 4 leaves there what a run before had

    def make(mixed, **cell):
        bench = make_bench(mixed_precision=mixed, **cell)
        model, tokenizer = bench.trainable(), bench.tokenizer()
        trainer = bench.trainer(model, tokenizer, bench.arguments(max_steps=1))
        trainer.train()
        return trainer.model, tokenizer

    return make


def test_a_model_that_no_trainer_has_prepared_generates_as_it_is_first(make_bench):
    assert names(make_bench(adapter="none").trainable()) == ["none", "bfloat16"]
    assert names(make_bench(adapter="none", dtype="float16").load()) == ["none", "float16", "bfloat16"]


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_trainers_precision_comes_first(prepared, adapter):
    """Read from accelerate's state."""
    assert names(prepared("bf16", adapter=adapter)[0]) == ["bfloat16", "none"]


def test_what_the_trainer_runs_under_counts_not_what_its_arguments_say(prepared, monkeypatch):
    """accelerate takes the environment's word, where an earlier run of transformers 4 may have left one."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")

    assert names(prepared("none", adapter="lora")[0]) == ["bfloat16", "none"]


def test_a_trainer_without_mixed_precision_has_none(prepared):
    assert names(prepared("none", adapter="lora")[0]) == ["none", "bfloat16"]


def test_another_model_is_not_taken_for_the_trainers(prepared, make_bench):
    """accelerate's state is one for the process."""
    prepared("bf16", adapter="lora")

    assert names(make_bench(adapter="none").trainable()) == ["none", "bfloat16"]


def test_what_is_asked_for_is_all_that_is_tried(make_bench):
    model = make_bench(adapter="none").trainable()

    assert [names(model, asked) for asked in ("none", "bf16", "fp16")] == [["none"], ["bfloat16"], ["float16"]]
    with pytest.raises(PredictionError, match=r"'bf15' is unknown \(did you mean 'bf16'\?\); it is one of auto, none"):
        rungs(model, "bf15")


@pytest.mark.parametrize("stray", ["norms", "head"])
def test_mixed_weights_without_a_trainer_find_the_precision_they_need(make_bench, stray):
    """After training too, in a script of its own; and the next call begins with it."""
    bench = make_bench(adapter="none")
    model, tokenizer = layers.leave_stray(bench.trainable(), stray), bench.tokenizer()
    generator = PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=2))
    calls = []
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: calls.append(1))

    first = generator.generate(model, ["One"])
    needed = len(calls)
    again = generator.generate(model, ["One"])

    assert [p.error for p in (*first, *again)] == [None, None]
    assert first[0].precision == again[0].precision == "bfloat16"
    assert len(calls) - needed < needed


def test_a_precision_that_did_outside_gives_way_to_a_trainers(make_bench):
    """Predictions are made under what the model is trained under."""
    bench = make_bench(adapter="lora", mixed_precision="bf16")
    model, tokenizer = bench.trainable(), bench.tokenizer()
    generator = PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=2))
    before = generator.generate(model, ["One"])[0]
    trainer = bench.trainer(model, tokenizer, bench.arguments(max_steps=1))
    trainer.train()

    assert before.precision == "none"
    assert generator.generate(trainer.model, ["One"])[0].precision == "bfloat16"


def test_where_no_precision_does_the_error_is_that_of_the_first(make_bench):
    """The others are attempts at a cure."""
    bench = make_bench(adapter="none")
    model = bench.trainable()

    def fail(*_):
        import torch

        raise RuntimeError(f"autocast {torch.is_autocast_enabled('cpu')}")

    model.get_input_embeddings().register_forward_pre_hook(fail)
    (made,) = PredictionGenerator(bench.tokenizer()).generate(model, ["One"])

    assert made.error.message == "autocast False"
    assert made.error.autocast == "none"


def test_the_callers_own_autocast_is_kept(make_bench):
    """What a script enters around the call is what it wants."""
    import torch

    bench = make_bench(adapter="none")
    model = bench.trainable()
    seen = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda *_: seen.append((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()))
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        PredictionGenerator(bench.tokenizer(), GenerationSettings(max_new_tokens=2)).generate(model, ["One"])

    assert set(seen) == {(True, False)}


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ({}, ["float32"]),
        ({"quantization": "nf4"}, ["float32", "nf4"]),
        ({"quantization": "int8"}, ["float32", "int8"]),
        ({"dtype": "bfloat16", "adapter": "lora"}, ["bfloat16", "float32"]),
    ],
)
def test_how_the_weights_are_stored_is_said_in_the_fields_own_words(make_bench, cell, told):
    """A 4-bit weight is not `uint8`."""
    assert sorted(dtypes(make_bench(**cell).trainable())) == sorted(told)


def test_another_precision_than_the_first_is_told(make_bench, caplog):
    """With what was wrong with the first, once."""
    bench = make_bench(adapter="none")
    model, tokenizer = layers.leave_stray(bench.trainable(), "norms"), bench.tokenizer()
    generator = PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=2))

    with caplog.at_level("INFO", "ftdoctor.prediction"):
        generator.generate(model, ["One"])
        generator.generate(model, ["One"])

    (told,) = [r.getMessage() for r in caplog.records]
    assert told.startswith("Predictions are generated under bfloat16 (a dtype of the weights), not under none")
    assert "RuntimeError" in told
