"""Labels: the assistant's tokens and the end of each turn, for every template, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftdoctor.errors import DataError, TrainingError
from ftdoctor.training.labels import Encoder, encode_completion, encode_messages, shown

pytestmark = pytest.mark.stack
FAMILIES = ("llama", "qwen3", "mistral")
"""One of each template: llama3, chatml, mistral."""
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
UNENDED = (
    "{% for m in messages %}{{ '### ' + m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizers_of(bench_cache):
    """Tokenizers by family, made once."""
    import ftdoctor_matrix as matrix
    from ftdoctor.bench import tokenizers

    return {f: tokenizers.build(matrix.families()[f].template, "512", bench_cache) for f in FAMILIES}


@pytest.fixture(params=FAMILIES)
def tokenizer(request, tokenizers_of):
    return tokenizers_of[request.param]


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


def prompt_ids(tokenizer, messages):
    """What inference feeds: the library's own way from messages to tokens."""
    made = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(made["input_ids"])


def test_exactly_the_answers_and_their_ends_of_turn_are_scored(tokenizer):
    """Not the line break behind an end of turn; mistral's template writes a space in front of an answer."""
    row = encode_messages(tokenizer, CHAT)
    space = " " if tokenizer.eos_token == "</s>" else ""
    answers = [f"{space}{m['content']}{tokenizer.eos_token}" for m in CHAT if m["role"] == "assistant"]

    assert scored(tokenizer, row) == answers
    assert tokenizer.decode(row["input_ids"]) == tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert row["labels"][0] == -100


def test_the_last_answer_alone_is_scored_where_the_caller_wants_it(tokenizer):
    """The tokens are the same."""
    every, last = encode_messages(tokenizer, CHAT), encode_messages(tokenizer, CHAT, turns="last")

    assert scored(tokenizer, last) == scored(tokenizer, every)[-1:]
    assert last["input_ids"] == every["input_ids"]


def test_what_comes_before_an_answer_is_what_inference_feeds(tokenizer):
    """Token for token."""
    for at in (2, 4):
        row = encode_messages(tokenizer, CHAT[: at + 1], turns="last")
        first = next(i for i, label in enumerate(row["labels"]) if label != -100)

        assert row["input_ids"][:first] == prompt_ids(tokenizer, CHAT[:at])


def test_a_completion_alone_is_scored_though_its_prompt_holds_answers(tokenizer):
    """Prompt and completion as messages."""
    encoder = Encoder(tokenizer)
    row = encoder.encode({"prompt": CHAT[:4], "completion": CHAT[4:]})

    assert scored(tokenizer, row) == scored(tokenizer, encode_messages(tokenizer, CHAT))[-1:]


def test_an_answer_of_weight_zero_is_not_scored(tokenizer):
    """As OpenAI's format says it."""
    chat = [*CHAT[:2], {**CHAT[2], "weight": 0}, *CHAT[3:]]

    assert (
        scored(tokenizer, encode_messages(tokenizer, chat)) == scored(tokenizer, encode_messages(tokenizer, CHAT))[1:]
    )


@pytest.mark.parametrize("turns", ["all", "last"])
def test_the_marks_of_the_template_say_the_same(tokenizer, turns):
    """Those that TRL goes by, for what it can tell."""
    made = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in enumerate(made["assistant_masks"]) if m]
    row = encode_messages(tokenizer, CHAT, turns=turns)
    ours = [i for i, label in enumerate(row["labels"]) if label != -100]

    assert row["input_ids"] == list(made["input_ids"])
    assert ours == (marked if turns == "all" else marked[len(marked) - len(ours) :])


def test_a_tokenizer_without_a_chat_template_is_refused_in_one_sentence(with_template):
    """It is the tokenizer that is wrong, not a row: no row is dropped for it."""
    encoder = Encoder(with_template(None), invalid="drop")
    with pytest.raises(TrainingError, match="has no chat template") as caught:
        encoder.rows([{"messages": CHAT}])

    assert not isinstance(caught.value, DataError)


