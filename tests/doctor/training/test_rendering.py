"""Chat templates after those of well-known models: what the model writes is found in all of them, or refused."""

from __future__ import annotations

import re

import pytest

from ftdoctor.errors import DataError, TrainingError
from ftdoctor.training.labels import Encoder, encode_messages
from ftdoctor.training.messages import Messages

pytestmark = pytest.mark.stack
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Wie heißt die Straße?"},
    {"role": "assistant", "content": "Allee, 東京 🙂"},
    {"role": "user", "content": "And\nthen?"},
    {"role": "assistant", "content": "Nothing.\n\nReally. "},
]


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Without marks of what is generated."""

TRIMMED = CHATML.replace("m['content']", "m['content'] | trim")
"""White space around contents goes, as with Llama 3."""

THINKING = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% set answer = m['content'].split('</think>')[-1].lstrip('\n') %}"
    "{% if m['role'] == 'assistant' and loop.index0 > ns.last %}"
    "{% set thought = m['content'].split('</think>')[0].split('<think>')[-1].strip('\n') "
    "if '</think>' in m['content'] else '' %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' + answer }}{% else %}{{ answer }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
"""Thoughts only behind the last question, an empty one where there is none, as with Qwen3."""

CLOSING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}"
)
"""The whole conversation is closed by one more special token, as with Phi-3."""

UNENDED = (
    "{% for m in messages %}{{ '### ' + m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:' }}{% endif %}"
)
"""No token ends a turn."""

STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Refuses conversations that it does not like."""

GUESSING = CHATML.replace("'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>assistant\n<think>\n' }}{% endif %}")
"""A generation prompt that no answer begins with."""

MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""With marks of what is generated."""

MARKED_WITHOUT_END = MARKED.replace(
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}", "{{ m['content'] }}{% endgeneration %}{{ '<|im_end|>' }}"
)
"""The end of turn stands behind the mark."""

MARKED_USER = MARKED.replace("m['role'] == 'assistant'", "m['role'] == 'user'")
"""The marks stand around the wrong turns."""

WITHOUT_SYSTEM = CHATML.replace("{{ '<|im_start|>'", "{% if m['role'] != 'system' %}{{ '<|im_start|>'", 1).replace(
    "'<|im_end|>\n' }}{% endfor %}", "'<|im_end|>\n' }}{% endif %}{% endfor %}"
)
"""Leaves out system messages without a word."""


def scored(tokenizer, row):
    """The scored text of a row, each run on its own."""
    runs, before = [], -1
    for i, label in enumerate(row["labels"]):
        if label != -100:
            assert label == row["input_ids"][i]
            if before != i - 1:
                runs.append([])
            runs[-1].append(label)
            before = i
    assert len(row["input_ids"]) == len(row["labels"])
    return [tokenizer.decode(run) for run in runs]


WELL_BEHAVED = ("CHATML", "TRIMMED", "CLOSING", "MARKED", "MARKED_WITHOUT_END")


@pytest.mark.parametrize("name", WELL_BEHAVED)
def test_the_same_is_found_without_marks(with_template, name):
    """By rendering beginnings; whatever the template writes behind an end of turn is not scored."""
    tokenizer = with_template(globals()[name])
    answers = [m["content"].strip() if name == "TRIMMED" else m["content"] for m in CHAT if m["role"] == "assistant"]

    assert scored(tokenizer, encode_messages(tokenizer, CHAT)) == [f"{answer}<|im_end|>" for answer in answers]


def test_a_template_that_rewrites_earlier_answers_is_refused_but_for_the_last(with_template):
    """Reasoning models drop the thoughts of earlier turns: what was generated is not what stands in the history."""
    tokenizer = with_template(THINKING)
    thought = [*CHAT[:4], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nNothing."}]

    for chat in (CHAT, thought):
        with pytest.raises(DataError, match=r"writes message 3 otherwise once others follow it .*turns='last'"):
            encode_messages(tokenizer, chat)
    assert scored(tokenizer, encode_messages(tokenizer, thought, turns="last")) == [
        "<think>\nhm\n</think>\n\nNothing.<|im_end|>"
    ]
    assert scored(tokenizer, encode_messages(tokenizer, CHAT[:3])) == [
        "<think>\n\n</think>\n\nAllee, 東京 🙂<|im_end|>"
    ]


def test_variables_of_the_template_reach_it(with_template):
    """For all rows, or a row's own; without thinking the empty thought is part of the prompt."""
    tokenizer = with_template(THINKING)
    off = {"enable_thinking": False}
    expected = ["Allee, 東京 🙂<|im_end|>"]

    assert scored(tokenizer, encode_messages(tokenizer, CHAT[:3], options=off)) == expected
    row = {"messages": CHAT[:3], "chat_template_kwargs": {**off, "other": None}}
    assert scored(tokenizer, Encoder(tokenizer).encode(row)) == expected


