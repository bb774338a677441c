"""What changed between two texts, word by word, and how much of them is the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

LIMIT = 4_000_000
"""Pairs of words that are compared at most, after what both texts begin and end with: 2,000 words beside 2,000."""

WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w[\w\u0300-\u036f]*|[^\w\s]")
"""A word; a sign of punctuation is one, and so is each character of Chinese, Japanese and Thai, which are written
without spaces."""

INNER = re.compile(r"[\w\u0300-\u036f]{2}")
"""Two characters that may belong to one word."""


class Part(NamedTuple):
    """A piece of text that stands in both, only in the first (`gone`), or only in the second (`new`)."""

    kind: Literal["same", "gone", "new"]
    text: str


@dataclass(frozen=True)
class Changes:
    """How one text becomes another.

    `same` and `gone` parts together are the first text, `same` and `new` ones the second, to the character.
    """

    parts: tuple[Part, ...]
    bounded: bool = False
    """The texts differ in more words than are compared: all between their common beginning and end counts as
    changed."""


def changes(before: str, after: str) -> Changes:
    """Return how `before` becomes `after`; as many words as can be are left the same.

    White space is compared where the words around it are the same. Texts of any length take limited time (`LIMIT`).
    """
    start, end = _trimmed(before, after)
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    first, second = words(old), words(new)
    bounded = len(first) * len(second) > LIMIT
    middle = _changed(old, new) if bounded else _parts(_cut(old), _cut(new), _matches(first, second))
    parts = (Part("same", before[:start]), *middle, Part("same", before[len(before) - end :] if end else ""))
    return Changes(tuple(_merged(parts)), bounded)


def similarity(one: str, other: str) -> float | None:
    """Return the share of words that two texts have in common in the same order, from 0 to 1.

    Twice the length of the longest common subsequence of words, divided by the words of both (known as the F-measure
    of ROUGE-L). Case counts, white space does not. Two texts without a word are the same. None where both are too
    long to be compared (`LIMIT`).
    """
    a, b = words(one), words(other)
    if not a and not b:
        return 1.0
    start, end = _common(a, b)
    short, long = sorted((a[start : len(a) - end], b[start : len(b) - end]), key=len)
    if len(short) * len(long) > LIMIT:
        return None
    return 2 * (start + end + _rows(short, long)[0]) / (len(a) + len(b))


def exact(one: str, other: str) -> bool:
    """Say whether two texts are the same but for white space around them."""
    return one.strip() == other.strip()


def words(text: str) -> list[str]:
    """Return the words of a text, as they are compared."""
    return WORD.findall(text)


def _trimmed(a: str, b: str) -> tuple[int, int]:
    """Return how many characters are the same at the beginning and at the end, without cutting a word in two."""
    start = _same(a, b, min(len(a), len(b)), lambda text, n: text[:n])
    while start and not (_begins(a, start) and _begins(b, start)):
        start -= 1
    end = _same(a, b, min(len(a), len(b)) - start, lambda text, n: text[len(text) - n :])
    while end and not (_begins(a, len(a) - end) and _begins(b, len(b) - end)):
        end -= 1
    return start, end


def _same(a: str, b: str, most: int, piece: Callable[[str, int], str]) -> int:
    """Return the longest length, `most` at most, at which the pieces of both texts are the same."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if piece(a, middle) == piece(b, middle) else (low, middle - 1)
    return low


def _begins(text: str, at: int) -> bool:
    """Say whether a piece (white space and a word) surely begins here, and another ended before."""
    if at in {0, len(text)}:
        return at == 0 or not text[at - 1].isspace()
    return not text[at - 1].isspace() and not INNER.match(text, at - 1)


def _cut(text: str) -> list[tuple[str, str]]:
    """Return words, each with the white space before it; the last one is the white space at the end, before nothing."""
    pieces = []
    end = 0
    for found in WORD.finditer(text):
        pieces.append((text[end : found.start()], found[0]))
        end = found.end()
    return [*pieces, (text[end:], "")]


def _common(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    """Return how many words are the same at the beginning, and of the rest at the end."""
    shorter = min(len(a), len(b))
    start = 0
    while start < shorter and a[start] == b[start]:
        start += 1
    end = 0
    while end < shorter - start and a[-1 - end] == b[-1 - end]:
        end += 1
    return start, end


def _rows(a: Sequence[str], b: Sequence[str], kept: list[int] | None = None) -> tuple[int, list[int]]:
    """Return the length of the longest common subsequence, and `kept` with one number added for each word of `b`.

    A row of the usual table is one number with a bit for each word of `a`, the shorter text, cleared where the length
    grows (Hyyrö 2004): repetitions, which untrained models write, cost no more than other texts.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    every = row = (1 << len(a)) - 1
    for word in b:
        found = row & places.get(word, 0)
        row = ((row + found) | (row - found)) & every
        if kept is not None:
            kept.append(row)
    return len(a) - bin(row).count("1"), kept or []


def _matches(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Return the places of a longest common subsequence in both."""
    if len(a) > len(b):
        return [(i, j) for j, i in _matches(b, a)]
    rows = _rows(a, b, [])[1]
    pairs = []
    i, j = len(a), len(b)
    while i and j:
        if rows[j - 1] >> (i - 1) & 1:
            i -= 1
        else:
            j -= 1
            if not j or rows[j - 1] >> (i - 1) & 1:
                i -= 1
                pairs.append((i, j))
    return pairs[::-1]


def _parts(
    old: Sequence[tuple[str, str]], new: Sequence[tuple[str, str]], pairs: Iterable[tuple[int, int]]
) -> Iterator[Part]:
    """Yield what stands between words that are the same, and these."""
    i = j = 0
    for at, other in [*pairs, (len(old) - 1, len(new) - 1)]:
        if (at, other) == (i, j) and old[at] == new[other]:
            yield Part("same", old[at][0] + old[at][1])
            i, j = at + 1, other + 1
            continue
        gone, fresh = (*chain(*old[i:at]), old[at][0]), (*chain(*new[j:other]), new[other][0])
        yield from _changed("".join(gone), "".join(fresh))
        yield Part("same", old[at][1])
        i, j = at + 1, other + 1


def _changed(gone: str, new: str) -> Iterator[Part]:
    """Yield both, but for the white space that both end with and begin with."""
    end = _white(gone[::-1], new[::-1])
    gone, new, tail = gone[: len(gone) - end], new[: len(new) - end], gone[len(gone) - end :]
    start = _white(gone, new)
    yield Part("same", gone[:start])
    yield Part("gone", gone[start:])
    yield Part("new", new[start:])
    yield Part("same", tail)


def _white(a: str, b: str) -> int:
    """Return how many characters of white space both begin with."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y or not x.isspace()), min(len(a), len(b)))


def _merged(parts: Iterable[Part]) -> Iterator[Part]:
    """Join neighbours of one kind; empty ones vanish."""
    for kind, group in groupby((part for part in parts if part.text), key=lambda part: part.kind):
        yield Part(kind, "".join(part.text for part in group))
