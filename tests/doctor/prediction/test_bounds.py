"""What fits into a model: positions, known tokens, and learned prompts in front of the padding."""

from __future__ import annotations

import pytest

from ftdoctor.prediction import GenerationSettings, PredictionGenerator

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]

POSITIONS = 32


@pytest.fixture
def tokenizer(make_bench):
    return make_bench().tokenizer()


@pytest.fixture
def learned_positions(tokenizer):
    """A model with 32 learned positions, which a longer row ends."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3
        )
    )


def generate(model, tokenizer, prompts, **settings):
    generator = PredictionGenerator(tokenizer, GenerationSettings(**{"max_new_tokens": 8, **settings}))
    return generator.generate(model, prompts)


@pytest.mark.parametrize("asked", [POSITIONS - 1, POSITIONS, POSITIONS + 1, 10 * POSITIONS])
def test_more_new_tokens_than_positions_leave_half_of_them_to_the_prompt(learned_positions, tokenizer, asked):
    """Rather than a prompt of one token, and an index beyond the last position."""
    long, short = generate(learned_positions, tokenizer, [list(range(40, 100)), [40, 41]], max_new_tokens=asked)

    assert (long.error, short.error) == (None, None)
    assert (long.clipped, short.clipped) == (60 - POSITIONS // 2, 0)
    assert [(p.finish, len(p.token_ids)) for p in (long, short)] == [("length", POSITIONS // 2)] * 2


@pytest.mark.parametrize("asked", [POSITIONS - 1, POSITIONS, 10 * POSITIONS])
def test_a_decoder_beside_an_encoder_has_positions_of_its_own(tokenizer, asked):
    """All but the one before its first token."""
    from transformers import BartConfig, BartForConditionalGeneration

    layers = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    widths = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": POSITIONS}
    model = BartForConditionalGeneration(BartConfig(vocab_size=len(tokenizer), **layers, **widths))

    (made,) = generate(
        model, tokenizer, [list(range(40, 100))], max_new_tokens=asked, options={"min_new_tokens": asked - 1}
    )

    assert made.error is None
    assert made.clipped == 60 - POSITIONS
    assert len(made.token_ids) == POSITIONS - 1


def test_a_token_without_an_embedding_is_refused_before_the_model_meets_it(make_bench, tokenizer):
    """On a GPU the process would be lost."""
    model = make_bench(adapter="none").trainable()
    met = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, given: met.append(int(given[0].max())))

    good, bad = generate(model, tokenizer, [[40, 41], [40, len(tokenizer) + 3]])

    assert good.error is None
    assert f"token {len(tokenizer) + 3}, and the model embeddings for {len(tokenizer)}" in bad.error.message
    assert max(met) < len(tokenizer)


def test_a_pad_token_without_an_embedding_pads_nothing(make_bench, tokenizer):
    """It was added to the tokenizer, and the model was not resized: another one fills the rows."""
    model = make_bench(adapter="none").trainable()
    tokenizer.add_special_tokens({"pad_token": "<|new|>"})
    assert tokenizer.pad_token_id >= model.get_input_embeddings().num_embeddings

    made = generate(model, tokenizer, [[40], [40, 41, 42]])

    assert [(p.error, p.batch_size) for p in made] == [(None, 2)] * 2


@pytest.mark.parametrize("kind", ["PromptTuning", "PromptEncoder", "PrefixTuning"])
def test_learned_prompts_stand_as_near_to_the_text_as_in_training(learned_positions, tokenizer, kind):
    """peft counts positions through the padding between them, and predictions would be others, without a word."""
    import peft
    import torch

    config = getattr(peft, f"{kind}Config")(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = peft.get_peft_model(learned_positions, config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    prompts = [list(range(40, 41 + n)) for n in (1, 9, 4, 9)]

    made = generate(model, tokenizer, prompts, max_new_tokens=6)

    assert [(p.error, p.batch_size) for p in made] == [(None, n) for n in (1, 2, 1, 2)]
    assert [p.token_ids for p in made] == [
        generate(model, tokenizer, [p], max_new_tokens=6)[0].token_ids for p in prompts
    ]


def test_virtual_tokens_take_positions_too(learned_positions, tokenizer):
    """A prompt has so many less."""
    import peft

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6)

    (made,) = generate(peft.get_peft_model(learned_positions, config), tokenizer, [list(range(40, 100))])

    assert made.error is None
    assert made.clipped == 60 - (POSITIONS - 6 - 8)
    assert len(made.token_ids) == 8
