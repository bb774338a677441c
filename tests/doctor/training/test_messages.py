"""Rows to messages: one system prompt, contents that are text, an order that can be trained on, and all of it counted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ftdoctor.errors import ConfigError, DataError, TrainingError
from ftdoctor.training.data import read_rows
from ftdoctor.training.duplicates import Seen
from ftdoctor.training.message_rules import RULES_FILE, MessageRules
from ftdoctor.training.messages import Messages

ASK, SAY = {"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Three of them."}
SYSTEM = {"role": "system", "content": "Be brief."}
CHAT = {"messages": [ASK, SAY]}


def text_messages(**rules):
    """Messages that need no tokenizer."""
    return Messages(MessageRules(parts="text", **rules))


def convert(row, **rules):
    return text_messages(**rules).convert(row, "row 1")


def refusal(row, **rules):
    with pytest.raises(DataError) as caught:
        convert(row, **rules)
    said = str(caught.value)
    assert said.startswith("row 1: ")
    assert said.endswith("or leave such rows out with invalid='drop'.")
    return said


FORMS = {
    "messages": ({"messages": [ASK, SAY]}, {"messages": [ASK, SAY]}),
    "texts": (
        {"prompt": ASK["content"], "completion": SAY["content"]},
        {"prompt": [ASK], "completion": [SAY]},
    ),
    "lists": ({"prompt": [SYSTEM, ASK], "completion": [SAY]}, {"prompt": [SYSTEM, ASK], "completion": [SAY]}),
    "mixed": ({"prompt": [ASK], "completion": SAY["content"]}, {"prompt": [ASK], "completion": [SAY]}),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": ASK["content"]}, {"from": "gpt", "value": SAY["content"]}]},
        {"messages": [ASK, SAY]},
    ),
    "sharegpt with a system": (
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": ASK["content"]},
                {"from": "gpt", "value": SAY["content"]},
            ]
        },
        {"messages": [SYSTEM, ASK, SAY]},
    ),
    "a system of its own column": ({**CHAT, "system": "Be brief."}, {"messages": [SYSTEM, ASK, SAY]}),
    "columns that are nobody's business": ({**CHAT, "id": 7, "prompt": "old"}, CHAT),
    "tools": ({**CHAT, "tools": [{"type": "function"}]}, {**CHAT, "tools": [{"type": "function"}]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_known_form_becomes_messages(form):
    """Prompt and completion stay two, so that the completion alone is scored."""
    row, expected = FORMS[form]

    assert convert(row) == expected


SYSTEMS = {
    "none": ([ASK, SAY], {}, "Answer in JSON."),
    "its own": ([SYSTEM, ASK, SAY], {}, "Be brief."),
    "an empty one": ([{"role": "system", "content": " "}, ASK, SAY], {}, "Answer in JSON."),
    "in a column": ([ASK, SAY], {"system": "Be brief."}, "Be brief."),
    "in a column and a message": ([SYSTEM, ASK, SAY], {"system": "Be long."}, "Be brief."),
    "a developer's": ([{"role": "developer", "content": "Be brief."}, ASK, SAY], {}, "Be brief."),
}


@pytest.mark.parametrize("case", SYSTEMS)
def test_there_is_exactly_one_system_prompt(case):
    """Put in where there is none, never twice, however often it is done."""
    given, columns, wanted = SYSTEMS[case]
    messages = text_messages(system_prompt="Answer in JSON.")
    once = messages.convert({"messages": given, **columns})
    again = convert(once, system_prompt="Answer in JSON.")

    systems = [m["content"] for m in once["messages"] if m["role"] in ("system", "developer")]
    assert systems == [wanted]
    assert once["messages"][1:] == [ASK, SAY]
    assert messages.counts.systems_added == (wanted == "Answer in JSON.")
    assert again == once


def test_no_system_prompt_is_put_in_unasked():
    """Not even an empty one: some templates make a difference of it."""
    assert convert(CHAT) == CHAT


def test_the_system_prompt_goes_before_the_prompt_of_a_completion():
    """Where it is not scored."""
    made = convert({"prompt": "a", "completion": "b"}, system_prompt="S")

    assert [m["role"] for m in made["prompt"]] == ["system", "user"]
    assert [m["role"] for m in made["completion"]] == ["assistant"]


CONTENTS = {
    "int": (5, "5"),
    "float": (0.5, "0.5"),
    "bool": (True, "true"),
    "NoneType": (None, "null"),
    "dict": ({"größe": 1, "a": [None]}, '{"größe": 1, "a": [null]}'),
    "list": ([1, "x"], '[1, "x"]'),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_contents_that_are_data_are_written_as_json(kind):
    """As JSON reads them back, not as Python prints them; by type they are counted."""
    value, text = CONTENTS[kind]
    messages = text_messages()
    made = messages.convert({"messages": [{"role": "user", "content": value}, SAY]})

    assert made["messages"][0]["content"] == text
    assert json.loads(text) == value
    assert messages.counts.written_as_json == {kind: 1}


@pytest.mark.parametrize("kind", CONTENTS)
def test_contents_that_are_data_are_refused_where_the_caller_wants_it(kind):
    """With the type and the message's number."""
    said = refusal({"messages": [ASK, {"role": "assistant", "content": CONTENTS[kind][0]}]}, contents="refuse")

    assert f"message 2 has a content of type {kind}" in said


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {1, 2}, b"bytes"], ids=str)
def test_contents_that_json_cannot_write_are_refused(value):
    """Rather than made up."""
    assert "that JSON cannot write" in refusal({"messages": [{"role": "user", "content": value}, SAY]})


