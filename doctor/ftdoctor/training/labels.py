"""Messages, or prompt and completion, to tokens and labels: exactly what the model is to write is scored.

    encoder = Encoder(tokenizer, max_length=2048, too_long="drop")
    rows = encoder.rows(messages.rows(data))    # rows of input_ids and labels, in the container they came in
    print(encoder.counts)

Labels stand where their tokens stand, -100 where nothing is scored: models of transformers shift them themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ftdoctor.errors import DataError, TrainingError
from ftdoctor.training import truncating
from ftdoctor.training.data import form_of, map_rows
from ftdoctor.training.label_counts import LabelCounts
from ftdoctor.training.marks import check_marks, marks_answers
from ftdoctor.training.rendering import TURNS, Controls, render_answers, require_template, texts
from ftdoctor.training.tokenizing import cut_tokens, front_tokens, leading
from ftdoctor.training.truncating import IGNORED, SHORTEST
from ftdoctor.wording import nearest

TOO_LONG = ("drop", "keep_end", "error")
INVALID = ("error", "drop")
COLUMNS = ("input_ids", "labels")

CHECKED = 20
"""Conversations of each shape (roles and keys) that are checked by the marks of a template that has them."""


class Encoder:
    """Encodes rows for one tokenizer, and counts what it meets.

    Attributes:
        counts: what was met so far.

    Args:
        tokenizer: fast or slow.
        turns: `all` answers of a conversation are scored, or the `last` alone.
        max_length: tokens of the longest row; None for no limit.
        too_long: what becomes of longer rows. `drop`: they are left out. `keep_end`: the beginning of sequence, the
            end of the prompt and the whole last answer are kept, and of an answer that is too long by itself the
            beginning. `error`: the first one ends the run.
        invalid: a row that cannot be encoded is an `error`, or `drop` to leave it out and count it.
        options: variables of the chat template, such as `{"enable_thinking": False}`.

    Raises:
        TrainingError: an argument is none of those named, or the tokenizer is none.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        turns: str = "all",
        max_length: int | None = None,
        too_long: str = "drop",
        invalid: str = "error",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        choices = {"turns": (turns, TURNS), "too_long": (too_long, TOO_LONG), "invalid": (invalid, INVALID)}
        for name, (value, known) in choices.items():
            if value not in known:
                raise TrainingError(f"{name}={value!r} is not one of {', '.join(known)}{nearest(str(value), known)}.")
        if max_length is not None and max_length < SHORTEST:
            raise TrainingError(f"max_length={max_length} has no room for a token and its prediction; give at least 2.")
        if not hasattr(tokenizer, "all_special_tokens"):
            raise TrainingError(f"A {type(tokenizer).__name__} is no tokenizer; give a processor's `tokenizer`.")
        self.counts = LabelCounts()
        self._tokenizer = tokenizer
        self._turns, self._max_length, self._too_long, self._invalid = turns, max_length, too_long, invalid
        self._options = dict(options or {})
        self._controls = Controls.of(tokenizer)
        self._front = front_tokens(tokenizer)
        self._checked: dict[str, int] = {}
        self._control_text = re.compile("|".join(map(re.escape, self._controls.special)) or r"(?!)")

    def rows(self, rows: Any) -> Any:
        """Encode rows, and return them in the kind of container in which they came.

        Args:
            rows: a list, a `datasets.Dataset` or `IterableDataset`, or any iterable of rows of `messages`, or of
                `prompt` and `completion` (lists of messages, or plain text that gets no template). The counts of
                what is consumed later grow as it is consumed.

        Returns:
            Rows of `input_ids` and `labels`.

        Raises:
            DataError: a row cannot be encoded, with its place and the way out; or none of a list or Dataset is left.
        """
        return map_rows(rows, self.encode, COLUMNS)

    def encode(self, row: Mapping[str, Any], where: str = "the row") -> dict[str, list[int]] | None:
        """Encode one row.

        Args:
            row: `messages`, or `prompt` and `completion`.
            where: its place in words, for errors.

        Returns:
            `input_ids` and `labels`, lists of equal length; None where the row is dropped.

        Raises:
            DataError: it cannot be encoded, or is too long and `too_long` is `error`.
            TrainingError: the tokenizer has no chat template, or no end of sequence where one is needed.
        """
        self.counts.rows += 1
        found = LabelCounts()
        try:
            ids, labels = self._encode(row, found)
            if labels and labels[0] != IGNORED:
                raise DataError("nothing comes before its first scored token; give it a prompt.")
        except DataError as error:
            if self._invalid == "drop":
                self.counts.refuse(f"{where}: {error}")
                return None
            raise DataError(f"{where}: {error}") from error
        fitted, reason = None, "nothing to score"
        if truncating.scored_end(labels):
            fitted, reason = self._fit(ids, labels, where), "longer than max_length"
        if fitted is None:
            self.counts.drop(reason)
            return None
        self.counts.add(found, fitted)
        return {"input_ids": fitted.ids, "labels": fitted.labels}

    def _encode(self, row: Mapping[str, Any], found: LabelCounts) -> tuple[list[int], list[int]]:
        form = form_of(row, "the row")
        if form == "conversations":
            raise DataError("it is a ShareGPT conversation; convert the rows with `Messages` first.")
        if form == "completion" and isinstance(row["prompt"], str) and isinstance(row["completion"], str):
            return self._completion(row["prompt"], row["completion"], found)
        require_template(self._tokenizer)
        before = [] if form == "messages" else row["prompt"]
        messages = [*before, *row["messages" if form == "messages" else "completion"]]
        _check_contents(messages)
        return self._messages(messages, len(before), {**self._options, **_own_options(row)}, found)

    def _messages(
        self, messages: Sequence[Mapping[str, Any]], first: int, options: Mapping[str, Any], found: LabelCounts
    ) -> tuple[list[int], list[int]]:
        tokenizer, controls = self._tokenizer, self._controls
        rendered = render_answers(tokenizer, messages, turns=self._turns, first=first, controls=controls, **options)
        spans, text = rendered.spans, rendered.text
        unended = bool(spans) and not spans[-1].end_token
        if unended:
            text = text[: spans[-1].end]
        inside = [c for span in spans for c in (span.start, *([] if span.end_token else [span.end]))]
        cut = cut_tokens(tokenizer, text, inside, [span.end for span in spans if span.end_token])
        ids, labels = cut.ids, [IGNORED] * len(cut.ids)
        for span in spans:
            scored = slice(cut.at[span.start], cut.at[span.end])
            labels[scored] = ids[scored]
        if self._is_to_check(messages, options):
            everything = (self._turns == "all" and first == 0) or not spans
            begin = 0 if everything else cut.at[spans[0].start]
            check_marks(tokenizer, messages, ids, labels, begin, controls, options)
        found.joined = cut.joined
        found.control_text = sum(bool(self._control_text.search(t)) for m in messages for t in texts(m.get("content")))
        for span in spans:
            if span.end_token:
                found.ends[span.end_token] = found.ends.get(span.end_token, 0) + 1
        if unended:
            ids, labels = self._with_end(ids, labels, found)
        return self._with_one_beginning(ids, labels, found)

    def _is_to_check(self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> bool:
        """Say whether labels are to be checked by the template's own marks: the first few times for each shape."""
        if not marks_answers(self._tokenizer, options):
            return False
        shape = str([sorted(m) if m["role"] != "user" else "" for m in messages] + [m["role"] for m in messages])
        self._checked[shape] = self._checked.get(shape, 0) + 1
        return self._checked[shape] <= CHECKED

    def _completion(self, prompt: str, completion: str, found: LabelCounts) -> tuple[list[int], list[int]]:
        if not completion.strip():
            raise DataError("its completion is empty; give it a text, or leave the row out.")
        cut = cut_tokens(self._tokenizer, prompt + completion, [len(prompt)])
        found.joined = cut.joined
        found.control_text = sum(bool(self._control_text.search(t)) for t in (prompt, completion))
        ids, begin = cut.ids, cut.at[len(prompt)]
        labels = [IGNORED] * begin + ids[begin:]
        if ids[: len(self._front)] != self._front:
            ids, labels = self._front + ids, [IGNORED] * len(self._front) + labels
        if ids[-1] == self._tokenizer.eos_token_id:
            found.ends[self._tokenizer.eos_token] = 1
        else:
            ids, labels = self._with_end(ids, labels, found)
        return self._with_one_beginning(ids, labels, found)

    def _with_end(self, ids: list[int], labels: list[int], found: LabelCounts) -> tuple[list[int], list[int]]:
        """Append the end of sequence to an answer that has no end of turn."""
        end = self._tokenizer.eos_token_id
        if end is None:
            raise TrainingError(
                "Nothing ends the answers: the tokenizer has no eos_token, and the rows write no other end of turn; "
                "set tokenizer.eos_token."
            )
        found.ends_added += 1
        return [*ids, end], [*labels, end]

    def _with_one_beginning(self, ids: list[int], labels: list[int], found: LabelCounts) -> tuple[list[int], list[int]]:
        """Leave one beginning of sequence of those that template, text and tokenizer have written."""
        more = max(0, leading(ids, self._tokenizer.bos_token_id) - 1)
        found.second_beginnings = int(more > 0)
        return ids[more:], labels[more:]

    def _fit(self, ids: list[int], labels: list[int], where: str) -> truncating.Fitted | None:
        limit = self._max_length
        if limit is None or len(ids) <= limit:
            return truncating.Fitted(ids, labels)
        shorter = truncating.without_tail(ids, labels, limit)
        if len(shorter.ids) <= limit:
            return shorter
        if self._too_long == "error":
            raise DataError(
                f"{where} has {len(ids)} tokens, more than max_length={limit}; raise the limit, or choose "
                "too_long='drop' or 'keep_end'."
            )
        if self._too_long == "drop":
            return None
        front = len(self._front) if ids[: len(self._front)] == self._front else 0
        return truncating.keep_end(ids, labels, limit, front or leading(ids, self._tokenizer.bos_token_id))


def encode_messages(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    turns: str = "all",
    tools: Any = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, list[int]]:
    """Encode one conversation: exactly the assistant's tokens and the end of each of its turns are scored.

    Args:
        tokenizer: fast or slow, with a chat template.
        messages: role and content each.
        turns: `all` answers are scored, or the `last` alone.
        tools: handed to the chat template.
        options: other variables of the chat template.

    Returns:
        `input_ids` and `labels`, lists of equal length; -100 where nothing is scored.

    Raises:
        DataError: the conversation cannot be encoded.
        TrainingError: the tokenizer has no chat template.
    """
    row = {"messages": messages, **({"tools": tools} if tools else {})}
    return _only(Encoder(tokenizer, turns=turns, options=options), row, "the conversation")


def encode_completion(tokenizer: Any, prompt: str, completion: str) -> dict[str, list[int]]:
    """Encode plain text: the completion and one end of sequence are scored, behind one beginning of sequence.

    Args:
        tokenizer: fast or slow.
        prompt: what inference feeds; it may begin with the text of the beginning of sequence.
        completion: what the model is to write; it may end with the text of the end of sequence.

    Returns:
        `input_ids` and `labels`, lists of equal length; -100 where nothing is scored.

    Raises:
        DataError: one of the two is empty.
    """
    return _only(Encoder(tokenizer), {"prompt": prompt, "completion": completion}, "the text")


def shown(tokenizer: Any, row: Mapping[str, Sequence[int]]) -> list[tuple[str, bool]]:
    """Return an encoded row for people: the text of each token, and whether it is scored.

    Tokens that hold a part of a character are put together until it is whole.
    """
    pieces: list[tuple[str, bool]] = []
    held: list[int] = []
    scored = [int(label) != IGNORED for label in row["labels"]]
    for i, token in enumerate(row["input_ids"]):
        held.append(int(token))
        text = tokenizer.decode(held, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if not text.endswith("\ufffd") or i + 1 == len(scored) or scored[i + 1] != scored[i]:
            pieces.append((text, scored[i]))
            held = []
    return pieces


def _only(encoder: Encoder, row: Mapping[str, Any], where: str) -> dict[str, list[int]]:
    made = encoder.encode(row, where)
    if made is None:
        raise DataError(f"{where} has nothing to score; give it an answer.")
    return made


def _own_options(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row itself hands to the chat template."""
    options = {k: v for k, v in (row.get("chat_template_kwargs") or {}).items() if v is not None}
    tools = row.get("tools")
    if not tools:
        return options
    try:
        return {**options, "tools": json.loads(tools) if isinstance(tools, str) else tools}
    except json.JSONDecodeError as error:
        raise DataError(f"its tools are not JSON ({error}); write them as a list of JSON schemas.") from error


def _check_contents(messages: Sequence[Any]) -> None:
    """Check that templates can be handed these messages; what they make of data is no text."""
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise DataError(f"message {number} has no role; convert the rows with `Messages` first.")
        content = message.get("content")
        if isinstance(content, (str, Sequence)) or (content is None and message.get("tool_calls")):
            continue
        raise DataError(
            f"message {number} has a content of type {type(content).__name__}; convert the rows with `Messages` first."
        )
