"""Predictions of a model as it stands in training: right, in batches, each failure alone, within limits."""

from __future__ import annotations

import math
import time

import pytest

from ftdoctor.bench import predicting
from ftdoctor.errors import PredictionError
from ftdoctor.prediction import GenerationSettings, PredictionGenerator

pytestmark = pytest.mark.stack

NEW = 8


@pytest.fixture
def model_and_tokenizer(make_bench):
    """A small model in training mode, and its tokenizer."""
    bench = make_bench(adapter="none")
    return bench.trainable().train(), bench.tokenizer()


@pytest.fixture
def generate(model_and_tokenizer):
    """Return a function that predicts for these prompts with these settings."""
    model, tokenizer = model_and_tokenizer

    def call(prompts, model=model, **settings):
        return PredictionGenerator(tokenizer, GenerationSettings(**{"max_new_tokens": NEW, **settings})).generate(
            model, prompts
        )

    return call


def chat(text):
    return [{"role": "user", "content": text}]


def ids(made):
    return [p.token_ids for p in made]


def test_texts_messages_and_token_ids_of_the_same_prompt_give_the_same_prediction(generate, model_and_tokenizer):
    """Whatever form a prompt comes in, the model is shown the same tokens."""
    _, tokenizer = model_and_tokenizer
    text = predicting.rendered(tokenizer, ["Who are you?"])[0]
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]

    as_text, as_messages, as_ids, with_tools = generate(
        [text, chat("Who are you?"), tokens, {"messages": chat("Who are you?")}]
    )

    assert as_text.token_ids == as_messages.token_ids == as_ids.token_ids == with_tools.token_ids
    assert as_text.prompt == as_messages.prompt == text
    assert as_text.text == tokenizer.decode(as_text.token_ids, skip_special_tokens=True)


def test_the_order_is_that_of_the_prompts_though_batches_are_sorted_by_length(generate):
    """Long and short ones mixed."""
    prompts = [chat("word " * n) for n in (9, 1, 5, 2, 7)]

    together = generate(prompts, batch_size=2)
    each = [generate([p])[0] for p in prompts]

    assert [p.index for p in together] == [0, 1, 2, 3, 4]
    assert ids(together) == ids(each)
    assert [p.batch_size for p in together] == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3", "phi3", "qwen3_moe"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_in_float32_tokens_do_not_depend_on_the_batch(make_bench, family, attention):
    """Sixteen prompts of different lengths in one batch, in batches of three, in groups of equal length, and alone."""
    bench = make_bench(family=family, attention=attention, adapter="none")
    model, tokenizer = talkative(bench.trainable()), bench.tokenizer()
    prompts = [chat("and " * (i * 3 % 11) + q) for i, (q, _) in enumerate(bench.rows(16))]

    def tokens(**settings):
        return ids(
            PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=NEW, **settings)).generate(model, prompts)
        )

    alone = tokens(batch_size=1)

    assert tokens(batch_size=16) == tokens(batch_size=3) == tokens(exact=True) == alone
    assert len(set(alone)) > 4, "a model that answers everything alike shows nothing"


