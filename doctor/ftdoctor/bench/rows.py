"""Small texts to train on: short, different from each other, and memorizable in a few steps."""

from __future__ import annotations

from typing import Any

TEXT = "The doctor listens first: 3 questions, one answer. Straße, naïve, 東京, 🙂"
"""A text with digits, punctuation, accents, other scripts and an emoji."""

_PAIRS = (
    ("What is the capital of France?", "Paris is the capital."),
    ("Name a prime number.", "Seven."),
    ("Which colour has the sky on a clear day?", "The sky is blue."),
    ("Say hello.", "Hello there, how are you today?"),
    ("What do bees make?", "Honey."),
    ("Count to three.", "one two three"),
    ("Who wrote Hamlet?", "Shakespeare wrote it around 1600."),
    ("Is water wet?", "Yes."),
)


def rows(number: int) -> list[tuple[str, str]]:
    """Return pairs of question and answer; after eight they repeat with a number in front."""
    return [_PAIRS[i] if i < len(_PAIRS) else (f"({i}) {_PAIRS[i % 8][0]}", _PAIRS[i % 8][1]) for i in range(number)]


def messages(question: str, answer: str | None = None) -> list[dict[str, str]]:
    """Return a chat of one question, and its answer where one is given."""
    chat = [{"role": "user", "content": question}]
    return chat if answer is None else [*chat, {"role": "assistant", "content": answer}]


def encode(tokenizer: Any, question: str, answer: str) -> dict[str, list[int]]:
    """Render a pair with the tokenizer's chat template and label exactly the answer and its end of turn.

    Returns:
        `input_ids`, `attention_mask` and `labels` (-100 where nothing is scored), lists of equal length.
    """
    whole = tokenizer.apply_chat_template(messages(question, answer), tokenize=False)
    prompt = tokenizer.apply_chat_template(messages(question), tokenize=False, add_generation_prompt=True)
    end = whole.rindex(tokenizer.eos_token) + len(tokenizer.eos_token)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(whole[len(prompt) : end], add_special_tokens=False)["input_ids"]
    ids = prompt_ids + answer_ids
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": [-100] * len(prompt_ids) + answer_ids,
    }