def test_half_a_character_is_refused():
    """Tokenizers raise errors of their own on it, naming no row."""
    row = json.loads('{"prompt": "\\ud83d", "completion": "b"}')

    assert "surrogate" in refusal(row)


PARTS = [{"type": "text", "text": "How "}, {"type": "text", "text": "many?"}]


def test_typed_parts_of_text_become_text():
    """As templates would write them: one after the other."""
    messages = text_messages()
    made = messages.convert({"messages": [{"role": "user", "content": PARTS}, SAY]})

    assert made == CHAT
    assert messages.counts.flattened == 1


def test_text_becomes_typed_parts():
    """For templates that iterate over them."""
    messages = Messages(MessageRules(parts="typed"))
    made = messages.convert({"messages": [{"role": "user", "content": PARTS}, {**SAY, "content": 5}]})

    assert [m["content"] for m in made["messages"]] == [PARTS, [{"type": "text", "text": "5"}]]
    assert messages.counts.made_typed == 1


def test_an_image_stays_where_the_template_wants_parts_and_is_refused_where_it_wants_text():
    """It cannot be flattened."""
    row = {"messages": [{"role": "user", "content": [{"type": "image"}, *PARTS]}, SAY]}

    assert Messages(MessageRules(parts="typed")).convert(row)["messages"][0] == row["messages"][0]
    assert "a part of type 'image'" in refusal(row)


@pytest.mark.parametrize(
    "value", [[], ["a"], [{"type": "fruit", "name": "pear"}], [{"type": "text"}], [{"a": 1}]], ids=str
)
def test_a_list_that_is_no_typed_parts_is_data(value):
    """It is written as JSON."""
    assert convert({"messages": [{"role": "user", "content": value}, SAY]})["messages"][0]["content"] == json.dumps(
        value
    )


def message(role, content="x"):
    return {"role": role, "content": content}