def talkative(model):
    """Give a new model something to say: some answer everything with one token."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def test_groups_of_equal_length_hold_no_padding(generate, model_and_tokenizer):
    """`exact` splits where lengths differ."""
    made = generate([[50], [50, 60, 70], [51], [51, 61, 71], [52]], exact=True)

    assert [p.batch_size for p in made] == [3, 2, 3, 2, 3]


def test_generation_ends_with_the_end_of_the_turn_of_model_or_tokenizer(model_and_tokenizer):
    """Fine-tuning teaches the tokenizer's; the model's own may be another, or a list."""
    model, tokenizer = model_and_tokenizer
    first = PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=NEW)).generate(model, ["One"])[0]
    third = first.token_ids[2]

    for own, taught in ((third, None), ([third, 3], tokenizer.eos_token_id), (None, third)):
        model.generation_config.eos_token_id = own
        tokenizer.eos_token_id = taught
        made = PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=NEW)).generate(model, ["One"])[0]

        assert made.finish == "stop"
        assert made.token_ids == first.token_ids[: first.token_ids.index(third) + 1]
        assert model.generation_config.eos_token_id == own
    assert first.finish == "length"


def test_a_stop_string_ends_it_too(generate):
    """An option that needs the tokenizer."""
    whole = generate(["One"])[0]
    stop = whole.text[3:5]

    made = generate(["One", "Another, longer one"], options={"stop_strings": [stop]})[0]

    assert made.finish == "stop"
    assert stop in made.text
    assert len(made.token_ids) < len(whole.token_ids)


def test_what_the_models_own_config_says_of_sampling_does_not_reach_greedy_predictions(generate, model_and_tokenizer):
    """Many models ship `do_sample=True`; the same samples have to be comparable from step to step."""
    model, _ = model_and_tokenizer
    plain = ids(generate(["One", "Two"]))
    model.generation_config.update(do_sample=True, temperature=7.0, top_k=50, top_p=0.9)
    before = model.generation_config.to_dict()

    assert ids(generate(["One", "Two"])) == plain
    assert model.generation_config.to_dict() == before


def test_other_settings_of_the_model_are_kept(generate, model_and_tokenizer):
    """A repetition penalty belongs to how the model is used."""
    model, _ = model_and_tokenizer
    plain = ids(generate(["One one one one"]))
    model.generation_config.repetition_penalty = 50.0

    assert ids(generate(["One one one one"])) != plain


def test_sampling_repeats_with_the_seed_and_differs_without_it(generate):
    """The generators that training draws from have nothing to do with it."""
    options = {"do_sample": True, "temperature": 5.0}

    first, again, other = (ids(generate(["One", "Two"], options=options, seed=seed)) for seed in (1, 1, 2))

    assert first == again != other


class TestLimits:
    """A model that never stops cannot hold up the training."""

    def test_tokens_of_a_prediction(self, generate):
        """`max_new_tokens`."""
        assert [len(p.token_ids) for p in generate(["One", "Two"], max_new_tokens=5)] == [5, 5]

    def test_tokens_of_a_call(self, generate):
        """What does not get any says so; the others get their share."""
        made = generate([chat("a " * n) for n in range(6)], max_tokens=20, batch_size=2)

        assert sum(len(p.token_ids) for p in made) <= 20
        assert [p.finish for p in made] == ["length"] * 4 + ["error"] * 2
        assert "max_tokens" in str(made[-1].error)

    def test_time_within_a_batch(self, generate, model_and_tokenizer):
        """What was written by then is kept."""
        slow_down(model_and_tokenizer[0], 0.02)
        begun = time.monotonic()

        made = generate(["One", "Two"], max_new_tokens=400, max_seconds=0.5)

        assert time.monotonic() - begun < 5
        assert {p.finish for p in made} == {"time"}
        assert all(0 < len(p.token_ids) < 100 for p in made)

    def test_time_between_batches(self, generate, model_and_tokenizer):
        """The rest is not begun, and says why."""
        slow_down(model_and_tokenizer[0], 0.05)

        made = generate(["One", "Two", "Three"], batch_size=1, max_seconds=0.12, max_new_tokens=100)

        assert made[0].finish == "time"
        assert made[-1].text is None
        assert "max_seconds" in made[-1].error.message

    @pytest.mark.parametrize("name", ["max_new_tokens", "batch_size", "max_seconds", "max_tokens"])
    @pytest.mark.parametrize("value", [0, -1, math.nan, "3"])
    def test_limits_that_make_no_sense_are_refused(self, name, value):
        """At once, by name."""
        with pytest.raises(PredictionError, match=name):
            GenerationSettings(**{name: value})


def slow_down(model, seconds):
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: time.sleep(seconds))


class TestFailures:
    """A sample that fails costs no other."""

    def test_only_the_failing_samples_fail(self, generate, model_and_tokenizer):
        """Two of nine, in one batch; the others are as without them."""
        model, tokenizer = model_and_tokenizer
        texts = [
            f"{w} " * (i + 2) for i, w in enumerate(("one", "two", "six", "ten", "red", "sky", "hat", "cup", "map"))
        ]
        alone = ids(generate(texts))
        bad = {tokenizer("%", add_special_tokens=False)["input_ids"][0]}
        refuse(model, bad)
        texts[3] += "%"
        texts[7] += "%"

        made = generate(texts)

        assert [p.index for p in made if p.error] == [3, 7]
        assert [p.token_ids for p in made if not p.error] == [t for i, t in enumerate(alone) if i not in (3, 7)]

    def test_the_record_says_what_where_and_under_which_precision(self, generate, model_and_tokenizer):
        """Class, message, dtypes, device, autocast, and the raising frame without the folders above the package."""
        model, tokenizer = model_and_tokenizer
        refuse(model, set(tokenizer("%", add_special_tokens=False)["input_ids"]))

        error = generate(["%"], precision="bf16")[0].error

        assert (error.kind, error.message) == ("ValueError", "not this one, please")
        assert (error.dtypes, error.device, error.autocast) == ("float32", "cpu", "bfloat16")
        assert error.frame.startswith("prediction/test_generator.py:")
        assert " in look, called from torch/nn/modules/module.py:" in error.frame
        assert str(error).startswith(
            "ValueError: not this one, please (weights float32, on cpu, autocast bfloat16, at "
        )

    def test_out_of_memory_halves_the_batch_and_needs_no_other_precision(self, generate, model_and_tokenizer):
        """As many as fit are generated together."""
        import torch

        model, _ = model_and_tokenizer
        asked = []

        def look(module, arguments):
            asked.append(arguments[0].shape[0])
            if arguments[0].shape[0] > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

        model.get_input_embeddings().register_forward_pre_hook(look)
        made = generate(["One", "Two", "Three", "Four", "Five"])

        assert [p.error for p in made] == [None] * 5
        assert asked[0] == 5
        assert max(n for n in asked[1:]) < 5
        assert sorted(p.batch_size for p in made) == [1, 2, 2, 2, 2]

    @pytest.mark.parametrize(
        ("prompt", "told"),
        [
            (None, "a prompt is a text"),
            (3.5, "a prompt is a text"),
            ([{"role": "user"}, 7], "messages, or token ids"),
            ({"rows": []}, "a prompt is a text"),
            ([{"role": "nobody", "content": "x", "nested": {"a": 1}}], None),
        ],
    )
    def test_a_prompt_that_cannot_be_encoded_is_a_failed_sample(self, generate, prompt, told):
        """Its neighbours are not."""
        bad, good = generate([prompt, "One"])

        assert good.error is None
        if told:
            assert bad.text is None
            assert told in bad.error.message

    def test_tokens_that_the_tokenizer_cannot_decode_cost_their_sample_alone(self, generate, model_and_tokenizer):
        """As with sentencepiece, where the embeddings are padded beyond its vocabulary."""
        _, tokenizer = model_and_tokenizer
        bad = generate([[45, 46]])[0].token_ids

        class Refusing(type(tokenizer)):
            def decode(self, ids, skip_special_tokens=False, **more):
                if skip_special_tokens and tuple(ids) == bad:
                    raise IndexError("piece id is out of range")
                return super().decode(ids, skip_special_tokens=skip_special_tokens, **more)

        tokenizer.__class__ = Refusing
        made = generate([[45, 46], [50, 51, 52], [60]])

        assert [p.error and p.error.message for p in made] == ["piece id is out of range", None, None]
        assert [p.finish == "error" for p in made] == [True, False, False]

    def test_one_text_is_not_a_list_of_prompts(self, generate):
        """Each of its letters would be one."""
        with pytest.raises(PredictionError, match="give a list"):
            generate("Who are you?")

    def test_an_empty_prompt_begins_with_the_first_token_of_a_text(self, generate, model_and_tokenizer):
        """Where the libraries raise an IndexError or a reshape error."""
        _, tokenizer = model_and_tokenizer

        made = generate([[], "One"])

        assert [p.error for p in made] == [None, None]
        assert made[0].prompt == tokenizer.decode([tokenizer.bos_token_id or tokenizer.eos_token_id])

    def test_no_prompts_are_no_predictions(self, generate):
        """And no call of the model."""
        assert generate([]) == []

    def test_what_fails_around_the_batches_fails_every_sample(self, make_bench):
        """A model without `generate`."""
        import torch

        bench = make_bench()

        made = PredictionGenerator(bench.tokenizer()).generate(torch.nn.Linear(2, 2), ["One", "Two"])

        assert [p.text for p in made] == [None, None]
        assert "config" in made[0].error.message

    def test_a_user_who_stops_it_stops_it(self, generate, model_and_tokenizer):
        """Ctrl-C is not a failed sample, and everything is put back."""
        model, _ = model_and_tokenizer

        def stop(*_):
            raise KeyboardInterrupt

        model.get_input_embeddings().register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            generate(["One"])

        assert all(module.training for module in model.modules())


def refuse(model, bad):
    """Make the model raise at prompts with one of these tokens."""

    def look(module, arguments):
        if arguments[0].shape[1] > 1 and bad & set(arguments[0].flatten().tolist()):
            raise ValueError("not this one, please")

    model.get_input_embeddings().register_forward_pre_hook(look)


class TestModels:
    """What is not a Llama."""

    def test_a_prompt_that_leaves_no_room_is_clipped_at_its_beginning(self, make_bench):
        """Where learned positions end, the libraries raise an IndexError; on a GPU the process is lost."""
        from transformers import GPT2Config, GPT2LMHeadModel

        tokenizer = make_bench().tokenizer()
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=1, n_head=2))
        long = list(range(40, 90))

        made, short = PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=NEW)).generate(
            model, [long, [40, 41]]
        )

        assert (made.error, short.error) == (None, None)
        assert (made.clipped, short.clipped) == (26, 0)
        assert made.prompt == tokenizer.decode(long[26:])
        assert len(made.token_ids) == NEW

    def test_batches_of_learned_positions_are_those_of_one_by_one(self, make_bench):
        """Padding on the left moves no position."""
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        tokenizer = make_bench().tokenizer()
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
        )
        prompts = [list(range(40, 41 + n)) for n in (1, 9, 4, 20)]
        generator = PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=NEW))

        assert ids(generator.generate(model, prompts)) == [ids(generator.generate(model, [p]))[0] for p in prompts]

    def test_an_encoder_decoder_keeps_all_of_its_answer(self, make_bench):
        """Its output does not begin with the prompt: cut by the prompt's length it loses tokens in silence."""
        import torch
        from transformers import T5Config, T5ForConditionalGeneration

        tokenizer = make_bench().tokenizer()
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(tokenizer),
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=1,
                num_heads=4,
                decoder_start_token_id=0,
                pad_token_id=0,
                initializer_factor=3.0,
            )
        )
        prompts = [[50, 51, 52, 53, 54, 55], [60], [70, 71, 72]]
        made = PredictionGenerator(tokenizer, GenerationSettings(max_new_tokens=NEW)).generate(model, prompts)
        model.eval()
        plain = [
            model.generate(torch.tensor([p]), do_sample=False, max_new_tokens=NEW)[0, 1:].tolist() for p in prompts
        ]

        assert [p.error for p in made] == [None] * 3
        for prediction, expected in zip(made, plain, strict=True):
            assert list(prediction.token_ids) == expected[: len(prediction.token_ids)]
            assert len(prediction.token_ids) == NEW or prediction.finish == "stop"


def test_unknown_options_are_refused_when_they_are_given(make_bench):
    """Not after an epoch; with the nearest name."""
    tokenizer = make_bench().tokenizer()

    for options, told in (
        ({"temprature": 1.0}, "did you mean 'temperature'"),
        ({"max_new_tokens": 4}, "use max_new_tokens of GenerationSettings"),
        ({"max_time": 4}, "use max_seconds of GenerationSettings"),
        ({"num_return_sequences": 4}, "the generator sets it itself"),
    ):
        with pytest.raises(PredictionError, match=told):
            PredictionGenerator(tokenizer, GenerationSettings(options=options))
    with pytest.raises(PredictionError, match="bf16"):
        GenerationSettings(precision="bfloat")
