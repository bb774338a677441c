"""What stands in a message: text, typed parts, or data that has to become one of the two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ftdoctor.errors import DataError, TrainingError
from ftdoctor.training.rendering import render, require_template
from ftdoctor.wording import shorten

PART_TYPES = ("text", "image", "image_url", "video", "audio", "input_audio")
"""What a part of a content may be, as processors and chat templates name it."""

TEXT, TYPED = "text", "typed"
_MARKS = ("ftdoctor asks", "ftdoctor answers")
_SYSTEM_MARK = "ftdoctor instructs"


def is_typed(content: Any) -> bool:
    """Say whether a content is a list of typed parts; any other list is data."""
    return (
        isinstance(content, Sequence)
        and not isinstance(content, (str, bytes))
        and len(content) > 0
        and all(isinstance(part, Mapping) and part.get("type") in PART_TYPES for part in content)
        and all("text" in part for part in content if part["type"] == "text")
    )


def json_text(value: Any) -> str:
    """Return a value as one line of JSON, as it would be read back: `{"n": 1}`, `true`, `null`.

    Raises:
        ValueError: JSON has no way to write it (NaN, infinities, dates, bytes).
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a content of type {type(value).__name__} that JSON cannot write") from error


def flat_text(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of typed parts that are all text, one after the other as templates write them."""
    return "".join(part["text"] for part in parts)


def wanted_parts(tokenizer: Any) -> str:
    """Return which contents a tokenizer's chat template writes out: `text` or `typed`; `text` where it does both.

    Found by rendering a question and an answer both ways: a template for the other kind raises or leaves them out.

    Raises:
        TrainingError: neither comes through, or there is no chat template.
    """
    require_template(tokenizer)
    refused = ""
    for parts in (TEXT, TYPED):
        try:
            text = render(tokenizer, _chat(parts))
        except DataError as error:
            refused = refused or f" ({shorten(repr(error.__cause__), 120)})"
            continue
        # A template for text that is handed parts prints them as Python would.
        if all(mark in text for mark in _MARKS) and "'type'" not in text:
            return parts
    raise TrainingError(
        f"The chat template writes out neither text nor typed parts of a user's and an assistant's message{refused}; "
        "give a tokenizer whose chat_template does."
    )


def keeps_system(tokenizer: Any, parts: str) -> bool:
    """Say whether a system message comes through the tokenizer's chat template; some leave it out silently."""
    system = {"role": "system", "content": _as(parts, _SYSTEM_MARK)}
    try:
        return _SYSTEM_MARK in render(tokenizer, [system, *_chat(parts)])
    except DataError:
        return False


def _chat(parts: str) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": _as(parts, mark)} for role, mark in zip(("user", "assistant"), _MARKS, strict=True)
    ]


def _as(parts: str, text: str) -> str | list[dict[str, str]]:
    return text if parts == TEXT else [{"type": "text", "text": text}]