REFUSED = {
    "no turns": ([ASK, ASK, SAY], "message 2, of the user, stands after user"),
    "assistant first": ([SAY, ASK, SAY], "message 1, of the assistant, stands at the beginning"),
    "two assistants": ([ASK, SAY, SAY], "message 3, of the assistant, stands after assistant"),
    "late system": ([ASK, SAY, SYSTEM, ASK, SAY], "message 3, of the system, stands after assistant"),
    "two systems": ([SYSTEM, SYSTEM, ASK, SAY], "message 2, of the system, stands after system"),
    "tool first": ([message("tool"), SAY], "of the tool, stands at the beginning"),
    "tool for a user": ([ASK, message("tool"), SAY], "of the tool, stands after user"),
    "no answer": ([ASK], "it ends with the user, so there is no answer to learn"),
    "no answer to a tool": ([ASK, SAY, message("tool")], "it ends with the tool"),
    "unknown role": ([message("asistant"), SAY], "unknown role 'asistant' (did you mean 'assistant'?)"),
    "no role": ([{"content": "x"}, SAY], "message 1 has no role"),
    "role is no text": ([{"role": 1, "content": "x"}, SAY], "message 1 has no role"),
    "no message": (["How many?", SAY], "message 1 has no role"),
    "no content": ([{"role": "user"}, SAY], "message 1 has no content"),
    "empty question": ([message("user", " \n"), SAY], "message 1, of the user, is empty"),
    "empty answer": ([ASK, message("assistant", "")], "message 2, of the assistant, is empty"),
    "empty parts": (
        [ASK, message("assistant", [{"type": "text", "text": ""}])],
        "message 2, of the assistant, is empty",
    ),
    "no messages": ([], "the conversation is empty or no list"),
    "text": ("How many?", "the conversation is empty or no list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_refused(case):
    """In one sentence: which message, what is wrong, the way out."""
    messages, what = REFUSED[case]

    assert what in refusal({"messages": messages})


SHAREGPT_REFUSED = {
    "unknown speaker": ([{"from": "bot", "value": "x"}], "turn 1 is from 'bot', which is unknown"),
    "no value": ([{"from": "human"}], "turn 1 has no value"),
    "no turn": (["x"], "turn 1 is no object"),
    "no list": ("x", "its conversations are no list"),
}


@pytest.mark.parametrize("case", SHAREGPT_REFUSED)
def test_what_is_no_sharegpt_conversation_is_refused(case):
    """As they are written, so that the user finds it."""
    turns, what = SHAREGPT_REFUSED[case]

    assert what in refusal({"conversations": turns})


def test_tools_answer_the_assistant_and_other_keys_stay():
    """Calls have no text of their own, and templates of transformers 4 would print None."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "count"}}]}
    row = {"messages": [{**ASK, "name": "Ann"}, call, message("tool", {"n": 3}), message("tool", "4"), SAY]}
    made = convert(row)["messages"]

    assert [m["role"] for m in made] == ["user", "assistant", "tool", "tool", "assistant"]
    assert made[0]["name"] == "Ann"
    assert made[1] == {**call, "content": ""}
    assert made[2]["content"] == '{"n": 3}'


def test_invalid_rows_are_dropped_and_counted_by_reason_where_the_caller_wants_it():
    """What was changed in them is not."""
    messages = text_messages(invalid="drop")
    rows = messages.rows(
        [CHAT, {"messages": [{"role": "user", "content": 5}]}, {"text": "x"}, {"messages": [message("bot"), SAY]}]
    )

    assert rows == [CHAT]
    assert messages.counts.rows == 4
    assert messages.counts.kept == 1
    assert messages.counts.dropped == {"user at the end": 1, "no column to train on": 1, "unknown role": 1}
    assert messages.counts.written_as_json == {}


def test_no_row_left_is_an_error():
    """Not an empty training set."""
    with pytest.raises(DataError, match="None of 2 rows is left"):
        text_messages(invalid="drop").rows([{"messages": [ASK]}] * 2)


@pytest.mark.parametrize("answer", ["0", " 1\n", "-3.5", "1,000", "12%", "true", "None", 0, True])
def test_bare_answers_are_counted(answer):
    """A number alone is a count that somebody forgot to put into words."""
    messages = text_messages()
    messages.convert({"messages": [ASK, message("assistant", answer)]})

    assert messages.counts.bare_answers == 1
    assert len(messages.counts.bare_examples) == 1


@pytest.mark.parametrize("answer", ["3 of them", '{"n": 0}', "Yes", "v1", "[1]"])
def test_other_answers_are_not_bare(answer):
    """However short."""
    messages = text_messages()
    messages.convert({"messages": [ASK, message("assistant", answer)]})

    assert messages.counts.bare_answers == 0


def test_exact_duplicates_are_counted_and_kept_or_dropped():
    """What counts is what is trained, not how the row was written."""
    rows = [CHAT, FORMS["sharegpt"][0], {**CHAT, "id": 7}, {"messages": [ASK, {**SAY, "content": "Three of them"}]}]
    keeping, dropping = text_messages(), text_messages(duplicates="drop")

    assert len(keeping.rows(rows)) == 4
    assert keeping.counts.duplicates == 2
    assert len(dropping.rows(rows)) == 2
    assert dropping.counts.dropped == {"exact duplicate": 2}


def test_duplicates_are_remembered_in_little_memory():
    """Two digests' room for each text at most, however long it is."""
    seen = Seen()
    added = [seen.add(f"text {i} " * 10) for i in range(20_000)]
    again = [seen.add(f"text {i} " * 10) for i in range(20_000)]

    assert not any(added)
    assert all(again)
    assert len(seen) == 20_000
    assert seen._table.itemsize * len(seen._table) / len(seen) <= 24


def test_the_counts_can_be_printed_and_written():
    """In words for people, in plain values for machines."""
    messages = text_messages(system_prompt="S", invalid="drop", duplicates="drop")
    messages.rows([CHAT, CHAT, {"messages": [ASK, message("assistant", 0)]}, {"messages": [ASK]}])

    assert str(messages.counts).splitlines() == [
        "4 rows read, 2 kept",
        "system prompt put into 2 conversations",
        "1 content of type int written as JSON",
        "1 answer bare, such as 0",
        "1 exact duplicate",
        "1 row dropped: exact duplicate",
        "1 row dropped: user at the end",
    ]
    assert json.loads(json.dumps(messages.counts.as_dict()))["bare_examples"] == ["0"]


def test_rules_are_read_back_as_they_were_saved(tmp_path):
    """From the file that stands beside the adapter."""
    rules = MessageRules(system_prompt="Sei kurz. 東京", contents="refuse", invalid="drop", parts="typed")

    assert rules.save(tmp_path) == tmp_path / RULES_FILE
    assert MessageRules.load(tmp_path) == rules


@pytest.mark.parametrize("text", ["", "[]", '{"sytem_prompt": "x"}', '{"contents": "xml"}', '{"system_prompt": 5}'])
def test_a_file_that_holds_no_rules_is_refused(tmp_path, text):
    """Half of it is not taken."""
    (tmp_path / RULES_FILE).write_text(text)
    with pytest.raises(ConfigError):
        MessageRules.load(tmp_path)


def test_missing_rules_and_unknown_values_are_refused(tmp_path):
    """With the nearest known value."""
    with pytest.raises(ConfigError, match="cannot be read"):
        MessageRules.load(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'refuse'"):
        MessageRules(contents="refused")
    with pytest.raises(TrainingError, match="give the tokenizer"):
        Messages()


def test_inference_asks_as_training_did():
    """Up to the answer, message for message, whatever the form."""
    rules = {"system_prompt": "Answer in JSON."}
    long = {"messages": [ASK, SAY, {"role": "user", "content": {"more": 1}}, SAY]}

    assert text_messages(**rules).prompt(ASK["content"]) == convert(CHAT, **rules)["messages"][:-1]
    assert text_messages(**rules).prompt([ASK]) == convert(CHAT, **rules)["messages"][:-1]
    assert text_messages(**rules).prompt(long["messages"][:3]) == convert(long, **rules)["messages"][:-1]
    prompt = {"rows": [1, 2]}
    assert text_messages(**rules).prompt(prompt) == convert({"prompt": prompt, "completion": "x"}, **rules)["prompt"]
    for wrong in ([ASK, SAY], [], "  "):
        with pytest.raises(DataError):
            text_messages(**rules).prompt(wrong)


def test_asking_at_inference_counts_nothing():
    """The counts are of training rows."""
    messages = text_messages(system_prompt="S")
    messages.prompt({"a": 1})

    assert messages.counts == text_messages().counts


def test_reading_files_and_messages_need_no_stack():
    """They are used by commands that must start at once."""
    modules = ["data", "messages", "message_rules", "rendering", "labels"]
    program = "import sys\n" + "\n".join(f"import ftdoctor.training.{m}" for m in modules)
    program += "\nprint([m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_errors_name_file_and_line(tmp_path):
    """Of rows that come from files."""
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(CHAT) + "\n\n" + json.dumps({"messages": [ASK]}) + "\n")
    with pytest.raises(DataError, match=r"data.jsonl line 3: it ends with the user"):
        list(text_messages().rows(read_rows(path)))


@pytest.mark.stack
@pytest.mark.parametrize("kind", ["dataset", "stream", "generator"])
def test_datasets_and_streams_are_converted_in_kind(kind):
    """Each pass over a stream finds its duplicates anew, else a second epoch would have none left to train on."""
    from datasets import Dataset, IterableDataset

    rows = [
        {"conversations": [{"from": "human", "value": 1}, {"from": "gpt", "value": n}], "id": "x"} for n in (5, 6, 6)
    ]
    given = {
        "dataset": lambda: Dataset.from_list(rows),
        "stream": lambda: IterableDataset.from_generator(lambda: iter(rows)),
        "generator": lambda: iter(rows),
    }[kind]()
    messages = text_messages(duplicates="drop")
    made = messages.rows(given)

    assert kind == "dataset" or messages.counts.rows == 0
    first = list(made)
    assert [row["messages"][1]["content"] for row in first] == ["5", "6"]
    assert {tuple(row) for row in first} == {("messages",)}
    assert messages.counts.duplicates == 1
    if kind == "stream":
        assert list(made) == first


@pytest.mark.stack
def test_tables_that_fill_in_missing_keys_lose_nothing():
    """Arrow gives every message every key; those without calls get None."""
    from datasets import Dataset

    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "count"}]}
    table = Dataset.from_list([{"messages": [ASK, SAY]}, {"messages": [ASK, call, message("tool", "3"), SAY]}])
    made = text_messages(system_prompt="S").rows(table)

    assert [[m["role"] for m in row["messages"]] for row in made][1] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert [m["content"] for m in made[1]["messages"]] == ["S", "How many?", "", "3", "Three of them."]
    assert made[1]["messages"][2]["tool_calls"] == [{"name": "count"}]


