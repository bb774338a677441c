"""Everything that generating touches is put back, also after an exception."""

from __future__ import annotations

import contextlib

import pytest

from ftdoctor.bench.traces import changed, traces
from ftdoctor.errors import PredictionError
from ftdoctor.prediction import GenerationSettings, PredictionGenerator
from ftdoctor.prediction.undisturbed import undisturbed

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]

CELLS = [
    {"adapter": "none"},
    {"adapter": "lora", "quantization": "nf4", "dtype": "bfloat16"},
    {"adapter": "lora_head", "quantization": "int8"},
    {"adapter": "lora", "family": "gemma3", "checkpointing": "reentrant"},
]


@pytest.fixture(params=CELLS, ids=lambda cell: "-".join(cell.values()))
def in_training(request, make_bench):
    """A model in the middle of training, with what a trainer switches on, and its tokenizer."""
    bench = make_bench(**request.param)
    model, tokenizer = bench.trainable(), bench.tokenizer()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    some = next(m for m in model.modules() if type(m).__name__.endswith("MLP"))
    some.eval()  # a part that the user keeps in evaluation mode, as frozen norms are
    return model, tokenizer


def predict(model, tokenizer, **settings):
    return PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=4, **settings)).generate(
        model, ["One", "Two two two"]
    )


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"num_beams": 2}])
def test_nothing_is_left_behind(in_training, options):
    """Modes, checkpointing with its options, hooks, cache flags, configs, tokenizer, generators, weights, memory."""
    model, tokenizer = in_training
    predict(model, tokenizer, options=options)
    before, attributes = traces(model, tokenizer), [dict(vars(m)) for m in model.modules()]

    made = predict(model, tokenizer, options=options)

    assert [p.error for p in made] == [None, None]
    assert changed(before, traces(model, tokenizer)) == []
    assert [set(vars(m)) for m in model.modules()] == [set(a) for a in attributes]


def test_nothing_is_left_behind_by_an_exception(in_training):
    """In the middle of a forward pass."""
    model, tokenizer = in_training
    predict(model, tokenizer)
    calls = []

    def late(*_):
        calls.append(1)
        if len(calls) % 3 == 0:
            raise RuntimeError("in the middle")

    model.get_input_embeddings().register_forward_pre_hook(late)
    predict(model, tokenizer)
    before = traces(model, tokenizer)

    made = predict(model, tokenizer)

    assert any(p.error for p in made)
    assert changed(before, traces(model, tokenizer)) == []


def test_the_first_call_changes_nothing_that_the_training_depends_on(in_training):
    """Libraries may make tables for good at the first call; of the run's own states none is touched."""
    model, tokenizer = in_training
    before = traces(model, tokenizer)

    predict(model, tokenizer)

    assert [name for name in changed(before, traces(model, tokenizer)) if name != "memory"] == []


def test_gradients_after_it_are_those_without_it(make_bench):
    """4-bit layers too, on processors on which an evaluation takes their backward away."""
    import torch

    gradients = []
    for asked in (False, True):
        bench = make_bench(quantization="nf4", adapter="lora")
        model, tokenizer = bench.trainable(), bench.tokenizer()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.01)
        if asked:
            predict(model, tokenizer)
        model(**bench.batch(tokenizer, bench.rows(2))).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    assert gradients[0].keys() == gradients[1].keys()
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, rtol=0, atol=0)


def test_in_a_region_of_autocast_the_weights_keep_their_gradients(make_bench):
    """Casts made while generating have none, and autocast would hand them out again."""
    import torch

    bench = make_bench(adapter="none")
    model, tokenizer = bench.trainable().train(), bench.tokenizer()
    batch = bench.batch(tokenizer, bench.rows(2))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = predict(model, tokenizer)
        model(**batch).loss.backward()
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_cache_enabled()

    assert [p.error for p in made] == [None, None]
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_model_that_moves_its_weights_is_told_of(make_bench):
    """The optimizer would train what the model does not use any more."""
    bench = make_bench(adapter="none")
    model, tokenizer = bench.trainable(), bench.tokenizer()

    def move(module, *_):
        module.weight.data = module.weight.data.clone()

    handle = model.get_output_embeddings().register_forward_pre_hook(move)
    with pytest.raises(PredictionError, match=r"moved or cast 1 weights of the model \(lm_head.weight"):
        predict(model, tokenizer)
    handle.remove()


def test_of_a_sharded_model_with_an_adapter_no_config_is_left_on_the_wrapper(make_bench):
    """It would stand before that of the model at the user's next `generate`, with limits of ours."""
    from ftdoctor.prediction import decoding

    bench = make_bench(adapter="lora")
    model = bench.trainable()
    owners = [name for name, module in model.named_modules() if "generation_config" in vars(module)]

    with undisturbed(model, whole=False):
        decoding._use(model, decoding.settings_of(model, bench.tokenizer(), {}, 4).config)

    assert owners == [name for name, module in model.named_modules() if "generation_config" in vars(module)]


def test_of_a_sharded_model_modes_and_what_was_set_are_put_back(make_bench):
    """Attributes that its modules make at their first forward have to stay."""
    model = make_bench(adapter="none").trainable().train()
    config = model.generation_config

    with contextlib.suppress(ZeroDivisionError), undisturbed(model, whole=False):
        model.generation_config, model.made_at_first_forward = None, True
        assert not model.training
        raise ZeroDivisionError

    assert model.training
    assert model.generation_config is config
    assert model.made_at_first_forward