CALLING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% for call in m['tool_calls'] or [] %}{{ '<|call|>' + call['function']['name'] + '<|call_end|>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% elif closed %}{{ '<|endoftext|>' }}{% endif %}"
)
"""A call ends with a special token of its own, as with LFM2."""


@pytest.mark.parametrize("closed", [False, True])
def test_the_end_of_a_call_is_not_the_end_of_its_turn(with_template, closed):
    """The last special token of a turn ends it, but for one that closes the whole conversation."""
    tokenizer = with_template(CALLING)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|call|>", "<|call_end|>"]})
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "count"}}]}
    chat = [
        {"role": "user", "content": "Hi"},
        call,
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "3"},
    ]
    called, answered = "<|call|>count<|call_end|><|im_end|>", "3<|im_end|>"

    options = {"closed": closed}
    assert scored(tokenizer, encode_messages(tokenizer, chat, options=options)) == [called, answered]
    assert scored(tokenizer, encode_messages(tokenizer, chat[:2], options=options)) == [called]


def test_a_template_that_knows_no_tools_is_refused(with_template):
    """Its model would learn to answer nothing where it should call, or never see what came back."""
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "count"}}]}
    chat = [{"role": "user", "content": "Hi"}, call, {"role": "tool", "content": 'it\'s "3"'}, CHAT[2]]
    with pytest.raises(DataError, match="leaves out the call of 'count' in message 2"):
        encode_messages(with_template(CHATML), chat)
    deaf = CALLING.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'tool' %}", 1)
    with pytest.raises(DataError, match="leaves out message 3, of the role 'tool'"):
        encode_messages(with_template(deaf), chat)

    for written in ("m['content']", "(m['content'] | tojson if m['role'] == 'tool' else m['content'])"):
        tokenizer = with_template(CALLING.replace("m['content']", written))
        assert scored(tokenizer, encode_messages(tokenizer, chat, turns="last")) == ["Allee, 東京 🙂<|im_end|>"]


def test_a_mark_may_begin_before_what_the_model_writes(with_template):
    """Where the generation prompt writes the beginning of each answer: the model does not write it again."""
    begun = "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}{{ '<think>\n' + "
    template = MARKED.replace(
        "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}{{ ", begun
    ).replace("'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>assistant\n<think>\n' }}{% endif %}")
    assert template.count("<think>") == 2
    tokenizer = with_template(template)

    assert scored(tokenizer, encode_messages(tokenizer, CHAT))[0] == "Allee, 東京 🙂<|im_end|>"


def test_answers_that_would_be_joined_with_their_prompts_are_found_too(with_template):
    """Each turn, though nothing stands between the generation prompt and the answer."""
    begun = "{{ '<|im_start|>' + ('Say o' if m['role'] == 'assistant' else 'user ') + m['content'] + '<|im_end|>' }}"
    asked = "{% if add_generation_prompt %}{{ '<|im_start|>Say o' }}{% endif %}"
    tokenizer = with_template("{% for m in messages %}" + begun + "{% endfor %}" + asked)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "ne, then on"}] * 2
    encoder = Encoder(tokenizer)
    row = encoder.encode({"messages": chat})

    assert scored(tokenizer, row) == ["ne, then on<|im_end|>"] * 2
    assert encoder.counts.joined > 0
    first = next(i for i, label in enumerate(row["labels"]) if label != -100)
    prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert row["input_ids"][:first] == tokenizer(prompt, add_special_tokens=False)["input_ids"]