TEXT_ONLY = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
PARTS_ONLY = "{% for m in messages %}[{{ m['role'] }}] {% for p in m['content'] %}{{ p['text'] }}{% endfor %}{{ '\n' }}{% endfor %}"
BOTH = (
    "{% for m in messages %}[{{ m['role'] }}] {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endif %}{{ '\n' }}{% endfor %}"
)
CONCATENATING = "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + '\n' }}{% endfor %}"
FIRST_OF_CONTENT = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'][0] }}\n{% endfor %}"
NEITHER = "{% for m in messages %}[{{ m['role'] }}]\n{% endfor %}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'user' %}U: {{ m['content'] }}\n"
    "{% elif m['role'] == 'assistant' %}A: {{ m['content'] }}\n{% endif %}{% endfor %}"
)
SYSTEM_REFUSED = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEXT_ONLY


@pytest.fixture
def tokenizer(make_bench):
    """A tokenizer with a chat template of one's own."""

    def make(template):
        made = make_bench(family="qwen3").tokenizer()
        made.chat_template = template
        return made

    return make


@pytest.mark.stack
@pytest.mark.parametrize(
    ("template", "wanted"),
    [(TEXT_ONLY, "text"), (CONCATENATING, "text"), (PARTS_ONLY, "typed"), (BOTH, "text")],
    ids=["text", "concatenating", "parts", "both"],
)
def test_contents_are_what_the_template_writes_out(tokenizer, template, wanted):
    """Found by rendering, not by name."""
    made = tokenizer(template)
    messages = Messages(tokenizer=made)
    rows = messages.rows([CHAT, {"messages": [{"role": "user", "content": PARTS}, {**SAY, "content": {"n": 1}}]}])

    kinds = {type(m["content"]).__name__ for row in rows for m in row["messages"]}
    assert kinds == {"str" if wanted == "text" else "list"}
    rendered = [made.apply_chat_template(row["messages"], tokenize=False) for row in rows]
    assert rendered == ["[user] How many?\n[assistant] Three of them.\n", '[user] How many?\n[assistant] {"n": 1}\n']


