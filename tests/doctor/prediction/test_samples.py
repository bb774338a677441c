"""Rows as questions with their answers, whatever form they come in; the same rows every time."""

from __future__ import annotations

import pytest

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.samples import choose, sample_of

USER, ASSISTANT = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}


class Words:
    """Decodes ids as numbers, so that no tokenizer is needed."""

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return " ".join(map(str, ids))


@pytest.mark.parametrize(
    ("row", "prompt", "truth"),
    [
        ({"messages": [USER, ASSISTANT]}, [USER], "Me."),
        ({"messages": [USER]}, [USER], None),
        ({"messages": [USER, ASSISTANT, USER]}, [USER, ASSISTANT, USER], None),
        ({"messages": [USER, ASSISTANT, USER, {"role": "assistant", "content": "You."}]}, [USER, ASSISTANT, USER], "You."),
        ({"messages": [USER, ASSISTANT], "tools": [{"name": "f"}]}, {"messages": [USER], "tools": [{"name": "f"}]}, "Me."),
        ({"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]}, [USER], "Me."),
        ({"prompt": "Who?", "completion": " Me."}, "Who?", " Me."),
        ({"prompt": [USER], "completion": [ASSISTANT]}, [USER], "Me."),
        ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": [USER]}, [USER], "Me."),
        ({"prompt": "Who?"}, "Who?", None),
        ("Who?", "Who?", None),
        ({"prompt": [USER], "completion": [{"role": "assistant", "content": [{"type": "text", "text": "Me."}]}]}, [USER], "Me."),
        ({"prompt": [USER], "completion": [{"role": "assistant", "content": "", "tool_calls": [1]}]}, [USER], "[1]"),
        ({"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}, [1, 2], "3 4"),
        ({"input_ids": [1, 2, 3, 4, 5, 6], "labels": [-100, 2, -100, 4, 5, -100]}, [1, 2, 3], "4 5"),
        ({"input_ids": [1, 2, 3], "completion_mask": [0, 1, 1]}, [1], "2 3"),
        ({"input_ids": [1, 2, 3, 4], "completion_mask": [0, 1, 1, 1], "assistant_masks": [0, 0, 1, 1]}, [1, 2], "3 4"),
    ],
    ids=str,
)  # fmt: skip
def test_a_row_becomes_a_prompt_and_its_answer(row, prompt, truth):
    """The last answer is the truth; what stands before it is the prompt."""
    sample = sample_of(row, 5, Words())

    assert (sample.index, sample.prompt, sample.truth) == (5, prompt, truth)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": "x", "label": 1}, "row 5 has only text, label; give PredictionsCallback rows with messages"),
        ({}, "row 5 has only nothing"),
        (7, "row 5 is a int"),
        ({"messages": []}, "row 5 has no list of messages"),
        ({"messages": "Hello"}, "row 5 has no list of messages"),
        ({"messages": ["Hello"]}, "row 5 has no list of messages"),
        ({"input_ids": [1, 2, 3], "labels": [4]}, "row 5 has 3 tokens and 1 labels"),
        ({"messages": [ASSISTANT]}, "row 5 begins with its answer"),
        ({"conversations": [{"from": "alien", "value": "?"}]}, "row 5: turn 1 is from 'alien'"),
        ({"input_ids": [1, 2]}, "the tokens of row 5 are all scored"),
        ({"input_ids": [1, 2], "labels": [-100, -100]}, "the tokens of row 5 are none of them scored"),
    ],
)
def test_a_row_without_a_place_where_an_answer_begins_is_refused(row, told):
    """With the way out."""
    with pytest.raises(PredictionError, match=told):
        sample_of(row, 5, Words())


def test_the_same_seed_chooses_the_same_rows():
    """And another others; the global generator has nothing to do with it."""
    import random

    rows = range(100)
    state = random.getstate()

    assert choose(rows, 5, 1) == choose(rows, 5, 1) == sorted(choose(rows, 5, 1))
    assert choose(rows, 5, 1) != choose(rows, 5, 2)
    assert random.getstate() == state


def test_more_rows_than_there_are_are_all():
    assert choose([1, 2, 3], 8, 0) == [0, 1, 2]


def test_indices_are_taken_as_they_are():
    """In their order, from the end where negative, each once."""
    assert choose([1, 2, 3], 8, 0, [2, -3, 0]) == [2, 0]


@pytest.mark.parametrize(
    ("rows", "indices", "told"),
    [([], None, "is empty"), (iter([1]), None, "a stream without a length"), ([1], [1], "no row 1"), ([1], [-2], "no row -2"), ("rows.jsonl", None, "is a str; give a list of rows"), ({"prompt": [1]}, None, "is a dict")],
)  # fmt: skip
def test_sets_and_indices_that_cannot_be_are_refused(rows, indices, told):
    with pytest.raises(PredictionError, match=told):
        choose(rows, 1, 0, indices)
