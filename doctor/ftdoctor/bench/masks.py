"""Label masks as evidence: the tokens of a row as text, which of them are scored, and which should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftdoctor.checks import Check

IGNORED = -100


def record(
    check: Check, tokenizer: Any, name: str, ids: Sequence[int], labels: Sequence[int], wanted: Sequence[str] = ()
) -> None:
    """Keep a row as evidence, with its tokens as text.

    Args:
        check: what keeps it.
        tokenizer: whose tokens they are.
        name: which row, and who made the labels.
        ids: tokens of the row, one a position.
        labels: one a position, -100 where nothing is scored.
        wanted: the runs of text that should be scored, in order. White space around a run may be scored or not.
    """
    tokens = [tokenizer.decode([token]) for token in ids]
    scored = [label != IGNORED for label in labels]
    should = expected(tokenizer, ids, wanted)
    beside = [any(should[max(i - 1, 0) : i + 2]) for i in range(len(should))]
    free = [token.isspace() and near for token, near in zip(tokens, beside, strict=False)]
    check.label_mask(name, tokens, scored, [e or (f and s) for e, f, s in zip(should, free, scored, strict=False)])


def expected(tokenizer: Any, ids: Sequence[int], wanted: Sequence[str]) -> list[bool]:
    """Return for each token whether it stands in one of these runs of text; nothing where the row lacks one."""
    ends = [len(tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]
    whole, place, inside = tokenizer.decode(ids), 0, set()
    for text in wanted:
        begin = whole.find(text, place)
        if begin < 0:
            return []
        place = begin + len(text)
        inside |= {i for i, end in enumerate(ends) if end > begin and (ends[i - 1] if i else 0) < place}
    return [i in inside for i in range(len(ids))] if wanted else []
