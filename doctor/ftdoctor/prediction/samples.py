"""Which rows are shown to the model, and what it should have written: the same rows at every evaluation."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftdoctor.errors import PredictionError

IGNORED = -100
_WAY_OUT = "give PredictionsCallback rows with messages, or with prompt and completion"


@dataclass(frozen=True)
class Sample:
    """A row as a question and its answer.

    Attributes:
        index: the row's place in its set.
        prompt: what `PredictionGenerator` takes: a text, messages (in a mapping, where there are tools), or token ids.
        truth: what the row has as the answer, or None where it has none.
    """

    index: int
    prompt: Any
    truth: str | None


def choose(rows: Any, count: int, seed: int, indices: Sequence[int] | None = None) -> list[int]:
    """Return the places of the rows that are shown, in order; the same seed and set give the same places.

    Args:
        rows: what has a length.
        count: how many; all where there are fewer.
        seed: of a generator of its own.
        indices: these and no others; negative ones count from the end.

    Raises:
        PredictionError: the set is empty or a stream, or an index lies beyond it.
    """
    if isinstance(rows, (str, bytes, Mapping)):
        raise PredictionError(f"the set that predictions are made for is a {type(rows).__name__}; give a list of rows.")
    if not hasattr(rows, "__len__"):
        raise PredictionError("the set that predictions are made for is a stream without a length; give a list.")
    size = len(rows)
    if not size:
        raise PredictionError("the set that predictions are made for is empty; give it rows.")
    if indices is None:
        return sorted(random.Random(seed).sample(range(size), min(count, size)))  # noqa: S311 - nothing is secret
    if not isinstance(indices, Sequence) or not indices or not all(isinstance(i, int) for i in indices):
        raise PredictionError(f"indices is {indices!r}; give a list of row numbers, at least one, or leave it out.")
    wrong = [i for i in indices if not -size <= i < size]
    if wrong:
        raise PredictionError(f"there is no row {wrong[0]} in the set that predictions are made for; it has {size}.")
    return list(dict.fromkeys(i % size for i in indices))


def sample_of(row: Any, index: int, tokenizer: Any) -> Sample:
    """Return a row as a sample.

    Known rows: `messages` (the last assistant turn is the truth); ShareGPT's `conversations`; `prompt` with
    `completion` or `chosen`, each a text or messages; `prompt` alone; `input_ids` with `labels`, `completion_mask` or
    `assistant_masks`, where the last run of scored tokens is the truth; a text alone, which is the prompt.

    Args:
        row: the row.
        index: its place.
        tokenizer: decodes what is tokenized.

    Raises:
        PredictionError: the row is none of these, or has no place where an answer begins.
    """
    if isinstance(row, str):
        return Sample(index, row, None)
    if not isinstance(row, Mapping):
        raise PredictionError(f"row {index} is a {type(row).__name__}; {_WAY_OUT}.")
    if row.get("messages") is not None:
        return _chat(row, row["messages"], index)
    if row.get("conversations") is not None:
        from ftdoctor.training.conversations import InvalidRow, from_sharegpt

        try:
            return _chat(row, from_sharegpt(row["conversations"]), index)
        except InvalidRow as invalid:
            raise PredictionError(f"row {index}: {invalid}.") from None
    if row.get("prompt") is not None:
        truth = next((row[name] for name in ("completion", "chosen") if row.get(name) is not None), None)
        prompt = row["prompt"]
        if isinstance(prompt, (list, tuple)):
            prompt = _with_tools(row, prompt)
        return Sample(index, prompt, None if truth is None else _text(truth))
    if row.get("input_ids") is not None:
        return _tokenized(row, index, tokenizer)
    raise PredictionError(f"row {index} has only {', '.join(map(str, row)) or 'nothing'}; {_WAY_OUT}.")


def _chat(row: Mapping[str, Any], messages: Sequence[Any], index: int) -> Sample:
    if not messages or isinstance(messages, str) or not all(isinstance(message, Mapping) for message in messages):
        raise PredictionError(f"row {index} has no list of messages; {_WAY_OUT}.")
    places = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
    if not places or places[-1] < len(messages) - 1:  # it ends with what is to be answered
        return Sample(index, _with_tools(row, messages), None)
    last = places[-1]
    if not last:
        raise PredictionError(f"row {index} begins with its answer; give it a message before that.")
    return Sample(index, _with_tools(row, messages[:last]), _text(messages[last:]))


def _with_tools(row: Mapping[str, Any], messages: Sequence[Any]) -> Any:
    more = {name: row[name] for name in ("tools", "chat_template_kwargs") if row.get(name)}
    return {"messages": list(messages), **more} if more else list(messages)


def _text(truth: Any) -> str:
    """Return an answer as text: that of its messages, or the tool calls that stand for one."""
    if not isinstance(truth, (list, tuple)):
        return str(truth)
    return "\n".join(filter(None, (_said(message) for message in truth)))


def _said(message: Any) -> str:
    if not isinstance(message, Mapping):
        return str(message)
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content) if content else str(message.get("tool_calls") or "")


def _tokenized(row: Mapping[str, Any], index: int, tokenizer: Any) -> Sample:
    """Split a row of tokens where the last run of scored ones begins."""
    ids = [int(token) for token in row["input_ids"]]
    scored = _scored(row, len(ids))
    if len(scored) != len(ids):  # labels of an encoder-decoder are an answer of their own
        raise PredictionError(f"row {index} has {len(ids)} tokens and {len(scored)} labels; {_WAY_OUT}.")
    places = [i for i, is_scored in enumerate(scored) if is_scored]
    begin = places[-1] if places else 0
    while begin and scored[begin - 1]:
        begin -= 1
    if not begin:
        what = "are all scored" if places else "are none of them scored"
        raise PredictionError(f"the tokens of row {index} {what}, so that no answer begins anywhere; {_WAY_OUT}.")
    truth = tokenizer.decode(ids[begin : places[-1] + 1], skip_special_tokens=True)
    return Sample(index, ids[:begin], truth)


def _scored(row: Mapping[str, Any], size: int) -> list[bool]:
    if row.get("labels") is not None:
        return [int(label) != IGNORED for label in row["labels"]]
    masks = [row[name] for name in ("completion_mask", "assistant_masks") if row.get(name) is not None]
    return [all(mask[i] for mask in masks) for i in range(size)] if masks else [True] * size
