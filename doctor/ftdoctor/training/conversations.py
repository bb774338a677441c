"""Conversations: from the forms in which rows bring them to lists of messages, in an order that can be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftdoctor.wording import shorten

SYSTEM_ROLES = ("system", "developer")
TOOL_ROLES = ("tool", "ipython")
ROLES = (*SYSTEM_ROLES, "user", "assistant", *TOOL_ROLES)
"""The roles that a message may have."""

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}
"""What the `from` of ShareGPT's conversations means."""

_BEFORE = {
    "user": ("", *SYSTEM_ROLES, "assistant"),
    "assistant": ("user", *TOOL_ROLES),
    **dict.fromkeys(TOOL_ROLES, ("assistant", *TOOL_ROLES)),
    **dict.fromkeys(SYSTEM_ROLES, ("",)),
}
"""Role to those that may stand before it; nothing stands before the first."""


class InvalidRow(Exception):  # noqa: N818 - the reason for which a row is dropped or refused
    """Carries the reason in a few words, and what is wrong with the row as the rest of a sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def as_messages(given: Any, role: str, column: str) -> list[Any]:
    """Return a prompt or a completion as messages; what is no list of messages is the content of one."""
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        if given and all(isinstance(m, Mapping) and "role" in m for m in given):
            return list(given)
        if not given:
            raise InvalidRow(f"empty {column}", f"its {column} is empty; give it a content")
    return [{"role": role, "content": given}]


def from_sharegpt(given: Any) -> list[Any]:
    """Return ShareGPT's turns as messages; turns that are messages already stay what they are."""
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise InvalidRow("no messages", "its conversations are no list; give a list of {'from', 'value'}")
    made = []
    for number, turn in enumerate(given, start=1):
        if not isinstance(turn, Mapping):
            raise InvalidRow("message without a role", f"turn {number} is no object; write {{'from', 'value'}}")
        if "role" in turn:
            made.append(turn)
            continue
        speaker = turn.get("from")
        if speaker not in SHAREGPT_ROLES:
            raise InvalidRow(
                "unknown speaker",
                f"turn {number} is from {shorten(str(speaker), 30)!r}, which is unknown; "
                f"the speakers are {', '.join(SHAREGPT_ROLES)}",
            )
        if "value" not in turn:
            raise InvalidRow("message without a content", f"turn {number} has no value; give it one")
        others = {key: value for key, value in turn.items() if key not in ("from", "value")}
        made.append({"role": SHAREGPT_ROLES[speaker], "content": turn["value"], **others})
    return made


def check_order(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check that the system comes first, user and assistant alternate, and tools answer the assistant."""
    before = ""
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if before not in _BEFORE[role]:
            place = f"after {before}" if before else "at the beginning"
            raise InvalidRow(
                f"{role} {place}",
                f"message {number}, of the {role}, stands {place}; put the system first and let user and assistant "
                "take turns",
            )
        before = role


def require_answer(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check that a conversation ends with an answer to learn."""
    if messages[-1]["role"] != "assistant":
        role = messages[-1]["role"]
        raise InvalidRow(f"{role} at the end", f"it ends with the {role}, so there is no answer to learn; add one")


def is_filled(content: Any) -> bool:
    """Say whether a content says anything: text that is not blank, or a part that is not text."""
    if isinstance(content, str):
        return bool(content.strip())
    return any(part["type"] != "text" or part["text"].strip() for part in content)