def test_there_is_one_beginning_of_sequence(tokenizers_of):
    """Whoever else writes it: template, text, or tokenizer."""
    tokenizer = tokenizers_of["llama"]
    bos = tokenizer.bos_token_id
    assert tokenizer("a")["input_ids"][0] == bos
    texts = {
        "plain": "Q: hi\nA:",
        "rendered": f"{tokenizer.bos_token}Q: hi\nA:",
        "twice": f"{tokenizer.bos_token * 2}Q: hi\nA:",
    }
    rows = {name: encode_completion(tokenizer, text, " yes") for name, text in texts.items()}
    assert rows["plain"] == rows["rendered"] == rows["twice"]
    assert rows["plain"]["input_ids"][: len(tokenizer("Q: hi\nA:")["input_ids"])] == tokenizer("Q: hi\nA:")["input_ids"]

    for row in (rows["plain"], encode_messages(tokenizer, CHAT)):
        assert row["input_ids"].count(bos) == 1
        assert row["input_ids"][0] == bos


def test_a_second_beginning_of_sequence_is_taken_away_and_counted(bench_cache):
    """A template that writes two."""
    from ftdoctor.bench import tokenizers

    tokenizer = tokenizers.build("llama3", "512", bench_cache)
    once = encode_messages(tokenizer, CHAT)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    encoder = Encoder(tokenizer)

    assert encoder.encode({"messages": CHAT}) == once
    assert encoder.counts.second_beginnings == 1


def test_a_completion_ends_with_one_end_of_sequence(tokenizer):
    """Whether the text brings it or not."""
    plain = encode_completion(tokenizer, "Q: hi\nA:", " yes")
    ended = encode_completion(tokenizer, "Q: hi\nA:", f" yes{tokenizer.eos_token}")

    assert plain == ended
    assert scored(tokenizer, plain) == [f" yes{tokenizer.eos_token}"]


def test_a_prompt_is_not_joined_with_its_completion(tokenizer):
    """Where the tokenizer would: inference feeds the prompt alone."""
    whole = tokenizer("Say one", add_special_tokens=False)["input_ids"]
    prompt = tokenizer("Say o")["input_ids"]
    encoder = Encoder(tokenizer)
    row = encoder.encode({"prompt": "Say o", "completion": "ne"})

    assert (
        whole[: len(tokenizer("Say o", add_special_tokens=False)["input_ids"])]
        != tokenizer("Say o", add_special_tokens=False)["input_ids"]
    )
    assert row["input_ids"][: len(prompt)] == prompt
    assert scored(tokenizer, row) == [f"ne{tokenizer.eos_token}"]
    assert encoder.counts.joined == 1


@pytest.fixture
def spaced():
    """A tokenizer that writes a space in front of every text, as sentencepiece does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    texts = ["Question: how many? Answer: three of them", "Say one two three Someone"] * 50
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=150, special_tokens=["</s>"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>")


@pytest.mark.parametrize(
    ("prompt", "completion"), [("Say o", "ne"), ("Answer:", " three"), ("Answer: ", "three"), ("Some", "one")]
)
def test_no_space_creeps_in_between_prompt_and_completion(spaced, prompt, completion):
    """Such tokenizers put one in front of whatever is tokenized by itself."""
    row = encode_completion(spaced, prompt, completion)

    assert spaced.decode(row["input_ids"], skip_special_tokens=True) == prompt + completion
    assert row["input_ids"][: len(spaced(prompt)["input_ids"])] == spaced(prompt)["input_ids"]


@pytest.mark.parametrize("row", [{"prompt": "a", "completion": " \n"}, {"prompt": "a", "completion": ""}])
def test_an_empty_completion_is_refused(tokenizer, row):
    """There is nothing to learn but to be silent."""
    with pytest.raises(DataError, match="row 1: its completion is empty"):
        Encoder(tokenizer).rows([row])


def test_an_empty_prompt_needs_a_beginning_of_sequence(tokenizers_of):
    """Something must come before the first token that is predicted."""
    row = encode_completion(tokenizers_of["llama"], "", "Hi")
    assert scored(tokenizers_of["llama"], row) == ["Hi<|eot_id|>"]

    with pytest.raises(DataError, match="nothing comes before its first scored token"):
        encode_completion(tokenizers_of["qwen3"], "", "Hi")


def test_a_tokenizer_written_in_python_does_as_well():
    """Without offsets: none are used."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = UNENDED
    row = encode_messages(tokenizer, CHAT)

    assert not tokenizer.is_fast
    assert scored(tokenizer, row) == [" Allee, 東京 🙂", " Nothing.\n\nReally.</s>"]
    assert scored(tokenizer, encode_completion(tokenizer, "Straße: ", "東京")) == ["東京</s>"]