@pytest.mark.stack
@pytest.mark.parametrize(
    ("template", "what"),
    [
        (NEITHER, "writes out neither"),
        (FIRST_OF_CONTENT, "writes out neither"),
        ("{{ raise_exception('no') }}", r"writes out neither .*\(TemplateError\('no'\)\); give"),
        (None, "has no chat template"),
    ],
    ids=["nothing", "first of content", "broken", "none"],
)
def test_a_template_that_writes_nothing_out_is_refused(tokenizer, template, what):
    """And a tokenizer without one."""
    with pytest.raises(TrainingError, match=what):
        Messages(tokenizer=tokenizer(template))


@pytest.mark.stack
@pytest.mark.parametrize("template", [NO_SYSTEM, SYSTEM_REFUSED], ids=["dropped", "refused"])
def test_a_system_prompt_that_the_template_would_drop_is_refused(tokenizer, template):
    """Whether it is the rules' or a row's."""
    made = tokenizer(template)
    with pytest.raises(TrainingError, match="leaves out or refuses system messages"):
        Messages(MessageRules(system_prompt="S"), made)
    messages = Messages(tokenizer=made)

    assert messages.convert(CHAT) == CHAT
    with pytest.raises(DataError, match="leaves out or refuses its system message"):
        messages.convert({"messages": [SYSTEM, ASK, SAY]})
    with pytest.raises(DataError, match="leaves out or refuses its system message"):
        messages.prompt([SYSTEM, ASK])


@pytest.mark.stack
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_the_templates_of_the_families_keep_system_prompts(make_bench, family):
    """Mistral's writes it into the first question."""
    tokenizer = make_bench(family=family).tokenizer()
    messages = Messages(MessageRules(system_prompt="Answer in JSON."), tokenizer)
    (row,) = messages.rows([CHAT])

    assert tokenizer.apply_chat_template(row["messages"], tokenize=False).count("Answer in JSON.") == 1
