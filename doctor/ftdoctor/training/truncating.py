"""Rows that are too long: cut so that an answer and something to answer are left, or not used at all."""

from __future__ import annotations

from typing import NamedTuple

IGNORED = -100
"""The label of a position that is not scored."""

SHORTEST = 2
"""Tokens of the shortest row: one to predict from, and one to predict."""


class Fitted(NamedTuple):
    """A row that is short enough, and what it lost."""

    ids: list[int]
    labels: list[int]
    prompt_cut: bool = False
    answer_cut: bool = False


def without_tail(ids: list[int], labels: list[int], limit: int) -> Fitted:
    """Drop what follows the last scored token, as far as the row is longer than `limit`; nothing learns from it."""
    end = max(limit, scored_end(labels))
    return Fitted(ids[:end], labels[:end])


def keep_end(ids: list[int], labels: list[int], limit: int, front: int) -> Fitted:
    """Cut a row to `limit` tokens: its front, the end of what comes before the last answer, and that answer.

    An earlier answer of which the beginning is lost is no longer scored. Where the last answer alone is too long, its
    beginning is kept behind the last token before it; its end of turn is cut off, not made up.

    Args:
        ids: the tokens.
        labels: their labels, -100 where nothing is scored.
        limit: tokens to keep, at least 2.
        front: number of tokens at the beginning (of sequence) that are kept before everything.
    """
    start = last_start(labels)
    end = scored_end(labels)
    if limit < front + SHORTEST:
        front = 0
    room = limit - front - (end - start)
    if room < 1:
        begin = max(start - 1, front)
        kept = limit - front - (start - begin)
        return _joined(ids, labels, front, begin, start + kept, answer_cut=True)
    return _joined(ids, labels, front, max(front, start - room), end, answer_cut=False)


def scored_end(labels: list[int]) -> int:
    """Return the index after the last scored token, 0 where none is scored."""
    return next((i + 1 for i in range(len(labels) - 1, -1, -1) if labels[i] != IGNORED), 0)


def last_start(labels: list[int]) -> int:
    """Return the index of the first token of the last run of scored tokens."""
    start = scored_end(labels)
    while start > 0 and labels[start - 1] != IGNORED:
        start -= 1
    return start


def _joined(ids: list[int], labels: list[int], front: int, begin: int, end: int, *, answer_cut: bool) -> Fitted:
    kept = labels[begin:end]
    if begin > front:
        # What is left of an answer whose prompt is lost is not scored.
        for i, label in enumerate(kept):
            if label == IGNORED:
                break
            kept[i] = IGNORED
    return Fitted(ids[:front] + ids[begin:end], labels[:front] + kept, begin > front, answer_cut)