PROMPT, ANSWER = "What is it? " * 10, "It is a long answer. " * 3


def pair(prompt, answer):
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def test_rows_that_fit_are_left_alone(tokenizer):
    """To the token."""
    whole = Encoder(tokenizer).encode(pair(PROMPT, ANSWER))
    for too_long in ("drop", "keep_end", "error"):
        encoder = Encoder(tokenizer, max_length=len(whole["input_ids"]), too_long=too_long)
        assert encoder.encode(pair(PROMPT, ANSWER)) == whole


def test_long_rows_are_dropped_and_counted(tokenizer):
    """Whole ones stay."""
    encoder = Encoder(tokenizer, max_length=40, too_long="drop")
    made = encoder.rows([pair("Hi", "Yo"), pair(PROMPT, "Yo"), pair("Hi", ANSWER * 3)])

    assert made == [Encoder(tokenizer).encode(pair("Hi", "Yo"))]
    assert encoder.counts.dropped == {"longer than max_length": 2}


def test_a_long_row_is_an_error_where_the_caller_wants_it(tokenizer):
    """With its place, its length and the limit."""
    encoder = Encoder(tokenizer, max_length=40, too_long="error")
    with pytest.raises(DataError, match=r"row 2 has \d+ tokens, more than max_length=40; raise the limit"):
        encoder.rows([pair("Hi", "Yo"), pair(PROMPT, "Yo")])


def test_the_end_of_a_long_prompt_and_the_whole_answer_are_kept(tokenizer):
    """Behind the beginning of sequence."""
    whole = Encoder(tokenizer).encode(pair(PROMPT, ANSWER))
    answer = [label for label in whole["labels"] if label != -100]
    limit = len(answer) + 12
    encoder = Encoder(tokenizer, max_length=limit, too_long="keep_end")
    row = encoder.encode(pair(PROMPT, ANSWER))

    assert len(row["input_ids"]) == limit
    assert [label for label in row["labels"] if label != -100] == answer
    front = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    last = max(i for i, label in enumerate(whole["labels"]) if label != -100) + 1
    assert row["input_ids"] == front + whole["input_ids"][last - limit + len(front) : last]
    assert encoder.counts.prompts_cut == 1
    assert encoder.counts.answers_cut == 0


@pytest.mark.parametrize("limit", [2, 3, 4, 9])
def test_of_an_answer_that_is_too_long_by_itself_the_beginning_is_kept(tokenizer, limit):
    """Behind at least one token of the prompt, without an end of turn that it did not reach."""
    whole = Encoder(tokenizer).encode(pair(PROMPT, ANSWER))
    first = next(i for i, label in enumerate(whole["labels"]) if label != -100)
    encoder = Encoder(tokenizer, max_length=limit, too_long="keep_end")
    row = encoder.encode(pair(PROMPT, ANSWER))
    begin = next(i for i, label in enumerate(row["labels"]) if label != -100)

    assert len(row["input_ids"]) == limit
    assert row["input_ids"][begin - 1 :] == whole["input_ids"][first - 1 : first + limit - begin]
    assert all(label != -100 for label in row["labels"][begin:])
    assert tokenizer.eos_token_id not in row["input_ids"][begin:]
    assert encoder.counts.answers_cut == 1


