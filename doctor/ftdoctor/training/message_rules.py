"""By which rules rows become messages, saved beside an adapter so that inference goes by the same; and the counts."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import ConfigError
from ftdoctor.training.contents import TEXT, TYPED
from ftdoctor.wording import count, nearest

if TYPE_CHECKING:
    import os

RULES_FILE = "message_rules.json"
"""Name of the file in which rules stand beside an adapter."""

CHOICES = {
    "contents": ("json", "refuse"),
    "invalid": ("error", "drop"),
    "parts": ("auto", TEXT, TYPED),
    "duplicates": ("keep", "drop"),
}
"""Field of the rules to the values that it may have."""


@dataclass(frozen=True)
class MessageRules:
    """How rows become messages.

    Attributes:
        system_prompt: put in front where a conversation has no system message, or an empty one; empty to put none.
        contents: contents that are neither text nor typed parts (numbers, dicts, lists, None) are written as `json`,
            or make a row invalid (`refuse`).
        invalid: an invalid row is an `error`, or `drop` to leave it out and count it.
        parts: contents are `text`, or `typed` parts, or `auto` for what the tokenizer's chat template writes out.
        duplicates: rows that were seen before are counted, and `keep` or `drop`.

    Raises:
        ConfigError: a value is not one of those named.
    """

    system_prompt: str = ""
    contents: str = "json"
    invalid: str = "error"
    parts: str = "auto"
    duplicates: str = "keep"

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name}={value!r} is not one of {', '.join(known)}{nearest(str(value), known)}.")
        if not isinstance(self.system_prompt, str):
            raise ConfigError(f"system_prompt is a {type(self.system_prompt).__name__}; give a text.")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the rules to `message_rules.json` in a folder, and return the file."""
        file = Path(folder) / RULES_FILE
        file.write_text(json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        return file

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> MessageRules:
        """Read the rules that `save` wrote into a folder.

        Raises:
            ConfigError: there is no such file, or it does not hold rules.
        """
        file = Path(folder) / RULES_FILE
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{file} cannot be read ({error}); give the folder that the rules were saved to."
            ) from error
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not set(values) <= known:
            raise ConfigError(f"{file} holds no message rules; its keys are {', '.join(sorted(known))}.")
        return cls(**values)


@dataclass
class MessageCounts:
    """What was changed, and what was found, in the rows so far; a second pass over a stream is counted again."""

    rows: int = 0
    kept: int = 0
    systems_added: int = 0
    """Conversations that were given the system prompt."""
    written_as_json: dict[str, int] = field(default_factory=dict)
    """Contents that were data, by the name of their type."""
    made_typed: int = 0
    """Contents turned from text into typed parts."""
    flattened: int = 0
    """Contents turned from typed parts into text."""
    bare_answers: int = 0
    """Rows whose last answer is nothing but a number, true, false or null."""
    bare_examples: list[str] = field(default_factory=list)
    """The first few of them, each once."""
    duplicates: int = 0
    """Rows whose messages are exactly those of an earlier row."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows left out, by their reason."""

    def drop(self, reason: str) -> None:
        """Count a row that is left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [f"{count(self.rows, 'row')} read, {self.kept} kept"]
        if self.systems_added:
            lines.append(f"system prompt put into {count(self.systems_added, 'conversation')}")
        for kind, number in sorted(self.written_as_json.items()):
            lines.append(f"{count(number, 'content')} of type {kind} written as JSON")
        if self.made_typed:
            lines.append(f"{count(self.made_typed, 'content')} turned into typed parts")
        if self.flattened:
            lines.append(f"{count(self.flattened, 'content')} turned from typed parts into text")
        if self.bare_answers:
            examples = ", ".join(self.bare_examples)
            lines.append(f"{count(self.bare_answers, 'answer')} bare, such as {examples}")
        if self.duplicates:
            lines.append(f"{count(self.duplicates, 'exact duplicate')}")
        lines += [f"{count(number, 'row')} dropped: {reason}" for reason, number in sorted(self.dropped.items())]
        return "\n".join(lines)
