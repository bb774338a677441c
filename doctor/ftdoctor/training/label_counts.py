"""What was met while rows were encoded, printable."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftdoctor.training.truncating import IGNORED
from ftdoctor.wording import count

if TYPE_CHECKING:
    from ftdoctor.training.truncating import Fitted

EXAMPLES = 5


@dataclass
class LabelCounts:
    """What was met in the rows so far; a second pass over a stream is counted again."""

    rows: int = 0
    kept: int = 0
    tokens: int = 0
    """Tokens of the rows that are kept."""
    scored: int = 0
    """Those of them that are scored."""
    ends: dict[str, int] = field(default_factory=dict)
    """Ends of turn that template or text write, by their token."""
    ends_added: int = 0
    """Answers without an end of turn that were given the end of sequence."""
    second_beginnings: int = 0
    """Rows of which a second beginning of sequence was taken away."""
    joined: int = 0
    """Places where the tokenizer would have joined a prompt and its answer in one token."""
    control_text: int = 0
    """Messages whose text holds the text of a special token."""
    prompts_cut: int = 0
    """Rows that lost the beginning of their prompt to max_length."""
    answers_cut: int = 0
    """Rows that lost the end of their answer, and with it the end of turn."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows left out, by their reason."""
    refusals: list[str] = field(default_factory=list)
    """The first few sentences on rows that could not be encoded."""

    def add(self, found: LabelCounts, fitted: Fitted) -> None:
        """Count a row that is kept."""
        self.kept += 1
        self.tokens += len(fitted.ids)
        self.scored += sum(label != IGNORED for label in fitted.labels)
        self.prompts_cut += fitted.prompt_cut
        self.answers_cut += fitted.answer_cut
        self.ends_added += found.ends_added
        self.second_beginnings += found.second_beginnings
        self.joined += found.joined
        self.control_text += found.control_text
        for token, number in found.ends.items():
            self.ends[token] = self.ends.get(token, 0) + number

    def drop(self, reason: str) -> None:
        """Count a row that is left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def refuse(self, sentence: str) -> None:
        """Count a row that could not be encoded, and keep the first few sentences that say why."""
        self.drop("could not be encoded")
        if len(self.refusals) < EXAMPLES:
            self.refusals.append(sentence)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        share = f" ({self.scored / self.tokens:.0%})" if self.tokens else ""
        lines = [
            f"{count(self.rows, 'row')} read, {self.kept} kept",
            f"{self.scored} of {count(self.tokens, 'token')} scored{share}",
        ]
        lines += [f"{count(n, 'turn')} ended by {token}" for token, n in sorted(self.ends.items())]
        for number, noun, what in (
            (self.ends_added, "answer", "without an end of turn, given the end of sequence"),
            (self.second_beginnings, "row", "with a second beginning of sequence, taken away"),
            (self.joined, "place", "where the tokenizer would join prompt and answer, kept apart"),
            (self.control_text, "message", "with the text of a special token in it"),
            (self.prompts_cut, "row", "cut at the beginning of the prompt"),
            (self.answers_cut, "row", "cut at the end of the answer, which no longer ends its turn"),
        ):
            if number:
                lines.append(f"{count(number, noun)} {what}")
        lines += [f"{count(number, 'row')} dropped: {reason}" for reason, number in sorted(self.dropped.items())]
        return "\n".join([*lines, *self.refusals])