def test_an_earlier_answer_that_loses_its_question_is_not_scored(tokenizer):
    """Of several answers the last is kept whole, and others as far as what they answer is."""
    chat = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": ANSWER}] * 3
    whole = encode_messages(tokenizer, chat)
    ends = [i + 1 for i, label in enumerate(whole["labels"]) if label == tokenizer.eos_token_id]
    assert len(ends) == 3
    for limit in range(ends[2] - ends[1], len(whole["input_ids"])):
        row = Encoder(tokenizer, max_length=limit, too_long="keep_end").encode({"messages": chat})
        answers = scored(tokenizer, row)

        assert len(row["input_ids"]) <= limit
        assert 1 <= len(answers) <= 3
        assert answers[-1] == scored(tokenizer, whole)[-1]
        assert set(answers) == {answers[-1]}


def test_what_follows_the_last_answer_does_not_make_a_row_too_long(with_template):
    """The line break behind the last end of turn is learned by nobody."""
    tokenizer = with_template(CHATML)
    whole = encode_messages(tokenizer, CHAT)
    row = Encoder(tokenizer, max_length=len(whole["input_ids"]) - 1, too_long="error").encode({"messages": CHAT})

    assert row == {name: values[:-1] for name, values in whole.items()}


def test_a_row_without_anything_to_score_is_dropped(tokenizer):
    """No prompt is kept without its answer."""
    encoder = Encoder(tokenizer)
    silent = [*CHAT[:2], {**CHAT[2], "weight": 0}]

    assert len(encoder.rows([{"messages": silent}, {"messages": CHAT}])) == 1
    assert encoder.counts.dropped == {"nothing to score": 1}
    with pytest.raises(DataError, match="nothing to score"):
        encode_messages(tokenizer, silent)


WRONG = {
    "conversations": ({"conversations": [{"from": "human", "value": "x"}]}, "it is a ShareGPT conversation"),
    "data": (pair(5, "x"), "message 1 has a content of type int"),
    "None": (pair("x", None), "message 2 has a content of type NoneType"),
    "role": ({"messages": [{"content": "x"}]}, "message 1 has no role"),
    "columns": ({"text": "x"}, "has no column to train on"),
    "assistant first": ({"messages": [CHAT[2]]}, "begins with the assistant"),
}


@pytest.mark.parametrize("case", WRONG)
def test_rows_that_were_not_converted_are_refused_or_dropped(tokenizer, case):
    """A template would print data as Python does."""
    row, what = WRONG[case]
    with pytest.raises(DataError, match=r"^row 2: ") as caught:
        Encoder(tokenizer).rows([{"messages": CHAT}, row])
    assert what in str(caught.value)

    encoder = Encoder(tokenizer, invalid="drop")
    assert len(encoder.rows([{"messages": CHAT}, row])) == 1
    assert encoder.counts.dropped == {"could not be encoded": 1}
    assert encoder.counts.refusals == [str(caught.value)]


@pytest.mark.parametrize("arguments", [{"turns": "first"}, {"too_long": "keep"}, {"invalid": "x"}, {"max_length": 1}])
def test_unknown_settings_are_refused(tokenizer, arguments):
    """When the encoder is made."""
    with pytest.raises(TrainingError):
        Encoder(tokenizer, **arguments)


def test_a_processor_is_no_tokenizer(tokenizer):
    """Its tokenizer is one."""

    class Processor:
        pass

    with pytest.raises(TrainingError, match="give a processor's `tokenizer`"):
        Encoder(Processor())


