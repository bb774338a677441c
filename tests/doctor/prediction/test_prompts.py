"""Prompts in tokens as training saw them, made with a tokenizer that is not the trainer's."""

from __future__ import annotations

import pytest

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.prompts import Prompts

pytestmark = pytest.mark.stack

QUESTION = [{"role": "user", "content": "Who?"}]


@pytest.fixture
def tokenizer(make_bench):
    return make_bench().tokenizer()


def test_messages_are_rendered_with_the_prompt_for_an_answer(tokenizer):
    expected = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)

    made = Prompts(tokenizer).encode(QUESTION, None)

    assert made.text == expected
    assert list(made.ids) == tokenizer(expected, add_special_tokens=False)["input_ids"]


def test_tools_and_options_reach_the_template(with_template):
    """From the row, over those of the call."""
    tokenizer = with_template("{{ tools and tools[0].function.name }}|{{ thinking }}|{{ messages[0].content }}")
    prompts = Prompts(tokenizer, {"thinking": "off"})

    assert prompts.encode(QUESTION, None).text == "None|off|Who?"
    row = {
        "messages": QUESTION,
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "chat_template_kwargs": {"thinking": "on"},
    }
    assert prompts.encode(row, None).text == "f|on|Who?"


def test_a_text_gets_the_first_token_once(tokenizer):
    """Also where it has been rendered already."""
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token or tokenizer.eos_token
    tokenizer.bos_token = bos
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    prompts = Prompts(tokenizer)

    assert prompts.encode("Who?", None).ids == prompts.encode(f"{bos}Who?", None).ids
    assert prompts.encode("Who?", None).ids.count(tokenizer.bos_token_id) == 1


def test_an_end_that_the_tokenizer_puts_behind_a_text_is_no_part_of_a_decoders_prompt(tokenizer):
    """`add_eos_token=True` is usual in training scripts. What the text itself ends with stays, and an encoder's end."""
    from tokenizers.processors import TemplateProcessing

    begin, end = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(t, tokenizer.convert_tokens_to_ids(t)) for t in (begin, end)]
    )
    prompts = Prompts(tokenizer)

    assert prompts.encode("The capital is", None).text == f"{begin}The capital is"
    assert prompts.encode("The capital is", None, closed=True).text == f"{begin}The capital is{end}"
    assert prompts.encode(f"{begin}The end{end}", None).text == f"{begin}The end{end}"


def test_the_trainers_tokenizer_is_left_alone(tokenizer):
    """Its padding side, its truncation, and the state of its backend."""
    tokenizer.padding_side = "right"
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=7)

    made = Prompts(tokenizer).encode("a longer text than three tokens", None)

    assert len(made.ids) > 3
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 3
    assert tokenizer.backend_tokenizer.padding["length"] == 7


def test_a_processor_renders_and_its_tokenizer_encodes(tokenizer):
    """What models of text and images have as their `processing_class`."""

    class Processor:
        chat_template = "here"

        def __init__(self, tokenizer):
            self.tokenizer = tokenizer

        def apply_chat_template(self, messages, **_):
            return f"<{messages[0]['content']}>"

    assert Prompts(Processor(tokenizer)).encode(QUESTION, None).text == "<Who?>"


def test_without_a_template_messages_are_refused(tokenizer):
    tokenizer.chat_template = None

    with pytest.raises(PredictionError, match="no chat template; give prompts as text"):
        Prompts(tokenizer).encode(QUESTION, None)


def test_clipping_keeps_the_end(tokenizer):
    made = Prompts(tokenizer).encode([10, 11, 12, 13], 3)

    assert (made.ids, made.clipped) == ((11, 12, 13), 1)
