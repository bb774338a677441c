"""Rows of any known form to chat messages, the same at training and at inference, with everything changed counted.

messages = Messages(MessageRules(system_prompt="Answer in JSON."), tokenizer)
rows = messages.rows(read_rows("data.jsonl"))   # a list, a Dataset or a stream: what comes in comes out
print(messages.counts)
messages.prompt("How many?")                    # at inference: the messages that training saw before the answer
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ftdoctor.errors import DataError, TrainingError
from ftdoctor.training.contents import TEXT, TYPED, flat_text, is_typed, json_text, keeps_system, wanted_parts
from ftdoctor.training.conversations import (
    ROLES,
    SYSTEM_ROLES,
    InvalidRow,
    as_messages,
    check_order,
    from_sharegpt,
    is_filled,
    require_answer,
)
from ftdoctor.training.data import form_of, is_dataset, is_stream, map_rows
from ftdoctor.training.duplicates import Seen
from ftdoctor.training.message_rules import MessageCounts, MessageRules
from ftdoctor.wording import nearest, shorten

PASSED_ON = ("tools", "chat_template_kwargs")
"""Columns beside the messages that reach the chat template."""

EXAMPLES = 5
_BARE = re.compile(r"[+-]?\d+([.,]\d+)*%?|true|false|null|none", re.IGNORECASE)


class Messages:
    """Turns rows into chat messages by fixed rules, and counts what it changes.

    Known forms of rows: `messages`; `prompt` and `completion`, each a text or a list of messages; ShareGPT's
    `conversations`. A column `system` is the system message of a row that has none. Messages keep their other keys
    (`name`, `tool_calls`, `reasoning_content`).

    Attributes:
        rules: the rules.
        counts: what was changed so far.

    Args:
        rules: the rules.
        tokenizer: needed where `rules.parts` is `auto`; with it the chat template is also checked for whether it
            writes out system messages.

    Raises:
        TrainingError: the tokenizer is missing, has no chat template, or has one that drops the system prompt.
    """

    def __init__(self, rules: MessageRules | None = None, tokenizer: Any = None) -> None:
        self.rules = rules or MessageRules()
        self.counts = MessageCounts()
        self._seen = Seen()
        if self.rules.parts == "auto" and tokenizer is None:
            raise TrainingError("parts='auto' asks the chat template; give the tokenizer, or parts='text' or 'typed'.")
        self._parts = self.rules.parts if self.rules.parts != "auto" else wanted_parts(tokenizer)
        self._keeps_system = tokenizer is None or keeps_system(tokenizer, self._parts)
        if self.rules.system_prompt and not self._keeps_system:
            raise TrainingError(
                "The chat template leaves out or refuses system messages, so the system prompt would have no effect; "
                "use a template with a branch for the role 'system', or no system prompt."
            )

    def rows(self, rows: Any) -> Any:
        """Convert rows, and return them in the kind of container in which they came.

        Args:
            rows: a list, a `datasets.Dataset` or `IterableDataset`, what `read_rows` returns, or any iterable of
                dicts. The counts of what is consumed later grow as it is consumed.

        Returns:
            Rows with `messages`, or with `prompt` and `completion` as lists of messages (TRL scores the completion
            alone), and `tools` and `chat_template_kwargs` where they have them.

        Raises:
            DataError: a row is invalid and `rules.invalid` is `error`, with its place and the way out; or no row of a
                list or a Dataset is left.
        """
        columns: Sequence[str] = ()
        if is_dataset(rows) or is_stream(rows):
            names = rows.column_names or list(next(iter(rows)))
            form = form_of(dict.fromkeys(names, ""), "the dataset")
            columns = ("prompt", "completion") if form == "completion" else ("messages",)
            columns = (*columns, *(name for name in PASSED_ON if name in names))
        return map_rows(rows, self.convert, columns, self._seen.clear)

    def convert(self, row: Mapping[str, Any], where: str = "the row") -> dict[str, Any] | None:
        """Convert one row.

        Args:
            row: the row.
            where: its place in words, for errors.

        Returns:
            The new row, or None where it is dropped.

        Raises:
            DataError: it is invalid and `rules.invalid` is `error`.
        """
        self.counts.rows += 1
        found = MessageCounts()
        try:
            made = self._convert(row, where, found)
        except InvalidRow as invalid:
            if self.rules.invalid == "drop":
                self.counts.drop(invalid.reason)
                return None
            raise DataError(f"{where}: {invalid}, or leave such rows out with invalid='drop'.") from None
        if self._seen.add(json.dumps([made.get(k) for k in ("messages", "prompt", "completion")], default=str)):
            self.counts.duplicates += 1
            if self.rules.duplicates == "drop":
                self.counts.drop("exact duplicate")
                return None
        self._count(made, found)
        return made

    def prompt(self, messages: Any) -> list[dict[str, Any]]:
        """Return the messages to answer at inference, exactly as training saw them before an answer.

        Args:
            messages: the user's text or data, or the conversation so far, which ends with the user or a tool.

        Raises:
            DataError: the conversation is invalid.
        """
        try:
            made = self._conversation(as_messages(messages, "user", "prompt"), None, MessageCounts())
            if made[-1]["role"] == "assistant":
                raise InvalidRow("", "the conversation ends with the assistant; end it with what is to be answered")
        except InvalidRow as invalid:
            raise DataError(f"{invalid}.") from None
        return made

    def _convert(self, row: Mapping[str, Any], where: str, found: MessageCounts) -> dict[str, Any]:
        try:
            form = form_of(row, where)
        except DataError:
            if self.rules.invalid == "drop":
                raise InvalidRow("no column to train on", "") from None
            raise
        passed_on = {name: row[name] for name in PASSED_ON if row.get(name) is not None}
        if form == "completion":
            before = as_messages(row["prompt"], "user", "prompt")
            after = as_messages(row["completion"], "assistant", "completion")
            made = self._conversation([*before, *after], row.get("system"), found)
            require_answer(made)
            return {"prompt": made[: len(made) - len(after)], "completion": made[len(made) - len(after) :], **passed_on}
        given = row["messages"] if form == "messages" else from_sharegpt(row["conversations"])
        made = self._conversation(given, row.get("system"), found)
        require_answer(made)
        return {"messages": made, **passed_on}

    def _conversation(self, given: Any, system: Any, found: MessageCounts) -> list[dict[str, Any]]:
        if not isinstance(given, Sequence) or isinstance(given, (str, bytes)) or not given:
            raise InvalidRow("no messages", "the conversation is empty or no list; give a list of messages")
        messages = [self._message(m, i, found) for i, m in enumerate(given, start=1)]
        messages = self._with_system(messages, system, found)
        check_order(messages)
        if messages[0]["role"] in SYSTEM_ROLES and not self._keeps_system:
            raise InvalidRow(
                "system message that the template leaves out",
                "the chat template leaves out or refuses its system message; use a template that writes it",
            )
        return messages

    def _with_system(self, messages: list[dict[str, Any]], system: Any, found: MessageCounts) -> list[dict[str, Any]]:
        """Put the row's own system message or the rules' prompt in front of messages that have none to say."""
        has_one = messages[0]["role"] in SYSTEM_ROLES
        if has_one and is_filled(messages[0]["content"]):
            return messages
        own = isinstance(system, str) and bool(system.strip())
        prompt = system if own else self.rules.system_prompt
        if not prompt:
            return messages
        found.systems_added += not own
        return [self._message({"role": "system", "content": prompt}, 0, MessageCounts()), *messages[has_one:]]

    def _message(self, given: Any, number: int, found: MessageCounts) -> dict[str, Any]:
        if not isinstance(given, Mapping) or not isinstance(given.get("role"), str):
            raise InvalidRow(
                "message without a role", f"message {number} has no role; give it one of {', '.join(ROLES)}"
            )
        role = given["role"]
        if role not in ROLES:
            raise InvalidRow(
                "unknown role",
                f"message {number} has the unknown role {shorten(role, 30)!r}{nearest(role, ROLES)}; "
                f"the roles are {', '.join(ROLES)}",
            )
        if given.get("content") is None and given.get("tool_calls"):
            # Nothing is said beside the calls; templates of transformers 4 would print the word None.
            return {**given, "content": "" if self._parts == TEXT else []}
        if "content" not in given:
            raise InvalidRow("message without a content", f"message {number} has no content; give it one")
        content = self._content(given["content"], number, found)
        if not is_filled(content) and role in ("user", "assistant") and not given.get("tool_calls"):
            raise InvalidRow(f"empty {role} message", f"message {number}, of the {role}, is empty; give it a content")
        return {**given, "content": content}

    def _content(self, content: Any, number: int, found: MessageCounts) -> Any:
        if is_typed(content):
            return self._typed(content, number, found)
        text = self._text(content, number, found)
        if self._parts == TEXT:
            return text
        found.made_typed += 1
        return [{"type": "text", "text": text}]

    def _typed(self, parts: Sequence[Mapping[str, Any]], number: int, found: MessageCounts) -> Any:
        said = [
            {**part, "text": self._text(part["text"], number, found)} if part["type"] == "text" else dict(part)
            for part in parts
        ]
        if self._parts == TYPED:
            return said
        other = next((part["type"] for part in said if part["type"] != "text"), None)
        if other:
            raise InvalidRow(
                f"part of type {other!r}",
                f"message {number} has a part of type {other!r}, which the chat template cannot write; use text alone",
            )
        found.flattened += 1
        return flat_text(said)

    def _text(self, content: Any, number: int, found: MessageCounts) -> str:
        """Return a text as it is, and data as JSON."""
        kind = type(content).__name__
        if isinstance(content, str):
            text = content
        elif self.rules.contents == "refuse":
            raise InvalidRow(
                f"content of type {kind}",
                f"message {number} has a content of type {kind}; write it as text, allow it with contents='json'",
            )
        else:
            try:
                text = json_text(content)
            except ValueError as error:
                raise InvalidRow(f"content of type {kind}", f"message {number} has {error}; write it as text") from None
            found.written_as_json[kind] = found.written_as_json.get(kind, 0) + 1
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            sentence = f"message {number} holds half of a surrogate pair; write whole characters"
            raise InvalidRow("half of a character", sentence) from None
        return text

    def _count(self, made: Mapping[str, Any], found: MessageCounts) -> None:
        """Add what was changed in a row that is kept."""
        counts = self.counts
        counts.kept += 1
        counts.systems_added += found.systems_added
        counts.made_typed += found.made_typed
        counts.flattened += found.flattened
        for kind, number in found.written_as_json.items():
            counts.written_as_json[kind] = counts.written_as_json.get(kind, 0) + number
        last = (made.get("messages") or made["completion"])[-1]["content"]
        answer = (last if isinstance(last, str) else flat_text([p for p in last if p["type"] == "text"])).strip()
        if _BARE.fullmatch(answer):
            counts.bare_answers += 1
            if answer not in counts.bare_examples and len(counts.bare_examples) < EXAMPLES:
                counts.bare_examples.append(shorten(answer, 20))