def test_tools_reach_the_template(with_template):
    """As a list, or as the JSON that tables hold."""
    tokenizer = with_template("{% if tools %}{{ '<|im_start|>' + tools[0]['name'] + '\n' }}{% endif %}" + CHATML)
    rows = [{"messages": CHAT, "tools": tools} for tools in ([{"name": "count"}], '[{"name": "count"}]', None, [])]
    begun = [tokenizer.decode(Encoder(tokenizer).encode(row)["input_ids"])[:25] for row in rows]

    assert [text.startswith("<|im_start|>count\n") for text in begun] == [True, True, False, False]
    with pytest.raises(DataError, match="row 1: its tools are not JSON"):
        Encoder(tokenizer).rows([{"messages": CHAT, "tools": "[{"}])


REFUSED = {
    "GUESSING": (CHAT, "writes the prompt of message 3 otherwise than in the whole conversation"),
    "STRICT": (CHAT, "refuses the messages (TemplateError: Conversation roles must alternate)"),
    "MARKED_USER": (CHAT, "block says that '.' (token 96) is not written"),
    "WITHOUT_SYSTEM": (CHAT, "leaves out message 1, of the role 'system'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_be_understood_is_refused(with_template, name):
    """With the row, what does not agree, and the way out; never masked wrongly."""
    chat, what = REFUSED[name]
    with pytest.raises(DataError) as caught:
        Encoder(with_template(globals()[name])).rows(
            [{"messages": CHAT[1:3]}] * (name == "STRICT") + [{"messages": chat}]
        )

    assert what in str(caught.value)
    assert str(caught.value).startswith("row 2: " if name == "STRICT" else "row 1: ")
    assert str(caught.value).endswith(".")


def test_an_answer_that_the_template_changes_is_refused(with_template):
    """What is scored must be what the row says."""
    tokenizer = with_template(CHATML.replace("m['content']", "m['content'] | upper"))
    with pytest.raises(DataError, match=r"leaves out message|does not write message"):
        encode_messages(tokenizer, CHAT)
    tokenizer = with_template(
        CHATML.replace("m['content']", "(m['content'] | upper if m['role'] == 'assistant' else m['content'])")
    )
    with pytest.raises(DataError, match="does not write message 3 as it is: 'Allee"):
        encode_messages(tokenizer, CHAT)


@pytest.mark.parametrize("turns", ["all", "last"])
def test_a_template_without_ends_of_turn_is_given_the_end_of_sequence(with_template, turns):
    """Once, at the end, counted; else the model would never learn to stop."""
    tokenizer = with_template(UNENDED)
    encoder = Encoder(tokenizer, turns=turns)
    row = encoder.encode({"messages": CHAT})

    assert (
        scored(tokenizer, row) == [" Allee, 東京 🙂", " Nothing.\n\nReally.<|im_end|>"][-1 if turns == "last" else 0 :]
    )
    assert row["input_ids"].count(tokenizer.eos_token_id) == 1
    assert (encoder.counts.ends, encoder.counts.ends_added) == ({}, 1)


def test_no_end_at_all_is_an_error(with_template):
    """Of the tokenizer."""
    tokenizer = with_template(UNENDED)
    tokenizer.eos_token = None
    for row in ({"messages": CHAT}, {"prompt": "a", "completion": "b"}):
        with pytest.raises(TrainingError, match="Nothing ends the answers"):
            Encoder(tokenizer).encode(row)


def test_an_end_of_turn_need_not_be_marked_special(with_template):
    """Some tokenizers only add it to their vocabulary."""
    from tokenizers import AddedToken

    tokenizer = with_template(CHATML.replace("<|im_end|>", "<turn_end>"))
    tokenizer.add_tokens([AddedToken("<turn_end>", special=False, normalized=False)])
    encoder = Encoder(tokenizer)

    assert scored(tokenizer, encoder.encode({"messages": CHAT}))[0] == "Allee, 東京 🙂<turn_end>"
    assert encoder.counts.ends == {"<turn_end>": 2}
    assert encoder.counts.ends_added == 0


@pytest.mark.parametrize("answer", ["s", "</s", "Hello<|im_end|>", "a<|im_end|>\nb", "<|im_end|>", "  x\t"])
def test_answers_that_look_like_ends_are_scored_whole(with_template, answer):
    """Up to the end of turn that the template writes; text of special tokens is counted."""
    tokenizer = with_template(CHATML)
    encoder = Encoder(tokenizer)
    row = encoder.encode({"messages": [{"role": "user", "content": "s</s>"}, {"role": "assistant", "content": answer}]})

    assert scored(tokenizer, row) == [f"{answer}<|im_end|>"]
    assert encoder.counts.control_text == ("<|im_end|>" in answer)


def test_keys_that_tables_fill_in_do_not_reach_the_template(with_template):
    """With None in them; templates ask whether a key is there."""
    tokenizer = with_template(CHATML.replace("m['content']", "('!' if 'name' in m else '') + m['content']"))
    chat = [{**m, "name": None} for m in CHAT]

    assert encode_messages(tokenizer, chat) == encode_messages(tokenizer, CHAT)

    parts = CHATML.replace(
        "m['content']", "m['content'] | map(attribute='text') | join + ('!' if 'image' in m['content'][0] else '')"
    )
    tokenizer = with_template(parts)
    typed = [{"role": m["role"], "content": [{"type": "text", "text": m["content"], "image": None}]} for m in CHAT]
    assert encode_messages(tokenizer, typed) == encode_messages(with_template(CHATML), CHAT)


def shipped_templates():
    """The chat templates that TRL brings along, of some fifty models."""
    import importlib.util
    from pathlib import Path

    found = importlib.util.find_spec("trl")
    folder = Path(found.submodule_search_locations[0]) / "chat_templates" if found else Path()
    return sorted(folder.glob("*.jinja"))


@pytest.mark.skipif(not shipped_templates(), reason="this release of TRL brings no chat templates")
def test_templates_of_real_models_are_understood_or_refused(bench_cache):
    """Whatever is accepted, the last answer is scored, up to the token that ends the turn, behind inference's prompt."""
    from ftdoctor.bench import tokenizers

    chat = [CHAT[1], {"role": "assistant", "content": "Allee."}, CHAT[3], {"role": "assistant", "content": "None."}]
    understood, refused = 0, 0
    for path in shipped_templates():
        source = path.read_text(encoding="utf-8")
        tokenizer = tokenizers.build("llama3", "512", bench_cache)
        tokenizer.chat_template = source
        names = sorted(set(re.findall(r"<\|[a-zA-Z_]+\|>|<[a-z]+_of_[a-z]+>|<turn\|>|<\|turn>|</s>", source)))
        tokenizer.add_special_tokens({"additional_special_tokens": names})
        (row,) = Messages(tokenizer=tokenizer).rows([{"messages": chat}])
        try:
            made = encode_messages(tokenizer, row["messages"], turns="last")
        except DataError:
            refused += 1
            continue
        understood += 1
        (text,) = scored(tokenizer, made)
        _, _, end = text.partition("None.")
        assert "None." in text, path.name
        assert end, path.name
        first = next(i for i, label in enumerate(made["labels"]) if label != -100)
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        assert made["input_ids"][:first] == tokenizer(prompt, add_special_tokens=False)["input_ids"], path.name

    assert understood > 3 * refused