@pytest.mark.parametrize("kind", ["dataset", "stream", "generator"])
def test_datasets_and_streams_are_encoded_in_kind(tokenizers_of, kind):
    """Streams as they are consumed; errors name the row."""
    from datasets import Dataset, IterableDataset

    tokenizer = tokenizers_of["qwen3"]
    rows = [{**pair("Hi", "Yo"), "id": "a"}, {**pair("Hi", ANSWER * 9), "id": "b"}, {**pair("So", "Oh"), "id": "c"}]
    make = {
        "dataset": Dataset.from_list,
        "stream": lambda rows: IterableDataset.from_generator(lambda: iter(rows)),
        "generator": iter,
    }[kind]
    encoder = Encoder(tokenizer, max_length=40)
    made = encoder.rows(make(rows))

    assert kind == "dataset" or encoder.counts.rows == 0
    assert list(made) == [Encoder(tokenizer).encode(rows[i]) for i in (0, 2)]
    assert encoder.counts.dropped == {"longer than max_length": 1}
    with pytest.raises(DataError, match="row 2 has"):
        list(Encoder(tokenizer, max_length=40, too_long="error").rows(make(rows)))


def test_a_row_can_be_shown(tokenizer):
    """Characters of several tokens are put together; joined it is the whole text."""
    row = encode_messages(tokenizer, CHAT)
    pieces = shown(tokenizer, row)

    assert "".join(text for text, _ in pieces) == tokenizer.decode(row["input_ids"])
    assert "".join(text for text, is_scored in pieces if is_scored) == "".join(scored(tokenizer, row))
    assert "🙂" in "".join(text for text, is_scored in pieces if is_scored)
    assert not any("\ufffd" in text for text, _ in pieces)


def test_the_counts_can_be_printed(tokenizers_of):
    """Tokens, scored ones, ends of turns, and what was dropped or changed."""
    encoder = Encoder(tokenizers_of["qwen3"], max_length=60, too_long="keep_end", invalid="drop")
    encoder.rows(
        [
            pair("Hi", "Yo"),
            pair(PROMPT * 2, "Yo<|im_end|>"),
            pair("Hi", ANSWER * 9),
            pair("x", 3),
            {"prompt": "Say o", "completion": "ne"},
        ]
    )

    assert str(encoder.counts).splitlines() == [
        "5 rows read, 4 kept",
        f"{encoder.counts.scored} of {encoder.counts.tokens} tokens scored ({encoder.counts.scored / encoder.counts.tokens:.0%})",
        "3 turns ended by <|im_end|>",
        "1 answer without an end of turn, given the end of sequence",
        "1 place where the tokenizer would join prompt and answer, kept apart",
        "1 message with the text of a special token in it",
        "2 rows cut at the beginning of the prompt",
        "1 row cut at the end of the answer, which no longer ends its turn",
        "1 row dropped: could not be encoded",
        "row 4: message 2 has a content of type int; convert the rows with `Messages` first.",
    ]
    assert encoder.counts.as_dict()["kept"] == 4


CONTENT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=30).filter(str.strip)
TURNS = st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=4)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=TURNS, system=st.none() | CONTENT)
def test_whatever_is_said_the_answers_are_scored(tokenizers_of, family, turns, system):
    """The scored tokens decode to the answers and their ends; what comes before each is what inference feeds."""
    tokenizer = tokenizers_of[family]
    space = " " if family == "mistral" else ""
    chat = [{"role": "system", "content": system}] if system else []
    for question, answer in turns:
        chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    row = encode_messages(tokenizer, chat)

    assert "".join(scored(tokenizer, row)) == "".join(f"{space}{answer}{tokenizer.eos_token}" for _, answer in turns)
    assert tokenizer.decode(row["input_ids"]) == tokenizer.apply_chat_template(chat, tokenize=False)
    last = encode_messages(tokenizer, chat, turns="last")
    first = next(i for i, label in enumerate(last["labels"]) if label != -100)
    assert last["input_ids"][:first] == prompt_ids(tokenizer, chat[:-1])


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=TURNS, limit=st.integers(2, 60))
def test_however_short_the_limit_an_answer_is_left(tokenizers_of, family, turns, limit):
    """Never longer than asked, never a prompt without an answer, never a label that is not its token."""
    tokenizer = tokenizers_of[family]
    chat = [m for q, a in turns for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
    row = Encoder(tokenizer, max_length=limit, too_long="keep_end").encode({"messages": chat})

    assert len(row["input_ids"]) <= limit
    assert scored(tokenizer, row)
    assert row["labels"][0] == -100
